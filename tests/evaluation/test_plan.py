"""What a TOML file asks for, and what is refused in one."""

import pytest
import tomllib
from bench import PLAN

from evaluation import UsageError
from evaluation.environment import CONFIGS
from evaluation.runs.plan import Config, Plan

METRIC = "mrr_at_1000_duplicates"
TEACHER = "trained-model = {{ learning_rate = 0.01, batch_size = 8, steps = 4 }}"
ALL = sorted(path.stem for path in CONFIGS.glob("*.toml"))


def make_plan(text=PLAN, *changes):
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return Plan(Config("tiny", tomllib.loads(text.format(corpus="x", model="static"))), lambda language, limit: "data")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('rows = "all"', 'rows = ["other"]', r"rows has 'other', but there is no \[rows.other\]"),
        ("epochs = 1", "epoch = 1", "has 'epoch'; known are"),
        ('languages = ["python"]\nmetric', "metric", r"\[tuning\] must name languages and a metric"),
        (TEACHER, "", "'soft-teacher' needs 'trained-model'"),
        ("seeds = [1, 2]", "", "has no 'seeds'"),
        ('base = "{model}"', "", "has no 'base'"),
    ],
    ids=["row", "option", "tuning", "teacher", "seeds", "base"],
)
def test_a_wrong_file_is_refused(old, new, message):
    with pytest.raises(UsageError, match=message):
        make_plan(PLAN, (old, new))


def test_what_is_not_toml_is_refused(tmp_path):
    (tmp_path / "bad.toml").write_text("[corpus")
    with pytest.raises(UsageError, match=r"bad\.toml is not TOML"):
        Config.read(tmp_path / "bad.toml")


def test_languages_and_rows_can_be_left_out():
    plan = make_plan(PLAN, ('languages = ["python"]\nregimes', 'languages = ["python", "go"]\nregimes'))
    assert {cell.language for cell in plan.cells()} == {"python", "go"}
    plan.config.keep(languages=["go"], rows=["info-nce"])
    assert {(cell.language, cell.row) for cell in plan.cells()} == {("go", "info-nce")}
    unused = make_plan(PLAN, ("[[matrix]]", "[rows.unused]\n[[matrix]]"), ('rows = "all"', 'rows = ["info-nce"]'))
    with pytest.raises(UsageError, match=r"\['unused'\], but in no \[\[matrix\]\]"):
        unused.config.keep(rows=["unused"])


def test_a_regime_may_have_its_own_scales_which_need_tuning():
    scales = ("epochs = 1", "epochs = 1\nscales = [5.0, 50.0]")
    plan = make_plan(PLAN, scales)
    cell = next(cell for cell in plan.cells() if cell.row == "info-nce")
    points = [(run.settings["learning_rate"], run.settings["scale"]) for run in plan.tuning_runs(cell)]
    assert points == [(0.01, 5.0), (0.01, 50.0), (0.1, 5.0), (0.1, 50.0)]
    assert plan.test_runs(cell, {})[0].settings["regime"] == {"name": "random", "batch_size": 8, "epochs": 1}
    with pytest.raises(UsageError, match="must name languages and a metric"):
        make_plan(PLAN, scales, ("[0.01, 0.1]", "[0.1]"), ('metric = "mrr_at_1000_duplicates"', ""))


def test_other_data_and_other_settings_are_other_runs():
    def keys(plan):
        return {run.key for run in plan.all_runs({})}

    same = keys(make_plan())
    assert same == keys(make_plan())
    assert len(same & keys(make_plan(PLAN, ("epochs = 1", "epochs = 2")))) == 1  # zero-shot knows no regime
    assert not same & keys(Plan(make_plan().config, lambda language, limit: "other data"))


@pytest.mark.parametrize("name", ALL)
def test_plans_of_the_repository_are_valid(name):
    plan = Plan(Config.read(CONFIGS / f"{name}.toml"), lambda language, limit: "data")
    cells = list(plan.cells())
    assert cells
    few = name in ("smoke", "negatives")
    for cell in cells:
        seeds = [run.settings["seed"] for run in plan.test_runs(cell, {})]
        assert seeds == [None] or len(set(seeds)) >= (2 if few or cell.model.startswith("minilm-") else 3)


def test_all_plans_read_the_corpus_that_the_command_writes():
    assert {Config.read(CONFIGS / f"{name}.toml").corpus["folder"] for name in ALL} == {"output/corpora"}


