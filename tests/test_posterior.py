"""Weights in absolute terms: the relevance posterior, and the weights it makes."""

import dataclasses
import json
import math

import pytest
import torch

from st_softinfonce.functional import negative_weights, posterior_weights, temperature_for_share
from st_softinfonce.posterior import RelevancePosterior

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-5, torch.float16: 1e-5}
POSTERIOR = RelevancePosterior(knots=(0.0, 1.0, 4.0), log_ratios=(-6.0, 1.0, 9.0), prior=0.002)
RELATIVE = dataclasses.replace(POSTERIOR, knots=(0.0, 0.5, 1.0), relative=True)


def oracle(similarity, posterior, min_weight, positives):
    weights = []
    for row, positive in zip(similarity, positives, strict=True):
        line = []
        for column, score in enumerate(row):
            s = score
            if posterior.relative:
                s = score / row[positive] if row[positive] > 0 else -math.inf
            if s == -math.inf:
                p = 0.0
            else:
                s = min(max(s, posterior.knots[0]), posterior.knots[-1])
                place = max(k for k in range(len(posterior.knots) - 1) if posterior.knots[k] <= s)
                (a, b), (x, y) = posterior.knots[place : place + 2], posterior.log_ratios[place : place + 2]
                p = min(1.0, posterior.prior * math.exp(x + (y - x) * (s - a) / (b - a)))
            line.append(1.0 if column == positive else max(1 - p, min_weight))
        weights.append(line)
    return weights


def gaussian_scores(seed=0, known=4000, random=200_000, distance=3.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(known, generator=generator) + distance, torch.randn(random, generator=generator)


class TestWeights:
    @pytest.mark.parametrize("posterior", [POSTERIOR, RELATIVE], ids=["absolute", "relative"])
    @pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
    def test_equal_the_formula(self, posterior, dtype):
        similarity = (torch.randn(5, 9, generator=torch.Generator().manual_seed(0)).double() * 3).to(dtype)
        similarity[0, 3], similarity[1, 2], similarity[2, 4] = -math.inf, 50.0, -50.0
        positives = torch.tensor([4, 0, 8, 1, 3])
        weights = posterior_weights(similarity, posterior=posterior, min_weight=0.2, positives=positives)
        expected = torch.tensor(oracle(similarity.tolist(), posterior, 0.2, positives.tolist()), dtype=torch.float64)
        assert weights.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert (weights.double() - expected).abs().max() < TOLERANCES[dtype]
        assert ((weights > 0.2) & (weights < 0.99)).any()

    def test_a_query_not_similar_to_itself_says_nothing(self):
        similarity = torch.tensor([[0.0, 5.0, 1.0], [9.0, -1.0, 0.0]])
        assert torch.equal(posterior_weights(similarity, posterior=RELATIVE), torch.ones(2, 3))

    def test_bad_input_is_refused(self):
        with pytest.raises(ValueError, match=r"min_weight must be in \[0, 1\], got 2"):
            posterior_weights(torch.zeros(2, 2), posterior=POSTERIOR, min_weight=2)
        with pytest.raises(ValueError, match="similarity holds nan at row 0, column 1"):
            posterior_weights(torch.tensor([[0.0, math.nan]]), posterior=POSTERIOR)


class TestFit:
    def test_recovers_the_ratio_of_two_gaussians(self):
        known, random = gaussian_scores()
        posterior = RelevancePosterior.fit(known, random, prior=1e-3)
        scores = torch.linspace(0.0, 4.0, 9, dtype=torch.float64)
        truth = (3.0 * scores - 4.5 + math.log(1e-3)).exp().clamp(max=1)
        assert (posterior.probability(scores) - truth).abs().max() < 0.15
        assert posterior.probability(torch.tensor([-1.0, 6.0])).tolist() == [pytest.approx(0, abs=1e-4), 1.0]
        assert (posterior.known_pairs, posterior.random_pairs) == (4000, 200_000)

    def test_the_prior_is_found_where_relevant_pairs_hide_among_random_ones(self):
        known, random = gaussian_scores(distance=4.0)
        random[:200] += 4.0  # one in a thousand
        assert 0.5e-3 < RelevancePosterior.fit(known, random).prior < 2e-3

    def test_known_scores_that_are_all_equal_make_a_step(self):
        random = gaussian_scores()[1].clamp(max=6) / 10
        noise = 1e-7 * torch.randn(500, generator=torch.Generator().manual_seed(0))
        posterior = RelevancePosterior.fit(1.0 + noise, random)
        low, high = posterior.probability(torch.tensor([0.4, 1.0 - 1e-6])).tolist()
        assert low < 1e-3
        assert high > 0.9

    @pytest.mark.parametrize("seed", [2, 4, 5])
    def test_few_scores_give_a_ratio_that_never_falls(self, seed):
        """Half a count more in small bins can turn the order of the merged ones, which is refused as a posterior."""
        known, random = gaussian_scores(seed, known=50, random=1000, distance=1.5)
        probability = RelevancePosterior.fit(known, random, prior=0.01).probability(torch.linspace(-2, 4, 200))
        assert (probability.diff() >= 0).all()
        assert probability[-1] > 10 * probability[0] > 0

    def test_goes_to_json_and_back(self):
        posterior = RelevancePosterior.fit(*gaussian_scores())
        again = RelevancePosterior(**json.loads(json.dumps(dataclasses.asdict(posterior))))
        assert again == posterior
        assert hash(again) == hash(posterior)

    @pytest.mark.parametrize(
        ("known", "random", "options", "message"),
        [
            (torch.ones(49), torch.zeros(1000), {}, "known_scores must be at least 50 scores, got 49"),
            (torch.ones(50), torch.zeros(999), {}, "random_scores must be at least 1000 scores, got 999"),
            (torch.ones(50), torch.ones(1000), {}, "known_scores and random_scores are all equal"),
            (torch.ones(50), torch.full((1000,), -math.inf), {}, "random_scores are all -inf, never relevant"),
            (torch.zeros(50), torch.arange(1000.0), {}, "known_scores must lie above random_scores"),
            (torch.full((50,), math.nan), torch.zeros(1000), {}, "known_scores must be numbers or -inf, got nan"),
            (torch.ones(50), torch.full((1000,), math.inf), {}, "random_scores must be numbers or -inf, got inf"),
            (torch.ones(50), torch.zeros(1000), {"prior": 0}, r"prior must be in \(0, 1\], got 0"),
            (torch.arange(50.0) + 10, torch.arange(1000.0) % 60, {}, "prior cannot be estimated"),
        ],
        ids=lambda value: value[:25] if isinstance(value, str) else "",
    )
    def test_degenerate_scores_are_refused(self, known, random, options, message):
        with pytest.raises(ValueError, match=message):
            RelevancePosterior.fit(known, random, **options)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"knots": (0.0,)}, "knots and log_ratios must be equally many, at least 2, got 1 and 3"),
            ({"knots": (0.0, 0.0, 1.0)}, "knots must be finite numbers, strictly ascending"),
            ({"log_ratios": (0.0, -1.0, 1.0)}, "log_ratios must be finite numbers, never falling"),
            ({"prior": 1.5}, "prior must be in"),
        ],
        ids=["few", "knots", "ratios", "prior"],
    )
    def test_values_out_of_range_are_refused(self, fields, message):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(POSTERIOR, **fields)


