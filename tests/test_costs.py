"""The measurements measure what they say; how fast anything is here, no test can tell."""

import time

import pytest

from evaluation import costs
from evaluation.costs import look_up, paired


def test_ratios_pair_what_ran_in_one_round():
    report = paired(lambda: time.sleep(0.02), lambda: time.sleep(0.005), rounds=3)
    assert 1.5 < report["ratio"] < 6
    assert report["ms"] > report["limit_ms"]
    assert report["quartiles"][0] <= report["ratio"] <= report["quartiles"][1]


def test_a_table_that_gives_back_something_else_is_noticed(monkeypatch):
    assert look_up(1000, rounds=3)["keys"] == 1000
    whole = costs.RepresentationTable.look_up

    def shifted(self, keys):
        vectors, found = whole(self, keys)
        return (None if vectors is None else vectors.roll(1, 0)), found

    monkeypatch.setattr(costs.RepresentationTable, "look_up", shifted)
    with pytest.raises(SystemExit, match="does not give back"):
        look_up(1000, rounds=3)
