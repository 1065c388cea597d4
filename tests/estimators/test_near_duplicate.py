"""Near-duplicates against Python's sets; clones of the positive through the loss are in test_published."""

import json
import random

import pytest
import reference
import torch

from st_softinfonce import TextColumn, get_estimator
from st_softinfonce.estimators import NearDuplicateEstimator


def random_texts(seed, count, vocabulary=6, longest=15):
    generator = random.Random(seed)
    return [[generator.randrange(vocabulary) for _ in range(generator.randrange(longest))] for _ in range(count)]


def column(rows, extra=0, side="right"):
    """Token ids as a batch has them: 0 pads, and 1 and 2 open and close a text."""
    width = max(len(row) for row in rows) + 2 + extra
    padded = []
    for row in rows:
        row = [1, *(token + 3 for token in row), 2]
        filling = [0] * (width - len(row))
        padded.append(row + filling if side == "right" else filling + row)
    ids = torch.tensor(padded)
    return TextColumn({"input_ids": ids, "attention_mask": ids > 0}, special_ids=range(3))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 40])
@pytest.mark.parametrize("seed", range(3))
def test_similarity_is_the_jaccard_of_pythons_sets(monkeypatch, size, seed):
    monkeypatch.setattr("st_softinfonce.estimators.near_duplicate._ROWS_AT_A_TIME", 4)
    queries, candidates = random_texts(seed, 11), random_texts(seed + 50, 17)
    candidates[:3] = queries[:3]
    estimator = NearDuplicateEstimator(size=size)
    similarity = estimator.similarity(
        estimator.represent(column(queries)), estimator.represent(column(candidates, extra=4, side="left"))
    )
    expected = torch.tensor([[reference.jaccard(one, other, size) for other in candidates] for one in queries])
    torch.testing.assert_close(similarity, expected, rtol=1e-6, atol=1e-6)
    assert (expected > 0).sum() > 2
    assert (expected == 0).any()


def test_texts_shorter_than_a_shingle_equal_only_themselves():
    estimator = NearDuplicateEstimator(size=5)
    shingles = estimator.represent(column([[1, 2], [1, 2], [2, 1], [1, 2, 3], [], []]))
    similarity = estimator.similarity(shingles, shingles)
    expected = torch.eye(6)
    expected[0, 1] = expected[1, 0] = 1
    expected[4, 4] = expected[5, 5] = 0
    assert torch.equal(similarity, expected)


@pytest.mark.parametrize(("compares", "size"), [("positives", 5), ("queries", 3), ("documents", 3)])
def test_the_default_size_suits_what_is_compared(compares, size):
    config = get_estimator("near-duplicate", compares=compares).get_config_dict()
    assert json.loads(json.dumps(config)) == config == {"size": size, "compares": compares}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be an integer of at least 1 or None, got 0"),
        ({"size": 2.0}, "size must be an integer of at least 1 or None, got 2.0"),
        ({"compares": "code"}, r"compares must be one of \('queries', 'documents', 'positives'\), got 'code'"),
    ],
    ids=["size-0", "size-float", "compares"],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        get_estimator("near-duplicate", **options)
