"""What model cards say of our losses, whatever they are wrapped in, and of MTEB results."""

import json
import re
from importlib.metadata import version

import mteb
import pytest
import torch
from conftest import DOCUMENTS, QUERIES, make_transformer_model, training_arguments
from datasets import Dataset, DatasetDict
from huggingface_hub import ModelCard
from mteb.results import ModelResult, TaskResult
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    SparseEncoder,
    SparseEncoderTrainer,
    SparseEncoderTrainingArguments,
)
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.losses import Matryoshka2dLoss
from sentence_transformers.sparse_encoder.modules import SpladePooling
from tiny_models import save_bert
from transformers import BertForMaskedLM

from st_softinfonce import CachedSoftInfoNCELoss, SoftInfoNCELoss, get_estimator
from st_softinfonce.estimators import MixtureEstimator
from st_softinfonce.losses import SoftSpladeLoss
from st_softinfonce.model_card import add_mteb_results, hide_training_texts
from st_softinfonce.posterior import RelevancePosterior
from st_softinfonce.tasks import task_from_pairs
from st_softinfonce.treatments import Discount, Distill, Mask, Soften, describe_treatments

OURS = f"st-softinfonce {version('st-softinfonce')}"
PAPER = "Rethinking Negative Pairs in Code Search"


@pytest.fixture
def pairs():
    return Dataset.from_dict({"query": QUERIES, "code": DOCUMENTS})


def train(
    model, dataset, loss, folder, trainer=SentenceTransformerTrainer, arguments=SentenceTransformerTrainingArguments
):
    """One step, then the card that is saved with the model."""
    trainer(
        model=model,
        args=training_arguments(folder / "checkpoints", arguments, max_steps=1),
        train_dataset=dataset,
        loss=loss,
    ).train()
    return saved_card(model, folder / "model")


def saved_card(model, folder):
    model.save_pretrained(str(folder))
    card = (folder / "README.md").read_text()
    for result in ModelCard(card).data.eval_results or []:  # what the Hub asks of them
        texts = (result.task_type, result.dataset_type, result.dataset_name, result.metric_type)
        assert all(isinstance(text, str) and text for text in texts)
        assert type(result.metric_value) in (int, float, str)
    return card


def settings(card):
    """The losses' settings, one for each training dataset."""
    blocks = re.findall(r"\* Loss: .*? with these parameters:\s+```json\s+(\{.*?\n  \})", card, re.DOTALL)
    return [json.loads(block) for block in blocks]


@pytest.mark.parametrize("name", ["bm25", "trained-model", "mixture"])
def test_the_card_names_the_estimator_with_its_version_and_options(name, static_model, pairs, bert_folder, tmp_path):
    parts = ["bm25", get_estimator("near-duplicate", compares="queries")]
    estimator = {
        "bm25": lambda: get_estimator("bm25", b=0.5),
        "trained-model": lambda: get_estimator("trained-model", model=make_transformer_model(bert_folder)),
        "mixture": lambda: MixtureEstimator(parts, temperatures=[1.0, 0.2]),
    }[name]()
    card = train(static_model, pairs, SoftInfoNCELoss(static_model, estimator), tmp_path)
    (found,) = settings(card)
    assert found["estimator"] == name
    assert found["estimator_version"] == OURS
    assert found["estimator_options"] == estimator.get_config_dict() != {}
    assert found["treatment"] == describe_treatments([estimator.treatment])
    for text in ("st_softinfonce.losses.soft_info_nce.SoftInfoNCELoss", PAPER, f"* Size: {len(QUERIES)} training"):
        assert text in card
    assert " object at 0x" not in card
    assert str(tmp_path) not in card
    if name == "mixture":
        assert [part["estimator_version"] for part in found["estimator_options"]["estimators"]] == [OURS, OURS]


POSTERIOR = RelevancePosterior(knots=(0.5, 1.0), log_ratios=(-9.0, 10.0), prior=0.01)


