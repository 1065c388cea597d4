"""Tasks on disk, in the format that mteb's own loader reads."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from datasets import Dataset
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData

from st_softinfonce.tasks.graded import GradedCodeRetrieval
from st_softinfonce.tasks.retrieval import CodeRetrieval
from st_softinfonce.tasks.tables import InMemoryMetadata

_TASK_FILE = "task.json"
_CLASSES = {kind.__name__: kind for kind in (CodeRetrieval, GradedCodeRetrieval)}
_PARTS = ("corpus", "queries", "qrels")


def save_task(task: CodeRetrieval, folder: str | os.PathLike[str]) -> None:
    """Write a task to a folder, in MTEB's standard format and with all that `load_task` needs.

    The folder is a dataset with the configurations `corpus`, `queries` and `qrels`, with the subset in front where
    there are languages (`python-corpus`), as `mteb`'s `RetrievalDatasetLoader(FOLDER, ...)` reads them and its
    `task.push_dataset_to_hub` uploads them. Candidates to re-rank are not saved.

    Args:
        task: A task of this package; its data are loaded if they are not.
        folder: A new or empty folder.

    Raises:
        ValueError: The folder is not empty.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"folder={os.fspath(folder)!r} is not empty: name a new one, or delete it first.")
    contents = {}
    configs: dict[str, dict[str, str]] = {}
    for split in task.metadata.eval_splits:
        tables = {subset: task.table(subset, split) for subset in task.metadata.hf_subsets}
        contents[split] = _content(tables)
        for subset, table in tables.items():
            for part, rows in zip(_PARTS, (table["corpus"], table["queries"], _qrels(table)), strict=True):
                config = _config(subset, part)
                (target / config).mkdir(parents=True, exist_ok=True)
                place = f"{config}/{split}.parquet"
                rows.to_parquet(target / place)
                configs.setdefault(config, {})[split] = place
    kind = next(name for name, cls in reversed(_CLASSES.items()) if isinstance(task, cls))
    (target / "README.md").write_text(_card(configs), encoding="utf-8")
    # Written last: without it, an interrupted save is no task.
    description = {"kind": kind, "contents": contents, "metadata": task.metadata.model_dump(mode="json")}
    (target / _TASK_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load_task(folder: str | os.PathLike[str]) -> CodeRetrieval:
    """Read a task that `save_task` wrote: the same name, fingerprint, ids and scores.

    Args:
        folder: The folder. It is read at once, and not needed afterwards.

    Returns:
        A `GradedCodeRetrieval` if it was one, else a `CodeRetrieval`; a `CodeSearchNetMRR` becomes one that no longer
        needs its source.

    Raises:
        FileNotFoundError: The folder holds no task, or lacks a file.
        ValueError: The data are not those that were saved.
    """
    source = Path(folder)
    if not (source / _TASK_FILE).is_file():
        raise FileNotFoundError(f"folder={os.fspath(folder)!r} has no {_TASK_FILE}: name one that save_task wrote.")
    description = json.loads((source / _TASK_FILE).read_text(encoding="utf-8"))
    metadata = InMemoryMetadata(**description["metadata"])
    tables: dict[str, dict[str, RetrievalSplitData]] = {subset: {} for subset in metadata.hf_subsets}
    for split in metadata.eval_splits:
        for subset, parts in tables.items():
            parts[split] = _read(source, subset, split)
        content = _content({subset: parts[split] for subset, parts in tables.items()})
        if content != description["contents"][split]:
            raise ValueError(
                f"folder={os.fspath(folder)!r} does not hold the data that were saved: its files were changed. "
                "Make the task of the changed data anew, so that it gets a name of its own."
            )
    return _CLASSES[description["kind"]](metadata, tables)


def _config(subset: str, part: str) -> str:
    return part if subset == "default" else f"{subset}-{part}"


def _qrels(table: RetrievalSplitData) -> Dataset:
    rows = [
        (query, document, grade)
        for query, grades in table["relevant_docs"].items()
        for document, grade in grades.items()
    ]
    queries, documents, scores = zip(*rows, strict=True)
    return Dataset.from_dict({"query-id": list(queries), "corpus-id": list(documents), "score": list(scores)})


def _read(source: Path, subset: str, split: str) -> RetrievalSplitData:
    # Not by `Dataset.from_parquet`, which leaves a copy in the cache of `datasets`.
    corpus, queries, qrels = (
        pd.read_parquet(source / _config(subset, part) / f"{split}.parquet").to_dict("list") for part in _PARTS
    )
    relevant: dict[str, dict[str, int]] = {}
    for query, document, grade in zip(qrels["query-id"], qrels["corpus-id"], qrels["score"], strict=True):
        relevant.setdefault(query, {})[document] = grade
    return RetrievalSplitData(
        corpus=Dataset.from_dict(corpus), queries=Dataset.from_dict(queries), relevant_docs=relevant, top_ranked=None
    )


def _content(tables: Mapping[str, RetrievalSplitData]) -> str:
    """Hash all texts, ids and grades; the order of rows is not part of it."""
    content = {
        subset: [sorted(zip(*table["corpus"].to_dict().values(), strict=True)),
                 sorted(zip(*table["queries"].to_dict().values(), strict=True)),
                 table["relevant_docs"]]
        for subset, table in tables.items()
    }  # fmt: skip
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _card(configs: Mapping[str, Mapping[str, str]]) -> str:
    lines = ["---", "configs:"]
    for config, places in configs.items():
        lines += [f"- config_name: {json.dumps(config)}", "  data_files:"]
        for split, place in places.items():
            lines += [f"  - split: {json.dumps(split)}", f"    path: {json.dumps(place)}"]
    return "\n".join([*lines, "---", ""])
