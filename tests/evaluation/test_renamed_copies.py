import ast
import re

import numpy as np
import pytest
from datasets import Dataset

from evaluation.corpus.renamed_copies import RESERVED, local_names, paraphrase, rename, with_copies

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
    return [node.id if isinstance(node, ast.Name) else node.arg for node in ast.walk(ast.parse(code))
            if isinstance(node, (ast.Name, ast.arg))]  # fmt: skip


def test_renaming_keeps_the_structure_and_maps_names_one_to_one():
    new = renamed(CODE)
    assert new != CODE
    pairs = set(zip(names_in(CODE), names_in(new), strict=True))
    assert len({old for old, _ in pairs}) == len({fresh for _, fresh in pairs}) == len(pairs)
    assert re.sub(r"\b(path|limit|rows|row|alpha|beta|gamma|delta|omega)\b", "_", CODE) == re.sub(
        r"\b(path|limit|rows|row|alpha|beta|gamma|delta|omega)\b", "_", new
    )


def test_strings_calls_attributes_and_keywords_stay():
    new = renamed(CODE)
    assert '"path"' in new
    for kept in ("def fetch(", "open(", ".read()", ".kind", "parse(", "yield", "for "):
        assert kept in new
    assert local_names(CODE) == ["path", "limit", "rows", "row"]


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
    code = "def f(a, b): return a + b + alpha()"
    for seed in range(20):
        assert renamed(code, seed).count("alpha") == 1


def test_too_small_a_vocabulary_is_filled_up():
    new = renamed("def f(a, b, c): return a, b, c", vocabulary=["x"])
    assert len(set(local_names(new))) == 3


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


def test_paraphrased_queries_differ_and_keep_their_object():
    pairs = with_copies(make_pairs(), share=0.1, queries="paraphrased")
    assert pairs["query"][-2:] == ["give back item number 0", "give back item number 1"]
    assert paraphrase("a the") == "a the"


@pytest.mark.parametrize(
    ("options", "message"), [({"share": 0.6}, "share must be in"), ({"share": 0.1, "queries": "x"}, "queries must be")]
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        with_copies(make_pairs(), **options)


def test_reserved_words_are_words():
    assert all(re.fullmatch(r"\w+", word) for word in RESERVED)
