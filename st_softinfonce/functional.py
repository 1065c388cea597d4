"""The numerics of Soft-InfoNCE and of the losses it is compared with: tensors in, tensors out.

Shapes used throughout: ``N`` queries (rows), ``M >= N`` candidates (columns). The positive of row ``i`` is column
``positives[i]``, by default column ``i``. Scores and similarities may have any float dtype; half precision is
computed in float32, float64 stays float64. Every loss is differentiable in ``scores`` and in nothing else.

Everything works in logits: a weight enters as ``log(weight)`` and a cancelled negative as ``-inf``, so that no score
is too large and no probability too small.
"""

from __future__ import annotations

import math
import warnings
from numbers import Real
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "bce",
    "cancellation_weights",
    "cancelled_info_nce",
    "kl_regularized_info_nce",
    "negative_weights",
    "soft_info_nce",
    "weighted_info_nce",
]


class SmallBatchWarning(UserWarning):
    """A batch has too few negatives for Eq. 4, so its rows are trained with plain InfoNCE."""


def negative_weights(
    similarity: Tensor,
    *,
    alpha: float,
    beta: float,
    temperature: float,
    min_weight: float = 0.1,
    positives: Tensor | None = None,
) -> Tensor:
    """Compute the weight of every negative from its similarity to the query.

    Over the ``K = M - 1`` negatives ``j`` of row ``i`` (Soft-InfoNCE, Li et al. 2023, Eq. 4 and appendix C.2)::

        p[i, :] = softmax(similarity[i, :] / temperature)
        w[i, j] = max((beta - alpha * p[i, j]) / (beta - alpha / K), min_weight)

    Before the clamp a row's weights sum to ``K``; the clamp can only raise that sum. Where ``beta * K <= alpha`` the
    formula would turn round or divide by zero (a last batch that is nearly empty): all weights are 1 there, with one
    warning per process.

    Args:
        similarity: How relevant each candidate is to each query, higher is more. The positive's entry is not read.
        alpha: At least 0. Strength of the effect: 0 is plain InfoNCE.
        beta: Above 0. ``alpha + beta = 2`` keeps the loss on InfoNCE's scale.
        temperature: Above 0, in units of ``similarity``. Small: only the most similar negative is softened.
        min_weight: In (0, 1]. Floor of a negative's weight.
        positives: Column of each row's positive, by default ``0, 1, ..., N - 1``.

    Shape:
        similarity: ``(N, M)``; positives: ``(N,)`` of integers.

    Returns:
        Weights ``(N, M)``, 1 at the positive, in float32 (float64 if ``similarity`` is), without gradient.

    Raises:
        ValueError: A parameter is out of range, a shape does not fit, or ``similarity`` holds nan (looked for on the
            CPU only: on other devices looking would make the host wait).

    Example:
        >>> weights = negative_weights(torch.tensor([[9.0, 1.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]]),
        ...                            alpha=1.3, beta=0.7, temperature=1.0)
        >>> [[round(w, 2) for w in row] for row in weights.tolist()]
        [[1.0, 0.1, 7.01], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    check_weighting(alpha=alpha, beta=beta, temperature=temperature, min_weight=min_weight)
    similarity = _prepare("similarity", similarity.detach())
    positives = _positive_columns(similarity, positives)
    negatives = similarity.size(1) - 1
    if alpha == 0 or beta * negatives <= alpha:
        if alpha != 0 and negatives > 0:
            _warn_small_batch(negatives, alpha, beta)
        return torch.ones_like(similarity)
    share = _similarity_softmax(similarity, temperature, positives)  # (N, M), sums to 1 over the negatives
    weights = (beta - alpha * share) / (beta - alpha / negatives)
    return weights.clamp(min=min_weight).scatter(1, positives, 1.0)


def soft_info_nce(scores: Tensor, weights: Tensor | None = None, *, positives: Tensor | None = None) -> Tensor:
    """Compute the cross-entropy of each row's positive against its weighted negatives.

    Soft-InfoNCE (Li et al. 2023, Eq. 3), with ``w[i, positive] = 1``::

        -mean_i log( exp(s[i, positive]) / sum_j w[i, j] exp(s[i, j]) )

    computed as ``logsumexp(s + log w) - s[positive]``.

    Args:
        scores: The model's scores, already scaled (divided by the temperature).
        weights: At least 0; 0 takes a negative out. The positive's entry is not read. ``None`` is InfoNCE.
        positives: Column of each row's positive, by default ``0, 1, ..., N - 1``.

    Shape:
        scores, weights: ``(N, M)``; positives: ``(N,)`` of integers.

    Returns:
        Mean over rows: a scalar in float32 (float64 if ``scores`` is). 0 for a row without negatives.

    Raises:
        ValueError: A shape does not fit, or a weight is negative or nan (looked for on the CPU only).

    Example:
        >>> scores = torch.tensor([[2.0, 1.0], [0.0, 2.0]])
        >>> print(f"{soft_info_nce(scores):.4f} {soft_info_nce(scores, torch.tensor([[1.0, 0.5], [0.5, 1.0]])):.4f}")
        0.2201 0.1172
    """
    scores = _prepare("scores", scores)
    positives = _positive_columns(scores, positives)
    logits = scores
    if weights is not None:
        weights = _prepare("weights", weights.detach(), like=scores)
        if _can_look_at(weights) and bool((weights < 0).any()):
            raise ValueError(
                f"weights must be at least 0, got a smallest value of {weights.min().item()}: a weight multiplies "
                "exp(score), so use 0 to take a negative out."
            )
        logits = scores + weights.log().to(scores.dtype).scatter(1, positives, 0.0)
    return (logits.logsumexp(dim=1) - scores.gather(1, positives).squeeze(1)).mean()


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
        ValueError: ``temperature`` is not above 0, a shape does not fit, or ``similarity`` holds nan (CPU only).
    """
    scores, labels, positives = _scores_and_labels(scores, similarity, temperature, positives)
    if scores.size(1) == 1:
        return scores.sum() * 0.0
    log_p = scores.log_softmax(dim=1)
    # 1 - P loses every digit where P is close to 1, which only the row's largest score can be: that one is summed
    # from the other scores instead.
    top = scores.argmax(dim=1, keepdim=True)
    log_not_top = scores.scatter(1, top, -math.inf).logsumexp(1, keepdim=True) - scores.logsumexp(1, keepdim=True)
    log_not_p = torch.log1p(-log_p.scatter(1, top, -1.0).exp()).scatter(1, top, log_not_top)
    # The positive's label is 1, so its log(1 - P) never counts; it can be -inf, and 0 * -inf is nan.
    log_not_p = log_not_p.scatter(1, positives, 0.0)
    return -(labels * log_p + (1.0 - labels) * log_not_p).mean()


