"""See what the weights do while training: their statistics in the trainer's logs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from st_softinfonce.losses.soft_info_nce import SoftInfoNCELoss

if TYPE_CHECKING:
    from sentence_transformers.base.trainer import BaseTrainer

__all__ = ["WeightStatisticsCallback"]

_ROUNDING = 1 + 1e-6


class WeightStatisticsCallback(TrainerCallback):
    """Logs what the weights of the negatives were since the last log, beside the training loss.

    All that the trainer reports to (TensorBoard, W&B, ...) get these entries, and ``trainer.state.log_history``:

    - ``weight_mean`` and ``weight_min``, over all negatives of all queries;
    - ``weight_share_at_floor`` and ``weight_share_below_0.9``: the share of the negatives;
    - ``effective_negatives``: mean over queries of ``(sum of weights)^2 / sum of squared weights``, which is the
      number of negatives where all weights are equal.

    The sums stay on the device and are read once a log, so that no step waits. All losses of the trainer count
    together, wrapped or not, as do both directions of a loss. Explicit negatives that the estimator knows nothing of
    count with their weight 1. Evaluation is left out. On several devices each process sees its own rows, and what the
    main process saw is logged.

    Args:
        trainer: The trainer that it is added to.

    Raises:
        ValueError: The trainer has no loss that weighs negatives.

    Example::

        trainer.add_callback(WeightStatisticsCallback(trainer))
    """

    def __init__(self, trainer: BaseTrainer) -> None:
        self._trainer = trainer
        self._statistics = _Statistics()
        losses = list(self._losses())
        if not losses:
            found = trainer.loss
            names = sorted({type(loss).__name__ for loss in (found.values() if isinstance(found, dict) else [found])})
            raise ValueError(
                f"trainer must train with SoftInfoNCELoss or a loss made of it, alone or within others, got {names}: "
                "no other loss has weights to report. Leave the callback out."
            )
        if all(loss.weighting == "paper" and loss.alpha == 0 for loss in losses):
            warnings.warn(
                "WeightStatisticsCallback has nothing to log with alpha=0, where every weight is 1.", stacklevel=2
            )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin to watch the losses.

        Args:
            args: Ignored, as are the others.
            state: Ignored.
            control: Ignored.
            **kwargs: Ignored.
        """
        self._statistics = _Statistics()
        for loss in self._losses():
            loss.observer = _Observer(self._statistics, loss, self._trainer)
        # Reporters come before callbacks of a user's, and would have seen the logs without these entries. A new list,
        # as the handler is going through the old one.
        handler = self._trainer.callback_handler
        handler.callbacks = [self, *(callback for callback in handler.callbacks if callback is not self)]

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the statistics to the logs of training.

        Args:
            args: Ignored.
            state: Its history gets them too.
            control: Ignored.
            logs: What is about to be reported.
            **kwargs: Ignored.
        """
        if logs is None or "loss" not in logs:
            return
        entries = self._statistics.read()
        logs.update(entries)
        # The history has a copy that was made before.
        if entries and state.log_history:
            state.log_history[-1].update(entries)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop watching.

        Args:
            args: Ignored, as are the others.
            state: Ignored.
            control: Ignored.
            **kwargs: Ignored.
        """
        for loss in self._losses():
            loss.observer = None

    def _losses(self) -> Iterator[SoftInfoNCELoss]:
        losses: Any = self._trainer.loss
        for loss in losses.values() if isinstance(losses, dict) else [losses]:
            if isinstance(loss, nn.Module):
                yield from (module for module in loss.modules() if isinstance(module, SoftInfoNCELoss))


class _Statistics:
    """Sums over all weights seen since they were read, on their device."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._least: Tensor | None = None

    def add(self, weights: Tensor, positives: Tensor, min_weight: float) -> None:
        rows, columns = weights.shape
        if columns < 2:
            return
        # float32 would round sums over many steps; Apple's devices have nothing wider.
        wide = torch.float32 if weights.device.type == "mps" else torch.float64
        # A positive's weight is 1.
        total = weights.sum(1, dtype=wide) - 1  # (rows,)
        squares = weights.square().sum(1, dtype=wide) - 1  # (rows,)
        negatives = weights.scatter(1, positives.unsqueeze(1), torch.inf)  # (rows, columns)
        sums = torch.stack(
            [
                total.sum(),
                # A floor of 0 allows a row of zeros, in which nothing is left.
                (total.square() / squares.clamp(min=torch.finfo(wide).tiny)).sum(),
                (negatives <= min_weight * _ROUNDING).sum().to(wide),
                (negatives < 0.9).sum().to(wide),
                torch.full_like(total[0], rows * (columns - 1)),
                torch.full_like(total[0], rows),
            ]
        )
        least = negatives.amin()
        self._sums = sums if self._sums is None else self._sums + sums
        self._least = least if self._least is None else torch.minimum(self._least, least)

    def read(self) -> dict[str, float]:
        """Return what was seen since the last time, and begin anew."""
        if self._sums is None or self._least is None:
            return {}
        total, effective, floor, softened, negatives, rows = self._sums.tolist()
        least = float(self._least)
        self._sums = self._least = None
        return {
            "weight_mean": total / negatives,
            "weight_min": least,
            "weight_share_at_floor": floor / negatives,
            "weight_share_below_0.9": softened / negatives,
            "effective_negatives": effective / rows,
        }


class _Observer:
    """What a loss calls with its weights; evaluation is not of interest."""

    def __init__(self, statistics: _Statistics, loss: SoftInfoNCELoss, trainer: BaseTrainer) -> None:
        self._statistics = statistics
        self._min_weight = loss.min_weight
        self._trainer = trainer

    def __call__(self, weights: Tensor, positives: Tensor) -> None:
        if self._trainer.model.training:
            self._statistics.add(weights, positives, self._min_weight)
