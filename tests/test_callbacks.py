"""TreatmentStatisticsCallback against what the treatments do to the same batches outside the trainer."""

import pytest
import torch
from conftest import DOCUMENTS, NEGATIVES, QUERIES, ForbidWaiting, training_arguments
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback

from st_softinfonce import BM25Estimator, CachedSoftInfoNCELoss, Distill, Mask, Promote, SoftInfoNCELoss, TextColumn
from st_softinfonce.callbacks import TreatmentStatisticsCallback
from st_softinfonce.treatments import combine

NAMES = {
    "negatives_masked",
    "negatives_softened",
    "negatives_promoted",
    "negatives_target",
    "weight_mean",
    "effective_negatives",
}


class Sequential(SentenceTransformerTrainer):
    """Takes the rows in their order, so that the batches are known."""

    def get_batch_sampler(self, dataset, *args, **options):
        sampler = super().get_batch_sampler(dataset, *args, **options)
        sampler.sampler = SequentialSampler(dataset)
        return sampler


class Reporter(TrainerCallback):
    """What TensorBoard's and the others' callbacks do: take the logs as they come."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(dict(logs))


def make_trainer(model, folder, loss, dataset, callbacks=None, eval_dataset=None, cls=Sequential, **options):
    return cls(
        model=model,
        args=training_arguments(folder, **({"num_train_epochs": 1, "logging_steps": 2, "seed": 7} | options)),
        train_dataset=dataset,
        eval_dataset=eval_dataset,
        loss=loss,
        callbacks=callbacks,
    )


@pytest.fixture
def texts():
    """Four batches of eight, each with other neighbours."""
    order = torch.cat([torch.randperm(8, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]).tolist()
    queries = [QUERIES[(row + place // 8) % 8] if place % 3 else QUERIES[0] for place, row in enumerate(order)]
    return {"query": queries, "code": [DOCUMENTS[row] for row in order], "negative": [NEGATIVES[row] for row in order]}


@pytest.fixture
def pairs(texts):
    return Dataset.from_dict({"query": texts["query"], "code": texts["code"]})


def judged(treatments, tokenizer, queries):
    rows = BM25Estimator().represent(TextColumn.from_texts(queries, tokenizer))
    similarity = BM25Estimator().for_batch(rows).similarity(rows, rows)
    return combine([(treatments, similarity, None)], torch.arange(len(queries)))


def expected(batches):
    """The statistics of some batches of (log weights, targets), one number after the other."""
    counts = dict.fromkeys(("masked", "softened", "promoted", "negatives", "rows"), 0)
    weights_sum = effective = target_sum = 0.0
    for log_weights, targets in batches:
        size = len(targets if log_weights is None else log_weights)
        for i in range(size):
            own = []
            counts["rows"] += 1
            for j in range(size):
                if i == j:
                    continue
                weight = 1.0 if log_weights is None else float(log_weights[i, j].exp())
                target = 0.0 if targets is None else float(targets[i, j])
                own.append(weight)
                target_sum += target
                counts["negatives"] += 1
                counts["masked"] += weight == 0
                notable = targets is not None and target > 0.1 * float(targets[i, i])
                counts["promoted"] += notable and weight > 0
                counts["softened"] += 0 < weight < 0.9 and not notable
            weights_sum += sum(own)
            effective += sum(own) ** 2 / max(sum(value**2 for value in own), 1e-300)
    return {
        "negatives_masked": counts["masked"] / counts["negatives"],
        "negatives_softened": counts["softened"] / counts["negatives"],
        "negatives_promoted": counts["promoted"] / counts["negatives"],
        "negatives_target": target_sum / counts["rows"],
        "weight_mean": weights_sum / counts["negatives"],
        "effective_negatives": effective / counts["rows"],
    }


def logged(trainer, prefix=""):
    return [{name: entry[prefix + name] for name in NAMES} for entry in trainer.state.log_history if "loss" in entry]


OWN = (BM25Estimator().treatment,)
LOSSES = {
    "soften": (OWN, lambda model: SoftInfoNCELoss(model)),
    "cached": (OWN, lambda model: CachedSoftInfoNCELoss(model, mini_batch_size=3)),
    "mask": ((Mask(top_k=2),), lambda model: SoftInfoNCELoss(model, "bm25", Mask(top_k=2))),
    "promote": ((Promote(),), lambda model: SoftInfoNCELoss(model, "bm25", Promote())),
    "mask-and-distill": (
        (Mask(top_k=1), Distill(temperature=2.0)),
        lambda model: SoftInfoNCELoss(model, "bm25", [Mask(top_k=1), Distill(temperature=2.0)]),
    ),
    "matryoshka": (OWN, lambda model: MatryoshkaLoss(model, SoftInfoNCELoss(model), [16, 8])),
    "matryoshka-cached": (
        OWN,
        lambda model: MatryoshkaLoss(model, CachedSoftInfoNCELoss(model, mini_batch_size=3), [16, 8]),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_logged_statistics_are_those_of_the_treatments(name, transformer_model, tokenizer, pairs, texts, tmp_path):
    treatments, make = LOSSES[name]
    trainer = make_trainer(transformer_model, tmp_path, make(transformer_model), pairs)
    trainer.add_callback(TreatmentStatisticsCallback(trainer))
    trainer.train()
    batches = [judged(treatments, tokenizer, texts["query"][start : start + 8]) for start in range(0, 32, 8)]
    found = logged(trainer)
    assert len(found) == 2
    for entry, seen in zip(found, (batches[:2], batches[2:]), strict=True):
        assert entry == pytest.approx(expected(seen), rel=1e-5)
    assert found[0] != found[1] or name == "mask"  # of which top_k takes the same share of every batch
    if "mask" in name:
        assert found[0]["negatives_masked"] > 0
    if name in ("promote", "mask-and-distill"):
        assert found[0]["negatives_target"] > 0


def test_mined_negatives_that_cannot_be_judged_count_with_weight_1(static_model, texts, tmp_path):
    trainer = make_trainer(static_model, tmp_path, SoftInfoNCELoss(static_model), Dataset.from_dict(texts))
    plain = make_trainer(
        static_model, tmp_path, SoftInfoNCELoss(static_model), Dataset.from_dict(texts).remove_columns("negative")
    )
    for one in (trainer, plain):
        one.add_callback(TreatmentStatisticsCallback(one))
        one.train()
    for entry, pair_entry in zip(logged(trainer), logged(plain), strict=True):
        assert entry["weight_mean"] == pytest.approx((7 * pair_entry["weight_mean"] + 8) / 15)
        assert entry["negatives_softened"] == pytest.approx(7 * pair_entry["negatives_softened"] / 15)


@pytest.mark.parametrize("one_loss", [True, False], ids=["one-loss", "a-loss-each"])
def test_each_dataset_of_several_has_entries_of_its_own(static_model, tokenizer, texts, pairs, tmp_path, one_loss):
    other = Dataset.from_dict({"query": [*QUERIES] * 4, "code": [*DOCUMENTS] * 4})
    data = DatasetDict({"mixed": pairs, "plain": other})
    loss = SoftInfoNCELoss(static_model)
    losses = loss if one_loss else {"mixed": loss, "plain": SoftInfoNCELoss(static_model, "bm25", Mask(top_k=1))}
    trainer = make_trainer(static_model, tmp_path, losses, data, logging_steps=8, cls=SentenceTransformerTrainer)
    trainer.add_callback(TreatmentStatisticsCallback(trainer))
    trainer.train()
    (entry,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert {name for name in entry if name.startswith(("mixed_", "plain_"))} == {
        f"{dataset}_{name}" for dataset in data for name in NAMES
    }
    assert entry["plain_negatives_masked"] == pytest.approx(0 if one_loss else 1 / 7)
    assert entry["mixed_negatives_softened"] > 0
    assert entry["mixed_weight_mean"] != entry["plain_weight_mean"]


def test_reporters_before_and_after_see_the_statistics_and_evaluation_does_not_count(static_model, pairs, tmp_path):
    before, after = Reporter(), type("Later", (Reporter,), {})()
    evaluation = Dataset.from_dict({"query": ["read a file"] * 8, "code": DOCUMENTS})
    options = {"eval_dataset": evaluation, "eval_strategy": "steps", "eval_steps": 1}
    trainer = make_trainer(static_model, tmp_path, SoftInfoNCELoss, pairs, [before], **options)
    trainer.add_callback(TreatmentStatisticsCallback(trainer))
    trainer.add_callback(after)
    trainer.train()
    alone = make_trainer(static_model, tmp_path, SoftInfoNCELoss, pairs)
    alone.add_callback(TreatmentStatisticsCallback(alone))
    alone.train()
    for reporter in (before, after):
        entries = [entry for entry in reporter.logs if "loss" in entry]
        assert [{name: entry[name] for name in NAMES} for entry in entries] == logged(alone)
        others = [entry for entry in reporter.logs if "loss" not in entry]
        assert any("eval_loss" in entry for entry in others)
        assert not any(NAMES & set(entry) for entry in others)


def test_training_is_the_same_with_and_without(transformer_model, pairs, tmp_path):
    start = {key: value.clone() for key, value in transformer_model.state_dict().items()}
    ends, losses = [], []
    for with_callback in (False, True):
        transformer_model.load_state_dict(start)
        trainer = make_trainer(
            transformer_model, tmp_path, LOSSES["matryoshka-cached"][1](transformer_model), pairs, logging_steps=1
        )
        if with_callback:
            trainer.add_callback(TreatmentStatisticsCallback(trainer))
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        ends.append({key: value.clone() for key, value in transformer_model.state_dict().items()})
    assert losses[0] == losses[1]
    for key, value in ends[0].items():
        assert torch.equal(value, ends[1][key])
    assert any(not torch.equal(value, start[key]) for key, value in ends[0].items())


def test_watching_a_step_does_not_wait_for_the_device(static_model, pairs, tmp_path):
    class Forbidden(TreatmentStatisticsCallback):
        def _watch(self, loss, block):
            with ForbidWaiting():
                super()._watch(loss, block)

    trainer = make_trainer(static_model, tmp_path, SoftInfoNCELoss(static_model), pairs)
    trainer.add_callback(Forbidden(trainer))
    trainer.train()
    assert logged(trainer)


def test_a_trainer_without_treatments_is_refused(static_model, pairs, tmp_path):
    trainer = make_trainer(static_model, tmp_path, MultipleNegativesRankingLoss(static_model), pairs)
    with pytest.raises(ValueError, match=r"SoftInfoNCELoss.*got \['MultipleNegativesRankingLoss'\]"):
        TreatmentStatisticsCallback(trainer)


def test_a_loss_without_an_estimator_is_warned_of_and_logs_nothing(static_model, pairs, tmp_path):
    trainer = make_trainer(static_model, tmp_path, SoftInfoNCELoss(static_model, None), pairs)
    with pytest.warns(UserWarning, match="nothing to log: no estimator judges the negatives"):
        trainer.add_callback(TreatmentStatisticsCallback(trainer))
    trainer.train()
    assert not any(NAMES & set(entry) for entry in trainer.state.log_history)
