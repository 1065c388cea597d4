"""`python -m evaluation run`, from a plan to lines of results, on a tiny model; and that it can be stopped."""

import contextlib
import io
import json
import re

import numpy as np
import pytest
import torch
from bench import make_bench, make_corpus, make_pairs
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import cos_sim

from evaluation import UsageError
from evaluation.runs import train
from evaluation.runs.losses import NotApplicable, make_loss
from evaluation.runs.oracle import known_relevance, relevance_groups
from evaluation.runs.plan import METRICS, Config, Plan
from evaluation.runs.score import make_task, score
from evaluation.runs.store import Store
from st_softinfonce.estimators import TextColumn

DUPLICATES = "\n[duplicates]\nshares = [0.0, 0.25]\n"
MORE_ROWS = """
[rows.discounted]
loss = "SoftInfoNCELoss"
estimator = "near-duplicate"
treatment = "discount"
[rows.masked]
loss = "SoftInfoNCELoss"
estimator = { name = "mixture", parts = ["bm25", "bm25"] }
treatment = { name = "mask", top_k = 1 }
[rows.hard]
loss = "SoftInfoNCELoss"
estimator = "bm25"
treatment = { name = "soften", alpha = 1.0, beta = 1.0 }
options = { hardness_mode = "all_negatives", hardness_strength = 5.0 }
[rows.gist]
loss = "GISTEmbedLoss"
estimator = "trained-model"
[rows.bce]
loss = "InBatchBCELoss"
estimator = "bm25"
[rows.distilled]
loss = "SoftInfoNCELoss"
estimator = { name = "trained-model", normalize = true }
treatment = [{ name = "mask", margin = 0.05, relative = true }, { name = "distill", share = 0.75 }]
[rows.promoted]
loss = "SoftInfoNCELoss"
estimator = "duplicates"
treatment = "promote"
[rows.kl-div]
loss = "DistillKLDivLoss"
estimator = "trained-model"
options = { student_temperature = 0.05, teacher_temperature = 0.05 }
"""
NEW_ROWS = re.findall(r"\[rows\.(.*)\]", MORE_ROWS)
MINED = '[regimes.random]\nnegatives = {count}\nmined_by = "trained-model"\n'
ORACLE = """
[rows.oracle]
loss = "SoftInfoNCELoss"
estimator = "oracle"
treatment = { name = "mask", above = 0.5 }
"""


