"""The paper's table in one command, on tiny trees of CodeSearchNet and tiny random weights."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from code_search_net_trees import prepared_row, write_jsonl
from sentence_transformers import SentenceTransformerTrainer
from tiny_models import save_bert, save_roberta

from st_softinfonce import CachedSoftInfoNCELoss, SoftInfoNCELoss
from st_softinfonce.data import load_code_search_net

EXAMPLE = Path(__file__).parent.parent / "examples" / "backbones"
VERBS, NOUNS = "read write sort count send".split(), "file list number socket lines bytes data".split()
PAIRS = [
    (f"{VERBS[n % 5]} the {NOUNS[n % 7]} of {NOUNS[n // 7]}", f"def {VERBS[n % 5]} {NOUNS[n % 7]}") for n in range(30)
]

pytestmark = [
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning"),
    pytest.mark.filterwarnings("ignore::st_softinfonce.functional.SmallBatchWarning"),
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The folders that the command is given: data of one language, and weights."""
    folder = tmp_path_factory.mktemp("paper")
    rows = [prepared_row("ruby", number, *pair) for number, pair in enumerate(PAIRS)]
    for name, part in {"train": rows[20:], "valid": rows[8:12], "test": rows[:8], "codebase": rows[:20]}.items():
        write_jsonl(folder / "data" / "ruby" / f"{name}.jsonl", part)
    lines = [text for pair in PAIRS for text in pair]
    save_roberta(folder / "roberta", lines)
    save_roberta(folder / "unixcoder", lines, ["<encoder-only>"])
    save_bert(folder / "bert", hidden_dropout_prob=0.1)
    return folder


@pytest.fixture
def command(sources, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    places = ["--data", sources / "data", "--simcse-base", sources / "bert", "--output", tmp_path]
    small = ["--epochs", 2, "--batch-size", 4, "--learning-rate", "1e-3", "--seeds", 1]

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["paper.py", *map(str, [*places, *small, *options])])
        runpy.run_path(str(EXAMPLE / "paper.py"), run_name="__main__")
        return tmp_path

    return run


def test_all_losses_become_the_papers_table(command, sources, capsys):
    models = ["--models", f"codebert={sources / 'roberta'}"]
    output = command(*models, "--languages", "ruby")
    printed = capsys.readouterr().out
    assert f"CodeSearchNet: the folder {sources / 'data'}" in printed
    assert "4 runs, 4 left" in printed
    scores = {}
    for loss in ("infonce", "bm25", "trained-model", "simcse"):
        result = json.loads((output / "codebert" / "ruby" / f"{loss}-1" / "result.json").read_text())
        scores[loss] = f"{result['test_mrr']:.3f}".removeprefix("0")
    assert len(set(scores.values())) > 1
    assert (output / "table.md").read_text().splitlines() == [
        "| model | loss, estimator | Ruby |",
        "| --- | --- | --- |",
        f"| CodeBERT | InfoNCE | {scores['infonce']} |",
        f"|  | Soft, BM25 | {scores['bm25']} |",
        f"|  | Soft, trained model | {scores['trained-model']} |",
        f"|  | Soft, SimCSE | {scores['simcse']} |",
        "",
        "MRR of the test queries among all candidates, mean over the seeds 1.",
    ]
    # The teacher stays; everything else that is large goes.
    assert [path.parent.name for path in output.glob("codebert/ruby/*/model")] == ["infonce-1"]
    assert not list(output.rglob("checkpoint*"))

    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    command(*models, "--languages", "ruby", "go", "--seeds", 1, 2, "--list")
    printed = capsys.readouterr().out
    assert "16 runs, 12 left" in printed
    assert f"| CodeBERT | InfoNCE | {scores['infonce']} (1 of 2) | - |" in printed
    command(*models, "--languages", "ruby")
    assert "4 runs, 0 left" in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path)} <= {output / "table.md"}
    with pytest.raises(SystemExit, match=r"was made with epochs=2\.0, not 3\.0: choose another --output"):
        command(*models, "--languages", "ruby", "--epochs", 3)


def test_the_score_is_the_mrr_of_the_test_queries_over_the_whole_code_base(command, sources):
    """By hand, from the model that is saved: not over the test rows alone, nor over the validation queries."""
    output = command("--models", f"unixcoder={sources / 'unixcoder'}", "--languages", "ruby", "--losses", "infonce")
    from backbones import load

    model = load(output / "unixcoder" / "ruby" / "infonce-1" / "model", "unixcoder")
    data = load_code_search_net(sources / "data", "ruby", splits=["validation", "test", "codebase"])

    def mrr(queries):
        candidates = model.encode_document(data["codebase"]["code"][:])
        scores = model.similarity(model.encode_query(queries["query"][:]), candidates)
        own = [data["codebase"]["url"][:].index(url) for url in queries["url"]]
        return sum(1 / (1 + int((row > row[one]).sum())) for row, one in zip(scores, own, strict=True)) / len(own)

    result = json.loads((output / "unixcoder" / "ruby" / "infonce-1" / "result.json").read_text())
    assert len(data["codebase"]) == 20 > len(data["test"]) + len(data["validation"])
    assert result["test_mrr"] == pytest.approx(mrr(data["test"]), abs=1e-4)
    assert result["validation_mrr"] == pytest.approx(mrr(data["validation"]), abs=1e-4)


