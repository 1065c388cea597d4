"""Summaries, tables and figures of runs whose numbers are known."""

import json

import numpy as np
import pytest

from evaluation import UsageError
from evaluation.__main__ import main
from evaluation.environment import HERE, RESULTS, write_json
from evaluation.report.plots import plan_figure
from evaluation.report.summary import ALL, current_results, summarise
from evaluation.report.tables import (
    METRIC,
    advice_lines,
    headline_entries,
    overview,
    plan_lines,
    readme_lines,
    results_page,
    verdict,
)
from evaluation.runs.plan import METRICS, Config
from evaluation.runs.store import Store, write_values

HOST = "MultipleNegativesRankingLoss"
QUERIES = [f"q{number}" for number in range(200)]


def add(
    store,
    row,
    seed,
    values,
    *,
    language="python",
    regime="random",
    model="static",
    share=None,
    loss="SoftInfoNCELoss",
    others=(),
    **options,
):
    named = {} if loss is None else {"loss": loss}
    if loss == "SoftInfoNCELoss":
        named |= {"estimator": "bm25", "treatment": "soften"}
    key = f"{row}-{language}-{regime}-{share}-{seed}"
    settings = {
        "stage": "test",
        "model": {"name": model},
        "language": language,
        "regime": {"name": regime},
        "row": {"name": row} | named | ({"options": options} if options else {}),
        "seed": seed,
        "learning_rate": 0.01,
        "scale": 20.0,
        "duplicates": None if share is None else {"share": share},
    }
    tables = dict.fromkeys((*METRICS, *others), values)
    write_values(store.folder, key, QUERIES, tables)
    store.add(
        {
            "key": key,
            "settings": settings,
            "scores": {metric: float(values.mean()) for metric in tables},
            "queries": len(QUERIES),
            "seconds": {"train": 36.0},
            "commit": "abc",
            "versions": {"torch": "2"},
            "machine": {"device": "cpu", "threads": 1},
        }
    )


def noise(seed):
    return np.random.default_rng(seed).normal(0, 0.02, len(QUERIES))


@pytest.fixture
def store(tmp_path):
    hard = np.random.default_rng(0).uniform(0.2, 0.8, len(QUERIES))
    with Store(tmp_path / "runs" / "tiny") as store:
        add(store, "zero-shot", None, hard - 0.3, regime="none", loss=None)
        for language, better in (("python", 0.05), ("java", -0.05)):
            for seed in (1, 2, 3):
                number = seed + (10 if language == "java" else 0)
                add(store, "info-nce", seed, hard + noise(number), language=language, loss=HOST)
                add(store, "soft-bm25", seed, hard + better + noise(number + 100), language=language)
                add(store, "soft-simcse", seed, hard + noise(number + 200), language=language)
        yield store


def summary_of(store):
    return summarise("tiny", store, store.read())


def of(summary, row, language):
    (entry,) = [e for e in summary["entries"] if (e["row"], e["language"]) == (row, language)]
    return entry


def test_differences_are_paired_and_their_mean_counts_languages_equally(store):
    summary = summary_of(store)
    python, java = (of(summary, "soft-bm25", name)["difference"][METRIC] for name in ("python", "java"))
    assert python["low"] < 0.05 < python["high"]
    assert java["low"] < -0.05 < java["high"]
    assert python["high"] - python["low"] < 0.02
    whole = of(summary, "soft-bm25", ALL)["difference"][METRIC]
    assert whole["mean"] == pytest.approx((python["mean"] + java["mean"]) / 2)
    assert "difference" not in of(summary, "info-nce", "python")
    assert of(summary, "zero-shot", "python")["difference"][METRIC]["mean"] == pytest.approx(-0.3, abs=0.01)
    assert (summary["runs"], summary["hours"]) == (19, 0.19)
    assert summary["rows"]["soft-bm25"]["treatment"] == "soften"


