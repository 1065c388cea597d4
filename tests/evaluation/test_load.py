"""Corpora: what is missing or leaks is refused, and a sample is the same whatever the order."""

import pytest
from bench import make_pairs, write_corpus

from evaluation import UsageError
from evaluation.corpus.load import Corpus, check_packages, load_splits, sample
from evaluation.runs.fit import training_order

SPLITS = ("train", "validation", "test")


def test_a_shared_package_is_refused(tmp_path):
    splits = {"train": "one", "validation": "two", "test": "one"}
    folder = write_corpus(tmp_path / "leaks", **{name: make_pairs(package, 0, 5) for name, package in splits.items()})
    with pytest.raises(UsageError, match=r"train and test share 1 packages \('one'\)"):
        load_splits(str(folder), "python")
    check_packages({"train": make_pairs("one", 0, 3), "test": make_pairs("two", 0, 3)}, "python")


@pytest.mark.parametrize(
    ("drop", "message"),
    [("test", "has no test-"), ("column", "no column 'duplicate_group'"), ("language", "no folder 'java'")],
)
def test_what_is_missing_is_named(tmp_path, drop, message):
    splits = {name: make_pairs(name, 0, 5) for name in SPLITS}
    if drop == "column":
        splits["test"] = splits["test"].remove_columns("duplicate_group")
    if drop == "test":
        del splits["test"]
    folder = write_corpus(tmp_path / "corpus", **splits)
    with pytest.raises(UsageError, match=message):
        load_splits(str(folder), "java" if drop == "language" else "python")


def test_a_sample_does_not_depend_on_the_order_of_the_rows():
    pairs = make_pairs("one", 0, 30)
    chosen = sample(pairs, 10)["query"][:]
    assert chosen == sample(pairs.select(range(29, -1, -1)), 10)["query"][:]
    assert chosen == sample(pairs, 20)["query"][:10]
    assert len(sample(pairs, None)) == 30


def test_limits_are_kept_and_the_fingerprint_tells_data_apart(corpus, tmp_path):
    limited = Corpus(str(corpus), candidates=7)
    assert [len(rows) for rows in limited.splits("python", 11).values()] == [11, 7, 7]
    other = write_corpus(tmp_path / "other", **{name: make_pairs(name, 3, 25) for name in SPLITS})
    prints = {limited.fingerprint("python", 11), limited.fingerprint("python", 12)}
    prints |= {Corpus(str(corpus)).fingerprint("python", 11), Corpus(str(other)).fingerprint("python", 11)}
    assert len(prints) == 4


def test_each_pass_of_the_order_takes_every_pair_once():
    pairs = make_pairs("one", 0, 24)
    order = training_order(pairs, batch_size=8, steps=6, seed=1)
    assert sorted(order[:24]) == sorted(order[24:]) == list(range(24))
    assert order[:24] != order[24:]
    assert order == training_order(pairs, batch_size=8, steps=6, seed=1)
    assert order != training_order(pairs, batch_size=8, steps=6, seed=2)


def test_grouped_batches_hold_one_package_where_they_can():
    packages = [f"p{number % 4}" for number in range(64)]
    pairs = make_pairs("one", 0, 64).remove_columns("package").add_column("package", packages)
    order = training_order(pairs, batch_size=8, steps=8, seed=1, group_by="package")
    assert sorted(order) == list(range(64))
    batches = [{packages[row] for row in order[start : start + 8]} for start in range(0, 64, 8)]
    assert all(len(batch) == 1 for batch in batches)
    assert [batch.pop() for batch in batches] != sorted(packages[row] for row in order[::8])


def test_too_few_pairs_for_a_batch_are_refused():
    with pytest.raises(UsageError, match="batch_size=8 is more than the 5 training pairs"):
        training_order(make_pairs("one", 0, 5), batch_size=8, steps=1, seed=0)
