"""functional against the paper's own numbers, a loop-written oracle, and its promises."""

import math
import warnings

import pytest
import reference
import torch

from st_softinfonce import functional
from st_softinfonce.posterior import RelevancePosterior

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def number(value):
    return float(value)


def tensor(rows):
    return torch.tensor([[number(value) for value in row] for row in rows], dtype=torch.float64)


def assert_close(actual, expected, tolerance=None):
    actual = torch.as_tensor(actual)
    expected = torch.as_tensor(expected, dtype=torch.float64)
    tolerance = TOLERANCES[actual.dtype] if tolerance is None else tolerance
    assert torch.isfinite(actual).all()
    difference = (actual.double() - expected).abs()
    assert bool((difference <= tolerance * expected.abs().clamp(min=1.0)).all()), difference.max().item()


def loss_and_gradient(function, scores, **options):
    scores = scores.clone().requires_grad_()
    loss = function(scores, **options)
    loss.backward()
    return loss.detach(), scores.grad


def without_diagonal(matrix):
    size = matrix.size(0)
    return matrix[~torch.eye(size, dtype=torch.bool)].view(size, size - 1)


def random_batch(seed, rows=5, columns=5, scale=3.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    scores = scale * torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    similarity = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return scores.to(dtype), similarity.to(dtype)


class TestAgainstThePapersCode:
    """Every record of the reference cases, by its flags: agreement where it is finite, our promise where it is not."""

    def test_info_nce_and_its_gradient(self, reference_cases):
        for case in reference_cases["batches"]:
            loss, gradient = loss_and_gradient(functional.soft_info_nce, tensor(case["S"]))
            assert_close(loss, number(case["infonce"]["loss"]))
            assert_close(gradient, tensor(case["infonce"]["grad"]), 1e-9)

    def test_weights_and_the_loss_with_its_gradient(self, reference_cases):
        compared = exact = broken = 0
        for case in reference_cases["batches"]:
            for setting in case["by_setting"]:
                options = {"alpha": setting["alpha"], "beta": setting["beta"], "temperature": setting["t"]}
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", functional.SmallBatchWarning)
                    weights = functional.negative_weights(tensor(case["sim"]), **options)
                if not setting["normalizer"] > 1e-9:  # where the paper's formula breaks, it is plain InfoNCE
                    assert torch.equal(weights, torch.ones_like(weights))
                    broken += 1
                    continue
                assert torch.equal(weights.diagonal(), torch.ones(case["N"], dtype=torch.float64))
                assert_close(without_diagonal(weights), tensor(setting["w"]))
                record = setting["soft_infonce"]
                loss, gradient = loss_and_gradient(
                    functional.soft_info_nce, tensor(case["S"]), log_weights=weights.log()
                )
                assert_close(loss, number(record["exact_loss"]))
                assert_close(gradient, tensor(record.get("exact_grad", record["grad"])), 1e-9)
                if not record["flags"]:
                    assert_close(loss, number(record["loss"]))
                exact += "exact_grad" in record
                compared += 1
        assert compared > 60
        assert exact > 10
        assert broken >= 10

    @pytest.mark.parametrize("rule", ["top_k", "ratio"])
    def test_cancellation(self, reference_cases, rule):
        compared = 0
        for case in reference_cases["batches"]:
            similarity = tensor(case["sim"])
            for record in case["fnc_topk" if rule == "top_k" else "fnc_threshold"]:
                flags = set(record["flags"])
                if flags & {"tie_at_cut", "negative_positive_similarity"}:
                    continue
                options = {rule: record["k" if rule == "top_k" else "ratio"]}
                mask = functional.mask_log_weights(similarity, **options)
                removed = [[j for j, weight in enumerate(row) if weight == -math.inf] for row in mask.tolist()]
                assert removed == record["removed"]
                loss, gradient = loss_and_gradient(functional.soft_info_nce, tensor(case["S"]), log_weights=mask)
                assert_close(loss, number(record.get("exact_loss", record["loss"])))
                assert_close(gradient, tensor(record.get("exact_grad", record["grad"])), 1e-9)
                compared += 1
        assert compared > 20


def softened(scores, similarity, positives):
    weights = functional.negative_weights(similarity, alpha=1.3, beta=0.7, temperature=0.5, positives=positives)
    return functional.soft_info_nce(scores, weights.log(), positives=positives)


def masked(**rule):
    return (
        lambda scores, similarity, positives: functional.soft_info_nce(
            scores,
            functional.mask_log_weights(similarity, positives=positives, **rule),
            positives=positives,
        ),
        lambda scores, similarity, positives: reference.soft_info_nce(
            scores, reference.mask_weights(similarity, positives=positives, **rule), positives
        ),
    )


def promoted(scores, similarity, positives):
    targets = functional.promoted_targets(similarity, above=0.2, positives=positives)
    return functional.soft_info_nce(scores, targets=targets, positives=positives)


def distilled_over_a_mask(scores, similarity, positives):
    mask = functional.mask_log_weights(similarity, margin=-0.5, positives=positives)
    targets = functional.distilled_targets(
        similarity, share=0.7, temperature=0.4, log_weights=mask, positives=positives
    )
    return functional.soft_info_nce(scores, mask, targets=targets, positives=positives)


def reference_distilled_over_a_mask(scores, similarity, positives):
    weights = reference.mask_weights(similarity, margin=-0.5, positives=positives)
    targets = reference.distilled_targets(similarity, 0.7, 0.4, weights, positives)
    return reference.soft_info_nce(scores, weights, positives, targets)


LOSSES = {
    "soften": (
        softened,
        lambda scores, similarity, positives: reference.soft_info_nce(
            scores, reference.negative_weights(similarity, 1.3, 0.7, 0.5, positives=positives), positives
        ),
    ),
    "mask-margin": masked(margin=0.3),
    "mask-relative-margin": masked(margin=0.3, relative=True),
    "mask-negative-margin": masked(margin=-0.1),
    "mask-top-k": masked(top_k=2),
    "mask-ratio": masked(ratio=0.5),
    "mask-above": masked(above=0.5),
    "promote": (
        promoted,
        lambda scores, similarity, positives: reference.soft_info_nce(
            scores, None, positives, reference.promoted_targets(similarity, 0.2, positives)
        ),
    ),
    "distill-over-a-mask": (distilled_over_a_mask, reference_distilled_over_a_mask),
}
losses = pytest.mark.parametrize(("ours", "oracle"), LOSSES.values(), ids=LOSSES.keys())


class TestEveryLoss:
    @losses
    @pytest.mark.parametrize("shape", [(5, 5), (4, 9)], ids=["square", "more-candidates"])
    @pytest.mark.parametrize("positives", [None, [3, 0, 2, 1, 4]], ids=["diagonal", "given-positives"])
    @pytest.mark.parametrize("scale", [3.0, 1e3], ids=["scale-3", "scale-1000"])
    def test_value_equals_the_loop_written_one(self, ours, oracle, shape, positives, scale):
        scores, similarity = random_batch(7, *shape, scale=scale)
        positives = positives and positives[: shape[0]]
        columns = None if positives is None else torch.tensor(positives)
        loss, gradient = loss_and_gradient(lambda s: ours(s, similarity, columns), scores)
        assert_close(loss, oracle(scores.tolist(), similarity.tolist(), positives))
        assert torch.isfinite(gradient).all()

    @losses
    def test_gradient_equals_finite_differences(self, ours, oracle):
        scores, similarity = random_batch(3, 4, 6)
        assert torch.autograd.gradcheck(lambda s: ours(s, similarity, None), scores.requires_grad_())

    @losses
    def test_scores_get_a_gradient_and_similarity_none(self, ours, oracle):
        scores, similarity = random_batch(11)
        scores.requires_grad_()
        similarity.requires_grad_()
        ours(scores, similarity, None).backward()
        assert scores.grad.abs().sum() > 0
        assert similarity.grad is None

    @losses
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
    def test_lower_precision_is_computed_in_float32(self, ours, oracle, dtype):
        scores, similarity = random_batch(9, dtype=dtype)
        loss, gradient = loss_and_gradient(lambda s: ours(s, similarity, None), scores)
        assert loss.dtype == torch.float32
        assert gradient.dtype == dtype
        # The oracle reads the rounded inputs, so only the arithmetic differs.
        assert_close(loss, oracle(scores.tolist(), similarity.tolist(), None))

    @losses
    def test_a_batch_of_one_is_zero_with_zero_gradient(self, ours, oracle):
        loss, gradient = loss_and_gradient(
            lambda s: ours(s, torch.ones(1, 1, dtype=torch.float64), None), torch.full((1, 1), 3.0).double()
        )
        assert loss == 0
        assert torch.equal(gradient, torch.zeros(1, 1, dtype=torch.float64))

    @losses
    def test_similarity_of_minus_infinity_means_never_relevant(self, ours, oracle):
        scores, similarity = random_batch(13)
        similarity[0, 1:] = -math.inf  # a whole row of negatives
        similarity[2, 1] = -math.inf
        loss, gradient = loss_and_gradient(lambda s: ours(s, similarity, None), scores)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()

    @losses
    @pytest.mark.parametrize("bad", [math.nan, math.inf], ids=["nan", "inf"])
    def test_unusable_similarity_is_refused_with_its_place(self, ours, oracle, bad):
        scores, similarity = random_batch(1)
        similarity[1, 3] = bad
        with pytest.raises(ValueError, match=f"similarity holds {bad} at row 1, column 3"):
            ours(scores, similarity, None)


class TestWeights:
    @pytest.mark.parametrize("fill", [0.0, 99.0, float("nan"), float("inf")], ids=str)
    @pytest.mark.parametrize("ruled_out", [False, True], ids=["finite", "all-ruled-out"])
    def test_of_known_candidates_are_those_without_the_others(self, fill, ruled_out):
        _, similarity = random_batch(2, 6, 14)
        similarity = similarity - 1000
        known = torch.tensor([True] * 7 + [False, True, False, True, True, False, True])
        if ruled_out:
            similarity[3] = float("-inf")
        options = {"alpha": 1.3, "beta": 0.7, "temperature": 0.5}
        expected = functional.negative_weights(similarity[:, known], **options)
        weights = functional.negative_weights(similarity.masked_fill(~known, fill), known=known, **options)
        assert_close(weights[:, known], expected)
        assert (weights[:, ~known] == 1).all()
        assert (expected < 0.9).any()

    @pytest.mark.parametrize("negatives", [0, 2], ids=lambda n: f"{n}-known")
    @pytest.mark.filterwarnings("ignore::st_softinfonce.functional.SmallBatchWarning")
    def test_too_few_known_candidates_weigh_1(self, negatives):
        similarity = torch.randn(1, 9, generator=torch.Generator().manual_seed(0))
        known = torch.arange(9) <= negatives
        weights = functional.negative_weights(similarity, alpha=1.5, beta=0.5, temperature=1.0, known=known)
        assert torch.equal(weights, torch.ones_like(weights))

    def test_the_floor_holds_and_moves(self):
        similarity = torch.tensor([[0.0, 50.0, 0.0, 0.0]])
        options = {"alpha": 1.3, "beta": 0.7, "temperature": 1.0}
        assert functional.negative_weights(similarity, **options)[0, 1] == pytest.approx(0.1)
        assert functional.negative_weights(similarity, **options, min_weight=0.3)[0, 1] == pytest.approx(0.3)

    @pytest.mark.parametrize(
        "options", [{"alpha": 0.0, "beta": 0.5}, {"alpha": 1.0, "beta": 1.0}], ids=["alpha-0", "uniform-similarity"]
    )
    def test_no_preference_is_plain_info_nce(self, options):
        similarity = torch.full((6, 6), 0.25) if options["alpha"] else random_batch(1, 6, 6)[1]
        weights = functional.negative_weights(similarity.requires_grad_(), **options, temperature=1.0)
        assert_close(weights, torch.ones(6, 6), 1e-6)
        assert not weights.requires_grad

    @pytest.mark.parametrize("negatives", [1, 3], ids=lambda n: f"{n}-negatives")
    def test_a_batch_too_small_for_the_formula_weighs_1_and_warns(self, negatives):
        similarity = torch.randn(1, negatives + 1, generator=torch.Generator().manual_seed(0))
        with pytest.warns(functional.SmallBatchWarning, match=f"{negatives} negatives.*alpha=1.5.*more than 3"):
            weights = functional.negative_weights(similarity, alpha=1.5, beta=0.5, temperature=1.0)
        assert torch.equal(weights, torch.ones_like(weights))
        enough = torch.tensor([[0.0, 2.0, 0.0, 0.0, 0.0]])
        assert functional.negative_weights(enough, alpha=1.5, beta=0.5, temperature=1.0)[0, 1] < 0.2

    def test_a_batch_of_one_weighs_nothing_without_a_warning(self):
        assert functional.negative_weights(torch.zeros(1, 1), alpha=1.5, beta=0.5, temperature=1.0).tolist() == [[1.0]]

    def test_known_can_differ_from_row_to_row(self):
        _, similarity = random_batch(2, 3, 9)
        known = torch.rand(3, 9, generator=torch.Generator().manual_seed(1)) < 0.6
        known[:, :3] = True
        options = {"alpha": 1.3, "beta": 0.7, "temperature": 0.5}
        weights = functional.negative_weights(similarity, known=known, **options)
        assert (~known).any()
        for row in range(3):
            positives = torch.tensor([row])
            alone = functional.negative_weights(similarity[row : row + 1, known[row]], positives=positives, **options)
            assert_close(weights[row : row + 1, known[row]], alone)
            assert (weights[row, ~known[row]] == 1).all()

    @pytest.mark.parametrize(
        ("alpha", "beta", "negatives"), [(1.2, 0.4, 3), (0.3, 0.1, 3), (1.4, 0.2, 7), (1.7, 0.1, 17)]
    )
    @pytest.mark.filterwarnings("ignore::st_softinfonce.functional.SmallBatchWarning")
    def test_rounding_does_not_let_the_normaliser_through_near_zero(self, alpha, beta, negatives):
        similarity = torch.rand(2, negatives + 1, generator=torch.Generator().manual_seed(0))
        weights = functional.negative_weights(similarity, alpha=alpha, beta=beta, temperature=1.0)
        assert torch.equal(weights, torch.ones_like(weights))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    @pytest.mark.parametrize("temperature", [0.1, 1e-30], ids=str)
    def test_similarities_near_the_largest_number_do_not_overflow(self, dtype, temperature):
        largest = torch.finfo(dtype).max
        similarity = torch.tensor([[0.0, largest, 1.0, -largest], [1.0, 2.0, 3.0, 4.0]], dtype=dtype)
        weights = functional.negative_weights(similarity, alpha=1.3, beta=0.7, temperature=temperature)
        assert torch.isfinite(weights).all()
        assert weights[0, 1] == pytest.approx(0.1)

    def test_what_stands_at_the_positive_is_not_read_even_if_it_is_no_number(self):
        scores, similarity = random_batch(6)
        options = {"alpha": 1.3, "beta": 0.7, "temperature": 0.3}
        weights = functional.negative_weights(similarity, **options)
        for value in (1e6, math.nan):
            other = similarity.clone().fill_diagonal_(value)
            assert torch.equal(functional.negative_weights(other, **options), weights)
        assert torch.equal(
            functional.soft_info_nce(scores, weights.log().fill_diagonal_(math.nan)),
            functional.soft_info_nce(scores, weights.log()),
        )


class TestSoftInfoNCE:
    @pytest.mark.parametrize("targets", [None, torch.eye(2).double()], ids=["one-hot", "targets"])
    def test_a_row_that_loses_every_negative_counts_zero(self, targets):
        scores, _ = random_batch(3, 2, 2)
        loss, gradient = loss_and_gradient(
            functional.soft_info_nce, scores, log_weights=torch.eye(2).double().log(), targets=targets
        )
        assert loss == 0
        assert torch.equal(gradient, torch.zeros(2, 2, dtype=torch.float64))

    @pytest.mark.parametrize("targets", [None, torch.full((3, 3), 1 / 3).double()], ids=["one-hot", "targets"])
    def test_a_row_without_any_candidate_counts_zero(self, targets):
        scores, _ = random_batch(3, 3, 3)
        empty = scores.clone()
        empty[1] = -math.inf
        loss, gradient = loss_and_gradient(functional.soft_info_nce, empty, targets=targets)
        others = functional.soft_info_nce(
            scores[[0, 2]], targets=None if targets is None else targets[[0, 2]], positives=torch.tensor([0, 2])
        )
        assert_close(loss, others * 2 / 3)
        assert torch.equal(gradient[1], torch.zeros(3, dtype=torch.float64))
        assert gradient[0].abs().min() > 0

    @pytest.mark.parametrize("targets", [None, torch.eye(4)], ids=["one-hot", "targets"])
    @pytest.mark.parametrize("scale", [1e3, 1e5, 1e7], ids=str)
    def test_is_as_exact_as_cross_entropy_at_large_scores(self, targets, scale):
        scores = scale + torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
        expected = torch.nn.functional.cross_entropy(scores, torch.arange(4))
        assert torch.equal(functional.soft_info_nce(scores), expected)
        loss = functional.soft_info_nce(scores, torch.zeros(4, 4), targets=targets)
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
        exact = torch.nn.functional.cross_entropy(scores.double(), torch.arange(4))
        assert abs(loss - exact) / exact < 1e-5

    def test_the_positives_log_weight_is_0_whatever_is_given(self):
        scores, _ = random_batch(3)
        log_weights = torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).double()
        assert torch.equal(
            functional.soft_info_nce(scores, log_weights),
            functional.soft_info_nce(scores, log_weights.clone().fill_diagonal_(-math.inf)),
        )

    def test_log_weights_and_targets_get_no_gradient(self):
        scores, _ = random_batch(3)
        log_weights = torch.zeros(5, 5, dtype=torch.float64, requires_grad=True)
        targets = torch.eye(5, dtype=torch.float64).requires_grad_()
        functional.soft_info_nce(scores.requires_grad_(), log_weights, targets=targets).backward()
        assert log_weights.grad is targets.grad is None


