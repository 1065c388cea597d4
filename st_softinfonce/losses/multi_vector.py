"""Soft-InfoNCE for multi-vector (late-interaction) models: only the score matrix differs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers.multi_vector_encoder import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder.scoring import colbert_scores
from sentence_transformers.util import all_gather_padded
from torch import Tensor
from typing_extensions import override

from st_softinfonce import _host
from st_softinfonce._checks import check_count
from st_softinfonce.estimators.base import SimilarityEstimator
from st_softinfonce.losses.base import Batch
from st_softinfonce.losses.judgement import Direction, OneOrSeveral
from st_softinfonce.losses.soft_info_nce import SoftInfoNCELoss


class MultiVectorSoftInfoNCELoss(SoftInfoNCELoss):
    """:class:`SoftInfoNCELoss` over late-interaction scores, for the host's ``MultiVectorEncoder``.

    With ``estimator=None`` it equals ``MultiVectorMultipleNegativesRankingLoss``.

    Args:
        model: A ``MultiVectorEncoder`` (ColBERT-style).
        estimator: As for :class:`SoftInfoNCELoss`.
        treatment: As for :class:`SoftInfoNCELoss`.
        scale: Above 0. Multiplies the scores.
        similarity_fct: ``colbert_scores`` or another of the host's scoring functions.
        mini_batch_size: At least 1, or ``None``. Documents embedded at a time.
        score_mini_batch_size: At least 1, or ``None``. Queries scored at a time, which bounds the memory of scoring.
        **options: The other options of :class:`SoftInfoNCELoss`. Mind the scale of 1 with ``hardness_strength``.

    Raises:
        ValueError: As :class:`SoftInfoNCELoss`, or ``directions`` or ``partition_mode`` are given: these scores
            have one direction.
        TypeError: As :class:`SoftInfoNCELoss`.
    """

    def __init__(
        self,
        model: MultiVectorEncoder,
        estimator: str | SimilarityEstimator | None = "bm25",
        treatment: OneOrSeveral | None = None,
        *,
        scale: float = 1.0,
        similarity_fct: Callable[..., Tensor] = colbert_scores,
        mini_batch_size: int | None = None,
        score_mini_batch_size: int | None = None,
        **options: Any,
    ) -> None:
        for name in {"directions", "partition_mode"} & set(options):
            raise ValueError(
                f"{name} cannot be set, got {options[name]!r}: multi-vector scores go from query to document only. "
                "Leave it out."
            )
        check_count("mini_batch_size", mini_batch_size, optional=True)
        check_count("score_mini_batch_size", score_mini_batch_size, optional=True)
        super().__init__(model, estimator, treatment, scale=scale, similarity_fct=similarity_fct, **options)
        self.mini_batch_size = mini_batch_size
        self.score_mini_batch_size = score_mini_batch_size

    @override
    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        columns_of_features = list(sentence_features)
        asked = self.ask(columns_of_features, labels)
        # Copies: the scoring mask is written into the features.
        features = [dict(column) for column in columns_of_features]
        self.keep_asked(columns_of_features, asked)
        queries, query_masks = _host.embed_columns_padded(self.model, features[:1], None, task_default="query")
        documents, document_masks = _host.embed_columns_padded(
            self.model, features[1:], self.mini_batch_size, task_default="document"
        )
        columns = list(zip(queries + documents, query_masks + document_masks, strict=True))
        rows = self._own_rows(queries[0])
        if self.gather_across_devices:
            columns = [all_gather_padded(embeddings, mask, with_grad=True) for embeddings, mask in columns]
        texts, mask = _host.cat_padded_token_embeddings(*map(list, zip(*columns[1:], strict=True)))
        judgements = self._judgements(asked, columns[0][0], texts)
        batch = _MultiVectorBatch(columns[0][0], texts, rows, judgements, columns[0][1], mask)
        losses = [
            self.rows_loss(batch, part) * (len(part) / len(rows))
            for part in torch.split(rows, self.score_mini_batch_size or len(rows))
        ]
        return torch.stack(losses).sum()

    @override
    def get_config_dict(self) -> dict[str, Any]:
        return super().get_config_dict() | {
            "mini_batch_size": self.mini_batch_size,
            "score_mini_batch_size": self.score_mini_batch_size,
        }

    def _similarity(self, batch: Batch, rows: Tensor, direction: Direction) -> Tensor:
        if not isinstance(batch, _MultiVectorBatch):
            raise TypeError(
                f"{type(self).__name__} scores token embeddings with their masks, got {type(batch).__name__}: call "
                "the loss itself with the features."
            )
        return self.similarity_fct(
            batch.queries[rows],
            batch.documents.unsqueeze(1),  # groups of one document each, in the order of the columns
            queries_mask=batch.query_mask[rows],
            documents_mask=batch.document_mask.unsqueeze(1),
        )


@dataclass(frozen=True)
class _MultiVectorBatch(Batch):
    """Token embeddings ``(N, T, D)`` and ``(M, T, D)`` with their masks of what is scored."""

    query_mask: Tensor
    document_mask: Tensor
