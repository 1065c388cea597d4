"""SoftInfoNCELoss in the standard trainer: train, evaluate, resume, save, and what the model card says."""

import json
import re

import pytest
import torch
from conftest import DOCUMENTS, NEGATIVES, QUERIES
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from st_softinfonce import SoftInfoNCELoss
from st_softinfonce.losses import InputWarning
from st_softinfonce.treatments import Soften


@pytest.fixture
def pairs():
    return Dataset.from_dict({"query": QUERIES * 4, "code": DOCUMENTS * 4})


@pytest.fixture
def triplets():
    return Dataset.from_dict({"query": QUERIES * 4, "code": DOCUMENTS * 4, "negative": NEGATIVES * 4})


def arguments(folder, **options):
    defaults = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "num_train_epochs": 1,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 7,
    }
    return SentenceTransformerTrainingArguments(**(defaults | options))


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


@pytest.mark.parametrize("dataset", ["pairs", "triplets"])
def test_training_lowers_the_loss_and_evaluation_reports_it(model, dataset, request, tmp_path):
    data = request.getfixturevalue(dataset)
    training = trainer(
        model, tmp_path, data, SoftInfoNCELoss(model), eval_dataset=data, num_train_epochs=4, eval_strategy="epoch"
    )
    training.train()
    evaluations = [entry["eval_loss"] for entry in training.state.log_history if "eval_loss" in entry]
    assert len(evaluations) == 4
    assert evaluations[-1] < evaluations[0]
    assert losses_of(training)[-1] < losses_of(training)[0]


def test_the_loss_class_itself_can_be_given(static_model, pairs, tmp_path):
    training = trainer(static_model, tmp_path, pairs, SoftInfoNCELoss)
    training.train()
    assert len(losses_of(training)) == 4
    assert isinstance(training.loss, SoftInfoNCELoss)


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


def test_the_saved_model_loads_without_this_package_and_gives_the_same_vectors(static_model, pairs, tmp_path):
    training = trainer(static_model, tmp_path, pairs)
    training.train()
    static_model.save_pretrained(str(tmp_path / "final"))
    assert "softinfonce" not in "".join(path.read_text() for path in (tmp_path / "final").rglob("*.json"))
    loaded = SentenceTransformer(str(tmp_path / "final"), device="cpu")
    torch.testing.assert_close(
        loaded.encode(QUERIES, convert_to_tensor=True), static_model.encode(QUERIES, convert_to_tensor=True)
    )


def test_the_model_card_names_the_loss_its_parameters_and_the_paper(static_model, pairs, tmp_path):
    training = trainer(
        static_model, tmp_path, pairs, SoftInfoNCELoss(static_model, "bm25", Soften(1.5, 0.5, 1.0, min_weight=0.25))
    )
    training.train()
    static_model.save_pretrained(str(tmp_path / "final"))
    card = (tmp_path / "final" / "README.md").read_text()
    assert "SoftInfoNCELoss</code>" in card
    assert "Rethinking Negative Pairs in Code Search" in card
    assert "loss:SoftInfoNCELoss" in card
    parameters = json.loads(re.search(r"with these parameters:\s+```json\s+(\{.*?\n  \})", card, re.DOTALL).group(1))
    assert parameters["estimator"] == "bm25"
    assert parameters["estimator_options"] == {
        "k1": 1.2,
        "b": 0.75,
        "compares": "queries",
        "statistics": "batch",
        "tokens": "content",
    }
    assert parameters["treatment"] == {
        "treatment": "Soften",
        "alpha": 1.5,
        "beta": 0.5,
        "temperature": 1.0,
        "min_weight": 0.25,
    }
    assert " object at 0x" not in card


def test_prompts_and_gradient_accumulation_train(transformer_model, triplets, tmp_path):
    training = trainer(
        transformer_model,
        tmp_path,
        triplets,
        prompts={"query": "find the ", "code": "def "},
        gradient_accumulation_steps=2,
    )
    training.train()
    assert training.state.global_step == 2
    assert losses_of(training)[1] < losses_of(training)[0]


def test_a_label_column_is_ignored_with_one_warning(static_model, pairs, tmp_path):
    labelled = pairs.add_column("label", [1.0] * len(pairs))
    training = trainer(static_model, tmp_path, labelled)
    with pytest.warns(InputWarning, match="label column") as record:
        training.train()
    assert sum(issubclass(warning.category, InputWarning) for warning in record) == 1


def test_one_column_is_refused_at_the_first_batch(static_model, pairs, tmp_path):
    training = trainer(static_model, tmp_path, pairs.remove_columns("code"))
    with pytest.raises(ValueError, match="at least 2 columns, query and positive, got 1"):
        training.train()
    assert training.state.global_step == 0


def test_an_empty_dataset_is_refused(static_model, pairs, tmp_path):
    with pytest.raises(ValueError, match="num_samples=0"):
        trainer(static_model, tmp_path, pairs.select([])).train()


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
