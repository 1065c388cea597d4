"""Mine corpora that need not fit into memory, into a folder that `datasets.load_dataset` reads."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from typing_extensions import Unpack

from st_softinfonce._checks import check_count
from st_softinfonce.data.mining import BATCH_ROWS, SCHEMA, MineOptions, Mining, Paths
from st_softinfonce.data.mining_report import MiningReport

logger = logging.getLogger(__name__)

_KEYS = ("language", "package", "version", "license")
_FINGERPRINT = "  description: mined by st-softinfonce, SHA-256 "
_MOST_PACKAGES = 500
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M")  # as the Hub has them


def mine_to_parquet(
    paths: Paths,
    output: str | os.PathLike[str],
    *,
    rows_per_shard: int = 50_000,
    overwrite: bool = False,
    report: MiningReport | None = None,
    show_progress: bool | None = None,
    **options: Unpack[MineOptions],
) -> MiningReport:
    """Mine the rows of `mine_pairs` into Parquet files with a dataset card, in memory that hardly grows with them.

    The folder appears when it is complete, and not at all if mining fails; one that is replaced is there until then.
    A run that is killed leaves a hidden folder beside `output`, which the next run into `output` puts right.
    It holds no dates and no paths of this machine: the same sources give the same bytes with the same versions of this
    package and of pyarrow. `datasets.load_dataset(str(output))` reads it, without a network, as the split `train`;
    what `undocumented` adds is the split `candidates`.

    Args:
        paths: As for `mine_pairs`.
        output: The folder to make; its parents are made as needed.
        rows_per_shard: The most rows of one of the files `data/train-00000.parquet` and so on.
        overwrite: Whether to replace a folder that this function has made. One that holds anything else, or files that
            were changed since, is refused in any case.
        report: Filled as `mine_pairs` does.
        show_progress: Whether to show a progress bar; None shows it in a terminal only.
        **options: The other options of `mine_pairs`.

    Returns:
        Counts of all that was seen and dropped.

    Raises:
        FileExistsError: If `output` exists and is not to be overwritten, or another process is mining into it.
        FileNotFoundError: If a path does not exist.
        OSError: If the folder cannot be written, or there is no space to unpack an archive.
        ValueError: If `output` is empty, as `mine_pairs`, and if `rows_per_shard` is not positive.
    """
    check_count("rows_per_shard", rows_per_shard, hint="Give a larger one.")
    if not os.fspath(output):
        raise ValueError("output must be a folder to make, got an empty name: give e.g. 'pairs'.")
    mining = Mining(paths, **options)
    target = Path(os.path.abspath(output))  # noqa: PTH100 - a link is replaced, not what it leads to
    _check_output(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _work_folder(target) as work:
        _check_output(target, overwrite)
        folder, raw = work / "new", work / "raw"
        (folder / "data").mkdir(parents=True)
        raw.mkdir()
        with closing(mining.batches(show_progress)) as batches:
            summary = _write_raw(batches, raw, rows_per_shard)
        splits = _add_groups(mining, raw, folder / "data", rows_per_shard)
        card = _card(summary, splits, mining.counts)
        # Without it, `datasets` would take another folder of this name for this one.
        card = card.replace(_FINGERPRINT, _FINGERPRINT + _fingerprint(folder, card), 1)
        (folder / "README.md").write_text(card, encoding="utf-8", newline="\n")
        _check_output(target, overwrite)
        if os.path.lexists(target):
            target.rename(work / "old")
        folder.rename(target)
    mining.tell(report)
    return mining.counts


@contextmanager
def _work_folder(target: Path) -> Iterator[Path]:
    """Make a hidden folder beside the target, for this process alone, and put right what a killed run left in it."""
    name = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8]
    work = target.with_name(f".{target.name[:50]}-{name}.mining")
    lock = FileLock(work / "lock")
    try:
        work.mkdir(exist_ok=True)
        lock.acquire(timeout=0)
    except (Timeout, FileNotFoundError):
        raise FileExistsError(
            f"output must not be written by another process, got {str(target)!r}: wait for it, or give another folder."
        ) from None
    try:
        _put_right(target, work)
        yield work
    finally:
        _put_right(target, work)
        if not (work / "old").exists():
            shutil.rmtree(work, ignore_errors=True)
        lock.release()


def _put_right(target: Path, work: Path) -> None:
    """Undo or finish what was interrupted: the old folder comes back unless the new one is in its place."""
    old = work / "old"
    if old.exists() and not os.path.lexists(target):
        old.rename(target)
    for folder in (work / "new", work / "raw"):
        shutil.rmtree(folder, ignore_errors=True)
    if old.exists():
        # Only what was written here: someone may have added files after the folder was looked at.
        for file in [*_shards(old), old / "README.md"]:
            file.unlink(missing_ok=True)
        try:
            (old / "data").rmdir()
            old.rmdir()
        except OSError:
            logger.warning("files that were added to %s while it was replaced are kept in %s", target, old)


def _check_output(target: Path, overwrite: bool) -> None:
    if not os.path.lexists(target):
        return
    if not _is_ours(target):
        raise FileExistsError(
            f"output must not exist, got {str(target)!r}, which was not mined or was changed since: "
            "give another folder."
        )
    if not overwrite:
        raise FileExistsError(f"output must not exist, got {str(target)!r}: give another folder, or overwrite=True.")


def _is_ours(target: Path) -> bool:
    """Whether a folder holds what `mine_to_parquet` wrote, as it was, and nothing else that could be lost."""
    card = target / "README.md"
    try:
        if target.is_symlink() or card.is_symlink() or not card.is_file():
            return False
        text = card.read_text(encoding="utf-8")
        marks = [line for line in text.splitlines() if line.startswith(_FINGERPRINT)]
        inside = {path.relative_to(target).as_posix() for path in target.rglob("*")} - {"README.md", "data"}
        are_files = all(re.fullmatch(r"data/(?:train|candidates)-\d{5,}\.parquet", name) for name in inside)
        return are_files and marks == [_FINGERPRINT + _fingerprint(target, text)]
    except (OSError, ValueError):
        return False


def _shards(folder: Path) -> list[Path]:
    return sorted((folder / "data").glob("*.parquet"))


def _fingerprint(folder: Path, card: str) -> str:
    """Hash the files, and the card but for the line that holds the hash."""
    digest = hashlib.sha256()
    for shard in _shards(folder):
        with shard.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        digest.update(f"{shard.name} {shard.stat().st_size}\n".encode())
    digest.update("".join(line for line in card.splitlines(True) if not line.startswith(_FINGERPRINT)).encode())
    return digest.hexdigest()


class _ShardWriter:
    """Writes rows into files of at most so many: `NAME-00000.parquet` and so on."""

    def __init__(self, folder: Path, name: str, rows_per_shard: int) -> None:
        self._folder = folder
        self._name = name
        self._rows_per_shard = rows_per_shard
        self._writer: pq.ParquetWriter | None = None
        self._in_shard = 0
        self._shards = 0
        self.rows = 0
        self.bytes = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self.rows += batch.num_rows
        self.bytes += batch.nbytes
        start = 0
        while start < batch.num_rows:
            if self._writer is None:
                self.begin(batch.schema)
            part = batch.slice(start, min(self._rows_per_shard - self._in_shard, batch.num_rows - start))
            if self._writer is not None:
                self._writer.write_batch(part)
            start, self._in_shard = start + part.num_rows, self._in_shard + part.num_rows
            if self._in_shard == self._rows_per_shard:
                self.close()

    def begin(self, schema: pa.Schema) -> None:
        """Begin the next file."""
        file = self._folder / f"{self._name}-{self._shards:05}.parquet"
        self._writer = pq.ParquetWriter(file, schema, compression="zstd")
        self._shards, self._in_shard = self._shards + 1, 0

    def close(self) -> None:
        """End the file that is being written, if any."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _write_raw(batches: Iterator[pa.RecordBatch], folder: Path, rows_per_shard: int) -> Counter[tuple[str, ...]]:
    """Write the rows as they come, and count the pairs of each language, package, version and licence."""
    summary: Counter[tuple[str, ...]] = Counter()
    writer = _ShardWriter(folder, "raw", rows_per_shard)
    try:
        for batch in batches:
            pairs = batch.filter(pc.not_equal(batch["query"], ""))
            summary.update(zip(*(pairs[name].to_pylist() for name in _KEYS), strict=True))
            writer.write(batch)
    finally:
        writer.close()
    return summary


