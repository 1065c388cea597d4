"""Results on disk: one JSON line a run, whole or not there, with the numbers of every query beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from evaluation import UsageError


class Store:
    """A folder that one process writes and any number read.

    It holds ``results.jsonl``, ``failures.jsonl`` and ``values/KEY.npz``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "results.jsonl"
        self._lock = FileLock(folder / ".lock")

    def __enter__(self) -> Store:
        """Begin to write: take the lock, and drop a line that an interrupted write left unfinished.

        Raises:
            UsageError: Another process writes here.
        """
        (self.folder / "values").mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UsageError(f"{self.folder} is being written by another process: wait, or name another.") from error
        if self.path.exists():
            os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)
        return self

    def __exit__(self, *error: object) -> None:
        """Let others write."""
        self._lock.release()

    def read(self) -> dict[str, dict[str, Any]]:
        """Read the results by key."""
        if not self.path.exists():
            return {}
        lines = self.path.read_text().split("\n")[:-1]  # an unfinished line has no newline
        return {result["key"]: result for result in map(json.loads, lines)}

    def values(self, key: str) -> tuple[list[str], dict[str, np.ndarray]]:
        """Read a run's query ids, and by metric one number a query."""
        with np.load(self.folder / "values" / f"{key}.npz") as content:
            arrays = dict(content)
        return arrays.pop("queries").tolist(), arrays

    def add(self, result: Mapping[str, Any]) -> None:
        """Append a result, JSON primitives with ``key``, as one line."""
        _append(self.path, result)

    def add_failure(self, failure: Mapping[str, Any]) -> None:
        """Append what went wrong, apart from the results: such a run is tried again."""
        _append(self.folder / "failures.jsonl", failure)


def write_values(folder: Path, key: str, queries: list[str], values: Mapping[str, np.ndarray]) -> None:
    """Write a run's numbers of every query, by metric; its line is written after them."""
    target = folder / "values" / f"{key}.npz"
    temporary = target.with_name(f".{key}.npz")
    with temporary.open("wb") as file:
        np.savez_compressed(file, queries=np.array(queries), **{k: v.astype(np.float32) for k, v in values.items()})
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)


def _append(path: Path, content: Mapping[str, Any]) -> None:
    with path.open("ab") as file:
        file.write(json.dumps(content, sort_keys=True).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
