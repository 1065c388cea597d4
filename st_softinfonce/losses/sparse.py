"""Soft-InfoNCE for the host's sparse encoders: their wrapper losses, with a loss that needs the texts inside."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from sentence_transformers.sparse_encoder.losses import CachedSpladeLoss, CSRLoss, SpladeLoss
from torch import Tensor, nn

from st_softinfonce.losses.base import InBatchLoss

if TYPE_CHECKING:
    _Wrapper = nn.Module
else:
    _Wrapper = object


class _AsksFirst(_Wrapper):
    """Lets the inner loss ask its estimators about the texts before the wrapper embeds them.

    What they say travels as the labels: the host's wrappers hand their inner loss the embeddings and the labels,
    and nothing else.
    """

    def __init__(self, model: nn.Module, loss: InBatchLoss, *args: Any, **options: Any) -> None:
        if not isinstance(loss, InBatchLoss):
            host = next(cls for cls in type(self).__mro__ if cls.__module__.startswith("sentence_transformers."))
            raise TypeError(
                f"loss must be one of st_softinfonce, e.g. SoftInfoNCELoss.paper(model), got {type(loss).__name__}: "
                f"{host.__name__} of sentence-transformers takes the others."
            )
        super().__init__(model, loss, *args, **options)

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Any:
        features = list(sentence_features)
        loss = cast(InBatchLoss, self.loss)
        return super().forward(features, loss.ask(features, labels))

    def get_config_dict(self) -> dict[str, Any]:
        inner = cast(InBatchLoss, self.loss)
        name = type(inner).__name__
        settings: dict[str, Any] = super().get_config_dict()  # type: ignore[misc] # a mixin of the host's wrappers
        return {**settings, "loss": name, name: inner.get_config_dict()}


class SoftSpladeLoss(_AsksFirst, SpladeLoss):
    """The host's ``SpladeLoss`` around :class:`SoftInfoNCELoss`: weighted negatives plus FLOPS regularisation.

    With ``estimator=None`` it equals that around the host's ``SparseMultipleNegativesRankingLoss``.

    Args:
        model: A ``SparseEncoder``.
        loss: The ranking loss, usually ``SoftInfoNCELoss.paper(model)``: dot products at scale 1.
        *args: As for ``SpladeLoss``.
        **options: Likewise.

    Raises:
        TypeError: ``loss`` is not one of this package.
    """


class CachedSoftSpladeLoss(_AsksFirst, CachedSpladeLoss):
    """As :class:`SoftSpladeLoss`, around a loss that is not cached, with the host's embeddings in mini-batches."""


class SoftCSRLoss(_AsksFirst, CSRLoss):
    """As :class:`SoftSpladeLoss`, for a ``SparseEncoder`` with a ``SparseAutoEncoder``: plus reconstruction."""
