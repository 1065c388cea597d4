"""The evaluator for the trainer: the metrics of the tasks, on a sample, and the best checkpoint by them."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest
import torch
from conftest import DOCUMENTS, QUERIES, training_arguments
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformerTrainer
from transformers import TrainerCallback

from st_softinfonce import SoftInfoNCELoss
from st_softinfonce.evaluators import CodeRetrievalEvaluator

WORDS = "read write open close sort merge count find parse send file list number socket string lines bytes".split()


def make_pairs(n, seed=0):
    """Pairs of few words, so that queries and codes repeat and scores tie."""
    generator = np.random.default_rng(seed)
    draw = lambda: " ".join(generator.choice(WORDS[:6], size=2))  # noqa: E731
    return Dataset.from_dict({"query": [draw() for _ in range(n)], "code": [f"{draw()} return" for _ in range(n)]})


@pytest.mark.parametrize(("n", "similarity"), [(1, "cosine"), (40, "dot"), (300, "cosine")])
@pytest.mark.parametrize("with_corpus", [False, True], ids=["pairs", "corpus"])
def test_metrics_are_those_of_the_task_ties_included(static_model, n, similarity, with_corpus):
    pytest.importorskip("mteb")
    from retrieval_models import evaluate

    from st_softinfonce.tasks import task_from_pairs

    static_model.similarity_fn_name = similarity
    splits = DatasetDict(train=make_pairs(3), dev=make_pairs(n))
    corpus = make_pairs(50, seed=1) if with_corpus else None
    task = task_from_pairs(splits, "Mine", split="dev", corpus=corpus)
    (entry,) = evaluate(static_model, [task]).task_results[0].scores["dev"]
    evaluator = CodeRetrievalEvaluator(splits, name="dev", split="dev", corpus=corpus)
    before = evaluator.primary_metric  # what metric_for_best_model is given, when no model has been seen yet
    metrics = evaluator(static_model)
    assert before == evaluator.primary_metric == "dev_mrr@1000"
    assert metrics[before] == metrics[f"dev_{similarity}_mrr@1000"] == pytest.approx(entry["mrr_at_1000"], abs=1e-9)
    for kind in ("strict", "duplicates"):
        expected = pytest.approx(entry[f"mrr_at_1000_{kind}"], abs=1e-9)
        assert metrics[f"dev_{similarity}_mrr_{kind}@1000"] == expected
    assert metrics[f"dev_{similarity}_ndcg@10"] == pytest.approx(entry["ndcg_at_10"], abs=1.1e-5)


def test_sample_is_of_the_rows_and_follows_the_seed():
    pairs = Dataset.from_dict({"query": [f"q{i}" for i in range(50)], "code": [f"c{i}" for i in range(50)]})
    first, again, other = (CodeRetrievalEvaluator(pairs, sample=10, seed=seed) for seed in (0, 0, 1))
    assert first.queries == again.queries != other.queries
    assert len(first.queries) == len(first.corpus) == 10
    assert [query[1:] for query in first.queries] == [code[1:] for code in first.corpus]
    assert len(CodeRetrievalEvaluator(pairs).queries) == len(CodeRetrievalEvaluator(pairs, sample=None).queries) == 50
    corpus = Dataset.from_dict({"code": ["x", "y", "c1"]})
    assert len(CodeRetrievalEvaluator(pairs, sample=None, corpus=corpus).corpus) == 52


def test_rank_1000_counts_and_rank_1001_does_not(static_model):
    class Fixed:
        similarity_fn_name = "dot"
        model_card_data = static_model.model_card_data

        def encode_query(self, texts, **_):
            return torch.ones(len(texts), 1)

        def encode_document(self, texts, **_):
            return -torch.tensor([[float(text)] for text in texts])

        def similarity(self, left, right):
            return left @ right.T

    corpus = Dataset.from_dict({"code": [str(i) for i in range(1100)]})
    for rank, expected in [(1, 1.0), (1000, 1 / 1000), (1001, 0.0)]:
        pairs = Dataset.from_dict({"query": ["q"], "code": [str(rank - 1)]})
        metrics = CodeRetrievalEvaluator(pairs, corpus=corpus)(Fixed())
        for kind in ("mrr", "mrr_strict", "mrr_duplicates"):
            assert metrics[f"dot_{kind}@1000"] == pytest.approx(expected, abs=1e-12)


class Spoil(TrainerCallback):
    """From its third step on the model is noise, so that the best checkpoint is not the last."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step >= 3:
            torch.manual_seed(state.global_step)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.normal_()


def test_trainer_restores_the_model_that_was_best(static_model, tmp_path):
    pairs = Dataset.from_dict({"query": QUERIES * 4, "code": DOCUMENTS * 4})
    evaluator = CodeRetrievalEvaluator(pairs, name="dev")
    key = f"eval_{evaluator.primary_metric}"
    assert key == "eval_dev_mrr@1000"
    with torch.no_grad():
        for parameter in static_model.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
    training = SentenceTransformerTrainer(
        model=static_model,
        args=training_arguments(
            tmp_path,
            max_steps=6,
            learning_rate=0.3,
            eval_strategy="steps",
            eval_steps=1,
            save_strategy="steps",
            save_steps=1,
            load_best_model_at_end=True,
            metric_for_best_model=key,
            seed=7,
        ),
        train_dataset=pairs,
        loss=SoftInfoNCELoss(static_model),
        evaluator=evaluator,
        callbacks=[Spoil()],
    )
    training.train()
    values = [entry[key] for entry in training.state.log_history if key in entry]
    assert len(values) == 6
    assert training.args.greater_is_better
    assert training.state.best_metric == max(values) > values[-1]
    assert training.state.best_model_checkpoint.endswith(f"checkpoint-{1 + int(np.argmax(values))}")
    assert evaluator(training.model)[evaluator.primary_metric] == pytest.approx(max(values), abs=1e-9)


def test_mteb_is_not_needed(monkeypatch):
    for name in [*sys.modules]:
        if name.startswith(("st_softinfonce.evaluators", "st_softinfonce._retrieval", "st_softinfonce.tasks")):
            monkeypatch.delitem(sys.modules, name)
    for name in ("mteb", "pytrec_eval"):
        monkeypatch.setitem(sys.modules, name, None)
    anew = importlib.import_module("st_softinfonce.evaluators")
    assert anew.CodeRetrievalEvaluator is not CodeRetrievalEvaluator
    assert len(anew.CodeRetrievalEvaluator(make_pairs(3)).queries) > 0


@pytest.mark.parametrize(
    ("pairs", "options", "message"),
    [
        ([1], {}, r"pairs is a list, not a datasets.Dataset"),
        (Dataset.from_dict({"query": ["a"]}), {}, r"pairs has no column 'code'"),
        (Dataset.from_dict({"query": ["a"], "code": [""]}), {}, r"pairs\['code'\] must hold a non-empty string"),
        (make_pairs(3), {"sample": 0}, r"sample=0 is not valid: pass a number of rows"),
        (make_pairs(3), {"sample": 0.1}, r"sample=0.1 is not valid"),
        (make_pairs(3), {"corpus": Dataset.from_dict({"text": ["a"]})}, r"corpus has no column 'code'"),
    ],
)
def test_bad_input_is_refused(pairs, options, message):
    with pytest.raises(ValueError, match=message):
        CodeRetrievalEvaluator(pairs, **options)
