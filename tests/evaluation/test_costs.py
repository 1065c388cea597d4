"""The measurements measure what they say; how fast anything is here, no test can tell."""

import json

import pytest

from evaluation.costs import KINDS, memory, tables_and_mining, timing
from evaluation.costs.losses import GUIDED, HOST, UNWEIGHTED, make_losses
from evaluation.environment import HERE, RESULTS, write_result
from st_softinfonce import Distill


def test_ratios_pair_what_ran_in_one_round(monkeypatch):
    seconds = {"now": 0.0}

    def takes(duration):
        return lambda number: seconds.update(now=seconds["now"] + duration(number))

    monkeypatch.setattr(timing.time, "perf_counter", lambda: seconds["now"])
    # Every round is slower than the one before; the ratio within a round is 3 all the same.
    functions = {"ours": takes(lambda number: 3.0 * 2**number), "limit": takes(lambda number: 1.0 * 2**number)}
    times = timing.take_turns(functions, 4)
    assert times == {"ours": [3.0, 6.0, 12.0, 24.0], "limit": [1.0, 2.0, 4.0, 8.0]}
    found = timing.ratios(times, "limit")
    assert found["ours"] == {"ms": 9000.0, "ratio": 3.0, "quartiles": [3.0, 3.0]}
    assert found["limit"]["ratio"] == 1.0


def test_the_losses_that_are_timed_are_those_that_their_names_say(transformer_model):
    estimators = ["bm25", "bm25:compares=documents", "simcse:model=guide", "simcse:model=guide+distill"]
    losses = {name: make() for name, make in make_losses(transformer_model, estimators, 4).items()}
    assert list(losses) == [HOST, UNWEIGHTED, *estimators, GUIDED]
    assert all(type(loss).__name__.startswith("Cached") for loss in losses.values())
    batch = [
        transformer_model.preprocess(["read a file", "sort the list", "open socket", "send bytes", "find all"])
        for _ in range(2)
    ]
    values = {name: loss([dict(column) for column in batch], None).item() for name, loss in losses.items()}
    assert values[UNWEIGHTED] == pytest.approx(values[HOST])
    assert losses["bm25:compares=documents"].judges[0].estimator.compares == "documents"
    assert losses["simcse:model=guide+distill"].judges[0].treatments == (Distill(),)


def test_looking_up_is_timed_against_reading_rows():
    found = tables_and_mining.look_up(1000, rounds=3)
    assert found["keys"] == 1000
    assert found["ratio"] > 0


def test_the_memory_of_a_step_is_measured_before_and_after(capsys):
    memory._step(HOST, 8, 4)
    before, peak = json.loads(capsys.readouterr().out)
    assert 0 < before <= peak


@pytest.mark.parametrize("file", [*(file for _, file in KINDS.values()), "theory.json"])
def test_a_result_is_shown_as_the_page_has_it(tmp_path, capsys, file):
    content = json.loads((RESULTS / file).read_text())
    write_result(tmp_path / "new.json", content, file)
    assert json.loads((tmp_path / "new.json").read_text()) == content
    assert capsys.readouterr().out in (HERE / "RESULTS.md").read_text()