@pytest.mark.parametrize(
    "treatment",
    [Discount(POSTERIOR), [Mask(top_k=1), Distill(share=0.25)]],
    ids=["with-a-posterior", "two"],
)
def test_the_card_says_what_follows_from_the_estimator(treatment, transformer_model, pairs, tmp_path):
    loss = CachedSoftInfoNCELoss(transformer_model, "bm25", treatment)
    card = train(transformer_model, pairs, loss, tmp_path)
    (found,) = settings(card)
    assert found == json.loads(json.dumps(loss.get_config_dict()))
    several = treatment if isinstance(treatment, list) else [treatment]
    assert found["treatment"] == json.loads(json.dumps(describe_treatments(several)))
    assert found["estimator_version"] == OURS
    assert "CachedSoftInfoNCELoss</code>" in card
    assert "loss:CachedSoftInfoNCELoss" in card
    assert "#### CachedSoftInfoNCELoss\n```bibtex" in card
    assert " object at 0x" not in card


def test_the_card_of_a_wrapper_loss_is_what_the_host_writes(transformer_model, pairs, tmp_path):
    loss = Matryoshka2dLoss(transformer_model, SoftInfoNCELoss(transformer_model), [16, 8])
    card = train(transformer_model, pairs, loss, tmp_path)
    assert settings(card) == [json.loads(json.dumps(loss.get_config_dict()))]
    assert "SoftInfoNCELoss" in card


def test_the_card_of_a_sparse_wrapper_loss_has_the_inner_losses_settings(pairs, tmp_path):
    bert = save_bert(tmp_path / "bert", BertForMaskedLM, mask_token=True)
    transformer = Transformer(bert, transformer_task="fill-mask")
    model = SparseEncoder(modules=[transformer, SpladePooling()], device="cpu")
    loss = SoftInfoNCELoss.paper(model)
    wrapper = SoftSpladeLoss(model, loss, document_regularizer_weight=0.1)
    card = train(model, pairs, wrapper, tmp_path, SparseEncoderTrainer, SparseEncoderTrainingArguments)
    (found,) = settings(card)
    assert found["document_regularizer_weight"] == 0.1
    assert found["loss"] == "SoftInfoNCELoss"
    assert found["SoftInfoNCELoss"] == json.loads(json.dumps(loss.get_config_dict()))


def test_losses_of_several_datasets_keep_their_own_settings(static_model, pairs, tmp_path):
    losses = {
        "one": SoftInfoNCELoss(static_model, "bm25", Soften(1.0, 1.0, 3.0)),
        "two": SoftInfoNCELoss(static_model, "self"),
    }
    SentenceTransformerTrainer(
        model=static_model,
        args=training_arguments(tmp_path / "checkpoints", num_train_epochs=1),
        # Two objects, as the host marks the object with its name.
        train_dataset=DatasetDict({"one": pairs, "two": pairs.select(range(len(pairs)))}),
        loss=losses,
    ).train()
    expected = [json.loads(json.dumps(loss.get_config_dict())) for loss in losses.values()]
    assert settings(saved_card(static_model, tmp_path / "model")) == expected


# MTEB results


@pytest.fixture
def tasks(pairs):
    languages = pairs.add_column("language", ["python"] * 4 + ["go"] * 4)
    return [task_from_pairs(languages, name="MyCode"), task_from_pairs(pairs, name="Other")]


def evaluate(model, tasks):
    return mteb.evaluate(model, tasks=tasks, cache=None, co2_tracker=False, show_progress_bar=False)


def change(model):
    """As training would, but more of it."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))


def expected_results(after, before, metrics=("mrr_at_1000", "ndcg_at_10", "recall_at_10")):
    """(dataset, metric) to value, read off MTEB's own structure."""
    expected = {}
    for result, suffix in ((after, ""), (before, "_before_fine_tuning")):
        for task in result.task_results:
            for scores in task.scores["test"]:
                subset = f" ({scores['hf_subset']})" if scores["hf_subset"] != "default" else ""
                for metric in metrics:
                    expected[f"{task.task_name}{subset}", metric + suffix] = scores[metric]
    return expected


