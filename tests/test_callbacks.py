"""WeightStatisticsCallback against the weights made again outside the trainer."""

import math

import pytest
import torch
from conftest import DOCUMENTS, NEGATIVES, QUERIES
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback

from st_softinfonce import BM25Estimator, CachedSoftInfoNCELoss, SoftInfoNCELoss, TextColumn
from st_softinfonce.callbacks import WeightStatisticsCallback
from st_softinfonce.functional import RelevancePosterior, negative_weights, posterior_weights

NAMES = {"weight_mean", "weight_min", "weight_share_at_floor", "weight_share_below_0.9", "effective_negatives"}
POSTERIOR = RelevancePosterior(knots=(0.1, 0.9), log_ratios=(-1.0, 5.0), prior=0.2, relative=True)
PARAMETERS = {"alpha": 1.5, "beta": 0.5, "temperature": 1.0}


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
    defaults = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "num_train_epochs": 1,
        "learning_rate": 1e-2,
        "logging_steps": 2,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 7,
    }
    return cls(
        model=model,
        args=SentenceTransformerTrainingArguments(**(defaults | options)),
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


def similarities(estimator, tokenizer, queries):
    rows = estimator.represent(TextColumn.from_texts(queries, tokenizer))
    return estimator.for_batch(rows).similarity(rows, rows)


def expected(batches, floor):
    """The statistics of some batches of weights, one number after the other."""
    negatives, effective = [], []
    for weights in batches:
        for row, values in enumerate(weights.tolist()):
            own = [value for column, value in enumerate(values) if column != row]
            negatives += own
            effective.append(sum(own) ** 2 / sum(value**2 for value in own))
    return {
        "weight_mean": sum(negatives) / len(negatives),
        "weight_min": min(negatives),
        "weight_share_at_floor": sum(math.isclose(value, floor, rel_tol=1e-5) for value in negatives) / len(negatives),
        "weight_share_below_0.9": sum(value < 0.9 for value in negatives) / len(negatives),
        "effective_negatives": sum(effective) / len(effective),
    }


def logged(trainer):
    return [{name: entry[name] for name in NAMES} for entry in trainer.state.log_history if "loss" in entry]


LOSSES = {
    "plain": lambda model: SoftInfoNCELoss(model),
    "cached": lambda model: CachedSoftInfoNCELoss(model, mini_batch_size=3),
    "posterior": lambda model: SoftInfoNCELoss(model, weighting="posterior", posterior=POSTERIOR, min_weight=0.2),
    "matryoshka": lambda model: MatryoshkaLoss(model, SoftInfoNCELoss(model), [16, 8]),
    "matryoshka-cached": lambda model: MatryoshkaLoss(model, CachedSoftInfoNCELoss(model, mini_batch_size=3), [16, 8]),
}


@pytest.mark.parametrize("name", LOSSES)
def test_logged_statistics_are_those_of_the_weights(name, transformer_model, tokenizer, pairs, texts, tmp_path):
    trainer = make_trainer(transformer_model, tmp_path, LOSSES[name](transformer_model), pairs)
    trainer.add_callback(WeightStatisticsCallback(trainer))
    trainer.train()

    batches = []
    for start in range(0, 32, 8):
        similarity = similarities(BM25Estimator(), tokenizer, texts["query"][start : start + 8])
        batches.append(
            posterior_weights(similarity, posterior=POSTERIOR, min_weight=0.2)
            if name == "posterior"
            else negative_weights(similarity, **PARAMETERS, min_weight=0.1)
        )
    floor = 0.2 if name == "posterior" else 0.1
    found = logged(trainer)
    assert len(found) == 2
    for entry, seen in zip(found, (batches[:2], batches[2:]), strict=True):
        oracle = expected(seen, floor)
        assert entry == pytest.approx(oracle, rel=1e-5)
        assert 0 < oracle["weight_share_at_floor"] < oracle["weight_share_below_0.9"] <= 1
        assert oracle["effective_negatives"] < 6.99
    assert found[0] != found[1]


def test_explicit_negatives_without_a_query_count_with_weight_1(static_model, texts, tmp_path):
    trainer = make_trainer(static_model, tmp_path, SoftInfoNCELoss(static_model), Dataset.from_dict(texts))
    plain = make_trainer(
        static_model, tmp_path, SoftInfoNCELoss(static_model), Dataset.from_dict(texts).remove_columns("negative")
    )
    for one in (trainer, plain):
        one.add_callback(WeightStatisticsCallback(one))
        one.train()
    for entry, pair_entry in zip(logged(trainer), logged(plain), strict=True):
        assert entry["weight_mean"] == pytest.approx((7 * pair_entry["weight_mean"] + 8) / 15)
        assert entry["weight_share_at_floor"] == pytest.approx(7 * pair_entry["weight_share_at_floor"] / 15)


def test_the_losses_of_several_datasets_count_together(static_model, pairs, tmp_path):
    losses = {
        "one": SoftInfoNCELoss(static_model, min_weight=0.3, directions=("query_to_doc", "doc_to_query")),
        "two": SoftInfoNCELoss(static_model, min_weight=0.2),
        "other": MultipleNegativesRankingLoss(static_model),
    }
    # Copies, as the host keeps a dataset's name on the object.
    data = DatasetDict({name: Dataset.from_dict(pairs.to_dict()) for name in losses})
    trainer = make_trainer(static_model, tmp_path, losses, data, logging_steps=12, cls=SentenceTransformerTrainer)
    trainer.add_callback(WeightStatisticsCallback(trainer))
    seen = {name: [] for name in ("one", "two")}

    class Spy(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            for name, kept in seen.items():
                observe = losses[name].observer

                def spy(weights, positives, observe=observe, kept=kept):
                    kept.append(weights)
                    observe(weights, positives)

                losses[name].observer = spy

    trainer.add_callback(Spy())
    trainer.train()
    (entry,) = logged(trainer)
    one, two = expected(seen["one"], 0.3), expected(seen["two"], 0.2)
    assert (len(seen["one"]), len(seen["two"])) == (8, 4)  # four batches, the first loss's in two directions
    for name in NAMES - {"weight_min"}:
        assert entry[name] == pytest.approx((2 * one[name] + two[name]) / 3, rel=1e-5)
    assert entry["weight_min"] == pytest.approx(0.2)
    assert losses["one"].observer is losses["two"].observer is None


def test_reporters_before_and_after_see_the_statistics_and_evaluation_does_not_count(static_model, pairs, tmp_path):
    before, after = Reporter(), Reporter()
    evaluation = Dataset.from_dict({"query": ["read a file"] * 8, "code": DOCUMENTS})
    trainer = make_trainer(
        static_model,
        tmp_path,
        SoftInfoNCELoss,
        pairs,
        [before],
        eval_dataset=evaluation,
        eval_strategy="steps",
        eval_steps=1,
        logging_steps=2,
    )
    trainer.add_callback(WeightStatisticsCallback(trainer))

    class Later(Reporter):
        pass

    after = Later()
    trainer.add_callback(after)
    trainer.train()
    alone = make_trainer(static_model, tmp_path, SoftInfoNCELoss, pairs)
    alone.add_callback(WeightStatisticsCallback(alone))
    alone.train()
    for reporter in (before, after):
        entries = [entry for entry in reporter.logs if "loss" in entry]
        assert [{name: entry[name] for name in NAMES} for entry in entries] == logged(alone)
        others = [entry for entry in reporter.logs if "loss" not in entry]
        assert any("eval_loss" in entry for entry in others)
        assert not any(NAMES & set(entry) for entry in others)


@pytest.mark.parametrize("name", ["plain", "matryoshka-cached"])
def test_training_is_the_same_with_and_without(name, transformer_model, pairs, tmp_path):
    start = {key: value.clone() for key, value in transformer_model.state_dict().items()}
    ends, losses = [], []
    for with_callback in (False, True):
        transformer_model.load_state_dict(start)
        trainer = make_trainer(transformer_model, tmp_path, LOSSES[name](transformer_model), pairs, logging_steps=1)
        if with_callback:
            trainer.add_callback(WeightStatisticsCallback(trainer))
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        ends.append({key: value.clone() for key, value in transformer_model.state_dict().items()})
    assert losses[0] == losses[1]
    for key, value in ends[0].items():
        assert torch.equal(value, ends[1][key])
    assert any(not torch.equal(value, start[key]) for key, value in ends[0].items())


class Reads(TorchDispatchMode):
    """Counts what would make the host wait for a device: values that become Python numbers or sizes."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.name() in ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero")
        return function(*args, **(kwargs or {}))


def test_observing_a_step_reads_nothing_from_the_device(static_model, pairs, tmp_path):
    loss = SoftInfoNCELoss(static_model)
    trainer = make_trainer(static_model, tmp_path, loss, pairs)
    callback = WeightStatisticsCallback(trainer)
    callback.on_train_begin(trainer.args, trainer.state, trainer.control)
    static_model.train()
    weights = torch.rand(4, 6)
    with Reads() as reads:
        loss.observer(weights, torch.arange(4))
        assert reads.count == 0
        logs = {"loss": 1.0}
        callback.on_log(trainer.args, trainer.state, trainer.control, logs=logs)
        assert reads.count > 0
    assert set(logs) == NAMES | {"loss"}
    callback.on_train_end(trainer.args, trainer.state, trainer.control)
    assert loss.observer is None


def test_a_row_of_zeros_has_no_effective_negatives(static_model, pairs, tmp_path):
    posterior = RelevancePosterior(knots=(0.0, 1.0), log_ratios=(50.0, 50.0), prior=0.5)
    loss = SoftInfoNCELoss(static_model, weighting="posterior", posterior=posterior, min_weight=0)
    trainer = make_trainer(static_model, tmp_path, loss, pairs, logging_steps=4)
    trainer.add_callback(WeightStatisticsCallback(trainer))
    trainer.train()
    (entry,) = logged(trainer)
    assert (entry["weight_mean"], entry["weight_share_at_floor"], entry["effective_negatives"]) == (0, 1, 0)


def test_a_trainer_without_weights_is_refused(static_model, pairs, tmp_path):
    trainer = make_trainer(static_model, tmp_path, MultipleNegativesRankingLoss(static_model), pairs)
    with pytest.raises(ValueError, match=r"SoftInfoNCELoss.*got \['MultipleNegativesRankingLoss'\]"):
        WeightStatisticsCallback(trainer)


def test_alpha_0_is_warned_of_and_logs_nothing(static_model, pairs, tmp_path):
    trainer = make_trainer(static_model, tmp_path, SoftInfoNCELoss(static_model, alpha=0), pairs)
    with pytest.warns(UserWarning, match="nothing to log with alpha=0"):
        trainer.add_callback(WeightStatisticsCallback(trainer))
    trainer.train()
    assert not any(NAMES & set(entry) for entry in trainer.state.log_history)
