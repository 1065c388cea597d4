"""The paper's other losses: against its own numbers, a loop-written oracle, and through the estimators."""

import math

import pytest
import reference
import torch

from evaluation.runs import baselines
from st_softinfonce import BM25Estimator

TEXTS = [
    ["read a file", "sort the list", "count every number"],
    ["def read path return open path", "def sort list return list", "def count number in list"],
    ["def write path data", "def merge list return list", "def find number list"],
]
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
FUNCTIONS = {
    "bce": (baselines.bce, reference.bce, {}),
    "weighted-info-nce": (baselines.weighted_info_nce, reference.weighted_info_nce, {}),
    "kl": (
        baselines.kl_regularized_info_nce,
        reference.kl_regularized_info_nce,
        {"info_nce_weight": 1.3, "kl_weight": 0.7},
    ),
}
functions = pytest.mark.parametrize(("ours", "oracle", "options"), FUNCTIONS.values(), ids=FUNCTIONS.keys())


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


def random_batch(seed, rows=5, columns=5, scale=3.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    scores = scale * torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return scores.to(dtype), torch.randn(rows, columns, generator=generator, dtype=torch.float64).to(dtype)


class TestAgainstThePapersCode:
    @pytest.mark.parametrize(
        ("key", "function"), [("bce", baselines.bce), ("weighted_infonce", baselines.weighted_info_nce)]
    )
    def test_soft_label_losses(self, reference_cases, key, function):
        compared = 0
        for case in reference_cases["batches"]:
            for setting in case["by_temperature"]:
                record = setting[key]
                loss, gradient = value_and_gradient(
                    function, tensor(case["S"]), tensor(case["sim"]), temperature=setting["t"]
                )
                if not record["flags"]:
                    assert_close(loss, float(record["loss"]))
                    assert_close(gradient, tensor(record["grad"]), 1e-9)
                    compared += 1
        assert compared > 15

    def test_kl(self, reference_cases):
        compared = 0
        for case in reference_cases["batches"]:
            for setting in case["by_setting"]:
                record = setting["kl_regularized"]
                loss, gradient = value_and_gradient(
                    baselines.kl_regularized_info_nce,
                    tensor(case["S"]),
                    tensor(case["sim"]),
                    temperature=setting["t"],
                    info_nce_weight=setting["beta"],
                    kl_weight=setting["alpha"],
                )
                if math.isfinite(float(record["loss"])) and not record["flags"]:
                    assert_close(loss, float(record["loss"]))
                    assert_close(gradient, tensor(record["grad"]), 1e-9)
                    compared += 1
        assert compared > 40


class TestFunctions:
    @functions
    @pytest.mark.parametrize("positives", [None, [3, 0, 2, 1, 4]], ids=["diagonal", "given"])
    @pytest.mark.parametrize("scale", [3.0, 1e3], ids=str)
    def test_equal_the_loop_written_ones(self, ours, oracle, options, positives, scale):
        scores, similarity = random_batch(7, 5, 9, scale)
        columns = None if positives is None else torch.tensor(positives)
        loss, gradient = value_and_gradient(ours, scores, similarity, temperature=0.5, positives=columns)
        expected = oracle(scores.tolist(), similarity.tolist(), 0.5, *options.values(), positives=positives)
        assert_close(loss, expected)
        assert gradient.abs().sum() > 0

    @functions
    def test_gradients_equal_finite_differences(self, ours, oracle, options):
        scores, similarity = random_batch(3, 4, 6)
        assert torch.autograd.gradcheck(lambda s: ours(s, similarity, temperature=0.5), scores.requires_grad_())

    @functions
    def test_edges(self, ours, oracle, options):
        one, _ = value_and_gradient(ours, torch.ones(1, 1).double(), torch.ones(1, 1).double(), temperature=1.0)
        assert one == 0
        scores, similarity = random_batch(13)
        similarity[0, 1:], similarity[2, 1] = -math.inf, -math.inf
        value_and_gradient(ours, scores, similarity, temperature=0.5)
        half = ours(scores.bfloat16(), similarity.float(), temperature=0.5)
        assert half.dtype == torch.float32
        similarity[1, 3] = math.nan
        with pytest.raises(ValueError, match="similarity holds nan at row 1, column 3"):
            ours(scores, similarity, temperature=0.5)
        with pytest.raises(ValueError, match="temperature must be a finite number above 0, got 0"):
            ours(scores, similarity, temperature=0)


@pytest.mark.parametrize(
    ("loss", "function"),
    [
        (baselines.InBatchBCELoss, baselines.bce),
        (baselines.WeightedInfoNCELoss, baselines.weighted_info_nce),
        (baselines.KLRegularizedInfoNCELoss, baselines.kl_regularized_info_nce),
    ],
)
def test_losses_train_on_the_estimators_similarities(static_model, loss, function):
    made = loss(static_model, BM25Estimator(compares="documents"), temperature=2.0)
    value = made([static_model.preprocess(column) for column in TEXTS], None).detach()
    with torch.no_grad():
        embeddings = [static_model(static_model.preprocess(column))["sentence_embedding"] for column in TEXTS]
        queries, documents = embeddings[0], torch.cat(embeddings[1:])
        scores = 20 * torch.nn.functional.cosine_similarity(queries.unsqueeze(1), documents.unsqueeze(0), dim=2)
    words = [[text.split() for text in column] for column in TEXTS]
    similarity = torch.tensor(reference.bm25(words[0], words[1] + words[2], 1.2, 0.75))
    torch.testing.assert_close(value, function(scores, similarity.float(), temperature=2.0), rtol=1e-4, atol=1e-5)
    assert made.get_config_dict()["treatment"] == {"treatment": loss.__name__, "temperature": 2.0}
