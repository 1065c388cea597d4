"""Relevance that needs no guess: equal texts, groups that the user knows, and the model's own similarity."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import cos_sim
from torch import Tensor
from typing_extensions import override

from st_softinfonce._checks import check_choice
from st_softinfonce.estimators.base import COMPARES_TEXTS, Compares, SimilarityEstimator
from st_softinfonce.estimators.by_text import ByText
from st_softinfonce.estimators.text_column import TextColumn
from st_softinfonce.treatments import Mask
from st_softinfonce.vectors import content_keys


class IdenticalEstimator(SimilarityEstimator):
    """1 where two texts are the same token for token, else 0: exact duplicates.

    By default each candidate is compared with the query's own positive. Its treatment takes duplicates out
    (``Mask(above=0.5)``); ``Promote()`` makes positives of them instead.

    Args:
        compares: ``"positives"`` finds copies of the positive document, mined negatives among them; ``"queries"``
            finds copies of the query; ``"documents"`` documents that are the query.

    Raises:
        ValueError: ``compares`` is not one of these.

    Example:
        >>> ids = torch.tensor([[5, 6], [7, 8], [5, 6]])
        >>> keys = IdenticalEstimator().represent(TextColumn({"input_ids": ids}))
        >>> IdenticalEstimator().similarity(keys, keys)[0].tolist()
        [1.0, 0.0, 1.0]
    """

    name = "identical"
    treatment = Mask(above=0.5)
    often_equal = True

    def __init__(self, *, compares: Compares = "positives") -> None:
        check_choice("compares", compares, COMPARES_TEXTS)
        self.compares = compares

    @override
    def represent(self, column: TextColumn) -> Tensor:
        return content_keys(column.key_ids)  # (n,)

    @override
    def similarity(self, queries: Tensor, candidates: Tensor) -> Tensor:
        return (queries.unsqueeze(1) == candidates).float()


class KnownRelevanceEstimator(SimilarityEstimator):
    """1 where two texts belong to one group that the user knows, else 0.

    Groups are answer ids, labels, the ``duplicate_group`` of mined pairs, or whatever else says that texts are
    equally right. A text without a group is similar to nothing. The treatment takes those of the same group out
    (``Mask(above=0.5)``); ``Promote()`` makes positives of them instead.

    Args:
        group_of: Text to group: documents for ``compares="positives"``, queries for ``"queries"``. Texts of the group
            ``None`` are in none.
        model: The model in training.
        compares: ``"positives"``: a candidate is relevant if it is in the group of the query's own positive;
            ``"queries"``: if its query is in the group of the query.
        **options: ``max_length``, ``prompt`` and ``task`` as for :class:`ByText`.

    Raises:
        ValueError: ``group_of`` holds no group, or an option is out of range.
    """

    name = "known"
    treatment = Mask(above=0.5)
    # A batch of random pairs rarely holds two of one group; ByText warns where no text is found.
    often_equal = True

    def __init__(
        self,
        group_of: Mapping[str, Hashable],
        model: SentenceTransformer,
        *,
        compares: Compares = "positives",
        **options: Any,
    ) -> None:
        check_choice("compares", compares, ("positives", "queries"))
        groups = {text: group for text, group in group_of.items() if group is not None}
        if not groups:
            raise ValueError("group_of must map at least one text to its group, got none.")
        self.compares = compares
        role = "query" if compares == "queries" else "document"
        self._by_text: ByText[Hashable] = ByText(groups, model, role=role, **options)
        number: dict[Hashable, int] = {}
        numbers = [number.setdefault(group, len(number)) for group in self._by_text.values]
        self._numbers = torch.tensor([*numbers, -1], dtype=torch.int64)  # the last is for a text without a group
        self.groups = len(number)
        self.texts = len(groups)

    @override
    def represent(self, column: TextColumn) -> Tensor:
        if self._numbers.device != column.device:
            self._numbers = self._numbers.to(column.device)
        return self._numbers[self._by_text.index(column)]  # (n,); a text that is not found has the last, -1

    @override
    def similarity(self, queries: Tensor, candidates: Tensor) -> Tensor:
        return ((queries.unsqueeze(1) == candidates) & (candidates >= 0)).float()


class SelfEstimator(SimilarityEstimator):
    """How similar the model in training itself finds each pair in this step: no text, no teacher, no cost.

    The loss's ``similarity_fct`` without its scale, detached. The treatment takes out what the model finds more
    similar than the positive by 0.1, as Qwen3-Embedding does.
    """

    name = "self"
    treatment = Mask(margin=-0.1)
    compares = "scores"

    @override
    def represent(self, column: TextColumn) -> Tensor:
        raise TypeError("the estimator 'self' has no representation of texts: the loss gives it the embeddings.")

    @override
    def similarity(self, queries: Tensor, candidates: Tensor) -> Tensor:
        return cos_sim(queries, candidates)
