"""Corpora of (query, code) pairs: loaded, checked, cut to a plan's limits, and fingerprinted."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, load_dataset

from evaluation import UsageError
from evaluation.corpus.renamed_copies import with_copies

SPLITS = ("train", "validation", "test")
COLUMNS = ("query", "code", "path", "name", "package", "duplicate_group")
_SHOWN = 5


class Corpus:
    """The pairs of every language as a plan has them.

    Args:
        folder: Holds ``LANGUAGE/{train,validation,test}-*.parquet``; or whatever ``datasets.load_dataset`` knows.
        candidates: At most so many held-out pairs a split; ``None`` keeps all.
    """

    def __init__(self, folder: str, candidates: int | None = None) -> None:
        self.folder = folder
        self.candidates = candidates
        self.splits = functools.lru_cache(maxsize=4)(self._splits)
        self.fingerprint = functools.lru_cache(maxsize=None)(self._fingerprint)

    def _splits(self, language: str, train_pairs: int | None) -> dict[str, Dataset]:
        """Load a language's splits, with at most ``train_pairs`` to train on."""
        limits = {"train": train_pairs, "validation": self.candidates, "test": self.candidates}
        splits = load_splits(self.folder, language)
        return {split: sample(splits[split], limit) for split, limit in limits.items()}

    def _fingerprint(self, language: str, train_pairs: int | None) -> str:
        """Hash a language's splits: 16 hexadecimal digits."""
        return fingerprint(*self.splits(language, train_pairs).values())

    def training_pairs(self, settings: Mapping[str, Any]) -> Dataset:
        """Return the pairs that a run is trained on, with the renamed copies that its settings ask for."""
        pairs = self.splits(settings["language"], settings["corpus"]["train_pairs"])["train"]
        return pairs if settings["duplicates"] is None else with_copies(pairs, **settings["duplicates"])


def load_splits(folder: str, language: str) -> DatasetDict:
    """Load the splits of one language, and refuse them if a package is in two.

    Raises:
        UsageError: The corpus, a split or a column is missing, or splits share a package.
    """
    place = Path(folder) / language
    if place.is_dir():
        parts = {split: sorted(place.glob(f"{split}-*.parquet")) for split in SPLITS}
        missing = [split for split, files in parts.items() if not files]
        if missing:
            raise UsageError(f"corpus {place} has no {missing[0]}-*.parquet: build it again, or name another folder.")
        tables = {split: pa.concat_tables([pq.read_table(file) for file in files]) for split, files in parts.items()}
        splits = DatasetDict({split: Dataset(table) for split, table in tables.items()})
    elif Path(folder).is_dir():
        raise UsageError(f"corpus {folder} has no folder {language!r}: build that language, or leave it out.")
    else:
        try:
            splits = load_dataset(folder, language)
        except (ConnectionError, FileNotFoundError) as error:
            raise UsageError(
                f"corpus {folder!r} is no folder, and no dataset that can be loaded: build it with "
                "`python -m evaluation corpora`, or name another."
            ) from error
    for split in SPLITS:
        if split not in splits:
            raise UsageError(f"corpus {folder}, {language}: no split {split!r}, only {sorted(splits)}.")
        absent = [name for name in COLUMNS if name not in splits[split].column_names]
        if absent:
            raise UsageError(f"corpus {folder}, {language}, {split}: no column {absent[0]!r}. Build the corpus again.")
    check_packages({split: splits[split] for split in SPLITS}, language)
    return splits


def check_packages(splits: Mapping[str, Dataset], language: str) -> None:
    """Refuse splits that share a package: near-duplicates within it would leak.

    Raises:
        UsageError: Naming the splits and packages.
    """
    packages = {name: set(rows["package"]) for name, rows in splits.items()}
    names = list(packages)
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            shared = sorted(packages[first] & packages[second])
            if shared:
                shown = ", ".join(map(repr, shared[:_SHOWN])) + (", ..." if len(shared) > _SHOWN else "")
                raise UsageError(
                    f"{language}: {first} and {second} share {len(shared)} packages ({shown}). Split by whole "
                    "packages: nothing is trained and tested on one."
                )


def sample(rows: Dataset, count: int | None) -> Dataset:
    """Take so many rows, by a hash of their texts: the same ones whatever the order of the rows.

    Args:
        rows: Pairs.
        count: How many; ``None`` or too many takes all.

    Returns:
        The rows, in the order of their hashes.
    """
    keys = [
        hashlib.blake2b(f"{query}\0{code}".encode(), digest_size=8).digest()
        for query, code in zip(rows["query"], rows["code"], strict=True)
    ]
    return rows.select(sorted(range(len(keys)), key=keys.__getitem__)[:count])


def fingerprint(*parts: Dataset) -> str:
    """Hash what a result depends on (texts, packages and groups, in order) to 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for rows in parts:
        frame = rows.select_columns([name for name in COLUMNS if name in rows.column_names]).to_pandas()
        digest.update(pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes())
        digest.update(b"|")
    return digest.hexdigest()
