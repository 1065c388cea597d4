"""Check what the paper states about Soft-InfoNCE by running it, and say what holds.

    python -m evaluation theory    # some minutes; writes evaluation/results/theory.json

Every statement is checked on random batches (query scores of several scales, similarities from flat to peaked). Where
the paper's own form does not hold, the corrected one is checked, and the paper's is counted beside it.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from evaluation.environment import RESULTS, about, write_result
from evaluation.runs.baselines import bce, weighted_info_nce
from st_softinfonce.functional import negative_weights, soft_info_nce

CORRELATION = 0.8
SLACK = 1e-9  # rounding, in float64


def random_batch(generator: torch.Generator, rows: int) -> tuple[Tensor, Tensor]:
    """Draw scores and similarities ``(rows, rows)``, of random scales, in float64."""
    scale, temperature = 10 ** (2 * torch.rand(2, generator=generator, dtype=torch.float64) - 1)
    scores = scale * torch.randn(rows, rows, generator=generator, dtype=torch.float64)
    similarity = torch.randn(rows, rows, generator=generator, dtype=torch.float64) / temperature
    return scores, similarity


def negatives(matrix: Tensor) -> Tensor:
    """Drop the diagonal: ``(N, N)`` to ``(N, N - 1)``."""
    size = matrix.size(0)
    return matrix[~torch.eye(size, dtype=torch.bool)].view(size, size - 1)


def shares(similarity: Tensor) -> Tensor:
    """Softmax of the similarity over each row's negatives ``(N, N - 1)``."""
    return negatives(similarity).softmax(dim=1)


def entropy(share: Tensor) -> Tensor:
    """``-sum p log p`` of each row."""
    return -torch.special.xlogy(share, share).sum(dim=1)


def divergence(share: Tensor, log_p: Tensor) -> Tensor:
    """``KL(share || P)`` of each row."""
    return -entropy(share) - (share * log_p).sum(dim=1)


def equation_5(scores: Tensor, similarity: Tensor) -> Tensor:
    """How far ``dL/d exp(s_ij)`` is from being proportional to ``w_ij``, relative to its size, per row."""
    weights = negative_weights(similarity, alpha=1.3, beta=0.7, temperature=1.0)
    scores = scores.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(soft_info_nce(scores, weights.log()), scores)
    log_normaliser = (scores.detach() + weights.log()).logsumexp(dim=1, keepdim=True)
    expected = weights * (scores.detach() - log_normaliser).exp() / len(scores)  # exp(s) times the derivative
    return (negatives(gradient) - negatives(expected)).abs().amax(dim=1) / negatives(expected).amax(dim=1)


def theorem_1(scores: Tensor, similarity: Tensor, alpha: float, beta: float) -> Tensor:
    """Left minus right side of the shift-invariant form, per row; rows with a negative raw weight are left out.

    ``log sum_j w_j e^{s_j} - LSE(s) >= log K + (beta sum log P + alpha KL(sim || P) - alpha sum sim log sim) /
    (beta K - alpha)`` over the K negatives, with P the softmax of their scores.
    """
    share, s = shares(similarity), negatives(scores)
    count = s.size(1)
    raw = (beta - alpha * share) / (beta - alpha / count)
    usable = raw.amin(dim=1) >= 0
    share, s, raw = share[usable], s[usable], raw[usable]
    log_p = s.log_softmax(dim=1)
    left = (s + raw.log()).logsumexp(dim=1) - s.logsumexp(dim=1)
    right = beta * log_p.sum(dim=1) + alpha * divergence(share, log_p) + alpha * entropy(share)
    return left - math.log(count) - right / (beta * count - alpha)


def theorem_2(scores: Tensor, similarity: Tensor) -> Tensor:
    """Left minus right side of ``sum_j BCE_ij >= KL(sim || P) - sum sim log sim``, per row."""
    size = len(scores)
    rows = [
        bce(scores[[i]], similarity[[i]], temperature=1.0, positives=torch.tensor([i])) * size for i in range(size)
    ]
    share, log_p = shares(similarity), negatives(scores).log_softmax(dim=1)
    return torch.stack(rows) - divergence(share, log_p) - entropy(share)


