"""Pairs are read as the trainer reads them, and come in batches as in training."""

import pytest
import torch
from conftest import DOCUMENTS, QUERIES
from datasets import Dataset
from sentence_transformers.util import cos_sim

from st_softinfonce import BM25Estimator, SelfEstimator
from st_softinfonce.pair_batches import PairTexts, batch_similarities

PAIRS = Dataset.from_dict({"query": QUERIES, "code": DOCUMENTS})


def test_texts_are_those_of_training(transformer_model):
    transformer_model.max_seq_length = 4
    assert PairTexts(PAIRS, model=transformer_model).column([0], "document").texts == ["def read"]
    texts = PairTexts(PAIRS, model=transformer_model, max_length=5)
    assert texts.column([0], "document").texts == ["def read path"]


def test_prompts_and_lengths_by_task_are_those_of_the_trainer(transformer_model):
    read = {"prompts": {"code": "find "}, "router_mapping": {"query": "query", "code": "document"}}
    texts = PairTexts(PAIRS, model=transformer_model, max_length={"query": 3, "document": 5}, **read)
    assert texts.column([0], "query").texts == ["read"]
    # The prompt takes up length, and is part of what the model reads.
    assert texts.column([0], "document").input_ids.shape == (1, 5)
    plain = PairTexts(PAIRS, model=transformer_model, max_length=5).column([0], "document")
    assert not torch.equal(texts.column([0], "document").input_ids, plain.input_ids)


def test_batches_come_in_random_order_and_begin_anew(static_model):
    texts = PairTexts(PAIRS, model=static_model)
    batches = list(batch_similarities(BM25Estimator(), texts, 4, batches=3, seed=0))
    seen = [row for rows, _ in batches[:2] for row in rows]
    assert sorted(seen) == list(range(8)) != seen
    assert batches[2][1].shape == (4, 4)
    assert batches[2][0] != batches[0][0]


def test_an_estimator_of_scores_is_given_the_models(transformer_model):
    transformer_model.train()
    texts = PairTexts(PAIRS, model=transformer_model)
    ((rows, similarity),) = batch_similarities(SelfEstimator(), texts, 8, batches=1, seed=0)
    assert transformer_model.training
    queries, documents = ([source[row] for row in rows] for source in (QUERIES, DOCUMENTS))
    expected = cos_sim(transformer_model.encode(queries), transformer_model.encode(documents))
    torch.testing.assert_close(similarity, expected, rtol=1e-4, atol=1e-5)


def test_the_first_two_columns_serve_without_the_usual_names(static_model):
    data = Dataset.from_dict({"question": QUERIES, "answer": DOCUMENTS, "other": DOCUMENTS})
    assert PairTexts(data, model=static_model).columns == ("question", "answer")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": {"answer": "x"}}, r"prompts must be by column, of \('query', 'code'\), got \['answer'\]"),
        ({"router_mapping": {"answer": "x"}}, "router_mapping must be by column"),
        ({"model": None}, "model must be the model to train, got NoneType"),
    ],
    ids=["prompts", "router_mapping", "model"],
)
def test_options_that_do_not_fit_are_refused(static_model, options, message):
    with pytest.raises(ValueError, match=message):
        PairTexts(PAIRS, **({"model": static_model} | options))