def gains(bench):
    """The gain of every query, by row, seed and share of duplicates."""
    return {
        (one["row"]["name"], one["seed"], (one["duplicates"] or {}).get("share")): Store(bench.runs / "tiny").values(
            result["key"]
        )[1]["ndcg_at_10"]
        for result in bench.lines()
        for one in [result["settings"]]
        if one["stage"] == "test"
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A plan that was run in two steps; what was there and listed in between, and after it was run a third time."""
    folder = tmp_path_factory.mktemp("finished")
    bench = make_bench(folder, make_corpus(folder / "corpus"))
    assert bench.run("--only", "info-nce") == 0
    before = bench.lines()
    with contextlib.redirect_stdout(io.StringIO()) as listed:
        assert bench.run("--list") == 0
    assert bench.run() == bench.run() == 0
    return bench, before, listed.getvalue()


def test_what_has_a_result_is_not_run_again(finished):
    bench, before, listed = finished
    assert "info-nce" not in listed
    assert "4 runs done, 9 left" in listed
    assert bench.lines()[: len(before)] == before
    assert len({result["key"] for result in bench.lines()}) == len(bench.lines()) == 13


def test_all_rows_are_offered_the_same_grid_and_tuned_on_validation_packages(finished):
    results = finished[0].lines()
    tuned = [result for result in results if result["settings"]["stage"] == "tune"]
    offered = {}
    for result in tuned:
        settings = result["settings"]
        offered.setdefault(settings["row"]["name"], set()).add((settings["learning_rate"], settings["scale"]))
    assert set(offered) == {"info-nce", "soft-bm25", "soft-teacher"}
    assert all(points == {(0.01, 20.0), (0.1, 20.0)} for points in offered.values())
    settings = [result["settings"] for result in results if result["settings"]["stage"] == "test"]
    assert sorted((one["row"]["name"], one["seed"]) for one in settings if one["seed"]) == [
        (row, seed) for row in ("info-nce", "soft-bm25", "soft-teacher") for seed in (1, 2)
    ]
    for row in offered:
        mine = [result for result in tuned if result["settings"]["row"]["name"] == row]
        best = max(mine, key=lambda result: result["scores"]["mrr_at_1000_duplicates"])
        chosen = {one["learning_rate"] for one in settings if one["row"]["name"] == row}
        assert chosen == {best["settings"]["learning_rate"]}
    values = gains(finished[0])
    zero, one, two = values["zero-shot", None, None], values["info-nce", 1, None], values["info-nce", 2, None]
    assert not np.array_equal(zero, one)
    assert not np.array_equal(one, two)


def test_a_result_says_all_that_is_needed_to_repeat_it(finished):
    bench, before, _ = finished
    result = before[-1]
    assert set(result["scores"]) == set(METRICS)
    assert set(result["seconds"]) == {"prepare", "train", "evaluate"}
    assert {"commit", "versions", "machine", "data", "settings"} <= set(result)
    assert result["settings"]["regime"] == {"name": "random", "batch_size": 8, "epochs": 1}
    queries, values = Store(bench.runs / "tiny").values(result["key"])
    assert len(queries) == len(set(queries)) == result["queries"] == 20
    for metric, mean in result["scores"].items():
        assert values[metric].mean() == pytest.approx(mean, abs=1e-6)
    assert str(bench.corpus) not in json.dumps(bench.lines())


@pytest.mark.parametrize(
    ("count", "only", "refused"),
    [(0, ["kl-div"], {"kl-div"}), (1, NEW_ROWS, set()), (2, ["gist", "kl-div", "soft-bm25"], {"gist"})],
    ids=["random", "one-negative", "two-negatives"],
)
def test_every_kind_of_row_trains_or_says_why_not(bench, count, only, refused):
    bench.edit(("[0.01, 0.1]", "[0.01]"), ("[[matrix]]", f"{MORE_ROWS}[[matrix]]"), ("seeds = [1, 2]", "seeds = [1]"))
    if count:
        bench.edit(("[regimes.random]\n", MINED.format(count=count)))
    assert bench.run("--only", *only) == 0
    results = {result["settings"]["row"]["name"]: result for result in bench.lines()}
    assert len(results) == len(only)
    found = {row for row, result in results.items() if "not_applicable" in result}
    assert found - {"discounted"} == refused  # of so few pairs there may be no posterior


def test_every_row_has_a_loss_of_its_own(bench, static_model):
    bench.edit(("[[matrix]]", f"{MORE_ROWS}[[matrix]]"))
    config = Config.read(bench.path)
    shared = train.Bench(config, bench.runs / "tiny")
    runs = [run for run in Plan(config, shared.corpus.fingerprint).all_runs({}) if run.settings["seed"] == 1]
    pairs = shared.corpus.splits("python", None)["train"]
    batch = [static_model.preprocess(pairs[column][:16]) for column in ("query", "code")]
    values = {}
    for settings in (run.settings for run in runs if run.settings["row"]["name"] not in ("kl-div", "promoted")):
        with contextlib.suppress(NotApplicable):  # of so few pairs there may be no posterior
            loss = make_loss(static_model, pairs, settings, shared.teachers)
            values[settings["row"]["name"]] = loss([dict(column) for column in batch], None).item()
    assert values["info-nce"] == pytest.approx(MultipleNegativesRankingLoss(static_model)(batch, None).item())
    assert set(config.rows) - set(values) <= {"zero-shot", "discounted", "kl-div", "promoted"}
    values.pop("discounted", None)  # no code here is nearly another's
    assert len({round(value, 5) for value in values.values()}) == len(values) == 8


def test_a_failed_run_is_reported_and_tried_again(bench, monkeypatch):
    def fails(*arguments, **options):
        raise RuntimeError("out of memory")

    bench.edit(("[0.01, 0.1]", "[0.01]"), ("seeds = [1, 2]", "seeds = [1]"))
    with monkeypatch.context() as patched:
        patched.setattr(train, "fit", fails)
        assert bench.run("--only", "info-nce") == 1
    assert "out of memory" in (bench.runs / "tiny" / "failures.jsonl").read_text()
    assert not (bench.runs / "tiny" / "results.jsonl").exists()
    assert bench.run("--only", "info-nce") == 0
    assert len(bench.lines()) == 1


@pytest.mark.slow
def test_two_processes_go_on_where_a_killed_run_stopped(bench, capfd):
    bench.run("--only", "zero-shot")
    before = bench.lines()
    with (bench.runs / "tiny" / "results.jsonl").open("a") as file:
        file.write('{"key": "unfinish')
    assert bench.run("--processes", "2", "--only", "zero-shot", "info-nce") == 0
    assert "Loading weights" not in capfd.readouterr().err
    assert bench.lines()[: len(before)] == before
    assert len(bench.lines()) == len({result["key"] for result in bench.lines()}) == 5


def test_a_teacher_looks_its_vectors_up_and_mines_within_the_margin(bench):
    bench.edit(("[regimes.random]\n", MINED.format(count=2) + "relative_margin = 0.3\n"))
    shared = train.Bench(Config.read(bench.path), bench.runs / "tiny")
    plan = Plan(Config.read(bench.path), shared.corpus.fingerprint)
    settings = next(run.settings for run in plan.all_runs({}) if run.settings["row"]["name"] == "soft-teacher")
    pairs = shared.corpus.training_pairs(settings)
    encoded = SentenceTransformer(str(shared.teachers.folder("trained-model", settings)))
    teacher = shared.teachers.load("trained-model", settings)
    for encode in ("encode", "encode_query", "encode_document"):
        found = getattr(teacher, encode)(pairs["code"][:], convert_to_tensor=True)
        torch.testing.assert_close(found, getattr(encoded, encode)(pairs["code"][:], convert_to_tensor=True))
    assert teacher.encode(["another text"]).shape == encoded.encode(["another text"]).shape
    mined = shared.teachers.with_negatives(pairs, settings)
    assert 0 < len(mined) <= len(pairs)
    for row in mined:
        query, *documents = encoded.encode([row[name] for name in ("query", "code", "negative_1", "negative_2")])
        own, *others = [float(cos_sim(query, document)) for document in documents]
        assert max(others) <= 0.7 * own + 1e-5


def test_one_rows_choice_can_be_every_rows(bench):
    bench.edit(("[tuning]\n", '[tuning]\nrow = "info-nce"\nregime = "random"\n'))
    assert bench.run("--only", "soft-bm25") == 0
    tuned = [result["settings"]["row"]["name"] for result in bench.lines() if result["settings"]["stage"] == "tune"]
    assert tuned == ["info-nce"] * 2
    bench.edit(('row = "info-nce"', 'row = "nothing"'))
    with pytest.raises(UsageError, match=r"\[tuning\] names row 'nothing'"):
        Config.read(bench.path)


def test_shares_of_copies_are_runs_of_their_own_with_one_choice_of_settings(bench):
    bench.edit(("seeds = [1, 2]", "seeds = [2]"), add=DUPLICATES)
    assert bench.run("--only", "info-nce", "soft-teacher") == 0
    settings = [result["settings"] for result in bench.lines()]
    assert [one["duplicates"]["share"] for one in settings if one["stage"] == "tune"] == [0.0] * 4
    assert sorted((one["row"]["name"], one["duplicates"]["share"]) for one in settings if one["stage"] == "test") == [
        (row, share) for row in ("info-nce", "soft-teacher") for share in (0.0, 0.25)
    ]
    values = gains(bench)
    assert not np.array_equal(values["info-nce", 2, 0.0], values["info-nce", 2, 0.25])


def test_the_oracle_takes_out_the_false_negatives_and_nothing_else(bench):
    once = (("[0.01, 0.1]", "[0.01]"), ("seeds = [1, 2]", "seeds = [2]"))
    bench.edit(*once, ("epochs = 1\n", 'epochs = 1\ngroup_by = "duplicate_group"\n'), add=DUPLICATES + ORACLE)
    assert bench.run("--only", "info-nce", "oracle") == 0
    values = gains(bench)
    assert np.array_equal(values["oracle", 2, 0.0], values["info-nce", 2, 0.0])
    assert not np.array_equal(values["oracle", 2, 0.25], values["info-nce", 2, 0.25])


def test_pairs_of_one_group_share_documentation_code_or_duplicates_directly_or_by_a_third():
    pairs = Dataset.from_dict(
        {
            "query": ["sort", "sort", "add", "merge", "count", "find"],
            "code": ["a", "b", "b", "c", "d", "e"],
            "duplicate_group": [0, 1, 2, 3, 3, 5],
        }
    )
    groups = relevance_groups(pairs).tolist()
    assert groups[0] == groups[1] == groups[2]
    assert groups[3] == groups[4]
    assert len(set(groups)) == 3


def test_a_document_is_similar_to_its_group_and_an_unknown_one_to_nothing(static_model):
    pairs = make_pairs("one", 0, 4)
    pairs = pairs.remove_columns("duplicate_group").add_column("duplicate_group", [7, 8, 7, 9])
    oracle = known_relevance("oracle", pairs, static_model)
    column = TextColumn(static_model.preprocess([*pairs["code"], "def read sort for merge"]), static_model.tokenizer)
    groups = oracle.represent(column)
    assert oracle.similarity(groups, groups).tolist() == [
        [1, 0, 1, 0, 0],
        [0, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0],
    ]


def test_an_unfinished_line_is_dropped(tmp_path):
    with Store(tmp_path) as store:
        store.add({"key": "a", "scores": {}})
        with store.path.open("a") as file:
            file.write('{"key": "b", "sco')
        assert list(store.read()) == ["a"]
    with Store(tmp_path) as store:
        store.add({"key": "c"})
    assert list(store.read()) == ["a", "c"]


def test_two_writers_of_one_folder_are_refused(tmp_path):
    with (
        Store(tmp_path),
        pytest.raises(UsageError, match="being written by another process"),
        Store(tmp_path),
    ):
        pass


def test_scoring_shows_no_progress_bars(static_model, capfd):
    scores = score(static_model, make_task(make_pairs("one", 0, 8), 4, "python"))
    assert len(scores.queries) == 4
    assert capfd.readouterr().err == ""
