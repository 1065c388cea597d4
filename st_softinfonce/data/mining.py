"""Mine pairs of a documentation and its function from source trees, archives and installed distributions."""

from __future__ import annotations

import logging
import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import fields
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray
from tqdm import tqdm
from typing_extensions import TypedDict

from st_softinfonce.data.archives import EXTENSIONS as ARCHIVES, is_archive
from st_softinfonce.data.discovery import Source, SourceFile, find_files, note_problem
from st_softinfonce.data.duplicates import NearDuplicateIndex
from st_softinfonce.data.english import EnglishFilter, english_score
from st_softinfonce.data.file_miner import FileMiner, MinedFile, MinedFunction, MiningOptions
from st_softinfonce.data.languages import EXTENSIONS, load_miners
from st_softinfonce.data.languages.base import LanguageMiner
from st_softinfonce.data.minhash import band_keys
from st_softinfonce.data.mining_report import MiningReport
from st_softinfonce.data.workers import WorkerPool

logger = logging.getLogger(__name__)

Paths = str | os.PathLike[str] | Source | Iterable[str | os.PathLike[str] | Source]

_TEXT_COLUMNS = ("query", "code", "language", "path", "name", "package", "version", "license")
_ROWS = pa.schema([*((name, pa.string()) for name in _TEXT_COLUMNS), ("line", pa.int64())])
SCHEMA = _ROWS.append(pa.field("duplicate_group", pa.int64()))
_NAMED_PROBLEMS = 5
BATCH_ROWS = 2_000
_FEW_FILES = 200  # so few are mined before other processes have begun
_JOB_FILES = 16
_SAFE_BYTES = 20_000  # what takes a second even where time and memory grow with the square of the size
_JUDGED_FUNCTIONS = 1_000


def mine_pairs(
    paths: Paths,
    *,
    languages: str | Iterable[str] | None = None,
    min_query_tokens: int = 3,
    max_query_tokens: int = 256,
    min_code_lines: int = 3,
    max_file_bytes: int = 1_000_000,
    max_archive_bytes: int = 1 << 32,
    seconds_per_file: float | None = 10.0,
    keep_duplicates: bool = False,
    undocumented: bool = False,
    num_proc: int | None = None,
    report: MiningReport | None = None,
    show_progress: bool | None = None,
) -> Dataset:
    """Mine (query, code) pairs from sources: the first paragraph of a function's documentation, and the function.

    Filters are those of GraphCodeBERT's CodeSearchNet: queries that are too short or long, hold markup or links or
    are not English, and code that does not parse, are dropped; so are tests, constructors, standard methods,
    stubs, generated and minified files. Functions with the same query and other code are all kept: telling those
    apart is what the losses of this package are for. The same sources give the same rows in the same order.

    Args:
        paths: Folders, files, archives (sdist, wheel, npm tarball, zip, jar, tar, Debian package; unpacked into a
            temporary folder) and `Source`. Hidden folders, builds, virtual environments, installed packages and
            vendored code inside a folder are skipped; give them by name to mine them. A file of a package counts
            once, however many hold it.
        languages: Languages to mine; all by default.
        min_query_tokens: The fewest words of a query.
        max_query_tokens: The most words of a query.
        min_code_lines: The fewest lines of the code without documentation and comments; a signature is one line.
        max_file_bytes: Larger files are skipped.
        max_archive_bytes: The most that an archive may unpack to; what is beyond is not read.
        seconds_per_file: A file that takes longer, or a second and 20 more a megabyte, is skipped and named in the
            report; None sets no limit.
        keep_duplicates: Whether to keep functions with the same code as an earlier one.
        undocumented: Whether to keep functions without a usable query too, as candidates for search and evaluation:
            their `query` is empty. The pairs are the same with and without them.
        num_proc: The number of processes that mine beside this one, at most one a core; None or 1 for one that mines
            large files alone, since only a process can be stopped. The rows are the same.
        report: Filled with counts of all that was seen and dropped; what it held before is replaced.
        show_progress: Whether to show a progress bar; None shows it in a terminal only.

    Returns:
        The string columns `query`, `code` (without documentation and comments), `language`, `path` (from the
        package's folder on), `name` (`Class.method`), `package`, `version` and `license` (empty if unknown), and
        the integers `line`, where the function begins in its file, from 1, and `duplicate_group`, shared by functions
        of nearly the same code (`find_near_duplicates`) and none other, in this dataset or another; no rows, and a
        warning, if nothing is left.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If there are no paths, a language is unknown, a file has no extension of `languages`, or a limit
            is not positive. Files that cannot be read, decoded or parsed are logged and counted.
        OSError: If there is no space to unpack an archive.
    """
    mining = Mining(
        paths,
        languages=languages,
        keep_duplicates=keep_duplicates,
        num_proc=num_proc,
        min_query_tokens=min_query_tokens,
        max_query_tokens=max_query_tokens,
        min_code_lines=min_code_lines,
        max_file_bytes=max_file_bytes,
        max_archive_bytes=max_archive_bytes,
        seconds_per_file=seconds_per_file,
        undocumented=undocumented,
    )
    with closing(mining.batches(show_progress)) as batches:
        table = pa.Table.from_batches(batches, _ROWS)

    def read(rows: list[int]) -> Iterator[str]:
        return (code.as_py() for code in table["code"].take(pa.array(rows, pa.int64())))

    table = table.append_column("duplicate_group", pa.array(mining.groups(read), pa.int64()))
    mining.tell(report)
    return Dataset(table)


