"""What treatments made of the negatives of a block, counted in one way for every report and log."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# A negative counts as softened if its weight is below this, and as promoted or taught if its target is more than
# (1 - this) times its positive's.
SOFTENED_BELOW = 0.9
# What can have happened to a negative; 0 is "left alone", so these are numbered from 1.
EFFECTS = ("masked", "promoted", "taught", "softened")
_MASKED, _PROMOTED, _TAUGHT, _SOFTENED = range(1, 5)


@dataclass(frozen=True)
class Effects:
    """What treatments do to the negatives of a query, on average."""

    negatives: float  # of a query
    masked: float  # share of the negatives that are taken out
    softened: float  # share of them that stay, without a target, at a weight below 0.9
    promoted: float  # share of them with more than a tenth of their positive's target: positives, or a teacher's
    weight_mean: float  # of a negative; 0 for one that is taken out
    # Mean over queries of (sum of weights)^2 / sum of squared weights: the number of negatives if weights are equal.
    effective_negatives: float
    target: float  # share of the targets that negatives have
    untouched_queries: float  # share of the queries none of whose negatives is masked, softened or promoted

    @property
    def treated(self) -> float:
        """How many negatives of a query are masked, softened or promoted."""
        return self.negatives * (self.masked + self.softened + self.promoted)

    @classmethod
    def of(cls, log_weights: Tensor | None, targets: Tensor | None, positives: Tensor, negative: Tensor) -> Effects:
        """Count one block with at least one negative; the arguments are those of :meth:`EffectSums.add`."""
        sums = EffectSums()
        sums.add(log_weights, targets, positives, negative)
        effects = sums.read()
        assert effects is not None  # something was added
        return effects


class EffectSums:
    """Sums over the negatives of many blocks; they stay on their device until they are read."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._sums: Tensor | None = None  # one for each name

    def add(
        self,
        log_weights: Tensor | None,
        targets: Tensor | None,
        positives: Tensor,
        negative: Tensor,
        *,
        holds_targets: bool = True,
    ) -> None:
        """Count a block, without waiting for its device.

        Args:
            log_weights: ``(N, M)``; ``None``: all weights are 1.
            targets: ``(N, M)``; ``None``: all of a row's target is its positive's.
            positives: ``(N,)`` columns.
            negative: ``(N, M)`` bool, which entries are negatives.
            holds_targets: Whether the loss has targets in this block; if not, ``targets`` is not read.
        """
        # float32 would round sums over many steps; Apple's devices have nothing wider.
        wide = torch.float32 if negative.device.type == "mps" else torch.float64
        targets = targets if holds_targets else None
        effect = effect_of(log_weights, targets, positives, negative)
        weights = negative.float() if log_weights is None else log_weights.detach().exp() * negative
        total = weights.sum(dim=1, dtype=wide)  # (N,)
        squares = weights.square().sum(dim=1, dtype=wide).clamp(min=torch.finfo(wide).tiny)  # all may be masked
        rows = torch.full_like(total[0], len(negative))
        sums = {
            "rows": rows,
            "rows_with_targets": rows * holds_targets,
            "negatives": negative.sum(dtype=wide),
            "masked": (effect == _MASKED).sum(dtype=wide),
            "softened": (effect == _SOFTENED).sum(dtype=wide),
            "promoted": (effect == _PROMOTED).sum(dtype=wide),
            "weights": total.sum(),
            "effective_negatives": (total.square() / squares).sum(),
            "targets": torch.zeros_like(rows) if targets is None else (targets.detach() * negative).sum(dtype=wide),
            "untouched": (effect == 0).all(dim=1).sum(dtype=wide),
        }
        more = torch.stack(list(sums.values()))
        self._names, self._sums = tuple(sums), more if self._sums is None else self._sums + more

    def read(self) -> Effects | None:
        """Wait for the sums, return what they say, and start again from 0; ``None`` if there were no negatives."""
        if self._sums is None:
            return None
        found = dict(zip(self._names, self._sums.tolist(), strict=True))
        self._sums = None
        rows, negatives = found["rows"], found["negatives"]
        if negatives == 0:
            return None
        return Effects(
            negatives=negatives / rows,
            masked=found["masked"] / negatives,
            softened=found["softened"] / negatives,
            promoted=found["promoted"] / negatives,
            weight_mean=found["weights"] / negatives,
            effective_negatives=found["effective_negatives"] / rows,
            target=found["targets"] / max(found["rows_with_targets"], 1),
            untouched_queries=found["untouched"] / rows,
        )


def effect_of(
    log_weights: Tensor | None, targets: Tensor | None, positives: Tensor, negative: Tensor, *, taught: bool = False
) -> Tensor:
    """Tell what happened to each negative of a block.

    A negative that has lost its weight is masked. One with more than a tenth of its positive's target is promoted, or
    ``taught`` if a teacher gives targets. One of the others with a weight below 0.9 is softened. The other arguments
    are those of :meth:`EffectSums.add`. Returned is ``(N, M)`` uint8, 0 or one more than the place in :data:`EFFECTS`.
    """
    effect = torch.zeros_like(negative, dtype=torch.uint8)
    if log_weights is not None:
        effect = effect.masked_fill(log_weights.exp() < SOFTENED_BELOW, _SOFTENED)
    if targets is not None:
        notable = targets > (1 - SOFTENED_BELOW) * targets.gather(1, positives.unsqueeze(1))
        effect = effect.masked_fill(notable, _TAUGHT if taught else _PROMOTED)
    if log_weights is not None:
        effect = effect.masked_fill(log_weights == -torch.inf, _MASKED)
    return effect.masked_fill(~negative, 0)
