"""Without an estimator the losses are the host's: every option, in value and gradients, at once and cached."""

import itertools

import pytest
import torch
from conftest import COLUMNS, assert_same, features, run
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import dot_score

from st_softinfonce import BM25Estimator, CachedSoftInfoNCELoss, SoftInfoNCELoss
from st_softinfonce.treatments import Distill, Mask, Soften

OTHER_DIRECTIONS = ("query_to_query", "doc_to_query", "doc_to_doc")
# Every subset with the one that is always there, in every order of the others, which stands first, second or last.
ORDERS = [
    (*order[:place], "query_to_doc", *order[place:])
    for size in range(4)
    for order in itertools.permutations(OTHER_DIRECTIONS, size)
    for place in sorted({0, min(1, size), size})
]
SCORES = {"cosine-20": {}, "dot-product-1": {"scale": 1.0, "similarity_fct": dot_score}}
HARDNESS = (None, "in_batch_negatives", "hard_negatives", "all_negatives")
texts = pytest.mark.parametrize("texts", COLUMNS.values(), ids=COLUMNS.keys())


SUBSETS = {tuple(sorted(order)): order for order in ORDERS}.values()


def combinations(orders=ORDERS):
    """Every set of options that the host takes."""
    for directions in orders:
        apart = not set(directions) & {"query_to_query", "doc_to_doc"}
        for partition, hardness in itertools.product(("joint", "per_direction") if apart else ("joint",), HARDNESS):
            yield {
                "directions": directions,
                "partition_mode": partition,
                "hardness_mode": hardness,
                "hardness_strength": 5.0 if hardness else 0.0,
            }


@pytest.fixture
def exact_model(model):
    return model.double()


@pytest.fixture
def exact_transformer(transformer_model):
    return transformer_model.double()


@pytest.mark.parametrize(
    ("texts", "scores"),
    [("pairs", "cosine-20"), ("one-negative", "dot-product-1"), ("two-negatives", "cosine-20")],
)
def test_every_order_of_directions_partition_and_hardness(static_model, texts, scores):
    model, texts, scores = static_model.double(), COLUMNS[texts], SCORES[scores]
    batch = features(model, texts)
    values = set()
    # Every order is gone through with one negative; each subset once with more or none.
    for options in combinations(ORDERS if len(texts) == 3 else [order for order in ORDERS if order in SUBSETS]):
        ours = run(model, SoftInfoNCELoss(model, None, **options, **scores), batch)
        assert_same(ours, run(model, MultipleNegativesRankingLoss(model, **options, **scores), batch))
        values.add(round(ours[0].item(), 6))
    # Each option makes a difference, or nothing was compared: 8 subsets and one that is parted, by hardness (pairs
    # have no hard negatives, so that two of its modes are as good as the other two).
    assert len(values) == 9 * (2 if len(texts) == 2 else 4)


# Each subset once, in another order than the host's; both partitions; one hardness each.
COVERING = [
    {"directions": ("query_to_doc",), "hardness_mode": "hard_negatives", "hardness_strength": 5.0},
    {"directions": ("doc_to_query", "query_to_doc"), "partition_mode": "per_direction"},
    {
        "directions": ("query_to_doc", "doc_to_query"),
        "partition_mode": "per_direction",
        "hardness_mode": "all_negatives",
        "hardness_strength": 5.0,
    },
    {"directions": ("doc_to_doc", "query_to_doc"), "hardness_mode": "in_batch_negatives", "hardness_strength": 5.0},
    {"directions": ("query_to_query", "query_to_doc", "doc_to_query")},
    {"directions": ("doc_to_query", "doc_to_doc", "query_to_query", "query_to_doc")},
    {"directions": ORDERS[-1], "hardness_mode": "all_negatives", "hardness_strength": 5.0},
]


@texts
def test_a_transformer_at_once(exact_transformer, texts):
    batch = features(exact_transformer, texts)
    for options, scores in zip(COVERING, itertools.cycle(SCORES.values()), strict=False):
        ours = run(exact_transformer, SoftInfoNCELoss(exact_transformer, None, **options, **scores), batch)
        host = MultipleNegativesRankingLoss(exact_transformer, **options, **scores)
        assert_same(ours, run(exact_transformer, host, batch))


