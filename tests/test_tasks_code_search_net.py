"""`CodeSearchNetMRR` on tiny hand-made trees, against ranking by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from datasets import Dataset

mteb = pytest.importorskip("mteb")

from code_search_net_trees import (  # noqa: E402
    LANGUAGES,
    hub_row,
    prepared_row,
    raw_rows,
    write_hub,
    write_jsonl,
    write_original,
    write_prepared,
)
from retrieval_models import TableEncoder, evaluate, random_vectors, score  # noqa: E402

from st_softinfonce.data import load_code_search_net  # noqa: E402
from st_softinfonce.tasks import CodeSearchNetMRR, reciprocal_ranks  # noqa: E402


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """`datasets` takes a folder of the same name for the same dataset."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def encoder_of(tree, languages=LANGUAGES):
    tables = [load_code_search_net(tree, language, splits=["test", "codebase"]) for language in languages]
    return TableEncoder(
        random_vectors([t for d in tables for p in d.values() for c in ("query", "code") for t in p[c]])
    )


def mrr_by_hand(vectors, test, codebase, ids):
    """One row at a time, over all candidates with their urls; equal scores rank by id, descending."""
    strict, aware = [], []
    for row in test:
        order = sorted(
            codebase, key=lambda c: (float(vectors[row["query"]] @ vectors[c["code"]]), ids[c["url"]]), reverse=True
        )
        own = next(c["code"] for c in codebase if c["url"] == row["url"])
        right = [c["url"] == row["url"] for c in order]
        also = [c["url"] == row["url"] or c["query"] == row["query"] or c["code"] == own for c in order]
        strict.append(1 / (1 + right.index(True)))
        aware.append(1 / (1 + also.index(True)))
    return np.mean(strict), np.mean(aware)


def shared_tree(folder, language):
    """Six test rows of two queries; twelve candidates of five codes, some with the documentation of a test row."""
    codebase = [
        prepared_row(language, n, query=f"the query number {n % 4}", code=f"code {language} {n % 5}")
        for n in range(12)
    ]
    write_prepared(folder / language, language, test=[codebase[n] for n in (0, 1, 4, 5, 8, 9)], codebase=codebase)


def test_six_subsets_equal_ranking_by_hand(tmp_path):
    for language in LANGUAGES:
        shared_tree(tmp_path, language)
    task = CodeSearchNetMRR(tmp_path)
    assert not task.data_loaded
    assert task.metadata.hf_subsets == list(LANGUAGES)
    encoder = encoder_of(tmp_path)
    result = evaluate(encoder, [task], prediction_folder=tmp_path / "found").task_results[0]
    means = []
    for entry in result.scores["test"]:
        language = entry["hf_subset"]
        data = load_code_search_net(tmp_path, language, splits=["test", "codebase"])
        corpus = task.table(language, "test")["corpus"]
        assert len(corpus) == 12, "candidates of equal code stay apart"
        # Ids follow url and code; with the rows' order they tell which candidate is which.
        ids = dict(zip(data["codebase"]["url"], corpus["id"], strict=True))
        strict, aware = mrr_by_hand(encoder.vectors, list(data["test"]), list(data["codebase"]), ids)
        assert entry["main_score"] == entry["mrr_at_1000"] == pytest.approx(strict, abs=1e-12)
        assert entry["mrr_at_1000_strict"] == pytest.approx(strict, abs=1e-12)
        assert entry["mrr_at_1000_duplicates"] == pytest.approx(aware, abs=1e-12)
        assert strict < aware
        means.append(strict)
        ranks = reciprocal_ranks(task, tmp_path / "found")[language]
        assert len(ranks) == 6
        assert np.mean(list(ranks.values()), axis=0) == pytest.approx([strict, aware])
    assert result.get_score() == pytest.approx(np.mean(means))
    assert result.get_score(languages=["ruby"]) == pytest.approx(means[-1])