def proposition_1(scores: Tensor, similarity: Tensor) -> Tensor:
    """``L_W - L_soft - log(4 (N - 2) / (N - 1))`` at alpha = beta = 1: the paper says that it is below 0."""
    weights = negative_weights(similarity, alpha=1.0, beta=1.0, temperature=1.0, min_weight=1e-300)
    difference = weighted_info_nce(scores, similarity, temperature=1.0) - soft_info_nce(scores, weights.log())
    size = scores.size(0)
    return (difference - math.log(4 * (size - 2) / (size - 1))).unsqueeze(0)


def check_statements(batches: int, seed: int) -> dict[str, dict[str, float]]:
    """Check each statement on random batches of 3 to 64; count violations and the smallest margin."""
    generator = torch.Generator().manual_seed(seed)
    margins: dict[str, list[Tensor]] = defaultdict(list)
    for _ in range(batches):
        rows = int(torch.randint(3, 65, (), generator=generator))
        batch = random_batch(generator, rows)
        if rows >= 4:
            margins["Eq. 5: gradient proportional to the weight (minus the error)"].append(-equation_5(*batch))
        for alpha, beta in ((1.0, 1.0), (1.3, 0.7), (1.5, 0.5)):
            if beta * (rows - 1) > alpha:
                name = f"Theorem 1, shift-invariant form, alpha={alpha}, beta={beta}"
                margins[name].append(theorem_1(*batch, alpha, beta))
        margins["Theorem 2, corrected: BCE bounds +KL - sum sim log sim"].append(theorem_2(*batch))
        below = proposition_1(*batch)
        margins["Proposition 1, true direction: weighted InfoNCE >= Soft-InfoNCE + log 2"].append(below)
        claimed = -below - math.log(4 * (rows - 2) / (rows - 1))
        margins["Proposition 1, as claimed: Soft-InfoNCE >= weighted InfoNCE"].append(claimed)
    summary = {}
    for name, parts in margins.items():
        margin = torch.cat(parts)
        slack = 1e-6 if name.startswith("Eq. 5") else SLACK
        violations = int((margin < -slack).sum())
        summary[name] = {
            "checked": margin.numel(),
            "violations": violations,
            "smallest_margin": float(margin.min()),
        }
    return summary


def mutual_information(
    batch_size: int, correlation: float, dimensions: int, batches: int, seed: int
) -> dict[str, dict[str, float]]:
    """Estimate a known mutual information by ``log N - L`` with the optimal critic, with and without weights.

    X and Y are Gaussian vectors whose coordinates have the given correlation, so that I(X; Y) is known; the critic is
    the true log density ratio, and the estimator of the weights knows it too. By weighting, the mean and the standard
    deviation over batches, in nats.
    """
    generator = torch.Generator().manual_seed(seed)
    estimates: dict[str, list[float]] = defaultdict(list)
    noise = math.sqrt(1 - correlation**2)
    for _ in range(batches):
        x, e = torch.randn(2, batch_size, dimensions, generator=generator, dtype=torch.float64)
        y = correlation * x + noise * e
        squared = (y.unsqueeze(0) - correlation * x.unsqueeze(1)).square().sum(dim=2) / noise**2  # (N, N)
        ratio = -0.5 * squared - dimensions * math.log(noise) + 0.5 * y.square().sum(dim=1)
        log_weights: dict[str, Tensor | None] = {"unweighted": None}
        for alpha, beta in ((1.3, 0.7), (1.0, 1.0), (1.5, 0.5)):
            weights = negative_weights(ratio, alpha=alpha, beta=beta, temperature=1.0)
            log_weights[f"alpha={alpha} beta={beta}"] = weights.log()
        for name, given in log_weights.items():
            estimates[name].append(math.log(batch_size) - soft_info_nce(ratio, given).item())
    series = {name: torch.tensor(values, dtype=torch.float64) for name, values in estimates.items()}
    return {name: {"mean": values.mean().item(), "sd": values.std().item()} for name, values in series.items()}


