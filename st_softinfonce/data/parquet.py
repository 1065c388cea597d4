"""Mine corpora that need not fit into memory, into a folder that `datasets.load_dataset` reads."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from st_softinfonce.data.mining import SCHEMA, Limits, Mining, Paths
from st_softinfonce.data.report import MiningReport

_KEYS = ("language", "package", "version", "license")
_MARK = "- st-softinfonce"
_MOST_PACKAGES = 500
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M")  # as the Hub has them


def mine_to_parquet(
    paths: Paths,
    output: str | os.PathLike[str],
    *,
    languages: str | Iterable[str] | None = None,
    rows_per_shard: int = 50_000,
    overwrite: bool = False,
    min_query_tokens: int = 3,
    max_query_tokens: int = 256,
    min_code_lines: int = 3,
    max_file_bytes: int = 1_000_000,
    max_archive_bytes: int = 1 << 32,
    keep_duplicates: bool = False,
    report: MiningReport | None = None,
    show_progress: bool | None = None,
) -> MiningReport:
    """Mine the rows of `mine_pairs` into Parquet files with a dataset card, in memory that hardly grows with them.

    The folder appears when it is complete, and not at all if mining fails. It holds no dates and no paths of this
    machine: the same sources give the same bytes with the same versions of this package and of pyarrow.
    `datasets.load_dataset(str(output))` reads it, without a network.

    Args:
        paths: As for `mine_pairs`, and so are all options that are not described here.
        output: The folder to make; its parents are made as needed.
        languages: Languages to mine; all by default.
        rows_per_shard: The most rows of one of the files `data/train-00000.parquet` and so on.
        overwrite: Whether to replace a folder that this function has made. Any other is refused in any case.
        min_query_tokens: See `mine_pairs`.
        max_query_tokens: See `mine_pairs`.
        min_code_lines: See `mine_pairs`.
        max_file_bytes: See `mine_pairs`.
        max_archive_bytes: See `mine_pairs`.
        keep_duplicates: See `mine_pairs`.
        report: Filled as `mine_pairs` does.
        show_progress: Whether to show a progress bar; None shows it in a terminal only.

    Returns:
        Counts of all that was seen and dropped.

    Raises:
        FileExistsError: If `output` exists and is not to be overwritten.
        FileNotFoundError: If a path does not exist.
        ValueError: As `mine_pairs`, and if `rows_per_shard` is not positive.
    """
    if isinstance(rows_per_shard, bool) or not isinstance(rows_per_shard, int) or rows_per_shard < 1:
        raise ValueError(
            f"rows_per_shard must be an integer of at least 1, got {rows_per_shard!r}: give a larger one."
        )
    limits = Limits(min_query_tokens, max_query_tokens, min_code_lines, max_file_bytes, max_archive_bytes)
    mining = Mining(paths, languages, limits, keep_duplicates)
    target = Path(os.path.abspath(output))  # noqa: PTH100 - a link is replaced, not what it leads to
    _check_output(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
        folder = Path(temporary) / "new"
        raw = Path(temporary) / "raw"
        (folder / "data").mkdir(parents=True)
        raw.mkdir()
        summary = _write_shards(mining.batches(show_progress), raw, rows_per_shard)
        _add_groups(mining, raw, folder / "data")
        (folder / "README.md").write_text(_card(summary, mining.counts), encoding="utf-8")
        _check_output(target, overwrite)
        if target.exists():
            target.rename(Path(temporary) / "old")
        folder.rename(target)
    mining.tell(report)
    return mining.counts


def _check_output(target: Path, overwrite: bool) -> None:
    if not target.exists() and not target.is_symlink():
        return
    if not _is_ours(target):
        raise FileExistsError(f"output must not exist, got {str(target)!r}, which was not mined: give another folder.")
    if not overwrite:
        raise FileExistsError(f"output must not exist, got {str(target)!r}: give another folder, or overwrite=True.")


def _is_ours(target: Path) -> bool:
    """Whether a folder holds what `mine_to_parquet` writes, and nothing else that could be lost."""
    card = target / "README.md"
    if target.is_symlink() or not card.is_file():
        return False
    files = {path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()}
    others = {name for name in files if not (name.startswith("data/train-") and name.endswith(".parquet"))}
    return others == {"README.md"} and _MARK in card.read_text(encoding="utf-8", errors="replace").splitlines()


def _write_shards(batches: Iterator[pa.RecordBatch], folder: Path, rows_per_shard: int) -> Counter[tuple[str, ...]]:
    """Write the rows as they come, and count those of each language, package, version and licence."""
    summary: Counter[tuple[str, ...]] = Counter()
    writer: pq.ParquetWriter | None = None
    shards = rows = 0
    try:
        for batch in batches:
            summary.update(zip(*(batch[name].to_pylist() for name in _KEYS), strict=True))
            start = 0
            while start < batch.num_rows:
                if writer is None:
                    writer, rows = _writer(folder, shards, batch.schema), 0
                    shards += 1
                part = batch.slice(start, rows_per_shard - rows)
                writer.write_batch(part)
                start, rows = start + part.num_rows, rows + part.num_rows
                if rows == rows_per_shard:
                    writer.close()
                    writer = None
    finally:
        if writer is not None:
            writer.close()
    return summary


def _writer(folder: Path, shard: int, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(folder / f"train-{shard:05}.parquet", schema, compression="zstd")


def _add_groups(mining: Mining, raw: Path, folder: Path) -> None:
    """Write the final shards, with the column that takes all rows to be known."""
    shards = sorted(raw.iterdir())

    def read(rows: list[int]) -> Iterator[str]:
        begin = position = 0
        for shard in shards:
            with pq.ParquetFile(shard) as file:
                for batch in file.iter_batches(columns=["code"]):
                    codes = batch["code"]
                    while position < len(rows) and rows[position] < begin + batch.num_rows:
                        yield codes[rows[position] - begin].as_py()
                        position += 1
                    begin += batch.num_rows

    groups = pa.array(mining.groups(read), pa.int64())
    begin = 0
    for number, shard in enumerate(shards):
        with pq.ParquetFile(shard) as file, _writer(folder, number, SCHEMA) as writer:
            for batch in file.iter_batches():
                columns = [*batch.columns, groups.slice(begin, batch.num_rows)]
                writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
                begin += batch.num_rows
        shard.unlink()
    if not shards:
        # A dataset without rows still has its columns.
        _writer(folder, 0, SCHEMA).close()


def _card(summary: Counter[tuple[str, ...]], counts: MiningReport) -> str:
    """The dataset card: what is in the folder, under which licences, and what was left out."""
    rows = sum(summary.values())
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
        "  - split: train",
        "    path: data/train-*.parquet",
        "language:",
        "- en",
        "- code",
        "size_categories:",
        f"- {_SIZES[min(max(len(str(rows)) - 3, 0), len(_SIZES) - 1)]}",
        "tags:",
        _MARK,
        "task_categories:",
        "- text-retrieval",
        "---",
        "",
        "# Documented functions as (query, code) pairs",
        "",
        f"{rows:,} pairs of the first paragraph of a function's documentation (`query`) and the function without",
        "documentation and comments (`code`), with `language`, `path`, `name`, `package`, `version` and `license`.",
        "Rows share `duplicate_group` if their code is nearly the same.",
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
