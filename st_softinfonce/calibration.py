"""What would the treatments do on my data: counts at my batch size, and treatments that are fitted to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, cast

import torch
from datasets import Dataset
from torch import Tensor, nn
from tqdm import tqdm

from st_softinfonce._checks import check_count, check_share
from st_softinfonce.effects import Effects
from st_softinfonce.estimators.base import SimilarityEstimator
from st_softinfonce.estimators.registry import get_estimator
from st_softinfonce.functional import temperature_for_share
from st_softinfonce.pair_batches import PairTexts, batch_similarities, negatives_of
from st_softinfonce.posterior import RelevancePosterior
from st_softinfonce.treatments import Discount, Distill, Mask, Promote, Soften, Treatment, as_treatments, combine

__all__ = ["CalibrationReport", "calibrate", "make_treatment"]

_RANDOM_PAIRS = 100_000
_MOST_PASSES = 10
# Of the table: what a row is called, the attribute of Effects, and its format.
_ROWS = (
    ("masked negatives", "masked", ".2%"),
    ("softened negatives", "softened", ".2%"),
    ("promoted negatives", "promoted", ".2%"),
    ("share of the targets", "target", ".2%"),
    ("mean weight", "weight_mean", ".4g"),
    ("effective number of negatives", "effective_negatives", ".4g"),
    ("queries without any of these", "untouched_queries", ".1%"),
)
# What the paper found best; for estimators whose own treatment is another.
_PAPER = Soften(alpha=1.3, beta=0.7, temperature=1.0)


@dataclass(frozen=True)
class CalibrationReport:
    """What treatments do on a dataset at a batch size; ``str()`` is a table."""

    estimator: str  # its name
    batch_size: int
    batches: int  # looked at
    treatments: tuple[Treatment, ...]  # asked about, by default the estimator's own
    soften: Soften | None  # the paper's weights at the temperature that softens about the share asked for
    soften_problem: str | None  # why there is none
    discount: Discount | None  # weights in absolute terms, with the posterior fitted
    discount_problem: str | None  # why there is none
    softened_share: float  # the share of negatives that `soften` was to soften
    effects: dict[str, Effects]  # what each does, by "treatments", "soften" and "discount"; those that there are

    @property
    def posterior(self) -> RelevancePosterior | None:
        """The relevance posterior, which ``Promote`` takes as well; ``None`` if the estimator does not allow one."""
        return None if self.discount is None else self.discount.posterior

    @property
    def advice(self) -> str:
        """One sentence on what to make of the numbers."""
        treated = self.effects["treatments"].treated
        if treated == 0:
            return f"{self._asked} leaves all negatives alone at this batch size: this is plain InfoNCE."
        if self.discount is None:
            return f"No posterior: {self.discount_problem}"
        relevant = self.effects["discount"].treated
        if treated > 5 * relevant:
            return (
                f"{self._asked} treats {treated:.3g} negatives of a query, and about {relevant:.2g} of them "
                "look relevant in absolute terms: report.discount treats those alone."
            )
        return f"{self._asked} treats about as many negatives as look relevant in absolute terms."

    @property
    def _asked(self) -> str:
        return " and ".join(type(treatment).__name__ for treatment in self.treatments)

    def python(self, estimator: str | None = None) -> str:
        """Return the lines of Python that train with what was fitted; they need only a ``model``.

        The ``estimator`` is a Python expression; by default its name.
        """
        estimator = repr(self.estimator) if estimator is None else estimator
        used = ["SoftInfoNCELoss"] + ["get_estimator"] * ("get_estimator" in estimator)
        lines = []
        if self.soften is not None:
            used.append("Soften")
            lines += [
                f"# The paper's weights, for batches of {self.batch_size}:",
                f"loss = SoftInfoNCELoss(model, {estimator}, {self.soften!r})",
            ]
        if self.discount is not None:
            used += ["Discount", "RelevancePosterior"]
            lines += [
                "# Weights by the probability of being relevant, for any batch size:",
                f"loss = SoftInfoNCELoss(model, {estimator}, {self.discount!r})",
            ]
        return "\n".join([f"from st_softinfonce import {', '.join(sorted(used))}", "", *lines]) if lines else ""

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as JSON primitives, with the posterior as ``RelevancePosterior(**it)`` takes it."""
        return asdict(self) | {
            "treatments": [treatment.get_config_dict() for treatment in self.treatments],
            "posterior": self.posterior and asdict(self.posterior),
            "advice": self.advice,
        }

    def __str__(self) -> str:
        """Return the report as a table."""
        temperature = "" if self.soften is None else f", t={self.soften.temperature:.4g}"
        names = {"treatments": self._asked, "soften": f"report.soften{temperature}", "discount": "report.discount"}
        columns = [f"{names[key]:>24}" for key in self.effects]
        lines = [
            f"{self.estimator}: {self.batches} batches of {self.batch_size}, {self.batch_size - 1} negatives a query",
            f"{'':32}{''.join(columns)}",
        ]
        for title, name, form in _ROWS:
            values = [f"{getattr(effects, name):{form}}" for effects in self.effects.values()]
            lines.append(f"{title:32}" + "".join(f"{value:>24}" for value in values))
        lines += map(str, self.treatments)
        if self.soften is None:
            lines.append(f"No Soften: {self.soften_problem}")
        else:
            reached = self.effects["soften"].softened
            lines.append(f"report.soften softens {reached:.1%} (asked: {self.softened_share:.1%}).")
        if self.posterior is not None:
            lines.append(f"A random pair is relevant with a probability of about {self.posterior.prior:.2g}.")
        return "\n".join([*lines, self.advice])


