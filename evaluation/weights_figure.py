"""The README's figure of how the weights act: a negative's weight against its similarity.

    python evaluation/weights_figure.py [FIGURE.svg]

The paper's weighting is drawn for one negative among others of similarity 0, with each estimator's defaults. The
posterior is fitted to drawn cosines, not to data: known pairs around 0.7, random ones around 0.1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from evaluation.plots import COLOURS, save
from st_softinfonce.functional import RelevancePosterior, negative_weights, posterior_weights

BATCH_SIZES = (16, 64, 256)
# Title, axis, largest similarity drawn, alpha, beta, weight_temperature: the paper's, as in the README's table.
PANELS = (
    ("bm25", "BM25 score", 12.0, 1.5, 0.5, 1.0),
    ("simcse", "cosine", 1.0, 1.3, 0.7, 0.1),
    ("trained-model", "dot product", 60.0, 1.3, 0.7, 5.0),
)
POINTS = 121


def paper_curve(
    similarities: torch.Tensor, batch_size: int, *, alpha: float, beta: float, temperature: float
) -> torch.Tensor:
    """Compute the weight of one negative, the others of its batch having similarity 0.

    Args:
        similarities: Of that negative, ``(P,)``.
        batch_size: Candidates of the query, its positive among them.
        alpha: Strength.
        beta: Scale.
        temperature: Of the softmax.

    Returns:
        Weights ``(P,)``.
    """
    rows = torch.zeros(len(similarities), batch_size)
    rows[:, 1] = similarities
    positives = torch.zeros(len(similarities), dtype=torch.long)
    weights = negative_weights(rows, alpha=alpha, beta=beta, temperature=temperature, positives=positives)
    return weights[:, 1]


def posterior_curve(similarities: torch.Tensor, prior: float) -> torch.Tensor:
    """Compute the weight by the posterior of two normal densities of cosines, both of deviation 0.12.

    Args:
        similarities: Of one negative, ``(P,)``.
        prior: The probability that a random pair is relevant.

    Returns:
        Weights ``(P,)``.
    """
    # The logarithm of two such densities' ratio is a straight line: two knots hold it.
    knots = torch.tensor([0.0, 1.0])
    log_ratios = ((knots - 0.1) ** 2 - (knots - 0.7) ** 2) / (2 * 0.12**2)
    posterior = RelevancePosterior(knots=tuple(knots.tolist()), log_ratios=tuple(log_ratios.tolist()), prior=prior)
    rows = torch.stack([torch.ones_like(similarities), similarities], dim=1)
    positives = torch.zeros(len(similarities), dtype=torch.long)
    return posterior_weights(rows, posterior=posterior, positives=positives)[:, 1]


def draw(path: Path) -> None:
    """Draw the figure.

    Args:
        path: Where to.
    """
    figure = Figure(figsize=(10, 2.9))
    axes = figure.subplots(1, len(PANELS) + 1, sharey=True)
    for axis, (name, unit, most, alpha, beta, temperature) in zip(axes, PANELS, strict=False):
        similarities = torch.linspace(0, most, POINTS)
        for colour, size in zip(COLOURS, BATCH_SIZES, strict=False):
            weights = paper_curve(similarities, size, alpha=alpha, beta=beta, temperature=temperature)
            axis.plot(similarities.tolist(), weights.tolist(), color=colour, label=f"batch of {size}")
        axis.set_title(f'"{name}"\nalpha {alpha}, beta {beta}, temperature {temperature}', fontsize=8)
        axis.set_xlabel(unit)
    similarities = torch.linspace(0, 1, POINTS)
    for style, prior in (("-", 0.01), ("--", 0.001)):
        weights = posterior_curve(similarities, prior)
        axes[-1].plot(similarities.tolist(), weights.tolist(), color="black", linestyle=style, label=f"prior {prior}")
    axes[-1].set_title('weighting="posterior"\nany batch, an illustration', fontsize=8)
    axes[-1].set_xlabel("cosine")
    axes[0].set_ylabel("weight of the negative")
    axes[0].set_ylim(0, 1.15)
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, loc="best")
    figure.tight_layout()
    save(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the figure where the README shows it, or elsewhere.

    Args:
        arguments: Of the command line.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).parent / "results" / "weighting.svg"
    parser.add_argument(
        "path", nargs="?", type=Path, default=default, help="default: evaluation/results/weighting.svg"
    )
    draw(parser.parse_args(arguments).path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
