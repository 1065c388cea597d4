"""The tasks of `st_softinfonce.tasks`, run through `mteb.evaluate` and compared with ranking by hand."""

from __future__ import annotations

import copy
import importlib
import pickle
import sys

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

mteb = pytest.importorskip("mteb")

from mteb.languages import check_language_code  # noqa: E402
from retrieval_models import TableEncoder, evaluate, random_vectors, score  # noqa: E402

from st_softinfonce.tasks import CodeRetrieval, task_from_pairs  # noqa: E402


def brute_force_mrr(vectors, relevant, documents):
    """From the definition: 1 / (1 + number of documents that beat the best right answer), 0 past rank 1000."""
    documents = list(dict.fromkeys(documents))
    reciprocal_ranks = []
    for query, answers in relevant.items():
        scores = {document: float(vectors[query] @ vectors[document]) for document in documents}
        best = max(scores[answer] for answer in answers)
        rank = 1 + sum(score > best for score in scores.values())
        reciprocal_ranks.append(1 / rank if rank <= 1000 else 0.0)
    return float(np.mean(reciprocal_ranks))


def relevance(queries, codes):
    relevant = {}
    for query, code in zip(queries, codes, strict=True):
        relevant.setdefault(query, []).append(code)
    return relevant


def make_pairs(n, *, queries=None, language=None, prefix=""):
    queries = n if queries is None else queries
    columns = {
        "query": [f"{prefix}query {i % queries}" for i in range(n)],
        "code": [f"{prefix}code {i}" for i in range(n)],
    }
    if language is not None:
        columns["language"] = [language] * n
    return Dataset.from_dict(columns)


# The score


@pytest.mark.parametrize(
    ("n", "queries", "extra"),
    [(1, 1, 0), (40, 40, 0), (40, 15, 30), (1100, 60, 300)],
    ids=["one-pair", "fewer-than-1000", "several-answers", "more-than-1000"],
)
def test_mrr_equals_ranking_every_document_by_hand(n, queries, extra):
    pairs = make_pairs(n, queries=queries)
    corpus = make_pairs(extra, prefix="further ").select_columns("code") if extra else None
    documents = pairs["code"][:] + (corpus["code"][:] if corpus else [])
    vectors = random_vectors(pairs["query"][:] + documents)
    relevant = relevance(pairs["query"], pairs["code"])

    measured = score(TableEncoder(vectors), task_from_pairs(pairs, "MyPairs", corpus=corpus))

    assert measured == pytest.approx(brute_force_mrr(vectors, relevant, documents), abs=1e-12)
    if n > 1:
        others = dict(zip(relevant, [*list(relevant.values())[1:], ["code 0"]], strict=True))
        assert measured != pytest.approx(brute_force_mrr(vectors, others, documents), abs=1e-4)


def test_exact_ties_rank_by_id_whatever_the_order_of_rows():
    pairs = make_pairs(30)
    vectors = dict.fromkeys(pairs["query"][:] + pairs["code"][:], np.ones(2))
    task = task_from_pairs(pairs, "MyPairs")
    # Thirty documents, each the answer of one query, take the thirty ranks in some order.
    assert score(TableEncoder(vectors), task) == pytest.approx(np.mean([1 / rank for rank in range(1, 31)]))

    task.load_data()
    last = max(task.dataset["default"]["test"]["corpus"], key=lambda row: row["id"])["text"]
    one = Dataset.from_dict({"query": ["query 0"], "code": [last]})
    for seed in range(3):
        corpus = pairs.shuffle(seed=seed).select_columns("code")
        assert score(TableEncoder(vectors), task_from_pairs(one, "MyPairs", corpus=corpus)) == 1.0


def test_a_language_is_searched_among_its_own_candidates_alone():
    python, go = make_pairs(30, language="python", prefix="py "), make_pairs(20, language="Go", prefix="go ")
    pairs = Dataset.from_list([*python, *go]).shuffle(seed=0)
    further = Dataset.from_dict({"code": ["go more", "py more"], "language": ["go", "python"]})
    texts = pairs["query"][:] + pairs["code"][:] + further["code"][:]
    vectors = random_vectors(texts)

    task = task_from_pairs(pairs, "MyPairs", corpus=further)
    result = evaluate(TableEncoder(vectors), [task]).task_results[0]

    expected = {}
    for language, table, more in [("python", python, "py more"), ("go", go, "go more")]:
        relevant = relevance(table["query"], table["code"])
        expected[language] = brute_force_mrr(vectors, relevant, [*table["code"], more])
        assert result.get_score(languages=[language]) == pytest.approx(expected[language])
        assert expected[language] != pytest.approx(brute_force_mrr(vectors, relevant, texts))
    assert result.get_score() == pytest.approx(np.mean(list(expected.values())))


