"""The glue that every loss of this package shares: embed the columns, ask the estimator, go through the rows."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import is_not
from typing import Any

import torch
import torch.nn.functional as F
from sentence_transformers.util import all_gather_with_grad, cos_sim, get_rank, similarity_fct_name
from torch import Tensor, nn

from st_softinfonce import _host
from st_softinfonce.estimators.base import (
    SimilarityEstimator,
    TextColumn,
    checked_representation,
    checked_similarity,
    join_representations,
)
from st_softinfonce.estimators.known_queries import KnownQueries
from st_softinfonce.estimators.registry import describe_estimator, get_estimator
from st_softinfonce.functional import check_positive, check_similarity


class InputWarning(UserWarning):
    """The training data hold something that trains, but hardly as its owner meant it."""


class Representations(tuple[Tensor, ...]):
    """The estimator's representations of a batch: of the columns that it compares, in order.

    Attributes:
        known: For each column of explicit negatives whose queries are compared, which of them are known ``(B,)``.
    """

    known: tuple[Tensor, ...] = ()


class InBatchLoss(nn.Module, ABC):
    """A loss over the scores of every query of a batch with every document of it.

    A subclass says what it makes of some rows of scores (:meth:`_rows_loss`). This class embeds the columns, has the
    estimator represent them before the model can change the features, gathers both across devices, and checks what
    comes in.

    Args:
        model: The model to train.
        estimator: An installed estimator's name, or an estimator.
        scale: Above 0. Multiplies the model's similarity; the inverse of the softmax temperature.
        similarity_fct: ``(queries (B, D), documents (C, D)) -> (B, C)``.
        gather_across_devices: Take the documents of all devices as candidates.
        known_queries: The queries of mined hard negatives, for an estimator that compares queries.

    Raises:
        ValueError: ``scale`` is out of range, or the estimator is unknown or breaks its contract.
    """

    def __init__(
        self,
        model: nn.Module,
        estimator: str | SimilarityEstimator,
        *,
        scale: float = 20.0,
        similarity_fct: Callable[..., Tensor] = cos_sim,
        gather_across_devices: bool = False,
        known_queries: KnownQueries | None = None,
    ) -> None:
        super().__init__()
        if known_queries is not None and not isinstance(known_queries, KnownQueries):
            raise TypeError(
                f"known_queries must be a KnownQueries, got {type(known_queries).__name__}. KnownQueries(query_of, "
                "model) makes one from a mapping of document to query."
            )
        self.model = model
        self.estimator = get_estimator(estimator)
        self.estimator.attach(model)
        check_positive("scale", scale)
        self.scale = float(scale)
        self.similarity_fct = similarity_fct
        self.gather_across_devices = gather_across_devices
        self.known_queries = known_queries
        if known_queries is not None and self.estimator.compares != "queries":
            warnings.warn(
                f"known_queries have no effect with the estimator {self.estimator.name!r}, which compares "
                f"{self.estimator.compares}: it weighs explicit negatives by their own text. Leave them out.",
                InputWarning,
                stacklevel=3,
            )
        self._watch = _InputWatch()
        self._card_losses: list[dict[str, Any]] = []

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        """Compute the loss of one batch.

        Args:
            sentence_features: One dict of features a column: query, positive, and any number of negatives.
            labels: Without meaning here; ignored with one warning.

        Returns:
            Mean over the batch's queries, a scalar.

        Raises:
            ValueError: There are fewer than two columns, or the estimator breaks its contract.
        """
        features = list(sentence_features)
        representations = self.prepare(features, labels)
        return self.compute_loss_from_embeddings(_host.embed_columns(self.model, features), representations)

    def prepare(self, features: Sequence[dict[str, Tensor]], labels: Tensor | None = None) -> Representations:
        """Check a batch and represent it, before it is embedded: modules write into the features.

        Args:
            features: One dict of features a column.
            labels: The dataset's labels, if it has any.

        Returns:
            As :meth:`represent`.

        Raises:
            ValueError: There are fewer than two columns, or the estimator breaks its contract.
        """
        self._check_columns(len(features))
        self._watch.look(self.model, features, labels)
        # A trainer made since writes of the loss anew; comparing what is written would be too slow for every step.
        described = _host.card_losses(self.model)
        if len(described) != len(self._card_losses) or any(map(is_not, described, self._card_losses)):
            self._update_card()
        return self.represent(features)

    def represent(self, features: Sequence[dict[str, Tensor]]) -> Representations:
        """Ask the estimator for its representations of a batch.

        Wrapper losses that call this loss several times a step with one batch (Matryoshka, adaptive layers) get the
        first answer again.

        Args:
            features: One dict of features a column.

        Returns:
            One representation a column that the estimator compares; empty for a loss that needs none.
        """
        if not self._needs_estimator():
            return Representations()
        step = _host.wrapper_step(self.model)
        if step is None:
            return self._represent(features)
        # Kept on an object of the host's that lives for this step of the wrapper, so that nothing can grow stale.
        kept: dict[int, Representations] = vars(step).setdefault("st_softinfonce_representations", {})
        if id(self) not in kept:
            kept[id(self)] = self._represent(features)
        return kept[id(self)]

    def compute_loss_from_embeddings(
        self, embeddings: Sequence[Tensor], labels: Tensor | Representations | None = None
    ) -> Tensor:
        """Compute the loss from the columns' embeddings.

        Args:
            embeddings: ``(B, D)`` for each column: query, positive, and any number of negatives.
            labels: What :meth:`represent` returned for the batch. It takes the place of the labels, which have no
                meaning here, because the host's wrapper losses hand those through.

        Returns:
            Mean over the batch's queries, a scalar.

        Raises:
            ValueError: There are fewer than two embeddings, or representations are needed and missing.
        """
        batch = self._collect(list(embeddings), labels)
        return self._rows_loss(batch, batch.rows)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings for the model card, as JSON primitives.

        Returns:
            Names and values.
        """
        return {
            **describe_estimator(self.estimator),
            "scale": self.scale,
            "similarity_fct": similarity_fct_name(self.similarity_fct),
            "gather_across_devices": self.gather_across_devices,
        }

    @property
    def temperature(self) -> float:
        """The softmax temperature, ``1 / scale``."""
        return 1.0 / self.scale

    @property
    def citation(self) -> str:
        """The paper's BibTeX entry, for the model card."""
        return """
@inproceedings{li-etal-2023-rethinking,
    title = "Rethinking Negative Pairs in Code Search",
    author = "Li, Haochen and Zhou, Xin and Luu, Anh Tuan and Miao, Chunyan",
    booktitle = "Proceedings of the 2023 Conference on Empirical Methods in Natural Language Processing",
    month = dec,
    year = "2023",
    address = "Singapore",
    publisher = "Association for Computational Linguistics",
    url = "https://aclanthology.org/2023.emnlp-main.786",
    pages = "12760--12774",
}
"""

    def _needs_estimator(self) -> bool:
        return True

    def _update_card(self) -> None:
        """Bring the model card up to date: the host asks for the settings once, before training."""
        _host.update_card(self.model, self, self.get_config_dict())
        self._card_losses = _host.card_losses(self.model)

    @abstractmethod
    def _rows_loss(self, batch: Batch, rows: Tensor) -> Tensor:
        """Compute the mean loss of some of the batch's rows, without a tensor larger than (rows, candidates)."""

    @staticmethod
    def _check_columns(columns: int) -> None:
        if columns < 2:
            raise ValueError(
                f"The loss needs at least 2 columns, query and positive, got {columns}: add the missing text column "
                "to the dataset."
            )

    def _represent(self, features: Sequence[dict[str, Tensor]]) -> Representations:
        columns = [
            TextColumn(column, _host.column_tokenizer(self.model, column), role="document" if position else "query")
            for position, column in enumerate(features)
            # An estimator of queries does not mind what documents are made of.
            if position == 0 or self.estimator.compares != "queries" or self.known_queries is not None
        ]
        known: tuple[Tensor, ...] = ()
        if self.estimator.compares == "positives":
            columns = columns[1:]
        elif self.estimator.compares == "queries":
            queries = columns[:1]
            if self.known_queries is not None and len(columns) > 2:
                found = [self.known_queries.of(column) for column in columns[2:]]
                queries += [column for column, _ in found]
                known = tuple(mask for _, mask in found)
            columns = queries
        representations = Representations(checked_representation(self.estimator, column) for column in columns)
        representations.known = known
        return representations

    def _collect(self, embeddings: list[Tensor], representations: object) -> Batch:
        """Bring together the columns, of all devices if asked for, and the estimator bound to them."""
        self._check_columns(len(embeddings))
        sizes = [column.size(0) for column in embeddings]
        if len(set(sizes)) > 1:
            raise ValueError(
                f"The columns have {sizes} rows: row i of every column belongs to query i, so all must have as many."
            )
        rows = self._own_rows(embeddings[0])
        if self.gather_across_devices:
            embeddings = [all_gather_with_grad(column) for column in embeddings]
        return Batch(embeddings[0], torch.cat(embeddings[1:]), rows, self._compare(representations))

    def _own_rows(self, queries: Tensor) -> Tensor:
        """Number this device's queries among those of all devices that are gathered."""
        rows = torch.arange(queries.size(0), device=queries.device)
        return rows + get_rank() * rows.numel() if self.gather_across_devices else rows

    def _compare(self, representations: object) -> Compared | None:
        """Bring together what the estimator compares, of all devices if asked for; None for a loss without one."""
        if not self._needs_estimator():
            return None
        if not isinstance(representations, Representations):
            raise ValueError(
                f"labels must be what represent() returned for the batch, got {type(representations).__name__}: the "
                f"weights of {self.estimator.name} come from the texts. Call the loss itself with the features."
            )
        parts: Sequence[Tensor] = representations
        padding = self.estimator.padding
        if self.gather_across_devices:
            parts = [_host.gather_padded(part, padding) for part in parts]
        # Only comparing documents, the first column is no candidate itself.
        candidates = join_representations(parts[1:] if self.estimator.compares == "documents" else parts, padding)
        known = None
        if representations.known:
            masks = [mask.to(torch.uint8) for mask in representations.known]
            masks = [_host.gather_padded(mask, None) for mask in masks] if self.gather_across_devices else masks
            known = torch.cat([masks[0].new_ones(parts[0].size(0)), *masks]).bool()
            # Not even as empty candidates: they would count in the statistics.
            estimator = self.estimator.for_known(candidates, known)
        else:
            estimator = self.estimator.for_batch(candidates)
        return Compared(estimator, parts[0], candidates, self._watch.is_due, known)

    def _scores(self, batch: Batch, rows: Tensor) -> Tensor:
        """Score some queries with every document: ``(rows, M)``."""
        return self.similarity_fct(batch.queries[rows], batch.documents) * self.scale

    def _transposed_scores(self, batch: Batch, rows: Tensor) -> Tensor:
        """Score the positives of some rows with every query: ``(rows, N)``."""
        return self.similarity_fct(batch.queries, batch.documents[rows]).T * self.scale