def weighted_info_nce(
    scores: Tensor, similarity: Tensor, *, temperature: float, positives: Tensor | None = None
) -> Tensor:
    """Compute InfoNCE with similar negatives as further, weighted positives (Li et al. 2023, section 4.3).

    ``-mean_i sum_j y[i, j] log P[i, j]`` with ``P`` and ``y`` as in :func:`bce`.

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
        ValueError: ``temperature`` is not above 0, a shape does not fit, or ``similarity`` holds nan (CPU only).
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
    softmaxes over the row's negatives only.

    Args:
        scores: The model's scores, already scaled.
        similarity: The estimator's similarities; the positive's entry is not read.
        temperature: Above 0, in units of ``similarity``.
        info_nce_weight: Weight of the InfoNCE term (the paper's text: 1.3).
        kl_weight: Weight of the KL term (the paper's text: 0.7).
        positives: Column of each row's positive, by default ``0, 1, ..., N - 1``.

    Shape:
        scores, similarity: ``(N, M)``; positives: ``(N,)`` of integers.

    Returns:
        Scalar in float32 (float64 if ``scores`` is). 0 when there is no negative (``M = 1``).

    Raises:
        ValueError: A parameter is out of range, a shape does not fit, or ``similarity`` holds nan (CPU only).
    """
    check_not_negative("info_nce_weight", info_nce_weight)
    check_not_negative("kl_weight", kl_weight)
    info_nce = soft_info_nce(scores, positives=positives)
    check_positive("temperature", temperature)
    scores = _prepare("scores", scores)
    if scores.size(1) == 1:
        return info_nce_weight * info_nce
    similarity = _prepare("similarity", similarity.detach(), like=scores).to(scores.dtype)
    positives = _positive_columns(scores, positives)
    log_target = _without_positives(_finite(similarity / temperature), positives).log_softmax(dim=1)  # (N, M - 1)
    log_model = _without_positives(scores, positives).log_softmax(dim=1)  # (N, M - 1)
    kl = F.kl_div(log_model, log_target, reduction="batchmean", log_target=True)
    return info_nce_weight * info_nce + kl_weight * kl


