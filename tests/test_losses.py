"""SoftInfoNCELoss on its own: what estimators and treatments do to it, bad input, and what a plugin cannot do."""

import copy
import json
import math
import random
import warnings
from functools import partial
from typing import ClassVar

import conftest
import numpy as np
import pytest
import torch
from conftest import (
    ALL_DIRECTIONS,
    COLUMNS,
    DOCUMENTS,
    NEGATIVES,
    QUERIES,
    ForbidWaiting,
    features,
    pairwise,
    run,
    with_dropout,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import dot_score

from st_softinfonce import BM25Estimator, CachedSoftInfoNCELoss, KnownQueries, SimilarityEstimator, SoftInfoNCELoss
from st_softinfonce.estimators import (
    IdenticalEstimator,
    KnownRelevanceEstimator,
    MixtureEstimator,
    NearDuplicateEstimator,
    SimCSEEstimator,
    TrainedModelEstimator,
)
from st_softinfonce.losses import InputWarning, MultiVectorSoftInfoNCELoss
from st_softinfonce.posterior import RelevancePosterior
from st_softinfonce.treatments import Discount, Distill, Mask, Promote, Soften

losses = pytest.mark.parametrize("cls", [SoftInfoNCELoss, CachedSoftInfoNCELoss], ids=["plain", "cached"])
POSTERIOR = RelevancePosterior(knots=(0.0, 1.0), log_ratios=(-2.0, 6.0), prior=0.01)


class Table(SimilarityEstimator):
    """Similarities by number: texts are told apart by their place in the batch.

    ``similarity`` is (queries, candidates); or, to judge all four directions by documents, (texts, texts) with the
    documents after the queries.
    """

    treatment = Soften(alpha=1.3, beta=0.7, temperature=0.5)

    def __init__(self, similarity, compares):
        self.table = similarity
        self.compares = compares
        # Of a square table the queries come first.
        self.first = len(QUERIES) if len(similarity) > len(QUERIES) and compares == "documents" else 0
        self.documents = 0

    def represent(self, column):
        if column.role == "query":
            return torch.arange(len(column))
        start = self.first + self.documents
        self.documents += len(column)
        return torch.arange(start, start + len(column))

    def for_batch(self, candidates, known=None):
        self.documents = 0
        return self

    def similarity(self, queries, candidates):
        return self.table[queries][:, candidates]


def loss_and_gradients(loss, texts):
    return run(loss.model, loss, features(loss.model, texts))


assert_same = partial(conftest.assert_same, rtol=1.3e-6, atol=1e-5)  # in float32


class TestTreatments:
    def test_one_estimator_in_the_list_is_the_estimator(self, model):
        listed = SoftInfoNCELoss(model, treatments=[("bm25", Mask(top_k=2))])
        alone = SoftInfoNCELoss(model, "bm25", Mask(top_k=2))
        assert listed.get_config_dict() == alone.get_config_dict()
        assert_same(*(loss_and_gradients(loss, COLUMNS["pairs"]) for loss in (listed, alone)))

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"treatment": "soften"}, TypeError, "treatment must be a treatment such as .*, got 'soften'"),
            ({"estimator": None, "treatment": Mask(top_k=1)}, ValueError, "needs an estimator, got estimator=None"),
            ({"estimator": "self", "treatments": [("bm25", None)]}, ValueError, "treatments replaces estimator and"),
            ({"treatment": Distill(), "treatments": [("bm25", None)]}, ValueError, "treatments replaces estimator"),
            ({"treatments": "bm25"}, TypeError, "treatments must be a list of"),
            ({"treatments": ["bm25"]}, TypeError, r"must hold pairs \(estimator, treatment\), got 'bm25'"),
        ],
        ids=["text", "no-estimator", "both-estimators", "both-treatments", "no-list", "no-pairs"],
    )
    def test_what_cannot_be_meant_is_refused(self, static_model, arguments, error, message):
        with pytest.raises(error, match=message):
            SoftInfoNCELoss(static_model, **arguments)


