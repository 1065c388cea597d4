"""The host's wrappers, modules and training modes around the loss: without weights equal to the host's own loss."""

import copy
from functools import partial

import peft
import pytest
import torch
from conftest import DOCUMENTS, NEGATIVES, QUERIES, assert_same, features, run, training_arguments
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.losses import (
    AdaptiveLayerLoss,
    CachedMultipleNegativesRankingLoss,
    Matryoshka2dLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Pooling, Router, Transformer

from st_softinfonce import BM25Estimator, CachedSoftInfoNCELoss, SoftInfoNCELoss

TEXTS = [QUERIES, DOCUMENTS, NEGATIVES]
PLAIN = (SoftInfoNCELoss, MultipleNegativesRankingLoss)
CACHED = (CachedSoftInfoNCELoss, CachedMultipleNegativesRankingLoss)
kinds = pytest.mark.parametrize("kind", [PLAIN, CACHED], ids=["plain", "cached"])

WRAPPERS = {
    "matryoshka": lambda model, loss: MatryoshkaLoss(model, loss, matryoshka_dims=[16, 8, 4]),
    "matryoshka-2d": lambda model, loss: Matryoshka2dLoss(
        model, loss, matryoshka_dims=[16, 8], n_layers_per_step=-1, n_dims_per_step=-1
    ),
    "adaptive-layer": lambda model, loss: AdaptiveLayerLoss(model, loss, n_layers_per_step=-1),
}


class Counting(BM25Estimator):
    """BM25 that counts how often it is asked."""

    def __init__(self):
        super().__init__()
        self.represented = 0

    def represent(self, column):
        self.represented += 1
        return super().represent(column)


def differ(one, other):
    return abs(one[0] - other[0]) > 1e-4


@pytest.fixture
def exact_model(transformer_model):
    return transformer_model.double()


class TestWrappers:
    @pytest.mark.parametrize(
        ("wrap", "kind"),
        [
            pytest.param(wrap, kind, id=f"{name}-{'cached' if kind is CACHED else 'plain'}")
            for name, wrap in WRAPPERS.items()
            for kind in (PLAIN, CACHED)
            if kind is PLAIN or name == "matryoshka"  # the host does not support the others
        ],
    )
    def test_without_weights_a_wrapped_loss_equals_the_hosts(self, exact_model, wrap, kind):
        ours, host = kind
        unweighted = run(exact_model, wrap(exact_model, ours(exact_model, None)))
        assert_same(unweighted, run(exact_model, wrap(exact_model, host(exact_model))))
        assert differ(run(exact_model, wrap(exact_model, ours(exact_model))), unweighted)

    @kinds
    def test_matryoshka_is_the_sum_over_its_dimensions(self, exact_model, kind):
        parts = [
            run(exact_model, MatryoshkaLoss(exact_model, SoftInfoNCELoss(exact_model), [dim], [weight]))
            for dim, weight in ((16, 1.0), (8, 0.5))
        ]
        both = run(exact_model, MatryoshkaLoss(exact_model, kind[0](exact_model), [16, 8], [1.0, 0.5]))
        expected = {name: sum(part[1][name] for part in parts) for name in both[1]}
        assert_same(both, (parts[0][0] + parts[1][0], expected))

    @pytest.mark.parametrize(
        ("wrap", "cls"),
        [
            pytest.param(WRAPPERS["matryoshka"], SoftInfoNCELoss, id="matryoshka"),
            pytest.param(WRAPPERS["matryoshka"], CachedSoftInfoNCELoss, id="matryoshka-cached"),
            pytest.param(WRAPPERS["matryoshka-2d"], SoftInfoNCELoss, id="matryoshka-2d"),
            pytest.param(WRAPPERS["adaptive-layer"], SoftInfoNCELoss, id="adaptive-layer"),
        ],
    )
    def test_the_estimator_is_asked_once_a_step(self, transformer_model, wrap, cls):
        estimator = Counting()
        loss = wrap(transformer_model, cls(transformer_model, estimator))
        for step in (1, 2, 3):
            run(transformer_model, loss)
            assert estimator.represented == step

    @pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
    def test_what_modules_write_into_the_features_does_not_disturb_the_answer(self, transformer_model, wrap):
        """Pooling without the prompt writes its mask into the features, which every further call of a step gets."""
        transformer_model[1].include_prompt = False
        read = []

        class Reading(Counting):
            def similarity(self, queries, candidates):
                read.append(queries.clone())
                return super().similarity(queries, candidates)

        batch = features(transformer_model, TEXTS, prompt="find the ")
        run(transformer_model, wrap(transformer_model, SoftInfoNCELoss(transformer_model, Reading())), batch)
        expected = SoftInfoNCELoss(transformer_model, Counting()).ask(batch)[0].queries
        assert len(read) > 1
        assert all(torch.equal(one, read[0]) for one in read)
        assert torch.equal(read[0], expected)

    def test_a_loss_that_was_used_can_be_copied(self, static_model):
        loss = SoftInfoNCELoss(static_model)
        expected = loss(features(static_model), None)
        assert torch.equal(copy.deepcopy(loss)(features(static_model), None), expected)


class TestModels:
    @kinds
    def test_lora_adapters_train_alone(self, transformer_model, kind):
        transformer_model.add_adapter(
            peft.LoraConfig(target_modules=["query", "value"], r=2, init_lora_weights=False), "lora"
        )
        ours, host = kind
        unweighted = run(transformer_model, ours(transformer_model, None))
        assert all("lora" in name for name in unweighted[1])
        assert_same(unweighted, run(transformer_model, host(transformer_model)), rtol=1e-4, atol=1e-6)
        assert differ(run(transformer_model, ours(transformer_model)), unweighted)

    @pytest.fixture
    def router_model(self, bert_folder):
        routes = {}
        for name in ("query", "document"):
            transformer = Transformer(bert_folder)
            routes[name] = [transformer, Pooling(transformer.get_embedding_dimension())]
        with torch.no_grad():
            for parameter in routes["document"][0].parameters():
                parameter.add_(0.01)
        return SentenceTransformer(modules=[Router.for_query_document(routes["query"], routes["document"])]).double()

    @kinds
    def test_router_models_take_each_column_its_own_way(self, router_model, kind):
        batch = features(router_model, tasks=("query", "document", "document"))
        for column, task in zip(batch, ("query", "document", "document"), strict=True):
            column["task"] = task
        ours, host = kind
        unweighted = run(router_model, ours(router_model, None), batch)
        assert_same(unweighted, run(router_model, host(router_model), batch))
        assert differ(run(router_model, ours(router_model), batch), unweighted)
        weights = ours(router_model, BM25Estimator(compares="documents")).ask(batch)[0]
        assert all((ids >= 0).any() for ids in (weights.queries, *weights.candidates))

    @kinds
    def test_a_compiled_model_trains_alike(self, transformer_model, kind):
        eager = run(transformer_model, kind[0](transformer_model))
        compiled_model = torch.compile(transformer_model, backend="eager")
        loss = kind[0](transformer_model)
        loss.model = compiled_model
        transformer_model.zero_grad()
        value = loss(features(transformer_model), None)
        value.backward()
        torch.testing.assert_close(value, eager[0])
        for name, parameter in transformer_model.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(parameter.grad, eager[1][name], rtol=1e-4, atol=1e-6)

    @kinds
    def test_bf16_autocast_equals_the_host_without_weights(self, transformer_model, kind):
        ours, host = kind
        with torch.autocast("cpu", dtype=torch.bfloat16):
            unweighted = run(transformer_model, ours(transformer_model, None))
            expected = run(transformer_model, host(transformer_model))
            weighted = run(transformer_model, ours(transformer_model))
        assert unweighted[0].dtype == torch.float32
        assert unweighted[0].item() == pytest.approx(expected[0].item(), rel=2e-2)
        # The host adds up its scores in bfloat16, this loss in float32: the direction agrees, not every digit.
        one, other = (torch.cat([found[1][n].flatten() for n in sorted(found[1])]) for found in (expected, unweighted))
        assert torch.cosine_similarity(one, other, dim=0) > 0.99
        assert differ(weighted, unweighted)


def pairs(columns=("query", "code")):
    return Dataset.from_dict(dict(zip(columns, (QUERIES * 2, DOCUMENTS * 2, NEGATIVES * 2), strict=False)))


arguments = partial(training_arguments, num_train_epochs=1, logging_steps=1)


class TestTrainer:
    def test_several_datasets_with_a_loss_each(self, transformer_model, tmp_path):
        trainer = SentenceTransformerTrainer(
            model=transformer_model,
            args=arguments(tmp_path),
            train_dataset={"pairs": pairs(), "triplets": pairs(("query", "code", "negative"))},
            loss={
                "pairs": SoftInfoNCELoss(transformer_model),
                "triplets": CachedSoftInfoNCELoss(
                    transformer_model, BM25Estimator(compares="documents"), mini_batch_size=3
                ),
            },
        )
        trainer.train()
        assert trainer.state.global_step == 4
        assert trainer.state.log_history[0]["loss"] > 0

    @kinds
    def test_gradient_accumulation_prompts_and_bf16(self, transformer_model, tmp_path, kind):
        trainer = SentenceTransformerTrainer(
            model=transformer_model,
            args=arguments(tmp_path, gradient_accumulation_steps=2, bf16=True, prompts={"query": "find the "}),
            train_dataset=pairs(("query", "code", "negative")),
            loss=kind[0](transformer_model),
        )
        before = {name: value.clone() for name, value in transformer_model.named_parameters()}
        trainer.train()
        assert trainer.state.global_step == 1
        assert any(not torch.equal(before[name], value) for name, value in transformer_model.named_parameters())