def found_results(card):
    return {
        (result.dataset_type, result.metric_type): result.metric_value for result in ModelCard(card).data.eval_results
    }


def test_results_before_and_after_are_in_the_metadata_and_in_a_table(static_model, pairs, tasks, tmp_path):
    before = evaluate(static_model, tasks)
    train(static_model, pairs, SoftInfoNCELoss(static_model), tmp_path)
    change(static_model)
    after = evaluate(static_model, tasks)
    add_mteb_results(static_model, after, before)
    card = saved_card(static_model, tmp_path / "evaluated")
    expected = expected_results(after, before)
    assert len(expected) == 3 * 2 * 3  # subsets, moments, metrics
    assert found_results(card) == expected
    values = {
        moment: {v for (_, name), v in expected.items() if name.endswith("tuning") == moment} for moment in (0, 1)
    }
    assert values[0] != values[1]
    assert all(result.task_type == "retrieval" for result in ModelCard(card).data.eval_results)
    for task in after.task_results:
        assert f'"revision": "{task.dataset_revision}"' in card
        names = [f"{task.task_name} ({language})" for language in ("python", "go")]
        columns = names if task.task_name.startswith("MyCode") else [task.task_name]
        row = " *\\| *".join(
            re.escape(str(round(expected[name, "mrr_at_1000_before_fine_tuning"], 4))) for name in columns
        )
        assert re.search(rf"^\| mrr_at_1000_before_fine_tuning *\| *{row} *\|$", card, re.MULTILINE)


def test_adding_results_again_replaces_them(static_model, pairs, tasks, tmp_path):
    train(static_model, pairs, SoftInfoNCELoss(static_model), tmp_path)
    first = evaluate(static_model, tasks)
    change(static_model)
    second = evaluate(static_model, tasks)
    add_mteb_results(static_model, first)
    add_mteb_results(static_model, second, first)
    assert found_results(saved_card(static_model, tmp_path / "again")) == expected_results(second, first)


def test_results_of_a_loaded_model_join_the_card_that_it_came_with(static_model, pairs, tasks, tmp_path):
    original = train(static_model, pairs, SoftInfoNCELoss(static_model), tmp_path)
    loaded = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    before = evaluate(loaded, tasks)
    change(loaded)
    after = evaluate(loaded, tasks)
    add_mteb_results(loaded, before)
    add_mteb_results(loaded, after, before)
    card = saved_card(loaded, tmp_path / "evaluated")
    assert found_results(card) == expected_results(after, before)
    assert card.count("## MTEB results") == 1
    assert re.search(r"^\| mrr_at_1000_before_fine_tuning *\|", card, re.MULTILINE)
    assert settings(card) == settings(original) != []
    # Nothing of the card is lost.
    body = original.split("---\n", 2)[2]
    assert [line for line in body.splitlines() if line not in card.splitlines()] == []


def loaded_with_card(model, folder, card):
    model.save_pretrained(str(folder))
    (folder / "README.md").write_text(card)
    return SentenceTransformer(str(folder), device="cpu")


def mine(score):
    return model_result(task_result("Mine", {"main_score": score, "mrr_at_1000": score}))


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [("accuracy", ["accuracy"]), ("[accuracy, f1]", ["accuracy", "f1"]), ("", [])],
    ids=["name", "list", "none"],
)
def test_a_loaded_cards_own_results_and_metrics_stay_beside_the_new_ones(static_model, tmp_path, metrics, expected):
    head = f"---\nlicense: mit\nmetrics: {metrics}\nmodel-index:\n- name: other\n  results:\n" + (
        "  - task: {type: sts}\n    dataset: {name: Theirs, type: theirs, config: en}\n"
        "    metrics:\n    - {type: spearman, value: 0.25}\n---\n"
    )
    loaded = loaded_with_card(static_model, tmp_path / "model", f"{head}\n# Theirs\n\nA text.\n")
    add_mteb_results(loaded, mine(0.5))
    card = saved_card(loaded, tmp_path / "evaluated")
    assert found_results(card) == {("theirs", "spearman"): 0.25, ("Mine", "mrr_at_1000"): 0.5}
    assert ModelCard(card).data.license == "mit"
    assert ModelCard(card).data.metrics == [*expected, "mrr_at_1000"]
    assert "# Theirs\n\nA text.\n\n## MTEB results\n" in card