class TestBatches:
    def test_a_batch_of_one_is_zero_and_said_to_teach_nothing(self, model):
        loss = SoftInfoNCELoss(model)
        with pytest.warns(InputWarning, match="single pair, so that there is no negative and the loss is 0"):
            value = loss(features(model, [QUERIES[:1], DOCUMENTS[:1]]), None)
        value.backward()
        assert value == 0
        loss(features(model, [QUERIES[:1], DOCUMENTS[:1]]), None)  # a warning would be an error

    def test_a_single_query_with_negatives_of_its_own_learns(self, model):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            value = SoftInfoNCELoss(model, "self", Distill())(
                features(model, [QUERIES[:1], DOCUMENTS[:1], NEGATIVES[:1]])
            )
        assert value > 0

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("treatment", [None, Mask(top_k=2), Distill(), Promote()], ids=lambda t: type(t).__name__)
    def test_half_precision_models_train(self, static_model, dtype, treatment):
        loss = SoftInfoNCELoss(static_model.to(dtype), "bm25", treatment, directions=ALL_DIRECTIONS)
        value, gradients = loss_and_gradients(loss, COLUMNS["one-negative"])
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        assert all(torch.isfinite(gradient).all() for gradient in gradients.values())

    def test_from_embeddings_as_from_texts(self, transformer_model):
        loss = SoftInfoNCELoss(transformer_model)
        batch = features(transformer_model, COLUMNS["one-negative"])
        asked = loss.ask(batch)
        expected = loss(copy.deepcopy(batch), None)
        embeddings = [transformer_model(column)["sentence_embedding"] for column in batch]
        torch.testing.assert_close(loss.compute_loss_from_embeddings(embeddings, asked), expected)

    def test_from_embeddings_alone_if_no_texts_are_compared(self, static_model):
        embeddings = [torch.randn(8, 4), torch.randn(8, 4)]
        with pytest.raises(ValueError, match=r"labels must be what ask\(\) returned for the batch, got NoneType"):
            SoftInfoNCELoss(static_model).compute_loss_from_embeddings(embeddings)
        host = MultipleNegativesRankingLoss(static_model).compute_loss_from_embeddings(embeddings, None)
        torch.testing.assert_close(SoftInfoNCELoss(static_model, None).compute_loss_from_embeddings(embeddings), host)
        loss = SoftInfoNCELoss(static_model, "self", Distill(share=1.0))
        assert loss.compute_loss_from_embeddings(embeddings).isfinite()


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"scale": -20}, ValueError, "scale must be a finite number above 0, got -20"),
            ({"scale": math.inf}, ValueError, "scale must be a finite number above 0, got inf"),
            ({"estimator": "no-such"}, ValueError, "estimator must be one of .*'bm25'.*, got 'no-such'"),
            ({"similarity_fct": "cos"}, TypeError, "similarity_fct must be a function of two tensors .*, got 'cos'"),
            ({"partition_mode": "apart"}, ValueError, r"partition_mode must be one of \('joint', .*, got 'apart'"),
            ({"hardness_mode": "hard"}, ValueError, r"hardness_mode must be one of .*got 'hard'"),
            ({"hardness_strength": -1}, ValueError, "hardness_strength must be a finite number, at least 0, got -1"),
            ({"known_queries": {"a": "b"}}, TypeError, "known_queries must be a KnownQueries, got dict"),
        ],
        ids=lambda value: str(next(iter(value.items()))) if isinstance(value, dict) else "",
    )
    @losses
    def test_options_out_of_range_are_refused_at_construction(self, transformer_model, cls, options, error, message):
        with pytest.raises(error, match=message):
            cls(transformer_model, **options)

    @pytest.mark.parametrize("cls", [SoftInfoNCELoss, CachedSoftInfoNCELoss, MultiVectorSoftInfoNCELoss])
    @pytest.mark.parametrize("model", [None, "bert"], ids=["none", "name"])
    def test_what_is_no_model_is_refused_at_construction(self, cls, model):
        with pytest.raises(TypeError, match=r"model must be the model to train, got (NoneType|str)"):
            cls(model)

    def test_one_column_is_refused(self, static_model):
        with pytest.raises(ValueError, match="needs at least 2 columns, query and positive, got 1"):
            SoftInfoNCELoss(static_model)(features(static_model, [QUERIES]), None)

    def test_columns_of_unequal_length_are_refused(self, static_model):
        with pytest.raises(ValueError, match=r"columns have \[8, 7\] rows"):
            SoftInfoNCELoss(static_model, None)(features(static_model, [QUERIES, DOCUMENTS[:7]]), None)

    @losses
    def test_nan_similarity_is_refused(self, transformer_model, cls):
        similarity = torch.zeros(8, 8)
        similarity[2, 5] = math.nan
        loss = cls(transformer_model, Table(similarity, "queries"))
        with pytest.raises(ValueError, match="similarity of the estimator 'Table' holds nan at row 2, column 5"):
            loss(features(transformer_model, COLUMNS["pairs"]), None)

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

    def test_an_estimator_that_tells_nothing_apart_is_named(self, static_model):
        class Indifferent(Table):
            pass

        loss = SoftInfoNCELoss(static_model, Indifferent(torch.eye(8), "queries"))
        batch = features(static_model, COLUMNS["pairs"])
        for _ in range(5):
            loss(copy.deepcopy(batch), None)
        with pytest.warns(InputWarning, match="'Indifferent' found all negatives equally similar in the first 5"):
            loss(copy.deepcopy(batch), None)
        loss(copy.deepcopy(batch), None)

    def test_one_difference_in_the_first_batches_is_enough(self, static_model):
        loss = SoftInfoNCELoss(static_model, Table(torch.zeros(8, 8), "queries"))
        batch = features(static_model, COLUMNS["pairs"])
        for step in range(8):
            loss.judges[0].estimator.table = torch.eye(8).roll(1, 0) if step == 2 else torch.zeros(8, 8)
            loss(copy.deepcopy(batch), None)

    def test_of_two_estimators_of_one_name_the_one_that_tells_nothing_apart_is_noticed(self, static_model):
        soften = Soften(1.0, 1.0, 0.5)
        tables = [Table(torch.randn(8, 8), "queries"), Table(torch.zeros(8, 8), "queries")]
        loss = SoftInfoNCELoss(static_model, treatments=[(table, soften) for table in tables])
        batch = features(static_model, COLUMNS["pairs"])
        for _ in range(5):
            loss(copy.deepcopy(batch), None)
        with pytest.warns(InputWarning, match="'Table' found all negatives equally similar"):
            loss(copy.deepcopy(batch), None)

    @pytest.mark.parametrize("differs", [False, True], ids=["equal", "different"])
    def test_negatives_whose_query_is_not_known_are_no_difference(self, static_model, differs):
        class Constant(SimilarityEstimator):
            treatment = Soften(1.0, 1.0, 0.5)
            compares = "queries"

            def represent(self, column):
                return torch.zeros(len(column), 1)

            def similarity(self, queries, candidates):
                similarity = torch.full((len(queries), len(candidates)), 0.5)
                if differs:
                    similarity[:, 9] = 0.75  # of a negative whose query is known
                return similarity

        known = KnownQueries({COLUMNS["one-negative"][2][1]: "sort the list"}, static_model)
        loss = SoftInfoNCELoss(static_model, Constant(), known_queries=known)
        batch = features(static_model, COLUMNS["one-negative"])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(6):
                loss(copy.deepcopy(batch), None)
        assert ["equally similar" in str(warning.message) for warning in caught] == ([] if differs else [True])


