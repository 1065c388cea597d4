"""The numerics of Soft-InfoNCE and of the losses it is compared with: tensors in, tensors out.

Shapes used throughout: ``N`` queries (rows), ``M >= N`` candidates (columns). The positive of row ``i`` is column
``positives[i]``, by default column ``i``. Scores and similarities may have any float dtype; half precision is
computed in float32, float64 stays float64. Every loss is differentiable in ``scores`` and in nothing else.

Everything works in logits: a weight enters as ``log(weight)`` and a cancelled negative as ``-inf``, so that no score
is too large and no probability too small.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "RelevancePosterior",
    "bce",
    "cancellation_weights",
    "cancelled_info_nce",
    "kl_regularized_info_nce",
    "negative_weights",
    "posterior_weights",
    "soft_info_nce",
    "temperature_for_share",
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
    known: Tensor | None = None,
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
        known: Which candidates the similarity says something about, the positives among them; by default all. The
            others have weight 1, and are none of the ``K``.

    Shape:
        similarity: ``(N, M)``; positives: ``(N,)`` of integers; known: ``(M,)`` bool.

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
    if known is not None:
        similarity = similarity.masked_fill(~_known_columns(known, similarity), -math.inf)
    similarity = _without_values_at(similarity, positives)
    negatives = similarity.size(1) - 1
    # With rounding, 0.4 * 3 is above 1.2, and the normaliser 1e-16 instead of 0.
    if alpha == 0 or beta * negatives <= alpha or math.isclose(beta * negatives, alpha, rel_tol=1e-9):
        if alpha != 0 and negatives > 0:
            _warn_small_batch(negatives, alpha, beta)
        return torch.ones_like(similarity)
    share = _similarity_softmax(similarity, temperature, positives, known)  # (N, M), sums to 1 over the negatives
    if known is not None:
        return _weights_of_known(share, known, alpha, beta, min_weight).scatter(1, positives, 1.0)
    weights = (beta - alpha * share) / (beta - alpha / negatives)
    return weights.clamp(min=min_weight).scatter(1, positives, 1.0)


@dataclass(frozen=True)
class RelevancePosterior:
    """The probability that a candidate is relevant, given an estimator's similarity alone.

    ``P(relevant | s) = min(1, prior * f_known(s) / f_random(s))``, by Bayes' rule with the densities of the scores of
    known relevant pairs and of random pairs; the few relevant ones among the random pairs belong into the denominator.
    The logarithm of the ratio is linear between the knots, constant beyond them, and never falls.

    ``json.dumps(dataclasses.asdict(posterior))`` stores it, ``RelevancePosterior(**json.loads(text))`` brings it back.

    Args:
        knots: At least two similarities, ascending.
        log_ratios: ``log(f_known / f_random)`` at each knot, finite and never falling.
        prior: In (0, 1]. The probability that a random pair is relevant.
        relative: The similarity is divided by the query's similarity to its own positive (to itself, for an estimator
            that compares queries). BM25's scores, say, grow with the query's length; relative ones do not.
        known_pairs: How many known pairs it was estimated from.
        random_pairs: How many random pairs it was estimated from.

    Raises:
        ValueError: A value is out of range.

    Example:
        >>> posterior = RelevancePosterior(knots=(0.2, 0.8), log_ratios=(-4.0, 9.0), prior=0.001)
        >>> [round(p, 4) for p in posterior.probability(torch.tensor([0.1, 0.5, 0.7, 0.9])).tolist()]
        [0.0, 0.0122, 0.9283, 1.0]
    """

    knots: tuple[float, ...]
    log_ratios: tuple[float, ...]
    prior: float
    relative: bool = False
    known_pairs: int = 0
    random_pairs: int = 0

    def __post_init__(self) -> None:
        """Check the ranges; lists, as JSON has them, become tuples."""
        object.__setattr__(self, "knots", tuple(self.knots))
        object.__setattr__(self, "log_ratios", tuple(self.log_ratios))
        if len(self.knots) < 2 or len(self.knots) != len(self.log_ratios):
            raise ValueError(
                f"knots and log_ratios must be equally many, at least 2, got {len(self.knots)} and "
                f"{len(self.log_ratios)}. RelevancePosterior.fit() makes them from scores."
            )
        for name, values, rising in (("knots", self.knots, True), ("log_ratios", self.log_ratios, False)):
            steps = itertools.pairwise(values)
            if not all(map(is_number, values)) or any(a >= b if rising else a > b for a, b in steps):
                rule = "strictly ascending" if rising else "never falling"
                raise ValueError(f"{name} must be finite numbers, {rule}, got {values}. Sort and merge them.")
        check_share("prior", self.prior)

    @classmethod
    def fit(
        cls,
        known_scores: Tensor | Sequence[float],
        random_scores: Tensor | Sequence[float],
        prior: float | None = None,
        *,
        relative: bool = False,
    ) -> RelevancePosterior:
        """Estimate the density ratio from an estimator's scores of known relevant pairs and of random pairs.

        Scores are counted in 32 bins of equal mass, half of it of the known pairs; bins that would make the smoothed
        ratio fall are merged (isotonic regression).

        Args:
            known_scores: At least 50, of pairs known to be relevant.
            random_scores: At least 1,000 (better 100,000), of pairs drawn at random. -inf is "never relevant".
            prior: In (0, 1]. The probability that a random pair is relevant. By default the largest that the random
                scores leave room for: above the known scores' median, 75% and 90% quantile, there must be at least
                ``prior`` times as large a share of random pairs as of known ones (mixture proportion estimation).
            relative: The scores given are relative, and similarities shall be made so.

        Returns:
            The posterior.

        Raises:
            ValueError: There are too few scores, nan or inf among them, all are equal, all random ones are -inf, the
                known pairs do not score above the random ones, or the prior is out of range.
        """
        known = _score_sample("known_scores", known_scores, _MIN_KNOWN)
        random = _score_sample("random_scores", random_scores, _MIN_RANDOM)
        if not bool(random.isfinite().any()):
            raise ValueError(
                "random_scores are all -inf, never relevant: their density cannot be estimated. Score pairs that the "
                "estimator does not rule out."
            )
        finite = torch.cat([known, random])
        finite = finite[finite.isfinite()]
        spread = float(finite.max() - finite.min()) if len(finite) else 0.0
        if spread == 0:
            raise ValueError(
                "known_scores and random_scores are all equal: an estimator that gives every pair the same score "
                "says nothing about relevance. Check that its texts are not empty."
            )
        # A text's cosine with itself is 1 up to rounding; without this, noise would be told apart.
        middle, step = known.median(), spread * 1e-3
        if bool(middle.isfinite()):
            known = ((known - middle) / step).round() * step + middle
            random = ((random - middle) / step).round() * step + middle
        if known.median() <= random.median():
            raise ValueError(
                f"known_scores must lie above random_scores, got medians of {known.median():.4g} and "
                f"{random.median():.4g}: the estimator does not tell relevant pairs from random ones. Take another."
            )
        if prior is None:
            prior = _largest_prior(known, random)
        check_share("prior", prior)
        knots, log_ratios = _isotonic_log_ratio(known, random)
        return cls(knots, log_ratios, prior, relative, len(known), len(random))

    def probability(self, similarity: Tensor) -> Tensor:
        """Evaluate it, on the similarities' device and without waiting for it.

        Args:
            similarity: Any shape, made relative already if that is asked for; half precision is computed in float32.

        Returns:
            Probabilities of the same shape, without gradient. 0 at -inf.
        """
        similarity = similarity.detach()
        similarity = similarity.float() if similarity.dtype in (torch.float16, torch.bfloat16) else similarity
        knots, log_ratios = _table_on(self.knots, self.log_ratios, similarity.device, similarity.dtype)
        inside = similarity.clamp(knots[0], knots[-1])
        right = torch.searchsorted(knots, inside.contiguous(), right=True).clamp(1, len(self.knots) - 1)
        left_knot, width = knots[right - 1], knots[right] - knots[right - 1]
        # Knots that float64 tells apart can coincide in float32.
        share = ((inside - left_knot) / width.clamp(min=torch.finfo(width.dtype).tiny)).clamp(0, 1)
        log_ratio = torch.lerp(log_ratios[right - 1], log_ratios[right], share)
        probability = (log_ratio + math.log(self.prior)).clamp(max=0).exp()
        return probability.masked_fill(similarity == -math.inf, 0.0)


def posterior_weights(
    similarity: Tensor, *, posterior: RelevancePosterior, min_weight: float = 0.1, positives: Tensor | None = None
) -> Tensor:
    """Compute the weight of every negative in absolute terms: ``max(1 - P(relevant | similarity), min_weight)``.

    This is the importance weight toward the distribution of true negatives that Li et al. (2023, section 4.2) argue
    for, estimated directly; unlike :func:`negative_weights` it depends neither on the rest of the batch nor on its
    size, and a batch without similar negatives keeps weights of 1 (up to the probability of its least similar ones).

    Args:
        similarity: How relevant each candidate is to each query, higher is more. The positive's entry is not read.
        posterior: What the similarity says about relevance.
        min_weight: In [0, 1]. Floor of a negative's weight; 0 takes a surely relevant one out.
        positives: Column of each row's positive, by default ``0, 1, ..., N - 1``.

    Shape:
        similarity: ``(N, M)``; positives: ``(N,)`` of integers.

    Returns:
        Weights ``(N, M)`` in [``min_weight``, 1], 1 at the positive, in float32 (float64 if ``similarity`` is),
        without gradient.

    Raises:
        ValueError: A parameter is out of range, a shape does not fit, or ``similarity`` holds nan (CPU only).

    Example:
        >>> posterior = RelevancePosterior(knots=(0.0, 10.0), log_ratios=(-5.0, 5.0), prior=0.01)
        >>> weights = posterior_weights(torch.tensor([[99.0, 9.8, 0.0], [-1.0, 99.0, 5.0]]), posterior=posterior)
        >>> [[round(w, 3) for w in row] for row in weights.tolist()]
        [[1.0, 0.1, 1.0], [1.0, 1.0, 0.99]]
    """
    if not (is_number(min_weight) and 0 <= min_weight <= 1):
        raise ValueError(f"min_weight must be in [0, 1], got {min_weight!r}. 1 is plain InfoNCE.")
    similarity = _prepare("similarity", similarity.detach())
    positives = _positive_columns(similarity, positives)
    check_similarity("similarity", similarity, None if posterior.relative else positives.squeeze(1))
    if posterior.relative:
        own = similarity.gather(1, positives)  # (N, 1)
        similarity = (similarity / own).masked_fill(~(own > 0), -math.inf)
    weights = 1.0 - posterior.probability(similarity)
    return weights.clamp(min=min_weight).scatter(1, positives, 1.0)


def temperature_for_share(
    similarity: Tensor,
    *,
    alpha: float,
    beta: float,
    share: float,
    below: float = 0.9,
    positives: Tensor | None = None,
) -> float | None:
    """Find the temperature of :func:`negative_weights` that leaves a share of the negatives with a small weight.

    The share first grows with the temperature and then falls to 0 as the weights even out. Of the temperatures that
    reach the share the largest is taken: there the negatives that stand out are softened, not each row's largest
    whatever it is. Where none reaches it (a large batch: the formula softens few of many), the one that comes
    closest. Found by bisection; looks at values, so it makes the host wait for the device.

    Args:
        similarity: How relevant each candidate is to each query. The positive's entry is not read.
        alpha: Above 0, as in :func:`negative_weights`.
        beta: Above 0, likewise.
        share: In (0, 1]. The share of all negatives to soften.
        below: In (0, 1]. A weight below this counts as softened.
        positives: Column of each row's positive, by default ``0, 1, ..., N - 1``.

    Shape:
        similarity: ``(N, M)``; positives: ``(N,)`` of integers.

    Returns:
        The temperature; ``None`` if none makes a difference: there are too few negatives, or all are equally similar.

    Raises:
        ValueError: A parameter is out of range, a shape does not fit, or ``similarity`` holds nan (CPU only).
    """
    check_weighting(alpha=alpha, beta=beta, temperature=1.0, min_weight=1.0)
    check_share("share", share)
    check_share("below", below)
    similarity = _prepare("similarity", similarity.detach())
    columns = _positive_columns(similarity, positives)
    negatives = similarity.size(1) - 1
    if alpha == 0 or beta * negatives <= alpha * (1 + 1e-9):
        return None
    values = _without_positives(similarity, columns)  # (N, M - 1)
    values = values[values.isfinite()]
    spread = float(values.max() - values.min()) if values.numel() else 0.0
    if spread == 0:
        return None

    def reached(temperature: float) -> float:
        weights = negative_weights(
            similarity, alpha=alpha, beta=beta, temperature=temperature, min_weight=1e-9, positives=positives
        )
        return int((weights < below).sum()) / (len(weights) * negatives)

    grid = [spread * 10 ** (exponent / 10) for exponent in range(-30, 21)]
    shares = [reached(temperature) for temperature in grid]
    enough = [place for place, value in enumerate(shares) if value >= share]
    if not enough:
        most = max(shares)
        return grid[shares.index(most)] if most > 0 else None
    low, high = grid[enough[-1]], grid[min(enough[-1] + 1, len(grid) - 1)]
    for _ in range(30):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if reached(middle) >= share else (low, middle)
    return low


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
        weights = _prepare("weights", weights.detach(), like=scores).scatter(1, positives, 1.0)
        if _can_look_at(weights) and not bool((weights >= 0).all()):
            raise ValueError(
                f"weights must be at least 0, got a smallest value of {weights.min().item()}: a weight multiplies "
                "exp(score), so use 0 to take a negative out."
            )
        logits = scores + weights.log().to(scores.dtype)
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
    check_similarity("similarity", similarity, positives.squeeze(1))
    log_target = _divided(_without_positives(similarity, positives), temperature).log_softmax(dim=1)  # (N, M - 1)
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
    check_similarity("similarity", similarity)  # the positive's entry as well: a ratio reads it
    positives = _positive_columns(similarity, positives)
    cancelled = torch.zeros_like(similarity, dtype=torch.bool)
    if top_k is not None:
        ranked = _without_positives(similarity, positives).sort(dim=1, descending=True, stable=True).indices
        ranked = ranked[:, :top_k]
        cancelled = cancelled.scatter(1, ranked + (ranked >= positives), True)
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
    if not (is_number(alpha) and alpha >= 0):
        raise ValueError(f"alpha must be a finite number, at least 0, got {alpha!r}. 0 is plain InfoNCE.")
    if not (is_number(beta) and beta > 0):
        raise ValueError(f"beta must be a finite number above 0, got {beta!r}. 2 - alpha keeps InfoNCE's scale.")
    check_positive("temperature", temperature)
    if not (is_number(min_weight) and 0 < min_weight <= 1):
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
    if not (is_number(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number, at least 0, got {value!r}.")


def check_positive(name: str, value: object) -> None:
    """Refuse a value that is no finite number above 0.

    Args:
        name: The argument's name, for the message.
        value: Its value.

    Raises:
        ValueError: Naming the argument and its value.
    """
    if not (is_number(value) and value > 0):
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}.")


def check_share(name: str, value: object) -> None:
    """Refuse a value that is no share of a whole.

    Args:
        name: The argument's name, for the message.
        value: Its value.

    Raises:
        ValueError: It is not in (0, 1].
    """
    if not (is_number(value) and 0 < value <= 1):
        raise ValueError(f"{name} must be in (0, 1], got {value!r}.")


def is_number(value: object) -> TypeGuard[float]:
    """Tell a finite number from everything else, nan, inf and bool among it.

    Args:
        value: Anything; NumPy's numbers are numbers, tensors are not.

    Returns:
        Whether it is one.
    """
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_similarity(
    name: str, similarity: Tensor, positives: Tensor | None = None, *, anywhere: bool = False
) -> None:
    """Refuse similarities that no weight can be made of: nan and inf; -inf means never relevant.

    Args:
        name: What to call them in the message.
        similarity: ``(N, M)``.
        positives: ``(N,)`` columns whose entry does not matter.
        anywhere: Look on every device, and wait for it; by default on the CPU only, where looking is free.

    Raises:
        ValueError: Naming the first such entry.
    """
    if not anywhere and not _can_look_at(similarity):
        return
    unusable = similarity.isnan() | (similarity == math.inf)
    if positives is not None:
        unusable = unusable.scatter(1, positives.unsqueeze(1), False)
    if bool(unusable.any()):
        row, column = unusable.nonzero()[0].tolist()
        raise ValueError(
            f"{name} holds {similarity[row, column].item()} at row {row}, column {column}: every entry must be a "
            "number or -inf. A vector of length 0 (an empty text) is the usual cause; give such a candidate the "
            "lowest similarity instead."
        )


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
    if not isinstance(positives, Tensor):
        raise ValueError(f"positives must be a tensor of column numbers, got {type(positives).__name__}.")
    if positives.shape != (rows,) or positives.is_floating_point() or positives.dtype == torch.bool:
        raise ValueError(
            f"positives must hold one column number per query, shape ({rows},), got a {positives.dtype} tensor of "
            f"shape {tuple(positives.shape)}."
        )
    if _can_look_at(positives) and bool(((positives < 0) | (positives >= columns)).any()):
        raise ValueError(f"positives must be columns from 0 to {columns - 1}, got {positives.tolist()}.")
    return positives.to(matrix.device, torch.int64).unsqueeze(1)


def _weights_of_known(share: Tensor, known: Tensor, alpha: float, beta: float, min_weight: float) -> Tensor:
    """Compute weights where the number of negatives is on the device: nothing here waits for it."""
    negatives = known.sum().to(share.dtype) - 1
    too_few = beta * negatives <= alpha * (1 + 1e-9)
    if _can_look_at(known) and bool(too_few) and negatives > 0:
        _warn_small_batch(int(negatives), alpha, beta)
    weights = (beta - alpha * share) / (beta - alpha / negatives)
    return weights.clamp(min=min_weight).masked_fill(too_few | ~known, 1.0)


def _known_columns(known: object, matrix: Tensor) -> Tensor:
    if not isinstance(known, Tensor) or known.dtype != torch.bool or known.shape != (matrix.size(1),):
        got = f"{known.dtype} of shape {tuple(known.shape)}" if isinstance(known, Tensor) else type(known).__name__
        raise ValueError(f"known must be a bool tensor, one for each of {matrix.size(1)} candidates, got {got}.")
    return known


def _similarity_softmax(
    similarity: Tensor, temperature: float, positives: Tensor, known: Tensor | None = None
) -> Tensor:
    """Softmax over each row's known negatives, 0 at the positive."""
    if similarity.size(1) == 1:
        return torch.zeros_like(similarity)
    logits = _divided(_without_positives(similarity, positives), temperature)  # (N, M - 1)
    if known is not None:
        logits = logits.masked_fill(_without_positives(~known.expand_as(similarity), positives), -math.inf)
    negatives = logits.softmax(dim=1)
    columns = torch.arange(negatives.size(1), device=similarity.device)
    return torch.zeros_like(similarity).scatter(1, columns + (columns >= positives), negatives)


