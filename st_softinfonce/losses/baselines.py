"""The losses that the Soft-InfoNCE paper compares with, over the same estimators: baselines, not recommendations."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

from torch import Tensor, nn

from st_softinfonce.estimators.base import SimilarityEstimator
from st_softinfonce.functional import (
    bce,
    cancelled_info_nce,
    check_cancellation,
    check_not_negative,
    check_positive,
    kl_regularized_info_nce,
    weighted_info_nce,
)
from st_softinfonce.losses.in_batch import Batch, InBatchLoss


class _SimilarityLoss(InBatchLoss):
    """A loss of the scores and the estimator's similarities themselves.

    An explicit negative that an estimator of queries knows nothing of counts as never relevant.
    """

    def _rows_loss(self, batch: Batch, rows: Tensor) -> Tensor:
        scores = self._scores(batch, rows)  # (rows, M)
        assert batch.compared is not None  # these losses always need their estimator
        similarity = batch.compared.similarity(rows)
        similarity = batch.compared.spread(similarity, scores.size(1), -math.inf)
        return self._objective(scores, similarity, rows)

    @abstractmethod
    def _objective(self, scores: Tensor, similarity: Tensor, positives: Tensor) -> Tensor:
        """Compute the mean loss of some rows; both matrices are ``(rows, M)``."""


class _SoftLabelLoss(_SimilarityLoss):
    def __init__(
        self,
        model: nn.Module,
        estimator: str | SimilarityEstimator = "bm25",
        *,
        weight_temperature: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, estimator, **options)
        default = self.estimator.weighting.temperature
        self.weight_temperature = default if weight_temperature is None else weight_temperature
        check_positive("weight_temperature", self.weight_temperature)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings for the model card, as JSON primitives.

        Returns:
            Names and values.
        """
        return super().get_config_dict() | {"weight_temperature": self.weight_temperature}


class InBatchBCELoss(_SoftLabelLoss):
    """Binary cross-entropy of the batch's softmax against soft labels (:func:`st_softinfonce.functional.bce`).

    A baseline: the paper finds it below plain InfoNCE for two of three models (mean MRR over six languages .641 /
    .679 / .686 for CodeBERT / GraphCodeBERT / UniXcoder, Soft-InfoNCE .687 / .722 / .751; its Table 2).

    Args:
        model: The model to train.
        estimator: An installed estimator's name, or an estimator.
        weight_temperature: Above 0, in units of the estimator's similarity; ``None`` takes the estimator's.
        **options: ``scale``, ``similarity_fct`` and ``gather_across_devices`` as for ``SoftInfoNCELoss``.

    Raises:
        ValueError: An option is out of range, or the estimator is unknown or breaks its contract.
    """

    def _objective(self, scores: Tensor, similarity: Tensor, positives: Tensor) -> Tensor:
        return bce(scores, similarity, temperature=self.weight_temperature, positives=positives)


class WeightedInfoNCELoss(_SoftLabelLoss):
    """InfoNCE with similar negatives as weighted positives (:func:`st_softinfonce.functional.weighted_info_nce`).

    A baseline: the paper finds it below Soft-InfoNCE for every model (mean MRR over six languages .639 / .674 / .714
    for CodeBERT / GraphCodeBERT / UniXcoder, Soft-InfoNCE .687 / .722 / .751; its Table 2).

    Args:
        model: The model to train.
        estimator: An installed estimator's name, or an estimator.
        weight_temperature: Above 0, in units of the estimator's similarity; ``None`` takes the estimator's.
        **options: ``scale``, ``similarity_fct`` and ``gather_across_devices`` as for ``SoftInfoNCELoss``.

    Raises:
        ValueError: An option is out of range, or the estimator is unknown or breaks its contract.
    """

    def _objective(self, scores: Tensor, similarity: Tensor, positives: Tensor) -> Tensor:
        return weighted_info_nce(scores, similarity, temperature=self.weight_temperature, positives=positives)


class KLRegularizedInfoNCELoss(_SoftLabelLoss):
    """InfoNCE and a pull towards the estimator (:func:`st_softinfonce.functional.kl_regularized_info_nce`).

    A baseline: the paper finds it between the others and Soft-InfoNCE (mean MRR over six languages .648 / .688 /
    .716 for CodeBERT / GraphCodeBERT / UniXcoder, Soft-InfoNCE .687 / .722 / .751; its Table 2).

    Args:
        model: The model to train.
        estimator: An installed estimator's name, or an estimator.
        info_nce_weight: At least 0. Weight of the InfoNCE term.
        kl_weight: At least 0. Weight of the KL term.
        weight_temperature: Above 0, in units of the estimator's similarity; ``None`` takes the estimator's.
        **options: ``scale``, ``similarity_fct`` and ``gather_across_devices`` as for ``SoftInfoNCELoss``.

    Raises:
        ValueError: An option is out of range, or the estimator is unknown or breaks its contract.
    """

    def __init__(
        self,
        model: nn.Module,
        estimator: str | SimilarityEstimator = "bm25",
        *,
        info_nce_weight: float = 1.3,
        kl_weight: float = 0.7,
        weight_temperature: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, estimator, weight_temperature=weight_temperature, **options)
        check_not_negative("info_nce_weight", info_nce_weight)
        check_not_negative("kl_weight", kl_weight)
        self.info_nce_weight = info_nce_weight
        self.kl_weight = kl_weight

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings for the model card, as JSON primitives.

        Returns:
            Names and values.
        """
        return super().get_config_dict() | {"info_nce_weight": self.info_nce_weight, "kl_weight": self.kl_weight}

    def _objective(self, scores: Tensor, similarity: Tensor, positives: Tensor) -> Tensor:
        return kl_regularized_info_nce(
            scores,
            similarity,
            temperature=self.weight_temperature,
            info_nce_weight=self.info_nce_weight,
            kl_weight=self.kl_weight,
            positives=positives,
        )


class CancelledInfoNCELoss(_SimilarityLoss):
    """InfoNCE without the likely false negatives (:func:`st_softinfonce.functional.cancelled_info_nce`).

    A baseline: the paper finds it below plain InfoNCE at every setting (GraphCodeBERT, Python: .685 / .681 / .680 for
    ``top_k`` 1 / 3 / 5, .689 / .688 / .688 for ``ratio`` 0.7 / 0.5 / 0.3, InfoNCE .690, Soft-InfoNCE .700; its Tables
    1 and 3).

    Args:
        model: The model to train.
        estimator: An installed estimator's name, or an estimator.
        top_k: At least 1. Take out this many of each query's most similar negatives.
        ratio: Above 0. Take out the negatives at least this many times as similar as the positive.
        **options: ``scale``, ``similarity_fct`` and ``gather_across_devices`` as for ``SoftInfoNCELoss``.

    Raises:
        ValueError: Not exactly one of ``top_k`` and ``ratio`` is given, an option is out of range, or the estimator
            is unknown or breaks its contract.
    """

    def __init__(
        self,
        model: nn.Module,
        estimator: str | SimilarityEstimator = "bm25",
        *,
        top_k: int | None = None,
        ratio: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, estimator, **options)
        check_cancellation(top_k=top_k, ratio=ratio)
        self.top_k = top_k
        self.ratio = ratio

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings for the model card, as JSON primitives.

        Returns:
            Names and values.
        """
        return super().get_config_dict() | {"top_k": self.top_k, "ratio": self.ratio}

    def _objective(self, scores: Tensor, similarity: Tensor, positives: Tensor) -> Tensor:
        return cancelled_info_nce(scores, similarity, top_k=self.top_k, ratio=self.ratio, positives=positives)
