import pytest
from datasets import Dataset, DatasetDict, concatenate_datasets

from st_softinfonce.data import split_by_origin, split_by_package


def make_pairs(sizes, **columns):
    # Interleaved, so that keeping the order of rows is more than keeping packages together.
    rows = sorted((index, name) for name, size in sizes.items() for index in range(size))
    return Dataset.from_dict({"package": [name for _, name in rows], "row": list(range(len(rows))), **columns})


def test_named_packages_are_held_out_and_order_is_kept():
    splits = split_by_package(make_pairs({"a": 3, "b": 2, "c": 1}), ["b", "c"])
    assert isinstance(splits, DatasetDict)
    assert list(splits) == ["train", "test"]
    assert splits["train"]["row"][:] == [0, 3, 5]
    assert splits["test"]["row"][:] == [1, 2, 4]
    assert set(splits["train"]["package"]) == {"a"}


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.9], ids=str)
def test_share_is_reached_by_whole_packages(share):
    pairs = make_pairs({f"p{index}": index + 1 for index in range(30)})
    splits = split_by_package(pairs, share)
    train, test = splits["train"], splits["test"]
    assert not set(train["package"]) & set(test["package"])
    assert sorted(train["row"][:] + test["row"][:]) == list(range(pairs.num_rows))
    assert test["row"][:] == sorted(test["row"][:])
    assert share <= test.num_rows / pairs.num_rows <= share + 10 / pairs.num_rows


def test_huge_package_is_not_taken_for_a_small_share():
    for seed in range(10):
        splits = split_by_package(make_pairs({"huge": 900, "a": 30, "b": 40, "c": 30}), 0.05, seed=seed)
        assert "huge" not in splits["test"]["package"]


def test_share_depends_on_names_and_seed_alone():
    sizes = {f"p{index}": 5 for index in range(20)}
    backwards = dict(reversed(sizes.items()))
    chosen = [set(split_by_package(make_pairs(given), 0.3)["test"]["package"]) for given in (sizes, backwards)]
    assert chosen[0] == chosen[1]
    assert set(split_by_package(make_pairs(sizes), 0.3, seed=1)["test"]["package"]) != chosen[0]


@pytest.mark.parametrize(
    ("pairs", "test_packages", "message"),
    [
        (make_pairs({"numpy": 1, "torch": 1}), ["nunpy"], r"got 'nunpy': did you mean 'numpy'\?"),
        (make_pairs({"numpy": 1, "torch": 1}), ["xyz"], "got 'xyz': choose from 'numpy', 'torch'"),
        (make_pairs({f"p{i:02}": 1 for i in range(12)}), ["x"], "'p09' and 2 more"),
        (make_pairs({"numpy": 1, "torch": 1}), "numpy", "several names or a share, got 'numpy': put it in a list"),
        (make_pairs({"numpy": 1, "torch": 1}), [], "got none, and 'test' is empty: .* mine more packages"),
        (make_pairs({"numpy": 1, "torch": 1}), ["numpy", "torch"], "and 'train' is empty"),
        (make_pairs({"numpy": 5}), 0.5, "and 'train' is empty"),
        (make_pairs({}), 0.5, "and 'test' is empty"),
        (make_pairs({"numpy": 1, "torch": 1}), 1.0, "share between 0 and 1, got 1.0"),
        (make_pairs({"numpy": 1, "torch": 1}), 0, "share between 0 and 1, got 0"),
        (make_pairs({"numpy": 1, "torch": 1}), float("nan"), "share between 0 and 1, got nan"),
        (make_pairs({"numpy": 1, "torch": 1}).rename_column("package", "repo"), 0.5, "the column 'package', got"),
        (Dataset.from_dict({"package": ["a", None, "b", ""]}), 0.5, "package name in each row, got 2 without"),
        (DatasetDict(train=make_pairs({"a": 1})), 0.5, "must be a datasets.Dataset, got DatasetDict"),
    ],
    ids=[
        "misspelt", "unknown", "many", "string", "nothing", "everything", "one package", "no rows", "one", "zero",
        "nan", "no column", "no name", "dict",
    ],
)  # fmt: skip
def test_bad_input_is_refused(pairs, test_packages, message):
    with pytest.raises(ValueError, match=message):
        split_by_package(pairs, test_packages)


def test_code_on_both_sides_is_reported():
    pairs = make_pairs({"a": 2, "b": 2}, code=["x", "x", "x", "y"])
    with pytest.warns(UserWarning, match="2 rows of 'train' have a code that is also in 'test'") as caught:
        split_by_package(pairs, ["b"])
    assert caught[0].filename == __file__


def test_formatted_datasets_split_alike():
    pairs = make_pairs({"a": 3, "b": 2}).with_format("numpy")
    assert split_by_package(pairs, ["b"])["test"]["row"][:].tolist() == [1, 3]


# Three sides and leaks


