"""SoftInfoNCELoss on its own: equal to the host's loss without weights, to the formula with them."""

import copy
import math
import warnings
from functools import partial

import conftest
import pytest
import reference
import torch
from conftest import DOCUMENTS, NEGATIVES, QUERIES, features, run
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import cos_sim, dot_score

from st_softinfonce import BM25Estimator, SimilarityEstimator, SoftInfoNCELoss, WeightingParameters
from st_softinfonce.losses import InputWarning

COLUMNS = {
    "pairs": [QUERIES, DOCUMENTS],
    "one-negative": [QUERIES, DOCUMENTS, NEGATIVES],
    "two-negatives": [QUERIES, DOCUMENTS, NEGATIVES, NEGATIVES[::-1]],
}
columns = pytest.mark.parametrize("texts", COLUMNS.values(), ids=COLUMNS.keys())


class Table(SimilarityEstimator):
    """Similarities by number: texts are told apart by their order in the batch."""

    weighting = WeightingParameters(alpha=1.3, beta=0.7, temperature=0.5)

    def __init__(self, similarity, compares):
        self.table = similarity
        self.compares = compares
        self.asked = 0

    def represent(self, column):
        start = self.asked if self.compares == "documents" else 0
        self.asked += len(column)
        return torch.arange(start, start + len(column)).unsqueeze(1)

    def similarity(self, queries, candidates):
        first = len(QUERIES) if self.compares == "documents" else 0  # documents are represented after the queries
        return self.table[queries.squeeze(1)][:, candidates.squeeze(1) - first]


def loss_and_gradients(loss, texts):
    return run(loss.model, loss, features(loss.model, texts))


assert_same = partial(conftest.assert_same, rtol=1.3e-6, atol=1e-5)  # in float32


class TestWithoutWeights:
    @columns
    @pytest.mark.parametrize(
        "directions", [("query_to_doc",), ("query_to_doc", "doc_to_query")], ids=["one-way", "both-ways"]
    )
    @pytest.mark.parametrize(
        "scoring", [{}, {"scale": 1.0, "similarity_fct": dot_score}], ids=["cosine-20", "dot-product-1"]
    )
    def test_alpha_0_equals_the_hosts_loss_in_value_and_gradients(self, model, texts, directions, scoring):
        ours = SoftInfoNCELoss(model, alpha=0, directions=directions, **scoring)
        host = MultipleNegativesRankingLoss(model, directions=directions, **scoring)
        assert_same(loss_and_gradients(ours, texts), loss_and_gradients(host, texts))

    def test_alpha_0_does_not_ask_the_estimator(self, static_model):
        class Unasked(BM25Estimator):
            def represent(self, column):
                raise RuntimeError("asked")

        SoftInfoNCELoss(static_model, Unasked(), alpha=0)(features(static_model, COLUMNS["pairs"]), None)
        with pytest.raises(RuntimeError, match="asked"):
            SoftInfoNCELoss(static_model, Unasked())(features(static_model, COLUMNS["pairs"]), None)

    def test_weights_change_the_loss_and_its_gradients(self, model):
        soft, soft_gradients = loss_and_gradients(SoftInfoNCELoss(model), COLUMNS["pairs"])
        plain, plain_gradients = loss_and_gradients(SoftInfoNCELoss(model, alpha=0), COLUMNS["pairs"])
        assert abs(soft - plain) > 1e-3
        assert any(not torch.allclose(soft_gradients[name], plain_gradients[name]) for name in soft_gradients)


