"""What every loss here shares: ask the estimators, embed the columns, gather both, and go through the rows."""

from __future__ import annotations

import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from sentence_transformers.util import all_gather_with_grad, get_rank
from torch import Tensor, nn

from st_softinfonce import _host
from st_softinfonce.estimators.base import (
    Representation,
    SimilarityEstimator,
    bound_to_batch,
    checked_representation,
    checked_similarity,
    count_rows,
    join_rows,
    leaving_no_trace,
    map_rows,
)
from st_softinfonce.estimators.known import SelfEstimator
from st_softinfonce.estimators.text_column import TextColumn
from st_softinfonce.functional import check_similarity
from st_softinfonce.known_queries import KnownQueries
from st_softinfonce.treatments import Treatment

Direction = Literal["query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"]
DIRECTIONS: tuple[Direction, ...] = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")

# Where an answer waits among a batch's features for the next call of a wrapper loss.
_ASKED = "st_softinfonce_asked"
# Columns that mining writes beside the texts, and other usual names of what is no text to train on.
_METADATA = frozenset(
    {"duplicate_group", "language", "license", "name", "package", "path", "repo", "repository", "url", "version"}
)


class InputWarning(UserWarning):
    """Valid input that is probably a mistake."""


@dataclass(frozen=True)
class Judge:
    """An estimator, and what is done with its judgement."""

    estimator: SimilarityEstimator
    treatments: tuple[Treatment, ...]


@dataclass(frozen=True)
class Represented:
    """One estimator's representations of a batch's texts, on one device.

    ``queries`` are those of the column that takes the query's place, ``candidates`` those of each column of
    candidates. ``known`` tells, for each of these but the first, which of its texts can be judged ``(B,)``; empty
    where all can.
    """

    queries: Representation
    candidates: tuple[Representation, ...]
    known: tuple[Tensor, ...] = ()


class Asked(tuple["Represented | None", ...]):
    """What the judges represent of a batch, in their order; ``None`` for one that compares the model's embeddings."""