def _divided(similarity: Tensor, temperature: float) -> Tensor:
    """Divide by the temperature, the row's largest at 0: neither side of a softmax can overflow.

    -inf (a candidate known not to be relevant) becomes a number, since a softmax over nothing else would be nan.
    """
    lowest = torch.finfo(similarity.dtype).min
    similarity = similarity.clamp(min=lowest)
    return ((similarity - similarity.amax(dim=1, keepdim=True)) / temperature).clamp(min=lowest)


def _without_values_at(similarity: Tensor, positives: Tensor) -> Tensor:
    """Forget the positives' entries, which nothing reads, and refuse what cannot be read in the others."""
    similarity = similarity.scatter(1, positives, 0.0)
    check_similarity("similarity", similarity)
    return similarity


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
    similarity = _without_values_at(similarity, positives)
    labels = _similarity_softmax(similarity, temperature, positives).scatter(1, positives, 1.0)
    return scores, labels.to(scores.dtype), positives


_MIN_KNOWN = 50
_MIN_RANDOM = 1000
_BINS = 32
_MAX_PRIOR = 0.1


def _score_sample(name: str, scores: Tensor | Sequence[float], least: int) -> Tensor:
    sample = torch.as_tensor(scores).detach().flatten().cpu().double()
    if len(sample) < least:
        raise ValueError(f"{name} must be at least {least} scores, got {len(sample)}: score more pairs.")
    unusable = sample.isnan() | (sample == math.inf)
    if bool(unusable.any()):
        raise ValueError(
            f"{name} must be numbers or -inf, got {sample[unusable][0].item()} ({int(unusable.sum())} such of "
            f"{len(sample)}). A vector of length 0 (an empty text) is the usual cause."
        )
    return sample