class TestWithWeights:
    """The loss against the loop-written formulas on the model's own embeddings."""

    def expected(self, model, texts, similarity, weighed, transposed=False):
        with torch.no_grad():
            embeddings = [model(column)["sentence_embedding"] for column in features(model, texts)]
        scores = (20 * cos_sim(embeddings[0], torch.cat(embeddings[1:]))).double().tolist()
        weights = reference.negative_weights(similarity[:, :weighed].tolist(), 1.3, 0.7, 0.5)
        weights = [row + [1.0] * (len(scores[0]) - weighed) for row in weights]
        if transposed:
            back = (20 * cos_sim(embeddings[1], embeddings[0])).double().tolist()
            back_weights = reference.negative_weights(similarity[:, : len(QUERIES)].T.tolist(), 1.3, 0.7, 0.5)
            scores = [row + more for row, more in zip(scores, back, strict=True)]
            for i, more in enumerate(back_weights):
                assert more[i] == 1.0
                weights[i] += more
        return reference.soft_info_nce(scores, weights)

    @columns
    @pytest.mark.parametrize("compares", ["queries", "documents"])
    @pytest.mark.parametrize("both_ways", [False, True], ids=["one-way", "both-ways"])
    def test_equals_the_formula(self, static_model, texts, compares, both_ways):
        documents = len(QUERIES) * (len(texts) - 1)
        similarity = torch.randn(len(QUERIES), documents, generator=torch.Generator().manual_seed(1)).double()
        weighed = documents if compares == "documents" else len(QUERIES)
        directions = ("query_to_doc", "doc_to_query") if both_ways else ("query_to_doc",)
        loss = SoftInfoNCELoss(static_model, Table(similarity, compares), directions=directions)
        actual = loss(features(static_model, texts), None)
        expected = self.expected(static_model, texts, similarity, weighed, both_ways)
        assert actual.item() == pytest.approx(expected, rel=1e-5)
        worse = self.expected(static_model, texts, similarity * 2, weighed, both_ways)
        assert actual.item() != pytest.approx(worse, rel=1e-5)

    @pytest.mark.parametrize("compares", ["queries", "documents"])
    def test_bm25_weighs_as_its_scores_say(self, model, compares):
        estimator = BM25Estimator(compares=compares)
        loss = SoftInfoNCELoss(model, estimator, alpha=1.3, beta=0.7, weight_temperature=0.5)
        words = [[word for word in text.split() if word in model.tokenizer.get_vocab()] for text in QUERIES]
        candidates = words if compares == "queries" else [text.split() for text in DOCUMENTS + NEGATIVES]
        similarity = torch.tensor(reference.bm25(words, candidates, 1.2, 0.75))
        expected = self.expected(model, COLUMNS["one-negative"], similarity, len(candidates))
        assert loss(features(model, COLUMNS["one-negative"]), None).item() == pytest.approx(expected, rel=1e-5)

    def test_prompts_do_not_change_bm25s_weights(self, transformer_model):
        loss = SoftInfoNCELoss(transformer_model)
        bare = loss.represent(features(transformer_model, COLUMNS["pairs"]))
        prompted = loss.represent(features(transformer_model, COLUMNS["pairs"], prompt="find the "))
        bare, prompted = ([[i for i in row if i >= 0] for row in ids[0].tolist()] for ids in (bare, prompted))
        assert prompted == bare


HARDNESS = ["in_batch_negatives", "hard_negatives", "all_negatives"]


class TestHardness:
    @pytest.mark.filterwarnings("ignore:hardness_mode='hard_negatives' has no effect on pairs")
    @columns
    @pytest.mark.parametrize("mode", HARDNESS)
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"directions": ("query_to_doc", "doc_to_query")},
            {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
            {"scale": 1.0, "similarity_fct": dot_score},
        ],
        ids=["one-way", "both-ways", "both-ways-apart", "dot-product-1"],
    )
    def test_without_weights_it_is_the_hosts(self, model, texts, mode, options):
        options = {"hardness_mode": mode, "hardness_strength": 5.0, **options}
        host = loss_and_gradients(MultipleNegativesRankingLoss(model, **options), texts)
        assert_same(loss_and_gradients(SoftInfoNCELoss(model, alpha=0, **options), texts), host)
        if mode != "hard_negatives" or len(texts) > 2:
            assert abs(loss_and_gradients(SoftInfoNCELoss(model, alpha=0), texts)[0] - host[0]) > 1e-3

    def test_weights_multiply_what_is_hard(self, static_model):
        """By hand, on the model's own cosines: the penalty is in the logits, the weight before the exponential."""
        texts = COLUMNS["one-negative"]
        similarity = torch.randn(len(QUERIES), 2 * len(QUERIES), generator=torch.Generator().manual_seed(1)).double()
        loss = SoftInfoNCELoss(
            static_model, Table(similarity, "documents"), hardness_mode="all_negatives", hardness_strength=3.0
        )
        with torch.no_grad():
            embeddings = [static_model(column)["sentence_embedding"] for column in features(static_model, texts)]
        cosines = cos_sim(embeddings[0], torch.cat(embeddings[1:])).double().tolist()
        scores = [[(20 + 3 * (i != j)) * c for j, c in enumerate(row)] for i, row in enumerate(cosines)]
        weights = reference.negative_weights(similarity.tolist(), 1.3, 0.7, 0.5)
        expected = reference.soft_info_nce(scores, weights)
        assert loss(features(static_model, texts), None).item() == pytest.approx(expected, rel=1e-5)

    def test_hard_negatives_of_pairs_are_said_to_be_missing_once(self, static_model):
        loss = SoftInfoNCELoss(static_model, alpha=0, hardness_mode="hard_negatives", hardness_strength=5.0)
        with pytest.warns(InputWarning, match="'hard_negatives' has no effect on pairs"):
            loss(features(static_model, COLUMNS["pairs"]), None)
        loss(features(static_model, COLUMNS["pairs"]), None)  # a warning would be an error

    def test_it_is_in_the_config_and_refuses_what_it_cannot_do(self, static_model):
        loss = SoftInfoNCELoss(static_model, hardness_mode="hard_negatives", hardness_strength=5)
        config = loss.get_config_dict()
        assert (config["hardness_mode"], config["hardness_strength"]) == ("hard_negatives", 5.0)
        with pytest.raises(ValueError, match=r"hardness_mode must be one of .*got 'hard'"):
            SoftInfoNCELoss(static_model, hardness_mode="hard", hardness_strength=5)
        with pytest.raises(ValueError, match="hardness_strength must be"):
            SoftInfoNCELoss(static_model, hardness_mode="hard_negatives", hardness_strength=-1)
        with pytest.warns(UserWarning, match="hardness_mode has no effect without a hardness_strength above 0"):
            SoftInfoNCELoss(static_model, hardness_mode="hard_negatives")
        with pytest.warns(UserWarning, match="hardness_strength has no effect without a hardness_mode"):
            SoftInfoNCELoss(static_model, hardness_strength=5)