@pytest.mark.parametrize("write", ["hub", "original"])
def test_other_sources_run_too(tmp_path, write):
    if write == "hub":
        write_hub(tmp_path, ["go", "ruby"])
    else:
        for language in ("go", "ruby"):
            write_original(tmp_path / language, language)
    task = CodeSearchNetMRR(tmp_path, languages=["ruby", "go"])
    (first, second) = evaluate(encoder_of(tmp_path, ["go", "ruby"]), [task]).task_results[0].scores["test"]
    assert {first["hf_subset"], second["hf_subset"]} == {"go", "ruby"}
    assert 0 < first["main_score"] <= 1
    assert len(task.table("go", "test")["queries"]) == 6
    assert len(task.table("go", "test")["corpus"]) == 24


def test_data_are_read_when_needed_and_forgotten_after(tmp_path, monkeypatch):
    shared_tree(tmp_path, "go")
    encoder = encoder_of(tmp_path, ["go"])
    calls = []

    def counted(*args, **options):
        calls.append(args)
        return load_code_search_net(*args, **options)

    monkeypatch.setattr("st_softinfonce.tasks.code_search_net.load_code_search_net", counted)
    task = CodeSearchNetMRR(tmp_path, languages=["go"])
    assert calls == []
    first = score(encoder, task)
    assert len(calls) == 1
    assert score(encoder, copy.deepcopy(task)) == first
    assert len(calls) == 2


def test_result_cache_never_mixes_other_files_of_the_same_folder(tmp_path):
    shared_tree(tmp_path, "go")
    encoder = encoder_of(tmp_path, ["go"])
    cache = mteb.ResultCache(tmp_path / "results")
    first = score(encoder, CodeSearchNetMRR(tmp_path, languages=["go"]), cache=cache)
    encoded = len(encoder.texts_seen)
    assert score(encoder, CodeSearchNetMRR(tmp_path, languages=["go"]), cache=cache) == pytest.approx(first, abs=1e-6)
    assert len(encoder.texts_seen) == encoded
    write_jsonl(tmp_path / "go" / "test.jsonl", [prepared_row("go", 3, query="the query number 3", code="code go 3")])
    other = CodeSearchNetMRR(tmp_path, languages=["go"])
    score(encoder, other, cache=cache)
    assert len(encoder.texts_seen) > encoded


def test_name_follows_data_languages_and_prompt(tmp_path):
    write_hub(tmp_path, ["go", "ruby"])
    names = [
        CodeSearchNetMRR(tmp_path, languages=["go"]).metadata.name,
        CodeSearchNetMRR(tmp_path, languages=["go"]).metadata.name,
        CodeSearchNetMRR(tmp_path, languages=["go", "ruby"]).metadata.name,
        CodeSearchNetMRR(tmp_path, languages=["go"], prompt="Find.").metadata.name,
    ]
    rows = [hub_row("go", row) for row in raw_rows("go")[:3]]
    Dataset.from_list(rows).to_parquet(tmp_path / "go" / "test-00000-of-00001.parquet")
    names.append(CodeSearchNetMRR(tmp_path, languages=["go"]).metadata.name)
    assert names[0] == names[1]
    assert len(set(names)) == 4


def test_test_rows_that_are_no_candidates_are_added_with_a_warning(tmp_path):
    codebase = [prepared_row("go", n) for n in range(5)]
    write_prepared(tmp_path, "go", test=[codebase[0], prepared_row("go", 9)], codebase=codebase)
    task = CodeSearchNetMRR(tmp_path, languages=["go"])
    with pytest.warns(UserWarning, match=r"1 of 2 test rows of CodeSearchNet go are not in its codebase by url"):
        table = task.table("go", "test")
    assert len(table["corpus"]) == 6
    assert all(len(grades) == 1 for grades in table["relevant_docs"].values())


def test_missing_languages_and_bad_arguments_are_refused_when_the_task_is_made(tmp_path):
    shared_tree(tmp_path, "go")
    with pytest.raises(FileNotFoundError, match=r"holds neither ruby/test.jsonl"):
        CodeSearchNetMRR(tmp_path, languages=["ruby"])
    with pytest.raises(ValueError, match=r"languages='go' is not valid: pass some of"):
        CodeSearchNetMRR(tmp_path, languages="go")
    with pytest.raises(ValueError, match=r"language='rust' is not in CodeSearchNet"):
        CodeSearchNetMRR(tmp_path, languages=["rust"])
    with pytest.raises(ValueError, match=r"split='valid' is not in CodeSearchNetMRR"):
        CodeSearchNetMRR(tmp_path, languages=["go"]).table("go", "valid")
