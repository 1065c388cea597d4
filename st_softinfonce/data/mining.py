"""Mine pairs of a documentation and its function from source trees, archives and installed distributions."""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray
from tqdm import tqdm

from st_softinfonce.data.archives import EXTENSIONS as ARCHIVES
from st_softinfonce.data.archives import is_archive
from st_softinfonce.data.docstrings import make_query, query_rule
from st_softinfonce.data.duplicates import NearDuplicateIndex
from st_softinfonce.data.english import EnglishFilter, english_score
from st_softinfonce.data.files import Source, SourceFile, find_files, note_problem, read_source
from st_softinfonce.data.languages import EXTENSIONS, load_miners
from st_softinfonce.data.languages.base import FoundFunction, LanguageMiner
from st_softinfonce.data.report import MiningReport

logger = logging.getLogger(__name__)

Paths = str | os.PathLike[str] | Source | Iterable[str | os.PathLike[str] | Source]

_TEXT_COLUMNS = ("query", "code", "language", "path", "name", "package", "version", "license")
_TEXTS = pa.schema([(name, pa.string()) for name in _TEXT_COLUMNS])
SCHEMA = _TEXTS.append(pa.field("duplicate_group", pa.int64()))
_NAMED_PROBLEMS = 5
BATCH_ROWS = 2_000


@dataclass(frozen=True)
class Limits:
    """The limits of `mine_pairs`, checked."""

    min_query_tokens: int
    max_query_tokens: int
    min_code_lines: int
    max_file_bytes: int
    max_archive_bytes: int

    def __post_init__(self) -> None:  # noqa: D105
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{field.name} must be an integer of at least 1, got {value!r}: give a larger one.")
        if self.max_query_tokens < self.min_query_tokens:
            raise ValueError(
                f"max_query_tokens must be at least min_query_tokens ({self.min_query_tokens}), "
                f"got {self.max_query_tokens}: raise the one or lower the other."
            )


def mine_pairs(
    paths: Paths,
    *,
    languages: str | Iterable[str] | None = None,
    min_query_tokens: int = 3,
    max_query_tokens: int = 256,
    min_code_lines: int = 3,
    max_file_bytes: int = 1_000_000,
    max_archive_bytes: int = 1 << 32,
    keep_duplicates: bool = False,
    report: MiningReport | None = None,
    show_progress: bool | None = None,
) -> Dataset:
    """Mine (query, code) pairs from sources: the first paragraph of a function's documentation, and the function.

    Filters are those of GraphCodeBERT's CodeSearchNet: queries that are too short or long, hold markup or links or
    are not English, and code that does not parse, are dropped; so are tests, constructors, standard methods,
    stubs, generated and minified files. Functions with the same query and other code are all kept: telling those
    apart is what the losses of this package are for. The same sources give the same rows in the same order.

    Args:
        paths: Folders, files, archives (sdist, wheel, npm tarball, zip, jar, tar, Debian package; read in memory)
            and `Source`. Hidden folders, builds, virtual environments and `site-packages` inside a folder
            are skipped; give them by name to mine them. A file of a package counts once, however many hold it.
        languages: Languages to mine; all by default.
        min_query_tokens: The fewest words of a query.
        max_query_tokens: The most words of a query.
        min_code_lines: The fewest lines of the code without documentation and comments; a signature is one line.
        max_file_bytes: Larger files are skipped.
        max_archive_bytes: The most that an archive may unpack to; what is beyond is not read.
        keep_duplicates: Whether to keep functions with the same code as an earlier one.
        report: Filled with counts of all that was seen and dropped; what it held before is replaced.
        show_progress: Whether to show a progress bar; None shows it in a terminal only.

    Returns:
        The string columns `query`, `code` (without documentation and comments), `language`, `path` (from the
        package's folder on), `name` (`Class.method`), `package`, `version` and `license` (empty if unknown), and
        the integer `duplicate_group`, shared by functions of nearly the same code (`find_near_duplicates`) and none
        other, in this dataset or another; no rows, and a warning, if nothing is left.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If there are no paths, a language is unknown, a file has no extension of `languages`, or a limit
            is not positive. Files that cannot be read, decoded or parsed are logged and counted.
    """
    limits = Limits(min_query_tokens, max_query_tokens, min_code_lines, max_file_bytes, max_archive_bytes)
    mining = Mining(paths, languages, limits, keep_duplicates)
    table = pa.Table.from_batches(mining.batches(show_progress), _TEXTS)

    def read(rows: list[int]) -> Iterator[str]:
        return (code.as_py() for code in table["code"].take(pa.array(rows, pa.int64())))

    table = table.append_column("duplicate_group", pa.array(mining.groups(read), pa.int64()))
    mining.tell(report)
    return Dataset(table)


