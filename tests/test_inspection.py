"""inspection: the right negatives are found, and the page holds everything it shows."""

import math
import re
from collections import Counter
from html.parser import HTMLParser

import pandas as pd
import pytest
import torch
from datasets import Dataset

from st_softinfonce import BM25Estimator, SimilarityEstimator, WeightingParameters
from st_softinfonce.calibration import calibrate
from st_softinfonce.functional import RelevancePosterior, negative_weights
from st_softinfonce.inspection import _FineCounts, inspect_pairs, softened_negatives
from st_softinfonce.vectors import content_keys

VERBS = "read write open close sort merge count find parse send".split()
NOUNS = "file list number socket string lines bytes".split()
POSTERIOR = RelevancePosterior(knots=(0.0, 1.0), log_ratios=(-9.0, 10.0), prior=0.01, relative=True)


@pytest.fixture
def pairs():
    """70 different queries, of which the first three come twice, with code that is markup."""
    queries = [f"{verb} {noun}" for verb in VERBS for noun in NOUNS]
    queries += queries[:3]
    return Dataset.from_dict(
        {
            "query": queries,
            "code": [f"def f{i}(x):\n    return '</pre><script>alert({i})</script>' & x" for i in range(73)],
            "path": [f"package/<module{i}>.py" for i in range(73)],
            "name": [f"f{i}" for i in range(73)],
            "package": ["package"] * 73,
        }
    )


def test_twins_come_first_once_each(static_model, pairs):
    found = softened_negatives(pairs, "bm25", model=static_model, batch_size=73, posterior=POSTERIOR)
    assert isinstance(found, pd.DataFrame)
    assert {tuple(sorted(pair)) for pair in zip(found["row"][:3], found["negative_row"][:3], strict=True)} == {
        (0, 70),
        (1, 71),
        (2, 72),
    }
    assert (found["query"][:3] == found["negative_query"][:3]).all()
    texts = [tuple(sorted(pair)) for pair in zip(found["query"], found["negative_query"], strict=True)]
    assert len(set(texts)) == len(texts)
    assert found["weight"].is_monotonic_increasing
    for row in found.to_dict("records"):
        assert row["code"] == pairs["code"][row["row"]]
        assert row["negative_path"] == pairs["path"][row["negative_row"]]


def test_weights_are_those_of_the_loss(static_model, pairs):
    found = softened_negatives(pairs, BM25Estimator(), model=static_model, batch_size=73, top=10, seed=3)
    order = torch.randperm(73, generator=torch.Generator().manual_seed(3)).tolist()
    ids = BM25Estimator().represent
    from st_softinfonce.calibration import PairTexts

    representation = ids(PairTexts(pairs, model=static_model).column(order, "query"))
    similarity = BM25Estimator().for_batch(representation).similarity(representation, representation)
    weights = negative_weights(similarity, alpha=1.5, beta=0.5, temperature=1.0)
    assert len(found) == 10
    for row in found.to_dict("records"):
        place = order.index(row["row"]), order.index(row["negative_row"])
        assert row["weight"] == pytest.approx(float(weights[place]), rel=1e-6)
        assert row["similarity"] == pytest.approx(float(similarity[place]), rel=1e-6)


