import itertools
import random
import re

import pytest
from datasets import Dataset

from st_softinfonce.data import duplicates, find_near_duplicates, limit_duplicates, mine_pairs
from st_softinfonce.data.duplicates import NearDuplicateIndex
from st_softinfonce.data.minhash import band_keys


def shingles(code):
    tokens = re.findall(r"\w+|[^\w\s]", code)
    return {tuple(tokens[start : start + 5]) for start in range(max(len(tokens) - 4, 1))}


def brute_force(codes, threshold):
    """The first of each connected component of the graph of all similar pairs."""
    sets = [shingles(code) for code in codes]
    groups = list(range(len(codes)))
    for i, j in itertools.combinations(range(len(codes)), 2):
        if len(sets[i] & sets[j]) >= threshold * len(sets[i] | sets[j]) and groups[i] != groups[j]:
            first, second = sorted((groups[i], groups[j]))
            groups = [first if group == second else group for group in groups]
    return groups


def variants(seed, families=60):
    """Texts that are changed step by step, so that their similarities lie everywhere between 0 and 1."""
    generator = random.Random(seed)
    codes = []
    for family in range(families):
        tokens = [
            f"v{generator.randrange(400)}" if generator.random() < 0.6 else generator.choice("()[]=+,.:")
            for _ in range(generator.randint(3, 120))
        ]
        for _ in range(generator.randint(1, 6)):
            codes.append(" ".join(tokens))
            for _ in range(generator.randint(0, 3)):
                tokens[generator.randrange(len(tokens))] = f"n{family}_{generator.randrange(9)}"
    generator.shuffle(codes)
    return codes


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95, 1.0], ids=str)
def test_groups_equal_brute_force(threshold):
    codes = variants(seed=int(100 * threshold))
    expected = brute_force(codes, threshold)
    assert find_near_duplicates(codes, threshold) == expected
    # Neither everything nor nothing is a duplicate.
    assert 0.1 * len(codes) < len(set(expected)) < 0.95 * len(codes)


def test_groups_of_real_code_equal_brute_force():
    import json
    import logging
    from pathlib import Path

    folders = [Path(part.__file__).parent for part in (json, logging)]
    codes = mine_pairs(folders, languages="python", keep_duplicates=True)["code"][:]
    codes += [code.replace("self", "this", 1) for code in codes]
    expected = brute_force(codes, 0.8)
    assert find_near_duplicates(codes) == expected
    assert len(set(expected)) < len(codes) - 20


@pytest.mark.parametrize("large", [1, 7])
def test_groups_of_many_texts_at_once_equal_brute_force(monkeypatch, large):
    monkeypatch.setattr("st_softinfonce.data.duplicates._SMALL_BUCKET", large)
    monkeypatch.setattr("st_softinfonce.data.duplicates._RARE", large)
    codes = variants(3)
    assert find_near_duplicates(codes) == brute_force(codes, 0.8)
    index = NearDuplicateIndex()
    index.add(band_keys(codes * 2), ["go"] * len(codes) + ["java"] * len(codes))
    go = brute_force(codes, 0.8)
    groups = index.groups(lambda rows: ((codes * 2)[row] for row in rows))
    assert groups.tolist() == go + [len(codes) + group for group in go]


def test_many_texts_of_one_template_are_not_compared_one_by_one(monkeypatch):
    compare, compared = duplicates._similar, []
    monkeypatch.setattr(duplicates, "_similar", lambda *texts: compared.append(1) or compare(*texts))
    template = " ".join(f"word{number}" for number in range(100))
    codes = [" ".join([template, *(f"own{number}_{place}" for place in range(16))]) for number in range(800)]
    assert find_near_duplicates(codes) == list(range(len(codes)))
    assert len(compared) < len(codes) ** 2 / 20


@pytest.mark.parametrize(
    "template",
    [
        "def f{}(a, b):\n    x = a + b\n    return x",
        "def f{}(a, b):\n    x = a + b\n    return g{}(x)",
        "function f{}() {{ return this.x; }}",
        "def get_{}(self):\n    return self._{}",
    ],
    ids=["name", "name and call", "short", "getter"],
)
def test_functions_that_differ_in_their_name_alone_are_compared_in_linear_time(monkeypatch, template):
    compare, compared = duplicates._similar, []
    monkeypatch.setattr(duplicates, "_similar", lambda *texts: compared.append(1) or compare(*texts))
    codes = [template.format(number, number) for number in range(600)]
    assert find_near_duplicates(codes) == brute_force(codes, 0.8)
    assert len(compared) < 10 * len(codes)


def test_many_fillers_in_one_template_are_compared_in_linear_time(monkeypatch):
    generator, rows = random.Random(0), []
    connect = duplicates.connected_components
    monkeypatch.setattr(
        duplicates, "connected_components", lambda graph, **options: rows.append(64) or connect(graph, **options)
    )
    line = "    word{} = {}(a)\n"
    codes = [
        "".join(
            line.format(place, f"filler{generator.randrange(20)}" if place % 7 == 0 else "g") for place in range(40)
        )
        for _ in range(1_500)
    ]
    # Six of 40 lines differ at most, in one place each, and there are texts between any two.
    assert set(find_near_duplicates(codes)) == {0}
    assert 0 < sum(rows) <= 512 * 21  # for each of 21 keys, however many texts there are


def test_numbers_do_not_depend_on_batches(monkeypatch):
    codes = variants(seed=7)
    expected = find_near_duplicates(codes)
    monkeypatch.setattr("st_softinfonce.data.duplicates._BATCH", 7)
    assert find_near_duplicates(codes) == expected


def test_languages_are_never_grouped_together():
    index = NearDuplicateIndex()
    index.add(band_keys(["a b c d e f"] * 4), ["php", "java", "php", "java"])
    assert index.groups(lambda rows: ["a b c d e f"] * len(rows)).tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("codes", "groups"),
    [([], []), ([""], [0]), (["", "a", "", "a"], [0, 1, 0, 1]), (["a b", "a  b", "a c"], [0, 0, 2])],
    ids=["none", "empty", "short", "spaces"],
)
def test_short_texts(codes, groups):
    assert find_near_duplicates(codes) == groups


@pytest.mark.parametrize("threshold", [0, -1, 1.1, float("nan")], ids=str)
def test_threshold_is_checked(threshold):
    with pytest.raises(ValueError, match="threshold must be above 0 and at most 1"):
        find_near_duplicates(["a"], threshold)


def test_single_text_is_refused():
    with pytest.raises(ValueError, match="codes must be several texts, got one string of 4 characters"):
        find_near_duplicates("code")


def test_limit_keeps_the_first_of_each_group():
    pairs = Dataset.from_dict({"row": list(range(6)), "duplicate_group": [5, 1, 5, 5, 1, 2]})
    assert limit_duplicates(pairs)["row"][:] == [0, 1, 5]
    assert limit_duplicates(pairs, per_group=2)["row"][:] == [0, 1, 2, 4, 5]
    assert limit_duplicates(pairs.with_format("numpy"), 3)["row"][:].tolist() == list(range(6))


@pytest.mark.parametrize("per_group", [0, 1.5, True], ids=str)
def test_limit_is_checked(per_group):
    with pytest.raises(ValueError, match="per_group must be an integer of at least 1"):
        limit_duplicates(Dataset.from_dict({"duplicate_group": [1]}), per_group)


def test_limit_needs_the_column():
    with pytest.raises(ValueError, match=r"column 'duplicate_group', got \['code'\]: add what find_near_duplicates"):
        limit_duplicates(Dataset.from_dict({"code": ["a"]}))