class Mining:
    """One run over some sources, its rows coming batch by batch.

    Args:
        paths: See `mine_pairs`.
        languages: See `mine_pairs`.
        limits: The limits of `mine_pairs`.
        keep_duplicates: See `mine_pairs`.
    """

    def __init__(
        self, paths: Paths, languages: str | Iterable[str] | None, limits: Limits, keep_duplicates: bool
    ) -> None:
        self._miners = load_miners(languages)
        self._sources = _check_paths(paths, self._miners)
        self._limits = limits
        self._keep_duplicates = keep_duplicates
        self._index = NearDuplicateIndex()
        self._keys: list[NDArray[np.int64]] = []
        self.counts = MiningReport()
        """What was seen and dropped so far."""

    def batches(self, show_progress: bool | None) -> Iterator[pa.RecordBatch]:
        """Mine all rows, without their groups."""
        rows: list[tuple[str, ...]] = []
        keys: list[int] = []
        for key, row in self._rows(show_progress):
            keys.append(key)
            rows.append(row)
            if len(rows) == BATCH_ROWS:
                yield self._batch(rows, keys)
                rows, keys = [], []
        if rows:
            yield self._batch(rows, keys)

    def groups(self, read: Callable[[list[int]], Iterable[str]]) -> NDArray[np.int64]:
        """Number the near-duplicates among all rows mined, by the code of the first of each group.

        Args:
            read: Returns the code of some rows once more.

        Returns:
            The column `duplicate_group`.
        """
        firsts = self._index.groups(read)
        return np.concatenate(self._keys)[firsts] if self._keys else firsts

    def tell(self, report: MiningReport | None) -> None:
        """Say what was seen, at the end, to whom it may concern."""
        if report is not None:
            for field in fields(self.counts):
                setattr(report, field.name, getattr(self.counts, field.name))
        _tell(self.counts, self._sources, self._miners)

    def _batch(self, rows: list[tuple[str, ...]], keys: list[int]) -> pa.RecordBatch:
        columns = list(zip(*rows, strict=True))
        self._index.add(columns[1], columns[2])
        self._keys.append(np.array(keys, dtype=np.int64))
        return pa.RecordBatch.from_arrays([pa.array(column, pa.string()) for column in columns], schema=_TEXTS)

    def _rows(self, show_progress: bool | None) -> Iterator[tuple[int, tuple[str, ...]]]:
        counts, limits = self.counts, self._limits
        seen: set[bytes] = set()
        english = EnglishFilter()
        hide = None if show_progress is None else not show_progress
        files = find_files(self._sources, self._miners, counts, limits.max_archive_bytes)
        for file in tqdm(files, desc="Mining", unit="file", disable=hide):
            functions = _functions(file, self._miners[file.language], limits, counts)
            package = file.package or file.path.split("/")[0]
            for function, (rule, query, code) in _in_english(functions, limits, english, package):
                counts.functions_seen += 1
                key = b""
                if rule is None:
                    # Texts of a large corpus would not fit into memory twice.
                    key = hashlib.blake2b("\0".join((file.language, *code.split())).encode(), digest_size=16).digest()
                    if not self._keep_duplicates:
                        rule = "duplicate" if key in seen else None
                        seen.add(key)
                if rule is None:
                    counts.functions_kept += 1
                    place = (file.language, file.path, function.name, file.package, file.version, file.license)
                    yield int.from_bytes(key[:8], "big") >> 1, (query, code, *place)
                else:
                    counts.functions_dropped[rule] += 1


def _check_paths(paths: Paths, miners: dict[str, LanguageMiner]) -> list[Source]:
    given = [paths] if isinstance(paths, (str, os.PathLike, Source)) else list(paths)
    sources = [source if isinstance(source, Source) else Source(source) for source in given]
    if not sources:
        raise ValueError("paths must name at least one file or folder, got none: give the source trees to mine.")
    known = [extension for extension, language in EXTENSIONS.items() if language in miners]
    for path in (Path(source.path) for source in sources):
        if not path.exists():
            raise FileNotFoundError(f"paths must exist, got {str(path)!r}: check its spelling.")
        if not path.is_dir() and path.suffix not in known and not is_archive(path.name):
            raise ValueError(
                f"paths must be folders, archives ({' '.join(ARCHIVES)}) or files ending in one of {known}, "
                f"got {str(path)!r}: leave it out, or add its language to languages."
            )
    return sources


def _functions(
    file: SourceFile, miner: LanguageMiner, limits: Limits, counts: MiningReport
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


def _in_english(
    functions: Iterable[FoundFunction], limits: Limits, english: EnglishFilter, package: str
) -> Iterator[tuple[FoundFunction, tuple[str | None, str, str]]]:
    """The functions of a file, each with the rule that drops it, or None; its query and its code."""
    examined = [(function, _examine(function, limits)) for function in functions]
    judged = iter(english.judge(package, [score for _, (*_, score) in examined if score is not None]))
    for function, (rule, query, code, score) in examined:
        is_english = score is None or next(judged)
        yield function, (rule if is_english else "query_not_english", query, code)


def _examine(function: FoundFunction, limits: Limits) -> tuple[str | None, str, str, float | None]:
    """The rule that drops a function, or None; its query and its code, and how English the query is if it is fit."""
    if function.rule is not None:
        return function.rule, "", "", None
    query = make_query(function.doc)
    rule = query_rule(query, limits.min_query_tokens, limits.max_query_tokens)
    if rule is not None:
        return rule, query, "", None
    score = english_score(query)
    code = function.extract()
    if code is None:
        return "syntax_error", query, "", score
    return "trivial" if code.lines < limits.min_code_lines else None, query, code.text, score


def _tell(counts: MiningReport, sources: list[Source], miners: dict[str, LanguageMiner]) -> None:
    logger.info("Mined pairs:\n%s", counts)
    if counts.problems:
        named = ", ".join(counts.problems[:_NAMED_PROBLEMS])
        more = ", ..." if len(counts.problems) > _NAMED_PROBLEMS else ""
        # Not a Python warning: other people's files must not stop whoever turns warnings into errors.
        logger.warning(
            "%d files or folders could not be wholly read or parsed: %s%s", len(counts.problems), named, more
        )
    if not counts.functions_kept:
        known = " ".join(extension for extension, language in EXTENSIONS.items() if language in miners)
        remedy = (
            "Give other paths, or loosen the limits named by these rules."
            if counts.functions_seen
            else f"Give other paths: files of {', '.join(miners)} end in {known}."
        )
        warnings.warn(
            f"No pairs found under {', '.join(str(source.path) for source in sources)}: {counts.files_seen} source "
            f"files and {counts.functions_seen} functions seen; dropped: {counts.dropped_by()}. {remedy}",
            UserWarning,
            stacklevel=4,
        )
