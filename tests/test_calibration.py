"""calibrate: its counts against the weights themselves, what it reports, and what it refuses."""

import dataclasses
import math

import pytest
import torch
from conftest import DOCUMENTS, QUERIES
from datasets import Dataset

from st_softinfonce import BM25Estimator, SimilarityEstimator, SoftInfoNCELoss, WeightingParameters
from st_softinfonce.calibration import PairTexts, WeightSummary, batch_similarities, calibrate

VERBS = "read write open close sort merge count find parse send".split()
NOUNS = "file list number socket string lines bytes".split()


@pytest.fixture
def pairs():
    """70 different queries, each of them twice: every query has one twin."""
    queries = [f"{verb} {noun}" for verb in VERBS for noun in NOUNS]
    return Dataset.from_dict({"query": queries * 2, "code": [f"def {query} return value" for query in queries * 2]})


class Constant(SimilarityEstimator):
    weighting = WeightingParameters(alpha=1.3, beta=0.7, temperature=0.1)
    compares = "queries"

    def represent(self, column):
        return torch.zeros(len(column), 1)

    def similarity(self, queries, candidates):
        return torch.ones(len(queries), len(candidates))


def test_the_summary_counts_what_it_says():
    weights = torch.tensor([[0.1, 0.4, 0.8, 1.2], [1.0, 1.0, 1.0, 1.0]])
    summary = WeightSummary.of_negatives(weights, 0.1)
    assert dataclasses.astuple(summary)[:4] == (1.5, 1.0, 0.5, 0.5)
    effective = 2.5**2 / (0.01 + 0.16 + 0.64 + 1.44)
    assert summary.effective_negatives == pytest.approx((effective + 4) / 2)


@pytest.mark.parametrize("compares", ["queries", "documents"])
def test_the_report_finds_the_twins(static_model, pairs, compares):
    report = calibrate(BM25Estimator(compares=compares), pairs, 20, model=static_model)
    assert report.batches == 70
    assert (report.alpha, report.beta, report.temperature) == (1.5, 0.5, 1.0)
    assert report.posterior.relative == (compares == "queries")
    assert report.posterior.known_pairs == 1400
    if compares == "queries":  # relative scores: a twin scores 1, whatever its presence does to the batch's idf
        # A twin shares the batch of 20 of 140 with a probability of 19 / 139.
        assert report.posterior.prior == pytest.approx(1 / 139, rel=0.5)
        assert report.at_posterior.below_0_5 == pytest.approx(19 / 139, rel=0.4)
    else:
        assert 1e-4 < report.posterior.prior < 2 / 139
    assert report.paper.untouched_queries < 0.2 < report.at_posterior.untouched_queries
    SoftInfoNCELoss(static_model, weighting="posterior", posterior=report.posterior)


def test_the_table_and_the_advice_read_well(static_model, pairs):
    report = calibrate("bm25", pairs, 20, model=static_model, batches=20)
    text = str(report)
    assert "bm25: 20 batches of 20, 19 negatives a query (alpha=1.5, beta=0.5)" in text
    assert text.endswith(report.advice)
    assert max(map(len, text.splitlines()[:-1])) <= 110


def test_the_suggested_temperature_softens_the_share_asked_for(static_model, pairs):
    report = calibrate("bm25", pairs, 20, model=static_model, batches=20, softened_share=0.1)
    assert report.at_suggested_temperature.below_0_9 / 19 == pytest.approx(0.1, abs=0.02)


def test_the_seed_decides(static_model, pairs):
    options = {"model": static_model, "batches": 5}
    one, same, other = (calibrate("bm25", pairs, 20, **options, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one.paper != other.paper


def test_an_estimator_that_tells_nothing_is_reported_not_fatal(static_model, pairs):
    report = calibrate(Constant(), pairs, 20, model=static_model)
    assert report.posterior is None
    assert "all equal" in report.posterior_problem
    assert report.suggested_temperature is None
    assert report.advice.startswith("No posterior: ")
    assert report.paper.untouched_queries == 1.0


def test_texts_are_those_of_training(transformer_model, pairs):
    transformer_model.max_seq_length = 4
    texts = PairTexts(pairs, model=transformer_model)
    assert texts.column([0], "document").texts == ["def read"]
    assert PairTexts(pairs, tokenizer=transformer_model.tokenizer).column([0], "query").texts == ["read file"]


def test_batches_come_in_random_order_and_begin_anew(static_model, pairs):
    texts = PairTexts(pairs, model=static_model)
    batches = list(batch_similarities(BM25Estimator(), texts, 40, batches=4, seed=0))
    seen = [row for rows, _ in batches[:3] for row in rows]
    assert len(set(seen)) == 120
    assert seen != sorted(seen)
    assert batches[3][1].shape == (40, 40)
    assert batches[3][0] != batches[0][0]


def test_the_first_two_columns_serve_without_the_usual_names(static_model):
    data = Dataset.from_dict({"question": QUERIES, "answer": DOCUMENTS, "other": DOCUMENTS})
    assert PairTexts(data, model=static_model).columns == ("question", "answer")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 1}, "batch_size must be an integer of at least 2, got 1"),
        ({"batch_size": 141}, "pairs must fill a batch of 141, got 140"),
        ({"batches": 0}, "batches must be an integer of at least 1, got 0"),
        ({"model": None}, "exactly one of model and tokenizer, got neither"),
        ({"tokenizer": 1}, "exactly one of model and tokenizer, got both"),
        ({"alpha": -1.0}, "alpha must be"),
        ({"softened_share": 2}, r"share must be in \(0, 1\], got 2"),
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"softened_share": 0}, r"softened_share must be in \(0, 1\], got 0"),
        ({"prior": 5}, r"prior must be in \(0, 1\], got 5"),
    ],
    ids=["softened_share", "prior"],
)
def test_a_share_out_of_range_is_refused_by_name(static_model, pairs, options, message):
    with pytest.raises(ValueError, match=message):
        calibrate("bm25", pairs, 16, model=static_model, **options)


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
    assert "no text is similar to itself" in report.advice
    assert "Give a larger batch_size" in report.advice


def test_an_estimator_that_returns_nan_is_named(static_model, pairs):
    class Nan(Constant):
        def similarity(self, queries, candidates):
            return super().similarity(queries, candidates) * math.nan

    with pytest.raises(ValueError, match="similarity of the estimator 'Nan' holds nan at row 0, column 1"):
        calibrate(Nan(), pairs, 16, model=static_model)
