"""Per-query numbers of an evaluation, for statistics over queries."""

from __future__ import annotations

import heapq
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import datasets
import mteb
import numpy as np
import pytrec_eval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from numpy.typing import ArrayLike, NDArray
from rank_bm25 import BM25Okapi
from tqdm import tqdm

from st_softinfonce._checks import check_count
from st_softinfonce._retrieval import LAST_RANK
from st_softinfonce.estimators.words import split_words
from st_softinfonce.tasks.retrieval import CodeRetrieval

if TYPE_CHECKING:
    from mteb.results import ModelResult

Predictions = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]
RowRanks = dict[str, dict[str, tuple[float, float]]]


def reciprocal_ranks(task: CodeRetrieval, predictions: str | Path | Predictions) -> RowRanks:
    """Return the reciprocal ranks behind `mrr_at_1000_strict` and `mrr_at_1000_duplicates`, row by row.

    The mean over a subset's rows is the score that the task reports, and two models' rows have the same ids.

    Args:
        task: The task that was evaluated.
        predictions: The folder given to `mteb.evaluate(..., prediction_folder=...)` for one model, the file in it, or
            its content: subset to split to query id to document id to score.

    Returns:
        Subset of the predictions to row id to (strict, duplicates-aware) reciprocal rank, 0 past rank 1000. A row's
        id is the query's id where the query has one code of its own, else `QUERY_ID/DOCUMENT_ID`.

    Raises:
        FileNotFoundError: There are no predictions of this task; mteb writes none for a result from its cache.
        ValueError: The predictions hold no subset of the task.
    """
    return {
        subset: task.rank_rows(table, table["relevant_docs"], results)
        for subset, table, results in _evaluated(task, predictions)
    }


def evaluate_and_keep(
    model: Any, task: CodeRetrieval, *, batch_size: int = 32, show_progress: bool | None = None
) -> tuple[ModelResult, Predictions]:
    """Evaluate a model with MTEB, and keep what it finds for every query.

    MTEB's cache is left alone: it would mistake a fine-tuned model for the one that it started from.

    Args:
        model: Whatever `mteb.evaluate` takes.
        task: A task of this package.
        batch_size: Texts encoded at a time.
        show_progress: Whether to show progress bars; None shows them in a terminal only.

    Returns:
        What `mteb.evaluate` returns, and the predictions that `reciprocal_ranks` and `ndcg_at_10` read.
    """
    check_count("batch_size", batch_size)
    show = sys.stderr.isatty() if show_progress is None else show_progress
    found: dict[str, dict[str, Any]] = {}
    score = task.task_specific_scores

    def keep(scores: Any, qrels: Any, results: Any, hf_split: str, hf_subset: str) -> dict[str, float]:
        found.setdefault(hf_subset, {})[hf_split] = results
        return score(scores, qrels, results, hf_split, hf_subset)

    logger = logging.getLogger("mteb")
    level, bars = logger.level, datasets.is_progress_bar_enabled()
    vars(task)["task_specific_scores"] = keep  # a prediction folder would take half of the time
    if not show:
        datasets.disable_progress_bars()
    logger.setLevel(logging.CRITICAL)  # it calls it an error to know no size of a static model
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="mteb")  # its use of a renamed method
            options: Any = {"batch_size": batch_size, "show_progress_bar": show}
            result = mteb.evaluate(
                model, tasks=[task], cache=None, co2_tracker=False, encode_kwargs=options, show_progress_bar=show
            )
    finally:
        logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()
        del vars(task)["task_specific_scores"]
    return result, found


def evaluate_rows(
    model: Any, task: CodeRetrieval, *, batch_size: int = 32, show_progress: bool | None = None
) -> tuple[ModelResult, RowRanks]:
    """Evaluate a model with MTEB, and keep the reciprocal rank of every row.

    Arguments are those of `evaluate_and_keep`. Returned is what `mteb.evaluate` and `reciprocal_ranks` return.
    """
    result, found = evaluate_and_keep(model, task, batch_size=batch_size, show_progress=show_progress)
    return result, reciprocal_ranks(task, found)


def bm25_rows(task: CodeRetrieval) -> RowRanks:
    """Search with BM25 over words instead of a model: what any model should beat.

    Words are split at `snake_case`, `camelCase` and digits, and lower-cased; the rest is `rank_bm25.BM25Okapi`.
    The result is that of `reciprocal_ranks`.
    """
    (split,) = task.metadata.eval_splits
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for subset in task.metadata.hf_subsets:
        table = task.table(subset, split)
        # An empty text has no words, and a corpus of those no length to divide by.
        matrix = BM25Okapi([split_words(text) or [""] for text in table["corpus"]["text"]])
        ids = table["corpus"]["id"][:]
        found[subset] = {split: {}}
        queries = dict(zip(table["queries"]["id"], table["queries"]["text"], strict=True))
        for query, text in tqdm(queries.items(), desc="Searching by BM25", disable=None):
            scores = matrix.get_scores(split_words(text)).tolist()
            best = heapq.nlargest(LAST_RANK, zip(scores, ids, strict=True))  # all would not fit in memory
            found[subset][split][query] = {document: score for score, document in best}
    return reciprocal_ranks(task, found)