def test_a_row_with_hardness_is_compared_with_the_same_hardness(store):
    hard = {"hardness_mode": "all_negatives", "hardness_strength": 5.0}
    for seed in (1, 2, 3):
        add(store, "hardness", seed, np.full(len(QUERIES), 0.9), loss=HOST, **hard)
        add(store, "soft-hard", seed, np.full(len(QUERIES), 0.8), **hard)
    summary = summary_of(store)
    assert of(summary, "hardness", "python")["against"] == "info-nce"
    assert of(summary, "hardness", "python")["difference"][METRIC]["mean"] > 0.2
    assert of(summary, "soft-hard", "python")["difference"][METRIC]["mean"] == pytest.approx(-0.1)
    lines = plan_lines("tiny", summary)
    assert any(line.startswith("| soft-hard (against hardness) (python alone) |") for line in lines)


def test_a_row_among_other_candidates_is_compared_with_infonce_among_the_same(store):
    same_side = {"directions": ["query_to_doc", "query_to_query", "doc_to_doc"]}
    for seed in (1, 2, 3):
        add(store, "info-nce-same-side", seed, np.full(len(QUERIES), 0.9), loss=HOST, **same_side)
        add(store, "gist", seed, np.full(len(QUERIES), 0.8), **same_side)
    assert of(summary_of(store), "gist", "python")["difference"][METRIC]["mean"] == pytest.approx(-0.1)
    assert of(summary_of(store), "info-nce-same-side", "python")["against"] == "info-nce"


def test_rows_are_compared_with_infonce_in_the_regime_where_it_is_best(store):
    hard = np.random.default_rng(0).uniform(0.2, 0.8, len(QUERIES))
    assert not any("to_best" in entry for entry in summary_of(store)["entries"])
    for seed in (1, 2, 3):
        add(store, "info-nce", seed, hard + 0.02 + noise(seed), regime="mined", loss=HOST)
        add(store, "soft-bm25", seed, hard + 0.03 + noise(seed), regime="mined")
    summary = summary_of(store)
    found = {
        (entry["regime"], entry["row"], entry["language"]): entry["to_best"][METRIC]["mean"]
        for entry in summary["entries"]
        if "to_best" in entry
    }
    assert found["mined", "soft-bm25", "python"] == pytest.approx(0.01)
    assert found["random", "info-nce", "python"] == pytest.approx(-0.02)
    assert found["random", "soft-bm25", "python"] == pytest.approx(0.03, abs=0.005)
    assert ("mined", "info-nce", "python") not in found
    assert not any(language == "java" for _, _, language in found)
    lines = [line for line in plan_lines("tiny", summary) if line.startswith("| soft-bm25 |")]
    assert [line.count("**+1.00 [+1.00, +1.00]**") for line in lines] == [1, 3, 0]  # the overview, and two regimes
    drawn = plan_figure(summary)
    assert [axis.get_title() for axis in drawn.axes] == ["static, random", "static, mined"]


def test_the_verdict_counts_each_treatment(store):
    assert verdict([summary_of(store)])[-1] == "| soften | 4 | 1 | 2 | 1 |"
    assert verdict([]) == ["Nothing is compared with InfoNCE yet."]


