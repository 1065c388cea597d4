"""Relevance without a guess: equal texts, groups that are known, the model's own similarity."""

import copy
import warnings

import pytest
import reference
import torch
from conftest import DOCUMENTS, NEGATIVES, QUERIES, ForbidWaiting, features
from sentence_transformers.util import cos_sim

from st_softinfonce import (
    ByText,
    IdenticalEstimator,
    KnownQueries,
    KnownRelevanceEstimator,
    Mask,
    SelfEstimator,
    SoftInfoNCELoss,
    TextColumn,
    get_estimator,
)


def scores_of(model, texts=(QUERIES, DOCUMENTS, NEGATIVES)):
    with torch.no_grad():
        queries, *documents = (model(column)["sentence_embedding"] for column in features(model, texts))
        return 20 * cos_sim(queries, torch.cat(documents)).double()


def by_hand(scores, taken_out=()):
    """The formula in plain Python."""
    weights = [[float((row, column) not in taken_out) for column in range(16)] for row in range(8)]
    return reference.soft_info_nce(scores.tolist(), weights)


class TestIdentical:
    def test_copies_of_the_query_are_the_same_for_all_documents_of_their_pair(self, model):
        texts = ([*QUERIES[:-1], QUERIES[3]], DOCUMENTS, NEGATIVES)
        value = SoftInfoNCELoss(model, IdenticalEstimator(compares="queries"))(features(model, texts))
        assert value.item() == pytest.approx(by_hand(scores_of(model, texts), {(3, 7), (7, 3)}), rel=1e-5)

    def test_documents_that_are_the_query(self, model):
        texts = (QUERIES, DOCUMENTS, [*NEGATIVES[:5], QUERIES[2], *NEGATIVES[6:]])
        value = SoftInfoNCELoss(model, IdenticalEstimator(compares="documents"))(features(model, texts))
        expected = by_hand(scores_of(model, texts), {(2, 13)})
        # The positive's similarity is 0 as well: no threshold but the fixed one counts.
        assert value.item() == pytest.approx(expected, rel=1e-5)

    def test_it_compares_what_the_model_reads_and_nothing_else(self, transformer_model):
        transformer_model.max_seq_length = 5
        texts = ["def sort list in file", "def sort list of bytes", "sort list", "list sort", "def sort unheardof"]
        padded = transformer_model.preprocess([*texts, "def sort list"])
        prompted = transformer_model.preprocess(["list sort", "sort list"], prompt="find ")
        rows, others = (
            IdenticalEstimator().represent(TextColumn(column, transformer_model.tokenizer))
            for column in (padded, prompted)
        )
        similarity = IdenticalEstimator().similarity(rows, rows)
        expected = torch.eye(6)
        for one, other in ((0, 1), (0, 5), (1, 5)):
            expected[one, other] = expected[other, one] = 1
        assert torch.equal(similarity, expected)
        assert similarity.dtype == torch.float32
        assert torch.equal(IdenticalEstimator().similarity(others, rows), similarity[[3, 2]])


