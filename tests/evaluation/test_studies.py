"""Where training pushes, and the weights of a plan's rows."""

import json

import pyarrow.parquet as pq
import pytest
import torch
from bench import make_pairs
from datasets import Dataset

from evaluation.__main__ import main
from evaluation.runs.plan import Config, Plan
from evaluation.runs.train import Bench
from evaluation.studies.gradient_push import compare_pushes, pushes
from evaluation.studies.weights import soft_runs, weigh
from st_softinfonce.functional import soft_info_nce


def first_weights(bench, row, batch_size=8):
    """The weights of a row's first batch, and the options that they were made with."""
    shared = Bench(Config.read(bench.path), bench.runs / "tiny")
    options, batches = weigh(shared, soft_runs(shared.plan())[row], batch_size, 1)
    ((_, weights),) = batches
    return weights, options


def test_weights_are_made_with_the_rows_own_options(bench):
    bench.edit(('"bm25"\ntreatment = "soften"', '"bm25"\ntreatment = { name = "soften", min_weight = 0.9 }'))
    weights, options = first_weights(bench, "soft-bm25")
    assert options == {"alpha": 1.5, "beta": 0.5, "temperature": 1.0, "min_weight": 0.9}
    assert weights.min() == pytest.approx(0.9)
    bench.edit(("min_weight = 0.9", "alpha = 0.0"))
    assert first_weights(bench, "soft-bm25")[0].tolist() == [[1.0] * 8] * 8


def test_rows_with_hardness_have_the_weights_of_those_without(bench):
    row = '[rows.soft-hard]\nloss = "SoftInfoNCELoss"\nestimator = "bm25"\ntreatment = "soften"\n'
    row += 'options = { hardness_mode = "all_negatives", hardness_strength = 5.0 }\n'
    bench.edit(("[[matrix]]", f"{row}[[matrix]]"))
    runs = soft_runs(Plan(Config.read(bench.path), lambda language, limit: "data"))
    assert list(runs) == ["soft-bm25", "soft-teacher"]


def test_measured_weights_are_drawn(bench):
    options = ["--output", str(bench.runs), "--results", str(bench.results), "--batch-size", "8"]
    assert main(["figures", "--weights", str(bench.path), *options]) == 0
    content = json.loads((bench.results / "weights.json").read_text())
    assert list(content["rows"]) == ["soft-bm25", "soft-teacher"]
    assert content["rows"]["soft-bm25"]["below_0_9"] > 0
    assert "soft-teacher" in (bench.results / "weights.svg").read_text()


def test_a_push_is_the_gradient_of_the_loss_by_the_score():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(5, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(5, 5, generator=generator, dtype=torch.float64) + 0.1
    weights.fill_diagonal_(1.0)
    targets = torch.rand(5, 5, generator=generator, dtype=torch.float64).softmax(dim=1)
    for given in ((None, None), (weights.log(), None), (weights.log(), targets)):
        loss = soft_info_nce(scores, given[0], targets=given[1])
        (gradient,) = torch.autograd.grad(5 * loss, scores)
        torch.testing.assert_close(pushes(scores.detach(), *given), gradient.fill_diagonal_(0.0).clamp(min=0.0))


def test_sums_tell_relevant_from_other_negatives():
    plain = torch.tensor([[0.0, 0.4, 0.4], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    weighted = torch.tensor([[0.0, 0.1, 0.3], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    relevant = torch.zeros(3, 3, dtype=torch.bool)
    relevant[0, 1] = True
    sums = {"plain": 0.8, "weighted": 0.4, "plain_relevant": 0.4, "weighted_relevant": 0.1, "moved": 0.25}
    counts = {"queries": 3, "with_relevant": 1, "batches": 1}
    assert compare_pushes(plain, weighted, relevant) == pytest.approx(sums | counts)


def test_pushes_are_measured_for_every_row_and_state(bench):
    train = make_pairs("one", 0, 40).to_dict()
    train["query"][1::2] = train["query"][::2]  # half of the queries, each twice
    pq.write_table(Dataset.from_dict(train).data.table, bench.corpus / "python" / "train-00000.parquet")
    options = ["--output", str(bench.runs), "--results", str(bench.results), "--batch-sizes", "8", "40"]
    assert main(["push", str(bench.path), *options]) == 0
    entries = json.loads((bench.results / "push.json").read_text())["entries"]
    assert sorted((entry["batch_size"], entry["state"], entry["row"]) for entry in entries) == [
        (size, state, row)
        for size in (8, 40)
        for state in ("base", "trained")
        for row in ("soft-bm25", "soft-teacher")
    ]
    for entry in entries:
        if entry["batch_size"] == 40:
            assert entry["queries_with_a_relevant_negative"] == 1
        assert 0 < entry["share_on_relevant"] < 1
        if entry["row"] == "soft-bm25":  # the same query: the most similar there is
            assert entry["relevant_left"] < entry["others_left"]


MINED_PLAN = """
[regimes.mined]
batch_size = 8
epochs = 1
negatives = 2
mined_by = "trained-model"
[rows.mask]
loss = "SoftInfoNCELoss"
estimator = { name = "trained-model", normalize = true }
treatment = { name = "mask", margin = 0.1 }
[rows.distill]
loss = "SoftInfoNCELoss"
estimator = { name = "trained-model", normalize = true }
treatment = { name = "distill", share = 0.0 }
[[matrix]]
models = ["tiny"]
languages = ["python"]
regimes = ["mined"]
rows = ["info-nce", "mask", "distill"]
seeds = [1, 2]
"""


def test_pushes_with_mined_negatives_are_those_of_each_treatment(bench, capsys):
    bench.path.write_text(bench.path.read_text() + MINED_PLAN)
    options = ["--output", str(bench.runs), "--results", str(bench.results), "--mined"]
    assert main(["push", str(bench.path), *options, "mined"]) == 0
    entries = {one["row"]: one for one in json.loads((bench.results / "push_mined.json").read_text())["entries"]}
    assert set(entries) == {"mask", "distill"}
    assert entries["distill"]["moved"] == pytest.approx(0, abs=1e-6)  # of InfoNCE's targets
    assert entries["distill"]["others_left"] == pytest.approx(1)
    assert entries["mask"]["relevant_left"] < 0.5  # as similar as the positive, but for a few
    assert main(["push", str(bench.path), *options, "random"]) == 2
    assert "no rows of regime 'random'" in capsys.readouterr().err