def test_three_sides_are_made_of_whole_packages():
    pairs = make_pairs({"a": 3, "b": 2, "c": 1})
    splits = split_by_package(pairs, ["c"], validation_packages=["b"])
    assert list(splits) == ["train", "validation", "test"]
    assert {side: set(rows["package"]) for side, rows in splits.items()} == {
        "train": {"a"},
        "validation": {"b"},
        "test": {"c"},
    }
    pairs = make_pairs({f"p{index}": index + 1 for index in range(30)})
    splits = split_by_package(pairs, 0.2, validation_packages=0.1)
    names = [set(rows["package"]) for rows in splits.values()]
    assert not names[0] & names[1] | names[0] & names[2] | names[1] & names[2]
    assert splits["validation"].num_rows >= 0.1 * pairs.num_rows
    assert splits["test"]["row"][:] == split_by_package(pairs, 0.2)["test"]["row"][:]


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (["b"], "validation_packages must not name test packages, got 'b': name each once"),
        (["x"], "validation_packages must be packages of pairs, got 'x'"),
        ("a", "validation_packages must be several names or a share, got 'a'"),
        ([], "validation_packages must leave rows on all sides, got none, and 'validation' is empty"),
        (["a", "c"], "test_packages must leave rows on all sides, got 'a', 'b', 'c', and 'train' is empty"),
        (1.5, "validation_packages must be names or a share between 0 and 1, got 1.5"),
    ],
    ids=["twice", "unknown", "string", "nothing", "everything", "share"],
)
def test_bad_validation_is_refused(validation, message):
    with pytest.raises(ValueError, match=message):
        split_by_package(make_pairs({"a": 1, "b": 1, "c": 1}), ["b"], validation_packages=validation)


def test_near_duplicates_on_both_sides_are_reported_or_dropped():
    # Rows of a, b, c in turn: group 1 is on all sides, 2 in a and b, code "x" in a and c alone.
    groups = [1, 1, 1, 2, 2, 3, 4, 5, 6]
    codes = ["p", "q", "r", "s", "t", "u", "x", "v", "x"]
    pairs = make_pairs({"a": 3, "b": 3, "c": 3}, duplicate_group=groups, code=codes)
    with pytest.warns(UserWarning, match="exactly or nearly: pass drop_leaks=True") as caught:
        kept = split_by_package(pairs, ["c"], validation_packages=["b"])
    assert [str(warning.message).split(",")[0] for warning in caught] == [
        "1 rows of 'validation' have a code that is also in 'test'",
        "3 rows of 'train' have a code that is also in 'validation' or 'test'",
    ]
    assert {warning.filename for warning in caught} == {__file__}
    assert sum(len(rows) for rows in kept.values()) == 9
    splits = split_by_package(pairs.select([*range(9)]), ["c"], drop_leaks=True)
    assert {side: rows["row"][:] for side, rows in splits.items()} == {"train": [3, 4, 7], "test": [2, 5, 8]}
    with pytest.raises(ValueError, match="all 3 of 'train' have a code that is also in 'validation' or 'test'"):
        split_by_package(pairs, ["c"], validation_packages=["b"], drop_leaks=True)


def test_what_is_dropped_from_validation_is_no_leak_in_train():
    pairs = make_pairs({"a": 2, "b": 2, "c": 2}, duplicate_group=[1, 1, 2, 3, 2, 2], code=list("uvwxyz"))
    splits = split_by_package(pairs, ["c"], validation_packages=["b"], drop_leaks=True)
    assert {side: rows["row"][:] for side, rows in splits.items()} == {"train": [3], "validation": [1], "test": [2, 5]}


def test_empty_values_are_no_leaks():
    pairs = make_pairs({"a": 1, "b": 1}, code=[None, None])
    assert split_by_package(pairs, ["b"])["train"].num_rows == 1


def test_candidates_without_a_query_are_tested_among_and_never_trained_on():
    pairs = Dataset.from_dict({"query": ["a", "", "b", ""], "package": ["x", "x", "y", "y"]})
    sides = split_by_package(pairs, ["y"])
    assert {name: side["query"][:] for name, side in sides.items()} == {"train": ["a"], "test": ["b", ""]}


def origins(*paths, package="pack"):
    return Dataset.from_dict(
        {"query": [str(n) for n in range(len(paths))], "package": [package] * len(paths), "path": list(paths)}
    )


@pytest.mark.parametrize(
    ("pairs", "level"),
    [
        (origins("p/a/1.py", "p/a/2.py", "p/b/1.py", "p/c/1.py", "setup.py"), "folders"),
        (origins("p/1.py", "p/2.py", "p/3.py", "p/4.py"), "files"),
    ],
    ids=["folders", "files"],
)
def test_one_package_is_split_by_its_folders_or_else_its_files(pairs, level):
    split, found = split_by_origin(pairs, 0.25)
    assert found == level
    assert split["train"].num_rows + split["test"].num_rows == pairs.num_rows
    assert 1 <= split["test"].num_rows <= 2
    assert split["test"].column_names == pairs.column_names
    assert set(split["train"]["package"]) == {"pack"}
    sides = [
        {path.rpartition("/")[0] if level == "folders" else path for path in split[side]["path"]} for side in split
    ]
    assert not sides[0] & sides[1]


def test_packages_are_held_out_where_there_are_enough():
    pairs = concatenate_datasets([origins("a/1.py", "a/2.py", package=name) for name in "abcde"])
    split, level = split_by_origin(pairs, 0.2)
    assert level == "packages"
    assert not set(split["train"]["package"]) & set(split["test"]["package"])
    assert split["test"].num_rows == 2


def test_what_cannot_be_split_by_origin_is_refused():
    with pytest.raises(ValueError, match="several files to be split, got 3 rows of 1: add sources"):
        split_by_origin(origins("a.py", "a.py", "a.py"), 0.2)
    with pytest.raises(ValueError, match="test_share must be between 0 and 1, got 1"):
        split_by_origin(origins("a.py"), 1)
    with pytest.raises(ValueError, match="column 'path', got"):
        split_by_origin(origins("a.py").remove_columns("path"), 0.2)
