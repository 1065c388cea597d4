"""The README's figure of the weights: its curves against the formulas, and that the file kept is what it draws."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib")

from evaluation import weights_figure
from st_softinfonce.estimators import get_estimator

KEPT = Path(__file__).parents[1] / "evaluation" / "results" / "weighting.svg"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@pytest.mark.parametrize("similarity", [0.0, 0.3, 2.0, 9.0])
def test_paper_curve_is_equation_4_with_the_others_at_zero(similarity):
    found = weights_figure.paper_curve(torch.tensor([similarity]), 16, alpha=1.3, beta=0.7, temperature=0.5)
    share = math.exp(similarity / 0.5) / (math.exp(similarity / 0.5) + 14)
    assert found.item() == pytest.approx(max((0.7 - 1.3 * share) / (0.7 - 1.3 / 15), 0.1), rel=1e-5)


@pytest.mark.parametrize("similarity", [0.1, 0.45, 0.6, 0.95])
def test_posterior_curve_is_bayes_rule_of_two_normal_densities(similarity):
    found = weights_figure.posterior_curve(torch.tensor([similarity]), 0.01)
    known, random = (math.exp(-((similarity - mean) ** 2) / (2 * 0.12**2)) for mean in (0.7, 0.1))
    assert found.item() == pytest.approx(max(1 - min(1, 0.01 * known / random), 0.1), rel=1e-4)


def test_panel_of_bm25_has_the_estimators_defaults():
    panel = next(panel for panel in weights_figure.PANELS if panel[0] == "bm25")
    weighting = get_estimator("bm25").weighting
    assert panel[3:] == (weighting.alpha, weighting.beta, weighting.temperature)


def coordinates(path):
    return [float(number) for line in re.findall(r' d="([^"]*)"', path.read_text()) for number in NUMBER.findall(line)]


def test_kept_figure_is_what_the_script_draws(tmp_path):
    assert weights_figure.main([str(tmp_path / "weighting.svg")]) == 0
    drawn = coordinates(tmp_path / "weighting.svg")
    assert len(drawn) > 1000
    assert coordinates(KEPT) == pytest.approx(drawn, abs=0.1)