@dataclass(frozen=True)
class Compared:
    """What the estimator compares: N queries (or their positives), and N or M candidates, the positives first.

    ``known`` tells which candidates have a text to be judged by; ``None`` when all have.
    """

    estimator: SimilarityEstimator
    queries: Tensor
    candidates: Tensor
    look: bool
    known: Tensor | None = None

    def similarity(self, rows: Tensor) -> Tensor:
        """Compare some queries with every candidate: ``(rows, candidates)``, -inf for those that are not known."""
        similarity = checked_similarity(self.estimator, self.queries[rows], self.candidates)
        if self.known is not None:
            similarity = similarity.masked_fill(~self.known, -torch.inf)
        return self._usable(similarity, rows)

    def spread(self, values: Tensor, width: int, fill: float) -> Tensor:
        """Lay values of the compared candidates out over all: ``(rows, width)``, with ``fill`` for the others."""
        return F.pad(values, (0, width - values.size(1)), value=fill)

    def transposed(self, rows: Tensor) -> Tensor:
        """Compare the positives of some rows with every query: ``(rows, N)``."""
        return self._usable(checked_similarity(self.estimator, self.queries, self.candidates[rows]).T, rows)

    def _usable(self, similarity: Tensor, rows: Tensor) -> Tensor:
        check_similarity(f"similarity of the estimator {self.estimator.name!r}", similarity, rows, anywhere=self.look)
        return similarity