def _largest_prior(known: Tensor, random: Tensor) -> float:
    """Bound the share of relevant pairs among random ones by the upper tails: it can explain no more than there is."""
    bounds = []
    for quantile in (0.5, 0.75, 0.9):
        threshold = known.sort().values[int(quantile * (len(known) - 1))]
        # One more than were seen: a sample without any such pair does not prove that there are none.
        tail = (int((random >= threshold).sum()) + 1) / (len(random) + 1)
        bounds.append(tail / float((known >= threshold).double().mean()))
    if min(bounds) > _MAX_PRIOR:
        raise ValueError(
            f"prior cannot be estimated: {min(bounds):.0%} of the random pairs score as high as known pairs do. The "
            "estimator hardly tells them apart; take another, or give the prior if the data are like that."
        )
    return min(bounds)


def _isotonic_log_ratio(known: Tensor, random: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Estimate log(f_known / f_random) as a rising sequence of (mean score, log ratio)."""
    scores = torch.cat([known, random])
    is_known = torch.cat([torch.ones_like(known), torch.zeros_like(random)])
    mass = torch.cat([torch.full_like(known, 0.5 / len(known)), torch.full_like(random, 0.5 / len(random))])
    kept = scores.isfinite()
    order = scores[kept].argsort()
    scores, is_known, mass = scores[kept][order], is_known[kept][order], mass[kept][order]
    cuts = mass.sum() * torch.arange(1, _BINS, dtype=mass.dtype) / _BINS
    edges = torch.unique_consecutive(scores[torch.searchsorted(mass.cumsum(0), cuts).clamp(max=len(scores) - 1)])
    place = torch.searchsorted(edges, scores, right=True)
    bins = [
        torch.bincount(place, weights=weights, minlength=len(edges) + 1).tolist()
        for weights in (is_known, 1 - is_known, mass, mass * scores)
    ]

    def log_ratio(block: list[float]) -> float:
        # Half a count more on both sides: a bin without random pairs has a large ratio, not an infinite one.
        return math.log((block[0] + 0.5) / (len(known) + 1)) - math.log((block[1] + 0.5) / (len(random) + 1))

    blocks: list[list[float]] = []
    for block in map(list, zip(*bins, strict=True)):
        if block[2] == 0:
            continue
        while blocks and log_ratio(blocks[-1]) >= log_ratio(block):
            block = [one + other for one, other in zip(blocks.pop(), block, strict=True)]
        blocks.append(block)
    if len(blocks) == 1:
        raise ValueError(
            "known_scores and random_scores differ in no way that rises with the score: the estimator does not tell "
            "relevant pairs from random ones. Take another."
        )
    return tuple(block[3] / block[2] for block in blocks), tuple(map(log_ratio, blocks))


@lru_cache(maxsize=32)
def _table_on(
    knots: tuple[float, ...], log_ratios: tuple[float, ...], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    # Made once per device: copying from the host in every step would wait for the device.
    return torch.tensor(knots, device=device, dtype=dtype), torch.tensor(log_ratios, device=device, dtype=dtype)


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
