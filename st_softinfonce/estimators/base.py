"""The estimator contract: what a plugin implements, and what it is given.

An estimator says how similar each candidate of a batch is to each query. It is a plain object, never an
``nn.Module`` of the loss: the trainer replaces, moves and optimises modules, and an estimator is frozen.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from st_softinfonce.functional import check_weighting
from st_softinfonce.vectors import content_keys

Compares = Literal["queries", "documents", "positives"]
COMPARES: tuple[Compares, ...] = ("queries", "documents", "positives")


@dataclass(frozen=True)
class WeightingParameters:
    """The parameters of Eq. 4 (Li et al. 2023) that suit an estimator's scores.

    Args:
        alpha: At least 0; 0 is plain InfoNCE.
        beta: Above 0; ``alpha + beta = 2`` keeps the loss on InfoNCE's scale.
        temperature: Above 0, in units of the estimator's similarity.

    Raises:
        ValueError: A parameter is out of range.
    """

    alpha: float
    beta: float
    temperature: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_weighting(alpha=self.alpha, beta=self.beta, temperature=self.temperature, min_weight=1.0)


class TextColumn:
    """One column of a batch, as the trainer hands it to the loss.

    Padded inputs, flattened inputs (unpadded attention) and StaticEmbedding's bags all read the same here: one row a
    text. Token ids are those the model in training sees, so they are truncated, and lower-cased by an uncased
    tokenizer.

    Args:
        features: The column's features: ``input_ids`` with ``attention_mask``, with ``cu_seq_lens_q``, or with
            ``offsets``. Never changed.
        tokenizer: The tokenizer that made the ids; needed for :attr:`texts` and to tell special tokens.
        special_ids: Ids that are no content, instead of the tokenizer's special tokens.
        role: What the texts are, for an encoder that treats queries and documents differently.

    Raises:
        ValueError: The features hold no token ids.

    Example:
        >>> ids = torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]])
        >>> column = TextColumn({"input_ids": ids, "attention_mask": (ids > 0).long()}, special_ids={0, 2, 3})
        >>> column.content_ids
        tensor([[-1,  7,  8, -1],
                [-1,  9, -1, -1]])
    """

    def __init__(
        self,
        features: Mapping[str, Any],
        tokenizer: Any = None,
        *,
        special_ids: Iterable[int] | None = None,
        role: Literal["query", "document"] = "query",
    ) -> None:
        if not isinstance(features.get("input_ids"), Tensor):
            raise ValueError(
                f"features must hold the tensor 'input_ids', got the keys {sorted(features)}: an estimator compares "
                "texts, so every column of the dataset must be one."
            )
        self.tokenizer = tokenizer
        self.role = role
        self.special_ids = frozenset(_special_ids(tokenizer) if special_ids is None else special_ids)
        self._unknown_ids = _unknown_ids(tokenizer) if special_ids is None else frozenset()
        self._prompt_length = features.get("prompt_length")
        self.input_ids, self.attention_mask = _padded(features)

    @classmethod
    def from_texts(
        cls,
        texts: Sequence[str],
        tokenizer: Any,
        *,
        max_length: int | None = None,
        role: Literal["query", "document"] = "query",
    ) -> TextColumn:
        """Make a column of texts outside a training step, tokenized as a transformer's input.

        Args:
            texts: The texts, one row each.
            tokenizer: A tokenizer of transformers, or a ``tokenizers.Tokenizer``.
            max_length: Truncate to this many tokens, special tokens included.
            role: What the texts are.

        Returns:
            A column of ``len(texts)`` rows on the CPU.
        """
        if hasattr(tokenizer, "encode_batch"):
            encodings = tokenizer.encode_batch(list(texts))
            rows = [
                [token for token, used in zip(encoding.ids, encoding.attention_mask, strict=True) if used]
                for encoding in encodings
            ]
        else:
            rows = tokenizer(list(texts), truncation=max_length is not None, max_length=max_length)["input_ids"]
        rows = [row[:max_length] for row in rows]
        lengths = torch.tensor([0, *(len(row) for row in rows)])
        flat = torch.tensor([token for row in rows for token in row], dtype=torch.int64)
        features = {"input_ids": flat, "cu_seq_lens_q": lengths.cumsum(0), "max_length_q": int(lengths.max())}
        return cls(features, tokenizer, role=role)

    def __len__(self) -> int:
        """Return the number of texts."""
        return self.input_ids.size(0)

    @property
    def device(self) -> torch.device:
        """The device of the token ids, where representations are expected."""
        return self.input_ids.device

    @cached_property
    def content_mask(self) -> Tensor:
        """Which tokens are the text's own ``(n, length)``, bool: no padding, special or unknown token, or prompt.

        A prompt is known where the host reports its length, which it does not for a StaticEmbedding.
        """
        return self._mask_without(self.special_ids)

    @property
    def key_ids(self) -> Tensor:
        """As :attr:`content_ids`, but with unknown tokens: what tells texts apart as far as their tokens can."""
        return self.input_ids.masked_fill(~self._mask_without(self.special_ids - self._unknown_ids), -1)

    @property
    def has_unknown(self) -> Tensor:
        """Which texts ``(n,)`` hold a token that the tokenizer does not know, so that others may read the same."""
        return (self.key_ids != self.content_ids).any(dim=1)

    @property
    def empty(self) -> Tensor:
        """Which texts ``(n,)`` have no token at all, not even an unknown one; bool."""
        return ~self._mask_without(self.special_ids - self._unknown_ids).any(dim=1)

    def _mask_without(self, ids: frozenset[int]) -> Tensor:
        mask = self.attention_mask
        if ids:
            mask = mask & ~torch.isin(self.input_ids, _ids_on(ids, self.device))
        if self._prompt_length is not None:
            # Every row of a column has the same prompt. A tensor stays on its device: reading it would wait for it.
            length = self._prompt_length
            length = length.flatten()[0] if isinstance(length, Tensor) else length
            first = self.attention_mask.int().argmax(dim=1, keepdim=True)  # (n, 1), not 0 with left padding
            mask = mask & (torch.arange(mask.size(1), device=self.device) >= first + length)
        return mask

    @cached_property
    def content_ids(self) -> Tensor:
        """The token ids ``(n, length)``, int64, -1 where there is no content (see :attr:`content_mask`)."""
        return self.input_ids.masked_fill(~self.content_mask, -1)

    @cached_property
    def texts(self) -> list[str]:
        """The texts as the model in training sees them, without prompt and special tokens; decoded once.

        Raises:
            ValueError: There is no tokenizer to decode with.
        """
        if self.tokenizer is None:
            raise ValueError("tokenizer is None: texts can only be decoded with the tokenizer that made the ids.")
        rows = [[token for token in row if token >= 0] for row in self.content_ids.tolist()]
        decode = getattr(self.tokenizer, "decode_batch", None) or self.tokenizer.batch_decode
        decoded: list[str] = decode(rows)
        return decoded


class SimilarityEstimator(ABC):
    """How similar each candidate of a batch is to each query.

    :meth:`represent` and :meth:`similarity` are apart so that a representation can be kept by its text, gathered
    across devices, and scored a few rows at a time, without the author of an estimator doing anything for it.

    Attributes:
        name: What model cards call it; by default the name of the class.
        weighting: ``alpha``, ``beta`` and ``temperature`` that suit its scores.
        compares: What candidate ``j`` is judged by. ``"queries"``: its own query against the query. An explicit hard
            negative has no query of its own and keeps weight 1. ``"documents"``: its own text against the query.
            ``"positives"``: its own text against the query's positive document, which then takes the query's place
            in :meth:`similarity`.
        padding: What fills up representations of different widths, for those that are as wide as the longest text
            of a batch; ``None`` when every batch has the same width.
    """

    name: ClassVar[str]
    weighting: WeightingParameters
    compares: Compares
    padding: ClassVar[float | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Name the estimator after its class unless it names itself."""
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__

    @abstractmethod
    def represent(self, column: TextColumn) -> Tensor:
        """Turn each text into a row of numbers.

        Args:
            column: ``n`` texts: the queries, or one column of documents unless queries are compared.

        Returns:
            ``(n, ...)`` on the column's device, without gradient.
        """

    @abstractmethod
    def similarity(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Compare every query with every candidate.

        Args:
            queries: ``(n, ...)`` representations, possibly only some rows of the batch: of the queries, or of their
                positives when comparing positives.
            candidates: ``(m, ...)`` representations: all the candidates of the batch or, for the direction from
                document to query, some of them. What depends on all of them belongs into :meth:`for_batch`.

        Returns:
            ``(n, m)`` floating point, higher is more relevant.
        """

    def attach(self, model: nn.Module) -> None:  # noqa: B027 - most estimators have nothing to say to it
        """Learn which model will be trained, before anything is; called once by the loss.

        Args:
            model: The model in training. An estimator refuses it by raising a ValueError.
        """

    def for_batch(self, candidates: Tensor) -> SimilarityEstimator:
        """Return the estimator to use for a batch with these candidates.

        Called once a step, before :meth:`similarity` is asked for groups of rows. An estimator with statistics over
        the batch takes them here; by default there are none and the estimator is its own answer.

        Args:
            candidates: ``(m, ...)`` representations of all the candidates of the batch.

        Returns:
            An estimator whose :meth:`similarity` gives for any part of the rows or candidates what it would give for
            the whole.
        """
        return self

    def for_known(self, candidates: Tensor, known: Tensor) -> SimilarityEstimator:
        """As :meth:`for_batch`, where only some candidates have a text to be judged by.

        By default it asks :meth:`for_batch` about those alone. To find them makes every step wait for the device, so
        that an estimator with statistics over the batch may want to leave the others out by itself.

        Args:
            candidates: ``(m, ...)`` representations of all the candidates of the batch.
            known: ``(m,)`` bool. The others must not count; nobody reads their similarities.

        Returns:
            As :meth:`for_batch`.
        """
        if type(self).for_batch is SimilarityEstimator.for_batch:
            return self
        return self.for_batch(candidates[known])

    def get_config_dict(self) -> dict[str, Any]:
        """Return the options worth reading in a model card, as JSON primitives.

        Returns:
            Option names and values; by default the public attributes that are numbers, texts, bools or ``None``.
        """
        return {
            name: value
            for name, value in vars(self).items()
            if not name.startswith("_") and name != "name" and isinstance(value, (str, int, float, type(None)))
        }


class PairwiseEstimator(SimilarityEstimator):
    """An estimator that must see both texts together, such as a cross-encoder.

    An author implements :meth:`score` and sets ``weighting``. To score every pair of a batch would cost far more than
    training on it, so a cheap estimator chooses each query's most similar candidates, and only those are scored, all
    of a batch in one call. Scores are kept: a pair that comes again (in evaluation, in the other direction, inside a
    wrapper loss) is not scored again. Every step waits for the device.

    Texts are decoded from what the model in training sees: truncated, lower-cased by an uncased tokenizer. The query's
    positive may be among the candidates chosen. An empty text is never chosen.

    Args:
        compares: See :class:`SimilarityEstimator`.
        candidates_per_query: At least 1. Candidates with different texts to score for each query.
        shortlist: The cheap estimator, or its name; by default BM25. Its ``compares`` is not asked.
        scores_kept: At least 0. Pairs to keep the score of; the oldest go first. 100,000 take about 20 MB.

    Attributes:
        not_scored: Similarity of the candidates that are not chosen. By default -inf, which is "never relevant".

    Raises:
        ValueError: An option is out of range.

    Example:
        >>> class SameLength(PairwiseEstimator):
        ...     weighting = WeightingParameters(alpha=1.0, beta=1.0, temperature=1.0)
        ...
        ...     def score(self, queries, candidates):
        ...         return torch.tensor([-abs(float(len(q) - len(c))) for q, c in zip(queries, candidates)])
        >>> SameLength(candidates_per_query=4).get_config_dict()["shortlist"]
        'bm25'
    """

    padding = -1
    not_scored: ClassVar[float] = -math.inf

    def __init__(
        self,
        *,
        compares: Compares = "documents",
        candidates_per_query: int = 8,
        shortlist: str | SimilarityEstimator | None = None,
        scores_kept: int = 100_000,
    ) -> None:
        from st_softinfonce.estimators.registry import get_estimator  # the registry imports this module

        if compares not in COMPARES:
            raise ValueError(f"compares must be one of {COMPARES}, got {compares!r}.")
        for option, value, least in (
            ("candidates_per_query", candidates_per_query, 1),
            ("scores_kept", scores_kept, 0),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{option} must be an integer of at least {least}, got {value!r}.")
        self.compares = compares
        self.candidates_per_query = candidates_per_query
        self.scores_kept = scores_kept
        self.shortlist = get_estimator("bm25", compares=compares) if shortlist is None else get_estimator(shortlist)
        self._kinds: list[tuple[Any, Literal["query", "document"]]] = []
        self._scores: dict[tuple[_TextKey, _TextKey], float] = {}
        self._batch: _Shortlist | None = None

    @abstractmethod
    def score(self, queries: Sequence[str], candidates: Sequence[str]) -> Tensor:
        """Score pairs of texts, without gradient.

        Args:
            queries: ``n`` texts.
            candidates: ``n`` texts, each to be judged for the query at its place.

        Returns:
            ``(n,)`` floating point, higher is more relevant.
        """

    def attach(self, model: nn.Module) -> None:
        """Introduce the cheap estimator to the model in training.

        Args:
            model: The model in training.
        """
        self.shortlist.attach(model)

    def represent(self, column: TextColumn) -> Tensor:
        """Return what the texts can be decoded from again.

        Args:
            column: ``n`` texts.

        Returns:
            ``(n, 2 + length)`` int64: which tokenizer and role, a key of the content, and the content token ids.

        Raises:
            ValueError: The column has no tokenizer.
        """
        if column.tokenizer is None:
            raise ValueError(f"tokenizer is None: {self.name} needs the texts, which only a tokenizer can decode.")
        kinds = [tokenizer is column.tokenizer and role == column.role for tokenizer, role in self._kinds]
        if not any(kinds):
            self._kinds.append((column.tokenizer, column.role))
            kinds.append(True)
        keys = content_keys(column.content_ids).unsqueeze(1)
        return torch.cat([torch.full_like(keys, kinds.index(True)), keys, column.content_ids], dim=1)

    def for_batch(self, candidates: Tensor) -> SimilarityEstimator:
        """Number the different texts of a batch, from which each query's candidates are chosen.

        Args:
            candidates: ``(m, 2 + length)`` representations of all the candidates of the batch.

        Returns:
            An estimator that chooses from these candidates, whatever part of them it is asked for.
        """
        first: dict[_TextKey, int] = {}
        for row, (key, empty) in enumerate(_text_keys(candidates)):
            if not empty:
                first.setdefault(key, row)
        bound = copy.copy(self)
        texts = candidates[list(first.values())]
        if first:
            representations = self._represent_for_shortlist(texts)
            estimator = self.shortlist.for_batch(representations)
        else:
            estimator, representations = self.shortlist, texts
        bound._batch = _Shortlist(estimator, representations, texts, {key: number for number, key in enumerate(first)})
        return bound

    def similarity(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Score each query's most similar candidates.

        Args:
            queries: ``(n, 2 + length)`` representations.
            candidates: ``(m, 2 + length)`` representations.

        Returns:
            ``(n, m)`` float32, :attr:`not_scored` for all others.

        Raises:
            ValueError: :meth:`score` or the cheap estimator breaks its contract.
        """
        if self._batch is None:
            return self.for_batch(candidates).similarity(queries, candidates)
        similarity = torch.full((len(queries), len(candidates)), self.not_scored)
        columns: dict[int, list[int]] = {}
        for column, (key, _) in enumerate(_text_keys(candidates)):
            if key in self._batch.numbers:
                columns.setdefault(self._batch.numbers[key], []).append(column)
        if columns and len(queries):
            query_keys = _text_keys(queries)
            text_keys = list(self._batch.numbers)
            chosen = [
                (row, number)
                for row, numbers in enumerate(self._choose(queries))
                for number in numbers
                if number in columns and not query_keys[row][1]
            ]
            keys = [(query_keys[row][0], text_keys[number]) for row, number in chosen]
            scores = self._scores_of(keys, chosen, queries)
            cells = [
                (row, column, score)
                for (row, number), score in zip(chosen, scores, strict=True)
                for column in columns[number]
            ]
            if cells:
                rows, places, values = zip(*cells, strict=True)
                similarity[list(rows), list(places)] = torch.tensor(values)
        return similarity.to(queries.device)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the options worth reading in a model card, as JSON primitives.

        Returns:
            The public options, and what chooses the candidates.
        """
        return super().get_config_dict() | {
            "shortlist": self.shortlist.name,
            "shortlist_options": self.shortlist.get_config_dict(),
        }

    def _choose(self, queries: Tensor) -> list[list[int]]:
        """Number each query's most similar texts of the batch."""
        assert self._batch is not None
        representations = self._represent_for_shortlist(queries)
        cheap = checked_similarity(self._batch.estimator, representations, self._batch.representations)
        if bool(cheap.isnan().any()):
            raise ValueError(f"shortlist {self.shortlist.name!r} of {self.name} returned nan. Take another estimator.")
        # A stable sort: of equally similar texts the same are chosen, however many rows are asked for at a time.
        values, numbers = cheap.sort(dim=1, descending=True, stable=True)
        most = self.candidates_per_query
        return [
            [number for value, number in zip(*row, strict=True) if value > -math.inf]
            for row in zip(values[:, :most].tolist(), numbers[:, :most].tolist(), strict=True)
        ]

    def _scores_of(
        self, keys: list[tuple[_TextKey, _TextKey]], chosen: list[tuple[int, int]], queries: Tensor
    ) -> list[float]:
        """Score pairs of (row of queries, number of text), those never seen before in one call."""
        assert self._batch is not None
        scores = {key: self._scores[key] for key in keys if key in self._scores}
        missing = {key: pair for key, pair in zip(keys, chosen, strict=True) if key not in scores}
        if missing:
            rows, numbers = zip(*missing.values(), strict=True)
            with torch.no_grad():
                of_queries, of_candidates = self._decode(queries, rows), self._decode(self._batch.texts, numbers)
                scored = self._checked_scores(self.score(of_queries, of_candidates), of_queries, of_candidates)
            new = dict(zip(missing, scored, strict=True))
            scores |= new
            self._scores |= new
            for _ in range(len(self._scores) - self.scores_kept):
                del self._scores[next(iter(self._scores))]
        return [scores[key] for key in keys]

    def _checked_scores(self, scores: object, queries: list[str], candidates: list[str]) -> list[float]:
        pairs = f"{len(queries)} pairs"
        asked = f"{self.name}.score() must return a floating-point tensor with one number for each of {pairs}"
        if not isinstance(scores, Tensor):
            raise ValueError(f"{asked}, got {type(scores).__name__}.")
        if scores.shape != (len(queries),) or not scores.is_floating_point():
            raise ValueError(f"{asked}, got {scores.dtype} of shape {tuple(scores.shape)}.")
        values: list[float] = _without_gradient(scores, f"{self.name}.score()").tolist()
        for value, query, candidate in zip(values, queries, candidates, strict=True):
            if math.isnan(value) or value == math.inf:
                raise ValueError(
                    f"{asked}, got {value} for {query[:80]!r} and {candidate[:80]!r}. Return -inf for a pair that is "
                    "never relevant."
                )
        return values

    def _columns(self, rows: Tensor) -> Iterator[tuple[list[int], TextColumn]]:
        """Make columns of representations again: one for each tokenizer and role, with the places of its rows."""
        kinds = rows[:, 0].tolist()
        for kind in sorted(set(kinds)):
            places = [place for place, other in enumerate(kinds) if other == kind]
            ids = rows[places, 2:]
            tokenizer, role = self._kinds[kind]
            features = {"input_ids": ids.clamp(min=0), "attention_mask": ids >= 0}
            yield places, TextColumn(features, tokenizer, special_ids=(), role=role)

    def _represent_for_shortlist(self, rows: Tensor) -> Tensor:
        order, parts = [], []
        for places, column in self._columns(rows):
            order += places
            parts.append(checked_representation(self.shortlist, column))
        joined = join_representations(parts, self.shortlist.padding)
        return joined[torch.tensor(order, device=joined.device).argsort()]

    def _decode(self, rows: Tensor, wanted: Sequence[int]) -> list[str]:
        different = sorted(set(wanted))
        texts: dict[int, str] = {}
        for places, column in self._columns(rows[different]):
            texts |= zip((different[place] for place in places), column.texts, strict=True)
        return [texts[place] for place in wanted]


_TextKey = tuple[int, int]


@dataclass(frozen=True)
class _Shortlist:
    """The different texts of a batch, their representations by the cheap estimator, and their numbers by key."""

    estimator: SimilarityEstimator
    representations: Tensor
    texts: Tensor
    numbers: dict[_TextKey, int]


def _text_keys(rows: Tensor) -> list[tuple[_TextKey, bool]]:
    """Read a pairwise representation's keys, and whether the text is empty."""
    empty = (rows[:, 2:] < 0).all(dim=1).tolist()
    return [((kind, key), none) for (kind, key), none in zip(rows[:, :2].tolist(), empty, strict=True)]


def check_estimator(estimator: object, source: str) -> SimilarityEstimator:
    """Refuse an object that does not keep the contract, naming what is missing.

    Args:
        estimator: The object to check.
        source: Who made it, for the message: a name and its distribution, or "estimator".

    Returns:
        The same object.

    Raises:
        TypeError: It is no SimilarityEstimator, or is an ``nn.Module`` as well.
        ValueError: ``weighting`` or ``compares`` is missing or not allowed.
    """
    if not isinstance(estimator, SimilarityEstimator):
        raise TypeError(
            f"{source} must be the name of an estimator or a SimilarityEstimator, got {type(estimator).__name__}. "
            "Subclass st_softinfonce.SimilarityEstimator."
        )
    if isinstance(estimator, nn.Module):
        raise TypeError(
            f"{source} is an nn.Module, which the trainer would move, replace and optimise. Keep the module in an "
            "attribute of a plain SimilarityEstimator."
        )
    if not isinstance(getattr(estimator, "weighting", None), WeightingParameters):
        raise ValueError(
            f"{source} must have a 'weighting' of type WeightingParameters, got "
            f"{getattr(estimator, 'weighting', None)!r}. Its values suit the scale of the estimator's scores."
        )
    compares = getattr(estimator, "compares", None)
    if compares not in COMPARES:
        raise ValueError(f"{source} must have 'compares' set to one of {COMPARES}, got {compares!r}.")
    return estimator


def checked_representation(estimator: SimilarityEstimator, column: TextColumn) -> Tensor:
    """Ask for a representation and refuse one that breaks the contract.

    Args:
        estimator: The estimator to ask.
        column: ``n`` texts.

    Returns:
        ``(n, ...)`` without gradient.

    Raises:
        ValueError: The result is no tensor, has not one row a text, is on another device, or requires a gradient.
    """
    with torch.no_grad():
        representation = estimator.represent(column)
    asked = f"{estimator.name}.represent() must return a tensor with one row for each of {len(column)} texts"
    if not isinstance(representation, Tensor):
        raise ValueError(f"{asked}, got {type(representation).__name__}.")
    if representation.dim() == 0 or representation.size(0) != len(column):
        raise ValueError(f"{asked}, got the shape {tuple(representation.shape)}.")
    if representation.device != column.device:
        raise ValueError(f"{asked} on {column.device}, got one on {representation.device}. Use column.device.")
    return _without_gradient(representation, f"{estimator.name}.represent()")


def checked_similarity(estimator: SimilarityEstimator, queries: Tensor, candidates: Tensor) -> Tensor:
    """Ask for similarities and refuse what breaks the contract.

    Args:
        estimator: The estimator to ask.
        queries: ``(n, ...)`` representations.
        candidates: ``(m, ...)`` representations.

    Returns:
        ``(n, m)`` floating point, without gradient.

    Raises:
        ValueError: The result is no floating-point tensor of that shape, or requires a gradient.
    """
    with torch.no_grad():
        similarity = estimator.similarity(queries, candidates)
    shape = (queries.size(0), candidates.size(0))
    asked = f"{estimator.name}.similarity() must return a floating-point tensor of shape {shape} (queries, candidates)"
    if not isinstance(similarity, Tensor):
        raise ValueError(f"{asked}, got {type(similarity).__name__}.")
    if tuple(similarity.shape) != shape or not similarity.is_floating_point():
        raise ValueError(f"{asked}, got {similarity.dtype} of shape {tuple(similarity.shape)}.")
    return _without_gradient(similarity, f"{estimator.name}.similarity()")


def join_representations(parts: Sequence[Tensor], padding: float | None) -> Tensor:
    """Put representations of several columns (or devices) below each other.

    Args:
        parts: ``(n_k, ...)`` each.
        padding: What fills up narrower parts; ``None`` when all must be equally wide.

    Returns:
        ``(sum n_k, ...)``.

    Raises:
        ValueError: The parts differ in width and ``padding`` is ``None``.
    """
    if len({part.shape[1:] for part in parts}) > 1:
        if padding is None or any(part.dim() != 2 for part in parts):
            raise ValueError(
                f"representations have the shapes {[tuple(part.shape) for part in parts]}: rows of one batch must be "
                "equally wide. Set the estimator's 'padding' if its rows are (n, longest text)."
            )
        width = max(part.size(1) for part in parts)
        parts = [F.pad(part, (0, width - part.size(1)), value=padding) for part in parts]
    return torch.cat(list(parts))


def _without_gradient(tensor: Tensor, source: str) -> Tensor:
    if tensor.requires_grad:
        raise ValueError(
            f"{source} returned a tensor that requires a gradient: an estimator is frozen, and nothing may flow back "
            "into it. Return tensor.detach(), or call requires_grad_(False) on the model behind it."
        )
    return tensor


def _padded(features: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Read ids and attention mask, each ``(n, length)``, from any of the host's three input layouts."""
    ids: Tensor = features["input_ids"]
    if "cu_seq_lens_q" in features:
        starts = features["cu_seq_lens_q"][:-1]
        lengths = features["cu_seq_lens_q"][1:] - starts
        width = features.get("max_length_q")
    elif "offsets" in features:
        starts = features["offsets"]
        lengths = torch.cat([starts[1:], starts.new_tensor([ids.numel()])]) - starts
        width = None
    else:
        mask = features.get("attention_mask")
        return ids, torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    flat = ids.flatten()
    if width is None:
        width = int(lengths.max()) if len(lengths) else 0
    columns = torch.arange(max(int(width), 1), device=ids.device)
    mask = columns < lengths.unsqueeze(1)  # (n, width)
    if flat.numel() == 0:
        return torch.zeros_like(mask, dtype=torch.int64), mask
    return flat[(starts.unsqueeze(1) + columns).clamp(max=flat.numel() - 1)].masked_fill(~mask, 0), mask


def _special_ids(tokenizer: Any) -> set[int]:
    """Ids of the tokenizer's special tokens, the unknown token among them: they say nothing about a text."""
    if tokenizer is None:
        return set()
    if hasattr(tokenizer, "all_special_ids"):
        return set(tokenizer.all_special_ids)
    ids = {token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return ids | _unknown_ids(tokenizer)


def _unknown_ids(tokenizer: Any) -> frozenset[int]:
    if tokenizer is None:
        return frozenset()
    if hasattr(tokenizer, "all_special_ids"):
        unknown = tokenizer.unk_token_id
    else:
        token = getattr(tokenizer.model, "unk_token", None)
        unknown = None if token is None else tokenizer.token_to_id(token)
    return frozenset() if unknown is None else frozenset({unknown})


@lru_cache(maxsize=32)
def _ids_on(ids: frozenset[int], device: torch.device) -> Tensor:
    # Made once per device: copying from the host in every step would wait for the device.
    return torch.tensor(sorted(ids), device=device)