def calibrate(
    estimator: str | SimilarityEstimator,
    pairs: Dataset,
    batch_size: int,
    *,
    treatment: Treatment | Sequence[Treatment] | None = None,
    model: nn.Module,
    batches: int | None = None,
    softened_share: float = 0.05,
    prior: float | None = None,
    seed: int = 0,
    **reading: Any,
) -> CalibrationReport:
    """Report what an estimator's treatment does on your data at your batch size, and fit others to both.

    Batches are drawn as in training, in random order. Known relevant pairs are each query with its own document; for
    an estimator that compares queries (or positives) each one with itself, as a twin with the same documentation would
    score, and scores are then relative to that. Random pairs are all the others of a batch. The report's ``soften``
    and ``discount`` are ready to pass to the loss.

    Args:
        estimator: An installed estimator's name, or an estimator.
        pairs: The columns ``query`` and ``code``, or else the first two columns.
        batch_size: At least 2.
        treatment: What to count the effects of, one treatment or several; ``None`` takes the estimator's own.
        model: The model to train, which decides what is read of the texts.
        batches: At least 1; by default as many as give 100,000 random pairs, of at most ten passes over the data.
        softened_share: In (0, 1]. The share of negatives with a weight below 0.9 that ``report.soften`` is to reach
            (:func:`~st_softinfonce.functional.temperature_for_share`). Its other options are those of the ``Soften``
            asked about, else of the estimator's, else ``alpha=1.3, beta=0.7`` as in the paper.
        prior: In (0, 1]. Probability that a random pair is relevant; by default estimated.
        seed: Of the order.
        **reading: ``prompts``, ``router_mapping`` and ``max_length`` as given to the trainer: see
            :class:`~st_softinfonce.pair_batches.PairTexts`.

    Raises:
        ValueError: An option is out of range, there are fewer pairs than a batch, or the estimator is unknown or
            breaks its contract.
        TypeError: ``treatment`` is no treatment, or ``estimator`` no estimator.
    """
    judge = get_estimator(estimator)
    asked = (judge.treatment,) if treatment is None else as_treatments("treatment", treatment)
    check_share("softened_share", softened_share)
    if prior is not None:
        check_share("prior", prior)
    texts = PairTexts(pairs, model=model, **reading)
    check_count("batch_size", batch_size, 2)
    if batches is None:
        wanted = math.ceil(_RANDOM_PAIRS / (batch_size * (batch_size - 1)))
        batches = min(wanted, max(1, _MOST_PASSES * (len(pairs) // batch_size)))
    blocks = batch_similarities(judge, texts, batch_size, batches=batches, seed=seed)
    shown = tqdm(blocks, desc="Calibrating", total=batches, unit="batch", disable=None)
    similarity = torch.cat([block.cpu() for _, block in shown])  # (batches * batch_size, batch_size)
    positives = torch.arange(batch_size).repeat(batches)

    soften = soften_problem = discount = discount_problem = None
    base = next(one for one in (*asked, judge.treatment, _PAPER) if isinstance(one, Soften))
    temperature = temperature_for_share(
        similarity, alpha=base.alpha, beta=base.beta, share=softened_share, positives=positives
    )
    if temperature is not None:
        soften = replace(base, temperature=temperature)
    else:
        soften_problem = (
            f"no temperature makes a difference with alpha={base.alpha:g} and beta={base.beta:g}: all negatives are "
            f"equally similar, or {batch_size - 1} negatives are too few."
        )
    try:
        discount = Discount(_fitted_posterior(judge, similarity, positives, prior))
    except ValueError as error:
        discount_problem = str(error)

    negative = torch.ones_like(similarity, dtype=torch.bool).scatter(1, positives.unsqueeze(1), False)
    chosen = {"treatments": asked, "soften": soften and (soften,), "discount": discount and (discount,)}
    effects = {
        name: Effects.of(*combine([(treatments, similarity, None)], positives), positives, negative)
        for name, treatments in chosen.items()
        if treatments
    }
    return CalibrationReport(
        estimator=judge.name,
        batch_size=batch_size,
        batches=batches,
        treatments=asked,
        soften=soften,
        soften_problem=soften_problem,
        discount=discount,
        discount_problem=discount_problem,
        softened_share=softened_share,
        effects=effects,
    )


def make_treatment(
    name: Literal["soften", "discount", "mask", "promote", "distill"],
    options: Mapping[str, Any],
    estimator: SimilarityEstimator,
    pairs: Dataset,
    batch_size: int,
    **reading: Any,
) -> Treatment:
    """Make a treatment by its name, and fit to the data what neither the options nor the estimator say.

    An estimator's own treatment of that kind is taken as it is, or with other options if it is ``Soften``. Otherwise
    the temperature of ``Soften`` and the posterior of ``Discount`` are those of :func:`calibrate`, which takes the
    same ``pairs``, ``batch_size`` (made smaller if there are fewer pairs) and ``reading``.

    Raises:
        ValueError: An option is out of range, or the data do not allow to fit it.
        TypeError: The treatment has no such option.
    """
    kind: Any = {"soften": Soften, "discount": Discount, "mask": Mask, "promote": Promote, "distill": Distill}[name]
    known = [field.name for field in fields(kind)]
    if unknown := sorted(set(options) - set(known)):
        raise TypeError(f"options of {name} must be among {', '.join(known)}, got {', '.join(unknown)}.")
    own: Any = estimator.treatment
    if isinstance(own, kind) and (not options or kind is Soften):
        return cast(Treatment, replace(own, **options))
    if kind not in (Soften, Discount):
        return cast(Treatment, kind(**options))
    report = calibrate(estimator, pairs, max(2, min(batch_size, len(pairs))), **reading)
    fitted: Any = getattr(report, name)
    if fitted is None:
        raise ValueError(f"no treatment {name!r} for {estimator.name!r}: {getattr(report, f'{name}_problem')}")
    return cast(Treatment, replace(fitted, **options))


def _fitted_posterior(
    estimator: SimilarityEstimator, similarity: Tensor, positives: Tensor, prior: float | None
) -> RelevancePosterior:
    relative = estimator.compares in ("queries", "positives")
    if relative:
        own = similarity.gather(1, positives.unsqueeze(1))
        usable = (own > 0).squeeze(1)  # a text without content is not even similar to itself
        if not bool(usable.any()):
            raise ValueError(
                "no text is similar to itself (above 0), which scores are made relative to: all are empty, or the "
                "statistics of so small a batch say nothing. Give a larger batch_size, or statistics of a corpus."
            )
        similarity, positives = similarity[usable] / own[usable], positives[usable]
    known = similarity.gather(1, positives.unsqueeze(1))
    return RelevancePosterior.fit(known, negatives_of(similarity, positives), prior, relative=relative)