@pytest.mark.parametrize(
    "chosen", [{"languages": ["go"]}, {"languages": None, "hf_subsets": ["go"]}], ids=["language", "subset"]
)
def test_filtered_task_runs_one_language_alone(chosen):
    pairs = Dataset.from_list([*make_pairs(9, language="python"), *make_pairs(9, language="go", prefix="go ")])
    encoder = TableEncoder(random_vectors(pairs["query"][:] + pairs["code"][:]))
    result = evaluate(encoder, [task_from_pairs(pairs, "MyPairs").filter_languages(**chosen)]).task_results[0]
    assert [entry["hf_subset"] for entry in result.scores["test"]] == ["go"]
    assert all(text.startswith("go ") for text in encoder.texts_seen)


# The data


def test_equal_queries_and_equal_codes_are_merged_within_a_language():
    pairs = Dataset.from_dict(
        {
            "query": ["sort", "sort", " sort\n", "add", "sort"],
            "code": ["a", "b", "b", "  b ", "a"],
            "language": ["go", "go", "go", "go", "php"],
        }
    )
    task = task_from_pairs(pairs, "MyPairs", split="valid")
    task.load_data()
    go, php = task.dataset["go"]["valid"], task.dataset["php"]["valid"]
    assert go["queries"]["text"][:] == ["sort", "add"]
    assert go["corpus"]["text"][:] == ["a", "b"]
    text = dict(zip(go["corpus"]["id"], go["corpus"]["text"], strict=True))
    answers = [sorted(text[document] for document in go["relevant_docs"][query]) for query in go["queries"]["id"]]
    assert answers == [["a", "b"], ["b"]]
    assert php["queries"]["text"][:] == ["sort"]
    assert php["corpus"]["text"][:] == ["a"]


def test_ids_and_fingerprint_are_the_same_in_every_run():
    task = task_from_pairs(Dataset.from_dict({"query": ["add"], "code": ["a + b"]}), "MyPairs")
    task.load_data()
    assert task.dataset["default"]["test"]["corpus"]["id"][:] == ["2b6ab4fd1332e319186a2ddbf126082b"]
    assert task.metadata.revision == "cfe3e00b9e106aa53f5eb5750ead6010ce1982ca"
    assert task.metadata.name == "MyPairs-cfe3e00b"


def test_fingerprint_follows_content_and_not_the_order_of_rows():
    pairs = make_pairs(20)
    revision = task_from_pairs(pairs, "MyPairs").metadata.revision
    assert task_from_pairs(pairs.shuffle(seed=1), "MyPairs").metadata.revision == revision
    unlabelled = pairs.add_column("path", ["x.py"] * 20)
    assert task_from_pairs(unlabelled, "MyPairs").metadata.revision == revision
    others = [
        task_from_pairs(pairs.select(range(19)), "MyPairs"),
        task_from_pairs(pairs.select(range(19)), "MyPairs", corpus=pairs.select_columns("code")),
        task_from_pairs(Dataset.from_dict({"query": pairs["query"][::-1], "code": pairs["code"][:]}), "MyPairs"),
        task_from_pairs(pairs.add_column("language", ["go"] * 20), "MyPairs"),
        task_from_pairs(pairs, "MyPairs", prompt="Find it."),
    ]
    assert len({revision, *(task.metadata.revision for task in others)}) == 6


# mteb's machinery