def test_both_budgets_have_the_same_rows():
    cpu, gpu = (Config.read(CONFIGS / f"{name}.toml").content for name in ("cpu", "gpu"))
    assert cpu["rows"] == gpu["rows"]
    assert cpu["tuning"] == gpu["tuning"]


CHOICES = """
[rows.chosen]
loss = "SoftInfoNCELoss"
estimator = "bm25"
choices = [{{ treatment = {{ name = "mask", above = 0.1 }} }}, {{ treatment = {{ name = "mask", above = 0.2 }} }}]
"""


def test_a_rows_choice_is_made_on_validation_packages_with_the_chosen_rate_and_is_every_languages():
    text = PLAN.replace("[[matrix]]", f"{CHOICES}\n[[matrix]]")
    plan = make_plan(text, ("[tuning]", '[tuning]\nchoices_regime = "random"'))
    cell = next(cell for cell in plan.cells() if cell.row == "chosen")
    rates = {run.key: {"scores": {METRIC: run.settings["learning_rate"]}} for run in plan.tuning_runs(cell)}
    first, second = plan.choice_runs(cell, rates)
    assert [run.settings["row"]["treatment"]["above"] for run in (first, second)] == [0.1, 0.2]
    assert {run.settings["stage"] for run in (first, second)} == {"tune"}
    assert {run.settings["learning_rate"] for run in (first, second)} == {0.1}
    for better, runs in ((0.1, (first, second)), (0.2, (second, first))):
        results = rates | {run.key: {"scores": {METRIC: score}} for run, score in zip(runs, (0.9, 0.8), strict=True)}
        tested = plan.test_runs(cell, results)
        assert {run.settings["row"]["treatment"]["above"] for run in tested} == {better}
        assert {run.settings["learning_rate"] for run in tested} == {0.1}
    del results[second.key]
    assert plan.test_runs(cell, results)[0].settings["row"]["treatment"]["above"] == 0.1  # the first, while one misses


def test_choices_need_a_regime_and_known_names():
    text = PLAN.replace("[[matrix]]", f"{CHOICES}\n[[matrix]]")
    with pytest.raises(UsageError, match=r"\[rows.chosen\] has choices, but \[tuning\] names no choices_regime"):
        make_plan(text)
    with pytest.raises(UsageError, match=r"choices of \[rows.chosen\] has 'treat'"):
        make_plan(text, ('{{ treatment = {{ name = "mask", above = 0.2 }} }}', "{{ treat = 1 }}"))


def test_other_queries_are_part_of_what_a_result_depends_on():
    plan = make_plan()
    with_others = Plan(plan.config, plan.fingerprint, {"human-eval": "abc"})
    assert not {run.key for run in plan.all_runs({})} & {run.key for run in with_others.all_runs({})}


def test_with_mined_negatives_a_row_chooses_its_own_rate_between_a_models_rates():
    changes = (
        ("learning_rates = [0.01, 0.1]", "learning_rates = [0.01, 0.1]\nrow_rates = [0.01, 0.1]"),
        ("[tuning]", '[tuning]\nrow = "info-nce"\nregime = "random"\nchoices_regime = "mined"'),
        ("[rows.zero-shot]", "[regimes.mined]\nbatch_size = 8\nepochs = 1\nnegatives = 1\n[rows.zero-shot]"),
        ('regimes = ["random"]', 'regimes = ["random", "mined"]'),
    )
    plan = make_plan(PLAN, *changes)
    cells = {(cell.row, cell.regime): cell for cell in plan.cells()}
    tuned = plan.tuning_runs(cells["soft-bm25", "random"])
    found = {run.key: {"scores": {METRIC: -run.settings["learning_rate"]}} for run in tuned}
    assert not plan.rate_runs(cells["soft-bm25", "random"], found)
    runs = plan.rate_runs(cells["soft-bm25", "mined"], found)
    assert {run.settings["regime"]["name"] for run in runs} == {"mined"}
    found |= {run.key: {"scores": {METRIC: run.settings["learning_rate"]}} for run in runs}
    rates = {
        place: plan.test_runs(cell, found)[0].settings["learning_rate"]
        for place, cell in cells.items()
        if place[0] == "soft-bm25"
    }
    assert rates == {("soft-bm25", "random"): 0.01, ("soft-bm25", "mined"): 0.1}
    assert "row_rates" not in runs[0].settings["model"]