class TestTemperature:
    def softened(self, similarity, temperature):
        return (negative_weights(similarity, alpha=1.5, beta=0.5, temperature=temperature) < 0.9).sum() / (64 * 63)

    @pytest.mark.parametrize("share", [0.02, 0.03, 0.05])
    def test_softens_the_share_asked_for(self, share):
        similarity = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) * 7
        temperature = temperature_for_share(similarity, alpha=1.5, beta=0.5, share=share)
        assert self.softened(similarity, temperature) == pytest.approx(share, abs=1e-3)
        assert self.softened(similarity, temperature * 1.5) < share

    def test_comes_closest_where_the_share_is_out_of_reach(self):
        similarity = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
        temperature = temperature_for_share(similarity, alpha=1.5, beta=0.5, share=0.9)
        assert 0 < self.softened(similarity, temperature) < 0.9

    @pytest.mark.parametrize("similarity", [torch.zeros(9, 9), torch.randn(3, 3)], ids=["all-alike", "too-small"])
    def test_nothing_to_choose(self, similarity):
        assert temperature_for_share(similarity, alpha=1.5, beta=0.5, share=0.05) is None

    @pytest.mark.parametrize("judged", [4, 8, 30], ids=lambda number: f"{number}-of-63-judged")
    @pytest.mark.parametrize("share", [0.02, 0.05])
    def test_softens_the_share_asked_for_where_most_are_never_relevant(self, judged, share):
        """An estimator of pairs scores a few candidates; the others are -inf, so the judged ones always stand out."""
        similarity = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) * 7
        least = similarity.sort(dim=1).values[:, -judged].unsqueeze(1)
        similarity = similarity.masked_fill(similarity < least, -math.inf)
        temperature = temperature_for_share(similarity, alpha=1.5, beta=0.5, share=share)
        assert self.softened(similarity, temperature) == pytest.approx(share, abs=2e-3)

    def test_takes_the_least_it_can_where_all_judged_ones_are_alike(self):
        similarity = torch.full((64, 64), -math.inf)
        similarity[:, :10] = 1.0
        assert temperature_for_share(similarity, alpha=1.5, beta=0.5, share=0.05) is None