def test_metadata_is_complete_and_passes_mtebs_checks():
    pairs = Dataset.from_dict(
        {"query": list("abcd"), "code": list("1234"), "language": ["Python", "JavaScript", "kotlin", "C++"]}
    )
    metadata = task_from_pairs(pairs, "MyPairs", description="Mine.").metadata
    assert isinstance(metadata, mteb.TaskMetadata)
    assert metadata.eval_langs == {
        "python": ["python-Code"],
        "javascript": ["javascript-Code"],
        "kotlin": ["mis-Zyyy"],
        "c++": ["c++-Code"],
    }
    for code in metadata.bcp47_codes:
        check_language_code(code)
    assert (metadata.type, metadata.category, metadata.main_score) == ("Retrieval", "t2t", "mrr_at_1000")
    assert (metadata.description, metadata.reference, metadata.date) == ("Mine.", None, None)
    assert metadata.domains == ["Programming", "Written"]
    assert metadata.task_subtypes == ["Code retrieval"]
    assert "MyPairs" in metadata.generate_dataset_card().content


def test_task_without_language_has_one_subset_of_undetermined_language():
    metadata = task_from_pairs(make_pairs(3), "MyPairs").metadata
    assert metadata.hf_subsets == ["default"]
    for code in metadata.bcp47_codes:
        check_language_code(code)


def test_loading_twice_and_evaluating_twice_give_the_same():
    pairs = make_pairs(25)
    encoder = TableEncoder(random_vectors(pairs["query"][:] + pairs["code"][:]))
    task = task_from_pairs(pairs, "MyPairs")
    first = score(encoder, task)
    assert not task.data_loaded
    task.load_data()
    loaded = task.dataset
    task.load_data()
    assert task.dataset is loaded
    assert score(encoder, task) == first
    metadata = task.metadata
    # What mteb's data cleaning does to a task whose data it filtered.
    task.metadata = metadata.model_copy(update={"description": "filtered"})
    task.unload_data()
    assert task.metadata is metadata
    assert score(encoder, task) == first


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda task: pickle.loads(pickle.dumps(task))], ids=["deepcopy", "pickle"]
)
def test_copy_of_a_task_measures_the_same(clone):
    pairs = make_pairs(25)
    encoder = TableEncoder(random_vectors(pairs["query"][:] + pairs["code"][:]))
    task = task_from_pairs(pairs, "MyPairs")
    twin = clone(task)
    assert isinstance(twin, CodeRetrieval)
    assert twin is not task
    assert twin.metadata == task.metadata
    assert score(encoder, twin) == score(encoder, task)


def test_result_cache_serves_the_same_pairs_and_never_other_pairs_of_the_same_name(tmp_path):
    pairs = make_pairs(25)
    vectors = random_vectors(pairs["query"][:] + pairs["code"][:])
    cache = mteb.ResultCache(tmp_path)
    encoder = TableEncoder(vectors)
    first = score(encoder, task_from_pairs(pairs, "MyPairs"), cache=cache)
    encoded = len(encoder.texts_seen)
    again = score(encoder, task_from_pairs(pairs.shuffle(seed=3), "MyPairs"), cache=cache)
    assert again == pytest.approx(first, abs=1e-6), "mteb rounds what it stores to six digits"
    assert len(encoder.texts_seen) == encoded == 50
    score(encoder, task_from_pairs(pairs, "MyPairs"), cache=cache, overwrite_strategy="always")
    assert len(encoder.texts_seen) == 2 * encoded

    fewer = pairs.select(range(12))
    other = score(encoder, task_from_pairs(fewer, "MyPairs"), cache=cache)
    expected = brute_force_mrr(vectors, relevance(fewer["query"], fewer["code"]), fewer["code"])
    assert other == pytest.approx(expected)
    assert other != pytest.approx(first, abs=1e-4)


def test_result_cache_completes_a_task_that_ran_for_one_language(tmp_path):
    pairs = Dataset.from_list([*make_pairs(9, language="python"), *make_pairs(9, language="go", prefix="go ")])
    encoder = TableEncoder(random_vectors(pairs["query"][:] + pairs["code"][:]))
    cache = mteb.ResultCache(tmp_path)
    score(encoder, task_from_pairs(pairs, "MyPairs").filter_languages(["go"]), cache=cache)
    encoder.texts_seen.clear()
    result = evaluate(encoder, [task_from_pairs(pairs, "MyPairs")], cache=cache).task_results[0]
    assert {entry["hf_subset"] for entry in result.scores["test"]} == {"python", "go"}
    assert not any(text.startswith("go ") for text in encoder.texts_seen)


