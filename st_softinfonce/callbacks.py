"""See what the treatments do while training: their effects in the trainer's logs."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from datasets import DatasetDict, IterableDatasetDict
from torch import nn
from transformers import TrainerCallback, TrainerState

from st_softinfonce.effects import EffectSums
from st_softinfonce.losses.soft_info_nce import Block, SoftInfoNCELoss

if TYPE_CHECKING:
    from sentence_transformers.base.trainer import BaseTrainer
    from torch.utils.hooks import RemovableHandle


class TreatmentStatisticsCallback(TrainerCallback):
    """Logs what the treatments did to the negatives since the last log, beside the training loss.

    All that the trainer reports to (TensorBoard, W&B, ...) get these entries, and ``trainer.state.log_history``:

    - ``negatives_masked``, ``negatives_softened`` (a weight below 0.9) and ``negatives_promoted`` (more than a tenth
      of their positive's target): shares of the negatives;
    - ``weight_mean``, over all negatives; a masked one has the weight 0;
    - ``effective_negatives``: mean over queries of ``(sum of weights)^2 / sum of squared weights``, which is the
      number of negatives where all weights are equal;
    - ``negatives_target``: the share of the targets that negatives have.

    When training on several datasets, each has entries of its own, ``NAME_weight_mean`` and so on. The batches then
    say which dataset they come from, as they do anyway where each dataset has its own loss; the losses do not see it.

    The sums stay on the device and are read once a log, so that no step waits. The losses within a wrapper and the
    directions of a loss count together. Evaluation is left out. On several devices each process sees its own rows,
    and what the main process saw is logged.

    Raises:
        ValueError: The trainer has no loss that treats negatives.

    Example::

        trainer.add_callback(TreatmentStatisticsCallback(trainer))
    """

    def __init__(self, trainer: BaseTrainer) -> None:
        self._trainer = trainer
        self._sums: defaultdict[str | None, EffectSums] = defaultdict(EffectSums)
        self._handles: list[RemovableHandle] = []
        self._dataset: str | None = None
        losses = list(self._losses())
        if not losses:
            found = trainer.loss
            names = sorted({type(loss).__name__ for loss in (found.values() if isinstance(found, dict) else [found])})
            raise ValueError(
                f"trainer must train with SoftInfoNCELoss or a loss made of it, alone or within others, got {names}: "
                "no other loss has treatments to report. Leave the callback out."
            )
        if not any(loss.judges for loss in losses):
            warnings.warn(
                "TreatmentStatisticsCallback has nothing to log: no estimator judges the negatives, or its treatment "
                "has no effect (as with alpha=0).",
                stacklevel=2,
            )
        self._name_datasets()

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Begin to watch the losses."""
        self._sums.clear()
        self.on_train_end(args, state, control)  # of a training that was interrupted
        self._handles = [loss.register_block_hook(self._watch) for loss in self._losses() if loss.judges]
        # Reporters come before callbacks of a user's, and would have seen the logs without these entries. A new list,
        # as the handler is going through the old one.
        handler = self._trainer.callback_handler
        handler.callbacks = [self, *(callback for callback in handler.callbacks if callback is not self)]

    def on_log(
        self, args: Any, state: TrainerState, control: Any, logs: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Add the statistics to the logs of training."""
        if logs is None or "loss" not in logs:
            return
        entries: dict[str, float] = {}
        for dataset, sums in self._sums.items():
            if (effects := sums.read()) is not None:
                prefix = "" if dataset is None else f"{dataset}_"
                for name in ("masked", "softened", "promoted", "target"):
                    entries[f"{prefix}negatives_{name}"] = getattr(effects, name)
                for name in ("weight_mean", "effective_negatives"):
                    entries[prefix + name] = getattr(effects, name)
        logs.update(entries)
        # The history has a copy that was made before.
        if entries and state.log_history:
            state.log_history[-1].update(entries)

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _watch(self, loss: SoftInfoNCELoss, block: Block) -> None:
        if not self._trainer.model.training:
            return
        # What is no candidate has the score -inf.
        negative = (block.scores > -torch.inf).scatter(1, block.positives.unsqueeze(1), False)
        self._sums[self._dataset].add(
            block.log_weights,
            block.targets,
            block.positives,
            negative,
            # In a joint softmax all targets are in the first direction.
            holds_targets=block.direction == "query_to_doc" or loss.partition_mode == "per_direction",
        )

    def _name_datasets(self) -> None:
        """Learn from which of several datasets each batch comes, by the name that the host gives to its inputs."""
        trainer: Any = self._trainer
        datasets = trainer.train_dataset
        if not isinstance(datasets, DatasetDict | IterableDatasetDict):
            return
        if not hasattr(datasets, "_sentence_transformers_preprocessed"):
            trainer.train_dataset = trainer.add_dataset_name_column(datasets)
            trainer.train_dataset._sentence_transformers_preprocessed = True
        compute_loss = trainer.compute_loss

        def compute_named_loss(model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            self._dataset = inputs.get("dataset_name")
            return compute_loss(model, inputs, *args, **kwargs)

        trainer.compute_loss = compute_named_loss

    def _losses(self) -> Iterator[SoftInfoNCELoss]:
        """Find each loss once, also within others and where several datasets share one."""
        losses: Any = self._trainer.loss
        everything = nn.ModuleList(losses.values() if isinstance(losses, dict) else [losses])
        return (module for module in everything.modules() if isinstance(module, SoftInfoNCELoss))
