"""Cross-encoders (rerankers) as estimators, affordable because they see only each query's likely candidates."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from torch import Tensor, nn
from typing_extensions import override

from st_softinfonce._checks import check_count
from st_softinfonce.estimators.base import Compares, SimilarityEstimator
from st_softinfonce.estimators.pairwise import PairwiseEstimator
from st_softinfonce.estimators.teacher import describe_teacher, freeze_teacher, load_teacher
from st_softinfonce.treatments import Soften


class CrossEncoderEstimator(PairwiseEstimator):
    """How relevant a frozen cross-encoder finds each query's most similar candidates, those of a cheap estimator.

    Scores are ``sigmoid(logit)``, whatever activation the model was saved with. Logits have another scale in every
    model (a spread of 20 and more after ranking losses, of 2 after regression), so that no one temperature would suit
    them; probabilities share theirs, and have a bottom: what was not scored counts as 0, so that a query whose
    candidates are all irrelevant keeps weights near 1. The price is that two very relevant candidates are not told
    apart, which a weight has no use for.

    The model is frozen and in evaluation mode, and a plain attribute: the trainer does not train or save it. It reads
    the texts as the model in training does, query first. :class:`PairwiseEstimator` says which pairs are scored.

    Args:
        model: The cross-encoder: a name, a path, or an instance. It must give a pair one score.
        batch_size: At least 1. Pairs scored at a time.
        compares: What is judged; ``"documents"`` for rerankers, ``"queries"`` for detectors of duplicate questions.
        candidates_per_query: As for :class:`PairwiseEstimator`, like the next two.
        shortlist: Likewise.
        scores_kept: Likewise.
        **model_options: For ``CrossEncoder``, when ``model`` is a name or a path.

    Raises:
        ValueError: An option is out of range, or the model gives several labels.
        TypeError: ``model`` is something else.
    """

    name = "cross-encoder"
    treatment = Soften(alpha=1.5, beta=0.5, temperature=0.1)
    not_scored = 0.0

    def __init__(
        self,
        model: str | os.PathLike[str] | CrossEncoder,
        *,
        batch_size: int = 32,
        compares: Compares = "documents",
        candidates_per_query: int = 8,
        shortlist: str | SimilarityEstimator | None = None,
        scores_kept: int = 100_000,
        **model_options: Any,
    ) -> None:
        super().__init__(
            compares=compares, candidates_per_query=candidates_per_query, shortlist=shortlist, scores_kept=scores_kept
        )
        check_count("batch_size", batch_size)
        self.encoder = load_teacher(model, CrossEncoder, model_options)
        if self.encoder.num_labels != 1:
            raise ValueError(
                f"model must give a pair one score, got a head of {self.encoder.num_labels} labels, and nothing "
                "says which one means 'relevant'. Take a reranker (num_labels=1), not a classifier."
            )
        self.batch_size = batch_size
        self._teacher = describe_teacher(model, self.encoder)

    @override
    def attach(self, model: nn.Module) -> None:
        super().attach(model)
        freeze_teacher(self.encoder, model, self.name)

    @override
    def score(self, queries: Sequence[str], candidates: Sequence[str]) -> Tensor:
        # The trainer's autocast is for the model in training: a teacher's scores do not depend on it.
        with torch.autocast(self.encoder.device.type, enabled=False):
            scores: Tensor = self.encoder.predict(
                list(zip(queries, candidates, strict=True)),
                batch_size=self.batch_size,
                activation_fn=nn.Sigmoid(),
                show_progress_bar=False,
                convert_to_tensor=True,
            )
        return scores

    @override
    def get_config_dict(self) -> dict[str, Any]:
        return self._teacher | super().get_config_dict()