def state_of_randomness():
    return torch.get_rng_state().tolist(), random.getstate(), [str(part) for part in np.random.get_state()]


class Meddler(SimilarityEstimator):
    """Does once in each of its methods what a plugin must not do to training; its similarities are fine."""

    treatment = Soften(alpha=1.3, beta=0.7, temperature=0.5)

    def __init__(self, where, what, compares="documents"):
        self.where = where
        self.what = what
        self.compares = compares
        self.model = None
        self.done = 0

    def attach(self, model):
        self.model = model
        self.meddle("attach")

    def meddle(self, where, tensors=()):
        if where != self.where:
            return
        self.done += 1
        if self.what == "seeds":
            torch.manual_seed(0)
            random.seed(0)
            np.random.seed(0)
        elif self.what == "draws":
            torch.rand(3), random.random(), np.random.rand()
        elif self.what == "eval":
            self.model.eval()
        elif self.what == "layer":
            self.model[0].train(not self.model[0].training)
        elif self.what == "overwrites":
            for tensor in tensors:
                tensor.fill_(5)
        elif self.what == "gradients off":
            torch.set_grad_enabled(False)

    def represent(self, column):
        counts = torch.nn.functional.one_hot(column.content_ids + 1, 64).sum(dim=1)[:, 1:].double()
        self.meddle("represent", [column.input_ids, column.attention_mask, column.content_ids])
        return counts

    def for_batch(self, candidates, known=None):
        self.meddle("for_batch", [candidates])
        return self

    def similarity(self, queries, candidates):
        found = queries.double() @ candidates.double().T
        self.meddle("similarity", [queries, candidates])
        return found