class TestBatches:
    def test_a_batch_of_one_is_zero(self, model):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            value = SoftInfoNCELoss(model)(features(model, [QUERIES[:1], DOCUMENTS[:1]]), None)
        value.backward()
        assert value == 0

    def test_a_last_batch_too_small_for_the_weights_is_plain_info_nce(self, model, monkeypatch):
        monkeypatch.setattr("st_softinfonce.functional._warned_of_small_batch", False)
        texts = [QUERIES[:3], DOCUMENTS[:3]]
        with pytest.warns(UserWarning, match="A batch with 2 negatives per query is too small"):
            soft = loss_and_gradients(SoftInfoNCELoss(model), texts)
        assert_same(soft, loss_and_gradients(MultipleNegativesRankingLoss(model), texts))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision_models_train(self, static_model, dtype):
        value, gradients = loss_and_gradients(SoftInfoNCELoss(static_model.to(dtype)), COLUMNS["one-negative"])
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        assert all(torch.isfinite(gradient).all() for gradient in gradients.values())

    def test_the_features_of_a_batch_are_represented_before_modules_change_them(self, transformer_model):
        loss = SoftInfoNCELoss(transformer_model)
        batch = features(transformer_model, COLUMNS["pairs"])
        again = copy.deepcopy(batch)
        assert torch.equal(loss(batch, None), loss(again, None))

    def test_from_embeddings_as_from_texts(self, transformer_model):
        loss = SoftInfoNCELoss(transformer_model)
        batch = features(transformer_model, COLUMNS["one-negative"])
        representations = loss.represent(batch)
        expected = loss(copy.deepcopy(batch), None)
        embeddings = [transformer_model(column)["sentence_embedding"] for column in batch]
        torch.testing.assert_close(loss.compute_loss_from_embeddings(embeddings, representations), expected)

    def test_from_embeddings_without_representations_is_refused_unless_unweighted(self, static_model):
        embeddings = [torch.randn(8, 4), torch.randn(8, 4)]
        with pytest.raises(
            ValueError,
            match=r"labels must be what represent\(\) returned for the batch, got NoneType: the weights of bm25",
        ):
            SoftInfoNCELoss(static_model).compute_loss_from_embeddings(embeddings)
        host = MultipleNegativesRankingLoss(static_model).compute_loss_from_embeddings(embeddings, None)
        assert torch.equal(SoftInfoNCELoss(static_model, alpha=0).compute_loss_from_embeddings(embeddings), host)


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"alpha": -1.0}, "alpha must be a finite number, at least 0, got -1.0"),
            ({"beta": 0}, "beta must be a finite number above 0, got 0"),
            ({"weight_temperature": 0.0}, "weight_temperature must be a finite number above 0, got 0.0"),
            ({"min_weight": 0}, r"min_weight must be in \(0, 1\], got 0"),
            ({"min_weight": 2.0}, r"min_weight must be in \(0, 1\], got 2.0"),
            ({"scale": -20}, "scale must be a finite number above 0, got -20"),
            ({"scale": math.inf}, "scale must be a finite number above 0, got inf"),
            ({"directions": ("doc_to_query",)}, r"directions must be one of .*, got \('doc_to_query',\)"),
            ({"directions": "query_to_doc"}, "directions must be one of .*, got 'query_to_doc'"),
            ({"estimator": "no-such"}, "estimator must be one of .*'bm25'.*, got 'no-such'"),
        ],
        ids=lambda value: next(iter(value.items())).__str__() if isinstance(value, dict) else "",
    )
    def test_options_out_of_range_are_refused_at_construction(self, static_model, options, message):
        with pytest.raises(ValueError, match=message):
            SoftInfoNCELoss(static_model, **options)

    def test_one_column_is_refused(self, static_model):
        with pytest.raises(ValueError, match="needs at least 2 columns, query and positive, got 1"):
            SoftInfoNCELoss(static_model)(features(static_model, [QUERIES]), None)

    def test_nan_similarity_is_refused(self, static_model):
        similarity = torch.zeros(8, 8)
        similarity[2, 5] = math.nan
        loss = SoftInfoNCELoss(static_model, Table(similarity, "queries"))
        with pytest.raises(ValueError, match="similarity of the estimator 'Table' holds nan at row 2, column 5"):
            loss(features(static_model, COLUMNS["pairs"]), None)

    def test_a_label_column_is_ignored_with_one_warning(self, static_model):
        loss = SoftInfoNCELoss(static_model)
        expected = loss(features(static_model, COLUMNS["pairs"]), None)
        with pytest.warns(InputWarning, match="label column, which this loss ignores"):
            labelled = loss(features(static_model, COLUMNS["pairs"]), torch.ones(8))
        assert torch.equal(labelled, expected)
        loss(features(static_model, COLUMNS["pairs"]), torch.ones(8))

    def test_empty_texts_train_and_are_counted_in_one_warning(self, model):
        texts = [QUERIES, ["", "  ", *DOCUMENTS[2:]]]
        loss = SoftInfoNCELoss(model)
        with pytest.warns(InputWarning, match="empty texts: 2 of 8 in column 1"):
            value, _ = loss_and_gradients(loss, texts)
        assert torch.isfinite(value)
        loss_and_gradients(loss, texts)

    def test_only_empty_texts_train(self, transformer_model):
        loss = SoftInfoNCELoss(transformer_model)
        with pytest.warns(InputWarning, match="empty texts: 8 of 8 in column 0, 8 of 8 in column 1"):
            value = loss(features(transformer_model, [[""] * 8, [""] * 8]), None)
        assert value.item() == pytest.approx(math.log(8), rel=1e-4)