class TestMasks:
    def test_of_tied_negatives_the_lowest_column_goes_first(self):
        mask = functional.mask_log_weights(torch.tensor([[9.0, 1.0, 1.0, 1.0, 0.5]]), top_k=2)
        assert mask.tolist() == [[0.0, -math.inf, -math.inf, 0.0, 0.0]]

    @pytest.mark.parametrize(
        "rule", [{"margin": 0.1}, {"margin": 0.1, "relative": True}, {"top_k": 2}, {"ratio": 0.1}, {"above": -9.0}],
        ids=lambda rule: "-".join(rule),
    )  # fmt: skip
    def test_what_is_never_relevant_is_never_taken_out(self, rule):
        similarity = torch.tensor([[1.0, -math.inf, 1.0], [-math.inf, -1.0, -math.inf]])
        mask = functional.mask_log_weights(similarity, **rule)
        assert mask.tolist() == [[0.0, 0.0, -math.inf], [0.0, 0.0, 0.0]]

    @pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
    def test_a_positive_that_cannot_be_judged_masks_nothing_by_a_margin(self, relative):
        similarity = torch.tensor([[-math.inf, 0.5, 0.9]])
        assert functional.mask_log_weights(similarity, margin=0.1, relative=relative).tolist() == [[0.0, 0.0, 0.0]]

    def test_the_threshold_itself_stays_by_a_margin_and_goes_by_a_ratio(self):
        similarity = torch.tensor([[1.0, 0.5, 0.75]])
        assert functional.mask_log_weights(similarity, margin=0.5).tolist() == [[0.0, 0.0, -math.inf]]
        assert functional.mask_log_weights(similarity, above=0.5).tolist() == [[0.0, 0.0, -math.inf]]
        assert functional.mask_log_weights(similarity, ratio=0.5).tolist() == [[0.0, -math.inf, -math.inf]]