class Interval(NamedTuple):
    """A mean and the ends of its interval."""

    mean: float
    low: float
    high: float


def mean_interval(
    values: ArrayLike | list[NDArray[np.float64]], *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """Return the mean of per-query numbers, or of their differences between two systems, and its bootstrap interval.

    Queries are drawn with replacement, the same ones for all seeds, and seeds as whole blocks. So few seeds vary too
    little when they are drawn, by (S - 1) / S: their means are spread by sqrt(S / (S - 1)) first. Several languages
    are drawn each by itself, and count equally. With one seed the interval is over queries alone.

    Args:
        values: `(queries,)`, or `(seeds, queries)` of several trainings, or a list of such arrays, one a language.
        level: Of the interval, between 0 and 1.
        draws: Bootstrap samples, at least 1.
        seed: Of the draws.

    Raises:
        ValueError: There are no values, or not all are finite; an option is out of range.

    Example:
        >>> mean_interval([0.5, 0.5, 0.5])
        Interval(mean=0.5, low=0.5, high=0.5)
    """
    check_count("draws", draws)
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level!r}: give e.g. 0.95.")
    blocks = values if isinstance(values, list) and values and np.ndim(values[0]) == 2 else [values]
    mean, means = 0.0, np.zeros(draws)
    for number, table in enumerate(blocks):
        block = np.atleast_2d(np.asarray(table, dtype=np.float64))
        if block.ndim > 2 or block.size == 0 or not np.isfinite(block).all():
            raise ValueError(f"values must be finite numbers (queries,) or (seeds, queries), got shape {block.shape}.")
        of_seeds, of_queries = _drawn(*block.shape, draws, seed, number)
        mean += float(block.mean()) / len(blocks)
        if len(block) > 1:
            own = block.mean(axis=1, keepdims=True)
            block = block + (own - own.mean()) * (np.sqrt(len(block) / (len(block) - 1)) - 1)
        means += ((of_seeds @ block) * of_queries).sum(axis=1) / (block.size * len(blocks))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high))


@lru_cache(maxsize=8)
def _drawn(seeds: int, queries: int, draws: int, seed: int, block: int) -> tuple[NDArray[np.int64], NDArray[np.int16]]:
    """Draw how often each seed and each query is in each sample: `(draws, seeds)` and `(draws, queries)`.

    Kept, since tables of many systems ask for the same samples, and drawing them takes nearly all of the time.
    """
    generator = np.random.default_rng([seed, block])
    of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)
    of_queries = generator.multinomial(queries, np.full(queries, 1 / queries), size=draws)
    return of_seeds, of_queries.astype(np.int16)


def ndcg_at_10(task: CodeRetrieval, predictions: str | Path | Predictions) -> dict[str, dict[str, float]]:
    """Return the nDCG@10 of every query, whose mean mteb reports, rounded, as `ndcg_at_10`.

    Gains are the grades themselves, discounts are log2(rank + 1), as trec_eval computes them. Arguments are
    those of `reciprocal_ranks`; returned are subset to query id to nDCG@10.

    Raises:
        FileNotFoundError: As `reciprocal_ranks`, like its ValueError.
    """
    scores = {}
    for subset, table, results in _evaluated(task, predictions):
        evaluator = pytrec_eval.RelevanceEvaluator(table["relevant_docs"], {"ndcg_cut.10"})
        found = evaluator.evaluate({query: dict(hits) for query, hits in results.items()})
        # A query that found nothing is missing there.
        scores[subset] = {
            query: float(found[query]["ndcg_cut_10"]) if query in found else 0.0
            for query in sorted(table["relevant_docs"])
        }
    return scores


def _evaluated(
    task: CodeRetrieval, predictions: str | Path | Predictions
) -> Iterator[tuple[str, RetrievalSplitData, Mapping[str, Mapping[str, float]]]]:
    (split,) = task.metadata.eval_splits
    found = predictions if isinstance(predictions, Mapping) else _read(task, Path(predictions))
    subsets = [subset for subset in task.metadata.hf_subsets if split in found.get(subset, {})]
    if not subsets:
        raise ValueError(
            f"predictions hold no subset of {task.metadata.name} with split {split!r}, only {sorted(found)}: "
            "pass those of this task."
        )
    for subset in subsets:
        yield subset, task.table(subset, split), found[subset][split]


def _read(task: CodeRetrieval, path: Path) -> dict[str, Any]:
    file = path / task.prediction_file_name if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(
            f"predictions={str(path)!r} holds no file {task.prediction_file_name}: evaluate this task with "
            "mteb.evaluate(..., prediction_folder=...), and with cache=None or overwrite_strategy='always', "
            "because nothing is predicted where a result is cached."
        )
    with file.open(encoding="utf-8") as stream:
        content = json.load(stream)
    return {key: value for key, value in content.items() if key != "mteb_model_meta"}
