"""Soft-InfoNCE for sparse and multi-vector models."""

from functools import partial

import conftest
import pytest
import reference
import torch
from conftest import DOCUMENTS, NEGATIVES, QUERIES, run
from sentence_transformers.multi_vector_encoder import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder.losses import MultiVectorMultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Transformer
from sentence_transformers.sparse_encoder import SparseEncoder
from sentence_transformers.sparse_encoder.losses import (
    CachedSpladeLoss,
    CSRLoss,
    SparseMultipleNegativesRankingLoss,
    SpladeLoss,
)
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder, SpladePooling
from test_losses import Table
from tiny_models import save_bert
from transformers import BertForMaskedLM

from st_softinfonce import BM25Estimator, SoftInfoNCELoss
from st_softinfonce.losses import (
    CachedSoftSpladeLoss,
    MultiVectorSoftInfoNCELoss,
    SoftCSRLoss,
    SoftSpladeLoss,
)

TEXTS = [QUERIES, DOCUMENTS, NEGATIVES]

assert_same = partial(conftest.assert_same, rtol=1e-5, atol=1e-6)  # in float32


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
        unweighted = run(splade, ours(splade, SoftInfoNCELoss.paper(splade, None), **options))
        assert_same(unweighted, run(splade, host(splade, SparseMultipleNegativesRankingLoss(splade), **options)))
        weighted = run(splade, ours(splade, SoftInfoNCELoss.paper(splade), **options))
        assert abs(weighted[0] - unweighted[0]) > 1e-4

    def test_cached_splade_equals_plain(self, splade):
        plain = run(splade, SoftSpladeLoss(splade, SoftInfoNCELoss.paper(splade), **self.weights))
        loss = CachedSoftSpladeLoss(splade, SoftInfoNCELoss.paper(splade), **self.weights, mini_batch_size=3)
        assert_same(run(splade, loss), plain, rtol=1e-4, atol=1e-5)

    def test_csr_without_weights_equals_the_hosts_loss(self, csr):
        unweighted = run(csr, SoftCSRLoss(csr, SoftInfoNCELoss.paper(csr, None)))
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
        unweighted = run(colbert, MultiVectorSoftInfoNCELoss(colbert, None, score_mini_batch_size=chunk), batch)
        assert_same(unweighted, run(colbert, MultiVectorMultipleNegativesRankingLoss(colbert), batch))
        weighted = run(colbert, MultiVectorSoftInfoNCELoss(colbert, score_mini_batch_size=chunk), batch)
        assert abs(weighted[0] - unweighted[0]) > 1e-4

    def test_hardness_raises_the_scores_of_negatives(self, colbert):
        hard = {"hardness_mode": "all_negatives", "hardness_strength": 5.0}
        plain = run(colbert, MultiVectorSoftInfoNCELoss(colbert, None), self.batch(colbert))
        harder = run(colbert, MultiVectorSoftInfoNCELoss(colbert, None, **hard), self.batch(colbert))
        assert harder[0] > plain[0]
        options = {"estimator": None, "score_mini_batch_size": 3, **hard}
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