def _add_groups(mining: Mining, raw: Path, folder: Path, rows_per_shard: int) -> dict[str, _ShardWriter]:
    """Write the final files, with the column that takes all rows to be known; candidates apart from pairs."""
    shards = sorted(raw.iterdir())

    def read(rows: list[int]) -> Iterator[str]:
        begin = position = 0
        for shard in shards:
            with pq.ParquetFile(shard) as file:
                for batch in file.iter_batches(BATCH_ROWS, columns=["code"]):
                    codes = batch["code"]
                    while position < len(rows) and rows[position] < begin + batch.num_rows:
                        yield codes[rows[position] - begin].as_py()
                        position += 1
                    begin += batch.num_rows

    groups = pa.array(mining.groups(read), pa.int64())
    splits = {name: _ShardWriter(folder, name, rows_per_shard) for name in ("train", "candidates")}
    begin = 0
    try:
        for shard in shards:
            with pq.ParquetFile(shard) as file:
                for batch in file.iter_batches(BATCH_ROWS):
                    columns = [*batch.columns, groups.slice(begin, batch.num_rows)]
                    rows = pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
                    is_pair = pc.not_equal(rows["query"], "")
                    splits["train"].write(rows.filter(is_pair))
                    splits["candidates"].write(rows.filter(pc.invert(is_pair)))
                    begin += batch.num_rows
            shard.unlink()
        if not splits["train"].rows:
            # A dataset without rows still has its columns.
            splits["train"].begin(SCHEMA)
    finally:
        for writer in splits.values():
            writer.close()
    return {name: writer for name, writer in splits.items() if writer.rows or name == "train"}


