"""The losses that the Soft-InfoNCE paper compares with, over the same estimators: rows to compare with.

Its false-negative cancellation is ``Mask(top_k=...)`` and ``Mask(ratio=...)`` of the package. The three here are not
a cross-entropy of weighted candidates, so they are no treatments: binary cross-entropy, weighted InfoNCE and a KL
regularisation (Li et al. 2023, section 4.3). The paper finds each below Soft-InfoNCE (mean MRR over six languages for
CodeBERT / GraphCodeBERT / UniXcoder: BCE .641 / .679 / .686, weighted InfoNCE .639 / .674 / .714, KL .648 / .688 /
.716, Soft-InfoNCE .687 / .722 / .751; its Table 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from st_softinfonce import SimilarityEstimator, SoftInfoNCELoss
from st_softinfonce.functional import soft_info_nce
from st_softinfonce.losses.base import Batch


def bce(scores: Tensor, similarity: Tensor, *, temperature: float, positives: Tensor | None = None) -> Tensor:
    """Compute the binary cross-entropy of the model's softmax against soft labels (Li et al. 2023, section 4.3).

    With ``P = softmax(scores)`` over the row and labels ``y`` = 1 at the positive, ``softmax(similarity /
    temperature)`` at the negatives, the mean over all ``N * M`` entries of ``-y log P - (1 - y) log(1 - P)``. The
    paper's code clamps each logarithm at -100; this one works from the logits and needs no clamp.

    Args:
        scores: The model's scores, already scaled.
        similarity: The estimator's similarities; the positive's entry is not read.
        temperature: Above 0, in units of ``similarity``.
        positives: Column of each row's positive, by default ``0, 1, ..., N - 1``.

    Shape:
        scores, similarity: ``(N, M)``; positives: ``(N,)`` of integers.

    Returns:
        Scalar in float32 (float64 if ``scores`` is). 0 when there is no negative (``M = 1``).

    Raises:
        ValueError: ``temperature`` is not above 0, a shape does not fit, or ``similarity`` holds nan or inf.
    """
    scores, labels, columns = _scores_and_labels(scores, similarity, temperature, positives)
    if scores.size(1) == 1:
        return scores.sum() * 0.0
    log_p = scores.log_softmax(dim=1)
    # 1 - P loses every digit where P is close to 1, which only the row's largest score can be: that one is summed
    # from the other scores instead.
    top = scores.argmax(dim=1, keepdim=True)
    log_not_top = scores.scatter(1, top, -math.inf).logsumexp(1, keepdim=True) - scores.logsumexp(1, keepdim=True)
    log_not_p = torch.log1p(-log_p.scatter(1, top, -1.0).exp()).scatter(1, top, log_not_top)
    # The positive's label is 1, so its log(1 - P) never counts; it can be -inf, and 0 * -inf is nan.
    log_not_p = log_not_p.scatter(1, columns, 0.0)
    return -(labels * log_p + (1.0 - labels) * log_not_p).mean()


def weighted_info_nce(
    scores: Tensor, similarity: Tensor, *, temperature: float, positives: Tensor | None = None
) -> Tensor:
    """Compute InfoNCE with similar negatives as further, weighted positives (Li et al. 2023, section 4.3).

    ``-mean_i sum_j y[i, j] log P[i, j]``, with ``P``, ``y``, arguments, shapes and errors as in :func:`bce`.
    """
    scores, labels, _ = _scores_and_labels(scores, similarity, temperature, positives)
    return -(labels * scores.log_softmax(dim=1)).sum(dim=1).mean()


def kl_regularized_info_nce(
    scores: Tensor,
    similarity: Tensor,
    *,
    temperature: float,
    info_nce_weight: float = 1.3,
    kl_weight: float = 0.7,
    positives: Tensor | None = None,
) -> Tensor:
    """Compute InfoNCE plus a pull of the negatives' scores towards the estimator's order (Li et al. 2023, 4.3).

    ``info_nce_weight * InfoNCE + kl_weight * mean_i KL(softmax(similarity / temperature) || softmax(scores))``, both
    softmaxes over the row's negatives only. The two weights are at least 0; the paper's text has 1.3 and 0.7. All else
    is as in :func:`bce`.
    """
    for name, value in (("info_nce_weight", info_nce_weight), ("kl_weight", kl_weight)):
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0, got {value!r}.")
    info_nce = soft_info_nce(scores, positives=positives)
    scores, labels, columns = _scores_and_labels(scores, similarity, temperature, positives)
    if scores.size(1) == 1:
        return info_nce_weight * info_nce
    negative = torch.ones_like(scores, dtype=torch.bool).scatter(1, columns, False)
    shape = (scores.size(0), scores.size(1) - 1)
    log_model = scores[negative].view(shape).log_softmax(dim=1)
    kl = F.kl_div(log_model, labels[negative].view(shape), reduction="batchmean")
    return info_nce_weight * info_nce + kl_weight * kl


class SoftLabelLoss(SoftInfoNCELoss):
    """A loss of the scores and the estimator's similarities themselves, from query to document.

    A mined negative that an estimator of queries knows nothing of counts as never relevant.

    Args:
        model: The model to train.
        estimator: An estimator whose own treatment is ``Soften``, or any with ``temperature``.
        temperature: Above 0, in units of the estimator's similarity; by default that of its own softening.
        **options: ``scale``, ``similarity_fct`` and ``gather_across_devices`` as for ``SoftInfoNCELoss``.
    """

    function: Callable[..., Tensor]

    def __init__(
        self,
        model: nn.Module,
        estimator: str | SimilarityEstimator = "bm25",
        *,
        temperature: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, estimator, **options)
        own = self.judges[0].estimator.treatment
        self.label_temperature = own.temperature if temperature is None else temperature  # type: ignore[union-attr]

    def rows_loss(self, batch: Batch, rows: Tensor) -> Tensor:
        """Compute the mean loss of the batch's rows ``(n,)`` that are given."""
        cosines = self.similarity_fct(batch.queries[rows], batch.documents)
        blocks = batch.judgements[0].blocks(("query_to_doc",), rows, {"query_to_doc": cosines})
        similarity, known = blocks["query_to_doc"]
        if known is not None:
            similarity = similarity.masked_fill(~known, -math.inf)
        return self.function(cosines * self.scale, similarity, temperature=self.label_temperature, positives=rows)


