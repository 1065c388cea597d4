"""The paper's statements as the evaluation checks them; what it reports as false is false here too."""

import math

import pytest
import torch

from evaluation.studies import theory


@pytest.fixture(scope="module")
def statements():
    return theory.check_statements(batches=60, seed=1)


@pytest.mark.parametrize("name", ["Eq. 5", "Theorem 1", "Theorem 2", "Proposition 1, true direction"])
def test_what_holds_is_never_violated(statements, name):
    found = [result for statement, result in statements.items() if statement.startswith(name)]
    assert found
    for result in found:
        assert result["violations"] == 0
        assert result["checked"] >= 60


def test_proposition_1_as_claimed_is_always_violated(statements):
    result = statements["Proposition 1, as claimed: Soft-InfoNCE >= weighted InfoNCE"]
    assert result["violations"] == result["checked"]


def test_theorem_1_with_a_smaller_constant_would_be_violated():
    """The checks can fail: the paper's factor, which differs from the corrected one unless beta is 1, does."""
    generator = torch.Generator().manual_seed(0)
    violated = 0
    for _ in range(50):
        scores, similarity = theory.random_batch(generator, 6)
        margin = theory.theorem_1(scores, similarity, 1.0, 1.0)
        share, s = theory.shares(similarity), theory.negatives(scores)
        log_p = s.log_softmax(dim=1)
        right = log_p.sum(dim=1) + theory.divergence(share, log_p) + theory.entropy(share)
        # 1 / (K - alpha) replaced by 1 / (K + 3): the same statement with another constant.
        violated += int((margin + right / (5 - 1.0) - right / (5 + 3.0) < -theory.SLACK).sum())
    assert violated > 0


def test_unweighted_estimates_stay_below_the_mutual_information_and_weighted_ones_do_not():
    known = -4 / 2 * math.log(1 - 0.8**2)
    found = theory.mutual_information(batch_size=128, correlation=0.8, dimensions=4, batches=40, seed=3)
    assert known - 0.3 < found["unweighted"]["mean"] < known
    assert found["alpha=1.5 beta=0.5"]["mean"] > known
    assert found["unweighted"]["mean"] < found["alpha=1.0 beta=1.0"]["mean"] < found["alpha=1.3 beta=0.7"]["mean"]


def test_the_optimum_is_what_the_negatives_and_the_weights_say():
    found = theory.optima(candidates=128, steps=400)
    assert all(one["from_prediction"] < 0.2 for one in found.values())
    unbiased = ("random negatives, InfoNCE", "mined negatives, weights that undo the mining")
    for name, one in found.items():
        assert (one["from_information"] < 0.2) == (name in unbiased)
    assert found["random negatives, hardness 0.5"]["correlation"] > 0.97
    assert found["mined negatives, InfoNCE"]["correlation"] < 0.9
