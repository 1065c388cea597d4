"""calibrate: its counts against the weights themselves, what it reports, and what it refuses."""

import json
import math
from dataclasses import replace

import pytest
import torch
from datasets import Dataset

from st_softinfonce import (
    BM25Estimator,
    Discount,
    Distill,
    Mask,
    PairwiseEstimator,
    Promote,
    SimilarityEstimator,
    Soften,
    SoftInfoNCELoss,
    calibrate,
    get_estimator,
)
from st_softinfonce.calibration import make_treatment
from st_softinfonce.effects import Effects

VERBS = "read write open close sort merge count find parse send".split()
NOUNS = "file list number socket string lines bytes".split()


@pytest.fixture
def pairs():
    """70 different queries, each of them twice: every query has one twin."""
    queries = [f"{verb} {noun}" for verb in VERBS for noun in NOUNS]
    return Dataset.from_dict({"query": queries * 2, "code": [f"def {query} return value" for query in queries * 2]})


class Constant(SimilarityEstimator):
    treatment = Soften(alpha=1.3, beta=0.7, temperature=0.1)
    compares = "queries"

    def represent(self, column):
        return torch.zeros(len(column), 1)

    def similarity(self, queries, candidates):
        return torch.ones(len(queries), len(candidates))


def test_effects_count_what_happens_to_negatives():
    weights = torch.tensor([[1.0, 0.1, 0.4, 0.8, 0.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
    targets = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0, 0.0]])
    positives = torch.tensor([0, 0])
    negative = torch.ones(2, 5, dtype=torch.bool).scatter(1, positives.unsqueeze(1), False)
    effects = Effects.of(weights.log(), targets, positives, negative)
    assert (effects.negatives, effects.masked, effects.softened, effects.promoted) == (4, 1 / 8, 3 / 8, 1 / 8)
    assert effects.target == pytest.approx(0.25)
    assert effects.weight_mean == pytest.approx((1.3 + 4) / 8)
    assert effects.effective_negatives == pytest.approx((1.3**2 / (0.01 + 0.16 + 0.64) + 4) / 2)
    assert effects.untouched_queries == 0


@pytest.mark.parametrize("compares", ["queries", "documents"])
def test_the_report_finds_the_twins_and_its_treatments_train(static_model, pairs, compares):
    estimator = BM25Estimator(compares=compares)
    report = calibrate(estimator, pairs, 20, model=static_model)
    assert report.batches == 70
    assert report.treatments == (estimator.treatment,)
    assert report.posterior.relative == (compares == "queries")
    assert report.posterior.known_pairs == 1400
    if compares == "queries":  # relative scores: a twin scores 1, whatever its presence does to the batch's idf
        # A twin shares the batch of 20 of 140 with a probability of 19 / 139.
        assert report.posterior.prior == pytest.approx(1 / 139, rel=0.5)
        assert report.effects["discount"].treated == pytest.approx(19 / 139, rel=0.4)
    else:
        assert 1e-4 < report.posterior.prior < 2 / 139
    assert report.effects["treatments"].untouched_queries < 0.2 < report.effects["discount"].untouched_queries
    assert isinstance(report.soften, Soften)
    assert report.discount == Discount(report.posterior)
    for treatment in (report.soften, report.discount):
        assert SoftInfoNCELoss(static_model, estimator, treatment).judges[0].treatments == (treatment,)


