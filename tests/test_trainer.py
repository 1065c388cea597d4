"""SoftInfoNCELoss in the standard trainer: train, evaluate and resume."""

import pytest
import torch
from conftest import DOCUMENTS, NEGATIVES, QUERIES, training_arguments
from datasets import Dataset
from sentence_transformers import SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from st_softinfonce import SoftInfoNCELoss
from st_softinfonce.losses import InputWarning


@pytest.fixture
def pairs():
    return Dataset.from_dict({"query": QUERIES * 4, "code": DOCUMENTS * 4})


@pytest.fixture
def triplets():
    return Dataset.from_dict({"query": QUERIES * 4, "code": DOCUMENTS * 4, "negative": NEGATIVES * 4})


def arguments(folder, **options):
    defaults = {"per_device_eval_batch_size": 8, "num_train_epochs": 1, "logging_steps": 1, "seed": 7}
    return training_arguments(folder, **(defaults | options))


def trainer(model, folder, dataset, loss=SoftInfoNCELoss, eval_dataset=None, **options):
    return SentenceTransformerTrainer(
        model=model,
        args=arguments(folder, **options),
        train_dataset=dataset,
        eval_dataset=eval_dataset,
        loss=loss,
    )


def losses_of(trained):
    return [entry["loss"] for entry in trained.state.log_history if "loss" in entry]


@pytest.mark.parametrize(("kind", "dataset"), [("static", "pairs"), ("transformer", "triplets")])
def test_training_lowers_the_loss_and_evaluation_reports_it(kind, dataset, request, tmp_path):
    model, data = request.getfixturevalue(f"{kind}_model"), request.getfixturevalue(dataset)
    training = trainer(
        model, tmp_path, data, SoftInfoNCELoss(model), eval_dataset=data, num_train_epochs=4, eval_strategy="epoch"
    )
    training.train()
    evaluations = [entry["eval_loss"] for entry in training.state.log_history if "eval_loss" in entry]
    assert len(evaluations) == 4
    assert evaluations[-1] < evaluations[0]
    assert losses_of(training)[-1] < losses_of(training)[0]


def test_without_weights_every_step_is_the_hosts(static_model, triplets, tmp_path, word_tokenizer):
    start = {name: value.clone() for name, value in static_model.state_dict().items()}
    ours = trainer(static_model, tmp_path / "ours", triplets, SoftInfoNCELoss(static_model, None))
    ours.train()
    trained = {name: value.clone() for name, value in static_model.state_dict().items()}
    static_model.load_state_dict(start)
    host = trainer(static_model, tmp_path / "host", triplets, MultipleNegativesRankingLoss(static_model))
    host.train()
    assert losses_of(ours) == pytest.approx(losses_of(host), rel=1e-6)
    for name, value in static_model.state_dict().items():
        torch.testing.assert_close(trained[name], value)
        assert not torch.equal(trained[name], start[name])


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(static_model, pairs, tmp_path):
    start = {name: value.clone() for name, value in static_model.state_dict().items()}
    options = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 3}
    whole = trainer(static_model, tmp_path, pairs, SoftInfoNCELoss(static_model), **options)
    whole.train()
    expected = {name: value.clone() for name, value in static_model.state_dict().items()}

    static_model.load_state_dict(start)
    resumed = trainer(static_model, tmp_path, pairs, SoftInfoNCELoss(static_model), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert losses_of(resumed) == losses_of(whole)
    for name, value in static_model.state_dict().items():
        assert torch.equal(value, expected[name])


def test_metadata_columns_that_train_as_negatives_are_named_once(static_model, pairs, tmp_path):
    mined = pairs.add_column("path", ["a.py"] * len(pairs)).add_column("license", ["mit"] * len(pairs))
    training = trainer(static_model, tmp_path, mined, SoftInfoNCELoss(static_model, None))
    with pytest.warns(InputWarning, match=r"\['path', 'license'\] train as hard negatives.*select_columns") as record:
        training.train()
    assert sum("train as hard negatives" in str(warning.message) for warning in record) == 1


def test_training_and_evaluation_change_nothing_of_what_the_loss_is(static_model, pairs, tmp_path):
    loss = SoftInfoNCELoss(static_model, treatments=[("bm25", None), ("self", None)])
    before = loss.get_config_dict()
    options = {"eval_strategy": "epoch", "eval_on_start": True}
    trainer(static_model, tmp_path, pairs, loss, eval_dataset=pairs, **options).train()
    assert loss.get_config_dict() == before
