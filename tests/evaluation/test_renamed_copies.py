import ast
import re

import numpy as np
import pytest
from datasets import Dataset

from evaluation.corpus.renamed_copies import local_names, rename, with_copies

CODE = """def fetch(path, limit=10):
    rows = open(path).read()
    for row in rows:
        if row.kind == "path" and limit > 0:
            yield parse(row, path=path)
"""
NEW = ["alpha", "beta", "gamma", "delta", "omega"]


def make_pairs(count=20):
    return Dataset.from_dict(
        {
            "query": [f"Return the item number {number}" for number in range(count)],
            "code": [f"def item_{number}(values): return values[{number}]" for number in range(count)],
            "package": ["p"] * count,
            "duplicate_group": list(range(count)),
        }
    )


def renamed(code, seed=0, vocabulary=NEW):
    return rename(code, vocabulary, np.random.default_rng(seed))


def names_in(code):
    found = [node for node in ast.walk(ast.parse(code)) if isinstance(node, (ast.Name, ast.arg))]
    return [node.id if isinstance(node, ast.Name) else node.arg for node in found]


def test_renaming_maps_names_one_to_one_and_leaves_all_else():
    assert local_names(CODE) == ["path", "limit", "rows", "row"]
    new = renamed(CODE)
    pairs = set(zip(names_in(CODE), names_in(new), strict=True))
    assert len({old for old, _ in pairs}) == len({fresh for _, fresh in pairs}) == len(pairs)
    either = rf"\b({'|'.join(['path', 'limit', 'rows', 'row', *NEW])})\b"
    assert re.sub(either, "_", CODE) == re.sub(either, "_", new)
    for kept in ('"path"', "def fetch(", "open(", ".read()", ".kind", "parse(", "yield", "for "):
        assert kept in new


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("public int add(int first, String s) { return this.total + first; }", ["first", "s"]),
        ("function f($id) { $this->id = $id; return self::of($id); }", ["id"]),
        ("func (c *Conn) Send(data []byte) error { return c.w.Write(data) }", ["c", "Conn", "data"]),
        ("const f = (a, b) => `a ${b}` + a.length;", ["f", "a", "b"]),
        ("def run(list)\n  list.each { |x| x.go }\nend", ["x"]),
    ],
    ids=["java", "php", "go", "javascript", "ruby"],
)
def test_names_of_other_languages(code, names):
    assert local_names(code) == names


def test_a_new_name_is_never_one_that_the_function_has():
    for seed in range(20):
        assert renamed("def f(a, b): return a + b + alpha()", seed).count("alpha") == 1
    assert len(set(local_names(renamed("def f(a, b, c): return a, b, c", vocabulary=["x"])))) == 3


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
def test_size_stays_and_the_share_is_exact(share):
    pairs = with_copies(make_pairs(), share=share)
    assert len(pairs) == 20
    groups = pairs["duplicate_group"][:]
    assert 20 - len(set(groups)) == round(share * 20)
    for group in {group for group in groups if groups.count(group) == 2}:
        original, copy = (row for row in pairs if row["duplicate_group"] == group)
        assert original["query"] == copy["query"]
        assert original["code"] != copy["code"]
        assert re.sub(r"values\b|value0\b", "_", copy["code"]) == re.sub(r"values\b", "_", original["code"])


def test_a_larger_share_has_the_copies_of_a_smaller_one():
    small, large = (with_copies(make_pairs(), share=share)["code"][:] for share in (0.1, 0.4))
    assert set(small[-2:]) <= set(large)


def test_duplicates_that_were_there_before_are_taken_out():
    pairs = make_pairs().to_dict()
    pairs["duplicate_group"][3] = 2
    pairs["query"][5] = pairs["query"][4]
    assert len(with_copies(Dataset.from_dict(pairs), share=0.0)) == 18


@pytest.mark.parametrize("options", [{"share": 0.6}, {"share": 0.1, "queries": "x"}], ids=["share", "queries"])
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match=f"{list(options)[-1]} must be"):
        with_copies(make_pairs(), **options)
