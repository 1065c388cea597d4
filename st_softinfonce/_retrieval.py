"""What tasks and evaluators share: the texts of pairs, their ids, and ranks. Needs no mteb."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from math import fsum

from datasets import Dataset, DatasetDict

LAST_RANK = 1000
STRICT_KEY = f"mrr_at_{LAST_RANK}_strict"
DUPLICATES_KEY = f"mrr_at_{LAST_RANK}_duplicates"


def text_id(*texts: str) -> str:
    """Hash texts to an id: the same in every run, whatever the order of the rows."""
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=16).hexdigest()


def reciprocal_rank(found: Mapping[str, float], answers: Collection[str]) -> float:
    """Return 1 / (rank of the best-ranked right answer), 0 where none is found or its rank is past 1000.

    Of the documents found, by id, equal scores rank by id, descending, as everywhere in mteb.
    """
    right = [(found[document], document) for document in answers if document in found]
    if not right:
        return 0.0
    best = max(right)
    rank = 1 + sum((score, document) > best for document, score in found.items())
    return 1 / rank if rank <= LAST_RANK else 0.0


def row_reciprocal_ranks(
    found: Mapping[str, Mapping[str, float]],
    own: Mapping[str, Collection[str]],
    right: Mapping[str, Collection[str]],
) -> dict[str, tuple[float, float]]:
    """Return the strict and the duplicates-aware reciprocal rank of every row, by row id.

    Args:
        found: Query id to document id to score; a query that is missing found nothing.
        own: Query id to the codes of its rows. A row's id is its query's if the query has one, else `QUERY/DOCUMENT`.
        right: Query id to all documents that count as right where duplicates do.
    """
    rows = {}
    for query, documents in sorted(own.items()):
        hits = found.get(query, {})
        of_any = reciprocal_rank(hits, right[query])
        for document in sorted(documents):
            row = query if len(documents) == 1 else f"{query}/{document}"
            rows[row] = (reciprocal_rank(hits, [document]), of_any)
    return rows


def mean_reciprocal_ranks(rows: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Return the means over rows under the keys that every task and evaluator reports."""
    strict, duplicates = zip(*rows.values(), strict=True)
    return {STRICT_KEY: fsum(strict) / len(rows), DUPLICATES_KEY: fsum(duplicates) / len(rows)}


def one_split(argument: str, data: object, split: str) -> Dataset:
    """Return `data`, or its `split` if it is a `DatasetDict`; a ValueError says if that is not one table with rows."""
    if isinstance(data, DatasetDict):
        if split not in data:
            raise ValueError(
                f"split={split!r} is not in {argument}, which has {list(data)}: pass one of them as split."
            )
        data = data[split]
    if not isinstance(data, Dataset):
        raise ValueError(
            f"{argument} is a {type(data).__name__}, not a datasets.Dataset: convert it, "
            "e.g. Dataset.from_list(rows), Dataset.from_pandas(frame), Dataset.from_generator(lambda: stream)."
        )
    if len(data) == 0:
        raise ValueError(f"{argument} has 0 rows: pass at least one.")
    return data


def texts(argument: str, table: Dataset, column: str) -> list[str]:
    """Return a column's texts without surrounding whitespace; a ValueError says where there is none."""
    if column not in table.column_names:
        raise ValueError(
            f"{argument} has no column {column!r}, only {table.column_names}: "
            f"rename one, e.g. {argument}.rename_column({table.column_names[0]!r}, {column!r})."
        )
    values = list(table.select_columns([column]).to_dict()[column])  # as Python objects, whatever the format
    bad = [row for row, text in enumerate(values) if not isinstance(text, str) or not text.strip()]
    if bad:
        shown = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
        raise ValueError(
            f"{argument}[{column!r}] must hold a non-empty string in every row, but {len(bad)} of {len(values)} do "
            f"not (rows {shown}; row {bad[0]} holds {values[bad[0]]!r}): repair or drop these rows."
        )
    return [str(text).strip() for text in values]


def optional_texts(table: Dataset, column: str) -> list[str]:
    """Return a column's texts without surrounding whitespace, empty where there is none."""
    if column not in table.column_names:
        return [""] * len(table)
    values = table.select_columns([column]).to_dict()[column]
    return [text.strip() if isinstance(text, str) else "" for text in values]
