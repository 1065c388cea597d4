"""Soft-InfoNCE, at once or with cached gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from sentence_transformers.util import cos_sim, dot_score
from torch import Tensor, nn
from typing_extensions import Self

from st_softinfonce.estimators.base import SimilarityEstimator
from st_softinfonce.functional import check_positive, check_weighting, negative_weights, soft_info_nce
from st_softinfonce.losses.cached import GradientCachedMixin
from st_softinfonce.losses.in_batch import Batch, InBatchLoss

Direction = Literal["query_to_doc", "doc_to_query"]
PartitionMode = Literal["joint", "per_direction"]
DIRECTIONS: tuple[tuple[Direction, ...], ...] = (("query_to_doc",), ("query_to_doc", "doc_to_query"))
PARTITION_MODES: tuple[PartitionMode, ...] = ("joint", "per_direction")


class SoftInfoNCELoss(InBatchLoss):
    """InfoNCE whose in-batch negatives are weighted by how unlikely they are to be relevant.

    For a batch of (query, positive) pairs or (query, positive, negative_1, ..., negative_n) tuples (Li et al. 2023,
    Eq. 3), with ``s = scale * similarity_fct(query, document)``::

        -mean_i log( exp(s[i, i]) / (exp(s[i, i]) + sum_{j != i} w[i, j] exp(s[i, j])) )

    The weights ``w`` come from an estimator's similarities (:func:`~st_softinfonce.functional.negative_weights`,
    Eq. 4). With ``alpha=0`` this is ``MultipleNegativesRankingLoss``. Explicit negatives are candidates of every
    query; an estimator that compares queries leaves them at weight 1, one that compares documents weighs them too.

    Args:
        model: The model to train, a ``SentenceTransformer``.
        estimator: An installed estimator's name (``list_estimators()``), or an instance with its own options.
        alpha: At least 0. Strength of the weighting; ``None`` takes the estimator's.
        beta: Above 0; ``None`` takes the estimator's.
        weight_temperature: Above 0, in units of the estimator's similarity; ``None`` takes the estimator's.
        min_weight: In (0, 1]. Floor of a negative's weight.
        scale: Above 0. Multiplies the model's similarity; the inverse of the softmax temperature.
        similarity_fct: ``(queries (B, D), documents (C, D)) -> (B, C)``.
        directions: With ``"doc_to_query"`` each positive also has to find its query among the batch's. Its weights
            are the transposed similarity: exact for an estimator that compares documents or is symmetric, an
            approximation for BM25 between queries, whose score of i for j is not that of j for i.
        partition_mode: Whether two directions share one softmax, or have one each and are averaged.
        gather_across_devices: Take the documents of all devices as candidates.

    Raises:
        ValueError: An option is out of range, the estimator is unknown or breaks its contract, or (at the first
            batch) the dataset has fewer than two columns or the estimator returns nan.

    Example:
        >>> from sentence_transformers import SentenceTransformer
        >>> from sentence_transformers.sentence_transformer.modules import StaticEmbedding
        >>> from tokenizers import Tokenizer, models
        >>> words = StaticEmbedding(Tokenizer(models.WordLevel({"sort": 0, "list": 1})), embedding_dim=4)
        >>> loss = SoftInfoNCELoss(SentenceTransformer(modules=[words]), estimator="bm25")
        >>> loss.alpha, loss.beta, loss.weight_temperature
        (1.5, 0.5, 1.0)
    """

    def __init__(
        self,
        model: nn.Module,
        estimator: str | SimilarityEstimator = "bm25",
        *,
        alpha: float | None = None,
        beta: float | None = None,
        weight_temperature: float | None = None,
        min_weight: float = 0.1,
        scale: float = 20.0,
        similarity_fct: Callable[..., Tensor] = cos_sim,
        directions: Sequence[Direction] = ("query_to_doc",),
        partition_mode: PartitionMode = "joint",
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__(
            model,
            estimator,
            scale=scale,
            similarity_fct=similarity_fct,
            gather_across_devices=gather_across_devices,
        )
        weighting = self.estimator.weighting
        self.alpha = weighting.alpha if alpha is None else alpha
        self.beta = weighting.beta if beta is None else beta
        self.weight_temperature = weighting.temperature if weight_temperature is None else weight_temperature
        self.min_weight = min_weight
        check_weighting(alpha=self.alpha, beta=self.beta, temperature=1.0, min_weight=min_weight)
        check_positive("weight_temperature", self.weight_temperature)
        if tuple(directions) not in DIRECTIONS:
            raise ValueError(f"directions must be one of {DIRECTIONS}, got {directions!r}.")
        if partition_mode not in PARTITION_MODES:
            raise ValueError(f"partition_mode must be one of {PARTITION_MODES}, got {partition_mode!r}.")
        self.directions = tuple(directions)
        self.partition_mode = partition_mode

    @classmethod
    def paper(cls, model: nn.Module, estimator: str | SimilarityEstimator = "bm25", **options: Any) -> Self:
        """Make the loss with the paper's scores: dot products at scale 1.

        Args:
            model: The model to train; its vectors should not be normalised.
            estimator: As for the class.
            **options: Further options of the class.

        Returns:
            The loss.
        """
        return cls(model, estimator, **{"similarity_fct": dot_score, "scale": 1.0, **options})

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings for the model card, as JSON primitives.

        Returns:
            Names and values.
        """
        return super().get_config_dict() | {
            "alpha": self.alpha,
            "beta": self.beta,
            "weight_temperature": self.weight_temperature,
            "min_weight": self.min_weight,
            "directions": list(self.directions),
            "partition_mode": self.partition_mode,
        }

    def _needs_estimator(self) -> bool:
        return self.alpha != 0

    def _rows_loss(self, batch: Batch, rows: Tensor) -> Tensor:
        scores = self._scores(batch, rows)  # (rows, M)
        weights = transposed_weights = None
        if batch.compared is not None:
            weights = self._weights(batch.compared.similarity(rows), rows)
            explicit_negatives = scores.size(1) - weights.size(1)  # compared by no query of their own: weight 1
            weights = torch.cat([weights, weights.new_ones(len(rows), explicit_negatives)], dim=1)
        if "doc_to_query" not in self.directions:
            return soft_info_nce(scores, weights, positives=rows)

        # The positives are the first documents, so row i of the transposed block has its query in column i.
        transposed = self._transposed_scores(batch, rows)  # (rows, N)
        if batch.compared is not None:
            transposed_weights = self._weights(batch.compared.transposed(rows), rows)
        if self.partition_mode == "per_direction":
            one_way = soft_info_nce(scores, weights, positives=rows)
            return (one_way + soft_info_nce(transposed, transposed_weights, positives=rows)) / 2
        if weights is not None and transposed_weights is not None:
            weights = torch.cat([weights, transposed_weights], dim=1)
        return soft_info_nce(torch.cat([scores, transposed], dim=1), weights, positives=rows)

    def _weights(self, similarity: Tensor, rows: Tensor) -> Tensor:
        return negative_weights(
            similarity,
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.weight_temperature,
            min_weight=self.min_weight,
            positives=rows,
        )