class TestTargets:
    def test_promotion_by_a_posterior_is_in_proportion_to_the_probability(self):
        posterior = RelevancePosterior(knots=(0.0, 1.0), log_ratios=(-9.0, 0.0), prior=0.8)
        targets = functional.promoted_targets(torch.tensor([[0.0, 1.0, 0.5]]), posterior=posterior)
        assert_close(targets, torch.tensor([[1 / 1.8, 0.8 / 1.8, 0.0]]), 1e-6)

    def test_what_is_masked_gets_no_target(self):
        mask = torch.tensor([[0.0, -math.inf, 0.0]])
        similarity = torch.tensor([[1.0, 1.0, 1.0]])
        assert functional.promoted_targets(similarity, log_weights=mask).tolist() == [[0.5, 0.0, 0.5]]
        assert functional.distilled_targets(similarity, share=1.0, log_weights=mask).tolist() == [[0.5, 0.0, 0.5]]

    @pytest.mark.parametrize("share", [0.0, 1.0], ids=["one-hot", "the-teacher-alone"])
    def test_the_extremes_of_the_share(self, share):
        _, similarity = random_batch(4, 3, 6)
        expected = (similarity / 0.05).softmax(dim=1) if share else torch.eye(3, 6)
        assert_close(functional.distilled_targets(similarity, share=share), expected)

    def test_a_row_whose_positive_cannot_be_judged_keeps_its_target(self):
        similarity = torch.tensor([[-math.inf, 0.5, 0.4], [0.1, 0.2, -math.inf]])
        targets = functional.distilled_targets(similarity, share=0.9)
        assert targets[0].tolist() == [1.0, 0.0, 0.0]
        assert targets[1, 2] == 0
        assert targets[1, 0] > 0

    @pytest.mark.parametrize("temperature", [1e-30, 1e30], ids=str)
    def test_extreme_similarities_keep_targets_that_sum_to_1(self, temperature):
        largest = torch.finfo(torch.float32).max
        similarity = torch.tensor([[0.0, largest, -largest], [1.0, 2.0, 3.0]])
        targets = functional.distilled_targets(similarity, share=1.0, temperature=temperature)
        assert_close(targets.sum(dim=1), torch.ones(2))


