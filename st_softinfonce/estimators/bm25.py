"""BM25 on token ids: how many rare words does a candidate share with the query?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from rank_bm25 import BM25Okapi
from torch import Tensor

from st_softinfonce.estimators.base import COMPARES, SimilarityEstimator, TextColumn, WeightingParameters

# Queries are scored this many at a time: it bounds the memory, and their terms stay in the processor's cache.
_QUERIES_AT_A_TIME = 128


@dataclass(frozen=True)
class BM25Statistics:
    """What BM25 knows about a collection of documents.

    Attributes:
        tokens: ``(t,)`` int64, ascending; of equal ones only the first counts.
        idf: ``(t,)`` inverse document frequency of each token.
        average_length: ``()`` mean number of content tokens a document.
    """

    tokens: Tensor
    idf: Tensor
    average_length: Tensor

    def to(self, device: torch.device) -> BM25Statistics:
        """Return the statistics on a device.

        Args:
            device: Where to.

        Returns:
            The same object if they are there already.
        """
        if self.tokens.device == device:
            return self
        dtype = _score_dtype(device)
        return BM25Statistics(
            self.tokens.to(device), self.idf.to(device, dtype), self.average_length.to(device, dtype)
        )

    @classmethod
    def of_documents(cls, documents: Tensor) -> BM25Statistics:
        """Count a batch of documents, on their device and without waiting for it.

        ``idf = ln((N - n + 0.5) / (n + 0.5))`` with ``n`` of ``N`` documents holding the token: negative for a token
        in more than half of them, as in the paper's code.

        Args:
            documents: ``(m, length)`` int64 token ids, -1 where there is no content.

        Returns:
            The batch's statistics.
        """
        dtype = _score_dtype(documents.device)
        tokens = documents.flatten().sort().values  # (t,), with repeats: dropping them would have a size to wait for
        ordered, first = _first_occurrences(documents)
        place = torch.searchsorted(tokens, ordered)
        holding = torch.zeros(tokens.numel(), dtype=dtype, device=documents.device)
        holding.scatter_add_(0, place.flatten(), first.flatten().to(dtype))
        idf = torch.log((documents.size(0) - holding + 0.5) / (holding + 0.5))
        return cls(tokens, idf, (documents >= 0).sum(dim=1).to(dtype).mean())


class BM25Estimator(SimilarityEstimator):
    """Okapi BM25 of every query against every candidate, on the token ids of the model in training.

    The score of candidate ``j`` for query ``i`` sums, over every token occurrence of the query,
    ``idf * (k1 + 1) f / (f + k1 (1 - b + b * length_j / average_length))`` with ``f`` the token's count in the
    candidate. By default candidates are the batch's queries and the statistics the batch's, which is how the paper's
    numbers were made (Li et al. 2023, appendix D.2; its section 3.2 describes query against code:
    ``compares="documents"``). :meth:`from_corpus` takes the statistics from a whole corpus. Special tokens, padding
    and prompts never count. The paper's code also has a ``k2``, which has no effect.

    Args:
        k1: At least 0. Saturation of a repeated token: 0 counts presence only.
        b: In [0, 1]. How much a long candidate is discounted.
        average_length: Above 0, in tokens; by default the mean over the candidates of the batch.
        compares: ``"queries"`` judges a candidate by its own query, ``"documents"`` by its own text.

    Shape:
        Representations are token ids ``(n, length)`` int64, -1 where there is no content. Similarities are
        ``(n, m)`` float64 (float32 on a device without it).

    Raises:
        ValueError: An option is out of range.

    Example:
        >>> ids = torch.tensor([[5, 6, -1], [5, 7, 8], [9, 10, 11]])
        >>> BM25Estimator().similarity(ids, ids)[0].argsort(descending=True).tolist()
        [0, 2, 1]
    """

    name = "bm25"
    weighting = WeightingParameters(alpha=1.5, beta=0.5, temperature=1.0)
    padding = -1

    def __init__(
        self,
        *,
        k1: float = 1.2,
        b: float = 0.75,
        average_length: float | None = None,
        compares: Literal["queries", "documents"] = "queries",
    ) -> None:
        if not (math.isfinite(k1) and k1 >= 0):
            raise ValueError(f"k1 must be a finite number, at least 0, got {k1!r}. Between 1.2 and 2 is usual.")
        if not 0 <= b <= 1:
            raise ValueError(f"b must be in [0, 1], got {b!r}. 0.75 is usual.")
        if average_length is not None and not (math.isfinite(average_length) and average_length > 0):
            raise ValueError(
                f"average_length must be a finite number of tokens above 0, got {average_length!r}. None takes the "
                "mean over the batch."
            )
        if compares not in COMPARES:
            raise ValueError(f"compares must be one of {COMPARES}, got {compares!r}.")
        self.k1 = k1
        self.b = b
        self.average_length = average_length
        self.compares = compares
        self._statistics: BM25Statistics | None = None
        self._documents: _WeighedDocuments | None = None
        self._corpus: _Corpus | None = None

    @classmethod
    def from_corpus(
        cls,
        texts: Iterable[str],
        *,
        tokenizer: Any = None,
        k1: float = 1.5,
        b: float = 0.75,
        epsilon: float = 0.25,
        compares: Literal["queries", "documents"] = "queries",
    ) -> BM25Estimator:
        """Take idf and average length from a corpus, by ``rank_bm25.BM25Okapi``, whose scores these then are.

        Args:
            texts: The corpus: queries when comparing queries, documents when comparing documents.
            tokenizer: The tokenizer of the model in training. By default the one that comes with the first batch,
                and the corpus is counted then.
            k1: As in ``rank_bm25``, with its default.
            b: As in ``rank_bm25``, with its default.
            epsilon: As in ``rank_bm25``: the idf of a token in more than half of the texts is this share of the
                mean idf, instead of negative.
            compares: ``"queries"`` or ``"documents"``.

        Returns:
            An estimator with the corpus's statistics.

        Raises:
            ValueError: ``texts`` is one string or holds nothing to count, or an option is out of range.
        """
        estimator = cls(k1=k1, b=b, compares=compares)
        if not (math.isfinite(epsilon) and epsilon >= 0):
            raise ValueError(f"epsilon must be a finite number, at least 0, got {epsilon!r}. 0.25 is usual.")
        if isinstance(texts, str):
            raise ValueError("texts must be an iterable of texts, got one string. Wrap it in a list.")
        corpus = list(texts)
        if not any(text.strip() for text in corpus):
            raise ValueError(
                f"texts must hold at least one text that is not empty, got {len(corpus)} without. Give the queries of "
                "the training data."
            )
        estimator._corpus = _Corpus(corpus, epsilon)
        if tokenizer is not None:
            estimator._count_corpus(tokenizer)
        return estimator

    def represent(self, column: TextColumn) -> Tensor:
        """Return the column's content token ids.

        Args:
            column: ``n`` texts.

        Returns:
            ``(n, length)`` int64, -1 where there is no content.
        """
        if self._corpus is not None and self._statistics is None:
            self._count_corpus(column.tokenizer)
        return column.content_ids

    def similarity(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Score every candidate for every query.

        Args:
            queries: ``(n, length)`` token ids, -1 where there is no content.
            candidates: ``(m, length)`` likewise.

        Returns:
            ``(n, m)`` BM25 scores.
        """
        documents = self._documents
        if documents is None or documents.of is not candidates:
            documents = self._weigh(candidates)
        groups = torch.split(queries, _QUERIES_AT_A_TIME)
        return torch.cat([documents.score(group) for group in groups])

    def for_batch(self, candidates: Tensor) -> BM25Estimator:
        """Take the statistics of a batch once, unless a corpus has given them.

        Args:
            candidates: ``(m, length)`` token ids of all the candidates of the batch.

        Returns:
            An estimator that scores any rows or candidates with these statistics.
        """
        bound = BM25Estimator(k1=self.k1, b=self.b, average_length=self.average_length, compares=self.compares)
        bound._statistics = self._statistics_for(candidates)
        bound._documents = bound._weigh(candidates)
        return bound

    def get_config_dict(self) -> dict[str, Any]:
        """Return the options worth reading in a model card.

        Returns:
            ``k1``, ``b``, ``compares``, and where the statistics come from.
        """
        config: dict[str, Any] = {"k1": self.k1, "b": self.b, "compares": self.compares, "statistics": "batch"}
        if self._corpus is not None:
            config |= {"statistics": "corpus", "corpus_size": len(self._corpus.texts), "epsilon": self._corpus.epsilon}
        elif self.average_length is not None:
            config["average_length"] = self.average_length
        return config

    def _statistics_for(self, candidates: Tensor) -> BM25Statistics:
        if self._statistics is not None:
            self._statistics = self._statistics.to(candidates.device)
            return self._statistics
        statistics = BM25Statistics.of_documents(candidates)
        if self.average_length is None:
            return statistics
        average_length = torch.full_like(statistics.average_length, self.average_length)
        return BM25Statistics(statistics.tokens, statistics.idf, average_length)

    def _weigh(self, candidates: Tensor) -> _WeighedDocuments:
        """Compute what each token of each candidate adds to the score of a query that has it once."""
        statistics = self._statistics_for(candidates)
        ordered, first = _first_occurrences(candidates)
        place, known = _find(statistics.tokens, ordered)
        count = torch.searchsorted(ordered, ordered, right=True) - torch.searchsorted(ordered, ordered)
        length = (candidates >= 0).sum(dim=1, keepdim=True)
        # With nothing but empty candidates the average is 0 and so is every count.
        relative_length = length / statistics.average_length.clamp(min=torch.finfo(statistics.idf.dtype).tiny)
        weight = statistics.idf[place] * (self.k1 + 1) * count
        weight = weight / (count + self.k1 * (1 - self.b + self.b * relative_length))
        return _WeighedDocuments(candidates, ordered, weight.masked_fill(~(first & known), 0.0))

    def _count_corpus(self, tokenizer: Any) -> None:
        if self._corpus is None:
            return
        if tokenizer is None:
            raise ValueError("tokenizer is None: a corpus can only be counted with the tokenizer of the model.")
        column = TextColumn.from_texts(self._corpus.texts, tokenizer)
        documents = [[token for token in row if token >= 0] for row in column.content_ids.tolist()]
        if not any(documents):
            raise ValueError(
                f"texts hold no token that {type(tokenizer).__name__} knows, in {len(documents)} texts: is it the "
                "tokenizer of the model in training?"
            )
        okapi = BM25Okapi(documents, k1=self.k1, b=self.b, epsilon=self._corpus.epsilon)
        idf: Mapping[int, float] = dict(sorted(okapi.idf.items()))
        self._statistics = BM25Statistics(
            torch.tensor(list(idf), dtype=torch.int64),
            torch.tensor(list(idf.values()), dtype=torch.float64),
            torch.tensor(okapi.avgdl, dtype=torch.float64),
        )


