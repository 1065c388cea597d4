"""inspect_pairs: what it shows is what the loss does, and the page holds everything it shows."""

import re
from html.parser import HTMLParser

import pandas as pd
import pytest
import torch
from datasets import Dataset

from st_softinfonce import (
    BM25Estimator,
    Discount,
    Distill,
    Mask,
    Promote,
    RelevancePosterior,
    SimilarityEstimator,
    Soften,
    calibrate,
    inspect_pairs,
)
from st_softinfonce.pair_batches import PairTexts, batch_similarities
from st_softinfonce.treatments import combine
from st_softinfonce.vectors import content_keys

VERBS = "read write open close sort merge count find parse send".split()
NOUNS = "file list number socket string lines bytes".split()
POSTERIOR = RelevancePosterior(knots=(0.0, 1.0), log_ratios=(-9.0, 10.0), prior=0.01, relative=True)
TWINS = {(0, 70), (1, 71), (2, 72)}


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


def inspect(model, pairs, *judged, **options):
    return inspect_pairs(pairs, *judged, **({"model": model, "batch_size": 73} | options))


def rows_of(negatives):
    return {tuple(sorted(pair)) for pair in zip(negatives["row"], negatives["negative_row"], strict=True)}


class Same(SimilarityEstimator):
    """0.9 for equal queries, 0 for all others."""

    treatment = Mask(above=0.5)
    compares = "queries"

    def represent(self, column):
        return content_keys(column.content_ids).unsqueeze(1)

    def similarity(self, queries, candidates):
        return (queries == candidates.T) * 0.9


def test_twins_come_first_once_each_with_their_texts(static_model, pairs):
    found = inspect(static_model, pairs, "bm25", Discount(POSTERIOR)).negatives
    assert isinstance(found, pd.DataFrame)
    assert rows_of(found[:3]) == TWINS
    assert (found["query"][:3] == found["negative_query"][:3]).all()
    texts = [tuple(sorted(pair)) for pair in zip(found["query"], found["negative_query"], strict=True)]
    assert len(set(texts)) == len(texts)
    assert found["weight"].is_monotonic_increasing
    assert set(found["effect"]) == {"softened"}
    assert (found["weight"] < 0.9).all()
    for row in found.to_dict("records"):
        assert row["code"] == pairs["code"][row["row"]]
        assert row["negative_path"] == pairs["path"][row["negative_row"]]


@pytest.mark.parametrize(
    ("treatment", "effect"),
    [(Mask(above=0.5), "masked"), (Promote(), "promoted"), (Distill(share=0.5), "taught")],
    ids=["mask", "promote", "distill"],
)
def test_each_treatment_shows_what_it_treats_and_nothing_else(static_model, pairs, treatment, effect):
    inspection = inspect(static_model, pairs, Same(), treatment)
    assert rows_of(inspection.negatives) == TWINS
    assert set(inspection.negatives["effect"]) == {effect}
    assert inspection.summary[effect].startswith("6 (")
    assert (inspection.negatives["weight"] == (0.0 if effect == "masked" else 1.0)).all()
    assert ((inspection.negatives["target"] > 0.1) == (effect != "masked")).all()


def test_numbers_are_those_of_the_loss(static_model, pairs):
    chosen = (Soften(alpha=1.5, beta=0.5, temperature=1.0), Mask(top_k=1), Distill(temperature=3.0))
    found = inspect(static_model, pairs, BM25Estimator(), chosen, seed=3, top=500).negatives
    texts = PairTexts(pairs, model=static_model)
    ((order, similarity),) = batch_similarities(BM25Estimator(), texts, 73, batches=1, seed=3)
    log_weights, targets = combine([(chosen, similarity, None)], torch.arange(73))
    assert {"masked", "taught", "softened"} >= set(found["effect"]) >= {"masked", "softened"}
    for row in found.to_dict("records"):
        place = order.index(row["row"]), order.index(row["negative_row"])
        assert row["weight"] == pytest.approx(float(log_weights.exp()[place]), rel=1e-6)
        assert row["target"] == pytest.approx(float(targets[place]), rel=1e-6)
        assert row["similarity"] == pytest.approx(float(similarity[place]), rel=1e-6)
        assert row["own_similarity"] == pytest.approx(float(similarity[place[0], place[0]]), rel=1e-6)