class TestKnown:
    groups = dict(zip(DOCUMENTS, [0, 1, 2, 2, "four", "four", 6, None], strict=True)) | {NEGATIVES[4]: 6}
    RELEVANT = ((2, 3), (3, 2), (4, 5), (5, 4), (6, 12))

    def test_candidates_of_the_positives_group_are_taken_out(self, model):
        value = SoftInfoNCELoss(model, KnownRelevanceEstimator(self.groups, model))(features(model))
        assert value.item() == pytest.approx(by_hand(scores_of(model), set(self.RELEVANT)), rel=1e-5)

    def test_groups_of_queries_are_found_for_mined_negatives_by_known_queries(self, model):
        groups = dict(zip(QUERIES, [0, 0, 1, 1, 2, 3, 4, 5], strict=True))
        texts = (QUERIES, DOCUMENTS, [DOCUMENTS[1], *NEGATIVES[1:]])
        loss = SoftInfoNCELoss(
            model,
            KnownRelevanceEstimator(groups, model, compares="queries"),
            known_queries=KnownQueries(dict(zip(DOCUMENTS, QUERIES, strict=True)), model),
        )
        # The first negative is the second query's document, whose query is of the group of both.
        taken_out = {(0, 1), (1, 0), (2, 3), (3, 2), (0, 8), (1, 8)}
        value = loss(features(model, texts))
        assert value.item() == pytest.approx(by_hand(scores_of(model, texts), taken_out), rel=1e-5)

    def test_texts_without_a_group_are_similar_to_nothing_not_even_themselves(self, static_model):
        estimator = KnownRelevanceEstimator(self.groups, static_model)
        texts = [DOCUMENTS[7], NEGATIVES[0], DOCUMENTS[2]]
        rows = estimator.represent(TextColumn(static_model.preprocess(texts), static_model.tokenizer))
        assert rows.tolist()[:2] == [-1, -1]
        assert estimator.similarity(rows, rows).tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]
        assert (estimator.groups, estimator.texts) == (5, 8)

    def test_texts_read_alike_of_two_groups_are_in_none(self, transformer_model):
        transformer_model.max_seq_length = 5
        groups = {
            "def sort list in file": 1,
            "def sort list of bytes": 2,
            "def read list in": 3,
            "def read list of": 3,
        }
        estimator = KnownRelevanceEstimator(groups, transformer_model)
        column = TextColumn(transformer_model.preprocess(list(groups)), transformer_model.tokenizer)
        rows = estimator.represent(column).tolist()
        assert rows[:2] == [-1, -1]
        assert rows[2] == rows[3] >= 0

    @pytest.mark.parametrize(
        ("groups", "options", "message"),
        [
            ({}, {}, "group_of must map at least one text to its group, got none"),
            ({"a": None}, {}, "group_of must map at least one text to its group, got none"),
            (
                {"a": 1},
                {"compares": "documents"},
                r"compares must be one of \('positives', 'queries'\), got 'documents'",
            ),
            ({3: "a"}, {}, "values must have texts as keys, got 3. Turn it round"),
        ],
        ids=["none", "no-groups", "compares", "turned-round"],
    )
    def test_what_cannot_be_meant_is_refused(self, static_model, groups, options, message):
        with pytest.raises(ValueError, match=message):
            KnownRelevanceEstimator(groups, static_model, **options)

    def test_the_card_says_how_much_is_known(self, static_model):
        config = KnownRelevanceEstimator(self.groups, static_model).get_config_dict()
        assert config == {"compares": "positives", "groups": 5, "texts": 8}


class TestSelf:
    def test_it_takes_the_losss_own_similarity_without_its_scale(self, model):
        def shifted(queries, documents):
            return cos_sim(queries, documents) - 5

        loss = SoftInfoNCELoss(model, "self", Mask(above=-4.5), similarity_fct=shifted)
        cosines = scores_of(model) / 20
        above = (cosines > 0.5) & ~torch.eye(8, 16, dtype=torch.bool)
        taken_out = {(int(row), int(column)) for row, column in above.nonzero()}
        expected = by_hand(20 * cosines, taken_out)
        assert loss(features(model)).item() == pytest.approx(expected, rel=1e-5)

    def test_outside_a_loss_it_compares_cosines(self):
        rows = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(SelfEstimator().similarity(rows[:2], rows), cos_sim(rows[:2], rows))

    def test_it_represents_no_texts(self, static_model):
        with pytest.raises(TypeError, match="'self' has no representation of texts: the loss gives it the embeddings"):
            SelfEstimator().represent(TextColumn(static_model.preprocess(QUERIES)))


@pytest.mark.parametrize("name", ["identical", "known", "near-duplicate"])
@pytest.mark.parametrize("columns", [2, 3], ids=["pairs", "negatives"])
def test_of_clean_data_nothing_is_said_and_the_loss_is_info_nces(static_model, name, columns):
    """No two documents are alike, so that these estimators find nothing: that is no reason for a warning."""
    batch = features(static_model, (QUERIES, DOCUMENTS, NEGATIVES)[:columns])
    known = {"group_of": dict(zip(DOCUMENTS, range(8), strict=True)), "model": static_model}
    loss = SoftInfoNCELoss(static_model, get_estimator(name, **(known if name == "known" else {})))
    plain = SoftInfoNCELoss(static_model, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(8):
            torch.testing.assert_close(loss(copy.deepcopy(batch)), plain(copy.deepcopy(batch)))


def test_a_lookup_waits_for_the_device_once(static_model):
    known = ByText({DOCUMENTS[2]: "sort"}, static_model)
    column = TextColumn(static_model.preprocess(DOCUMENTS), static_model.tokenizer)
    known.index(column)
    with ForbidWaiting():
        for _ in range(3):
            index = known.index(column)
    known.index(column)  # whether anything was found is looked at here
    with ForbidWaiting():
        for _ in range(3):
            assert torch.equal(known.index(column), index)
    assert index.tolist() == [-1, -1, 0, -1, -1, -1, -1, -1]
