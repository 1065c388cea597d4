"""Soft-InfoNCE for the host's sparse encoders: their wrapper losses, with a loss that needs the texts inside."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from sentence_transformers.sparse_encoder.losses import CachedSpladeLoss, CSRLoss, SpladeLoss
from torch import Tensor, nn

from st_softinfonce.losses.in_batch import InBatchLoss

if TYPE_CHECKING:
    _Wrapper = nn.Module
else:
    _Wrapper = object


class _RepresentsFirst(_Wrapper):
    """Lets the inner loss represent the texts before the wrapper embeds them, and hands that on as the labels.

    The host's wrappers give their inner loss the embeddings and the labels, never the texts.
    """

    def __init__(self, model: nn.Module, loss: InBatchLoss, *args: Any, **options: Any) -> None:
        if not isinstance(loss, InBatchLoss):
            raise TypeError(
                f"loss must be one of st_softinfonce, e.g. SoftInfoNCELoss.paper(model), got {type(loss).__name__}: "
                f"{type(self).__mro__[2].__name__} of sentence-transformers takes the others."
            )
        super().__init__(model, loss, *args, **options)

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Any:
        features = list(sentence_features)
        loss = cast(InBatchLoss, self.loss)
        return super().forward(features, loss.prepare(features, labels))


class SoftSpladeLoss(_RepresentsFirst, SpladeLoss):
    """The host's ``SpladeLoss`` around :class:`SoftInfoNCELoss`: weighted negatives plus FLOPS regularisation.

    Args:
        model: A ``SparseEncoder``.
        loss: The ranking loss, usually ``SoftInfoNCELoss.paper(model)``: dot products at scale 1, as for the host's
            ``SparseMultipleNegativesRankingLoss``, which it equals at ``alpha=0``.
        *args: The regularisers and their weights, as for ``SpladeLoss``.
        **options: Likewise.

    Raises:
        TypeError: ``loss`` is not one of this package.
    """


class CachedSoftSpladeLoss(_RepresentsFirst, CachedSpladeLoss):
    """The host's ``CachedSpladeLoss`` around :class:`SoftInfoNCELoss`: embeddings in mini-batches.

    Args:
        model: A ``SparseEncoder``.
        loss: The ranking loss, usually ``SoftInfoNCELoss.paper(model)``; not a cached one.
        *args: The regularisers, their weights and the mini-batches, as for ``CachedSpladeLoss``.
        **options: Likewise.

    Raises:
        TypeError: ``loss`` is not one of this package.
    """


class SoftCSRLoss(_RepresentsFirst, CSRLoss):
    """The host's ``CSRLoss`` around :class:`SoftInfoNCELoss`: weighted negatives plus reconstruction.

    Args:
        model: A ``SparseEncoder`` with a ``SparseAutoEncoder``.
        loss: The ranking loss, usually ``SoftInfoNCELoss.paper(model)``.
        *args: The weights of the parts, as for ``CSRLoss``.
        **options: Likewise.

    Raises:
        TypeError: ``loss`` is not one of this package.
    """
