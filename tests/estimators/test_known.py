"""Relevance without a guess: equal texts, groups that are known, the model's own similarity."""

import copy
import json
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
    MixtureEstimator,
    NearDuplicateEstimator,
    Promote,
    SelfEstimator,
    SoftInfoNCELoss,
    TextColumn,
    get_estimator,
)

# The last pair's document is a copy of the first, and the second negative is the positive of the third query.
COPIES = (QUERIES, [*DOCUMENTS[:-1], DOCUMENTS[0]], [NEGATIVES[0], DOCUMENTS[2], *NEGATIVES[2:]])
COPIED = {(0, 7), (7, 0), (2, 9)}


def scores_of(model, texts=COPIES):
    with torch.no_grad():
        queries, *documents = (model(column)["sentence_embedding"] for column in features(model, texts))
        return 20 * cos_sim(queries, torch.cat(documents)).double()


def by_hand(scores, taken_out=(), targets=None):
    """The formula in plain Python: mean over rows of -sum target * log softmax of what is left."""
    weights = [[float((row, column) not in taken_out) for column in range(16)] for row in range(8)]
    if targets is None:
        return reference.soft_info_nce(scores.tolist(), weights)
    logs = scores.log_softmax(dim=1)
    return -sum(share * logs[place].item() for place, share in targets.items()) / 8


class TestIdentical:
    def test_copies_of_the_positive_are_taken_out(self, model):
        value = SoftInfoNCELoss(model, "identical")(features(model, COPIES))
        assert value.item() == pytest.approx(by_hand(scores_of(model), COPIED), rel=1e-5)
        assert abs(value.item() - by_hand(scores_of(model))) > 1e-3

    def test_copies_become_positives_by_promote(self, model):
        value = SoftInfoNCELoss(model, "identical", Promote())(features(model, COPIES))
        targets = {(row, row): 1.0 for row in range(1, 7)}
        targets |= dict.fromkeys([(0, 0), (0, 7), (7, 0), (7, 7), (2, 2), (2, 9)], 0.5)
        assert value.item() == pytest.approx(by_hand(scores_of(model), targets=targets), rel=1e-5)

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

    def test_scores_would_be_no_text(self):
        with pytest.raises(
            ValueError, match=r"compares must be one of \('queries', 'documents', 'positives'\), got 's"
        ):
            get_estimator("identical", compares="scores")


class TestKnown:
    groups = dict(zip(DOCUMENTS, [0, 1, 2, 2, "four", "four", 6, None], strict=True)) | {NEGATIVES[4]: 6}
    RELEVANT = ((2, 3), (3, 2), (4, 5), (5, 4), (6, 12))

    def test_candidates_of_the_positives_group_are_taken_out(self, model):
        texts = (QUERIES, DOCUMENTS, NEGATIVES)
        value = SoftInfoNCELoss(model, KnownRelevanceEstimator(self.groups, model))(features(model))
        assert value.item() == pytest.approx(by_hand(scores_of(model, texts), set(self.RELEVANT)), rel=1e-5)

    def test_or_become_positives_by_promote(self, model):
        loss = SoftInfoNCELoss(model, KnownRelevanceEstimator(self.groups, model), Promote())
        targets = {(row, row): 1.0 if row in (0, 1, 7) else 0.5 for row in range(8)}
        targets |= dict.fromkeys(self.RELEVANT, 0.5)
        expected = by_hand(scores_of(model, (QUERIES, DOCUMENTS, NEGATIVES)), targets=targets)
        assert loss(features(model)).item() == pytest.approx(expected, rel=1e-5)

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
        loss = SoftInfoNCELoss(static_model, KnownRelevanceEstimator(self.groups, static_model))
        config = loss.get_config_dict()
        assert json.loads(json.dumps(config)) == config
        assert config["estimator_options"] == {"compares": "positives", "groups": 5, "texts": 8}