class TestReporting:
    def test_the_configuration_is_readable_json(self, static_model):
        import json

        config = SoftInfoNCELoss(static_model, BM25Estimator(b=0.5), alpha=1.0).get_config_dict()
        assert json.loads(json.dumps(config)) == config
        assert config["estimator"] == "bm25"
        assert config["estimator_options"]["b"] == 0.5
        assert (config["alpha"], config["beta"], config["weight_temperature"]) == (1.0, 0.5, 1.0)
        assert config["similarity_fct"] == "cos_sim"

    def test_the_citation_is_the_papers(self, static_model):
        assert "Rethinking Negative Pairs in Code Search" in SoftInfoNCELoss(static_model).citation

    def test_the_papers_preset_scores_by_dot_product(self, static_model):
        loss = SoftInfoNCELoss.paper(static_model, min_weight=0.2)
        assert (loss.scale, loss.similarity_fct, loss.min_weight, loss.temperature) == (1.0, dot_score, 0.2, 1.0)
        expected = SoftInfoNCELoss(static_model, min_weight=0.2, scale=1.0, similarity_fct=dot_score)
        assert_same(loss_and_gradients(loss, COLUMNS["pairs"]), loss_and_gradients(expected, COLUMNS["pairs"]))

    def test_an_estimator_adds_nothing_to_the_losss_parameters(self, static_model):
        names = {name for name, _ in SoftInfoNCELoss(static_model).named_parameters()}
        assert names == {f"model.{name}" for name, _ in static_model.named_parameters()}
