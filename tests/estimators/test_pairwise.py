"""Estimators that see both texts: which pairs are scored, how often, and a cross-encoder that stays as it is."""

import math

import numpy as np
import pytest
import torch
from conftest import DOCUMENTS, QUERIES, features
from sentence_transformers import CrossEncoder
from tiny_models import save_bert
from transformers import BertForSequenceClassification

from st_softinfonce import (
    BM25Estimator,
    CrossEncoderEstimator,
    Mask,
    PairwiseEstimator,
    Soften,
    SoftInfoNCELoss,
    TextColumn,
)
from st_softinfonce.estimators.base import map_rows


class Overlap(PairwiseEstimator):
    """Number of common words, noting what it was asked."""

    treatment = Soften(alpha=1.3, beta=0.7, temperature=0.5)

    def __init__(self, returned=None, **options):
        super().__init__(**options)
        self.calls = []
        self.returned = returned

    def score(self, queries, candidates):
        self.calls.append(list(zip(queries, candidates, strict=True)))
        if self.returned is not None:
            return self.returned(len(queries))
        return torch.tensor([overlap(*pair) for pair in self.calls[-1]])


def overlap(query, candidate):
    return float(len(set(query.split()) & set(candidate.split())))


def represented(estimator, texts, tokenizer, role="query"):
    column = TextColumn.from_texts(texts, tokenizer)
    column.role = role
    return estimator.represent(column)


def rows(representation, some):
    return map_rows(lambda part: part[some], representation)


def compare(estimator, tokenizer, queries=QUERIES, candidates=DOCUMENTS):
    rows = represented(estimator, queries, tokenizer), represented(estimator, candidates, tokenizer, "document")
    return estimator.similarity(*rows)


class TestShortlist:
    def test_all_pairs_are_scored_where_there_are_few(self, tokenizer):
        expected = torch.tensor([[overlap(query, document) for document in DOCUMENTS] for query in QUERIES])
        assert torch.equal(compare(Overlap(), tokenizer), expected)
        assert len(expected.unique()) > 2

    def test_only_the_most_similar_by_the_cheap_estimator_are_scored_in_one_call(self, tokenizer):
        estimator = Overlap(candidates_per_query=3)
        similarity = compare(estimator, tokenizer)
        bm25 = BM25Estimator(compares="documents")
        cheap = bm25.similarity(*(bm25.represent(TextColumn.from_texts(t, tokenizer)) for t in (QUERIES, DOCUMENTS)))
        chosen = cheap.sort(dim=1, descending=True, stable=True).indices[:, :3]
        expected = torch.zeros(8, 8, dtype=torch.bool).scatter(1, chosen, True)
        assert torch.equal(similarity > -math.inf, expected)
        assert [len(call) for call in estimator.calls] == [24]

    def test_equal_texts_are_chosen_and_scored_once(self, tokenizer):
        estimator = Overlap(candidates_per_query=2)
        similarity = compare(estimator, tokenizer, candidates=[*DOCUMENTS[:2], *DOCUMENTS[:2]])
        assert torch.isfinite(similarity).all()
        assert torch.equal(similarity[:, :2], similarity[:, 2:])
        assert [len(call) for call in estimator.calls] == [16]

    def test_any_part_of_a_batch_is_scored_as_the_whole(self, tokenizer):
        estimator = Overlap(candidates_per_query=2)
        queries = represented(estimator, QUERIES, tokenizer)
        documents = represented(estimator, DOCUMENTS, tokenizer, "document")
        whole = estimator.similarity(queries, documents)
        bound = estimator.for_batch(documents)
        assert torch.equal(bound.similarity(rows(queries, slice(2, 5)), documents), whole[2:5])
        assert torch.equal(bound.similarity(queries, rows(documents, [6, 1, 1])), whole[:, [6, 1, 1]])
        assert len(estimator.calls) == 1

    def test_padding_does_not_make_another_text(self, tokenizer):
        estimator = Overlap()
        queries, documents = (represented(estimator, texts, tokenizer) for texts in (QUERIES, DOCUMENTS))
        first = estimator.similarity(queries, documents)
        wider = tuple(
            torch.nn.functional.pad(part, (0, 3), value=fill)
            for part, fill in zip(queries, estimator.padding, strict=True)
        )
        assert torch.equal(estimator.similarity(wider, documents), first)
        assert len(estimator.calls) == 1

    def test_an_empty_text_is_never_scored(self, tokenizer):
        estimator = Overlap()
        similarity = compare(estimator, tokenizer, ["", *QUERIES[1:]], [*DOCUMENTS[:3], "", *DOCUMENTS[4:]])
        assert (similarity[0] == -math.inf).all()
        assert (similarity[:, 3] == -math.inf).all()
        assert torch.isfinite(similarity[1:, :3]).all()
        assert (compare(estimator, tokenizer, ["read", ""], ["", ""]) == -math.inf).all()

    def test_any_estimator_can_choose(self, tokenizer):
        class LastFirst(BM25Estimator):
            def similarity(self, queries, candidates):
                return torch.arange(float(len(candidates))).expand(len(queries), -1)

            def for_batch(self, candidates, known=None):
                return self

        similarity = compare(Overlap(candidates_per_query=2, shortlist=LastFirst()), tokenizer)
        assert (similarity[:, :6] == -math.inf).all()
        assert torch.isfinite(similarity[:, 6:]).all()