class MineOptions(TypedDict, total=False):
    """The options of `mine_pairs` that `mine_to_parquet` has too."""

    languages: str | Iterable[str] | None
    min_query_tokens: int
    max_query_tokens: int
    min_code_lines: int
    max_file_bytes: int
    max_archive_bytes: int
    seconds_per_file: float | None
    keep_duplicates: bool
    undocumented: bool
    num_proc: int | None


class Mining:
    """One run over some sources, its rows coming batch by batch.

    Args:
        paths: See `mine_pairs`.
        languages: See `mine_pairs`.
        keep_duplicates: See `mine_pairs`.
        num_proc: See `mine_pairs`.
        **limits: The fields of `MiningOptions`.
    """

    def __init__(
        self,
        paths: Paths,
        *,
        languages: str | Iterable[str] | None = None,
        keep_duplicates: bool = False,
        num_proc: int | None = None,
        **limits: Any,
    ) -> None:
        self._options = MiningOptions(**limits)
        self._miners = load_miners(languages)
        self._sources = _check_paths(paths, self._miners)
        self._keep_duplicates = keep_duplicates
        self._processes = _check_processes(num_proc)
        self._seen: set[bytes] = set()
        self._english = EnglishFilter()
        self._index = NearDuplicateIndex()
        self._keys: list[NDArray[np.int64]] = []
        self.counts = MiningReport()
        """What was seen and dropped so far."""

    def batches(self, show_progress: bool | None) -> Generator[pa.RecordBatch, None, None]:
        """Mine all rows, without their groups."""
        rows: list[_Row] = []
        for row in self._rows(show_progress):
            rows.append(row)
            if len(rows) == BATCH_ROWS:
                yield self._batch(rows)
                rows = []
        if rows:
            yield self._batch(rows)

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
        """Copy the counts into `report`, log them, and warn where nothing was found."""
        if report is not None:
            for field in fields(self.counts):
                setattr(report, field.name, getattr(self.counts, field.name))
        _tell(self.counts, self._sources, self._miners)

    def _batch(self, rows: list[_Row]) -> pa.RecordBatch:
        values, keys = zip(*rows, strict=True)
        columns = list(zip(*values, strict=True))
        self._index.add(band_keys(columns[1]), columns[2])
        self._keys.append(np.array([int.from_bytes(key[:8], "big") >> 1 for key in keys], dtype=np.int64))
        arrays = [pa.array(column, kind) for column, kind in zip(columns, _ROWS.types, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=_ROWS)

    def _rows(self, show_progress: bool | None) -> Iterator[_Row]:
        hide = None if show_progress is None else not show_progress
        with tqdm(desc="Mining", unit="file", disable=hide) as progress:
            for _, files in groupby(self._mined(progress), key=lambda item: item[0].package):
                for package in _parts(files):
                    yield from self._keep(package)

    def _keep(self, package: Sequence[tuple[SourceFile, MinedFile]]) -> Iterator[_Row]:
        """Count the files of a package that follow each other, and make the rows of their functions.

        What is to be judged by more than one function has all of a file, and of a package, together here.
        """
        counts = self.counts
        for source, file in package:
            if file.rule is not None:
                counts.files_skipped[file.rule] += 1
                note_problem(counts, source.path, file.rule)
                continue
            counts.files_mined += 1
            counts.functions_seen += file.functions_seen
            if file.has_error:
                note_problem(counts, source.path, "syntax_error")
            place = (source.package, source.version, source.license)
            for function in self._in_english(source, file):
                if self._is_duplicate(function.key, bool(function.query)):
                    file.drop("duplicate")
                    continue
                if function.query:
                    counts.functions_kept += 1
                else:
                    counts.candidates_kept += 1
                texts = (function.query, function.code, source.language, source.path, function.name, *place)
                yield (*texts, function.line), function.key
            for rule, count in file.dropped.items():
                counts.functions_dropped[rule] += count

    def _in_english(self, source: SourceFile, file: MinedFile) -> Iterator[MinedFunction]:
        """The functions of a file whose query is English, and the candidates."""
        # Scored here, as it would take each process half a second to load what scores them.
        scores = list(map(english_score, file.queries))
        are_english = self._english.judge(source.neighbourhood, scores)
        for function in file.functions:
            if function.query_index is None or are_english[function.query_index]:
                yield function
            elif self._options.undocumented:
                yield function._replace(query="")
            else:
                file.drop("query_not_english")

    def _is_duplicate(self, key: bytes, is_pair: bool) -> bool:
        """Whether there was the same code before; for pairs, among pairs, which are the same without candidates."""
        if self._keep_duplicates:
            return False
        of_candidate = key[:-1]
        if key in self._seen or (not is_pair and of_candidate in self._seen):
            return True
        self._seen.add(key if is_pair else of_candidate)
        return False

    def _mined(self, progress: tqdm) -> Iterator[tuple[SourceFile, MinedFile]]:
        """Mine all files, in the order in which they are found."""
        options = self._options
        found = find_files(self._sources, self._miners, self.counts, options.max_file_bytes, options.max_archive_bytes)
        few = deque(islice(found, _FEW_FILES)) if self._processes > 1 else deque[SourceFile]()
        needs_processes = len(few) == _FEW_FILES
        begun: deque[list[SourceFile]] = deque()

        def jobs() -> Iterator[list[tuple[str, str]]]:
            files = chain(_drain(few), found)
            while job := list(islice(files, _JOB_FILES)):
                begun.append(job)
                yield [(str(file.location), file.language) for file in job]

        with WorkerPool(list(self._miners), options, self._processes) as pool:
            results = pool.mine(jobs()) if needs_processes else map(self._alone(pool), jobs())
            for mined in results:
                job = begun.popleft()
                progress.update(len(job))
                yield from zip(job, mined, strict=True)

    def _alone(self, pool: WorkerPool) -> Callable[[list[tuple[str, str]]], list[MinedFile]]:
        """What mines the files of a job in this process, but for the large ones, which nothing here could stop."""
        seconds = self._options.seconds_per_file
        most_bytes = _SAFE_BYTES if seconds is None else _SAFE_BYTES * min(seconds, 1)
        miner = FileMiner(list(self._miners), self._options)

        def mine(job: list[tuple[str, str]]) -> list[MinedFile]:
            # A parser may take gigabytes in a tenth of a second, and cannot be stopped there.
            begun = {place: pool.begin([(place, language)]) for place, language in job if _size(place) > most_bytes}
            return [
                begun[place].result()[0] if place in begun else miner.mine(place, language) for place, language in job
            ]

        return mine


def _size(place: str) -> int:
    try:
        return Path(place).stat().st_size
    except (OSError, ValueError):
        return 0  # reading it will say why


_Row = tuple[tuple[str | int, ...], bytes]  # values, key


def _parts(files: Iterable[tuple[SourceFile, MinedFile]]) -> Iterator[list[tuple[SourceFile, MinedFile]]]:
    """A package's files, in parts where it has too many functions to keep all of them in memory."""
    part: list[tuple[SourceFile, MinedFile]] = []
    functions = 0
    for item in files:
        part.append(item)
        functions += len(item[1].functions)
        if functions >= _JUDGED_FUNCTIONS:
            yield part
            part, functions = [], 0
    if part:
        yield part


def _drain(files: deque[SourceFile]) -> Iterator[SourceFile]:
    # Whoever keeps a file keeps what its archive was unpacked into.
    while files:
        yield files.popleft()


def _check_processes(num_proc: int | None) -> int:
    if num_proc is not None and (isinstance(num_proc, bool) or not isinstance(num_proc, int) or num_proc < 1):
        raise ValueError(f"num_proc must be None or an integer of at least 1, got {num_proc!r}: give e.g. 2.")
    return min(num_proc or 1, cores())


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def _tell(counts: MiningReport, sources: list[Source], miners: dict[str, LanguageMiner]) -> None:
    logger.info("Mined pairs:\n%s", counts)
    if counts.problems:
        named = ", ".join(counts.problems[:_NAMED_PROBLEMS])
        more = ", ..." if len(counts.problems) > _NAMED_PROBLEMS else ""
        # Not a Python warning: other people's files must not stop whoever turns warnings into errors.
        logger.warning(
            "%d files or folders could not be wholly read or parsed: %s%s", len(counts.problems), named, more
        )
    if not counts.functions_kept + counts.candidates_kept:
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
