"""Score a model on held-out pairs through MTEB, and keep the numbers of every query."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mteb
import numpy as np
from datasets import Dataset
from sentence_transformers import SentenceTransformer

from evaluation.runs.plan import METRICS
from st_softinfonce.tasks import GradedCodeRetrieval, graded_task_from_pairs, ndcg_at_10, reciprocal_ranks

# mteb rounds what it reports.
_ROUNDED = 1e-4


@dataclass(frozen=True)
class Scores:
    """What MTEB reports, and what it is the mean of.

    Attributes:
        means: By metric.
        queries: Ids.
        values: By metric, one number a query, in the order of ``queries``.
    """

    means: dict[str, float]
    queries: list[str]
    values: dict[str, np.ndarray]


def score(
    model: SentenceTransformer, pairs: Dataset, queries: int | None, language: str, *, batch_size: int = 128
) -> Scores:
    """Search all codes for the queries of the first rows.

    Args:
        model: The model.
        pairs: Held-out pairs, all of them candidates.
        queries: Rows that are queries too; ``None`` takes all.
        language: For the task's name.
        batch_size: Texts encoded at a time.

    Returns:
        The scores.
    """
    logging.getLogger("mteb").setLevel(logging.CRITICAL)  # it calls it an error to know no size of a static model
    task = _task(_Identified(pairs), queries, language)
    with warnings.catch_warnings(), _found(task) as found:
        warnings.filterwarnings("ignore", category=FutureWarning, module="mteb")  # its use of a renamed method
        result = mteb.evaluate(
            model,
            tasks=[task],
            cache=None,  # models share a name with the one that they were fine-tuned from
            encode_kwargs={"batch_size": batch_size},
            co2_tracker=False,
            show_progress_bar=False,
        )
    (reported,) = result.task_results[0].scores["test"]
    (ranks,) = reciprocal_ranks(task, found).values()
    (gains,) = ndcg_at_10(task, found).values()
    ids = sorted(gains)
    strict, duplicates = np.array([ranks[name] for name in ids]).T
    values = dict(zip(METRICS, (strict, duplicates, np.array([gains[name] for name in ids])), strict=True))
    means = {metric: float(reported[metric]) for metric in METRICS}
    for metric in METRICS:
        if abs(values[metric].mean() - means[metric]) > _ROUNDED:
            raise RuntimeError(f"{metric}: mteb reports {means[metric]}, its queries have {values[metric].mean()}.")
    # The mean of the queries: what mteb reports, before rounding.
    return Scores({metric: float(values[metric].mean()) for metric in METRICS}, ids, values)


@contextmanager
def _found(task: GradedCodeRetrieval) -> Iterator[dict[str, dict[str, Any]]]:
    """Collect what mteb finds: a prediction folder would hold the same, and take half the evaluation's time."""
    found: dict[str, dict[str, Any]] = {}
    score_task = task.task_specific_scores

    def keep(scores: Any, qrels: Any, results: Any, hf_split: str, hf_subset: str) -> dict[str, float]:
        found.setdefault(hf_subset, {})[hf_split] = results
        return score_task(scores, qrels, results, hf_split=hf_split, hf_subset=hf_subset)

    task.task_specific_scores = keep
    try:
        yield found
    finally:
        del task.task_specific_scores


class _Identified:
    """A dataset as a key of a cache, for as long as it lives."""

    def __init__(self, pairs: Dataset) -> None:
        self.pairs = pairs

    def __hash__(self) -> int:
        return hash(self.pairs._fingerprint)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identified) and self.pairs._fingerprint == other.pairs._fingerprint


@functools.lru_cache(maxsize=8)
def _task(identified: _Identified, queries: int | None, language: str) -> GradedCodeRetrieval:
    pairs = identified.pairs
    count = len(pairs) if queries is None else min(queries, len(pairs))
    rest = pairs.select(range(count, len(pairs))) if count < len(pairs) else None
    return graded_task_from_pairs(pairs.select(range(count)), f"Compare-{language}", corpus=rest)
