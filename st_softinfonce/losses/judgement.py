"""What an estimator says of a batch, direction by direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from st_softinfonce import _host
from st_softinfonce.estimators.base import (
    Representation,
    SimilarityEstimator,
    bound_to_batch,
    checked_representation,
    checked_similarity,
    count_rows,
    leaving_no_trace,
    map_rows,
)
from st_softinfonce.estimators.known import SelfEstimator
from st_softinfonce.estimators.registry import get_estimator
from st_softinfonce.estimators.text_column import TextColumn
from st_softinfonce.functional import check_similarity
from st_softinfonce.known_queries import KnownQueries
from st_softinfonce.losses.input_watch import InputWatch
from st_softinfonce.treatments import Treatment, as_treatments

Direction = Literal["query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
OneOrSeveral = Treatment | Sequence[Treatment]


@dataclass(frozen=True)
class Represented:
    """One estimator's representations of a batch's texts, on one device."""

    queries: Representation  # of the column that takes the query's place
    candidates: tuple[Representation, ...]  # of each column of candidates
    known: tuple[Tensor, ...] = ()  # which texts of each column but the first can be judged (B,); empty: all


@dataclass(frozen=True)
class Judge:
    """An estimator, and what is done with its judgement."""

    estimator: SimilarityEstimator
    treatments: tuple[Treatment, ...]

    def represent(
        self, model: nn.Module, features: Sequence[dict[str, Any]], known_queries: KnownQueries | None
    ) -> Represented | None:
        """Have the estimator represent a batch's columns; ``None`` if it compares the model's embeddings."""
        estimator = self.estimator
        if estimator.compares == "scores":
            return None

        def column(place: int) -> TextColumn:
            tokenizer = _host.column_tokenizer(model, features[place])
            return TextColumn(features[place], tokenizer, role="document" if place else "query")

        with leaving_no_trace(estimator, model):
            if estimator.compares == "queries":
                # An estimator of queries does not mind what documents are made of.
                queries = checked_representation(estimator, column(0))
                if known_queries is None:
                    return Represented(queries, (queries,))
                found = [known_queries.of(column(place)) for place in range(2, len(features))]
                negatives = tuple(checked_representation(estimator, texts) for texts, _ in found)
                return Represented(queries, (queries, *negatives), tuple(known for _, known in found))
            documents = tuple(checked_representation(estimator, column(place)) for place in range(1, len(features)))
            if estimator.compares == "positives":
                return Represented(documents[0], documents)
            return Represented(checked_representation(estimator, column(0)), documents)


@dataclass(frozen=True)
class Judgement:
    """What one estimator says of a batch of N queries and M documents, the positives first."""

    judge: Judge
    estimator: SimilarityEstimator  # bound to the batch
    queries: Representation  # of N queries, or their positives
    candidates: Representation  # of the documents that can be judged, M or the first of them
    known: Tensor | None  # which of those have a text to be judged by; None: all
    documents: int  # M
    watch: InputWatch

    def blocks(
        self, directions: Sequence[Direction], rows: Tensor, scores: Mapping[Direction, Tensor]
    ) -> dict[Direction, tuple[Tensor, Tensor | None]]:
        """Judge the candidates of some rows, one block a direction.

        Where the estimator represents both queries and documents, a block is judged by the texts it holds; otherwise
        by the pair's similarity from query to document. The entry of the row's own number is always the positive's
        similarity from query to document: thresholds are made of it. ``scores`` are the model's own similarities of
        every direction, ``(n, candidates)`` each.

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
            if direction == "doc_to_query" or (both_sides and direction != "query_to_doc"):
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
        source = f"similarity of the estimator {self.judge.estimator.name!r}"
        check_similarity(source, similarity, rows, anywhere=self.watch.is_due)
        return similarity


def read_judges(estimator: object, treatment: object, treatments: object) -> list[Judge]:
    """Read the estimators, without those whose treatments have no effect, from these arguments of the loss."""
    if treatments is None:
        if estimator is None:
            if treatment is not None:
                raise ValueError(
                    f"treatment={treatment!r} needs an estimator, got estimator=None: nobody says what is relevant. "
                    "Name one, e.g. 'self', or leave the treatment out."
                )
            return []
        treatments = [(estimator, treatment)]
    elif treatment is not None or estimator not in ("bm25", None):
        raise ValueError(
            f"treatments replaces estimator and treatment, got estimator={estimator!r} and treatment={treatment!r} "
            "beside it. Put them into the list: treatments=[(estimator, treatment), ...]."
        )
    if not isinstance(treatments, Sequence) or isinstance(treatments, str):
        raise TypeError(f"treatments must be a list of (estimator, treatment), got {treatments!r}.")
    judges = []
    for entry in treatments:
        if not isinstance(entry, Sequence) or isinstance(entry, str) or len(entry) != 2:
            raise TypeError(f"treatments must hold pairs (estimator, treatment), got {entry!r}.")
        who, what = entry
        judging = get_estimator(cast(Any, who))
        chosen = (judging.treatment,) if what is None else as_treatments("treatment", what)
        effective = tuple(one for one in chosen if not one.idle)
        if effective:
            judges.append(Judge(judging, effective))
    return judges
