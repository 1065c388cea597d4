"""Graded relevance, and the task made of it, against comparing every row with every other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

mteb = pytest.importorskip("mteb")

from retrieval_models import TableEncoder, evaluate, random_vectors  # noqa: E402

from st_softinfonce.tasks import GradedCodeRetrieval, grade_pairs, graded_task_from_pairs, task_from_pairs  # noqa: E402


def bare(name):
    return name.rsplit(".", 1)[-1]


def many_words(name):
    return "_" in name.strip("_") or any(a.islower() and b.isupper() for a, b in itertools.pairwise(name))


def grade_by_hand(rows, a, b):
    """The definition, for two rows at a time; the size of a group is counted anew for each."""
    if a["language"] != b["language"]:
        return 0
    if a["code"] == b["code"]:
        return 3
    if a["query"] == b["query"]:
        return 2
    if bare(a["name"]) != bare(b["name"]):
        return 0
    same_name = [row for row in rows if row["language"] == a["language"] and bare(row["name"]) == bare(a["name"])]
    in_package = [row for row in same_name if row["package"] == a["package"]]
    in_file = [row for row in in_package if row["path"] == a["path"]]
    if b["package"] == a["package"] and len(in_package) <= 20:
        return 1
    if b["package"] == a["package"] and b["path"] == a["path"] and len(in_file) <= 20:
        return 1
    return int(many_words(bare(a["name"])) and len(same_name) <= 20)


def make_rows(n, seed, names=("A.run", "B.run", "C.run", "load_all", "X.loadAll", "_get", "get")):
    generator = np.random.default_rng(seed)
    pick = lambda choices: choices[generator.integers(len(choices))]  # noqa: E731
    return [
        {
            "query": f"query {generator.integers(n)}",
            "code": f"code {generator.integers(2 * n)}",
            "name": pick(names),
            "path": pick(("p/a.py", "p/b.py", "q/a.py")),
            "package": pick(("p", "q", "r")),
            "language": pick(("python", "go")),
        }
        for _ in range(n)
    ]


@pytest.mark.parametrize("n", [1, 30, 60, 250], ids=["one", "few", "some-large-groups", "large-groups"])
def test_grades_equal_comparing_every_two_rows(n):
    rows = make_rows(n, seed=n)
    expected = []
    for i, a in enumerate(rows):
        grades = {j: 3 if i == j else grade_by_hand(rows, a, b) for j, b in enumerate(rows)}
        expected.append({j: grade for j, grade in grades.items() if grade})
    assert grade_pairs(Dataset.from_list(rows)) == expected
    if n == 60:
        assert {grade for grades in expected for grade in grades.values()} == {1, 2, 3}


BASE = {"query": "q", "code": "c", "name": "A.load", "path": "p/a.py", "package": "p", "language": "go"}


@pytest.mark.parametrize(
    ("other", "grade"),
    [
        ({}, 3),
        ({"query": " q\n"}, 2),
        ({"query": "q", "name": "B.other", "package": "z", "path": "z/z.py"}, 2),
        ({"code": "c", "name": "B.other"}, 3),
        ({"name": "B.load"}, 1),
        ({"name": "B.load", "path": "p/b.py"}, 1),
        ({"name": "B::load", "path": "p/b.py"}, 1),
        ({"name": "B#load", "path": "p/b.py"}, 1),
        ({"name": "A.load", "path": "z/a.py", "package": "z"}, 0),
        ({"name": "A.load", "package": "z"}, 0),
        ({"name": "A.other"}, 0),
        ({"name": "A.Load"}, 0),
        ({"name": "A.load", "language": "php"}, 0),
    ],
)
def test_one_other_row_has_the_grade_that_the_rules_say(other, grade):
    defaults = {"query": "another", "code": "d"}
    if not other:
        defaults = {}
    rows = Dataset.from_list([BASE, {**BASE, **defaults, **other}])
    grades = grade_pairs(rows)
    assert grades[0].get(1, 0) == grades[1].get(0, 0) == grade


@pytest.mark.parametrize(
    ("name", "grade"),
    [("load_all", 1), ("loadAll", 1), ("LoadAll", 1), ("HTTPLoad", 1), ("load", 0), ("_load", 0), ("load2", 0),
     ("__load__", 0), ("LOAD", 0), ("", 0)],
)  # fmt: skip
def test_only_a_name_of_several_words_means_something_in_another_package(name, grade):
    rows = [
        {"query": "a", "code": "c", "name": f"A.{name}", "path": "p/a.py", "package": "p"},
        {"query": "b", "code": "d", "name": name, "path": "q/a.py", "package": "q"},
    ]
    assert grade_pairs(Dataset.from_list(rows))[0].get(1, 0) == grade


@pytest.mark.parametrize(("size", "grade"), [(20, 1), (21, 0)])
@pytest.mark.parametrize("same", ["file", "package", "name"])
def test_groups_of_more_than_twenty_say_nothing(same, size, grade):
    rows = [
        {
            "query": f"query {i}",
            "code": f"code {i}",
            "name": "load_all" if same == "name" else "load",
            "path": "a.py" if same == "file" else f"{i}.py",
            "package": f"p{i}" if same == "name" else "p",
        }
        for i in range(size)
    ]
    assert all(grades == {i: 3} | ({j: 1 for j in range(size) if j != i} if grade else {})
               for i, grades in enumerate(grade_pairs(Dataset.from_list(rows))))  # fmt: skip


def test_empty_names_paths_and_packages_relate_nothing():
    rows = [{"query": q, "code": q, "name": n, "path": "", "package": ""} for q, n in [("a", "f"), ("b", "f")]]
    rows += [{"query": q, "code": q, "name": "", "path": "a.py", "package": "p"} for q in "cd"]
    rows += [{"query": q, "code": q, "name": None, "path": "a.py", "package": "p"} for q in "ef"]
    assert grade_pairs(Dataset.from_list(rows)) == [{i: 3} for i in range(6)]


# The task


def ndcg_by_hand(vectors, rows, documents, ids):
    """Linear gains, log2 discounts, ten ranks; a document has the best grade of the rows with its code."""
    values = []
    for i, a in enumerate(rows):
        gains = dict.fromkeys(documents, 0)
        for j, b in enumerate(rows):
            gains[b["code"]] = max(gains[b["code"]], 3 if i == j else grade_by_hand(rows, a, b))
        order = sorted(gains, key=lambda text: (float(vectors[a["query"]] @ vectors[text]), ids[text]), reverse=True)
        discounted = [gains[text] / np.log2(rank + 1) for rank, text in enumerate(order[:10], start=1)]
        best = sorted(gains.values(), reverse=True)[:10]
        values.append(sum(discounted) / sum(gain / np.log2(rank + 1) for rank, gain in enumerate(best, start=1)))
    return float(np.mean(values))


@pytest.mark.parametrize("n", [1, 60, 100])
def test_ndcg_equals_ranking_every_document_by_hand(n):
    rows = [{**row, "language": "go"} for row in make_rows(n, seed=3)]
    rows = list({(row["query"], row["code"]): row for row in rows}.values())
    further = [f"further {i}" for i in range(40)]
    vectors = random_vectors([row[column] for row in rows for column in ("query", "code")] + further)
    corpus = Dataset.from_dict({"code": further, "language": ["go"] * 40})
    task = graded_task_from_pairs(Dataset.from_list(rows), "Graded", corpus=corpus)
    assert isinstance(task, GradedCodeRetrieval)
    table = task.table("go", "test")
    ids = dict(zip(table["corpus"]["text"], table["corpus"]["id"], strict=True))
    (entry,) = evaluate(TableEncoder(vectors), [task]).task_results[0].scores["test"]
    expected = ndcg_by_hand(vectors, rows, list(ids), ids)
    assert entry["main_score"] == entry["ndcg_at_10"] == pytest.approx(expected, abs=1.1e-5)
    assert 0 < entry["mrr_at_1000_strict"] <= entry["mrr_at_1000_duplicates"] <= 1


def test_equal_queries_stay_apart_and_duplicates_have_grade_two():
    rows = Dataset.from_dict({"query": ["q", "q", "q"], "code": ["a", "b", "a"]})
    table = graded_task_from_pairs(rows, "Graded").table("default", "test")
    assert table["queries"]["text"][:] == ["q", "q"]
    text = dict(zip(table["corpus"]["id"], table["corpus"]["text"], strict=True))
    grades = [{text[d]: grade for d, grade in table["relevant_docs"][q].items()} for q in table["queries"]["id"]]
    assert grades == [{"a": 3, "b": 2}, {"b": 3, "a": 2}]


def test_corpus_is_graded_and_asks_nothing():
    pairs = Dataset.from_list([BASE])
    corpus = Dataset.from_list(
        [BASE | {"code": "d"}, BASE | {"code": "e", "query": "z"}, BASE | {"code": "f", "name": "k", "query": None}]
    )
    table = graded_task_from_pairs(DatasetDict(valid=pairs), "Graded", split="valid", corpus=corpus).table(
        "go", "valid"
    )
    text = dict(zip(table["corpus"]["id"], table["corpus"]["text"], strict=True))
    (grades,) = table["relevant_docs"].values()
    assert {text[document]: grade for document, grade in grades.items()} == {"c": 3, "d": 2, "e": 1}
    assert sorted(text.values()) == ["c", "d", "e", "f"]
    assert table["queries"]["text"][:] == ["q"]


def test_fingerprint_follows_grades_and_not_the_order_of_rows():
    pairs = Dataset.from_list(make_rows(40, seed=5))
    name = graded_task_from_pairs(pairs, "Graded").metadata.name
    assert graded_task_from_pairs(pairs.shuffle(seed=1), "Graded").metadata.name == name
    others = [
        graded_task_from_pairs(pairs.remove_columns("name"), "Graded"),
        graded_task_from_pairs(pairs, "Graded", prompt="Find it."),
        graded_task_from_pairs(pairs.select(range(39)), "Graded"),
        task_from_pairs(pairs, "Graded"),
    ]
    assert len({name, *(task.metadata.name for task in others)}) == 5


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (Dataset.from_dict({"query": ["q"]}), r"pairs has no column 'code'"),
        (Dataset.from_dict({"query": ["q"], "code": [" "]}), r"pairs\['code'\] must hold a non-empty string"),
        ([1], r"pairs is a list"),
    ],
)
def test_bad_pairs_are_refused(pairs, message):
    with pytest.raises(ValueError, match=message):
        grade_pairs(pairs)
    with pytest.raises(ValueError, match=message):
        graded_task_from_pairs(pairs, "Graded")


def test_one_split_has_to_be_chosen():
    with pytest.raises(ValueError, match=r"pairs has the splits \['test'\]: pass one of them, e.g. pairs\['test'\]"):
        grade_pairs(DatasetDict(test=Dataset.from_list([BASE])))
