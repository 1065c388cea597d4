"""The figures: curves against the formulas, and that those kept are what the results in the repository give."""

import math
import re

import pytest
import torch

pytest.importorskip("matplotlib")

from evaluation.environment import RESULTS
from evaluation.report.figures import draw
from evaluation.report.plots import COLOURS, INK
from evaluation.studies.weights import PANELS, paper_curve, posterior_curve
from st_softinfonce import Soften, get_estimator

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
KEPT = sorted(path.name for path in RESULTS.glob("*.svg"))


@pytest.mark.parametrize("similarity", [0.0, 0.3, 2.0, 9.0])
def test_paper_curve_is_equation_4_with_the_others_at_zero(similarity):
    found = paper_curve(torch.tensor([similarity]), 16, alpha=1.3, beta=0.7, temperature=0.5)
    share = math.exp(similarity / 0.5) / (math.exp(similarity / 0.5) + 14)
    assert found.item() == pytest.approx(max((0.7 - 1.3 * share) / (0.7 - 1.3 / 15), 0.1), rel=1e-5)


@pytest.mark.parametrize("similarity", [0.1, 0.45, 0.6, 0.95])
def test_posterior_curve_is_bayes_rule_of_two_normal_densities(similarity):
    found = posterior_curve(torch.tensor([similarity]), 0.01)
    known, random = (math.exp(-((similarity - mean) ** 2) / (2 * 0.12**2)) for mean in (0.7, 0.1))
    assert found.item() == pytest.approx(max(1 - min(1, 0.01 * known / random), 0.1), rel=1e-4)


def test_the_panel_of_bm25_has_the_estimators_defaults():
    options = next(panel for panel in PANELS if panel[0] == "bm25")[3]
    assert Soften(**options) == get_estimator("bm25").treatment


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    for path in RESULTS.glob("*.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    return {path.name: path.read_text() for path in draw(folder)}


def coordinates(text):
    return [float(number) for line in re.findall(r' d="([^"]*)"', text) for number in NUMBER.findall(line)]


def test_every_figure_that_is_kept_is_drawn_from_the_results(drawn):
    assert sorted(drawn) == KEPT


@pytest.mark.parametrize("name", KEPT)
def test_a_figure_that_is_kept_is_what_its_results_give(drawn, name):
    found = coordinates(drawn[name])
    assert len(found) > 50
    assert coordinates((RESULTS / name).read_text()) == pytest.approx(found, abs=0.1)


def contrast(one, other):
    def luminance(colour):
        parts = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("page", ["#ffffff", "#0d1117"], ids=["light", "dark"])
def test_figures_are_legible_on_light_and_on_dark_pages(drawn, page):
    assert contrast(INK, page) > 4.2
    assert all(contrast(colour, page) > 3 for colour in COLOURS)
    for text in drawn.values():
        assert re.search(r"fill: ?(#ffffff|white|#000000)", text) is None