class TestPlugins:
    PLACES = ("attach", "represent", "for_batch", "similarity")
    CLASSES: ClassVar = {"plain": SoftInfoNCELoss, "cached": CachedSoftInfoNCELoss}

    @pytest.fixture
    def dropout_model(self, transformer_model):
        return with_dropout(transformer_model)

    def step(self, model, cls, estimator):
        """What the model read and drew, and what it leaves behind, with an estimator that weighs nothing."""
        seen = []
        handle = model.register_forward_hook(lambda _m, _i, output: seen.append(output["sentence_embedding"].detach()))
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)
        loss = cls(model, estimator)
        value, gradients = run(model, loss, features(model, COLUMNS["one-negative"]))
        handle.remove()
        return value, gradients, torch.cat(seen), state_of_randomness()

    @pairwise(cls=CLASSES, where=PLACES, what=["seeds", "draws", "overwrites", "gradients off"])
    def test_what_it_does_to_itself_changes_nothing_in_training(self, dropout_model, cls, where, what):
        meddler = Meddler(where, what)
        expected = self.step(dropout_model, cls, Meddler(None, None))
        plain = self.step(dropout_model, cls, None)
        found = self.step(dropout_model, cls, meddler)
        assert meddler.done
        assert torch.equal(found[2], expected[2])  # the dropout of every forward, and what the model read
        assert torch.equal(found[2], plain[2])
        assert found[3] == expected[3] == plain[3]
        assert torch.is_grad_enabled()
        if what != "overwrites":
            assert_same(found[:2], expected[:2])
        assert not torch.equal(found[2][:8], self.step(dropout_model.eval(), cls, None)[2][:8]), "dropout is off"

    @pairwise(cls=CLASSES, where=PLACES, what=["eval", "layer"])
    def test_leaving_the_model_in_another_mode_is_an_error_that_names_it(self, dropout_model, cls, where, what):
        meddler = Meddler(where, what)
        with pytest.raises(RuntimeError, match="the estimator 'Meddler' left the model in training in another mode"):
            self.step(dropout_model, cls, meddler)
        assert meddler.done

    @losses
    def test_one_of_embeddings_cannot_write_into_them(self, dropout_model, cls):
        meddler = Meddler("similarity", "overwrites", "scores")
        expected = self.step(dropout_model, cls, Meddler(None, None, "scores"))
        found = self.step(dropout_model, cls, meddler)
        assert meddler.done
        torch.testing.assert_close(found[2], expected[2])
        assert found[0].isfinite()
        assert abs(found[0]) > 1e-3

    def test_what_it_raises_leaves_randomness_as_it_was(self, dropout_model):
        class Failing(Meddler):
            def represent(self, column):
                torch.manual_seed(0)
                raise KeyError("no such text")

        torch.manual_seed(3)
        before = state_of_randomness()
        with pytest.raises(KeyError, match="no such text"):
            SoftInfoNCELoss(dropout_model, Failing(None, None))(features(dropout_model), None)
        assert state_of_randomness() == before


