"""The paper's statements as the evaluation checks them; what it reports as false is false here too."""

import math

import pytest

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
