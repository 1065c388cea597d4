"""Per-query numbers of an evaluation, for statistics over queries."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytrec_eval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData

from st_softinfonce.tasks.retrieval import CodeRetrieval

Predictions = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]


def reciprocal_ranks(
    task: CodeRetrieval, predictions: str | Path | Predictions, *, split: str | None = None
) -> dict[str, dict[str, tuple[float, float]]]:
    """Return the reciprocal ranks behind `mrr_at_1000_strict` and `mrr_at_1000_duplicates`, row by row.

    The mean over a subset's rows is the score that the task reports, and two models' rows have the same ids, as a
    paired test needs.

    Args:
        task: The task that was evaluated.
        predictions: The folder given to `mteb.evaluate(..., prediction_folder=...)` for one model, the file in it, or
            its content: subset to split to query id to document id to score.
        split: Needed only where the task has several.

    Returns:
        Subset of the predictions to row id to (strict, duplicates-aware) reciprocal rank, 0 past rank 1000. A row's
        id is the query's id where the query has one code of its own, else `QUERY_ID/DOCUMENT_ID`.

    Raises:
        FileNotFoundError: There are no predictions of this task; mteb writes none for a result from its cache.
        ValueError: `split` is needed or unknown, or the predictions hold no subset of the task.
    """
    return {
        subset: task.rank_rows(table, table["relevant_docs"], results)
        for subset, table, results in _evaluated(task, predictions, split)
    }


def ndcg_at_10(
    task: CodeRetrieval, predictions: str | Path | Predictions, *, split: str | None = None
) -> dict[str, dict[str, float]]:
    """Return the nDCG@10 of every query, whose mean mteb reports, rounded, as `ndcg_at_10`.

    Gains are the grades themselves, discounts are log2(rank + 1), as trec_eval computes them. Arguments and errors are
    those of `reciprocal_ranks`.

    Returns:
        Subset to query id to nDCG@10.
    """
    scores = {}
    for subset, table, results in _evaluated(task, predictions, split):
        evaluator = pytrec_eval.RelevanceEvaluator(table["relevant_docs"], {"ndcg_cut.10"})
        found = evaluator.evaluate({query: dict(hits) for query, hits in results.items()})
        # A query that found nothing is missing there.
        scores[subset] = {
            query: float(found[query]["ndcg_cut_10"]) if query in found else 0.0
            for query in sorted(table["relevant_docs"])
        }
    return scores


def _evaluated(
    task: CodeRetrieval, predictions: str | Path | Predictions, split: str | None
) -> Iterator[tuple[str, RetrievalSplitData, Mapping[str, Mapping[str, float]]]]:
    splits = list(task.metadata.eval_splits)
    if split is None and len(splits) == 1:
        split = splits[0]
    if split not in splits:
        raise ValueError(f"split={split!r} is not a split of {task.metadata.name}: pass one of {splits}.")
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