def test_descriptive_statistics_go_to_mtebs_cache_and_count_merged_texts(tmp_path, monkeypatch):
    monkeypatch.setenv("MTEB_CACHE", str(tmp_path))
    pairs = Dataset.from_list([*make_pairs(9, queries=4, language="go"), *make_pairs(5, language="lua")])
    task = task_from_pairs(pairs, "MyPairs")
    assert task.metadata.n_samples is None
    statistics = task.calculate_descriptive_statistics()["test"]
    assert (statistics["num_queries"], statistics["num_documents"]) == (4 + 5, 9 + 5)
    assert statistics["hf_subset_descriptive_stats"]["go"]["relevant_docs_statistics"]["num_relevant_docs"] == 9
    assert task.metadata.n_samples == {"test": 23}
    assert task.metadata.descriptive_stat_path.is_relative_to(tmp_path)
    assert task_from_pairs(pairs.select(range(3)), "MyPairs").metadata.n_samples is None


# Errors

GOOD = Dataset.from_dict({"query": ["q"], "code": ["c"]})


@pytest.mark.parametrize(
    ("pairs", "options", "message"),
    [
        ([{"query": "q", "code": "c"}], {}, r"pairs is a list, not a datasets.Dataset.*Dataset\.from_list"),
        (GOOD.to_iterable_dataset(), {}, r"pairs is a IterableDataset.*from_generator"),
        (GOOD.select([]), {}, r"pairs has 0 rows"),
        (GOOD.rename_column("code", "text"), {}, r"pairs has no column 'code', only \['query', 'text'\]"),
        (GOOD.remove_columns("query"), {}, r"pairs has no column 'query'"),
        (
            Dataset.from_dict({"query": ["a", " ", "b", None], "code": ["c"] * 4}),
            {},
            r"pairs\['query'\].*2 of 4 do not \(rows 1, 3; row 1 holds ' '\)",
        ),
        (Dataset.from_dict({"query": ["a"] * 30, "code": [""] * 30}), {}, r"30 of 30 do not \(rows 0, .*9, \.\.\.;"),
        (Dataset.from_dict({"query": ["a"], "code": [7]}), {}, r"pairs\['code'\].*row 0 holds 7"),
        (GOOD.add_column("language", [3]), {}, r"pairs\['language'\] must hold a non-empty string"),
        (DatasetDict(train=GOOD), {}, r"split='test' is not in pairs, which has \['train'\]"),
        (GOOD, {"split": ""}, r"split='' is not valid: pass the name of a split"),
        (GOOD, {"split": None}, r"split=None is not valid"),
        (GOOD, {"name": "my pairs"}, r"name='my pairs' is not valid: pass letters, digits"),
        (GOOD, {"name": "../pairs"}, r"name='\.\./pairs' is not valid"),
        (GOOD, {"name": None}, r"name=None is not valid"),
        (GOOD, {"prompt": 3}, r"prompt=3 is not valid: pass a string, None, or a dict"),
        (GOOD, {"prompt": {"passage": "x"}}, r"keys among \('query', 'document'\)"),
        (GOOD, {"corpus": GOOD.remove_columns("code")}, r"corpus has no column 'code'"),
        (GOOD, {"corpus": GOOD.select([])}, r"corpus has 0 rows"),
        (GOOD, {"corpus": Dataset.from_dict({"code": ["x", ""]})}, r"corpus\['code'\].*1 of 2"),
        (GOOD, {"corpus": GOOD.add_column("language", ["go"])}, r"only corpus has a column 'language'"),
        (GOOD.add_column("language", ["go"]), {"corpus": GOOD}, r"only pairs has a column 'language'"),
        (
            GOOD.add_column("language", ["go"]),
            {"corpus": GOOD.add_column("language", ["golang"])},
            r"corpus has candidates in \['golang'\], but pairs has queries only in \['go'\]",
        ),
    ],
)
def test_bad_input_is_refused_when_the_task_is_made(pairs, options, message):
    with pytest.raises(ValueError, match=message):
        task_from_pairs(pairs, **{"name": "MyPairs", **options})


def test_import_without_mteb_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "st_softinfonce.tasks")
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(ImportError, match=r'pip install "st-softinfonce\[eval\]"') as caught:
        importlib.import_module("st_softinfonce.tasks")
    assert isinstance(caught.value.__cause__, ImportError)