class TestKeptScores:
    def test_a_pair_is_scored_once(self, tokenizer):
        estimator = Overlap()
        first = compare(estimator, tokenizer)
        assert torch.equal(compare(estimator, tokenizer), first)
        compare(estimator, tokenizer, candidates=[*DOCUMENTS[:7], "read socket"])
        assert [len(call) for call in estimator.calls] == [64, 8]

    @pytest.mark.parametrize("kept", [0, 10, 64], ids=lambda kept: f"kept={kept}")
    def test_no_more_are_kept_than_asked_for(self, tokenizer, kept):
        estimator = Overlap(scores_kept=kept)
        first = compare(estimator, tokenizer)
        assert torch.equal(compare(estimator, tokenizer), first)
        assert [len(call) for call in estimator.calls] == ([64] if kept == 64 else [64, 64 - kept])

    def test_the_oldest_go_first_whenever_they_were_asked_for_last(self, tokenizer):
        estimator = Overlap(scores_kept=5)
        for place in (0, 1, 2, 3, 4, 0, 5, 6):  # the first is asked for again, and no younger for it
            compare(estimator, tokenizer, QUERIES[:1], [DOCUMENTS[place]])
        estimator.calls.clear()
        compare(estimator, tokenizer, QUERIES[:1], DOCUMENTS[2:7])
        assert estimator.calls == []
        compare(estimator, tokenizer, QUERIES[:1], DOCUMENTS[:2])
        assert sorted(estimator.calls[0]) == sorted((QUERIES[0], document) for document in DOCUMENTS[:2])


class TestOfAFunction:
    @pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor], ids=lambda kind: kind.__name__)
    def test_scores_are_the_functions_in_any_form(self, tokenizer, kind):
        def common_words(queries, candidates):
            return kind([overlap(*pair) for pair in zip(queries, candidates, strict=True)])

        estimator = PairwiseEstimator.from_function(common_words, Mask(above=2.5))
        assert (estimator.name, estimator.treatment) == ("common_words", Mask(above=2.5))
        assert Overlap.name == "Overlap"  # the class of another estimator is as before
        assert torch.equal(compare(estimator, tokenizer), compare(Overlap(), tokenizer))

    def test_queries_come_first_whatever_the_direction(self, transformer_model):
        seen = []

        def note(queries, candidates):
            seen.extend(zip(queries, candidates, strict=True))
            return [0.5 * (query == QUERIES[1] and DOCUMENTS[2] == c) for query, c in seen[-len(queries) :]]

        estimator = PairwiseEstimator.from_function(note, Mask(above=0.2))
        batch = features(transformer_model, (QUERIES, DOCUMENTS))
        value = SoftInfoNCELoss(transformer_model, estimator, directions=("query_to_doc", "doc_to_query"))(batch)
        assert {query for query, _ in seen} == set(QUERIES)
        assert {document for _, document in seen} == set(DOCUMENTS)
        plain = SoftInfoNCELoss(transformer_model, None, directions=("query_to_doc", "doc_to_query"))(
            features(transformer_model, (QUERIES, DOCUMENTS))
        )
        assert value < plain

    def test_options_are_those_of_the_class(self, tokenizer):
        options = {"compares": "queries", "candidates_per_query": 2, "scores_kept": 0}
        estimator = PairwiseEstimator.from_function(lambda queries, _: [1.0] * len(queries), Mask(above=2), **options)
        similarity = compare(estimator, tokenizer)
        assert ((similarity == 1).sum(dim=1) == 2).all()
        assert estimator.get_config_dict()["compares"] == "queries"

    @pytest.mark.parametrize(
        ("function", "treatment", "error", "message"),
        [
            ("overlap", Mask(above=1), TypeError, "function must be a function of two lists of texts, got str"),
            (overlap, "mask", TypeError, "treatment must be .*, got"),
        ],
        ids=["function", "treatment"],
    )
    def test_what_cannot_be_meant_is_refused_at_once(self, function, treatment, error, message):
        with pytest.raises(error, match=message):
            PairwiseEstimator.from_function(function, treatment)