class InBatchBCELoss(SoftLabelLoss):
    """:func:`bce` in a batch."""

    function = staticmethod(bce)


class WeightedInfoNCELoss(SoftLabelLoss):
    """:func:`weighted_info_nce` in a batch."""

    function = staticmethod(weighted_info_nce)


class KLRegularizedInfoNCELoss(SoftLabelLoss):
    """:func:`kl_regularized_info_nce` in a batch, with the weights of the paper's text."""

    function = staticmethod(kl_regularized_info_nce)


def _scores_and_labels(
    scores: Tensor, similarity: Tensor, temperature: float, positives: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Prepare scores and the soft labels: 1 at the positive, the similarity's softmax at the negatives."""
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be a finite number above 0, got {temperature!r}.")
    if scores.shape != similarity.shape or scores.dim() != 2:
        raise ValueError(
            f"scores and similarity must have one shape (queries, candidates), got {tuple(scores.shape)} and "
            f"{tuple(similarity.shape)}."
        )
    scores = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    columns = (torch.arange(len(scores), device=scores.device) if positives is None else positives).unsqueeze(1)
    logits = similarity.detach().to(scores.dtype).scatter(1, columns, 0.0)
    unusable = logits.isnan() | (logits == math.inf)
    if bool(unusable.any()):
        row, column = unusable.nonzero()[0].tolist()
        raise ValueError(f"similarity holds {logits[row, column].item()} at row {row}, column {column}.")
    # -inf ("never relevant") becomes the lowest number, since a softmax over nothing else would be nan.
    lowest = torch.finfo(logits.dtype).min
    logits = logits.clamp(min=lowest).scatter(1, columns, lowest)
    logits = ((logits - logits.amax(dim=1, keepdim=True)) / temperature).clamp(min=lowest)
    labels = logits.scatter(1, columns, -math.inf).softmax(dim=1).nan_to_num(nan=0.0)
    return scores, labels.scatter(1, columns, 1.0), columns
