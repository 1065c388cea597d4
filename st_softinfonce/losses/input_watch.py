"""Warnings of input that can be trained on but is probably a mistake."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from st_softinfonce import _host
from st_softinfonce.estimators.base import SimilarityEstimator
from st_softinfonce.estimators.text_column import TextColumn

# Columns that mining writes beside the texts, and other usual names of what is no text to train on.
_METADATA = frozenset("duplicate_group language license line name package path repo repository url version".split())


class InputWarning(UserWarning):
    """Valid input that is probably a mistake."""


class InputWatch:
    """Warns, once each, of inputs that can be trained on but are probably mistakes."""

    # Looking at values is free on the CPU; elsewhere it waits for the device, so it is done now and then.
    _LOOK_EVERY = 100
    _FIRST_BATCHES = 5

    def __init__(self) -> None:
        self._batches = 0
        self._warned: set[str] = set()
        # By the id of an estimator, which need not be hashable: its name, and whether it told any negatives apart.
        self._different: dict[int, tuple[str, Tensor]] = {}

    @property
    def is_due(self) -> bool:
        """Whether this batch is one of those for which waiting for the device is worth while, the first among them."""
        return self._batches % self._LOOK_EVERY == 1

    def look(self, model: nn.Module, features: Sequence[dict[str, Any]], labels: Tensor | None) -> None:
        """Look at a batch before it is embedded."""
        if torch.compiler.is_compiling():
            return
        self._batches += 1
        if labels is not None:
            self._warn(
                "The dataset has a label column, which this loss ignores: it learns from (query, positive) pairs. "
                "Remove the column, and the pairs that are not positive with it."
            )
        if self._batches == 1:
            self._look_at_names(model, len(features))
        self._look_at_texts(model, features)
        if self._batches > self._FIRST_BATCHES:
            self._name_the_indifferent()

    def look_for_differences(
        self, estimator: SimilarityEstimator, similarity: Tensor, rows: Tensor, known: Tensor | None
    ) -> None:
        """Note whether an estimator tells any two negatives of a row apart, of those that it can judge."""
        alone = similarity.size(1) < 3  # a single negative has no other to differ from
        if alone or estimator.often_equal or self._batches > self._FIRST_BATCHES or torch.compiler.is_compiling():
            return
        left_out = torch.zeros_like(similarity, dtype=torch.bool).scatter(1, rows.unsqueeze(1), True)
        if known is not None:
            left_out |= ~known
        highest = similarity.masked_fill(left_out, -torch.inf).amax(dim=1)
        different = (highest > similarity.masked_fill(left_out, torch.inf).amin(dim=1)).any()
        _, before = self._different.get(id(estimator), (None, None))
        self._different[id(estimator)] = estimator.name, different if before is None else before | different

    def _name_the_indifferent(self) -> None:
        for key, (name, different) in list(self._different.items()):
            if different.device.type != "cpu" and not self.is_due:
                return
            del self._different[key]
            if not bool(different):
                self._warn(
                    f"The estimator {name!r} found all negatives equally similar in the first {self._FIRST_BATCHES} "
                    "batches, so that it has no effect. Check what it reads: its texts are those of the model "
                    "in training, decoded (see TextColumn.texts), not the original ones; ByText finds those."
                )

    def _look_at_names(self, model: nn.Module, columns: int) -> None:
        for names in _host.training_columns(model):
            suspects = [name for name in names[2:] if name in _METADATA]
            if len(names) == columns and suspects:
                self._warn(
                    f"The dataset's columns {suspects} train as hard negatives, like every text column after the "
                    f"second. If they are metadata, keep them out: dataset.select_columns({names[:2]})."
                )

    def _look_at_texts(self, model: nn.Module, features: Sequence[dict[str, Any]]) -> None:
        empty, size = [], 0
        for position, column_features in enumerate(features):
            ids = column_features.get("input_ids")
            if not isinstance(ids, Tensor) or (ids.device.type != "cpu" and not self.is_due):
                continue
            column = TextColumn(column_features, _host.column_tokenizer(model, column_features))
            size = len(column)
            count = int(column.empty.sum())
            if count:
                empty.append(f"{count} of {len(column)} in column {position}")
        if empty:
            self._warn(
                f"A batch has empty texts: {', '.join(empty)} (column 0 is the query). They train like any other "
                "text; filter them out of the dataset if that is not meant. This is said once, for the first such "
                "batch.",
                kind="empty",
            )
        if size == 1 and len(features) == 2:
            self._warn(
                "A batch has a single pair, so that there is no negative and the loss is 0: nothing is learnt from "
                "it. Raise per_device_train_batch_size; a last batch that is nearly empty is left out with "
                "dataloader_drop_last=True."
            )

    def _warn(self, message: str, kind: str | None = None) -> None:
        if (kind or message) not in self._warned:
            self._warned.add(kind or message)
            warnings.warn(message, InputWarning, stacklevel=5)
