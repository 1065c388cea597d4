"""Code search measured during training, so that the best checkpoint is the one that is kept. Needs no mteb."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from datasets import Dataset, DatasetDict
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from st_softinfonce._retrieval import (
    LAST_RANK,
    mean_reciprocal_ranks,
    one_split,
    optional_texts,
    row_reciprocal_ranks,
    text_id,
    texts,
)

_PRIMARY = f"mrr@{LAST_RANK}"
_TURNED = str.maketrans("0123456789abcdef", "fedcba9876543210")


class CodeRetrievalEvaluator(InformationRetrievalEvaluator):
    """Search a sample of pairs for the code of each query, with the metrics of the tasks, while a model is trained.

    Every call returns the host's metrics and, for a model of cosine similarity and the name `dev`,

    - `dev_mrr@1000`, whatever the model's similarity: the main score of `task_from_pairs` of the same pairs, the mean
      over distinct queries of 1 / (rank of the best-ranked right answer), 0 past rank 1000;
    - `dev_cosine_mrr_strict@1000` and `dev_cosine_mrr_duplicates@1000`, means over the distinct (query, code) pairs:
      that row's own code alone is right, or that of any pair of the same query, `corpus` included;
    - `dev_cosine_ndcg@10`, where right is right and nothing is graded.

    The first is `primary_metric`. In the trainer: `evaluator=evaluator, args=SentenceTransformerTrainingArguments(...,
    metric_for_best_model=f"eval_{evaluator.primary_metric}", load_best_model_at_end=True)`.

    Args:
        pairs: Columns `query` and `code`; others are ignored, `language` too: use one evaluator a language.
        name: Put in front of all metrics. A model of another similarity has its name in place of `cosine`.
        sample: How many rows are queries and candidates; all where there are fewer, or with None. The fewer
            candidates, the higher all scores: compare only what the same evaluator measured.
        seed: Chooses another sample.
        batch_size: For encoding.
        corpus: Further candidates, all of them: column `code`, with `query` if they have one.
        split: Which split is taken of a `DatasetDict`.

    Raises:
        ValueError: A column is missing, a text is empty or no string, or `sample` is below 1.
    """

    def __init__(
        self,
        pairs: Dataset | DatasetDict,
        *,
        name: str = "",
        sample: int | None = 1000,
        seed: int = 0,
        batch_size: int = 32,
        corpus: Dataset | DatasetDict | None = None,
        split: str = "test",
    ) -> None:
        if sample is not None and (not isinstance(sample, int) or sample < 1):
            raise ValueError(f"sample={sample!r} is not valid: pass a number of rows, at least 1, or None for all.")
        pairs = one_split("pairs", pairs, split)
        rows = list(zip(texts("pairs", pairs, "query"), texts("pairs", pairs, "code"), strict=True))
        if sample is not None and sample < len(rows):
            rows = [rows[index] for index in sorted(random.Random(seed).sample(range(len(rows)), sample))]
        further: list[tuple[str, str]] = []
        if corpus is not None:
            corpus = one_split("corpus", corpus, split)
            further = list(zip(optional_texts(corpus, "query"), texts("corpus", corpus, "code"), strict=True))

        self._own: dict[str, set[str]] = {}
        for query, code in rows:
            self._own.setdefault(text_id(query), set()).add(text_id(code))
        self._right = {query: set(documents) for query, documents in self._own.items()}
        for query, code in further:
            if text_id(query) in self._right:
                self._right[text_id(query)].add(text_id(code))
        super().__init__(
            queries={text_id(query): query for query, _ in rows},
            corpus={_turned(text_id(code)): code for _, code in rows + further},
            relevant_docs={query: set(map(_turned, documents)) for query, documents in self._own.items()},
            mrr_at_k=[LAST_RANK],
            ndcg_at_k=[10],
            accuracy_at_k=[1, 10],
            precision_recall_at_k=[1, 10],
            map_at_k=[100],
            batch_size=batch_size,
            name=name,
        )

    @property
    def primary_metric(self) -> str:
        """The key of the metric to choose checkpoints by, whatever the model's similarity, e.g. `dev_mrr@1000`."""
        return f"{self.name}_{_PRIMARY}" if self.name else _PRIMARY

    @primary_metric.setter
    def primary_metric(self, _: str | None) -> None:
        # The host would make it nDCG.
        pass

    def prefix_name_to_metrics(self, metrics: dict[str, float], name: str) -> dict[str, float]:
        """Add the metric of :attr:`primary_metric` to the host's, and put the evaluator's name in front of all."""
        (similarity,) = self.score_function_names
        metrics[_PRIMARY] = metrics[f"{similarity}_{_PRIMARY}"]
        prefixed: dict[str, float] = super().prefix_name_to_metrics(metrics, name)
        return prefixed

    def compute_metrics(self, queries_result_list: list[Any]) -> dict[str, dict[int, float]]:
        """Compute the host's metrics and the two further kinds of MRR, of each query's hits."""
        metrics: dict[str, dict[int, float]] = super().compute_metrics(queries_result_list)
        found: Mapping[str, Mapping[str, float]] = {
            query: {_turned(hit["corpus_id"]): hit["score"] for hit in hits}
            for query, hits in zip(self.queries_ids, queries_result_list, strict=True)
        }
        strict, duplicates = mean_reciprocal_ranks(row_reciprocal_ranks(found, self._own, self._right)).values()
        return metrics | {"mrr_strict@k": {LAST_RANK: strict}, "mrr_duplicates@k": {LAST_RANK: duplicates}}


def _turned(name: str) -> str:
    """An id that sorts the other way round: the host breaks ties by id upwards, mteb and the tasks downwards."""
    return name.translate(_TURNED)
