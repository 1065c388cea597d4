"""Mine pairs of a documentation and its function from source trees."""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from datasets import Dataset, Features, Value
from tqdm import tqdm

from st_softinfonce.data.files import SourceFile, find_files, note_problem, read_source
from st_softinfonce.data.languages import EXTENSIONS, load_miners
from st_softinfonce.data.languages.base import FoundFunction, LanguageMiner
from st_softinfonce.data.queries import make_query, query_rule
from st_softinfonce.data.report import MiningReport

logger = logging.getLogger(__name__)

_COLUMNS = ("query", "code", "language", "path", "name", "package")
_NAMED_PROBLEMS = 5


@dataclass(frozen=True)
class _Limits:
    min_query_tokens: int
    max_query_tokens: int
    min_code_lines: int
    max_file_bytes: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{field.name} must be an integer of at least 1, got {value!r}: give a larger one.")
        if self.max_query_tokens < self.min_query_tokens:
            raise ValueError(
                f"max_query_tokens must be at least min_query_tokens ({self.min_query_tokens}), "
                f"got {self.max_query_tokens}: raise the one or lower the other."
            )


def mine_pairs(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    languages: str | Iterable[str] = ("python",),
    min_query_tokens: int = 3,
    max_query_tokens: int = 256,
    min_code_lines: int = 3,
    max_file_bytes: int = 1_000_000,
    report: MiningReport | None = None,
    show_progress: bool | None = None,
) -> Dataset:
    """Mine (query, code) pairs from source trees: the first paragraph of a function's documentation, and the function.

    Filters are those of GraphCodeBERT's CodeSearchNet: queries that are too short or long, hold markup or links or
    are not English, and code that does not parse, are dropped; so are tests, constructors, standard methods,
    stubs, generated and minified files. Of functions with the same code the first is kept. Functions with the same
    query and other code are all kept: telling those apart is what the losses of this package are for.

    The same trees give the same rows in the same order: by `paths` as given, then file, then position.

    Args:
        paths: Files and folders. Hidden folders, builds, virtual environments and `site-packages` inside a folder
            are skipped; give them by name to mine them. A file of a package counts once, however many folders hold it.
        languages: Languages to mine.
        min_query_tokens: The fewest words of a query.
        max_query_tokens: The most words of a query.
        min_code_lines: The fewest lines of the code without documentation and comments; a signature is one line.
        max_file_bytes: Larger files are skipped.
        report: Filled with counts of all that was seen and dropped; what it held before is replaced.
        show_progress: Whether to show a progress bar; None shows it in a terminal only.

    Returns:
        The string columns `query`, `code` (without documentation and comments), `language`, `path` (from the
        package's folder on), `name` (`Class.method`) and `package`; no rows, and a warning, if nothing is left.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If there are no paths, a language is unknown, a file has no extension of `languages`, or a limit
            is not positive. Files that cannot be read, decoded or parsed are logged and counted.
    """
    limits = _Limits(min_query_tokens, max_query_tokens, min_code_lines, max_file_bytes)
    miners = load_miners(languages)
    roots = _check_paths(paths, miners)
    counts = MiningReport()
    rows = _mine(find_files(roots, miners, counts), miners, limits, counts, show_progress)
    if report is not None:
        for field in fields(counts):
            setattr(report, field.name, getattr(counts, field.name))
    _tell(counts, roots)
    columns = {name: [row[index] for row in rows] for index, name in enumerate(_COLUMNS)}
    return Dataset.from_dict(columns, features=Features({name: Value("string") for name in _COLUMNS}))


def _check_paths(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], miners: dict[str, LanguageMiner]
) -> list[Path]:
    roots = [Path(path) for path in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]
    if not roots:
        raise ValueError("paths must name at least one file or folder, got none: give the source trees to mine.")
    known = [extension for extension, language in EXTENSIONS.items() if language in miners]
    for root in roots:
        if not root.exists():
            raise FileNotFoundError(f"paths must exist, got {str(root)!r}: check its spelling.")
        if not root.is_dir() and root.suffix not in known:
            raise ValueError(
                f"paths must be folders or files ending in one of {known}, got {str(root)!r}: "
                f"leave it out, or add its language to languages."
            )
    return roots


def _mine(
    files: list[SourceFile],
    miners: dict[str, LanguageMiner],
    limits: _Limits,
    counts: MiningReport,
    show_progress: bool | None,
) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    seen: set[bytes] = set()
    hide = None if show_progress is None else not show_progress
    for file in tqdm(files, desc="Mining", unit="file", disable=hide):
        for function in _functions(file, miners[file.language], limits, counts):
            counts.functions_seen += 1
            rule, query, code = _examine(function, limits)
            if rule is None:
                # Texts of a large corpus would not fit into memory twice.
                key = hashlib.sha256("\0".join((file.language, *code.split())).encode()).digest()
                rule = "duplicate" if key in seen else None
                seen.add(key)
            if rule is None:
                counts.functions_kept += 1
                rows.append((query, code, file.language, file.path, function.name, file.package))
            else:
                counts.functions_dropped[rule] += 1
    return rows


def _functions(
    file: SourceFile, miner: LanguageMiner, limits: _Limits, counts: MiningReport
) -> Iterator[FoundFunction]:
    rule, text = read_source(file, miner, limits.max_file_bytes)
    if rule is not None:
        counts.files_skipped[rule] += 1
        note_problem(counts, file.path, rule)
        return
    parsed = miner.parse(text)
    counts.files_mined += 1
    if parsed.has_error:
        note_problem(counts, file.path, "syntax_error")
    yield from parsed.functions


def _examine(function: FoundFunction, limits: _Limits) -> tuple[str | None, str, str]:
    """The rule that drops a function, or None; its query and its code."""
    if function.rule is not None:
        return function.rule, "", ""
    query = make_query(function.doc)
    rule = query_rule(query, limits.min_query_tokens, limits.max_query_tokens)
    if rule is not None:
        return rule, query, ""
    code = function.extract()
    if code is None:
        return "syntax_error", query, ""
    return "trivial" if code.lines < limits.min_code_lines else None, query, code.text


def _tell(counts: MiningReport, roots: list[Path]) -> None:
    logger.info("Mined pairs:\n%s", counts)
    if counts.problems:
        named = ", ".join(counts.problems[:_NAMED_PROBLEMS])
        more = ", ..." if len(counts.problems) > _NAMED_PROBLEMS else ""
        # Not a Python warning: other people's files must not stop whoever turns warnings into errors.
        logger.warning(
            "%d files or folders could not be wholly read or parsed: %s%s", len(counts.problems), named, more
        )
    if not counts.functions_kept:
        warnings.warn(
            f"No pairs found under {', '.join(map(str, roots))}: {counts.files_seen} source files and "
            f"{counts.functions_seen} functions seen; dropped: {counts.dropped_by()}. "
            "Give other paths, or loosen the limits named by these rules.",
            UserWarning,
            stacklevel=3,
        )
