"""Score a model on held-out pairs through MTEB, and keep the numbers of every query."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from datasets import Dataset
from sentence_transformers import SentenceTransformer

from evaluation.runs.plan import METRICS
from st_softinfonce.tasks import (
    GradedCodeRetrieval,
    evaluate_and_keep,
    graded_task_from_pairs,
    ndcg_at_10,
    reciprocal_ranks,
)

_ROUNDED = 1e-4  # mteb rounds what it reports


class Scores(NamedTuple):
    """The means by metric, the ids of the queries, and by metric one number a query, in the order of the ids."""

    means: dict[str, float]
    queries: list[str]
    values: dict[str, np.ndarray]


def make_task(pairs: Dataset, queries: int | None, name: str) -> GradedCodeRetrieval:
    """Make the task of searching all codes for the queries of the first rows; ``None`` takes those of all rows."""
    count = len(pairs) if queries is None else min(queries, len(pairs))
    rest = pairs.select(range(count, len(pairs))) if count < len(pairs) else None
    return graded_task_from_pairs(pairs.select(range(count)), f"Compare-{name}", corpus=rest)


def score(model: SentenceTransformer, task: GradedCodeRetrieval, *, batch_size: int = 128) -> Scores:
    """Score a model on a task, with so many texts encoded at a time.

    Raises:
        RuntimeError: The means over queries are not what mteb reports.
    """
    result, found = evaluate_and_keep(model, task, batch_size=batch_size, show_progress=False)
    (reported,) = result.task_results[0].scores["test"]
    (ranks,) = reciprocal_ranks(task, found).values()
    (gains,) = ndcg_at_10(task, found).values()
    queries = sorted(gains)
    numbers = np.array([(*ranks[query], gains[query]) for query in queries]).T
    values = dict(zip(METRICS, numbers, strict=True))
    means = {metric: float(numbers.mean()) for metric, numbers in values.items()}
    for metric, mean in means.items():
        if abs(mean - reported[metric]) > _ROUNDED:
            raise RuntimeError(f"{metric}: mteb reports {reported[metric]}, its queries have {mean}.")
    return Scores(means, queries, values)
