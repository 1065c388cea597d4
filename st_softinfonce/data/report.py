"""What mining saw, kept and dropped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

FILE_RULES = {
    "hidden": "name begins with a dot",
    "test": "test file, or in a test folder",
    "overlap": "found already under an overlapping path",
    "other_root": "same file of the same package under an earlier path",
    "too_large": "larger than max_file_bytes",
    "generated": "says that it is generated",
    "minified": "has very long lines",
    "binary": "holds null bytes",
    "undecodable": "encoding unknown, or other than declared",
    "unreadable": "cannot be read",
    "unsafe_path": "leads out of its archive",
    "link": "link in an archive",
}
ARCHIVE_RULES = {
    "corrupt": "broken or cut short; read as far as possible",
    "too_large": "unpacks to more than the limits; read as far as these",
    "unsupported": "cannot be unpacked here",
    "nested": "inside another archive; not opened",
}
FOLDER_RULES = {
    "hidden": "name begins with a dot",
    "environment": "installed packages or virtual environment",
    "build": "build output or cache",
    "overlap": "found already through a link",
    "unreadable": "cannot be listed",
}
FUNCTION_RULES = {
    "nested": "inside another function",
    "special_method": "constructor or standard method",
    "test": "test function",
    "no_docstring": "no documentation",
    "syntax_error": "does not parse",
    "query_markup": "query holds markup or a link",
    "query_not_english": "query is not English, by itself, its file and its package",
    "query_too_short": "query has too few tokens",
    "query_too_long": "query has too many tokens",
    "trivial": "a stub, or too few lines of code",
    "duplicate": "same code as an earlier function",
}
PROBLEMS = ("binary", "undecodable", "unreadable", "unsafe_path", "corrupt", "unsupported")


@dataclass
class MiningReport:
    """Counts of everything that `mine_pairs` looked at; `str` makes a table of them.

    Files and functions are each counted under the first rule that drops them, so that the parts add up:
    `files_seen == files_mined + sum(files_skipped.values())` and
    `functions_seen == functions_kept + sum(functions_dropped.values())`.

    Args:
        files_seen: Files with the extension of a language, in the folders that were entered.
        files_mined: Files whose functions were looked at.
        files_skipped: Number of the other files by rule (`FILE_RULES`).
        archives_seen: Archives that were opened, and those inside them.
        archives_skipped: Number of those not read, or not to their end, by rule (`ARCHIVE_RULES`).
        folders_skipped: Number of folders that were not entered by rule (`FOLDER_RULES`); their files are not seen.
        functions_seen: All functions of the mined files, with or without documentation.
        functions_kept: Functions that became pairs.
        functions_dropped: Number of the other functions by rule (`FUNCTION_RULES`).
        problems: Files, folders and archives that could not be read, decoded or wholly parsed, as `path (rule)`. A
            file in which only some parts do not parse, `path (syntax_error)`, is mined as far as it does.

    Example:
        >>> report = MiningReport(functions_seen=3, functions_kept=1)
        >>> report.functions_dropped["no_docstring"] = 2
        >>> print(str(report).splitlines()[-1].strip())
        no_docstring                    2  no documentation
    """

    files_seen: int = 0
    files_mined: int = 0
    files_skipped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FILE_RULES, 0))
    archives_seen: int = 0
    archives_skipped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ARCHIVE_RULES, 0))
    folders_skipped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FOLDER_RULES, 0))
    functions_seen: int = 0
    functions_kept: int = 0
    functions_dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FUNCTION_RULES, 0))
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Make a table with one line a count; rules that dropped nothing are left out."""
        lines = [_line("files seen", self.files_seen), _line("  mined", self.files_mined)]
        lines += _rule_lines(self.files_skipped, FILE_RULES)
        partly = sum(problem.endswith("(syntax_error)") for problem in self.problems)
        lines += [_line("files with syntax errors", partly, "mined as far as they parse")] if partly else []
        if self.archives_seen:
            lines += [_line("archives seen", self.archives_seen), *_rule_lines(self.archives_skipped, ARCHIVE_RULES)]
        skipped = _rule_lines(self.folders_skipped, FOLDER_RULES)
        lines += [_line("folders not entered", sum(self.folders_skipped.values())), *skipped] if skipped else []
        lines += [_line("functions seen", self.functions_seen), _line("  kept", self.functions_kept)]
        return "\n".join([*lines, *_rule_lines(self.functions_dropped, FUNCTION_RULES)])

    def dropped_by(self) -> str:
        """Name the rules that dropped something, with their counts, on one line."""
        parts = (
            ("files", self.files_skipped),
            ("archives", self.archives_skipped),
            ("folders", self.folders_skipped),
            ("functions", self.functions_dropped),
        )
        named = (f"{what} {rule} {count:,}" for what, counts in parts for rule, count in counts.items() if count)
        return ", ".join(named) or "nothing"


def _rule_lines(counts: dict[str, int], rules: dict[str, str]) -> Iterable[str]:
    return [_line(f"  {rule}", count, rules[rule]) for rule, count in counts.items() if count]


def _line(label: str, count: int, note: str = "") -> str:
    return f"{label:<24} {count:>10,}  {note}".rstrip()