def test_several_estimators_at_once(static_model, pairs):
    judged = [(Same(), Mask(above=0.5)), ("bm25", Distill(share=1.0, temperature=10.0))]
    found = inspect(static_model, pairs, treatments=judged).negatives
    assert rows_of(found[found["effect"] == "masked"]) == TWINS
    assert "taught" in set(found["effect"])
    assert "similarity_bm25" in found.columns
    assert (found[found["effect"] == "masked"]["target"] == 0).all()


def test_many_equal_queries_do_not_hide_the_rest(static_model, pairs):
    repeated = Dataset.from_dict(
        {"query": ["read file"] * 46 + pairs["query"][3:70], "code": [f"def g{i}" for i in range(113)]}
    )
    found = inspect(static_model, repeated, "bm25", batch_size=113, top=20).negatives
    assert len(found) == 20
    assert (found["query"] == found["negative_query"]).sum() <= 1


@pytest.mark.parametrize("batch_size", [20, 64, 500])
def test_every_negative_is_counted(static_model, pairs, batch_size):
    inspection = inspect(static_model, pairs, "bm25", batch_size=batch_size, passes=2)
    size = min(batch_size, 73)
    assert inspection.summary["negatives seen"] == f"{2 * (73 // size) * size * (size - 1):,}"


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.texts = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_is_self_contained_and_escapes_every_text(static_model, pairs, tmp_path):
    inspection = inspect(static_model, pairs, "bm25", top=12)
    path = inspection.write_page(tmp_path / "page.html", title="<b>Mine</b>")
    source = path.read_text(encoding="utf-8")
    page = Page()
    page.feed(source)
    names = [tag for tag, _ in page.tags]
    assert not {"script", "link", "img", "iframe"} & set(names)
    assert not re.search(r"https?://|url\(|@import", source)
    assert (names.count("section"), names.count("pre")) == (12, 24)
    assert not any({"src", "href"} & set(attributes) for _, attributes in page.tags)
    assert inspection.negatives["code"][0] in page.texts
    assert "<b>Mine</b>" in page.texts
    assert any("<module" in text for text in page.texts)
    # What a weight means, and what to do next.
    assert any("a negative of weight 0.1 counts a tenth" in text for text in page.texts)
    assert "What to do next" in page.texts
    assert not any("masked" in text.lower() for text in page.texts)  # nothing is


@pytest.mark.parametrize(
    ("compares", "marked"),
    [("queries", ["read", "read"]), ("documents", ["read", "data", "read_data", "readData"]), ("positives", [])],
)
def test_the_page_marks_the_words_that_the_compared_texts_share(static_model, tmp_path, compares, marked):
    pairs = Dataset.from_dict(
        {"query": ["read the data", "the read"], "code": ["def read_file(of): read", "def read_data(the): readData"]}
    )
    found = inspect_pairs(pairs, BM25Estimator(compares=compares), Mask(top_k=1), model=static_model)
    page = found.write_page(tmp_path / "page.html").read_text()
    first, *_ = [part for part in page.split("<section>")[1:] if "read</mark> the" in part or not marked]
    assert re.findall("<mark>(.*?)</mark>", first) == marked
    own = "its own document has" if compares == "documents" else "the same text would have"
    assert re.search(rf"similarity <b>[\d.e-]+</b> &middot; {own} [\d.e-]+", first)
    assert ("are <mark>marked" in page) == bool(marked)


def test_a_page_without_any_negative_is_still_one(static_model, pairs, tmp_path):
    never = RelevancePosterior(knots=(0.0, 1.0), log_ratios=(-90.0, -80.0), prior=0.01, relative=True)
    inspection = inspect(static_model, pairs, "bm25", Discount(never))
    assert inspection.negatives.empty
    assert "negative_code" in inspection.negatives.columns
    assert "No negative is treated." in inspection.write_page(tmp_path / "page.html").read_text()


def test_takes_what_calibrate_found(static_model, pairs):
    report = calibrate("bm25", pairs, 20, model=static_model)
    assert list(inspect(static_model, pairs, "bm25", report.discount).negatives["weight"][:3]) == pytest.approx(
        [0.1] * 3
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "top must be an integer of at least 1, got 0"),
        ({"passes": 1.5}, "passes must be an integer of at least 1, got 1.5"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 2, got 0"),
        ({"treatment": Distill(share=0)}, "treatment must have an effect, got Distill"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_input_is_refused(static_model, pairs, options, message):
    with pytest.raises(ValueError, match=message):
        inspect_pairs(pairs, "bm25", **({"model": static_model} | options))
