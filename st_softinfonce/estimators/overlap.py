"""Which token ids rows share, in tensors of sizes known beforehand: to read a size would wait for the device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def find_tokens(vocabulary: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Find tokens in an ascending vocabulary: their places (of the same shape), and whether they are in it."""
    place = torch.searchsorted(vocabulary, tokens).clamp(max=vocabulary.numel() - 1)
    return place, (vocabulary[place] == tokens) & (tokens >= 0)


def sum_over_shared(rows: Tensor, others: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum up what each row ``(n, length)`` int64, -1 where there is no token, shares with each of the others.

    A token of the others ``(m, length)`` counts its weight, by default 1, each time that a row has it. Returned is
    ``(n, m)`` of the weights' dtype, or float32.
    """
    # The rows' own tokens are the vocabulary. Its repeats stay in it unused: a search returns the first of equal ones.
    vocabulary = rows.flatten().sort().values  # (terms,)
    terms = vocabulary.numel()
    dtype = torch.float32 if weights is None else weights.dtype
    counts = torch.zeros(terms + 1, len(rows), dtype=dtype, device=rows.device)  # the last is for what no row has
    row = torch.arange(len(rows), device=rows.device).unsqueeze(1)
    ones = torch.ones((), dtype=dtype, device=rows.device).expand(terms)
    counts.view(-1).scatter_add_(0, (torch.searchsorted(vocabulary, rows) * len(rows) + row).flatten(), ones)
    place, known = find_tokens(vocabulary, others)
    return F.embedding_bag(place.masked_fill(~known, terms), counts, per_sample_weights=weights, mode="sum").T
