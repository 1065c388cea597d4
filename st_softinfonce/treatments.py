"""What the loss does with an estimator's similarities: each treatment is an object with validated options.

A treatment sets log weights, targets, or both of the one formula (:func:`st_softinfonce.functional.soft_info_nce`).
To write one, derive a frozen dataclass from :class:`Treatment` and override :meth:`~Treatment.log_weights` or
:meth:`~Treatment.targets`; the arithmetic belongs into a function of tensors, as in ``functional``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import override

from st_softinfonce._checks import check_positive, check_share
from st_softinfonce.functional import (
    check_above,
    check_mask,
    check_weighting,
    distilled_targets,
    mask_log_weights,
    negative_weights,
    posterior_weights,
    promoted_targets,
)
from st_softinfonce.posterior import RelevancePosterior


class Treatment:
    """What the loss does with how relevant an estimator finds each candidate: nothing, unless a subclass says so.

    Subclasses are frozen dataclasses. The fields of those here are the options of their function in ``functional``.
    """

    # Of the treatments that make targets, those with a smaller number come first, whatever order they are given in:
    # promotions (1) say which candidates are positives, distillation (2) mixes with that.
    order: ClassVar[int] = 0

    @property
    def idle(self) -> bool:
        """Whether these options have no effect, so that the estimator need not be asked."""
        return False

    def log_weights(self, similarity: Tensor, *, positives: Tensor, known: Tensor | None = None) -> Tensor | None:
        """Compute what is added to the scores of one block of candidates.

        Args:
            similarity: ``(N, M)`` floating point, higher is more relevant; -inf where ``known`` is False. In every
                block the entry at ``positives`` is the similarity of the positive from query to document.
            positives: ``(N,)`` int64, each row's positive.
            known: ``(M,)`` or ``(N, M)`` bool, which candidates the similarity says something about; ``None``: all.

        Returns:
            ``(N, M)``, 0 for an ordinary candidate and -inf for one that is taken out; or ``None`` for all 0.
        """
        return None

    def targets(
        self,
        similarity: Tensor,
        *,
        positives: Tensor,
        log_weights: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> Tensor | None:
        """Compute the targets of one block of candidates.

        Args:
            similarity: As for :meth:`log_weights`, like ``positives``.
            positives: Likewise.
            log_weights: ``(N, M)``, the sum of all treatments'; a candidate with -inf must have no target.
            targets: ``(N, M)``, those of the treatments before this one; ``None``: one-hot.

        Returns:
            ``(N, M)``, each row sums to 1; or ``None`` for one-hot targets.
        """
        return targets

    def get_config_dict(self) -> dict[str, Any]:
        """Return name and options, without those that are not set, as JSON primitives."""
        config: dict[str, Any] = {"treatment": type(self).__name__}
        for name in [field.name for field in fields(self)]:  # type: ignore[arg-type]
            value = getattr(self, name)
            if value is not None and value is not False:
                config[name] = value.summary() if isinstance(value, RelevancePosterior) else value
        return config

    def __str__(self) -> str:
        """Return name and options in one line, of a posterior only its prior."""
        config = self.get_config_dict()
        name = config.pop("treatment")
        if isinstance(config.get("posterior"), dict):
            config = {"prior": float(f"{config.pop('posterior')['prior']:.2g}")} | config
        return f"{name}({', '.join(f'{option}={value}' for option, value in config.items())})"

    def __post_init__(self) -> None:
        """Check the options, and turn NumPy's numbers, which are welcome but not JSON, into Python's."""
        self._check()
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value is not None and str(field.type).startswith("float"):
                object.__setattr__(self, field.name, float(value))

    def _check(self) -> None:
        """Refuse options that are out of range."""


@dataclass(frozen=True)
class Soften(Treatment):
    """Push away less what is similar, relative to the row's other negatives: the paper's weights.

    Eq. 4 of Soft-InfoNCE (Li et al. 2023), by :func:`~st_softinfonce.functional.negative_weights`. The temperature
    depends on the scale of the estimator's scores: an estimator's own treatment has one that suits them.

    Args:
        alpha: At least 0. Strength of the effect; 0 is plain InfoNCE.
        beta: Above 0. ``alpha + beta = 2`` keeps the loss on InfoNCE's scale.
        temperature: Above 0, in units of the estimator's similarity. Small: only the most similar is softened.
        min_weight: In (0, 1]. Floor of a negative's weight.

    Raises:
        ValueError: An option is out of range.

    Example:
        >>> Soften(alpha=1.5, beta=0.5, temperature=1.0).get_config_dict()
        {'treatment': 'Soften', 'alpha': 1.5, 'beta': 0.5, 'temperature': 1.0, 'min_weight': 0.1}
    """

    alpha: float
    beta: float
    temperature: float
    min_weight: float = 0.1

    def _check(self) -> None:
        check_weighting(**vars(self))

    @property
    @override
    def idle(self) -> bool:
        return self.alpha == 0

    @override
    def log_weights(self, similarity: Tensor, *, positives: Tensor, known: Tensor | None = None) -> Tensor:
        return negative_weights(similarity, **vars(self), positives=positives, known=known).log()


@dataclass(frozen=True)
class Discount(Treatment):
    """Push away less what is probably relevant, in absolute terms: the weight is ``1 - P(relevant | similarity)``.

    By :func:`~st_softinfonce.functional.posterior_weights`. ``calibrate`` fits the posterior to your data.

    Args:
        posterior: What the estimator's similarity says about relevance.
        min_weight: In [0, 1]. Floor of a negative's weight; 0 takes a surely relevant one out.

    Raises:
        ValueError: An option is out of range.
        TypeError: ``posterior`` is not a ``RelevancePosterior``.
    """

    posterior: RelevancePosterior
    min_weight: float = 0.1

    def _check(self) -> None:
        _check_posterior(self.posterior)
        check_share("min_weight", self.min_weight, zero=True, hint="1 is plain InfoNCE.")

    @property
    @override
    def idle(self) -> bool:
        return self.min_weight == 1

    @override
    def log_weights(self, similarity: Tensor, *, positives: Tensor, known: Tensor | None = None) -> Tensor:
        return posterior_weights(similarity, **vars(self), positives=positives).log()


@dataclass(frozen=True)
class Mask(Treatment):
    """Take the likely false negatives out, by exactly one rule.

    By :func:`~st_softinfonce.functional.mask_log_weights`. ``margin`` is GISTEmbed's guidance, with ``relative``
    NV-Retriever's, and with a negative margin Qwen3-Embedding's; ``top_k`` and ``ratio`` are the paper's
    false-negative cancellation; ``above`` suits duplicates, whose similarity is 1.

    Args:
        margin: Take out what is more similar than the positive less this, in units of the similarity.
        relative: The margin is a share of the positive's similarity.
        top_k: At least 1. Take out this many of each row's most similar negatives.
        ratio: Above 0. Take out what is at least this many times as similar as the positive.
        above: Take out what is more similar than this.

    Raises:
        ValueError: Not exactly one rule is given, or its value is out of range.

    Example:
        >>> Mask(margin=0.05, relative=True).get_config_dict()
        {'treatment': 'Mask', 'margin': 0.05, 'relative': True}
    """

    margin: float | None = None
    relative: bool = False
    top_k: int | None = None
    ratio: float | None = None
    above: float | None = None

    def _check(self) -> None:
        check_mask(**vars(self))

    @override
    def log_weights(self, similarity: Tensor, *, positives: Tensor, known: Tensor | None = None) -> Tensor:
        return mask_log_weights(similarity, **vars(self), positives=positives)


@dataclass(frozen=True)
class Promote(Treatment):
    """Make positives of the candidates that are relevant as well, in proportion to how probable that is.

    By :func:`~st_softinfonce.functional.promoted_targets`. For duplicates, answers that are known, or any estimator
    with a posterior.

    Args:
        posterior: What the estimator's similarity says about relevance. ``None`` takes the similarity itself as a
            probability, which suits estimators that know (0 or 1).
        above: In [0, 1). The probability from which on a candidate is a positive.

    Raises:
        ValueError: ``above`` is out of range.
        TypeError: ``posterior`` is not a ``RelevancePosterior``.
    """

    posterior: RelevancePosterior | None = None
    above: float = 0.5
    order: ClassVar[int] = 1

    def _check(self) -> None:
        if self.posterior is not None:
            _check_posterior(self.posterior)
        check_above(self.above)

    @override
    def targets(self, similarity: Tensor, **others: Any) -> Tensor:
        return promoted_targets(similarity, **vars(self), **others)


@dataclass(frozen=True)
class Distill(Treatment):
    """Learn the estimator's own ranking of each query's candidates, the positive and mined negatives included.

    Listwise distillation, by :func:`~st_softinfonce.functional.distilled_targets`. For estimators stronger than the
    model in training.

    Args:
        share: In [0, 1]. How much of each row's target is the estimator's; the rest is the positive's.
        temperature: Above 0, in units of the estimator's similarity. Small: its favourite gets all of the share.

    Raises:
        ValueError: An option is out of range.
    """

    share: float = 0.5
    temperature: float = 0.05
    order: ClassVar[int] = 2

    def _check(self) -> None:
        check_share("share", self.share, zero=True, hint="0 is plain InfoNCE, 1 learns from the estimator alone.")
        check_positive("temperature", self.temperature)

    @property
    @override
    def idle(self) -> bool:
        return self.share == 0

    @override
    def targets(self, similarity: Tensor, **others: Any) -> Tensor:
        return distilled_targets(similarity, **vars(self), **others)


def combine(
    judgements: Sequence[tuple[Sequence[Treatment], Tensor, Tensor | None]], positives: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Put together the treatments of one block of candidates by several estimators.

    Log weights add up, so that what one treatment takes out stays out. Then come the targets, in the order of
    :attr:`Treatment.order`.

    Args:
        judgements: For each estimator its treatments, its similarities ``(N, M)``, and which candidates they say
            something about, ``(M,)`` or ``(N, M)`` bool or ``None`` for all. The others' similarities are not read.
        positives: ``(N,)`` int64, each row's positive.

    Returns:
        Log weights and targets ``(N, M)``; ``None`` where nothing is weighed, or all is one-hot.
    """
    single = [
        (treatment, similarity if known is None else similarity.masked_fill(~known, -math.inf), known)
        for treatments, similarity, known in judgements
        for treatment in treatments
    ]
    log_weights: Tensor | None = None
    for treatment, similarity, known in single:
        more = treatment.log_weights(similarity, positives=positives, known=known)
        if more is not None:
            log_weights = more if log_weights is None else log_weights + more
    targets: Tensor | None = None
    for treatment, similarity, _ in sorted(single, key=lambda one: one[0].order):
        targets = treatment.targets(similarity, positives=positives, log_weights=log_weights, targets=targets)
    return log_weights, targets


