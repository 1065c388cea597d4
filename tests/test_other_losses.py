"""The paper's alternatives, and Soft-InfoNCE for sparse and multi-vector models."""

import json
import math
from functools import partial

import conftest
import pytest
import reference
import torch
from conftest import DOCUMENTS, NEGATIVES, QUERIES, features, run
from datasets import Dataset
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.multi_vector_encoder import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder.losses import MultiVectorMultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Transformer
from sentence_transformers.sparse_encoder import SparseEncoder
from sentence_transformers.sparse_encoder.losses import (
    CachedSpladeLoss,
    CSRLoss,
    SparseMultipleNegativesRankingLoss,
    SpladeLoss,
)
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder, SpladePooling
from sentence_transformers.util import cos_sim
from test_losses import Table
from tiny_models import save_bert
from transformers import BertForMaskedLM

from st_softinfonce import BM25Estimator, SoftInfoNCELoss
from st_softinfonce.losses import (
    CachedSoftSpladeLoss,
    CancelledInfoNCELoss,
    InBatchBCELoss,
    KLRegularizedInfoNCELoss,
    MultiVectorSoftInfoNCELoss,
    SoftCSRLoss,
    SoftSpladeLoss,
    WeightedInfoNCELoss,
)

TEXTS = [QUERIES, DOCUMENTS, NEGATIVES]

assert_same = partial(conftest.assert_same, rtol=1e-5, atol=1e-6)  # in float32

BASELINES = {
    "bce": (InBatchBCELoss, {"weight_temperature": 0.5}, lambda s, e: reference.bce(s, e, 0.5)),
    "weighted": (
        WeightedInfoNCELoss,
        {"weight_temperature": 0.5},
        lambda s, e: reference.weighted_info_nce(s, e, 0.5),
    ),
    "kl": (
        KLRegularizedInfoNCELoss,
        {"weight_temperature": 0.5, "kl_weight": 0.3},
        lambda s, e: reference.kl_regularized_info_nce(s, e, 0.5, 1.3, 0.3),
    ),
    "top-2": (
        CancelledInfoNCELoss,
        {"top_k": 2},
        lambda s, e: reference.soft_info_nce(s, reference.cancellation_weights(e, top_k=2)),
    ),
    "ratio": (
        CancelledInfoNCELoss,
        {"ratio": 0.5},
        lambda s, e: reference.soft_info_nce(s, reference.cancellation_weights(e, ratio=0.5)),
    ),
}