class Killed(Exception):
    """The process ends in the middle of a step."""


def test_an_interrupted_run_goes_on_from_its_last_epoch_and_ends_the_same(command, sources, tmp_path, monkeypatch):
    options = ["--models", f"codebert={sources / 'roberta'}", "--languages", "ruby", "--losses", "infonce"]
    steps = []
    training_step = SentenceTransformerTrainer.training_step

    def step(trainer, *arguments):
        if len(steps) == 4:
            raise Killed
        steps.append(trainer.state.global_step)
        return training_step(trainer, *arguments)

    monkeypatch.setattr(SentenceTransformerTrainer, "training_step", step)
    with pytest.raises(Killed):
        command(*options)
    assert not list(tmp_path.rglob("result.json"))
    with pytest.raises(SystemExit, match=r"was made with learning_rate=0\.001, not 0\.01"):
        command(*options, "--learning-rate", "1e-2")
    steps = [None] * 10
    command(*options)
    assert steps[10:] == [3, 4, 5], "three steps an epoch: the first epoch is not repeated"
    resumed = json.loads((tmp_path / "codebert/ruby/infonce-1/result.json").read_text())
    command(*options, "--output", tmp_path / "again")
    whole = json.loads((tmp_path / "again/codebert/ruby/infonce-1/result.json").read_text())
    assert resumed["test_mrr"] == whole["test_mrr"]
    assert resumed["validation_mrr"] == whole["validation_mrr"]


def test_bf16_mini_batches_and_accumulation_reach_the_training(command, sources, monkeypatch):
    seen = []
    original = SentenceTransformerTrainer.train

    def train(trainer, **options):
        arguments = trainer.args
        seen.append((arguments.bf16, arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps))
        losses.append(trainer.loss)
        return original(trainer, **options)

    losses = []
    monkeypatch.setattr(SentenceTransformerTrainer, "train", train)
    common = ["--losses", "bm25", "--languages", "ruby", "--epochs", 1]
    command("--models", f"graphcodebert={sources / 'roberta'}", *common, "--mini-batch-size", 3)
    command("--models", f"codebert={sources / 'roberta'}", *common, "--bf16", "--accumulate", 2)
    assert seen == [(False, 4, 1), (True, 2, 2)]
    assert isinstance(losses[0], CachedSoftInfoNCELoss)
    assert losses[0].mini_batch_size == 3
    assert type(losses[1]) is SoftInfoNCELoss
    with pytest.raises(SystemExit, match="--accumulate must divide the batch of 4, got 3"):
        command("--models", f"codebert={sources / 'roberta'}", *common, "--accumulate", 3, "--seeds", 2)


def test_what_is_missing_is_said_before_any_training(command, sources, tmp_path):
    with pytest.raises(
        SystemExit, match=r"--data \S+ cannot be loaded: name a folder, .* holds neither java/test\.jsonl"
    ):
        command("--models", f"codebert={sources / 'roberta'}", "--languages", "ruby", "java")
    with pytest.raises(
        SystemExit, match=r"--models unixcoder=microsoft/unixcoder-base cannot be loaded: name a folder"
    ):
        command("--models", "unixcoder", "--languages", "ruby")
    with pytest.raises(SystemExit, match="2"):
        command("--models", "bert")
    assert not list(tmp_path.iterdir())


def test_the_whole_table_is_listed_with_hours_without_data_or_a_network(command, capsys):
    command("--data", "code-search-net/code_search_net", "--epochs", 30, "--list", "--seeds", 1234, 12345, 123456)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "CodeSearchNet: the Hugging Face Hub, code-search-net/code_search_net"
    assert "unixcoder from microsoft/unixcoder-base" in printed[1]
    assert "216 runs, 216 left" in printed[2]
    assert len(printed[3:-3]) >= 216
    # 30 epochs of 251,820 pairs at 205 GFLOP, and the validation after each, at 100 TFLOP/s.
    python = next(line for line in printed if line.startswith("codebert      python     infonce"))
    expected = 30 * (251_820 * 205e9 + (13_914 + 2 * 43_827) / 3 * 205e9 / 3) / 1e14 / 3600
    assert python.endswith(f"at most {expected:6.2f} hours")
