"""Paired bootstrap over queries, with seeds as blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from evaluation import UsageError


@dataclass(frozen=True)
class Interval:
    """A mean and its interval.

    Attributes:
        mean: Over seeds and queries.
        low: Lower end.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


def paired_bootstrap(
    differences: np.ndarray | Sequence[np.ndarray], *, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return the mean difference of two systems and its percentile interval.

    Queries are drawn with replacement, the same ones for all seeds, and seeds are drawn with replacement as whole
    blocks. A handful of seeds drawn so vary too little, by (S - 1) / S: their means are spread by sqrt(S / (S - 1))
    first, which leaves their own mean alone. Several languages are drawn each by itself, and count equally.

    Args:
        differences: ``(seeds, queries)`` of one language, or one such array a language.
        draws: Bootstrap samples.
        level: Of the interval.
        seed: Of the draws.

    Returns:
        The mean and its interval. With one seed it is over queries alone.

    Raises:
        UsageError: An array is empty, not two-dimensional or has values that are not finite.
    """
    blocks = [differences] if isinstance(differences, np.ndarray) else list(differences)
    if not blocks:
        raise UsageError("differences must hold at least one array (seeds, queries), got none.")
    mean, total = 0.0, np.zeros(draws)
    for number, block in enumerate(blocks):
        block = np.asarray(block, dtype=np.float64)
        if block.ndim != 2 or block.size == 0 or not np.isfinite(block).all():
            raise UsageError(f"differences must be finite numbers (seeds, queries), got the shape {block.shape}.")
        mean += block.mean() / len(blocks)
        of_seeds, of_queries = _drawn(*block.shape, draws, seed, number)
        total += ((of_seeds @ _spread(block)) * of_queries).sum(axis=1) / (block.size * len(blocks))
    low, high = np.quantile(total, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(mean), float(low), float(high))


def _spread(block: np.ndarray) -> np.ndarray:
    seeds = len(block)
    if seeds == 1:
        return block
    own = block.mean(axis=1, keepdims=True)
    return block + (own - own.mean()) * (np.sqrt(seeds / (seeds - 1)) - 1)


@lru_cache(maxsize=16)
def _drawn(seeds: int, queries: int, draws: int, seed: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw how often each seed and each query is in each sample: ``(draws, seeds)`` and ``(draws, queries)``.

    Kept, since a report asks for the same samples thousands of times, and drawing them is nearly all of its time.
    """
    generator = np.random.default_rng([seed, block])
    of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)
    of_queries = generator.multinomial(queries, np.full(queries, 1 / queries), size=draws)
    return of_seeds, of_queries