@dataclass(frozen=True)
class Batch:
    """A batch of N queries and M documents, the positives first; ``rows`` are this device's among the N."""

    queries: Tensor
    documents: Tensor
    rows: Tensor
    compared: Compared | None


class _InputWatch:
    """Warns, once each, of inputs that train all the same: a label column, and texts without a token."""

    # Looking at values is free on the CPU; elsewhere it waits for the device, so it is done now and then.
    _LOOK_EVERY = 100

    def __init__(self) -> None:
        self._batches = 0
        self._warned_of_labels = False
        self._warned_of_empty_texts = False

    @property
    def is_due(self) -> bool:
        """Whether this batch is one of those for which waiting for the device is worth while, the first among them."""
        return self._batches % self._LOOK_EVERY == 1

    def look(self, model: nn.Module, features: Sequence[dict[str, Tensor]], labels: Tensor | None) -> None:
        if labels is not None and not self._warned_of_labels:
            self._warned_of_labels = True
            warnings.warn(
                "The dataset has a label column, which this loss ignores: it learns from (query, positive) pairs. "
                "Remove the column, and the pairs that are not positive with it.",
                InputWarning,
                stacklevel=3,
            )
        self._batches += 1
        if self._warned_of_empty_texts or torch.compiler.is_compiling():
            return
        empty = []
        for position, column_features in enumerate(features):
            ids = column_features.get("input_ids")
            if not isinstance(ids, Tensor) or (ids.device.type != "cpu" and not self.is_due):
                continue
            column = TextColumn(column_features, _host.column_tokenizer(model, column_features))
            count = int(column.empty.sum())
            if count:
                empty.append(f"{count} of {len(column)} in column {position}")
        if empty:
            self._warned_of_empty_texts = True
            warnings.warn(
                f"A batch has empty texts: {', '.join(empty)} (column 0 is the query). They train like any other "
                "text; filter them out of the dataset if that is not meant. This is said once, for the first such "
                "batch.",
                InputWarning,
                stacklevel=3,
            )