@texts
@pytest.mark.parametrize("chunk", [3, 4], ids=["chunks-that-do-not-divide", "chunks-that-divide"])
def test_a_transformer_with_cached_gradients(exact_transformer, texts, chunk):
    batch = features(exact_transformer, texts)
    for options, scores in zip(COVERING, itertools.cycle(SCORES.values()), strict=False):
        options = {**options, **scores, "mini_batch_size": chunk}
        ours = run(exact_transformer, CachedSoftInfoNCELoss(exact_transformer, None, **options), batch)
        assert_same(
            ours, run(exact_transformer, CachedMultipleNegativesRankingLoss(exact_transformer, **options), batch)
        )


@pytest.mark.parametrize("mode", HARDNESS[1:])
def test_no_hardness_means_none(static_model, mode):
    """A mode without strength, and a strength without mode, are what they are to the host: nothing."""
    model = static_model.double()
    plain = run(model, MultipleNegativesRankingLoss(model))
    assert_same(run(model, SoftInfoNCELoss(model, None, hardness_mode=mode)), plain)
    assert_same(run(model, SoftInfoNCELoss(model, None, hardness_strength=5.0)), plain)


@pytest.mark.parametrize(
    "treatment",
    [Soften(alpha=0.0, beta=2.0, temperature=1.0), Distill(share=0.0)],
    ids=["soften-0", "distill-0"],
)
def test_a_treatment_without_effect_is_the_hosts_loss_and_asks_nobody(exact_model, treatment):
    class Unasked(BM25Estimator):
        def represent(self, column):
            raise RuntimeError("asked")

    ours = run(exact_model, SoftInfoNCELoss(exact_model, Unasked(), treatment))
    assert_same(ours, run(exact_model, MultipleNegativesRankingLoss(exact_model)))
    with pytest.raises(RuntimeError, match="asked"):
        run(exact_model, SoftInfoNCELoss(exact_model, Unasked(), Mask(top_k=1)))


@pytest.mark.parametrize("size", [1, 2, 5], ids=lambda size: f"batch-of-{size}")
@pytest.mark.filterwarnings("ignore:A batch has a single pair")
def test_small_batches(exact_model, size):
    for columns in COLUMNS.values():
        batch = features(exact_model, [column[:size] for column in columns])
        for options in COVERING:
            exact_model.zero_grad()
            ours = SoftInfoNCELoss(exact_model, None, **options)(features_again(batch), None)
            host = MultipleNegativesRankingLoss(exact_model, **options)(features_again(batch), None)
            torch.testing.assert_close(ours, host, rtol=1e-9, atol=1e-12)


def features_again(batch):
    return [dict(column) for column in batch]


@pytest.mark.parametrize("cls", [SoftInfoNCELoss, CachedSoftInfoNCELoss])
@pytest.mark.parametrize(
    ("directions", "message"),
    [
        (("doc_to_query",), r"'query_to_doc' \(which holds the positive\) with them, got \('doc_to_query',\)"),
        (("query_to_doc", "sideways"), r"directions must be among .*'sideways'"),
        ((), r"directions must be among .*got \(\)"),
    ],
    ids=["without-the-positive", "unknown", "none"],
)
def test_directions_that_the_host_refuses_are_refused(transformer_model, cls, directions, message):
    with pytest.raises(ValueError, match=message):
        cls(transformer_model, None, directions=directions)
    with pytest.raises(ValueError, match=r".+"):
        MultipleNegativesRankingLoss(transformer_model, directions=directions)


@pytest.mark.parametrize("other", ["query_to_query", "doc_to_doc"])
def test_directions_without_a_positive_have_no_softmax_of_their_own(static_model, other):
    with pytest.raises(ValueError, match=rf"partition_mode='per_direction' needs directions that hold .*'{other}'"):
        SoftInfoNCELoss(static_model, None, directions=("query_to_doc", other), partition_mode="per_direction")
