import json

import numpy as np
import pytest

from evaluation import report
from evaluation.store import Store, write_values

QUERIES = [f"q{number}" for number in range(200)]


def add(
    store, row, seed, values, *, language="python", regime="random", share=None, loss="SoftInfoNCELoss", **options
):
    key = f"{row}-{language}-{regime}-{share}-{seed}"
    settings = {
        "stage": "test",
        "model": {"name": "static"},
        "language": language,
        "regime": {"name": regime},
        "row": {"name": row} | ({} if loss is None else {"loss": loss}) | ({"options": options} if options else {}),
        "seed": seed,
        "learning_rate": 0.01,
        "scale": 20.0,
        "duplicates": None if share is None else {"share": share},
    }
    tables = dict.fromkeys(report.METRICS, values)
    write_values(store.folder, key, QUERIES, tables)
    store.add(
        {
            "key": key,
            "settings": settings,
            "scores": {metric: float(values.mean()) for metric in report.METRICS},
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
    store = Store(tmp_path / "runs" / "tiny").open()
    hard = np.random.default_rng(0).uniform(0.2, 0.8, len(QUERIES))
    add(store, "zero-shot", None, hard - 0.3, regime="none", loss=None)
    for language, better in (("python", 0.05), ("java", -0.05)):
        for seed in (1, 2, 3):
            number = seed + (10 if language == "java" else 0)
            add(store, "info-nce", seed, hard + noise(number), language=language, loss="MultipleNegativesRankingLoss")
            add(store, "soft-bm25", seed, hard + better + noise(number + 100), language=language)
            add(store, "soft-simcse", seed, hard + noise(number + 200), language=language)
    yield store
    store.close()


def of(summary, row, language):
    (entry,) = [e for e in summary["entries"] if (e["row"], e["language"]) == (row, language)]
    return entry


def test_differences_are_paired_and_their_mean_counts_languages_equally(store):
    summary = report.summarise("tiny", store)
    python, java = (of(summary, "soft-bm25", name)["difference"][report.METRIC] for name in ("python", "java"))
    assert python["low"] < 0.05 < python["high"]
    assert java["low"] < -0.05 < java["high"]
    assert python["high"] - python["low"] < 0.02
    whole = of(summary, "soft-bm25", report.ALL)["difference"][report.METRIC]
    assert whole["mean"] == pytest.approx((python["mean"] + java["mean"]) / 2)
    assert "difference" not in of(summary, "info-nce", "python")
    assert of(summary, "zero-shot", "python")["difference"][report.METRIC]["mean"] == pytest.approx(-0.3, abs=0.01)
    assert (summary["runs"], summary["hours"]) == (19, 0.19)


def test_a_row_with_hardness_is_compared_with_the_same_hardness(store):
    hard = {"hardness_mode": "all_negatives", "hardness_strength": 5.0}
    for seed in (1, 2, 3):
        add(store, "hardness", seed, np.full(len(QUERIES), 0.9), loss="MultipleNegativesRankingLoss", **hard)
        add(store, "soft-hard", seed, np.full(len(QUERIES), 0.8), weighting="posterior", **hard)
    summary = report.summarise("tiny", store)
    assert of(summary, "hardness", "python")["against"] == "info-nce"
    assert of(summary, "hardness", "python")["difference"][report.METRIC]["mean"] > 0.2
    assert of(summary, "soft-hard", "python")["difference"][report.METRIC]["mean"] == pytest.approx(-0.1)
    assert "Worse: soft-bm25 (static, random, java); soft-hard (static, random, python)." in report.verdict(summary)
    lines = report.tables(summary)
    assert any(line.startswith("| soft-hard (python alone) (against hardness) |") for line in lines)


def test_the_first_lines_say_where_it_does_not_help(store):
    lines = report.verdict(report.summarise("tiny", store))
    assert "Of 4 comparisons" in lines[0]
    assert "**not better in 3**: worse in 1" in lines[0]
    assert lines[1] == "No Soft-InfoNCE row beats InfoNCE in 1 of 2 places: static, random: java."
    assert lines[2] == "Worse: soft-bm25 (static, random, java)."


def test_what_is_between_the_markers_is_replaced_and_nothing_else(store, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "current_results", lambda matrix, store: store.read())  # these were never run
    config = tmp_path / "tiny.toml"
    config.write_text(
        '[corpus]\nfolder = "x"\n[models.static]\nbase = "static"\nlearning_rates = [0.1]\n[regimes.random]\n'
        'batch_size = 2\nepochs = 1\n[rows.info-nce]\nloss = "MultipleNegativesRankingLoss"\n[[matrix]]\n'
        'models = "all"\nlanguages = ["python"]\nregimes = "all"\nrows = "all"\nseeds = [1]\n'
    )
    one, other = tmp_path / "one.md", tmp_path / "other.md"
    one.write_text("# before\n<!-- results:begin -->\nold\n<!-- results:end -->\nafter\n")
    other.write_text("no markers\n")
    arguments = [str(config), "--output", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    for _ in range(2):
        assert report.main([*arguments, "--readme", str(one), str(other)]) == 0
    text = one.read_text()
    assert text.startswith("# before\n<!-- results:begin -->\n### `tiny`\n\nOf 4 comparisons")
    assert text.endswith("<!-- results:end -->\nafter\n")
    assert "\nold\n" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("| soft-bm25 ")]
    summary = json.loads((tmp_path / "results" / "tiny.json").read_text())
    assert f"{100 * of(summary, 'soft-bm25', report.ALL)['scores'][report.METRIC]:.1f}" in line
    assert line.count("**") == 4  # python's and java's differences exclude 0, their mean does not
    assert other.read_text() == "no markers\n"
    assert (tmp_path / "results" / "tiny.svg").read_text().count("soft-bm25") == 1


def test_shares_of_duplicates_are_places_of_their_own_and_plotted(tmp_path):
    store = Store(tmp_path).open()
    for share in (0.0, 0.4):
        for seed in (1, 2):
            add(store, "info-nce", seed, 0.5 - share / 10 + noise(seed), share=share, loss="Multiple")
            add(store, "soft-bm25", seed, 0.5 + noise(seed + 9), share=share)
    store.close()
    summary = report.summarise("shares", store)
    gains = {
        entry["share"]: entry["difference"][report.METRIC]["mean"]
        for entry in summary["entries"]
        if entry["row"] == "soft-bm25" and entry["language"] == "python"
    }
    assert gains[0.4] - gains[0.0] == pytest.approx(0.04, abs=1e-6)
    heads, _, baseline, soft, _ = report.overview(summary)
    assert heads == "| MRR, duplicates-aware | static, random, 0% duplicates | static, random, 40% duplicates |"
    assert [float(cell) for cell in baseline.split("|")[2:4]] == pytest.approx([50, 46], abs=0.3)
    cells = [cell.strip(" *").split()[0] for cell in soft.split("|")[2:4]]
    assert [float(cell) for cell in cells] == pytest.approx([100 * gains[0.0], 100 * gains[0.4]], abs=0.006)
    report.plot_shares(summary, tmp_path / "shares.svg", report.METRIC, report.NAMES)
    assert "Duplicated functions in training" in (tmp_path / "shares.svg").read_text()


def test_runs_on_other_queries_are_not_compared(store):
    values = np.zeros(len(QUERIES))
    write_values(store.folder, "soft-bm25-python-random-None-1", QUERIES[::-1], dict.fromkeys(report.METRICS, values))
    with pytest.raises(ValueError, match="scored on other queries"):
        report.summarise("tiny", store)


def test_no_results_yet_is_said(tmp_path):
    with pytest.raises(ValueError, match="has no results yet"):
        report.summarise("tiny", Store(tmp_path))
