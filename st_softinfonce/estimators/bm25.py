"""BM25 on words or token ids: how many rare ones does a candidate share with the query?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from rank_bm25 import BM25Okapi
from torch import Tensor
from typing_extensions import override

from st_softinfonce._checks import check_choice, check_not_negative, check_positive, check_share
from st_softinfonce.estimators.base import COMPARES_TEXTS, Compares, SimilarityEstimator
from st_softinfonce.estimators.overlap import find_tokens, sum_over_shared
from st_softinfonce.estimators.text_column import TextColumn
from st_softinfonce.estimators.words import Vocabulary, name_of, split_content_words, split_words, word_ids
from st_softinfonce.treatments import Soften

TOKENS = ("content", "all")

# Queries are scored this many at a time: it bounds the memory, and their terms stay in the cache.
_QUERIES_AT_A_TIME = 128
# Divides by an average length that is 0, when every count is 0 too. Normal in float32 as well.
_TINY = 1e-37


@dataclass(frozen=True)
class _Statistics:
    """What BM25 knows about a collection of documents.

    ``idf = ln((N - n + 0.5) / (n + 0.5))`` with ``n`` of ``N`` documents holding the token: negative for a token in
    more than half of them, as in the paper's code. ``rank_bm25`` gives those a positive one instead.
    """

    tokens: Tensor  # (t,) ascending; of equal ones only the first counts
    idf: Tensor  # (t,)
    average_length: Tensor  # (), in tokens


@dataclass(frozen=True)
class _Documents:
    """Documents without a size that depends on the data: reading one would wait for the device."""

    of: Tensor
    tokens: Tensor  # (m, length)
    weight: Tensor  # (m, length), what each adds to a score; of a document's equal tokens only the first does


class BM25Estimator(SimilarityEstimator):
    """Okapi BM25 of every query against every candidate, on the token ids of the model in training or on words.

    The score of candidate ``j`` for query ``i`` sums, over every token occurrence of the query,
    ``idf * (k1 + 1) f / (f + k1 (1 - b + b * length_j / average_length))`` with ``f`` the token's count in the
    candidate. By default candidates are compared by their queries, with the statistics of the batch, as the paper's
    numbers were made (Li et al. 2023, appendix D.2; its section 3.2 describes ``compares="documents"``).
    :meth:`from_corpus` takes the statistics from a corpus. Special tokens, padding and prompts never count (a
    StaticEmbedding does not tell its prompts apart). The ``k2`` in the paper's code has no effect and is left out.

    Args:
        k1: At least 0. Saturation of a repeated token: 0 counts presence only.
        b: In [0, 1]. How much a long candidate is discounted.
        average_length: Above 0, in tokens; by default the mean over the candidates of the batch.
        compares: ``"queries"`` judges a candidate by its own query, ``"documents"`` by its own text,
            ``"positives"`` by its own text against the query's positive document.
        tokenizer: ``None`` for the token ids. ``"words"`` decodes the texts in every step and also compares the parts
            of snake_case and camelCase names, as far as the model's tokenizer leaves them (an uncased one hides
            camelCase). Or a function that splits a text into a list of strings.
        tokens: ``"content"`` counts whole words without stop words, single letters and punctuation: in a small batch
            a comma or the piece "##s" is rare, and would make queries similar. ``"all"`` counts every token (or word)
            as it is, as for the paper's numbers, and so do columns without a tokenizer and a function of your own.

    Raises:
        ValueError: An option is out of range.

    Example:
        >>> ids = torch.tensor([[5, 6, -1], [5, 7, 8], [9, 10, 11]])
        >>> BM25Estimator().similarity(ids, ids)[0].argsort(descending=True).tolist()
        [0, 2, 1]
    """

    name = "bm25"
    treatment = Soften(alpha=1.5, beta=0.5, temperature=1.0)
    padding = -1

    def __init__(
        self,
        *,
        k1: float = 1.2,
        b: float = 0.75,
        average_length: float | None = None,
        compares: Compares = "queries",
        tokenizer: Literal["words"] | Callable[[str], list[str]] | None = None,
        tokens: Literal["content", "all"] = "content",
    ) -> None:
        self.k1 = check_not_negative("k1", k1, "Between 1.2 and 2 is usual.")
        self.b = check_share("b", b, zero=True, hint="0.75 is usual.")
        self.average_length = None if average_length is None else check_positive("average_length", average_length)
        check_choice("compares", compares, COMPARES_TEXTS)
        check_choice("tokens", tokens, TOKENS)
        if _is_of_a_model(tokenizer) or not (tokenizer in (None, "words") or callable(tokenizer)):
            got = type(tokenizer).__name__ if _is_of_a_model(tokenizer) else repr(tokenizer)
            raise ValueError(
                f"tokenizer must be None, 'words' or a function from a text to a list of strings, got {got}. None "
                "takes the token ids of the model in training."
            )
        self.compares = compares
        self.tokenizer = tokenizer
        self.tokens = tokens
        self._vocabularies: dict[Any, Vocabulary] = {}  # of each tokenizer
        self._statistics: _Statistics | None = None
        self._documents: _Documents | None = None
        self._corpus: tuple[list[str], float] | None = None  # texts and epsilon

    @classmethod
    def from_corpus(
        cls,
        texts: Iterable[str],
        *,
        tokenizer: Any = None,
        k1: float = 1.5,
        b: float = 0.75,
        epsilon: float = 0.25,
        compares: Compares = "queries",
        tokens: Literal["content", "all"] = "content",
    ) -> BM25Estimator:
        """Take idf and average length from a corpus, by ``rank_bm25.BM25Okapi``, whose scores these then are.

        Args:
            texts: The corpus: queries when comparing queries, documents when comparing documents.
            tokenizer: The tokenizer of the model in training; or ``"words"`` or a function, as for the class. By
                default the tokenizer of the first batch. The corpus is counted as soon as the model's is known.
            k1: As in ``rank_bm25``, with its default, like ``b`` and ``epsilon``.
            b: Likewise.
            epsilon: The idf of a token in more than half of the texts is this share of the mean idf.
            compares: As for the class, like ``tokens``.
            tokens: Likewise.

        Raises:
            ValueError: ``texts`` is one string or holds nothing to count, or an option is out of range.
        """
        of_a_model = _is_of_a_model(tokenizer)
        estimator = cls(k1=k1, b=b, compares=compares, tokenizer=None if of_a_model else tokenizer, tokens=tokens)
        check_not_negative("epsilon", epsilon, "0.25 is usual.")
        if isinstance(texts, str):
            raise ValueError("texts must be an iterable of texts, got one string. Wrap it in a list.")
        corpus = list(texts)
        for place, text in enumerate(corpus):
            if not isinstance(text, str):
                raise ValueError(f"texts must hold strings, not tokens, got a {type(text).__name__} at place {place}.")
        if not any(text.strip() for text in corpus):
            raise ValueError(
                f"texts must hold at least one text that is not empty, got {len(corpus)} without. Give the queries of "
                "the training data."
            )
        estimator._corpus = corpus, epsilon
        if of_a_model:
            estimator._count_corpus(tokenizer)
        return estimator

    @override
    def represent(self, column: TextColumn) -> Tensor:
        if self._corpus is not None and self._statistics is None:
            self._count_corpus(column.tokenizer)
        return self._ids(column)

    @override
    def similarity(self, queries: Tensor, candidates: Tensor) -> Tensor:
        documents = self._documents
        if documents is None or documents.of is not candidates:
            documents = self._weigh(candidates)[1]
        groups = torch.split(queries, _QUERIES_AT_A_TIME)
        return torch.cat([sum_over_shared(group, documents.tokens, documents.weight) for group in groups])

    @override
    def for_batch(self, candidates: Tensor, known: Tensor | None = None) -> BM25Estimator:
        bound = copy.copy(self)
        bound._statistics, bound._documents = self._weigh(candidates, known)
        return bound

    @override
    def get_config_dict(self) -> dict[str, Any]:
        config: dict[str, Any] = {"k1": self.k1, "b": self.b, "compares": self.compares, "statistics": "batch"}
        if self._corpus is not None:
            texts, epsilon = self._corpus
            config |= {"statistics": "corpus", "corpus_size": len(texts), "epsilon": epsilon}
        elif self.average_length is not None:
            config["average_length"] = self.average_length
        if self.tokenizer is None:
            return config | {"tokens": self.tokens}
        return config | {"tokenizer": self.tokenizer if isinstance(self.tokenizer, str) else name_of(self.tokenizer)}

    def _ids(self, column: TextColumn) -> Tensor:
        if self.tokenizer is None:
            ids = column.content_ids
            if self.tokens == "all" or column.tokenizer is None:
                return ids
            return self._vocabulary(column.tokenizer, column.device).words(ids)
        split = self.tokenizer
        if isinstance(split, str):
            split = split_content_words if self.tokens == "content" else split_words
        return word_ids(column.texts, split).to(column.device)

    def _vocabulary(self, tokenizer: Any, device: torch.device) -> Vocabulary:
        """Read a tokenizer's vocabulary once, and keep it on the device."""
        vocabulary = self._vocabularies.get(tokenizer) or Vocabulary.of(tokenizer)
        self._vocabularies[tokenizer] = vocabulary.to(device)
        return self._vocabularies[tokenizer]

    def _weigh(self, candidates: Tensor, known: Tensor | None = None) -> tuple[_Statistics, _Documents]:
        """Compute what each token of each candidate ``(m, length)`` adds to the score of a query that has it once.

        By the corpus's statistics, or else by those of the candidates that are known.
        """
        device = candidates.device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        texts = candidates if known is None else candidates.masked_fill(~known.unsqueeze(1), -1)
        ordered = texts.sort(dim=1).values
        first = torch.ones_like(ordered, dtype=torch.bool)  # of a document's equal tokens
        first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        first &= ordered >= 0
        length = (texts >= 0).sum(dim=1, keepdim=True)
        if self._statistics is None:
            number = len(texts) if known is None else known.sum()
            tokens = texts.flatten().sort().values  # (t,), with repeats
            holding = torch.zeros(tokens.numel(), dtype=dtype, device=device)
            holding.scatter_add_(0, torch.searchsorted(tokens, ordered).flatten(), first.flatten().to(dtype))
            idf = torch.log((number - holding + 0.5) / (holding + 0.5))
            average = length.sum().to(dtype) / number
            if self.average_length is not None:
                average.fill_(self.average_length)
            statistics = _Statistics(tokens, idf, average)
        else:
            idf, average = self._statistics.idf.to(device, dtype), self._statistics.average_length.to(device, dtype)
            statistics = self._statistics = _Statistics(self._statistics.tokens.to(device), idf, average)
        place, present = find_tokens(statistics.tokens, ordered)
        count = torch.searchsorted(ordered, ordered, right=True) - torch.searchsorted(ordered, ordered)
        relative_length = length / statistics.average_length.clamp(min=_TINY)
        saturation = count + self.k1 * (1 - self.b + self.b * relative_length)
        weight = statistics.idf[place] * (self.k1 + 1) * count / saturation
        return statistics, _Documents(candidates, ordered, weight.masked_fill(~(first & present), 0.0))

    def _count_corpus(self, tokenizer: Any) -> None:
        assert self._corpus is not None
        if tokenizer is None:
            raise ValueError("tokenizer is None: a corpus can only be counted with the tokenizer of the model.")
        texts, epsilon = self._corpus
        column = TextColumn.from_texts(texts, tokenizer)
        documents = [[token for token in row if token >= 0] for row in self._ids(column).tolist()]
        if not any(documents):
            raise ValueError(
                f"texts hold no token that {type(tokenizer).__name__} knows, in {len(documents)} texts: is it the "
                "tokenizer of the model in training?"
            )
        okapi = BM25Okapi(documents, k1=self.k1, b=self.b, epsilon=epsilon)
        idf: Mapping[int, float] = dict(sorted(okapi.idf.items()))
        self._statistics = _Statistics(
            torch.tensor(list(idf), dtype=torch.int64),
            torch.tensor(list(idf.values()), dtype=torch.float64),
            torch.tensor(okapi.avgdl, dtype=torch.float64),
        )


def _is_of_a_model(tokenizer: object) -> bool:
    """Whether it is a tokenizer of transformers (which is callable too) or of tokenizers."""
    return hasattr(tokenizer, "encode_batch") or hasattr(tokenizer, "convert_ids_to_tokens")