class TestContract:
    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (lambda n: None, "answer must return a number for each of 64 pairs, got NoneType"),
            (lambda n: ["high"] * n, "answer must return a number for each of 64 pairs, got list"),
            (lambda n: [[0.5]] * n, r"answer.score\(\) must return .* for each of 64 pairs, got .* \(64, 1\)"),
            (lambda n: [0.5] * (n - 1), r"for each of 64 pairs, got .* \(63,\)"),
            (lambda n: torch.zeros(n, dtype=torch.int64), "got torch.int64 of shape"),
            (lambda n: [math.nan] * n, "got nan for 'read a file' and 'def .* Return -inf for a pair that is never"),
            (lambda n: [math.inf] * n, "got inf for 'read a file' and 'def "),
            (lambda n: torch.zeros(n, requires_grad=True), r"score\(\) returned a tensor that requires a grad"),
        ],
        ids=["none", "texts", "nested", "too-few", "integers", "nan", "inf", "gradient"],
    )
    def test_broken_scores_are_refused_and_not_kept(self, tokenizer, answer, message):
        broken = [True]
        function = lambda queries, _: answer(len(queries)) if broken.pop() else [1.0] * len(queries)  # noqa: E731
        function.__name__ = "answer"
        estimator = PairwiseEstimator.from_function(function, Mask(above=0.5))
        with pytest.raises(ValueError, match=message):
            compare(estimator, tokenizer)
        broken += [False]
        assert (compare(estimator, tokenizer) == 1).all()

    def test_a_tensor_is_what_a_class_must_return(self, tokenizer):
        with pytest.raises(ValueError, match=r"Overlap.score\(\) must return .* for each of 64 pairs, got list"):
            compare(Overlap(lambda n: [1.0] * n), tokenizer)

    def test_a_cheap_estimator_that_returns_nan_is_refused(self, tokenizer):
        class Nan(BM25Estimator):
            def similarity(self, queries, candidates):
                return torch.full((len(queries), len(candidates)), math.nan)

            def for_batch(self, candidates, known=None):
                return self

        with pytest.raises(ValueError, match="shortlist 'Nan' of Overlap returned nan"):
            compare(Overlap(shortlist=Nan()), tokenizer)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"compares": "code"}, "compares must be one of .*, got 'code'"),
            ({"candidates_per_query": 0}, "candidates_per_query must be an integer of at least 1, got 0"),
            ({"scores_kept": -1}, "scores_kept must be an integer of at least 0, got -1"),
            ({"shortlist": "bm52"}, "estimator must be one of .*'bm25'.*, got 'bm52'"),
        ],
        ids=["compares", "candidates_per_query", "scores_kept", "shortlist"],
    )
    def test_options_out_of_range_are_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            Overlap(**options)


def make_cross_encoder(folder, labels=1):
    return save_bert(
        folder / f"reranker-{labels}",
        BertForSequenceClassification,
        seed=3,
        initializer_range=1.0,  # or every pair has the same score
        hidden_dropout_prob=0.5,
        num_labels=labels,
    )


@pytest.fixture(scope="module")
def reranker_folder(tmp_path_factory):
    return make_cross_encoder(tmp_path_factory.mktemp("rerankers"))


@pytest.fixture
def reranker(reranker_folder):
    return CrossEncoder(reranker_folder, device="cpu").train()


class TestCrossEncoder:
    def test_scores_are_the_cross_encoders_probabilities(self, reranker, tokenizer):
        estimator = CrossEncoderEstimator(reranker, batch_size=5)
        config = estimator.get_config_dict()
        assert (config["candidates_per_query"], config["shortlist"]) == (8, "bm25")
        assert config["shortlist_options"]["compares"] == "documents"
        similarity = compare(estimator, tokenizer)
        pairs = [(query, document) for query in QUERIES for document in DOCUMENTS]
        expected = reranker.predict(pairs, activation_fn=torch.nn.Sigmoid(), convert_to_tensor=True).view(8, 8)
        torch.testing.assert_close(similarity, expected)
        assert expected.std() > 1e-3

    def test_what_is_not_scored_is_at_the_bottom_of_the_scale(self, reranker, tokenizer):
        similarity = compare(CrossEncoderEstimator(reranker, candidates_per_query=2), tokenizer)
        assert ((similarity > 0).sum(dim=1) == 2).all()
        assert (similarity == 0).sum() == 48

    def test_a_head_of_several_labels_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"one score, got a head of 3 labels.*Take a reranker \(num_labels=1\)"):
            CrossEncoderEstimator(make_cross_encoder(tmp_path, labels=3))