def learned_scores(
    labelled: Tensor,
    negative: Tensor,
    weights: Tensor,
    *,
    hardness: float = 0.0,
    candidates: int = 512,
    steps: int = 2000,
    seed: int = 0,
) -> Tensor:
    """Train a table of scores ``(Q, D)`` on sampled batches, as free as a model can be, to see what a loss teaches.

    Positives are drawn from ``labelled``, p(d|q), and so many candidates as negatives from ``negative``, n(d|q), which
    have weights; all three are ``(Q, D)``. ``hardness`` times the scores is added to those of the negatives, a
    constant to the gradient. A step has each query eight times. Each row's mean is 0.
    """
    generator = torch.Generator().manual_seed(seed)
    scores = torch.zeros_like(labelled, requires_grad=True)
    optimizer = torch.optim.Adam([scores], lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    rows = torch.arange(len(labelled)).repeat(8).unsqueeze(1)
    first = torch.zeros(len(rows), dtype=torch.long)
    for _ in range(steps):
        positives = torch.multinomial(labelled[rows.flatten()], 1, generator=generator)
        others = torch.multinomial(negative[rows.flatten()], candidates, replacement=True, generator=generator)
        columns = torch.cat([positives, others], dim=1)
        log_weights = weights[rows, columns].log() + hardness * scores.detach()[rows, columns]
        log_weights[:, 0] = 0.0
        optimizer.zero_grad()
        soft_info_nce(scores[rows, columns], log_weights, positives=first).backward()
        optimizer.step()
        schedule.step()
    learned = scores.detach()
    return learned - learned.mean(dim=1, keepdim=True)


def optima(seed: int = 0, **options: int) -> dict[str, dict[str, float]]:
    """Compare what is learned with what theory says, on distributions that are known.

    With negatives from n(d|q) and weights w, the optimum of a large batch is ``log p(d|q) / (n(d|q) w)``, up to a
    number a query. Random negatives have n = p(d), so that InfoNCE learns the pointwise mutual information, which
    ranks right; hardness h divides that by 1 + h; what is mined by similarity is biased against what is relevant.

    Returns:
        By setting, the root mean square deviation from the prediction and from the pointwise mutual information, in
        nats, and the correlation with the latter.
    """
    generator = torch.Generator().manual_seed(seed)
    labelled = torch.randn(6, 12, generator=generator, dtype=torch.float64).softmax(dim=1)
    marginal = labelled.mean(dim=0).expand_as(labelled)
    information = (labelled / marginal).log()
    noisy = information + 0.5 * torch.randn(information.shape, generator=generator, dtype=torch.float64)
    mined = marginal * noisy.exp()
    mined = mined / mined.sum(dim=1, keepdim=True)
    softer = 1 / (1 + noisy.exp())  # a weight that falls with a teacher's opinion
    one = torch.ones_like(labelled)
    settings = {
        "random negatives, InfoNCE": (marginal, one, 0.0),
        "random negatives, weights": (marginal, softer, 0.0),
        "random negatives, hardness 0.5": (marginal, one, 0.5),
        "mined negatives, InfoNCE": (mined, one, 0.0),
        "mined negatives, weights that undo the mining": (mined, marginal / mined, 0.0),
    }
    found = {}
    for name, (negative, weights, hardness) in settings.items():
        predicted = (labelled / (negative * weights)).log() / (1 + hardness)
        learned = learned_scores(labelled, negative, weights, hardness=hardness, seed=seed, **options)
        expected, known = (table - table.mean(dim=1, keepdim=True) for table in (predicted, information))
        found[name] = {
            "from_prediction": float((learned - expected).square().mean().sqrt()),
            "from_information": float((learned - known).square().mean().sqrt()),
            "correlation": float(torch.corrcoef(torch.stack([learned.flatten(), known.flatten()]))[0, 1]),
        }
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--batches", type=int, default=2000, help="random batches a statement (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: evaluation/results")


def run(given: argparse.Namespace) -> int:
    """Check everything, and write and show the results."""
    statements = check_statements(given.batches, given.seed)
    information = []
    for dimensions, size in itertools.product((4, 16), (8, 32, 128, 512)):
        found = mutual_information(size, CORRELATION, dimensions, given.batches // 10, given.seed)
        known = -dimensions / 2 * math.log(1 - CORRELATION**2)
        information.append({"batch_size": size, "dimensions": dimensions, "known": known, "estimates": found})
    content = {
        "command": f"python -m evaluation theory --batches {given.batches} --seed {given.seed}",
        **about(),
        "statements": statements,
        "optima": optima(given.seed),
        "mutual_information": information,
    }
    write_result(given.results / "theory.json", content, "theory.json")
    return 0
