"""What mining saw, kept and dropped, and what to do where too little is left."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass, field

from st_softinfonce.data.languages import EXTENSIONS

FILE_RULES = {
    "hidden": "name begins with a dot",
    "test": "test file, or in a test folder",
    "overlap": "found already under an overlapping path",
    "other_root": "same file of the same package under an earlier path",
    "too_large": "larger than max_file_bytes",
    "time_limit": "took too long; see seconds_per_file",
    "crashed": "ended the process that mined it",
    "garbage": "long runs of signs that do not parse",
    "generated": "says that it is generated",
    "minified": "has very long lines",
    "binary": "holds null bytes",
    "undecodable": "encoding unknown, or other than declared",
    "unreadable": "cannot be read",
    "unsafe_path": "leads out of its archive",
    "too_deep": "in an archive, more than 100 folders deep",
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
    "vendored": "copies of other projects",
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
    "query_remark": "query says who calls the function or where to read on, not what it does",
    "trivial": "a stub, or too few lines of code",
    "duplicate": "same code as an earlier function",
}
PROBLEMS = (
    "binary",
    "garbage",
    "undecodable",
    "unreadable",
    "time_limit",
    "crashed",
    "unsafe_path",
    "too_deep",
    "corrupt",
    "unsupported",
)

# Fewer make a handful of batches, after which any change of a score is chance.
ENOUGH_PAIRS = 200

_REMEDIES = {
    "query_too_short": "a lower min_query_tokens",
    "query_too_long": "a higher max_query_tokens",
    "trivial": "a lower min_code_lines",
}


@dataclass
class MiningReport:
    """Counts of everything that `mine_pairs` looked at; `str` makes a table of them.

    Files and functions are each counted under the first rule that drops them, so that the parts add up:
    `files_seen == files_mined + sum(files_skipped.values())` and
    `functions_seen == functions_kept + candidates_kept + sum(functions_dropped.values())`.

    Args:
        files_seen: Files with the extension of a language, in the folders that were entered.
        files_mined: Files whose functions were looked at.
        files_skipped: Number of the other files by rule (`FILE_RULES`).
        other_languages: Number of the files that were met and not asked for, by the language that their name tells:
            one that cannot be mined, or was not among `languages`.
        archives_seen: Archives that were opened, and those inside them.
        archives_skipped: Number of those not read, or not to their end, by rule (`ARCHIVE_RULES`).
        folders_skipped: Number of folders that were not entered by rule (`FOLDER_RULES`); their files are not seen.
        functions_seen: All functions of the mined files, with or without documentation.
        functions_kept: Functions that became pairs.
        candidates_kept: Functions without a query that were kept because `undocumented` was asked for.
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
    other_languages: dict[str, int] = field(default_factory=dict)
    archives_seen: int = 0
    archives_skipped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ARCHIVE_RULES, 0))
    folders_skipped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FOLDER_RULES, 0))
    functions_seen: int = 0
    functions_kept: int = 0
    candidates_kept: int = 0
    functions_dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FUNCTION_RULES, 0))
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Make a table with one line a count; rules that dropped nothing are left out."""
        lines = [_line("files seen", self.files_seen), _line("  mined", self.files_mined)]
        lines += _rule_lines(self.files_skipped, FILE_RULES)
        partly = sum(problem.endswith("(syntax_error)") for problem in self.problems)
        lines += [_line("files with syntax errors", partly, "mined as far as they parse")] if partly else []
        if self.other_languages:
            named = ", ".join(f"{language} {count:,}" for language, count in self.most_other_languages())
            lines.append(_line("files of other languages", sum(self.other_languages.values()), named))
        if self.archives_seen:
            lines += [_line("archives seen", self.archives_seen), *_rule_lines(self.archives_skipped, ARCHIVE_RULES)]
        skipped = _rule_lines(self.folders_skipped, FOLDER_RULES)
        lines += [_line("folders not entered", sum(self.folders_skipped.values())), *skipped] if skipped else []
        lines += [_line("functions seen", self.functions_seen), _line("  kept", self.functions_kept)]
        lines += [_line("  candidates", self.candidates_kept, "without a query")] if self.candidates_kept else []
        return "\n".join([*lines, *_rule_lines(self.functions_dropped, FUNCTION_RULES)])

    def most_other_languages(self, count: int = 5) -> list[tuple[str, int]]:
        """List the languages of `other_languages`, those with the most files first."""
        return sorted(self.other_languages.items(), key=lambda item: (-item[1], item[0]))[:count]

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


def advice_on(report: MiningReport, needed: int = ENOUGH_PAIRS) -> list[str]:
    """Say how many pairs there are, how many are needed, and what to do about it.

    Args:
        report: What mining saw.
        needed: The number of pairs that are enough.

    Returns:
        Sentences; none if there are enough pairs.

    Example:
        >>> report = MiningReport(files_seen=1, files_mined=1, functions_seen=9, functions_kept=2)
        >>> report.functions_dropped["no_docstring"] = 7
        >>> for line in advice_on(report)[:2]:
        ...     print(line)
        2 pairs found, at least 200 needed.
        7 of 9 functions have no documentation.
    """
    if report.functions_kept >= needed:
        return []
    lines = [f"{report.functions_kept:,} pairs found, at least {needed:,} needed."]
    if not report.files_seen:
        lines.append(
            "No source files of the languages to mine were seen: check the paths, and the languages if given."
        )
        if report.other_languages:
            languages = ", ".join(dict.fromkeys(EXTENSIONS.values()))
            named = ", ".join(f"{language} ({count:,})" for language, count in report.most_other_languages())
            lines.append(f"There are files of {named}; those that can be mined are {languages}.")
    elif not report.files_mined:
        lines.append(f"{report.files_seen:,} source files seen, none of which could be mined.")
    undocumented = report.functions_dropped.get("no_docstring", 0)
    if undocumented:
        lines.append(f"{undocumented:,} of {report.functions_seen:,} functions have no documentation.")
    for rule, remedy in _REMEDIES.items():
        count = report.functions_dropped.get(rule, 0)
        if count:
            lines.append(f"{count:,} were dropped as {rule}: {remedy} brings some back.")
    too_large = report.files_skipped.get("too_large", 0)
    if too_large:
        lines.append(f"{too_large:,} files were skipped as too_large: a higher max_file_bytes brings them back.")
    lines.append(
        "Add other source trees or languages, such as the packages that this code uses: those of this Python are in "
        f"{sysconfig.get_path('purelib')}."
    )
    return lines
