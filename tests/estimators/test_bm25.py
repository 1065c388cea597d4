"""BM25 against the paper's numbers, a loop-written oracle, and rank_bm25."""

import random

import pytest
import reference
import torch
from conftest import DOCUMENTS, QUERIES
from rank_bm25 import BM25Okapi

from st_softinfonce import BM25Estimator, TextColumn, get_estimator
from st_softinfonce.functional import negative_weights


def matrix(rows):
    return torch.tensor(rows, dtype=torch.float64)


def padded(rows, extra=0):
    width = max(len(row) for row in rows) + extra
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows])


def random_texts(seed, count, vocabulary=40, longest=15):
    generator = random.Random(seed)
    return [[generator.randrange(vocabulary) for _ in range(generator.randrange(longest))] for _ in range(count)]


def assert_close(actual, expected):
    torch.testing.assert_close(actual, matrix(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("number", range(15))
def test_in_batch_scores_are_the_papers(reference_cases, number):
    case = reference_cases["bm25"][number]
    column = TextColumn({"input_ids": torch.tensor(case["token_ids"])}, special_ids=range(4))
    estimator = BM25Estimator(k1=case["k1"], b=case["b"], average_length=case["avg_len"])
    ids = estimator.represent(column)
    assert (ids >= 0).sum(dim=1).tolist() == case["doc_len"]
    scores = estimator.similarity(ids, ids)
    assert_close(scores, case["bm25_float64"])
    if case["N"] == 4:  # three negatives are too few for these parameters: all weights are 1
        return
    weights = negative_weights(scores, alpha=1.5, beta=0.5, temperature=1.0)
    size = case["N"]
    assert_close(weights[~torch.eye(size, dtype=torch.bool)].view(size, size - 1), case["w_from_float64_bm25"]["w"])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.0, 0.0), (2.0, 1.0)], ids=["usual", "presence", "extreme"])
def test_in_batch_scores_equal_the_loop_written_ones(seed, k1, b):
    queries, documents = random_texts(seed, 6), random_texts(seed + 100, 9)
    scores = BM25Estimator(k1=k1, b=b).similarity(padded(queries), padded(documents, extra=3))
    expected = reference.bm25(queries, documents, k1, b)
    assert_close(scores, expected)
    assert scores.abs().max() > 0


def test_large_token_ids_and_many_rows_are_scored_alike():
    """Ids may be 64-bit hashes, and queries are scored in groups."""
    queries, documents = (
        [[token * 2**55 for token in row] for row in random_texts(seed, count)] for seed, count in ((1, 300), (2, 9))
    )
    expected = reference.bm25(queries, documents, 1.2, 0.75)
    assert_close(BM25Estimator().similarity(padded(queries), padded(documents)), expected)