def test_the_readmes_table_has_gains_over_the_best_infonce_by_language_and_on_other_queries(tmp_path):
    hard = np.random.default_rng(0).uniform(0.2, 0.8, len(QUERIES))
    gains = {("distill", "python"): 0.04, ("distill", "java"): 0.02, ("soft-trained-model", "python"): -0.03}
    with Store(tmp_path / "mined") as store:
        for language in ("python", "java"):
            for seed in (1, 2):
                options = {"language": language, "others": ["human-eval"]}
                add(store, "info-nce", seed, hard, loss=HOST, **options)
                add(store, "info-nce", seed, hard - 0.01, loss=HOST, regime="mined-4", **options)
                for row in ("distill", "soft-trained-model"):
                    gain = gains.get((row, language), 0.0)
                    add(store, row, seed, hard + gain, regime="mined-4", **options)
    write_json(tmp_path / "results" / "mined.json", summarise("mined", store, store.read()))
    _, _, distill, soft = readme_lines(tmp_path / "results")
    assert distill.split(" | ")[1:] == ["**+3.00 [+3.00, +3.00]**", "2 of 2 better, 0 worse", "+3.0", " |"]
    assert "| 0 of 2 better, 1 worse | -1.5 |" in soft
    assert " **+3.00 [+3.00, +3.00]** (2 languages) |" in advice_lines(tmp_path / "results")[4]
    for plan, model, negatives in (("same_side", "static", "mined-4"), ("transformer", "minilm-2", "mined-2")):
        with Store(tmp_path / plan) as store:
            for seed in (1, 2):
                add(store, "info-nce", seed, hard, loss=HOST, model=model)
                add(store, "info-nce", seed, hard, loss=HOST, model=model, regime=negatives)
                for row, gain in (("distill", 0.05), ("gist", 0.06)):
                    add(store, row, seed, hard + gain, model=model, regime=negatives)
        write_json(tmp_path / "results" / f"{plan}.json", summarise(plan, store, store.read()))
    _, _, gist, distill, soft = readme_lines(tmp_path / "results")
    assert "mask | **+6.00 [+6.00, +6.00]** | 1 of 1 better, 0 worse |  | **+6.00" in gist  # of the later plan alone
    assert "| **+3.00 [+3.00, +3.00]** | 2 of 2 better, 0 worse | +3.0 | **+5.00" in distill  # more languages count
    lines = plan_lines("mined", json.loads((tmp_path / "results" / "mined.json").read_text()))
    assert sum(line.startswith("| row |") and line.endswith("| human-eval |") for line in lines) == 2


def test_plans_with_other_languages_are_put_together():
    def plan(**gains):
        mean = {"model": "minilm-2", "regime": "mined-2", "row": "distill", "to_best": {}}
        return {
            "entries": [
                mean | {"language": name, "to_best": {METRIC: {"mean": gain, "low": gain - half, "high": gain + half}}}
                for name, (gain, half) in gains.items()
            ]
        }

    plans = {"transformer": plan(python=(0.01, 0.03), mean=(0.01, 0.03)), "more": plan(go=(0.03, 0.04), mean=(0, 0))}
    mean, languages = headline_entries(plans, ("transformer", "more"), ("minilm-2", "mined-2"))["distill"]
    assert [entry["language"] for entry in languages] == ["python", "go"]
    assert mean["to_best"][METRIC] == pytest.approx({"mean": 0.02, "low": -0.005, "high": 0.045})


@pytest.fixture
def report(store, tmp_path, monkeypatch):
    """The command, over results that no plan asked for."""
    monkeypatch.setattr("evaluation.report.summary.current_results", lambda config, store: store.read())
    plan = tmp_path / "tiny.toml"
    plan.write_text(
        '[corpus]\nfolder = "x"\n[models.static]\nbase = "static"\nlearning_rates = [0.1]\n[regimes.random]\n'
        'batch_size = 2\nepochs = 1\n[rows.info-nce]\nloss = "MultipleNegativesRankingLoss"\n[[matrix]]\n'
        'models = "all"\nlanguages = ["python"]\nregimes = "all"\nrows = "all"\nseeds = [1]\n'
    )
    options = ["--output", tmp_path / "runs", "--results", tmp_path / "results"]
    options += ["--page", tmp_path / "RESULTS.md", "--readme", tmp_path / "README.md"]
    (tmp_path / "README.md").write_text(
        "# before\n<!-- results:begin -->\nold\n<!-- results:end -->\nafter\n"
        "<!-- advice:begin --><!-- advice:end -->\n"
    )
    return lambda *plans: main(["report", *plans, *map(str, options)])