def test_a_loaded_cards_own_sections_stay_when_results_are_added_again(static_model, tmp_path):
    theirs = "# Theirs\n\n## MTEB results\n\nBy hand.\n\n# Citation\n\nA paper.\n\n## Licence\n\nMIT.\n"
    mark = "<!-- st-softinfonce: MTEB results -->"  # whose other one is lost
    card = f"{theirs}\n{mark}\n\nA text.\n"
    for score in (0.5, 0.25):
        loaded = loaded_with_card(static_model, tmp_path / "model", card)
        add_mteb_results(loaded, mine(score))
        card = saved_card(loaded, tmp_path / "model")
    assert theirs.rstrip("\n") in card
    assert "A text." in card
    assert (card.count("### "), card.count(mark)) == (1, 2)
    assert re.findall(r"mrr_at_1000\W+([\d.]+)", card.split("A text.")[1]) == ["0.25"]


def test_results_of_a_task_without_the_metrics_are_its_main_score(static_model):
    result = model_result(task_result("STSBenchmark", {"main_score": 0.5}))
    add_mteb_results(static_model, result, result)
    (evaluation,) = static_model.model_card_data.format_eval_metrics()["model-index"][0]["results"]
    assert evaluation["task"] == {"type": "sts", "name": "STS"}
    assert [metric["type"] for metric in evaluation["metrics"]] == ["main_score", "main_score_before_fine_tuning"]


def task_result(name, scores, revision="1", split="test", subset="default"):
    return TaskResult(
        task_name=name,
        dataset_revision=revision,
        mteb_version="2",
        evaluation_time=1.0,
        scores={split: [{"hf_subset": subset, "languages": ["eng-Latn"], **scores}]},
    )


def model_result(*results):
    return ModelResult(model_name="m", model_revision="1", task_results=list(results))


@pytest.mark.parametrize(
    ("after", "before", "message"),
    [
        ([], [], "after holds no scores"),
        ([("a", "1", "test", "default")], [], "before holds no scores"),
        ([("a", "1", "test", "go")], [("a", "1", "test", "php")], r"before has no results for \['a \(go\)'\]"),
        ([("a", "1", "dev", "default")], [("a", "1", "test", "default")], r"no results for \['a \(dev\)'\]"),
        ([("a", "1", "test", "default")], [("a", "2", "test", "default")], r"another revision of \['a'\]"),
    ],
    ids=["nothing", "nothing-before", "subset", "split", "revision"],
)
def test_results_that_cannot_be_compared_are_refused(static_model, after, before, message):
    def results(rows):
        return model_result(
            *(
                task_result(name, {"main_score": 0.5}, revision, split, subset)
                for name, revision, split, subset in rows
            )
        )

    with pytest.raises(ValueError, match=message):
        add_mteb_results(static_model, results(after), results(before))
    assert static_model.model_card_data.eval_results_dict == {}


@pytest.mark.parametrize("hide", [True, False])
def test_hidden_training_texts_are_nowhere_in_the_card_and_their_counts_stay(static_model, pairs, tmp_path, hide):
    train(static_model, pairs, SoftInfoNCELoss(static_model, "bm25"), tmp_path)
    if hide:
        hide_training_texts(static_model)
    card = saved_card(static_model, tmp_path / "shown")
    shown = [text for text in (*QUERIES, *DOCUMENTS) if text in card]
    assert not shown if hide else len(shown) >= 4
    assert "Size: 8 training samples" in card
    assert '"estimator": "bm25"' in card