@dataclass(frozen=True)
class _WeighedDocuments:
    """Documents' tokens and what each adds to a score, both ``(m, length)``; of equal tokens only the first does."""

    of: Tensor
    tokens: Tensor
    weight: Tensor

    def score(self, queries: Tensor) -> Tensor:
        """Sum up the weights of every query's tokens: ``(n, m)``."""
        # The queries' own tokens are the vocabulary: small, and of a size that is known without waiting for the
        # device. Repeats stay in it unused.
        vocabulary = queries.flatten().sort().values  # (terms,)
        terms = vocabulary.numel()
        place, known = _find(vocabulary, self.tokens)
        place = place.masked_fill(~known, terms)
        counts = torch.zeros(terms + 1, len(queries), dtype=self.weight.dtype, device=self.weight.device)
        term = torch.searchsorted(vocabulary, queries)
        row = torch.arange(len(queries), device=queries.device).unsqueeze(1)
        ones = torch.ones((), dtype=counts.dtype, device=counts.device).expand(term.numel())
        counts.view(-1).scatter_add_(0, (term * len(queries) + row).flatten(), ones)
        return F.embedding_bag(place, counts, per_sample_weights=self.weight, mode="sum").T


@dataclass(frozen=True)
class _Corpus:
    texts: list[str]
    epsilon: float


def _score_dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _first_occurrences(documents: Tensor) -> tuple[Tensor, Tensor]:
    """Sort each document's tokens and mark the first of each kind: both ``(m, length)``."""
    ordered = documents.sort(dim=1).values
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return ordered, first & (ordered >= 0)


def _find(vocabulary: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Find tokens in an ascending vocabulary: their places (of the same shape), and whether they are in it."""
    place = torch.searchsorted(vocabulary, tokens).clamp(max=vocabulary.numel() - 1)
    return place, (vocabulary[place] == tokens) & (tokens >= 0)