class TestBaselines:
    @pytest.mark.parametrize(("cls", "options", "oracle"), BASELINES.values(), ids=BASELINES.keys())
    @pytest.mark.parametrize("compares", ["queries", "documents"])
    def test_equals_the_formula(self, static_model, cls, options, oracle, compares):
        similarity = torch.randn(len(QUERIES), 16, generator=torch.Generator().manual_seed(3)).double()
        if compares == "queries":
            # What an estimator of queries does not know counts as never relevant.
            similarity[:, len(QUERIES) :] = -1e9
        with torch.no_grad():
            embeddings = [static_model(column)["sentence_embedding"] for column in features(static_model)]
        scores = (20 * cos_sim(embeddings[0], torch.cat(embeddings[1:]))).double().tolist()
        actual, _ = run(static_model, cls(static_model, Table(similarity, compares), **options))
        assert actual.item() == pytest.approx(oracle(scores, similarity.tolist()), rel=1e-5)
        plain, _ = run(static_model, MultipleNegativesRankingLoss(static_model))
        assert actual.item() != pytest.approx(plain.item(), rel=1e-4)

    @pytest.mark.parametrize(("cls", "options", "oracle"), BASELINES.values(), ids=BASELINES.keys())
    def test_trains_in_the_trainer_and_reports_its_settings(self, static_model, cls, options, oracle, tmp_path):
        loss = cls(static_model, **options)
        trainer = SentenceTransformerTrainer(
            model=static_model,
            args=SentenceTransformerTrainingArguments(
                output_dir=str(tmp_path),
                per_device_train_batch_size=8,
                num_train_epochs=3,
                learning_rate=0.05,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
            ),
            train_dataset=Dataset.from_dict({"query": QUERIES, "code": DOCUMENTS, "negative": NEGATIVES}),
            loss=loss,
        )
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert losses[-1] < losses[0]
        config = loss.get_config_dict()
        assert json.loads(json.dumps(config)) == config
        assert options.items() <= config.items()
        assert "Rethinking Negative Pairs" in loss.citation

    @pytest.mark.parametrize(
        ("cls", "options", "message"),
        [
            (InBatchBCELoss, {"weight_temperature": 0}, "weight_temperature must be a finite number above 0, got 0"),
            (KLRegularizedInfoNCELoss, {"kl_weight": -1}, "kl_weight must be a finite number, at least 0, got -1"),
            (CancelledInfoNCELoss, {}, "exactly one of top_k and ratio, got top_k=None and ratio=None"),
            (CancelledInfoNCELoss, {"top_k": 0}, "top_k must be an integer of at least 1, got 0"),
            (CancelledInfoNCELoss, {"ratio": math.nan}, "ratio must be a finite number above 0, got nan"),
        ],
        ids=["bce", "kl", "no-rule", "top-0", "ratio-nan"],
    )
    def test_options_out_of_range_are_refused_at_construction(self, static_model, cls, options, message):
        with pytest.raises(ValueError, match=message):
            cls(static_model, **options)


@pytest.fixture(scope="module")
def masked_bert_folder(tmp_path_factory):
    return save_bert(tmp_path_factory.mktemp("masked") / "bert", BertForMaskedLM, mask_token=True)


class TestSparse:
    @pytest.fixture
    def splade(self, masked_bert_folder):
        transformer = Transformer(masked_bert_folder, transformer_task="fill-mask")
        return SparseEncoder(modules=[transformer, SpladePooling()], device="cpu")

    @pytest.fixture
    def csr(self, bert_folder, transformer_model):
        encoder = SparseAutoEncoder(input_dim=16, hidden_dim=32, k=8, k_aux=8)
        return SparseEncoder(modules=[*transformer_model, encoder], device="cpu")

    @property
    def weights(self):
        return {"document_regularizer_weight": 0.1, "query_regularizer_weight": 0.2}

    @pytest.mark.parametrize(
        ("ours", "host", "options"),
        [(SoftSpladeLoss, SpladeLoss, {}), (CachedSoftSpladeLoss, CachedSpladeLoss, {"mini_batch_size": 3})],
        ids=["plain", "cached"],
    )
    def test_splade_without_weights_equals_the_hosts_loss(self, splade, ours, host, options):
        options = self.weights | options
        unweighted = run(splade, ours(splade, SoftInfoNCELoss.paper(splade, alpha=0), **options))
        assert_same(unweighted, run(splade, host(splade, SparseMultipleNegativesRankingLoss(splade), **options)))
        weighted = run(splade, ours(splade, SoftInfoNCELoss.paper(splade), **options))
        assert abs(weighted[0] - unweighted[0]) > 1e-4

    def test_cached_splade_equals_plain(self, splade):
        plain = run(splade, SoftSpladeLoss(splade, SoftInfoNCELoss.paper(splade), **self.weights))
        loss = CachedSoftSpladeLoss(splade, SoftInfoNCELoss.paper(splade), **self.weights, mini_batch_size=3)
        assert_same(run(splade, loss), plain, rtol=1e-4, atol=1e-5)

    def test_csr_without_weights_equals_the_hosts_loss(self, csr):
        unweighted = run(csr, SoftCSRLoss(csr, SoftInfoNCELoss.paper(csr, alpha=0)))
        assert_same(unweighted, run(csr, CSRLoss(csr, SparseMultipleNegativesRankingLoss(csr))))
        weighted = run(csr, SoftCSRLoss(csr, SoftInfoNCELoss.paper(csr, BM25Estimator(compares="documents"))))
        assert abs(weighted[0] - unweighted[0]) > 1e-4

    def test_another_packages_loss_is_refused(self, splade):
        with pytest.raises(TypeError, match=r"got SparseMultipleNegativesRankingLoss: SpladeLoss of sentence-transf"):
            SoftSpladeLoss(splade, SparseMultipleNegativesRankingLoss(splade), **self.weights)


