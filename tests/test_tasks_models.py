"""Every kind of task with every kind of model that mteb knows: encoders, cross-encoders, BM25."""

from __future__ import annotations

import copy

import pytest
from datasets import Dataset, DatasetDict

mteb = pytest.importorskip("mteb")

from code_search_net_trees import prepared_row, write_prepared  # noqa: E402
from mteb.abstasks.retrieval_dataset_loaders import RetrievalDatasetLoader  # noqa: E402
from mteb.models.model_meta import ModelMeta  # noqa: E402
from retrieval_models import TableEncoder, evaluate, random_vectors  # noqa: E402

from st_softinfonce.tasks import (  # noqa: E402
    CodeSearchNetMRR,
    graded_task_from_pairs,
    reciprocal_ranks,
    task_from_pairs,
)

FRUITS = "apple banana cherry damson elder fig grape hazel iris juniper kiwi lemon".split()


def make_pairs():
    """One word, the fruit, tells which code a query asks for; all others are in every text."""
    return Dataset.from_list(
        [
            {"query": f"find item {fruit}", "code": f"def f ( ) : return item {fruit}", "language": "python",
             "name": f"A.f{i}", "path": "a.py", "package": "p"}
            for i, fruit in enumerate(FRUITS)
        ]
    )  # fmt: skip


def code_search_net(tmp_path):
    rows = [prepared_row("python", i, query=row["query"], code=row["code"]) for i, row in enumerate(make_pairs())]
    write_prepared(tmp_path / "csn", "python", test=rows[:6], codebase=rows)
    return CodeSearchNetMRR(tmp_path / "csn", languages=["python"])


MAKERS = {
    "pairs": lambda _: task_from_pairs(make_pairs(), "Mine"),
    "graded": lambda _: graded_task_from_pairs(make_pairs(), "Graded"),
    "code-search-net": code_search_net,
}


@pytest.fixture(params=MAKERS)
def task(request, tmp_path):
    return MAKERS[request.param](tmp_path)


class WordCrossEncoder:
    """Knows the one word that counts."""

    mteb_model_meta = ModelMeta.create_empty({"name": "tests/word-cross-encoder", "revision": "1"})

    def predict(self, inputs1, inputs2, *, task_metadata, hf_split, hf_subset, prompt_type=None, **kwargs):
        left, right = ([text for batch in inputs for text in batch["text"]] for inputs in (inputs1, inputs2))
        return [float(a.split()[-1] == b.split()[-1]) for a, b in zip(left, right, strict=True)]


def test_mtebs_own_bm25_baseline_finds_the_word_that_counts(task, tmp_path):
    pytest.importorskip("bm25s")
    model = mteb.get_model("mteb/baseline-bm25s")
    (entry,) = evaluate(model, [task], prediction_folder=tmp_path / "found").task_results[0].scores["test"]
    assert entry["main_score"] == entry["mrr_at_1000_strict"] == entry["mrr_at_1000_duplicates"] == 1.0
    assert set(reciprocal_ranks(task, tmp_path / "found")["python"].values()) == {(1.0, 1.0)}


def test_cross_encoder_reranks_what_an_encoder_found(task, tmp_path):
    encoder = TableEncoder(random_vectors(make_pairs()["query"][:] + make_pairs()["code"][:]))
    (found,) = evaluate(encoder, [task], prediction_folder=tmp_path / "found").task_results[0].scores["test"]
    converted = copy.deepcopy(task).convert_to_reranking(tmp_path / "found", top_k=5)
    (entry,) = evaluate(WordCrossEncoder(), [converted]).task_results[0].scores["test"]
    first = reciprocal_ranks(task, tmp_path / "found")["python"]
    among_five = sum(strict >= 1 / 5 for strict, _ in first.values()) / len(first)
    assert 0 < among_five < 1
    assert entry["mrr_at_1000_strict"] == pytest.approx(among_five)
    assert found["mrr_at_1000_strict"] < among_five
    # The conversion is the copy's, and is gone with its data.
    assert evaluate(encoder, [task]).task_results[0].get_score() == found["main_score"]
    converted.unload_data()
    converted.load_data()
    assert converted.dataset["python"]["test"]["top_ranked"] is None


def test_scores_of_an_encoder_come_from_the_cache_the_second_time(task, tmp_path):
    encoder = TableEncoder(random_vectors(make_pairs()["query"][:] + make_pairs()["code"][:]))
    cache = mteb.ResultCache(tmp_path / "results")
    (first,) = evaluate(encoder, [task], cache=cache).task_results[0].scores["test"]
    encoded = len(encoder.texts_seen)
    (second,) = evaluate(encoder, [task], cache=cache).task_results[0].scores["test"]
    assert len(encoder.texts_seen) == encoded > 0
    for key in ("main_score", "mrr_at_1000_strict", "mrr_at_1000_duplicates"):
        assert second[key] == pytest.approx(first[key], abs=1e-6)


def test_task_is_pushed_by_mtebs_own_method_and_read_back(task, tmp_path, monkeypatch):
    """The Hub is a folder here: what is pushed is written where mteb's loader then looks."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    configs = {}

    def push(splits, repo, config, *, commit_message, num_proc=None, **kwargs):
        assert repo == "me/mine"
        for split, table in splits.items():
            (tmp_path / "hub" / config).mkdir(parents=True, exist_ok=True)
            table.to_parquet(tmp_path / "hub" / config / f"{split}.parquet")
            configs.setdefault(config, []).append(split)

    cards = []
    monkeypatch.setattr(DatasetDict, "push_to_hub", push)
    monkeypatch.setattr(
        type(task.metadata), "push_dataset_card_to_hub", lambda self, repo: cards.append(self.generate_dataset_card())
    )
    task.push_dataset_to_hub("me/mine")
    (split,) = task.metadata.eval_splits
    entries = [
        f"- config_name: '{c}'\n  data_files:\n  - split: {split}\n    path: '{c}/{split}.parquet'\n" for c in configs
    ]
    (tmp_path / "hub" / "README.md").write_text(f"---\nconfigs:\n{''.join(entries)}---\n")
    for subset in task.metadata.hf_subsets:
        read = RetrievalDatasetLoader(str(tmp_path / "hub"), revision="main", split=split, config=subset).load()
        assert read["corpus"].to_list() == task.table(subset, split)["corpus"].to_list()
        assert read["queries"].to_list() == task.table(subset, split)["queries"].to_list()
        assert read["relevant_docs"] == task.table(subset, split)["relevant_docs"]
    assert task.metadata.name in cards[0].content