@pytest.mark.parametrize(
    ("treatment", "effect"),
    [(Mask(top_k=2), "masked"), (Promote(above=0.5), "promoted"), (Distill(temperature=2.0), "target")],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_any_treatment_can_be_asked_about(static_model, pairs, treatment, effect):
    report = calibrate("bm25", pairs, 20, treatment=treatment, model=static_model, batches=20)
    assert report.treatments == (treatment,)
    assert 0 < getattr(report.effects["treatments"], effect) < 1
    if effect == "masked":
        assert report.effects["treatments"].masked == pytest.approx(2 / 19)
    assert type(treatment).__name__ in str(report)


def test_the_table_and_the_advice_read_well(static_model, pairs):
    report = calibrate("bm25", pairs, 20, model=static_model, batches=20)
    text = str(report)
    assert "bm25: 20 batches of 20, 19 negatives a query" in text
    assert text.endswith(report.advice)
    assert max(map(len, text.splitlines()[:-1])) <= 110


class LikeDifflib(PairwiseEstimator):
    """Similarity of a few pairs by their letters; all others are -inf, never relevant."""

    treatment = Soften(alpha=1.3, beta=0.7, temperature=1.0)

    def score(self, queries, candidates):
        shared = [len(set(q) & set(c)) / len(set(q) | set(c)) for q, c in zip(queries, candidates, strict=True)]
        return torch.tensor(shared)


@pytest.mark.parametrize("estimator", ["bm25", LikeDifflib(compares="queries")], ids=["bm25", "pairwise"])
@pytest.mark.parametrize("share", [0.06, 0.1])
def test_the_temperature_found_softens_the_share_asked_for(static_model, pairs, estimator, share):
    report = calibrate(estimator, pairs, 20, model=static_model, batches=20, softened_share=share)
    assert report.effects["soften"].softened == pytest.approx(share, abs=0.02)


def test_a_treatment_by_name_is_the_estimators_own_or_fitted(static_model, pairs):
    def make(name, estimator="bm25", **options):
        return make_treatment(name, options, get_estimator(estimator), pairs, 20, model=static_model)

    assert make("soften") == BM25Estimator.treatment
    assert make("soften", min_weight=0.3) == replace(BM25Estimator.treatment, min_weight=0.3)
    assert make("mask", top_k=3) == Mask(top_k=3)
    report = calibrate("bm25", pairs, 20, model=static_model)
    assert make("discount", min_weight=0.0) == replace(report.discount, min_weight=0.0)
    fitted = calibrate(get_estimator("near-duplicate"), pairs, 20, model=static_model).soften
    assert make("soften", "near-duplicate") == fitted
    with pytest.raises(TypeError, match=r"options of mask must be among margin, relative, .*, got floor"):
        make("mask", floor=1)
    with pytest.raises(ValueError, match="no treatment 'soften' for 'identical': no temperature makes a difference"):
        make_treatment("soften", {}, get_estimator("identical"), pairs.select(range(70)), 70, model=static_model)


def test_the_seed_decides(static_model, pairs):
    options = {"model": static_model, "batches": 5}
    one, same, other = (calibrate("bm25", pairs, 20, **options, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one.effects != other.effects


def test_an_estimator_that_tells_nothing_is_reported_not_fatal(static_model, pairs):
    report = calibrate(Constant(), pairs, 20, model=static_model)
    assert report.posterior is None
    assert "all equal" in report.discount_problem
    assert report.soften is None
    assert "all negatives are equally similar" in report.soften_problem
    assert set(report.effects) == {"treatments"}
    assert report.effects["treatments"].untouched_queries == 1.0
    assert "this is plain InfoNCE" in report.advice
    assert report.soften_problem in str(report)
    assert report.python() == ""
    assert json.loads(json.dumps(report.to_dict()))["posterior"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 1}, "batch_size must be an integer of at least 2, got 1"),
        ({"batch_size": 141}, "pairs must fill a batch of 141, got 140"),
        ({"batches": 0}, "batches must be an integer of at least 1, got 0"),
        ({"model": None}, "model must be the model to train, got NoneType"),
        ({"softened_share": 2}, r"softened_share must be in \(0, 1\], got 2"),
        ({"softened_share": 0}, r"softened_share must be in \(0, 1\], got 0"),
        ({"prior": 5}, r"prior must be in \(0, 1\], got 5"),
        ({"estimator": "no-such"}, "estimator must be one of"),
        ({"pairs": [("a", "b")]}, "pairs must be a datasets.Dataset, got list"),
        ({"pairs": Dataset.from_dict({"query": ["a"]})}, r"pairs must have two text columns, got \['query'\]"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_input_is_refused(static_model, pairs, options, message):
    call = {"estimator": "bm25", "pairs": pairs, "batch_size": 20, "model": static_model} | options
    with pytest.raises(ValueError, match=message):
        calibrate(**call)


@pytest.mark.parametrize(("bad", "name"), [(None, "NoneType"), (3, "int")])
def test_something_else_than_a_text_is_refused_by_its_place(static_model, bad, name):
    column = [None, bad] if bad is None else [bad, bad]
    data = Dataset.from_dict({"query": ["read", "write"], "code": column})
    with pytest.raises(ValueError, match=f"pairs must hold texts, got a {name} in the column 'code', row 0. Filter"):
        calibrate("bm25", data, 2, model=static_model)


@pytest.mark.filterwarnings("ignore::st_softinfonce.functional.SmallBatchWarning")
@pytest.mark.parametrize("batch_size", [2, 16])
def test_texts_that_are_not_even_similar_to_themselves_are_named(static_model, pairs, batch_size):
    """BM25 says nothing about two texts, nor about empty ones."""
    data = pairs if batch_size == 2 else Dataset.from_dict({"query": [""] * 64, "code": [""] * 64})
    report = calibrate("bm25", data, batch_size, model=static_model)
    assert report.posterior is None
    assert "no text is similar to itself" in report.discount_problem
    assert "Give a larger batch_size" in report.discount_problem


def test_an_estimator_that_returns_nan_is_named(static_model, pairs):
    class Nan(Constant):
        def similarity(self, queries, candidates):
            return super().similarity(queries, candidates) * math.nan

    with pytest.raises(ValueError, match="similarity of the estimator 'Nan' holds nan at row 0, column 1"):
        calibrate(Nan(), pairs, 16, model=static_model)
