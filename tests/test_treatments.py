"""Treatments: validated once, readable in a model card, and put together as the design promises."""

import dataclasses
import json
import math
from typing import ClassVar

import numpy as np
import pytest
import torch

from st_softinfonce import Discount, Distill, Mask, Promote, RelevancePosterior, Soften, Treatment, functional
from st_softinfonce.treatments import as_treatments, combine, describe_treatments

POSTERIOR = RelevancePosterior(knots=(0.0, 1.0), log_ratios=(-6.0, 6.0), prior=0.01)
EXAMPLES = {
    "soften": Soften(alpha=1.3, beta=0.7, temperature=0.5),
    "discount": Discount(POSTERIOR),
    "mask-margin": Mask(margin=0.1),
    "mask-relative": Mask(margin=0.1, relative=True),
    "mask-top-k": Mask(top_k=2),
    "mask-ratio": Mask(ratio=0.5),
    "mask-above": Mask(above=0.5),
    "promote": Promote(),
    "promote-by-posterior": Promote(POSTERIOR, above=0.4),
    "distill": Distill(),
}
treatments = pytest.mark.parametrize("treatment", EXAMPLES.values(), ids=EXAMPLES.keys())
ROWS = torch.tensor([2, 0, 3])


def similarities(seed=0, rows=3, columns=6):
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestEveryTreatment:
    @treatments
    def test_is_frozen_equal_by_value_and_reads_as_json(self, treatment):
        assert dataclasses.replace(treatment) == treatment
        assert hash(dataclasses.replace(treatment)) == hash(treatment)
        with pytest.raises(dataclasses.FrozenInstanceError):
            treatment.alpha = 1.0
        config = treatment.get_config_dict()
        assert config["treatment"] == type(treatment).__name__
        assert json.loads(json.dumps(config)) == config
        assert len(config) > 1

    @treatments
    def test_sets_a_bias_of_0_at_the_positive_and_targets_that_sum_to_1(self, treatment):
        bias, targets = combine([((treatment,), similarities(), None)], ROWS)
        if bias is not None:
            assert (bias.gather(1, ROWS.unsqueeze(1)) == 0).all()
            assert (bias != 0).any()
        if targets is not None:
            torch.testing.assert_close(targets.sum(dim=1), torch.ones(3, dtype=torch.float64))
            assert (targets.gather(1, ROWS.unsqueeze(1)) < 1).any()
        assert bias is not None or targets is not None

    @treatments
    def test_leaves_alone_what_cannot_be_judged(self, treatment):
        known = torch.tensor([True, True, True, True, False, False])
        similarity = similarities().masked_fill(~known, math.nan)
        bias, targets = combine([((treatment,), similarity, known)], ROWS)
        alone = combine([((treatment,), similarity[:, :4], None)], ROWS)
        for found, without, untouched in ((bias, alone[0], 0.0), (targets, alone[1], 0.0)):
            assert (found is None) == (without is None)
            if found is not None:
                assert (found[:, 4:] == untouched).all()
                torch.testing.assert_close(found[:, :4], without)

    @treatments
    def test_numbers_of_numpy_become_those_of_json(self, treatment):
        options = {
            field.name: np.float32(value)
            for field in dataclasses.fields(treatment)
            if isinstance(value := getattr(treatment, field.name), float)
        }
        json.dumps(dataclasses.replace(treatment, **options).get_config_dict())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Soften(alpha=1, beta=1, temperature=1, min_weight=0), ValueError, "min_weight must be .*use a mask"),
        (lambda: Discount(0.5), TypeError, "posterior must be a RelevancePosterior, got float: calibrate"),
        (lambda: Discount(POSTERIOR, min_weight=2), ValueError, r"min_weight must be in \[0, 1\], got 2"),
        (lambda: Mask(margin=0.1, top_k=1), ValueError, "exactly one of .* got margin=0.1, top_k=1"),
        (lambda: Promote(posterior=3), TypeError, "posterior must be a RelevancePosterior, got int"),
        (lambda: Promote(above=1), ValueError, r"above must be a probability in \[0, 1\), got 1"),
        (lambda: Distill(share=2), ValueError, r"share must be in \[0, 1\], got 2"),
        (lambda: Distill(temperature=-1), ValueError, "temperature must be a finite number above 0, got -1"),
    ],
)
def test_options_out_of_range_are_refused_by_name_and_value(make, error, message):
    with pytest.raises(error, match=message):
        make()


