"""Does it help, where, and what does it cost? README.md has the answers, ``python -m evaluation`` the commands."""


class UsageError(ValueError):
    """A file, an option or the corpus is not usable: the command says why in one line, and stops with status 2."""