WEIGHTS = {"alpha": 1.0, "beta": 1.0, "temperature": 1.0, "min_weight": 0.1}
OUT = torch.tensor([[0.0, -math.inf], [0.0, 0.0]])
REFUSED = [
    *(
        (functional.negative_weights, torch.zeros(4, 4), WEIGHTS | {name: value}, f"^{name} must be .* got {value!r}")
        for name, values in {
            "alpha": (-0.1, math.nan, "1"),
            "beta": (0.0, math.inf),
            "temperature": (0.0, None),
            "min_weight": (0.0, 1.1, math.nan),
        }.items()
        for value in values
    ),
    *(
        (functional.negative_weights, torch.zeros(2, 3), WEIGHTS | {"known": known}, "known must be a bool tensor of")
        for known in (torch.ones(3), torch.ones(4).bool(), [True] * 3)
    ),
    *(
        (functional.soft_info_nce, torch.zeros(2, 2), options, message)
        for options, message in (
            ({"log_weights": OUT * math.inf}, "log_weights must be numbers or -inf, got"),
            ({"log_weights": -OUT}, "log_weights must be .* value of inf"),
            ({"log_weights": torch.zeros(2, 3)}, r"log_weights must have shape \(2, 2\).* got \(2, 3\)"),
            ({"targets": torch.ones(2, 2)}, r"targets must be at least 0 and sum to 1.* row sums from 2.0 to 2.0"),
            ({"targets": torch.tensor([[2.0, -1.0], [0.0, 1.0]])}, "targets must be .* smallest value of -1.0"),
            ({"targets": torch.full((2, 2), math.nan)}, "targets must be at least 0"),
            ({"targets": torch.zeros(2, 3)}, r"targets must have shape \(2, 2\).* got \(2, 3\)"),
            ({"log_weights": OUT, "targets": torch.full((2, 2), 0.5)}, "targets must be 0 .* at row 0, column 1"),
            ({"positives": torch.tensor([0, 5])}, r"positives must be columns from 0 to 1, got \[0, 5\]"),
            ({"positives": torch.tensor([0])}, r"positives must hold one column number per query, shape \(2,\)"),
            ({"positives": torch.tensor([0.0, 1.0])}, "positives must hold one column number per query.*float32"),
        )
    ),
    *(
        (functional.soft_info_nce, scores, {}, message)
        for scores, message in (
            (torch.zeros(3), r"scores must have shape .* got \(3,\)"),
            (torch.zeros(0, 3), r"scores must have shape .* got \(0, 3\)"),
            (torch.zeros(3, 2), "3 queries need at least as many candidates, got 2"),
            (torch.zeros(2, 2, dtype=torch.int64), "scores must be a floating-point tensor, got torch.int64"),
        )
    ),
    *(
        (function, torch.zeros(3, 3), options, message)
        for function, options, message in (
            (functional.mask_log_weights, {}, "exactly one of margin, top_k, ratio, above, got none"),
            (functional.mask_log_weights, {"top_k": 1, "ratio": 0.5}, "exactly one of .*, got top_k=1, ratio=0.5"),
            (functional.mask_log_weights, {"top_k": 1.5}, "top_k must be an integer of at least 1 or None, got 1.5"),
            (functional.mask_log_weights, {"ratio": -0.5}, "ratio must be a finite number above 0, got -0.5"),
            (functional.mask_log_weights, {"margin": math.nan}, "margin must be a finite number .*, got nan"),
            (functional.mask_log_weights, {"above": "0.5"}, "above must be a finite number .*, got '0.5'"),
            (functional.mask_log_weights, {"top_k": 1, "relative": True}, "relative must be .* got True"),
            (functional.mask_log_weights, {"margin": 0.1, "relative": 1}, "relative must be .* got 1"),
            (functional.promoted_targets, {"above": 1.0}, r"above must be a probability in \[0, 1\), got 1.0"),
            (functional.promoted_targets, {"above": -0.1}, r"above must be a probability in \[0, 1\), got -0.1"),
            (functional.distilled_targets, {"share": 1.5}, r"share must be in \[0, 1\], got 1.5"),
            (functional.distilled_targets, {"share": None}, r"share must be in \[0, 1\], got None"),
            (functional.distilled_targets, {"temperature": 0}, "temperature must be a finite number above 0, got 0"),
        )
    ),
]


@pytest.mark.parametrize(("function", "matrix", "options", "message"), REFUSED)
def test_what_is_impossible_is_refused_by_name_and_value(function, matrix, options, message):
    with pytest.raises(ValueError, match=message):
        function(matrix, **options)


def test_a_compiled_loss_is_the_same():
    scores, similarity = random_batch(17)

    def loss(scores, similarity):
        weights = functional.negative_weights(similarity, alpha=1.3, beta=0.7, temperature=0.5)
        targets = functional.distilled_targets(similarity, log_weights=weights.log())
        return functional.soft_info_nce(scores, weights.log(), targets=targets)

    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    assert_close(compiled(scores, similarity), loss(scores, similarity))