def cancellation_weights(
    similarity: Tensor, *, top_k: int | None = None, ratio: float | None = None, positives: Tensor | None = None
) -> Tensor:
    """Mark the likely false negatives with weight 0, every other candidate with weight 1.

    False-negative cancellation as Li et al. (2023, section 4.4) compare with it. Exactly one rule applies:
    ``top_k`` takes out each row's ``top_k`` most similar negatives (of tied ones the lowest column first);
    ``ratio`` takes out those at least ``ratio`` times as similar to the query as its own positive is, and none in a
    row whose positive has a similarity of 0 or less.

    Args:
        similarity: How relevant each candidate is to each query, the positive's entry included.
        top_k: At least 1. From ``M - 1`` on, no negative is left.
        ratio: Above 0.
        positives: Column of each row's positive, by default ``0, 1, ..., N - 1``.

    Shape:
        similarity: ``(N, M)``; positives: ``(N,)`` of integers.

    Returns:
        Weights ``(N, M)`` of 0 and 1, 1 at the positive, in float32 (float64 if ``similarity`` is).

    Raises:
        ValueError: Not exactly one rule is given, its value is out of range, a shape does not fit, or ``similarity``
            holds nan (CPU only).
    """
    check_cancellation(top_k=top_k, ratio=ratio)
    similarity = _prepare("similarity", similarity.detach())
    positives = _positive_columns(similarity, positives)
    cancelled = torch.zeros_like(similarity, dtype=torch.bool)
    if top_k is not None:
        most_similar = similarity.scatter(1, positives, -math.inf).sort(dim=1, descending=True, stable=True).indices
        cancelled = cancelled.scatter(1, most_similar[:, :top_k], True)
    if ratio is not None:
        of_positive = similarity.gather(1, positives)  # (N, 1)
        cancelled = (similarity >= ratio * of_positive) & (of_positive > 0)
    return (~cancelled).to(similarity.dtype).scatter(1, positives, 1.0)


def cancelled_info_nce(
    scores: Tensor,
    similarity: Tensor,
    *,
    top_k: int | None = None,
    ratio: float | None = None,
    positives: Tensor | None = None,
) -> Tensor:
    """Compute InfoNCE without the likely false negatives: :func:`soft_info_nce` with :func:`cancellation_weights`.

    Args:
        scores: The model's scores, already scaled.
        similarity: The estimator's similarities, the positive's entry included.
        top_k: Take out this many of each row's most similar negatives.
        ratio: Take out the negatives at least this many times as similar as the positive.
        positives: Column of each row's positive, by default ``0, 1, ..., N - 1``.

    Shape:
        scores, similarity: ``(N, M)``; positives: ``(N,)`` of integers.

    Returns:
        Scalar in float32 (float64 if ``scores`` is). A row that loses every negative counts 0.

    Raises:
        ValueError: As :func:`cancellation_weights`.
    """
    scores = _prepare("scores", scores)
    _prepare("similarity", similarity, like=scores)
    weights = cancellation_weights(similarity, top_k=top_k, ratio=ratio, positives=positives)
    return soft_info_nce(scores, weights, positives=positives)


def check_weighting(*, alpha: float, beta: float, temperature: float, min_weight: float) -> None:
    """Refuse parameters of :func:`negative_weights` that are out of range.

    Args:
        alpha: At least 0.
        beta: Above 0.
        temperature: Above 0.
        min_weight: In (0, 1].

    Raises:
        ValueError: Naming the first parameter that is out of range, its value and the range.
    """
    if not (_is_number(alpha) and alpha >= 0):
        raise ValueError(f"alpha must be a finite number, at least 0, got {alpha!r}. 0 is plain InfoNCE.")
    if not (_is_number(beta) and beta > 0):
        raise ValueError(f"beta must be a finite number above 0, got {beta!r}. 2 - alpha keeps InfoNCE's scale.")
    check_positive("temperature", temperature)
    if not (_is_number(min_weight) and 0 < min_weight <= 1):
        raise ValueError(
            f"min_weight must be in (0, 1], got {min_weight!r}. To take negatives out altogether, use "
            "cancelled_info_nce."
        )


def check_cancellation(*, top_k: object, ratio: object) -> None:
    """Refuse rules of :func:`cancellation_weights` that are out of range.

    Args:
        top_k: At least 1, or ``None``.
        ratio: Above 0, or ``None``.

    Raises:
        ValueError: Not exactly one is given, or its value is out of range.
    """
    if (top_k is None) == (ratio is None):
        raise ValueError(f"Give exactly one of top_k and ratio, got top_k={top_k!r} and ratio={ratio!r}.")
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
        raise ValueError(f"top_k must be an integer of at least 1, got {top_k!r}.")
    if ratio is not None:
        check_positive("ratio", ratio)


