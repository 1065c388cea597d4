"""Strict and duplicates-aware MRR, and the per-row numbers behind them, against ranking by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from datasets import Dataset

mteb = pytest.importorskip("mteb")

from retrieval_models import TableEncoder, evaluate, random_vectors  # noqa: E402

from st_softinfonce.tasks import (  # noqa: E402
    bm25_rows,
    evaluate_rows,
    graded_task_from_pairs,
    mean_interval,
    ndcg_at_10,
    reciprocal_ranks,
    task_from_pairs,
)


def rank_by_hand(vectors, query, answers, documents, ids):
    """Sort every document by (score, id), descending, and look for the first right answer."""
    order = sorted(set(documents), key=lambda text: (float(vectors[query] @ vectors[text]), ids[text]), reverse=True)
    rank = next(position for position, text in enumerate(order, start=1) if text in answers)
    return 1 / rank if rank <= 1000 else 0.0


def by_hand(vectors, pairs, corpus, ids):
    """From the definition, one row at a time: (strict, duplicates-aware) means."""
    rows = list(dict.fromkeys((row["query"], row["code"]) for row in pairs))
    further = [] if corpus is None else [(row.get("query"), row["code"]) for row in corpus]
    documents = [code for _, code in rows] + [code for _, code in further]
    strict = [rank_by_hand(vectors, query, {code}, documents, ids) for query, code in rows]
    aware = [
        rank_by_hand(vectors, query, {code, *(c for q, c in [*rows, *further] if q == query)}, documents, ids)
        for query, code in rows
    ]
    return float(np.mean(strict)), float(np.mean(aware))


def document_ids(task, subset="default", split="test"):
    corpus = task.table(subset, split)["corpus"]
    return dict(zip(corpus["text"], corpus["id"], strict=True))


def shared_pairs(n, queries, codes, seed=0):
    generator = np.random.default_rng(seed)
    return Dataset.from_dict(
        {
            "query": [f"query {i}" for i in generator.integers(queries, size=n)],
            "code": [f"code {i}" for i in generator.integers(codes, size=n)],
        }
    )


@pytest.mark.parametrize(
    ("pairs", "corpus"),
    [
        (shared_pairs(1, 1, 1), None),
        (shared_pairs(40, 15, 30), None),
        (shared_pairs(40, 15, 30), Dataset.from_dict({"code": [f"further {i}" for i in range(20)]})),
        (
            shared_pairs(40, 15, 30),
            Dataset.from_dict(
                {"code": [f"further {i}" for i in range(60)], "query": ["query 3", None, "query 8"] * 20}
            ),
        ),
        (shared_pairs(60, 20, 1500), Dataset.from_dict({"code": [f"further {i}" for i in range(1200)]})),
    ],
    ids=["one", "shared", "corpus", "corpus-with-docs", "past-1000"],
)
def test_strict_and_duplicates_mrr_equal_ranking_by_hand(pairs, corpus, tmp_path):
    vectors = random_vectors(pairs["query"][:] + pairs["code"][:] + ([] if corpus is None else corpus["code"][:]))
    task = task_from_pairs(pairs, "MyPairs", corpus=corpus)
    (entry,) = evaluate(TableEncoder(vectors), [task], prediction_folder=tmp_path).task_results[0].scores["test"]
    strict, aware = by_hand(vectors, pairs, corpus, document_ids(task))
    assert entry["mrr_at_1000_strict"] == pytest.approx(strict, abs=1e-12)
    assert entry["mrr_at_1000_duplicates"] == pytest.approx(aware, abs=1e-12)
    if len(pairs) > 1:
        assert strict < aware
    ranks = reciprocal_ranks(task, tmp_path)["default"]
    assert np.mean([row[0] for row in ranks.values()]) == pytest.approx(strict, abs=1e-12)
    assert np.mean([row[1] for row in ranks.values()]) == pytest.approx(aware, abs=1e-12)
    assert len(ranks) == len({(row["query"], row["code"]) for row in pairs})


@pytest.mark.parametrize(("rank", "expected"), [(1, 1.0), (999, 1 / 999), (1000, 1 / 1000), (1001, 0.0)])
def test_rank_1000_counts_and_rank_1001_does_not(rank, expected):
    codes = [f"code {i}" for i in range(1100)]
    vectors = {code: np.array([-float(i)]) for i, code in enumerate(codes)} | {"find it": np.array([1.0])}
    pairs = Dataset.from_dict({"query": ["find it", "find it"], "code": [codes[rank - 1], codes[1050]]})
    task = task_from_pairs(pairs, "MyPairs", corpus=Dataset.from_dict({"code": codes}))
    (entry,) = evaluate(TableEncoder(vectors), [task]).task_results[0].scores["test"]
    # The other row's code is always too far; for the duplicates-aware number the better of both counts twice.
    assert entry["mrr_at_1000_strict"] == pytest.approx(expected / 2, abs=1e-12)
    assert entry["mrr_at_1000_duplicates"] == entry["mrr_at_1000"] == pytest.approx(expected, abs=1e-12)


def test_row_ids_are_those_of_queries_and_name_the_code_where_a_query_has_several():
    pairs = Dataset.from_dict({"query": ["q", "q", "r"], "code": ["a", "b", "c"]})
    task = task_from_pairs(pairs, "MyPairs")
    table = task.table("default", "test")
    q, r = table["queries"]["id"]
    a, b, c = table["corpus"]["id"]
    found = {"default": {"test": {q: {a: 0.3, b: 0.2, c: 0.9}, r: {a: 0.1, c: 0.8, b: 0.9}}}}
    assert reciprocal_ranks(task, found) == {
        "default": {f"{q}/{a}": (1 / 2, 1 / 2), f"{q}/{b}": (1 / 3, 1 / 2), r: (1 / 2, 1 / 2)}
    }
    assert ndcg_at_10(task, found)["default"][r] == pytest.approx(1 / np.log2(3))


def test_query_that_found_nothing_counts_zero():
    task = task_from_pairs(Dataset.from_dict({"query": ["q", "r"], "code": ["a", "b"]}), "MyPairs")
    q, r = task.table("default", "test")["queries"]["id"]
    found = {"default": {"test": {q: {task.table("default", "test")["corpus"]["id"][0]: 1.0}}}}
    assert reciprocal_ranks(task, found)["default"] == {q: (1.0, 1.0), r: (0.0, 0.0)}
    assert ndcg_at_10(task, found)["default"] == {q: 1.0, r: 0.0}


@pytest.mark.parametrize("make", [task_from_pairs, graded_task_from_pairs])
def test_means_of_the_rows_are_the_reported_scores_of_every_language(make, tmp_path):
    rows = [{**row, "language": language} for language in ("go", "php") for row in shared_pairs(40, 15, 30)]
    pairs = Dataset.from_list(rows)
    encoder = TableEncoder(random_vectors(pairs["query"][:] + pairs["code"][:]))
    task = make(pairs, "MyPairs")
    entries = evaluate(encoder, [task], prediction_folder=tmp_path).task_results[0].scores["test"]
    ranks, gains = reciprocal_ranks(task, tmp_path), ndcg_at_10(task, str(tmp_path))
    assert set(ranks) == set(gains) == {"go", "php"}
    for entry in entries:
        strict, aware = np.mean(list(ranks[entry["hf_subset"]].values()), axis=0)
        assert entry["mrr_at_1000_strict"] == pytest.approx(strict, abs=1e-12)
        assert entry["mrr_at_1000_duplicates"] == pytest.approx(aware, abs=1e-12)
        assert entry["ndcg_at_10"] == pytest.approx(np.mean(list(gains[entry["hf_subset"]].values())), abs=1e-5)


def test_reranked_predictions_are_read_like_others(tmp_path):
    pairs = shared_pairs(40, 15, 30)
    encoder = TableEncoder(random_vectors(pairs["query"][:] + pairs["code"][:]))
    task = task_from_pairs(pairs, "MyPairs")
    evaluate(encoder, [task], prediction_folder=tmp_path / "first")
    converted = copy.deepcopy(task).convert_to_reranking(tmp_path / "first", top_k=5)
    (entry,) = evaluate(encoder, [converted], prediction_folder=tmp_path / "second").task_results[0].scores["test"]
    ranks = reciprocal_ranks(task, tmp_path / "second")["default"]
    assert entry["mrr_at_1000_strict"] == pytest.approx(np.mean([row[0] for row in ranks.values()]))
    assert min(row[0] for row in ranks.values()) == 0


def test_missing_predictions_are_named(tmp_path):
    task = task_from_pairs(shared_pairs(5, 5, 5), "MyPairs")
    with pytest.raises(FileNotFoundError, match=r"holds no file MyPairs-\w+_predictions.json: evaluate this task"):
        reciprocal_ranks(task, tmp_path)
    with pytest.raises(ValueError, match=r"predictions hold no subset of MyPairs-.*only \['go'\]"):
        reciprocal_ranks(task, {"go": {"test": {}}})


@pytest.mark.parametrize("make", [task_from_pairs, graded_task_from_pairs])
def test_evaluated_rows_are_those_of_the_predictions_and_the_task_stays_as_it_was(make, tmp_path):
    rows = [{**row, "language": language} for language in ("go", "php") for row in shared_pairs(40, 15, 30)]
    pairs = Dataset.from_list(rows)
    encoder = TableEncoder(random_vectors(pairs["query"][:] + pairs["code"][:]))
    task = make(pairs, "MyPairs")
    expected = evaluate(encoder, [task], prediction_folder=tmp_path)
    result, found = evaluate_rows(encoder, task)
    assert found == reciprocal_ranks(task, tmp_path)
    assert set(found) == {"go", "php"}
    assert result.task_results[0].scores == expected.task_results[0].scores
    assert "task_specific_scores" not in vars(task)


def test_evaluated_rows_are_measured_anew_for_another_model_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.setenv("MTEB_CACHE", str(tmp_path))
    pairs = shared_pairs(40, 40, 40)
    task = task_from_pairs(pairs, "MyPairs")
    one, other = (TableEncoder(random_vectors(pairs["query"][:] + pairs["code"][:], seed)) for seed in (0, 1))
    assert evaluate_rows(one, task)[1] != evaluate_rows(other, task)[1]


def test_bm25_finds_the_words_of_a_query_in_snake_and_camel_case():
    codes = ["def sort_list(x): return x", "function openSocket() {}", "def count_lines(x): return x", "()"]
    pairs = Dataset.from_dict({"query": ["Sort a list", "open the socket", "other words"], "code": codes[:3]})
    task = task_from_pairs(pairs, "MyPairs", corpus=Dataset.from_dict({"code": codes}))
    rows = bm25_rows(task)["default"]
    first, second, third = task.table("default", "test")["queries"]["id"]
    assert rows[first] == rows[second] == (1.0, 1.0)
    # No word in common: all tie, and rank by id, descending.
    ids = document_ids(task)
    rank = 1 + sum(name > ids[codes[2]] for name in ids.values())
    assert rows[third] == (1 / rank, 1 / rank)


def slow_bootstrap(blocks, draws):
    """Draw rows and columns one by one, as the definition has it."""
    generator = np.random.default_rng(1)
    found = []
    for _ in range(draws):
        of_languages = []
        for block in blocks:
            seeds, queries = block.shape
            centre = block.mean()
            factor = np.sqrt(seeds / (seeds - 1)) if seeds > 1 else 1.0
            rows = [row + (row.mean() - centre) * (factor - 1) for row in block]
            chosen = generator.integers(queries, size=queries)
            of_languages.append(np.mean([rows[which][chosen] for which in generator.integers(seeds, size=seeds)]))
        found.append(np.mean(of_languages))
    return np.quantile(found, [0.025, 0.975])


@pytest.mark.parametrize("shapes", [[(1, 40)], [(3, 40)], [(3, 30), (3, 60)]], ids=["one-seed", "seeds", "languages"])
def test_the_interval_is_that_of_a_slow_bootstrap(shapes):
    generator = np.random.default_rng(5)
    blocks = [generator.normal(0.1, 1, shape) + generator.normal(0, 0.3, (shape[0], 1)) for shape in shapes]
    mean, *ends = mean_interval(blocks, draws=4000)
    expected = slow_bootstrap(blocks, 3000)
    assert mean == pytest.approx(np.mean([block.mean() for block in blocks]))
    np.testing.assert_allclose(ends, expected, atol=0.08 * (expected[1] - expected[0]))


def test_the_interval_holds_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    of_query, of_seed = generator.normal(0, 0.3, (300, 1, 400)), generator.normal(0, 0.01, (300, 3, 1))
    noise = of_query + of_seed + generator.normal(0, 0.2, (300, 3, 400))
    found = [mean_interval(one, draws=400) for one in noise]
    assert 0.92 < np.mean([low < 0 < high for _, low, high in found]) < 0.985


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, r"values must be finite numbers .*got shape \(1, 0\)"),
        ([1.0, np.nan], {}, "values must be finite"),
        (np.ones((1, 1, 1)), {}, r"got shape \(1, 1, 1\)"),
        ([np.ones((2, 3)), np.ones((0, 3))], {}, r"got shape \(0, 3\)"),
        ([1.0], {"level": 1.0}, "level must be between 0 and 1, got 1.0: give e.g. 0.95"),
        ([1.0], {"draws": 0}, "draws"),
    ],
)
def test_an_interval_that_cannot_be_made_is_refused(values, options, message):
    with pytest.raises(ValueError, match=message):
        mean_interval(values, **options)