@pytest.mark.parametrize("batch_size", [20, 64, 500])
def test_the_histograms_count_every_negative(static_model, pairs, batch_size):
    inspection = inspect_pairs(pairs, "bm25", model=static_model, batch_size=batch_size, passes=2)
    size = min(batch_size, 73)
    seen = 2 * (73 // size) * size * (size - 1)
    assert sum(inspection.weights.values()) == seen
    assert sum(inspection.similarities.values()) == seen
    assert inspection.summary["negatives seen"] == f"{seen:,}"


class NineTenths(SimilarityEstimator):
    """0.9 for equal texts, 0 for all others."""

    weighting = WeightingParameters(alpha=1.3, beta=0.7, temperature=0.1)
    compares = "queries"

    def represent(self, column):
        return content_keys(column.content_ids).unsqueeze(1)

    def similarity(self, queries, candidates):
        return (queries == candidates.T) * 0.9


def test_twins_are_seen_in_the_histogram_though_the_first_batch_has_none(static_model, pairs):
    twins = [{0, 70}, {1, 71}, {2, 72}]
    orders = (torch.randperm(73, generator=torch.Generator().manual_seed(seed)).tolist() for seed in range(99))
    halves = [(set(order[:36]), set(order[36:72])) for order in orders]
    seed = next(n for n, (one, two) in enumerate(halves) if not any(t <= one for t in twins) and twins[0] <= two)
    inspection = inspect_pairs(pairs, NineTenths(), model=static_model, batch_size=36, seed=seed)
    (zero, others), (twin, found) = sorted(inspection.similarities.items())
    assert (zero * inspection.similarity_bin, twin * inspection.similarity_bin) == (0.0, pytest.approx(0.9))
    assert found == 2 * sum(twin <= halves[seed][1] for twin in twins)
    assert others + found == 2 * 36 * 35


@pytest.mark.parametrize(
    "batches",
    [
        [[0.0, 0.0], [0.0, 1e-7], [0.31, 0.9], [-1.0, 1.0]],
        [[1.0, 1.0], [1.0, 0.999999], [0.2, 0.7]],
        [[5.0], [5.0]],
        [[0.0], [0.0]],
        [[1e9, -1e9], [0.1, 0.2]],
        [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], [1e-4], [120.0, 34.5]],
    ],
    ids=["growing", "rounding", "equal", "zero", "wide", "decimals"],
)
@pytest.mark.parametrize("order", [1, -1], ids=["forwards", "backwards"])
def test_the_bins_hold_what_lies_in_them_in_whatever_order_it_comes(batches, order):
    fine = _FineCounts()
    for batch in batches[::order]:
        fine.add(torch.tensor(batch))
    values = [value for batch in batches for value in batch]
    counts, width = fine.histogram()
    expected = Counter(math.floor(round(value / width, 6)) for value in values)
    assert counts == expected
    assert len(fine.counts) <= len(values)
    assert max(counts) - min(counts) <= 41


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.texts = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_is_self_contained_and_escapes_every_text(static_model, pairs, tmp_path):
    inspection = inspect_pairs(pairs, "bm25", model=static_model, batch_size=73, top=12)
    path = inspection.write_page(tmp_path / "page.html", title="<b>Mine</b>")
    source = path.read_text(encoding="utf-8")
    page = Page()
    page.feed(source)
    names = [tag for tag, _ in page.tags]
    assert not {"script", "link", "img", "iframe", "b2"} & set(names)
    assert not re.search(r"https?://|url\(|@import", source)
    assert (names.count("svg"), names.count("section"), names.count("pre")) == (2, 12, 24)
    assert not any({"src", "href"} & set(attributes) for _, attributes in page.tags)
    assert inspection.negatives["code"][0] in page.texts
    assert "<b>Mine</b>" in page.texts
    assert any("<module" in text for text in page.texts)
    assert {"Weight of a negative", "Similarity to the query (estimator)", "negatives (log)"} <= set(page.texts)


def test_a_page_without_any_negative_is_still_one(static_model, pairs, tmp_path):
    never = RelevancePosterior(knots=(0.0, 1.0), log_ratios=(-90.0, -80.0), prior=0.01, relative=True)
    inspection = inspect_pairs(pairs, "bm25", model=static_model, posterior=never)
    assert inspection.negatives.empty
    assert "negative_code" in inspection.negatives.columns
    assert "None." in inspection.write_page(tmp_path / "page.html").read_text()


def test_columns_of_other_names_serve(static_model, pairs):
    plain = pairs.select_columns(["query", "code"]).rename_columns({"query": "question", "code": "answer"})
    found = softened_negatives(plain, "bm25", model=static_model)
    assert "path" not in found.columns
    assert len(found) == 100


def test_takes_a_calibrated_posterior(static_model, pairs):
    posterior = calibrate("bm25", pairs, 20, model=static_model).posterior
    found = softened_negatives(pairs, "bm25", model=static_model, batch_size=73, posterior=posterior)
    assert list(found["weight"][:3]) == pytest.approx([0.1] * 3, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "top must be an integer of at least 1, got 0"),
        ({"passes": 1.5}, "passes must be an integer of at least 1, got 1.5"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 2, got 0"),
        ({"min_weight": 0}, r"min_weight must be in \(0, 1\], got 0"),
        ({"tokenizer": 1}, "exactly one of model and tokenizer, got both"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_input_is_refused(static_model, pairs, options, message):
    with pytest.raises(ValueError, match=message):
        inspect_pairs(pairs, "bm25", **({"model": static_model} | options))
