"""The paper's other losses: against its own numbers, a loop-written oracle, and through the estimators."""

import math

import pytest
import reference
import torch

from evaluation.runs import baselines
from st_softinfonce import BM25Estimator

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
LOSSES = {
    "bce": (baselines.bce, reference.bce, {}),
    "weighted_infonce": (baselines.weighted_info_nce, reference.weighted_info_nce, {}),
    "kl_regularized": (
        baselines.kl_regularized_info_nce,
        reference.kl_regularized_info_nce,
        {"info_nce_weight": 1.3, "kl_weight": 0.7},
    ),
}
losses = pytest.mark.parametrize(("ours", "oracle", "options"), LOSSES.values(), ids=LOSSES.keys())


def tensor(rows):
    return torch.tensor([[float(value) for value in row] for row in rows], dtype=torch.float64)


def assert_close(actual, expected, tolerance=None):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    tolerance = TOLERANCES[actual.dtype] if tolerance is None else tolerance
    difference = (actual.double() - expected).abs()
    assert bool((difference <= tolerance * expected.abs().clamp(min=1.0)).all()), difference.max().item()


def value_and_gradient(function, scores, similarity, **options):
    scores = scores.clone().requires_grad_()
    loss = function(scores, similarity, **options)
    loss.backward()
    assert loss.isfinite()
    assert scores.grad.isfinite().all()
    return loss.detach(), scores.grad


def random_batch(seed, rows=5, columns=5, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    scores, similarity = torch.randn(2, rows, columns, generator=generator, dtype=torch.float64)
    return scale * scores, similarity


@pytest.mark.parametrize(("key", "least"), [("bce", 16), ("weighted_infonce", 16), ("kl_regularized", 41)])
def test_values_and_gradients_are_those_of_the_papers_code(reference_cases, key, least):
    function, compared = LOSSES[key][0], 0
    for case in reference_cases["batches"]:
        for setting in case["by_setting" if key == "kl_regularized" else "by_temperature"]:
            weights = {"info_nce_weight": setting["beta"], "kl_weight": setting["alpha"]} if "alpha" in setting else {}
            scores, similarity = tensor(case["S"]), tensor(case["sim"])
            # Ours is finite even where the paper's overflows or is clamped.
            loss, gradient = value_and_gradient(function, scores, similarity, temperature=setting["t"], **weights)
            record = setting[key]
            if math.isfinite(float(record["loss"])) and not record["flags"]:
                assert_close(loss, float(record["loss"]))
                assert_close(gradient, tensor(record["grad"]), 1e-9)
                compared += 1
    assert compared >= least


@losses
@pytest.mark.parametrize("positives", [None, [3, 0, 2, 1, 4]], ids=["diagonal", "given"])
@pytest.mark.parametrize("scale", [3.0, 1e3], ids=str)
def test_values_equal_the_loop_written_ones(ours, oracle, options, positives, scale):
    scores, similarity = random_batch(7, 5, 9, scale)
    columns = None if positives is None else torch.tensor(positives)
    loss, gradient = value_and_gradient(ours, scores, similarity, temperature=0.5, positives=columns)
    assert_close(loss, oracle(scores.tolist(), similarity.tolist(), 0.5, *options.values(), positives=positives))
    assert gradient.abs().sum() > 0


@losses
def test_edges(ours, oracle, options):
    one, _ = value_and_gradient(ours, torch.ones(1, 1).double(), torch.ones(1, 1).double(), temperature=1.0)
    assert one == 0
    scores, similarity = random_batch(13)
    similarity[0, 1:], similarity[2, 1] = -math.inf, -math.inf
    value_and_gradient(ours, scores, similarity, temperature=0.5)
    assert ours(scores.bfloat16(), similarity.float(), temperature=0.5).dtype == torch.float32
    similarity[1, 3] = math.nan
    with pytest.raises(ValueError, match="similarity holds nan at row 1, column 3"):
        ours(scores, similarity, temperature=0.5)
    with pytest.raises(ValueError, match="temperature must be a finite number above 0, got 0"):
        ours(scores, similarity, temperature=0)


@pytest.mark.parametrize(
    ("loss", "key"),
    [
        ("InBatchBCELoss", "bce"),
        ("WeightedInfoNCELoss", "weighted_infonce"),
        ("KLRegularizedInfoNCELoss", "kl_regularized"),
    ],
)
def test_losses_train_on_the_estimators_similarities(static_model, loss, key):
    columns = [
        ["read a file", "sort the list", "count every number"],
        ["def read path return open path", "def sort list return list", "def count number in list"],
        ["def write path data", "def merge list return list", "def find number list"],
    ]
    made = getattr(baselines, loss)(static_model, BM25Estimator(compares="documents"), temperature=2.0)
    value = made([static_model.preprocess(column) for column in columns], None).detach()
    with torch.no_grad():
        embeddings = [static_model(static_model.preprocess(column))["sentence_embedding"] for column in columns]
        queries, documents = embeddings[0], torch.cat(embeddings[1:])
        scores = 20 * torch.nn.functional.cosine_similarity(queries.unsqueeze(1), documents.unsqueeze(0), dim=2)
    words = [[text.split() for text in column] for column in columns]
    similarity = torch.tensor(reference.bm25(words[0], words[1] + words[2], 1.2, 0.75))
    expected = LOSSES[key][0](scores, similarity.float(), temperature=2.0)
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