class TestTheDeviceIsNotWaitedFor:
    """A step asks the device for no value and no size that depends on values; the first batch may be looked at."""

    @pytest.fixture
    def elsewhere(self, monkeypatch):
        """Have the package believe that tensors are on a device that looking at would wait for."""
        monkeypatch.setattr("st_softinfonce.functional._can_look_at", lambda tensor: False)

    @pytest.mark.parametrize("wait", [lambda x: x.max().item(), torch.nonzero, torch.unique, lambda x: x[x > 1]])
    def test_waiting_for_the_device_is_noticed(self, wait):
        with ForbidWaiting(), pytest.raises(AssertionError, match="waits for the device"):
            wait(torch.arange(4))

    def estimators(self, model, teacher):
        def table(estimator):
            columns = {"query": QUERIES, "code": DOCUMENTS, "negative": NEGATIVES}
            estimator.precompute(columns, model, show_progress=False)
            return estimator

        groups = dict(zip(DOCUMENTS, [0, 1, 0, 2, 1, 3, 0, 4], strict=True))
        return {
            "self": lambda: "self",
            "bm25": lambda: BM25Estimator(),
            "bm25-documents": lambda: BM25Estimator(compares="documents"),
            "identical": lambda: IdenticalEstimator(),
            "near-duplicate": lambda: NearDuplicateEstimator(),
            "known": lambda: KnownRelevanceEstimator(groups, model),
            "simcse": lambda: table(SimCSEEstimator(teacher, on_miss="ignore")),
            "trained-model": lambda: table(TrainedModelEstimator(teacher, normalize=True, on_miss="ignore")),
            "mixture": lambda: MixtureEstimator(["bm25", BM25Estimator(b=0.5)]),
        }

    NAMES = "self bm25 bm25-documents identical near-duplicate known simcse trained-model mixture".split()
    TREATMENTS = (
        Soften(alpha=1.3, beta=0.7, temperature=0.5),
        Discount(POSTERIOR),
        Mask(margin=0.1),
        Mask(top_k=2),
        Mask(ratio=0.9),
        Mask(above=0.5),
        Promote(),
        Promote(POSTERIOR),
        Distill(),
        [Mask(margin=0.1, relative=True), Promote(), Distill()],
    )

    @pytest.mark.parametrize("name", NAMES)
    @losses
    def test_by_no_estimator_and_no_treatment(self, transformer_model, bert_folder, elsewhere, monkeypatch, name, cls):
        teacher = conftest.make_transformer_model(bert_folder)
        estimator = self.estimators(transformer_model, teacher)[name]()
        # One estimator that cannot judge mined negatives, and one that can, with every treatment; each with the last.
        for treatment in self.TREATMENTS if name in ("bm25", "bm25-documents") else self.TREATMENTS[-1:]:
            options = {"directions": ALL_DIRECTIONS, "hardness_mode": "all_negatives", "hardness_strength": 1.0}
            if name in ("bm25", "mixture"):  # which compare queries
                known = dict(zip(NEGATIVES[:4], QUERIES[4:], strict=True))
                options["known_queries"] = KnownQueries(known, transformer_model)
            loss = cls(transformer_model, estimator, treatment, **options)
            batch = features(transformer_model, COLUMNS["one-negative"])
            loss(copy.deepcopy(batch), None)
            with monkeypatch.context() as patched:
                # On a device one batch of a hundred is looked at.
                patched.setattr("st_softinfonce.losses.input_watch.InputWatch._look_at_texts", lambda *_: None)
                asked, embeddings = self.without_waiting(loss, transformer_model, batch)
            value = loss.compute_loss_from_embeddings(embeddings, asked)
            torch.testing.assert_close(value, loss(batch, None))

    def without_waiting(self, loss, model, batch):
        """All of a step but the model itself, which is the host's."""
        batch = copy.deepcopy(batch)
        with ForbidWaiting():
            asked = loss.ask(batch)
        embeddings = [model(column)["sentence_embedding"] for column in batch]
        with ForbidWaiting():
            loss.compute_loss_from_embeddings(embeddings, asked).backward(retain_graph=True)
        return asked, embeddings


class TestReporting:
    def test_the_configuration_is_readable_json(self, static_model):
        treatments = [(BM25Estimator(b=0.5), Soften(1.0, 1.0, 2.0)), ("self", [Mask(margin=-0.1), Distill()])]
        config = SoftInfoNCELoss(static_model, treatments=treatments).get_config_dict()
        assert json.loads(json.dumps(config)) == config
        bm25, own = config["estimators"]
        assert (bm25["estimator"], bm25["estimator_options"]["b"]) == ("bm25", 0.5)
        assert bm25["treatment"] == {
            "treatment": "Soften",
            "alpha": 1.0,
            "beta": 1.0,
            "temperature": 2.0,
            "min_weight": 0.1,
        }
        assert [part["treatment"] for part in own["treatment"]] == ["Mask", "Distill"]
        assert config["similarity_fct"] == "cos_sim"

    def test_the_papers_preset_scores_by_dot_product_and_counts_every_token(self, static_model):
        treatment = Soften(1.5, 0.5, 1.0, min_weight=0.2)
        loss = SoftInfoNCELoss.paper(static_model, "bm25", treatment)
        assert (loss.scale, loss.similarity_fct, loss.temperature) == (1.0, dot_score, 1.0)
        estimator = BM25Estimator(tokens="all")
        expected = SoftInfoNCELoss(static_model, estimator, treatment, scale=1.0, similarity_fct=dot_score)
        assert loss.get_config_dict() == expected.get_config_dict()
        assert_same(loss_and_gradients(loss, COLUMNS["pairs"]), loss_and_gradients(expected, COLUMNS["pairs"]))