def as_treatments(name: str, value: object) -> tuple[Treatment, ...]:
    """Return the treatments that the argument ``name`` holds: one, or a list; refuse anything else, and none.

    Raises:
        ValueError: There is none.
        TypeError: Something else than a treatment is among them; ``name`` is the argument's name in the message.
    """
    several = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    for treatment in several:
        if not isinstance(treatment, Treatment):
            made = " Call it with its options." if isinstance(treatment, type) else ""
            raise TypeError(
                f"{name} must be a treatment such as Soften(...), Mask(...) or Distill(), or a list of them, got "
                f"{treatment!r}.{made}"
            )
    if not several:
        raise ValueError(f"{name} must hold at least one treatment, got none. None itself takes the estimator's own.")
    return several


def describe_treatments(treatments: Sequence[Treatment]) -> Any:
    """Describe one treatment, or list the descriptions of several, as JSON primitives for a model card."""
    described = [treatment.get_config_dict() for treatment in treatments]
    return described[0] if len(described) == 1 else described


def _check_posterior(posterior: object) -> None:
    if not isinstance(posterior, RelevancePosterior):
        raise TypeError(
            f"posterior must be a RelevancePosterior, got {type(posterior).__name__}: "
            "calibrate(estimator, pairs, batch_size, model=model).posterior makes one from your data."
        )