def _card(summary: Counter[tuple[str, ...]], splits: dict[str, _ShardWriter], counts: MiningReport) -> str:
    """The dataset card: what is in the folder, under which licences, and what was left out."""
    rows = splits["train"].rows
    candidates = splits["candidates"].rows if "candidates" in splits else 0
    by_language: Counter[str] = Counter()
    by_package: Counter[tuple[str, ...]] = Counter()
    for (language, *package), count in summary.items():
        by_language[language] += count
        by_package[tuple(package)] += count
    lines = [
        "---",
        "configs:",
        "- config_name: default",
        "  data_files:",
        *(line for name in splits for line in (f"  - split: {name}", f"    path: data/{name}-*.parquet")),
        _FINGERPRINT,
        "dataset_info:",
        "  features:",
        *(line for field in SCHEMA for line in (f"  - name: {field.name}", f"    dtype: {field.type}")),
        "  splits:",
        *(
            line
            for name, writer in splits.items()
            for line in (f"  - name: {name}", f"    num_bytes: {writer.bytes}", f"    num_examples: {writer.rows}")
        ),
        f"  dataset_size: {sum(writer.bytes for writer in splits.values())}",
        "language:",
        "- en",
        "- code",
        "size_categories:",
        f"- {_SIZES[min(max(len(str(rows)) - 3, 0), len(_SIZES) - 1)]}",
        "tags:",
        "- st-softinfonce",
        "task_categories:",
        "- text-retrieval",
        "---",
        "",
        "# Documented functions as (query, code) pairs",
        "",
        f"{rows:,} pairs of the first paragraph of a function's documentation (`query`) and the function without",
        "documentation and comments (`code`), with `language`, `path`, `line`, `name`, `package`, `version` and",
        "`license`.",
        "Rows share `duplicate_group` if their code is nearly the same.",
        *(
            [f"The split `candidates` holds {candidates:,} more functions, without a query, to search among."]
            if candidates
            else []
        ),
        "",
        *_table(("language", "pairs"), sorted(by_language.items())),
        "",
        "## Packages and licences",
        "",
        "The code is under the licences of its packages; an empty one is not known.",
        "",
    ]
    packages = sorted(by_package.items(), key=lambda item: (-item[1], item[0]))
    lines += _table(
        ("package", "version", "licence", "pairs"), [(*key, count) for key, count in packages[:_MOST_PACKAGES]]
    )
    if len(packages) > _MOST_PACKAGES:
        rest = sum(count for _, count in packages[_MOST_PACKAGES:])
        lines += ["", f"and {len(packages) - _MOST_PACKAGES:,} more with {rest:,} pairs together."]
    lines += ["", "## What was seen and left out", "", "```", str(counts), "```", ""]
    return "\n".join(lines)


def _table(header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> list[str]:
    def line(cells: Iterable[Any]) -> str:
        texts = (
            f"{cell:,}" if isinstance(cell, int) else " ".join(cell.replace("|", "\\|").split()) for cell in cells
        )
        return f"| {' | '.join(texts)} |"

    return [line(header), line("---" for _ in header), *map(line, rows)]
