"""What to do where source trees hold too few documented functions."""

from __future__ import annotations

import sysconfig

from st_softinfonce.data.report import MiningReport

# Fewer make a handful of batches, after which any change of a score is chance.
ENOUGH_PAIRS = 200

_REMEDIES = {
    "query_too_short": "a lower min_query_tokens",
    "query_too_long": "a higher max_query_tokens",
    "trivial": "a lower min_code_lines",
}


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
