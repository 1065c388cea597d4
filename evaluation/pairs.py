"""Corpora of (query, code) pairs for the evaluation: loading, checking, and the orders they are trained in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, load_dataset

SPLITS = ("train", "validation", "test")
COLUMNS = ("query", "code", "path", "name", "package", "duplicate_group")
_SHOWN = 5


def load_corpus(folder: str, language: str) -> DatasetDict:
    """Load the splits of one language, and refuse them if a package is in two.

    Args:
        folder: Holds ``LANGUAGE/{train,validation,test}-*.parquet``; or whatever ``datasets.load_dataset`` knows.
        language: Such as ``python``.

    Returns:
        Train, validation and test pairs.

    Raises:
        ValueError: The corpus, a split or a column is missing, or splits share a package.
    """
    place = Path(folder) / language
    if place.is_dir():
        parts = {split: sorted(place.glob(f"{split}-*.parquet")) for split in SPLITS}
        missing = [split for split, files in parts.items() if not files]
        if missing:
            raise ValueError(f"corpus {place} has no {missing[0]}-*.parquet: build it again, or name another folder.")
        splits = DatasetDict(
            {
                split: Dataset(pa.concat_tables([pq.read_table(file) for file in files]))
                for split, files in parts.items()
            }
        )
    elif Path(folder).is_dir():
        raise ValueError(f"corpus {folder} has no folder {language!r}: build that language, or leave it out.")
    else:
        try:
            splits = load_dataset(folder, language)
        except (ConnectionError, FileNotFoundError) as error:
            raise ValueError(
                f"corpus {folder!r} is no folder, and no dataset that can be loaded: build it with "
                "evaluation/corpora.py, or name another."
            ) from error
    for split in SPLITS:
        if split not in splits:
            raise ValueError(f"corpus {folder}, {language}: no split {split!r}, only {sorted(splits)}.")
        absent = [name for name in COLUMNS if name not in splits[split].column_names]
        if absent:
            raise ValueError(f"corpus {folder}, {language}, {split}: no column {absent[0]!r}. Build the corpus again.")
    check_packages({split: splits[split] for split in SPLITS}, language)
    return DatasetDict({split: splits[split] for split in SPLITS})


def check_packages(splits: Mapping[str, Dataset], language: str) -> None:
    """Refuse splits that share a package: near-duplicates within it would leak.

    Args:
        splits: By name.
        language: For the message.

    Raises:
        ValueError: Naming the splits and packages.
    """
    packages = {name: set(rows["package"]) for name, rows in splits.items()}
    names = list(packages)
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            shared = sorted(packages[first] & packages[second])
            if shared:
                shown = ", ".join(map(repr, shared[:_SHOWN])) + (", ..." if len(shared) > _SHOWN else "")
                raise ValueError(
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
    """Hash what a result depends on: texts, packages and groups, in order.

    Args:
        *parts: Pairs.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=8)
    for rows in parts:
        frame = rows.select_columns(list(COLUMNS)).to_pandas()
        digest.update(pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes())
        digest.update(b"|")
    return digest.hexdigest()


def training_order(rows: Dataset, *, batch_size: int, steps: int, seed: int, group_by: str | None = None) -> list[int]:
    """Lay out which pair is trained on when, so that every loss sees the same pairs in the same batches.

    Args:
        rows: The training pairs.
        batch_size: Pairs a batch.
        steps: Batches.
        seed: Of the order; every pass over the pairs has one of its own.
        group_by: A column: pairs with one value of it are put side by side, and whole batches are shuffled then.

    Returns:
        ``batch_size * steps`` row numbers.

    Raises:
        ValueError: There are fewer pairs than a batch holds.
    """
    if len(rows) < batch_size:
        raise ValueError(f"batch_size={batch_size} is more than the {len(rows)} training pairs: take smaller batches.")
    generator = np.random.default_rng(seed)
    groups = None if group_by is None else pd.factorize(np.asarray(rows[group_by]))[0]
    order: list[int] = []
    while len(order) < batch_size * steps:
        shuffled = generator.permutation(len(rows))
        if groups is not None:
            place = generator.permutation(groups.max() + 1)[groups[shuffled]]
            shuffled = shuffled[np.argsort(place, kind="stable")]
        batches = shuffled[: len(rows) // batch_size * batch_size].reshape(-1, batch_size)
        if groups is not None:
            batches = generator.permutation(batches)
        order += batches.flatten().tolist()
    return order[: batch_size * steps]
