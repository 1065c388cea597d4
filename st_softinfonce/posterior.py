"""How probable is it that a candidate is relevant, given an estimator's similarity?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from st_softinfonce._checks import check_share, is_number

_MIN_KNOWN = 50
_MIN_RANDOM = 1000
_BINS = 32
_MAX_PRIOR = 0.1


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

    def summary(self) -> dict[str, Any]:
        """Return what a model card should say of it, as JSON primitives: all but the table of ratios."""
        return {name: getattr(self, name) for name in ("prior", "relative", "known_pairs", "random_pairs")}

    def probability(self, similarity: Tensor) -> Tensor:
        """Evaluate it for similarities of any shape, made relative already if that is asked for; 0 at -inf.

        Half precision is computed in float32, without gradient and without waiting for the device.
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
    """Bound the share of relevant pairs among random ones: in no upper tail can they be more than all pairs there."""
    bounds = []
    for quantile in (0.5, 0.75, 0.9):
        threshold = known.sort().values[int(quantile * (len(known) - 1))]
        # One more than were seen: a sample without any such pair does not prove that there are none.
        tail = (int((random >= threshold).sum()) + 1) / (len(random) + 1)
        bounds.append(tail / float((known >= threshold).double().mean()))
    if min(bounds) > _MAX_PRIOR:
        raise ValueError(
            f"prior cannot be estimated: {min(bounds):.0%} of the random pairs score as high as known pairs do. The "
            "estimator barely tells them apart; take another one, or give the prior if it really is that high."
        )
    return min(bounds)


def _isotonic_log_ratio(known: Tensor, random: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Estimate log(f_known / f_random) as a rising sequence of (mean score, log ratio)."""
    from sklearn.isotonic import isotonic_regression  # here, as importing it takes a second

    scores = torch.cat([known, random]).numpy()
    counts = np.zeros((2, len(scores)))  # of known and of random pairs
    counts[0, : len(known)], counts[1, len(known) :] = 1, 1
    order = np.argsort(scores, kind="stable")[np.isneginf(scores).sum() :]  # -inf has no density
    scores, counts = scores[order], counts[:, order]
    mass = counts.T @ [0.5 / len(known), 0.5 / len(random)]
    cuts = mass.sum() * np.arange(1, _BINS) / _BINS
    edges = np.unique(scores[np.searchsorted(mass.cumsum(), cuts).clip(max=len(scores) - 1)])
    place = np.searchsorted(edges, scores, side="right")

    def totals(group: Any, values: Any) -> Any:
        return np.stack([np.bincount(group, weights=row) for row in values])

    bins = totals(place, [*counts, mass, mass * scores])
    bins = bins[:, bins[2] > 0]
    share = isotonic_regression(bins[0] * (0.5 / len(known)) / bins[2], sample_weight=bins[2])
    in_known, in_random, mass, moment = totals(np.unique(share, return_inverse=True)[1], bins)
    # Half a count more on both sides: a bin without random pairs has a large ratio, not an infinite one.
    log_ratios = np.log((in_known + 0.5) / (len(known) + 1)) - np.log((in_random + 0.5) / (len(random) + 1))
    log_ratios = np.maximum.accumulate(log_ratios)  # which can make it fall by a little
    if log_ratios[0] == log_ratios[-1]:
        raise ValueError(
            "known_scores and random_scores differ in no way that rises with the score: the estimator does not tell "
            "relevant pairs from random ones. Take another."
        )
    return tuple((moment / mass).tolist()), tuple(log_ratios.tolist())


@lru_cache(maxsize=32)
def _table_on(
    knots: tuple[float, ...], log_ratios: tuple[float, ...], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    # Made once per device: copying from the host in every step would wait for the device.
    return torch.tensor(knots, device=device, dtype=dtype), torch.tensor(log_ratios, device=device, dtype=dtype)
