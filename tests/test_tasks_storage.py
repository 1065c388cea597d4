"""Tasks on disk and on their way to the Hub: nothing changes, and mteb's own loader reads them."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict

mteb = pytest.importorskip("mteb")

from code_search_net_trees import prepared_row, write_prepared  # noqa: E402
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.retrieval_dataset_loaders import RetrievalDatasetLoader  # noqa: E402
from retrieval_models import TableEncoder, evaluate, random_vectors  # noqa: E402

from st_softinfonce.tasks import (  # noqa: E402
    CodeRetrieval,
    CodeSearchNetMRR,
    GradedCodeRetrieval,
    graded_task_from_pairs,
    load_task,
    save_task,
    task_from_pairs,
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """`datasets` takes a folder of the same name for the same dataset."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def make_pairs(languages=("go", "C++")):
    return Dataset.from_list(
        [
            {"query": f"{language} query {i % 7}", "code": f"{language} code {i}", "language": language,
             "name": f"A.load_{i % 3}", "path": "a.go", "package": f"p{i % 2}"}
            for language in languages
            for i in range(20)
        ]
    )  # fmt: skip


def further():
    return Dataset.from_dict({"code": ["go x", "go y"], "query": ["go query 1", "z"], "language": ["go", "go"]})


def code_search_net(tmp_path):
    rows = [prepared_row("go", n, query=f"query {n % 4}", code=f"go code {n % 5}") for n in range(12)]
    write_prepared(tmp_path / "csn", "go", test=rows[:6], codebase=rows)
    return CodeSearchNetMRR(tmp_path / "csn", languages=["go"])


MAKERS = {
    "languages": lambda _: task_from_pairs(make_pairs(), "Mine", prompt={"query": "find"}, description="Mine."),
    "default": lambda _: task_from_pairs(make_pairs().remove_columns("language"), "Mine", split="valid", prompt=None),
    "corpus": lambda _: task_from_pairs(make_pairs(), "Mine", corpus=further()),
    "graded": lambda _: graded_task_from_pairs(make_pairs(), "Mine"),
    "code-search-net": code_search_net,
}


@pytest.fixture(params=MAKERS)
def task(request, tmp_path):
    return MAKERS[request.param](tmp_path)


def tables_of(task):
    return [
        (subset, split, task.table(subset, split)["corpus"].to_list(), task.table(subset, split)["queries"].to_list(),
         task.table(subset, split)["relevant_docs"])
        for subset in task.metadata.hf_subsets
        for split in task.metadata.eval_splits
    ]  # fmt: skip


def test_saved_task_is_loaded_as_it_was(task, tmp_path):
    save_task(task, tmp_path / "saved")
    loaded = load_task(str(tmp_path / "saved"))
    assert loaded.metadata == task.metadata
    assert loaded.metadata.revision == task.metadata.revision
    assert type(loaded) is (GradedCodeRetrieval if isinstance(task, GradedCodeRetrieval) else CodeRetrieval)
    assert tables_of(loaded) == tables_of(task)
    texts = [row["text"] for _, _, corpus, queries, _ in tables_of(task) for row in corpus + queries]
    encoder = TableEncoder(random_vectors(texts))
    first, second = (evaluate(encoder, [one]).task_results[0].scores for one in (task, loaded))
    assert list(first) == list(task.metadata.eval_splits)
    assert second == first
    save_task(loaded, tmp_path / "again")
    assert tables_of(load_task(tmp_path / "again")) == tables_of(task)


def test_saved_task_is_read_by_mtebs_own_loader(task, tmp_path):
    save_task(task, tmp_path / "saved")
    (split,) = task.metadata.eval_splits
    for subset in task.metadata.hf_subsets:
        read = RetrievalDatasetLoader(str(tmp_path / "saved"), revision="main", split=split, config=subset).load()
        table = task.table(subset, split)
        assert read["corpus"].to_list() == table["corpus"].to_list()
        assert read["queries"].to_list() == table["queries"].to_list()
        assert read["relevant_docs"] == table["relevant_docs"]


def test_plain_mteb_task_of_the_saved_folder_gives_the_same_scores(tmp_path):
    task = task_from_pairs(make_pairs(), "Mine")
    save_task(task, tmp_path / "saved")

    class Plain(AbsTaskRetrieval):
        metadata = task.metadata.model_copy(update={"dataset": {"path": str(tmp_path / "saved"), "revision": "main"}})

    encoder = TableEncoder(random_vectors(make_pairs()["query"][:] + make_pairs()["code"][:]))
    ours, plain = (evaluate(encoder, [one]).task_results[0].get_score() for one in (task, Plain()))
    assert 0 < ours < 1
    assert plain == pytest.approx(ours)


def test_task_is_pushed_by_mtebs_own_method_and_read_back(task, tmp_path, monkeypatch):
    """The Hub is a folder here: what is pushed is written where mteb's loader then looks."""
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


def test_folder_in_use_is_left_alone(tmp_path):
    task = task_from_pairs(make_pairs(), "Mine")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"folder='.*' is not empty: name a new one"):
        save_task(task, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(ValueError, match=r"is not empty"):
        save_task(task, tmp_path / "notes.txt")


@pytest.mark.parametrize("part", ["go-corpus", "go-queries", "go-qrels"])
def test_changed_files_are_refused(tmp_path, part):
    save_task(task_from_pairs(make_pairs(), "Mine"), tmp_path / "saved")
    file = tmp_path / "saved" / part / "test.parquet"
    table = pd.read_parquet(file)
    column = "score" if part == "go-qrels" else "text"
    table.loc[3, column] = 2 if part == "go-qrels" else "changed"
    table.to_parquet(file)
    with pytest.raises(ValueError, match=r"does not hold the data that were saved: its files were changed"):
        load_task(tmp_path / "saved")


def test_folder_without_a_task_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no task.json: name one that save_task wrote"):
        load_task(tmp_path)


def test_saved_files_name_no_folder_of_this_machine(tmp_path):
    task = code_search_net(tmp_path)
    save_task(task, tmp_path / "saved")
    text = (tmp_path / "saved" / "task.json").read_text() + (tmp_path / "saved" / "README.md").read_text()
    assert str(tmp_path) not in text
    assert json.loads((tmp_path / "saved" / "task.json").read_text())["kind"] == "CodeRetrieval"