def check_not_negative(name: str, value: object) -> None:
    """Refuse a value that is no finite number of at least 0.

    Args:
        name: The argument's name, for the message.
        value: Its value.

    Raises:
        ValueError: Naming the argument and its value.
    """
    if not (_is_number(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number, at least 0, got {value!r}.")


def check_positive(name: str, value: object) -> None:
    """Refuse a value that is no finite number above 0.

    Args:
        name: The argument's name, for the message.
        value: Its value.

    Raises:
        ValueError: Naming the argument and its value.
    """
    if not (_is_number(value) and value > 0):
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}.")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _can_look_at(tensor: Tensor) -> bool:
    """Whether a value check is free: elsewhere it would wait for the device, or break a compiled graph."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def _prepare(name: str, tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """Check a score or similarity matrix and bring half precision to float32."""
    if tensor.dim() != 2 or tensor.size(0) == 0 or tensor.size(1) == 0:
        raise ValueError(f"{name} must have shape (queries, candidates), none of them 0, got {tuple(tensor.shape)}.")
    if like is not None and tensor.shape != like.shape:
        raise ValueError(f"{name} must have the shape of scores, {tuple(like.shape)}, got {tuple(tensor.shape)}.")
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be a floating-point tensor, got {tensor.dtype}. Call .float() on it.")
    # Scores may be nan, as in any other loss: whoever trains in float16 relies on it to skip a step.
    if name != "scores" and _can_look_at(tensor):
        unusable = tensor.isnan() | (tensor == math.inf)
        if bool(unusable.any()):
            row, column = unusable.nonzero()[0].tolist()
            raise ValueError(
                f"{name} holds {tensor[row, column].item()} at row {row}, column {column}: every entry must be a "
                "number or -inf. A vector of length 0 (an empty text) is the usual cause; give such a candidate the "
                "lowest similarity instead."
            )
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _positive_columns(matrix: Tensor, positives: Tensor | None) -> Tensor:
    """Return the positives' columns as ``(N, 1)`` indices on the matrix's device."""
    rows, columns = matrix.shape
    if positives is None:
        if columns < rows:
            raise ValueError(
                f"{rows} queries need at least as many candidates, got {columns}. Row i's positive is column i; "
                "say otherwise with positives."
            )
        return torch.arange(rows, device=matrix.device).unsqueeze(1)
    if positives.shape != (rows,) or positives.is_floating_point() or positives.dtype == torch.bool:
        raise ValueError(
            f"positives must hold one column number per query, shape ({rows},), got a {positives.dtype} tensor of "
            f"shape {tuple(positives.shape)}."
        )
    if _can_look_at(positives) and bool(((positives < 0) | (positives >= columns)).any()):
        raise ValueError(f"positives must be columns from 0 to {columns - 1}, got {positives.tolist()}.")
    return positives.to(matrix.device, torch.int64).unsqueeze(1)


def _similarity_softmax(similarity: Tensor, temperature: float, positives: Tensor) -> Tensor:
    """Softmax over each row's negatives, 0 at the positive."""
    return _finite(similarity / temperature).scatter(1, positives, -math.inf).softmax(dim=1)


def _finite(logits: Tensor) -> Tensor:
    """Replace -inf (a candidate known not to be relevant): a softmax over nothing else would be nan."""
    return logits.clamp(min=torch.finfo(logits.dtype).min)


def _without_positives(matrix: Tensor, positives: Tensor) -> Tensor:
    """Drop each row's positive: ``(N, M)`` to ``(N, M - 1)``, the columns in order."""
    columns = torch.arange(matrix.size(1) - 1, device=matrix.device)  # (M - 1,)
    return matrix.gather(1, columns + (columns >= positives))


def _scores_and_labels(
    scores: Tensor, similarity: Tensor, temperature: float, positives: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Prepare scores and the soft labels: 1 at the positive, the similarity's softmax at the negatives."""
    check_positive("temperature", temperature)
    scores = _prepare("scores", scores)
    similarity = _prepare("similarity", similarity.detach(), like=scores)
    positives = _positive_columns(scores, positives)
    if scores.size(1) == 1:
        return scores, torch.ones_like(scores), positives
    labels = _similarity_softmax(similarity, temperature, positives).scatter(1, positives, 1.0)
    return scores, labels.to(scores.dtype), positives


_warned_of_small_batch = False


def _warn_small_batch(negatives: int, alpha: float, beta: float) -> None:
    global _warned_of_small_batch
    if not _warned_of_small_batch:
        _warned_of_small_batch = True
        warnings.warn(
            f"A batch with {negatives} negatives per query is too small for alpha={alpha} and beta={beta}, which need "
            f"more than {alpha / beta:g}: its weights are all 1 (plain InfoNCE). Set dataloader_drop_last=True to "
            "train without such a last batch. This is said once.",
            SmallBatchWarning,
            stacklevel=3,
        )
