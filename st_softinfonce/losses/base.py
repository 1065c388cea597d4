"""What every loss here shares: ask the estimators, embed the columns, gather both, and go through the rows."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from sentence_transformers.util import all_gather_with_grad, get_rank
from torch import Tensor, nn

from st_softinfonce import _host
from st_softinfonce.estimators.base import Representation, bound_to_batch, count_rows, join_rows, leaving_no_trace
from st_softinfonce.estimators.known import SelfEstimator
from st_softinfonce.known_queries import KnownQueries
from st_softinfonce.losses.input_watch import InputWatch
from st_softinfonce.losses.judgement import Judge, Judgement, Represented

# Where an answer waits among a batch's features for the next call of a wrapper loss.
_ASKED = "st_softinfonce_asked"


class Asked(tuple["Represented | None", ...]):
    """What the judges represent of a batch, in their order; ``None`` for one that compares the model's embeddings."""


class InBatchLoss(nn.Module, ABC):
    """A loss over the scores of every query of a batch with every document of it.

    A subclass computes the loss of some rows (:meth:`rows_loss`), for plain and cached losses alike. This class has
    the estimators represent the texts, embeds the columns, gathers both across devices, and checks the input. The loss
    keeps nothing from one batch to the next.

    Args:
        model: The model to train.
        judges: The estimators with their treatments; none for a loss of the model's scores alone.
        gather_across_devices: Take the documents (and queries) of all devices as candidates.
        known_queries: The queries of mined hard negatives, for estimators that compare queries.
    """

    def __init__(
        self,
        model: nn.Module,
        judges: Sequence[Judge],
        *,
        gather_across_devices: bool = False,
        known_queries: KnownQueries | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.judges = tuple(judges)
        for judge in self.judges:
            with leaving_no_trace(judge.estimator, model):
                judge.estimator.attach(model)
        self.gather_across_devices = gather_across_devices
        self.known_queries = known_queries
        self._watch = InputWatch()

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        """Compute the mean loss of a batch's queries, a scalar.

        There is one dict of features a column: query, positive, and any number of negatives. Labels have no meaning
        here, and a dataset that has them is named in a warning.

        Raises:
            ValueError: There are fewer than two columns, or an estimator breaks its contract.
        """
        features = list(sentence_features)
        asked = self.ask(features, labels)
        embeddings = _host.embed_columns(self.model, features)
        self.keep_asked(features, asked)
        return self.compute_loss_from_embeddings(embeddings, asked)

    def ask(self, features: Sequence[dict[str, Any]], labels: Tensor | None = None) -> Asked:
        """Check a batch and have the estimators represent it. Call it before embedding, which changes the features.

        Returns:
            What :meth:`compute_loss_from_embeddings` needs besides the embeddings; for a batch that :meth:`keep_asked`
            has seen, the same again.

        Raises:
            ValueError: There are fewer than two columns, or an estimator breaks its contract.
        """
        _check_columns(len(features))
        owner, asked = features[0].pop(_ASKED, (None, None))
        if owner is not None and owner() is self:
            return cast(Asked, asked)
        self._watch.look(self.model, features, labels)
        return Asked(judge.represent(self.model, features, self.known_queries) for judge in self.judges)

    def keep_asked(self, features: Sequence[dict[str, Any]], asked: Asked) -> None:
        """Keep an answer for the next call with the same features.

        Wrapper losses (Matryoshka, adaptive layers) call this loss several times with the same dicts. The model has
        written into them by then, so the estimators could answer differently. As the host's own wrappers do, the
        answer is handed on in those dicts: it is put there after the model has run and taken out by :meth:`ask`, so
        that no module ever sees it.
        """
        # A weak reference, as it may be copied with the features, and the loss must not be.
        features[0][_ASKED] = (weakref.ref(self), asked)

    def compute_loss_from_embeddings(
        self, embeddings: Sequence[Tensor], labels: Asked | Tensor | None = None
    ) -> Tensor:
        """Compute the loss from the columns' embeddings ``(B, D)``.

        Args:
            embeddings: Those of the query, the positive, and any number of negatives.
            labels: What :meth:`ask` returned for the batch, in the place of the labels because the host's wrapper and
                cached losses pass nothing else on. Not needed where no estimator compares texts.

        Raises:
            ValueError: There are fewer than two embeddings, their rows differ in number, or an estimator compares
                texts and was not asked.
        """
        batch = self._collect(list(embeddings), labels)
        return self.rows_loss(batch, batch.rows)

    @abstractmethod
    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings for the model card, as JSON primitives."""

    @abstractmethod
    def rows_loss(self, batch: Batch, rows: Tensor) -> Tensor:
        """Compute the mean loss of some of the batch's rows ``(n,)``, in no tensor larger than (rows, candidates)."""

    def _collect(self, embeddings: list[Tensor], asked: object) -> Batch:
        """Bring together the columns, of all devices if asked for, and what the judges say of them."""
        _check_columns(len(embeddings))
        sizes = [column.size(0) for column in embeddings]
        if len(set(sizes)) > 1:
            raise ValueError(
                f"The columns have {sizes} rows: row i of every column belongs to query i, so all must have as many."
            )
        rows = self._own_rows(embeddings[0])
        if self.gather_across_devices:
            embeddings = [all_gather_with_grad(column) for column in embeddings]
        queries, documents = embeddings[0], torch.cat(embeddings[1:])
        return Batch(queries, documents, rows, self._judgements(asked, queries, documents))

    def _own_rows(self, queries: Tensor) -> Tensor:
        """Number this device's queries among those of all devices that are gathered."""
        rows = torch.arange(queries.size(0), device=queries.device)
        return rows + get_rank() * rows.numel() if self.gather_across_devices else rows

    def _judgements(self, asked: object, queries: Any, documents: Any) -> tuple[Judgement, ...]:
        """Bind each estimator to the whole batch."""
        if not isinstance(asked, Asked):
            if any(judge.estimator.compares != "scores" for judge in self.judges):
                names = ", ".join(judge.estimator.name for judge in self.judges)
                raise ValueError(
                    f"labels must be what ask() returned for the batch, got {type(asked).__name__}: what {names} says "
                    "comes from the texts, not from embeddings. Call the loss itself with the features; for a sparse "
                    "encoder take SoftSpladeLoss or SoftCSRLoss around it."
                )
            asked = Asked(None for _ in self.judges)
        return tuple(
            self._judgement(judge, represented, queries, documents)
            for judge, represented in zip(self.judges, asked, strict=True)
        )

    def _judgement(self, judge: Judge, represented: Represented | None, queries: Any, documents: Any) -> Judgement:
        estimator, known = judge.estimator, None
        takes_scores = isinstance(estimator, SelfEstimator)  # instead of embeddings
        rows: Representation
        candidates: Representation
        if represented is None:
            # Copies, so that an estimator cannot write into the embeddings.
            rows, candidates = (
                part.detach() if takes_scores else part.detach().clone() for part in (queries, documents)
            )
        else:
            columns = (represented.queries, *represented.candidates)
            if self.gather_across_devices:
                columns = tuple(_host.gather_rows(column, estimator.padding) for column in columns)
            rows, candidates = columns[0], join_rows(columns[1:], estimator.padding)
            if masks := [mask.to(torch.uint8) for mask in represented.known]:
                if self.gather_across_devices:
                    masks = [_host.gather_rows(mask, None) for mask in masks]
                known = torch.cat([masks[0].new_ones(count_rows(columns[1])), *masks]).bool()
        with leaving_no_trace(estimator, self.model):
            bound = estimator if takes_scores else bound_to_batch(estimator, candidates, known)
        return Judgement(judge, bound, rows, candidates, known, documents.size(0), self._watch)


@dataclass(frozen=True)
class Batch:
    """A batch of N queries and M documents, the positives first; ``rows`` are this device's among the N."""

    queries: Tensor
    documents: Tensor
    rows: Tensor
    judgements: tuple[Judgement, ...]


def _check_columns(columns: int) -> None:
    if columns < 2:
        raise ValueError(
            f"The loss needs at least 2 columns, query and positive, got {columns}: add the missing text column "
            "to the dataset."
        )
