import pytest
from datasets import Dataset, DatasetDict

from st_softinfonce.data import split_by_package


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