class CachedSoftInfoNCELoss(GradientCachedMixin, SoftInfoNCELoss):
    """:class:`SoftInfoNCELoss` with cached gradients, for batches larger than the memory allows.

    The same loss and gradients for the memory of ``mini_batch_size`` texts, at the price of embedding every text
    twice (GradCache, Gao et al. 2021). Scores and weights are made ``mini_batch_size`` rows at a time.

    Args:
        model: The model to train; not one of StaticEmbedding, which has no mini-batches.
        estimator: As for :class:`SoftInfoNCELoss`.
        mini_batch_size: At least 1. Texts embedded, and rows scored, at a time.
        mini_batch_num_tokens: At least 1, in tokens; embed as many texts at a time as stay below it, instead of
            ``mini_batch_size``. Rows are scored ``mini_batch_size`` at a time all the same.
        show_progress_bar: Show the progress within each batch.
        **options: The other options of :class:`SoftInfoNCELoss`.

    Raises:
        ValueError: As :class:`SoftInfoNCELoss`, or the model embeds with a StaticEmbedding.
    """

    def __init__(
        self,
        model: nn.Module,
        estimator: str | SimilarityEstimator = "bm25",
        *,
        mini_batch_size: int = 32,
        mini_batch_num_tokens: int | None = None,
        show_progress_bar: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(model, estimator, **options)
        self._set_mini_batches(mini_batch_size, mini_batch_num_tokens, show_progress_bar)