class InBatchLoss(nn.Module, ABC):
    """A loss over the scores of every query of a batch with every document of it.

    A subclass says what it makes of some rows (:meth:`rows_loss`), which plain and cached losses share. This class
    has the estimators represent the texts before the model can change the features, embeds the columns, gathers both
    across devices, and checks what comes in. The loss keeps nothing from one batch to the next.

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
        self._watch = _InputWatch()

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        """Compute the loss of one batch.

        Args:
            sentence_features: One dict of features a column: query, positive, and any number of negatives.
            labels: Without meaning here; a dataset that has them is named in a warning.

        Returns:
            Mean over the batch's queries, a scalar.

        Raises:
            ValueError: There are fewer than two columns, or an estimator breaks its contract.
        """
        features = list(sentence_features)
        asked = self.ask(features, labels)
        embeddings = _host.embed_columns(self.model, features)
        self.keep_asked(features, asked)
        return self.compute_loss_from_embeddings(embeddings, asked)

    def ask(self, features: Sequence[dict[str, Any]], labels: Tensor | None = None) -> Asked:
        """Check a batch and have the estimators represent it, before it is embedded: modules write into the features.

        Args:
            features: One dict of features a column.
            labels: The dataset's labels, if it has any.

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
        return Asked(self._represent(judge, features) for judge in self.judges)

    def keep_asked(self, features: Sequence[dict[str, Any]], asked: Asked) -> None:
        """Keep an answer for the next call with the same features.

        Wrapper losses (Matryoshka, adaptive layers) call this loss several times with the same dicts. The model has
        written into them by then, so the estimators could answer differently. As the host's own wrappers do, the
        answer is handed on in those dicts: it is put there after the model has run and taken out by :meth:`ask`, so
        that no module ever sees it.

        Args:
            features: One dict of features a column.
            asked: What :meth:`ask` returned.
        """
        # A weak reference, as it may be copied with the features, and the loss must not be.
        features[0][_ASKED] = (weakref.ref(self), asked)

    def compute_loss_from_embeddings(
        self, embeddings: Sequence[Tensor], labels: Asked | Tensor | None = None
    ) -> Tensor:
        """Compute the loss from the columns' embeddings.

        Args:
            embeddings: ``(B, D)`` for each column: query, positive, and any number of negatives.
            labels: What :meth:`ask` returned for the batch. It comes in the place of the labels, which have no
                meaning here, because the host's wrapper and cached losses hand nothing else through. Not needed where
                no estimator compares texts.

        Returns:
            Mean over the batch's queries, a scalar.

        Raises:
            ValueError: There are fewer than two embeddings, or an estimator compares texts and was not asked.
        """
        batch = self._collect(list(embeddings), labels)
        return self.rows_loss(batch, batch.rows)

    @abstractmethod
    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings for the model card, as JSON primitives."""

    @abstractmethod
    def rows_loss(self, batch: Batch, rows: Tensor) -> Tensor:
        """Compute the mean loss of some of the batch's rows, without a tensor larger than (rows, candidates).

        Args:
            batch: The whole batch: embeddings, and what the estimators say.
            rows: ``(n,)``, the rows to compute.

        Returns:
            A scalar.
        """

    def _represent(self, judge: Judge, features: Sequence[dict[str, Any]]) -> Represented | None:
        estimator = judge.estimator
        if estimator.compares == "scores":
            return None

        def column(position: int) -> TextColumn:
            role: Literal["query", "document"] = "document" if position else "query"
            tokenizer = _host.column_tokenizer(self.model, features[position])
            return TextColumn(features[position], tokenizer, role=role)

        with leaving_no_trace(estimator, self.model):
            if estimator.compares == "queries":
                # An estimator of queries does not mind what documents are made of.
                queries = checked_representation(estimator, column(0))
                if self.known_queries is None or len(features) < 3:
                    return Represented(queries, (queries,))
                found = [self.known_queries.of(column(position)) for position in range(2, len(features))]
                negatives = tuple(checked_representation(estimator, texts) for texts, _ in found)
                return Represented(queries, (queries, *negatives), tuple(known for _, known in found))
            documents = tuple(
                checked_representation(estimator, column(position)) for position in range(1, len(features))
            )
            if estimator.compares == "positives":
                return Represented(documents[0], documents)
            return Represented(checked_representation(estimator, column(0)), documents)

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
            known = self._known(represented, count_rows(columns[1]))
        with leaving_no_trace(estimator, self.model):
            bound = estimator if takes_scores else bound_to_batch(estimator, candidates, known)
        return Judgement(judge, bound, rows, candidates, known, documents.size(0), self._watch)

    def _known(self, represented: Represented, positives: int) -> Tensor | None:
        if not represented.known:
            return None
        masks = [mask.to(torch.uint8) for mask in represented.known]
        if self.gather_across_devices:
            masks = [_host.gather_rows(mask, None) for mask in masks]
        return torch.cat([masks[0].new_ones(positives), *masks]).bool()


@dataclass(frozen=True)
class Judgement:
    """What one estimator says of a batch of N queries and M documents, the positives first.

    ``queries`` and ``candidates`` are representations: of N queries (or their positives), and of the documents that
    can be judged, M or the first of them. ``known`` tells which of those have a text to be judged by; ``None``: all.
    """

    judge: Judge
    estimator: SimilarityEstimator
    queries: Representation
    candidates: Representation
    known: Tensor | None
    documents: int
    watch: _InputWatch

    def blocks(
        self, directions: Sequence[Direction], rows: Tensor, scores: Mapping[Direction, Tensor]
    ) -> dict[Direction, tuple[Tensor, Tensor | None]]:
        """Judge the candidates of some rows, one block a direction.

        Where the estimator represents both queries and documents, a block is judged by the texts it holds; otherwise
        by the pair's similarity from query to document. The entry of the row's own number is always the positive's
        similarity from query to document: thresholds are made of it.

        Args:
            directions: The blocks.
            rows: ``(n,)``, the rows of the batch.
            scores: The model's own similarities of every direction, ``(n, candidates)`` each.

        Returns:
            For each direction the similarities ``(n, candidates)``, and which of them say something, of the same
            shape or ``(candidates,)``; ``None``: all.
        """
        one_way = self._similarity("query_to_doc", rows, scores)
        if self.known is not None:
            one_way = one_way.masked_fill(~self.known, -torch.inf)
        one_way = self._checked(one_way, rows)
        self.watch.look_for_differences(self.judge.estimator, one_way, rows, self.known)
        of_positive = one_way.gather(1, rows.unsqueeze(1))
        queries = count_rows(self.queries)
        both_sides = self.judge.estimator.compares in ("documents", "scores")
        found: dict[Direction, tuple[Tensor, Tensor | None]] = {}
        for direction in directions:
            known: Tensor | None = None
            if direction == "query_to_doc":
                similarity, known = self._spread(one_way)
            elif direction == "doc_to_query" or both_sides:
                similarity = self._similarity(direction, rows, scores).scatter(1, rows.unsqueeze(1), of_positive)
                similarity = self._checked(similarity, rows)
            elif direction == "query_to_query":
                similarity = one_way[:, :queries]
            else:
                similarity, known = self._spread(one_way)
            if direction == "doc_to_doc":
                # The query's own negatives are no candidates there, and must not count as negatives.
                columns = torch.arange(similarity.size(1), device=rows.device)
                others = (columns % queries != rows.unsqueeze(1)) | (columns == rows.unsqueeze(1))
                known = others if known is None else others & known
            found[direction] = similarity, known
        return found

    def _similarity(self, direction: Direction, rows: Tensor, scores: Mapping[Direction, Tensor]) -> Tensor:
        if isinstance(self.estimator, SelfEstimator):
            return scores[direction].detach()

        def some(representation: Representation) -> Representation:
            return map_rows(lambda part: part[rows], representation)

        estimator = self.estimator
        if direction == "query_to_doc":
            return checked_similarity(estimator, some(self.queries), self.candidates)
        if direction == "doc_to_query":
            return checked_similarity(estimator, self.queries, some(self.candidates)).T
        if direction == "query_to_query":
            # Statistics of documents say nothing about queries.
            estimator = bound_to_batch(self.judge.estimator, self.queries)
            return checked_similarity(estimator, some(self.queries), self.queries)
        return checked_similarity(estimator, some(self.candidates), self.candidates)

    def _spread(self, similarity: Tensor) -> tuple[Tensor, Tensor | None]:
        """Lay similarities of those that can be judged out over all documents."""
        missing = self.documents - similarity.size(1)
        known = self.known
        if missing:
            similarity = nn.functional.pad(similarity, (0, missing), value=-torch.inf)
            judged = torch.ones_like(similarity[0, :-missing], dtype=torch.bool) if known is None else known
            known = nn.functional.pad(judged, (0, missing), value=False)
        return similarity, known

    def _checked(self, similarity: Tensor, rows: Tensor) -> Tensor:
        name = self.judge.estimator.name
        check_similarity(f"similarity of the estimator {name!r}", similarity, rows, anywhere=self.watch.is_due)
        return similarity


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


class _InputWatch:
    """Warns, once each, of inputs that can be trained on but are probably mistakes."""

    # Looking at values is free on the CPU; elsewhere it waits for the device, so it is done now and then.
    _LOOK_EVERY = 100
    _FIRST_BATCHES = 5

    def __init__(self) -> None:
        self._batches = 0
        self._warned: set[str] = set()
        # For each estimator, by its id, whether it told any two negatives apart in the first batches.
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
        if self._different and self._batches > self._FIRST_BATCHES:
            _, seen = next(iter(self._different.values()))
            if seen.device.type == "cpu" or self.is_due:
                self._name_the_indifferent()

    def look_for_differences(
        self, estimator: SimilarityEstimator, similarity: Tensor, rows: Tensor, known: Tensor | None
    ) -> None:
        """Note whether an estimator tells any two negatives of a row apart, of those that it can judge."""
        if self._batches > self._FIRST_BATCHES or estimator.often_equal or torch.compiler.is_compiling():
            return
        if similarity.size(1) < 3:
            return
        own = rows.unsqueeze(1)
        finite = similarity.clamp(min=torch.finfo(similarity.dtype).min)  # -inf is "never relevant"
        left_out = torch.zeros_like(finite, dtype=torch.bool).scatter(1, own, True)
        if known is not None:
            left_out |= ~known
        highest = finite.masked_fill(left_out, -torch.inf).amax(dim=1)
        lowest = finite.masked_fill(left_out, torch.inf).amin(dim=1)
        different = (highest > lowest).any()
        _, before = self._different.get(id(estimator), (None, None))
        self._different[id(estimator)] = estimator.name, different if before is None else before | different

    def _name_the_indifferent(self) -> None:
        different, self._different = self._different, {}
        for name, seen in different.values():
            if not bool(seen):
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