def test_tables_and_figure_are_made_of_runs_and_again_of_their_json(report, tmp_path):
    plan = str(tmp_path / "tiny.toml")
    assert report(plan) == 0
    page, readme = ((tmp_path / name).read_text() for name in ("RESULTS.md", "README.md"))
    figure = (tmp_path / "results" / "tiny.svg").read_bytes()
    assert readme.startswith("# before\n<!-- results:begin -->\n")
    assert "<!-- results:end -->\nafter\n<!-- advice:begin -->" in readme
    assert readme.count("not measured") == 4
    assert "\nold\n" not in readme
    assert "Nothing is measured yet." in readme  # its table is of one plan alone
    assert "| soften | 4 | 1 | 2 | 1 |" in page
    (line,) = [line for line in page.splitlines() if line.startswith("| soft-bm25 ") and line.count("|") > 8]
    summary = json.loads((tmp_path / "results" / "tiny.json").read_text())
    assert f"{100 * of(summary, 'soft-bm25', ALL)['scores'][METRIC]:.1f}" in line
    assert line.count("**") == 4  # python's and java's differences exclude 0, their mean does not
    assert figure.count(b"soft-bm25") == 1
    assert report() == 0
    assert (tmp_path / "RESULTS.md").read_text() == page
    assert (tmp_path / "README.md").read_text() == readme
    assert (tmp_path / "results" / "tiny.svg").read_bytes() == figure


@pytest.mark.parametrize(
    "text",
    ["none", "<!-- results:begin -->", "<!-- results:end --><!-- results:begin -->", "<!-- results:begin -->" * 2],
    ids=["none", "no-end", "wrong-order", "twice"],
)
def test_a_missing_marker_is_an_error(report, tmp_path, capsys, text):
    (tmp_path / "README.md").write_text(text)
    assert report() == 2
    assert "must have the markers <!-- results:begin --> and <!-- results:end --> once" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text() == text


def test_shares_of_duplicates_are_places_of_their_own(tmp_path):
    with Store(tmp_path) as store:
        for share in (0.0, 0.4):
            for seed in (1, 2):
                add(store, "info-nce", seed, 0.5 - share / 10 + noise(seed), share=share, loss=HOST)
                add(store, "soft-bm25", seed, 0.5 + noise(seed + 9), share=share)
    summary = summary_of(store)
    gains = {
        entry["share"]: entry["difference"][METRIC]["mean"]
        for entry in summary["entries"]
        if entry["row"] == "soft-bm25" and entry["language"] == "python"
    }
    assert gains[0.4] - gains[0.0] == pytest.approx(0.04, abs=1e-6)
    heads, _, baseline, soft = overview(summary)
    assert heads == "| MRR, duplicates-aware | static, random, 0% duplicates | static, random, 40% duplicates |"
    assert [float(cell) for cell in baseline.split("|")[2:4]] == pytest.approx([50, 46], abs=0.3)
    cells = [cell.strip(" *").split()[0] for cell in soft.split("|")[2:4]]
    assert [float(cell) for cell in cells] == pytest.approx([100 * gains[0.0], 100 * gains[0.4]], abs=0.006)


def test_runs_on_other_queries_are_not_compared(store):
    values = dict.fromkeys(METRICS, np.zeros(len(QUERIES)))
    write_values(store.folder, "soft-bm25-python-random-None-1", QUERIES[::-1], values)
    with pytest.raises(UsageError, match="scored on other queries"):
        summary_of(store)


def test_no_results_yet_is_said(tmp_path):
    with pytest.raises(UsageError, match="has no results yet: `python -m evaluation run tiny`"):
        summarise("tiny", Store(tmp_path), {})


def test_what_the_plan_no_longer_asks_for_is_not_reported(bench):
    other = ("[0.01, 0.1]", "[0.5]")
    for change in (other, other[::-1], other):  # the other grid's lines come last, and there is nothing to run then
        bench.edit(change)
        bench.run("--only", "zero-shot", "info-nce")
    store, config = Store(bench.runs / "tiny"), Config.read(bench.path)
    summary = summarise("tiny", store, current_results(config, store))
    assert {entry["learning_rate"] for entry in summary["entries"] if "learning_rate" in entry} == {None, 0.5}
    with store:
        store.add({**bench.lines()[0], "key": "other", "data": "other"})
    with pytest.raises(UsageError, match="two versions of the corpus"):
        current_results(config, store)


def test_the_page_of_the_repository_is_what_the_command_makes_of_the_results():
    assert results_page(RESULTS) == (HERE / "RESULTS.md").read_text()
