"""What every estimator keeps, whatever it compares: cached losses, training, empty texts, and a readable card."""

import json

import pytest
import torch
from conftest import DOCUMENTS, NEGATIVES, QUERIES, assert_same, features, run, training_arguments, with_dropout
from datasets import Dataset
from sentence_transformers import CrossEncoder, SentenceTransformer, SentenceTransformerTrainer
from tiny_models import make_transformer_model, save_bert
from transformers import BertForSequenceClassification

from st_softinfonce import (
    BM25Estimator,
    CachedSoftInfoNCELoss,
    CrossEncoderEstimator,
    IdenticalEstimator,
    KnownRelevanceEstimator,
    Mask,
    MixtureEstimator,
    NearDuplicateEstimator,
    Promote,
    SimCSEEstimator,
    SoftInfoNCELoss,
    TrainedModelEstimator,
)

# The last pair repeats the first one's texts, so that there is something to find for every estimator.
TEXTS = ([*QUERIES[:-1], QUERIES[0]], [*DOCUMENTS[:-1], DOCUMENTS[0]], [DOCUMENTS[2], *NEGATIVES[1:]])
GROUPS = dict(zip(DOCUMENTS, [0, 1, 0, 2, 3, 3, 4, 5], strict=True))
NAMES = {
    "bm25": ("queries", "documents", "positives"),
    "identical": ("queries", "positives"),
    "known": ("positives",),
    "near-duplicate": ("queries", "documents", "positives"),
    "mixture": ("queries", "documents", "positives"),
    "cross-encoder": ("queries", "documents", "positives"),
    "simcse": ("queries",),
    "trained-model": ("documents",),
}
every = pytest.mark.parametrize(("name", "compares"), [(name, kinds[-1]) for name, kinds in NAMES.items()], ids=NAMES)


@pytest.fixture(scope="module")
def reranker_folder(tmp_path_factory):
    options = {"seed": 3, "initializer_range": 1.0, "num_labels": 1}
    return save_bert(tmp_path_factory.mktemp("reranker"), BertForSequenceClassification, **options)


@pytest.fixture
def make(bert_folder, reranker_folder):
    """Make an estimator that finds something in the texts, and its treatment; teachers would drop out in training."""

    def make(name, compares, model):
        if name == "known":
            return KnownRelevanceEstimator(GROUPS, model), Promote()
        if name == "mixture":
            parts = [BM25Estimator(compares=compares), NearDuplicateEstimator(compares=compares, size=1)]
            return MixtureEstimator(parts, temperatures=[1.0, 0.1]), None
        if name == "cross-encoder":
            reranker = with_dropout(CrossEncoder(reranker_folder, device="cpu"))
            return CrossEncoderEstimator(reranker, compares=compares, candidates_per_query=3), None
        if name in ("simcse", "trained-model"):
            cls = SimCSEEstimator if name == "simcse" else TrainedModelEstimator
            return cls(with_dropout(make_transformer_model(bert_folder))), None
        if name == "near-duplicate":
            return NearDuplicateEstimator(compares=compares, size=1), Mask(above=0.2)
        return {"bm25": BM25Estimator, "identical": IdenticalEstimator}[name](compares=compares), None

    return make


@pytest.mark.parametrize(
    ("name", "compares"),
    [pytest.param(name, one, id=f"{name}-{one}") for name, kinds in NAMES.items() for one in kinds],
)
def test_cached_equals_plain_and_differs_from_unweighted(transformer_model, make, name, compares):
    directions = ("query_to_doc", "doc_to_query") if compares == NAMES[name][-1] else ("query_to_doc",)
    model = transformer_model.double()
    estimator, treatment = make(name, compares, model)
    batch = features(model, TEXTS)
    plain = run(model, SoftInfoNCELoss(model, estimator, treatment, directions=directions), batch)
    cached = CachedSoftInfoNCELoss(model, estimator, treatment, directions=directions, mini_batch_size=3)
    assert_same(run(model, cached, batch), plain, rtol=1e-5, atol=1e-7)  # of similarities in float32
    assert abs(run(model, SoftInfoNCELoss(model, None, directions=directions), batch)[0] - plain[0]) > 1e-4


@every
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")
def test_training_moves_the_model_and_nothing_of_the_estimator(static_model, make, tmp_path, name, compares):
    estimator, treatment = make(name, compares, static_model)
    teacher = getattr(estimator, "encoder", torch.nn.Module())
    start, before = ({k: v.clone() for k, v in m.state_dict().items()} for m in (static_model, teacher))
    loss = SoftInfoNCELoss(static_model, estimator, treatment)
    names = {f"model.{key}" for key, _ in static_model.named_parameters()}
    assert {key for key, _ in loss.named_parameters()} == names
    data = Dataset.from_dict(dict(zip(("query", "code", "negative"), TEXTS, strict=True)))
    trainer = SentenceTransformerTrainer(
        model=static_model,
        args=training_arguments(
            tmp_path,
            bf16=name in ("bm25", "known", "mixture", "trained-model"),
            eval_strategy="epoch",
        ),
        train_dataset=data,
        eval_dataset=data,
        loss=loss,
    )
    trainer.train()
    assert any("eval_loss" in entry for entry in trainer.state.log_history)
    trained = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert any(not torch.equal(value, start[key]) for key, value in static_model.state_dict().items())
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    assert not any(p.requires_grad or id(p) in trained or p.grad is not None for p in teacher.parameters())
    assert loss.judges[0].estimator is estimator
    static_model.save_pretrained(str(tmp_path / "saved"))
    saved = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert saved.state_dict().keys() == static_model.state_dict().keys()
    if before:
        assert not any(module.training for module in teacher.modules())


@every
def test_only_empty_texts_train(static_model, make, name, compares):
    loss = SoftInfoNCELoss(static_model, *make(name, compares, static_model))
    with pytest.warns(UserWarning, match="empty texts: 8 of 8 in column 0, 8 of 8 in column 1"):
        value = loss([static_model.preprocess([""] * 8)] * 2)
    assert torch.isfinite(value)


@every
def test_the_configuration_is_readable_json(static_model, make, name, compares):
    config = SoftInfoNCELoss(static_model, *make(name, compares, static_model)).get_config_dict()
    assert json.loads(json.dumps(config)) == config
    assert (config["estimator"], config["estimator_options"]["compares"]) == (name, compares)