class TestMultiVector:
    @pytest.fixture
    def colbert(self, masked_bert_folder):
        torch.manual_seed(1)
        return MultiVectorEncoder(masked_bert_folder, device="cpu")

    def batch(self, model, texts=TEXTS):
        tasks = ["query", *["document"] * (len(texts) - 1)]
        return [
            {**model.preprocess(column, task=task), "task": task} for column, task in zip(texts, tasks, strict=True)
        ]

    @pytest.mark.parametrize("texts", [TEXTS[:2], TEXTS], ids=["pairs", "one-negative"])
    @pytest.mark.parametrize("chunk", [None, 3], ids=["whole", "chunk=3"])
    def test_without_weights_equals_the_hosts_loss(self, colbert, texts, chunk):
        batch = self.batch(colbert, texts)
        unweighted = run(colbert, MultiVectorSoftInfoNCELoss(colbert, alpha=0, score_mini_batch_size=chunk), batch)
        assert_same(unweighted, run(colbert, MultiVectorMultipleNegativesRankingLoss(colbert), batch))
        weighted = run(colbert, MultiVectorSoftInfoNCELoss(colbert, score_mini_batch_size=chunk), batch)
        assert abs(weighted[0] - unweighted[0]) > 1e-4

    def test_hardness_raises_the_scores_of_negatives(self, colbert):
        hard = {"hardness_mode": "all_negatives", "hardness_strength": 5.0}
        plain = run(colbert, MultiVectorSoftInfoNCELoss(colbert, alpha=0), self.batch(colbert))
        harder = run(colbert, MultiVectorSoftInfoNCELoss(colbert, alpha=0, **hard), self.batch(colbert))
        assert harder[0] > plain[0]
        options = {"alpha": 0, "score_mini_batch_size": 3, **hard}
        assert_same(run(colbert, MultiVectorSoftInfoNCELoss(colbert, **options), self.batch(colbert)), harder)

    def test_weights_act_on_the_right_documents(self, colbert):
        """Against the formula on the host's scores, which come in another order of the columns."""
        from sentence_transformers.multi_vector_encoder.scoring import colbert_scores

        similarity = torch.randn(8, 16, generator=torch.Generator().manual_seed(3)).double()
        batch = self.batch(colbert)
        with torch.no_grad():
            outputs = [colbert(dict(column), task=column["task"]) for column in batch]
        scores = torch.cat(
            [
                colbert_scores(
                    outputs[0]["token_embeddings"],
                    output["token_embeddings"].unsqueeze(1),
                    queries_mask=outputs[0]["attention_mask"].bool(),
                    documents_mask=output["attention_mask"].bool().unsqueeze(1),
                )
                for output in outputs[1:]
            ],
            dim=1,
        )
        weights = reference.negative_weights(similarity.tolist(), 1.3, 0.7, 0.5)
        expected = reference.soft_info_nce(scores.double().tolist(), weights)
        actual, _ = run(colbert, MultiVectorSoftInfoNCELoss(colbert, Table(similarity, "documents")), batch)
        assert actual.item() == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"directions": ("query_to_doc",)}, "directions cannot be set"),
            ({"score_mini_batch_size": 0}, "score_mini_batch_size must be an integer of at least 1 or None, got 0"),
        ],
        ids=["directions", "chunk-0"],
    )
    def test_impossible_options_are_refused(self, colbert, options, message):
        with pytest.raises(ValueError, match=message):
            MultiVectorSoftInfoNCELoss(colbert, **options)
