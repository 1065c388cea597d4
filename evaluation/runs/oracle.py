"""An estimator that knows the answer: which training documents are relevant to a query besides its own.

No estimator can do better at finding false negatives, as far as documentation and duplicates show them. What InfoNCE
gains without the negatives that it names is the most there is to gain from finding them.
"""

from __future__ import annotations

import numpy as np
import torch
from datasets import Dataset
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sentence_transformers import SentenceTransformer

from st_softinfonce.calibration import PairTexts
from st_softinfonce.estimators import SimilarityEstimator, TextColumn, WeightingParameters
from st_softinfonce.vectors import content_keys

_CHUNK = 1024


def relevance_groups(pairs: Dataset) -> np.ndarray:
    """Number the groups of pairs that are relevant to one another.

    Args:
        pairs: Columns ``query``, ``code`` and ``duplicate_group``.

    Returns:
        ``(n,)`` int64: pairs with equal documentation, equal code or one duplicate group, directly or by a third,
        have one number.
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


class KnownRelevance(SimilarityEstimator):
    """Similarity 1 to the documents that are relevant to the query, 0 to all others.

    Args:
        pairs: The training pairs: columns ``query``, ``code`` and ``duplicate_group``.
        model: The model in training, whose tokens tell documents apart.
    """

    name = "oracle"
    weighting = WeightingParameters(alpha=1.5, beta=0.5, temperature=0.1)
    compares = "positives"

    def __init__(self, pairs: Dataset, model: SentenceTransformer) -> None:
        texts = PairTexts(pairs, model=model)
        keys = torch.cat(
            [
                content_keys(texts.column(list(range(start, min(start + _CHUNK, len(texts)))), "document").key_ids)
                for start in range(0, len(texts), _CHUNK)
            ]
        )
        self._keys, order = keys.sort(stable=True)
        self._groups = torch.from_numpy(relevance_groups(pairs)).to(keys.device)[order]

    def represent(self, column: TextColumn) -> torch.Tensor:
        """Look the documents' groups up.

        Args:
            column: ``n`` documents.

        Returns:
            ``(n, 1)`` int64; -1 for a document that is not among the pairs, which is relevant to nothing.
        """
        keys = content_keys(column.key_ids)
        place = torch.searchsorted(self._keys, keys).clamp(max=len(self._keys) - 1)
        return self._groups[place].masked_fill(self._keys[place] != keys, -1).unsqueeze(1)

    def similarity(self, queries: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Compare groups.

        Args:
            queries: ``(n, 1)``.
            candidates: ``(m, 1)``.

        Returns:
            ``(n, m)`` of 0 and 1.
        """
        return ((queries == candidates.T) & (queries >= 0)).float()