class TestSelf:
    def test_what_the_model_finds_more_similar_than_the_positive_by_a_margin_is_taken_out(self, model):
        cosines = scores_of(model, (QUERIES, DOCUMENTS, NEGATIVES)) / 20
        own = cosines.diagonal().unsqueeze(1)
        gaps = (cosines - own).flatten().sort().values
        margin = -float(gaps[gaps > 0].median())  # so that half of those above the positive are taken out
        taken_out = {(int(row), int(column)) for row, column in (cosines > own - margin).nonzero()}
        assert 0 < len(taken_out) < 100
        value = SoftInfoNCELoss(model, "self", Mask(margin=margin))(features(model))
        assert value.item() == pytest.approx(by_hand(20 * cosines, taken_out), rel=1e-5)
        assert abs(value.item() - by_hand(20 * cosines)) > 1e-3

    def test_its_own_treatment_takes_out_what_exceeds_the_positive_by_a_tenth(self):
        assert SelfEstimator().treatment == Mask(margin=-0.1)

    def test_it_takes_the_losss_own_similarity_without_its_scale(self, model):
        def shifted(queries, documents):
            return cos_sim(queries, documents) - 5

        loss = SoftInfoNCELoss(model, "self", Mask(above=-4.5), similarity_fct=shifted)
        cosines = scores_of(model, (QUERIES, DOCUMENTS, NEGATIVES)) / 20
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

    def test_it_is_no_part_of_a_mixture_but_listed(self):
        with pytest.raises(
            ValueError, match=r"same texts, got self \(scores\).*treatments=\[\(estimator, treatment\)"
        ):
            MixtureEstimator(["self"])


def make(name, model):
    if name == "known":
        return KnownRelevanceEstimator(dict(zip(DOCUMENTS, range(8), strict=True)), model)
    return get_estimator(name)


class TestCleanData:
    """No two documents are alike, so that these estimators find nothing: that is no reason for a warning."""

    @pytest.mark.parametrize("name", ["identical", "known", "near-duplicate"])
    @pytest.mark.parametrize("columns", [2, 3], ids=["pairs", "negatives"])
    def test_nothing_is_said_and_the_loss_is_info_nces(self, static_model, name, columns):
        batch = features(static_model, (QUERIES, DOCUMENTS, NEGATIVES)[:columns])
        loss = SoftInfoNCELoss(static_model, make(name, static_model))
        plain = SoftInfoNCELoss(static_model, None)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(8):
                torch.testing.assert_close(loss(copy.deepcopy(batch)), plain(copy.deepcopy(batch)))

    def test_groups_of_which_no_text_is_found_are_said_once(self, static_model):
        loss = SoftInfoNCELoss(static_model, KnownRelevanceEstimator({"none": 1}, static_model))
        for _ in range(2):  # of two columns each
            loss(features(static_model))
        with pytest.warns(
            UserWarning, match="None of the texts in the first 5 columns looked up is among the 1 known"
        ):
            loss(features(static_model))
        loss(features(static_model))  # a second warning would be an error


class TestNoDeviceIsWaitedFor:
    @pytest.mark.parametrize("name", ["identical", "known"])
    def test_by_an_estimator(self, static_model, name):
        estimator = make(name, static_model)
        column = TextColumn(static_model.preprocess(DOCUMENTS), static_model.tokenizer)
        column.content_mask  # noqa: B018 - special tokens are copied to the device once, before
        with ForbidWaiting():
            rows = estimator.represent(column)
            similarity = estimator.for_batch(rows).similarity(rows[2:5], rows)
        assert torch.equal(similarity, torch.eye(8)[2:5])

    def test_by_a_lookup_but_once(self, static_model):
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


def test_near_duplicates_of_every_size_agree_with_identical_on_copies(static_model):
    """A copy has all shingles in common, whatever their size."""
    batch = features(static_model, COPIES)
    expected = SoftInfoNCELoss(static_model, "identical")(copy.deepcopy(batch))
    for size in (1, 5, 40):
        near = SoftInfoNCELoss(static_model, NearDuplicateEstimator(size=size), Mask(above=0.999))
        torch.testing.assert_close(near(copy.deepcopy(batch)), expected)
