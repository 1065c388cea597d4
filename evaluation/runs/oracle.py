"""Estimators that know the answer: which training documents are relevant to a query besides its own.

``oracle`` knows what documentation, equal code and duplicates show. No estimator can find false negatives better, so
its gain over InfoNCE is the most that finding them can bring. ``duplicates`` knows the duplicate groups of mining
alone, as any user can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from datasets import Dataset
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sentence_transformers import SentenceTransformer

from st_softinfonce import KnownRelevanceEstimator


def relevance_groups(pairs: Dataset) -> np.ndarray:
    """Number the groups of pairs that are relevant to one another: ``(n,)`` int64.

    Pairs are in one group that have equal documentation, equal code or one duplicate group, directly or by a third.
    """
    numbers: dict[tuple[str, object], int] = {}
    rows, keys = [], []
    for column in ("query", "code", "duplicate_group"):
        for row, value in enumerate(pairs[column]):
            rows.append(row)
            keys.append(numbers.setdefault((column, value), len(numbers)))
    size = len(pairs) + len(numbers)
    edges = coo_array((np.ones(len(rows)), (rows, np.array(keys) + len(pairs))), shape=(size, size))
    return connected_components(edges, directed=False)[1][: len(pairs)].astype(np.int64)


def known_relevance(name: str, pairs: Dataset, model: SentenceTransformer) -> KnownRelevanceEstimator:
    """Make the estimator ``name`` of :data:`KNOWN`: similarity 1 to documents of the positive's group, 0 to others.

    The model in training reads the documents: they are told apart by its tokens.
    """
    return KnownRelevanceEstimator(dict(zip(pairs["code"], KNOWN[name](pairs), strict=True)), model)


KNOWN: dict[str, Callable[[Dataset], Sequence[int]]] = {
    "oracle": lambda pairs: relevance_groups(pairs).tolist(),
    "duplicates": lambda pairs: pairs["duplicate_group"],
}