class TestCombination:
    def test_of_biases_is_their_sum_and_a_mask_stays(self):
        one, other = similarities(1), similarities(2)
        soften, mask = EXAMPLES["soften"], Mask(top_k=2)
        bias, targets = combine([((soften,), one, None), ((mask,), other, None)], ROWS)
        expected = soften.log_weights(one, positives=ROWS) + functional.mask_log_weights(
            other, top_k=2, positives=ROWS
        )
        assert torch.equal(bias, expected)
        assert (bias == -math.inf).sum() == 6
        assert targets is None

    @pytest.mark.parametrize("reverse", [False, True], ids=["in-order", "reversed"])
    def test_a_teachers_softmax_runs_over_what_a_mask_leaves_whatever_the_order(self, reverse):
        similarity = similarities(3)
        pair = (Mask(margin=0.05), Distill(share=0.6, temperature=0.2))
        bias, targets = combine([(pair[::-1] if reverse else pair, similarity, None)], ROWS)
        mask = functional.mask_log_weights(similarity, margin=0.05, positives=ROWS)
        assert (mask == -math.inf).any()
        assert torch.equal(bias, mask)
        assert torch.equal(
            targets,
            functional.distilled_targets(similarity, share=0.6, temperature=0.2, log_weights=mask, positives=ROWS),
        )
        assert (targets[mask == -math.inf] == 0).all()

    @pytest.mark.parametrize("reverse", [False, True], ids=["in-order", "reversed"])
    def test_distillation_mixes_with_promoted_targets_whatever_the_order(self, reverse):
        same, teacher = (similarities(4) > 0.6).double(), similarities(5)
        judgements = [((Promote(),), same, None), ((Distill(share=0.25, temperature=0.2),), teacher, None)]
        _, targets = combine(judgements[::-1] if reverse else judgements, ROWS)
        promoted = functional.promoted_targets(same, positives=ROWS)
        expected = 0.75 * promoted + 0.25 * (teacher / 0.2).softmax(dim=1)
        torch.testing.assert_close(targets, expected)

    def test_of_two_promotions_is_the_larger_relevance(self):
        one, other = torch.tensor([[0.0, 1.0, 0.7, 0.0]]), torch.tensor([[0.0, 0.0, 0.9, 0.6]])
        _, targets = combine([((Promote(),), one, None), ((Promote(),), other, None)], torch.tensor([0]))
        torch.testing.assert_close(targets, torch.tensor([[1.0, 1.0, 0.9, 0.6]]) / 3.5)

    def test_a_treatment_of_ones_own_is_a_class_and_a_function(self):
        @dataclasses.dataclass(frozen=True)
        class Halve(Treatment):
            """Half the weight of whatever is more similar than a threshold."""

            above: float = 0.5
            order: ClassVar[int] = 0

            def log_weights(self, similarity, *, positives, known=None):
                halved = torch.zeros_like(similarity).masked_fill(similarity > self.above, math.log(0.5))
                return halved.scatter(1, positives.unsqueeze(1), 0.0)

        bias, targets = combine([((Halve(), Mask(above=0.9)), similarities(6), None)], ROWS)
        assert targets is None
        assert set(bias.exp().flatten().tolist()) == {1.0, 0.5, 0.0}
        assert Halve().get_config_dict() == {"treatment": "Halve", "above": 0.5}


class TestReading:
    def test_one_or_several(self):
        assert as_treatments("treatment", Mask(top_k=1)) == (Mask(top_k=1),)
        assert as_treatments("treatment", [Mask(top_k=1), Distill()]) == (Mask(top_k=1), Distill())
        assert describe_treatments([Mask(top_k=1), Distill()]) == [
            {"treatment": "Mask", "top_k": 1},
            {"treatment": "Distill", "share": 0.5, "temperature": 0.05},
        ]

    @pytest.mark.parametrize(
        ("value", "error", "message"),
        [
            ("soften", TypeError, "treatment must be a treatment such as Soften.*, got 'soften'"),
            (Distill, TypeError, "treatment must be .* got <class .*Distill'>. Call it with its options"),
            ([Mask(top_k=1), 3], TypeError, "treatment must be .* got 3"),
            ([], ValueError, "treatment must hold at least one treatment, got none"),
        ],
        ids=["name", "class", "number-among-them", "empty"],
    )
    def test_what_is_no_treatment_is_refused(self, value, error, message):
        with pytest.raises(error, match=message):
            as_treatments("treatment", value)

    @pytest.mark.parametrize(
        "treatment",
        [Soften(alpha=0, beta=1, temperature=1), Discount(POSTERIOR, min_weight=1), Distill(share=0)],
        ids=["alpha-0", "min-weight-1", "share-0"],
    )
    def test_options_of_which_nothing_follows_make_it_idle(self, treatment):
        assert treatment.idle
        assert not any(example.idle for example in EXAMPLES.values())
