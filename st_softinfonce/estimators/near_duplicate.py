"""Near-duplicates: how large a share of their runs of tokens do two texts have in common?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from st_softinfonce._checks import check_choice, check_count
from st_softinfonce.estimators.base import COMPARES_TEXTS, Compares, SimilarityEstimator
from st_softinfonce.estimators.overlap import sum_over_shared
from st_softinfonce.estimators.text_column import TextColumn
from st_softinfonce.treatments import Mask
from st_softinfonce.vectors import content_keys

# Rows compared at a time: it bounds the memory to this many times the number of their shingles.
_ROWS_AT_A_TIME = 64
_SIZES: dict[Compares, int] = {"queries": 3, "documents": 3, "positives": 5}


class NearDuplicateEstimator(SimilarityEstimator):
    """Jaccard similarity of two texts' token shingles: 1 for a copy, near 0 for texts that merely share words.

    With ``S(x)`` the set of runs of ``size`` successive content tokens of a text (the whole text, if it is shorter)::

        similarity = |S(x) & S(y)| / |S(x) | S(y)|      0 if there is an empty text

    By default each candidate is compared with the query's own positive: the code clones that every corpus is full of
    are false negatives that need no embedding to be found. Where a batch holds none, similarities are near 0 and
    weights near 1. Shingles are 63-bit hashes; sets and counts are exact otherwise. Texts longer than the model in
    training reads are compared by what it reads.

    Args:
        size: At least 1. Tokens a shingle; 1 compares vocabularies, and the larger the closer a copy must be. By
            default 5 between documents, as corpora of code are deduplicated (StarCoder, Li et al. 2023), and 3 where
            queries are involved, which are short.
        compares: ``"positives"`` finds copies of the positive document, explicit hard negatives among them;
            ``"queries"`` finds copies of the query; ``"documents"`` texts that quote the query.

    Raises:
        ValueError: An option is out of range.

    Example:
        >>> ids = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 9], [1, 2, 3, 4]])
        >>> shingles = NearDuplicateEstimator(size=2).represent(TextColumn({"input_ids": ids}))
        >>> NearDuplicateEstimator(size=2).similarity(shingles, shingles)[0].tolist()
        [1.0, 0.5, 0.0]
    """

    name = "near-duplicate"
    treatment = Mask(above=0.5)
    padding = -1
    often_equal = True

    def __init__(self, *, size: int | None = None, compares: Compares = "positives") -> None:
        check_choice("compares", compares, COMPARES_TEXTS)
        check_count("size", size, optional=True)
        self.compares = compares
        self.size = _SIZES[compares] if size is None else size

    @override
    def represent(self, column: TextColumn) -> Tensor:
        """Hash the shingles of each text: ``(n, length)`` int64, each once a row, -1 where there is none."""
        ids = column.content_ids
        content = ids >= 0
        # Content moves to the front, so that padding, prompts and special tokens do not tell two texts apart.
        ids = ids.gather(1, content.to(torch.int8).argsort(dim=1, descending=True, stable=True))
        windows = F.pad(ids, (0, self.size - 1), value=-1).unfold(1, self.size, 1)  # (n, length, size)
        hashes = content_keys(windows.flatten(0, 1)).view(ids.shape) & torch.iinfo(torch.int64).max
        count = content.sum(dim=1, keepdim=True)
        start = torch.arange(ids.size(1), device=ids.device)
        exists = (start < (count - self.size + 1).clamp(min=1)) & (start < count)
        ordered = hashes.masked_fill(~exists, -1).sort(dim=1).values
        repeated = F.pad(ordered[:, 1:] == ordered[:, :-1], (1, 0))
        return ordered.masked_fill(repeated, -1)

    @override
    def similarity(self, queries: Tensor, candidates: Tensor) -> Tensor:
        sizes = (candidates >= 0).sum(dim=1)  # (m,)
        parts = []
        for rows in torch.split(queries, _ROWS_AT_A_TIME):
            shared = sum_over_shared(rows, candidates)  # (rows, m)
            union = (rows >= 0).sum(dim=1, keepdim=True) + sizes - shared
            parts.append(shared / union.clamp(min=1))
        return torch.cat(parts)
