"""Estimators that must see both texts together, affordable because they see only each query's likely candidates."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from st_softinfonce._checks import check_choice, check_count
from st_softinfonce.estimators.base import (
    COMPARES_TEXTS,
    Compares,
    Representation,
    SimilarityEstimator,
    bound_to_batch,
    check_tensor,
    checked_representation,
    checked_similarity,
    map_rows,
)
from st_softinfonce.estimators.registry import get_estimator
from st_softinfonce.estimators.text_column import TextColumn
from st_softinfonce.treatments import Treatment, as_treatments


class PairwiseEstimator(SimilarityEstimator):
    """An estimator that must see both texts together, such as a cross-encoder.

    An author implements :meth:`score` and sets ``treatment``. To score every pair of a batch would cost far more than
    training on it, so a cheap estimator chooses each query's most similar candidates, and only those are scored, all
    of a group of rows in one call. Scores are kept: a pair that comes again (in evaluation, in the other direction,
    inside a wrapper loss) is not scored again. Every step waits for the device.

    Texts are what the model in training reads, decoded: truncated, lower-cased by an uncased tokenizer. The query's
    positive may be among the candidates chosen. An empty text is never chosen.

    Args:
        compares: See :class:`SimilarityEstimator`.
        candidates_per_query: At least 1. Candidates with different texts to score for each query.
        shortlist: The cheap estimator, or its name; by default BM25. Its own ``compares`` is ignored.
        scores_kept: At least 0. Pairs to keep the score of; the oldest go first. 100,000 take about 20 MB.

    Attributes:
        not_scored: Similarity of the candidates that are not chosen. By default -inf, which is "never relevant".

    Raises:
        ValueError: An option is out of range, or ``shortlist`` compares no texts.

    Example:
        >>> from st_softinfonce.treatments import Soften
        >>> class SameLength(PairwiseEstimator):
        ...     treatment = Soften(alpha=1.0, beta=1.0, temperature=1.0)
        ...     def score(self, queries, candidates):
        ...         return torch.tensor([-abs(float(len(q) - len(c))) for q, c in zip(queries, candidates)])
        >>> SameLength().score(["sort"], ["sorted"])
        tensor([-2.])
    """

    not_scored: ClassVar[float] = -math.inf

    def __init__(
        self,
        *,
        compares: Compares = "documents",
        candidates_per_query: int = 8,
        shortlist: str | SimilarityEstimator | None = None,
        scores_kept: int = 100_000,
    ) -> None:
        check_choice("compares", compares, COMPARES_TEXTS)
        check_count("candidates_per_query", candidates_per_query)
        check_count("scores_kept", scores_kept, 0)
        self.compares = compares
        self.candidates_per_query = candidates_per_query
        self.scores_kept = scores_kept
        self.shortlist = get_estimator("bm25", compares=compares) if shortlist is None else get_estimator(shortlist)
        if self.shortlist.compares == "scores":
            raise ValueError(
                f"shortlist must compare texts, got {self.shortlist.name!r}, which compares the model's scores."
            )
        self.padding = (0, self.shortlist.padding)
        self._scores: OrderedDict[int, float] = OrderedDict()  # by the hash of both texts, which is smaller than they
        # Of the batch: the cheap estimator, what it represents of each different text, and those texts.
        self._batch: tuple[SimilarityEstimator, Representation, list[str]] | None = None

    @classmethod
    def from_function(
        cls,
        function: Callable[[Sequence[str], Sequence[str]], Tensor | Sequence[float]],
        treatment: Treatment,
        **options: Any,
    ) -> PairwiseEstimator:
        """Make an estimator of a plain function, without a class of your own; it has the function's name.

        Args:
            function: ``function(queries, candidates)``, two lists of as many texts, returns a number for each pair,
                higher is more relevant: a list, an array or a tensor.
            treatment: The default treatment, which suits the scale of the scores.
            **options: As for the class.

        Raises:
            TypeError: ``function`` cannot be called, or ``treatment`` is none.
        """
        if not callable(function):
            raise TypeError(f"function must be a function of two lists of texts, got {type(function).__name__}.")
        (treatment,) = as_treatments("treatment", (treatment,))
        return _OfFunction(function, treatment, **options)

    @abstractmethod
    def score(self, queries: Sequence[str], candidates: Sequence[str]) -> Tensor:
        """Score pairs of texts: ``n`` queries, and ``n`` candidates, each to be judged for the query at its place.

        Returns:
            ``(n,)`` floating point without gradient, higher is more relevant.
        """

    @override
    def attach(self, model: nn.Module) -> None:
        self.shortlist.attach(model)

    @override
    def represent(self, column: TextColumn) -> Representation:
        # The texts as numbers of their characters (n, longest), 0 after the last: so they can be gathered.
        characters = np.array(column.texts, dtype=np.str_).view(np.int32).reshape(len(column), -1)
        return torch.from_numpy(characters).to(column.device), checked_representation(self.shortlist, column)

    @override
    def for_batch(self, candidates: Any, known: Tensor | None = None) -> SimilarityEstimator:
        characters, representations = candidates
        usable = [True] * len(characters) if known is None else known.tolist()
        first: dict[str, int] = {}
        for place, text in enumerate(_texts(characters)):
            if text and usable[place]:
                first.setdefault(text, place)
        rows = torch.tensor(list(first.values()), dtype=torch.int64, device=characters.device)
        of_texts = map_rows(lambda part: part[rows], representations)
        bound = copy.copy(self)
        bound._batch = bound_to_batch(self.shortlist, of_texts) if first else self.shortlist, of_texts, list(first)
        return bound

    @override
    def similarity(self, queries: Any, candidates: Any) -> Tensor:
        if self._batch is None:
            return self.for_batch(candidates).similarity(queries, candidates)
        texts = self._batch[2]
        number_of = {text: number for number, text in enumerate(texts)}
        numbers = [number_of.get(text, -1) for text in _texts(candidates[0])]
        query_texts = _texts(queries[0])
        scores = torch.full((len(query_texts), len(texts) + 1), self.not_scored)  # the last is for no text of these
        asked = set(numbers)
        chosen = [
            (row, number)
            for row, choice in enumerate(self._choose(queries[1]) if texts and query_texts else [])
            for number in choice
            if query_texts[row] and number in asked
        ]
        if chosen:
            rows, places = zip(*chosen, strict=True)
            scores[rows, places] = torch.tensor(self._scores_of([(query_texts[i], texts[j]) for i, j in chosen]))
        return scores[:, numbers].to(queries[0].device)

    @override
    def get_config_dict(self) -> dict[str, Any]:
        return super().get_config_dict() | {
            "shortlist": self.shortlist.name,
            "shortlist_options": self.shortlist.get_config_dict(),
        }

    def _choose(self, queries: Representation) -> list[list[int]]:
        """Number each query's most similar texts of the batch."""
        assert self._batch is not None
        estimator, representations, _ = self._batch
        cheap = checked_similarity(estimator, queries, representations)
        if bool(cheap.isnan().any()):
            raise ValueError(f"shortlist {self.shortlist.name!r} of {self.name} returned nan. Take another estimator.")
        # A stable sort: of equally similar texts the same are chosen, however many rows are asked for at a time.
        values, numbers = cheap.sort(dim=1, descending=True, stable=True)
        most = self.candidates_per_query
        return [
            [number for value, number in zip(*row, strict=True) if value > -math.inf]
            for row in zip(values[:, :most].tolist(), numbers[:, :most].tolist(), strict=True)
        ]

    def _scores_of(self, pairs: list[tuple[str, str]]) -> list[float]:
        """Score pairs of texts, those never seen before in one call."""
        keys = [hash(pair) for pair in pairs]
        found = {key: self._scores[key] for key in keys if key in self._scores}
        missing = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in found}
        if missing:
            queries, candidates = map(list, zip(*missing.values(), strict=True))
            with torch.no_grad():
                scores = self._checked_scores(self.score(queries, candidates), queries, candidates)
            new = dict(zip(missing, scores, strict=True))
            found |= new
            self._scores.update(new)
            while len(self._scores) > self.scores_kept:
                self._scores.popitem(last=False)
        return [found[key] for key in keys]

    def _checked_scores(self, scores: object, queries: list[str], candidates: list[str]) -> list[float]:
        source = f"{self.name}.score()"
        asked = f"{source} must return a floating-point tensor with one number for each of {len(queries)} pairs"
        values: list[float] = check_tensor(scores, asked, source, (len(queries),)).tolist()
        for value, query, candidate in zip(values, queries, candidates, strict=True):
            if math.isnan(value) or value == math.inf:
                raise ValueError(
                    f"{asked}, got {value} for {query[:80]!r} and {candidate[:80]!r}. Return -inf for a pair that is "
                    "never relevant."
                )
        return values


class _OfFunction(PairwiseEstimator):
    def __init__(self, function: Callable[..., Any], treatment: Treatment, **options: Any) -> None:
        super().__init__(**options)
        self.treatment = treatment
        self._function = function
        vars(self)["name"] = getattr(function, "__name__", type(function).__name__)

    def score(self, queries: Sequence[str], candidates: Sequence[str]) -> Tensor:
        scores = self._function(queries, candidates)
        try:
            return scores if isinstance(scores, Tensor) else torch.as_tensor(scores, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{self.name} must return a number for each of {len(queries)} pairs, got {type(scores).__name__}: "
                f"{error}."
            ) from error


def _texts(characters: Tensor) -> list[str]:
    array = np.ascontiguousarray(characters.cpu().numpy())
    texts: list[str] = array.view(f"U{array.shape[1]}").ravel().tolist()
    return texts