@pytest.mark.parametrize("rows", [slice(0, 3), slice(5, 6)], ids=["first", "one"])
def test_bound_to_a_batch_any_part_scores_as_the_whole(rows):
    ids = padded(random_texts(5, 8))
    whole = BM25Estimator().similarity(ids, ids)
    bound = BM25Estimator().for_batch(ids)
    torch.testing.assert_close(bound.similarity(ids[rows], ids), whole[rows], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(bound.similarity(ids, ids[rows]), whole[:, rows], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(BM25Estimator().similarity(ids, ids[rows]), whole[:, rows])


def test_empty_documents_and_empty_queries_score_zero():
    words, empty = padded([[5, 6], [5, 7, 7]]), padded([[], [], []], extra=2)
    assert not BM25Estimator().similarity(words, empty).any()
    assert not BM25Estimator().similarity(empty, words).any()
    assert not BM25Estimator().for_batch(empty).similarity(words, words).any()


class TestWords:
    texts = [
        "parse the HTTP response",
        "def parseHTTPResponse(raw_bytes):",
        "parse_http_response",
        "sort a list",
    ]

    def represent(self, texts, tokenizer, estimator):
        """Represent texts whose tokens decode to themselves."""
        column = TextColumn.from_texts(["read"] * len(texts), tokenizer)
        column.texts = texts
        return estimator.represent(column)

    def test_names_match_the_words_that_they_are_made_of(self, tokenizer):
        estimator = BM25Estimator(tokenizer="words", compares="documents", tokens="all")
        ids = self.represent(self.texts, tokenizer, estimator)
        scores = estimator.similarity(ids[2:3], ids)[0]
        assert (ids >= 0).sum(dim=1).tolist() == [4, 6, 3, 3]
        assert ids.dtype == torch.int64
        words = [text.split() for text in ("parse the http response", "def parse http response raw bytes")]
        words += [text.split() for text in ("parse http response", "sort a list")]
        assert_close(scores, reference.bm25(words[2:3], words, 1.2, 0.75)[0])
        assert scores[3] == 0

    def test_a_function_may_split(self, tokenizer):
        estimator = get_estimator("bm25", tokenizer=str.split)
        ids = self.represent(self.texts, tokenizer, estimator)
        assert (ids >= 0).sum(dim=1).tolist() == [4, 2, 1, 3]
        assert estimator.get_config_dict()["tokenizer"] == "str.split"

    def test_a_corpus_is_counted_in_the_words_that_the_models_tokenizer_leaves(self, tokenizer):
        corpus = [*QUERIES, *DOCUMENTS, "read unheardof", ""]
        estimator = BM25Estimator.from_corpus(corpus, tokenizer="words", tokens="all")
        queries = estimator.represent(TextColumn.from_texts(QUERIES, tokenizer))
        documents = estimator.represent(TextColumn.from_texts(corpus, tokenizer))
        words = [text.replace("unheardof", "").split() for text in corpus]
        okapi = BM25Okapi(words)
        expected = [okapi.get_scores(row).tolist() for row in words[: len(QUERIES)]]
        assert_close(estimator.similarity(queries, documents), expected)
        assert estimator.get_config_dict()["tokenizer"] == "words"

    def test_a_tokenizer_of_a_model_is_refused_where_it_means_nothing(self, tokenizer):
        with pytest.raises(ValueError, match=r"tokenizer must be None, .* got \w+\. None takes the"):
            BM25Estimator(tokenizer=tokenizer)


class TestFromCorpus:
    corpus = QUERIES + DOCUMENTS + ["read unheardof", "the the the", ""]

    def okapi(self, tokenizer, **options):
        column = TextColumn.from_texts(self.corpus, tokenizer)
        tokens = [[token for token in row if token >= 0] for row in column.content_ids.tolist()]
        return BM25Okapi(tokens, **options), tokens

    @pytest.mark.parametrize("when", ["at-once", "at-the-first-batch"])
    @pytest.mark.parametrize(
        "options", [{}, {"k1": 0.9, "b": 0.4, "epsilon": 0.1}], ids=["defaults", "other-parameters"]
    )
    def test_scores_equal_get_scores_of_rank_bm25(self, tokenizer, when, options):
        okapi, tokens = self.okapi(tokenizer, **options)
        estimator = BM25Estimator.from_corpus(
            self.corpus, tokenizer=tokenizer if when == "at-once" else None, tokens="all", **options
        )
        documents = estimator.represent(TextColumn.from_texts(self.corpus, tokenizer))
        queries = estimator.represent(TextColumn.from_texts(QUERIES, tokenizer))
        assert_close(
            estimator.similarity(queries, documents),
            [okapi.get_scores(row).tolist() for row in tokens[: len(QUERIES)]],
        )

    @pytest.mark.parametrize(
        ("texts", "message"),
        [
            ([], "texts must hold at least one text that is not empty, got 0 without"),
            (["", " "], "texts must hold at least one text that is not empty, got 2 without"),
            ("read a file", "texts must be an iterable of texts, got one string"),
            (["read", [5, 6]], "texts must hold strings, not tokens, got a list at place 1"),
            (["unheardof"], "texts hold no token that .* knows, in 1 texts"),
        ],
        ids=["none", "empty", "one-string", "tokens", "unknown-words"],
    )
    def test_a_corpus_without_words_is_refused(self, tokenizer, texts, message):
        with pytest.raises(ValueError, match=message):
            BM25Estimator.from_corpus(texts, tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k1": -1.0}, "k1 must be a finite number, at least 0, got -1.0"),
        ({"k1": "a"}, "k1 must be a finite number, at least 0, got 'a'"),
        ({"b": 1.5}, r"b must be in \[0, 1\], got 1.5"),
        ({"b": None}, r"b must be in \[0, 1\], got None"),
        ({"average_length": 0}, "average_length must be a finite number above 0, got 0"),
        ({"compares": "code"}, "compares must be one of .*, got 'code'"),
        ({"tokenizer": "word"}, r"tokenizer must be None, 'words' or a function .*, got 'word'"),
        ({"tokenizer": 3}, r"tokenizer must be None, 'words' or a function .*, got 3"),
    ],
    ids=["k1", "k1-text", "b", "b-none", "average_length", "compares", "tokenizer", "tokenizer-type"],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        get_estimator("bm25", **options)


def test_the_card_says_where_the_statistics_come_from(tokenizer):
    assert BM25Estimator(compares="documents").get_config_dict() == {
        "k1": 1.2,
        "b": 0.75,
        "compares": "documents",
        "statistics": "batch",
        "tokens": "content",
    }
    corpus = BM25Estimator.from_corpus(QUERIES, tokenizer=tokenizer).get_config_dict()
    assert corpus["statistics"] == "corpus"
    assert corpus["corpus_size"] == len(QUERIES)


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [("read the file of a list", "sort the lines of a list", 1), ("the a of", "the of a", 0)],
    ids=["a-word", "stop-words"],
)
def test_by_default_only_words_that_say_something_count(tokenizer, one, other, shared):
    first, second = BM25Estimator().represent(TextColumn.from_texts([one, other], tokenizer))
    assert len(set(first[first >= 0].tolist()) & set(second[second >= 0].tolist())) == shared
