"""The paper's figures from this project's own code and data.

    python evaluation/figures.py evaluation/cpu.toml     # Figure 2 and the case study (appendix D.2)
    python evaluation/figures.py evaluation/alpha_beta.toml --alpha-beta    # Figure 3, of finished runs

Figure 2 is the distribution of the weights of each Soft-InfoNCE row of the file, on its first language's training
pairs, with the teachers of the comparison. The case study is one batch through st_softinfonce.inspection; its page
holds code of the corpus, and stays in the output folder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from evaluation.matrix import Matrix, Run
from evaluation.models import load_model
from evaluation.plots import COLOURS, MARKERS, save
from evaluation.report import ALL, METRIC, NAMES, current_results, summarise
from evaluation.store import Store
from evaluation.training import Workshop
from evaluation.weighing import Weigher, parser_of_results, soft_runs, workshop_of
from st_softinfonce.calibration import PairTexts, batch_similarities, negatives_of
from st_softinfonce.inspection import inspect_pairs

BATCHES = 20
BINS = 40


def plot_weights(weights: Mapping[str, torch.Tensor], path: Path, *, batch_size: int, language: str) -> None:
    """Plot the distribution of each row's weights, as the paper's Figure 2.

    Args:
        weights: Of all negatives, by row.
        path: Where to.
        batch_size: For the title.
        language: Likewise.
    """
    columns = min(3, len(weights))
    lines = -(-len(weights) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.3 * lines))
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for number, axis in enumerate(axes.flat):
        if number >= len(weights):
            axis.set_visible(False)
            continue
        name, values = list(weights.items())[number]
        share = torch.full((len(values),), 100 / len(values))
        axis.hist(values.numpy(), bins=BINS, range=(0, 2), weights=share.numpy(), color=COLOURS[0])
        below = 100 * float((values < 0.9).float().mean())
        axis.set_title(f"{name}\n{below:.2f}% below 0.9", fontsize=8)
        axis.set_yscale("log")
        axis.axvline(1, color="black", linewidth=0.8)
        axis.grid(alpha=0.3)
    figure.supxlabel(f"Weight of a negative ({language}, batches of {batch_size}; InfoNCE is 1)", fontsize=9)
    figure.supylabel("Negatives, % (log scale)", fontsize=9)
    figure.tight_layout()
    save(figure, path)


def plot_alpha_beta(summary: Mapping[str, Any], rows: Mapping[str, Any], path: Path) -> None:
    """Plot the difference to InfoNCE at each alpha and beta, as the paper's Figure 3.

    Args:
        summary: Of ``report.summarise``.
        rows: Settings by row.
        path: Where to.
    """
    entries = [entry for entry in summary["entries"] if entry["language"] == ALL and "difference" in entry]
    estimators = list(dict.fromkeys(rows[entry["row"]].get("estimator") for entry in entries))
    figure = Figure(figsize=(8, 3.6))
    axis = figure.subplots()
    labels: list[str] = []
    for number, estimator in enumerate(estimators):
        points = [entry for entry in entries if rows[entry["row"]].get("estimator") == estimator]
        labels = [
            f"alpha {rows[p['row']]['options']['alpha']:g}\nbeta {rows[p['row']]['options']['beta']:g}" for p in points
        ]
        difference = [{name: 100 * value for name, value in p["difference"][METRIC].items()} for p in points]
        places = [place + 0.15 * (number - (len(estimators) - 1) / 2) for place in range(len(points))]
        axis.errorbar(
            places,
            [d["mean"] for d in difference],
            yerr=[[d["mean"] - d["low"] for d in difference], [d["high"] - d["mean"] for d in difference]],
            fmt=MARKERS[number],
            color=COLOURS[number],
            markersize=4,
            capsize=2,
            label=estimator,
        )
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xticks(range(len(labels)), labels, fontsize=8)
    axis.set_ylabel(f"{NAMES[METRIC]} - InfoNCE, points")
    axis.grid(axis="y", alpha=0.3)
    axis.legend(fontsize=8)
    figure.tight_layout()
    save(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the figures.

    Args:
        arguments: Of the command line.

    Returns:
        0.
    """
    parser = parser_of_results(__doc__)
    parser.add_argument("--alpha-beta", action="store_true", help="plot finished runs by alpha and beta")
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    given = parser.parse_args(arguments)
    matrix = Matrix.from_file(given.config)
    output = given.output / matrix.name
    given.results.mkdir(parents=True, exist_ok=True)
    if given.alpha_beta:
        store = Store(output)
        summary = summarise(matrix.name, store, current_results(matrix, store))
        plot_alpha_beta(summary, matrix.content["rows"], given.results / f"{matrix.name}_sweep.svg")
        return 0

    workshop = workshop_of(matrix, given)
    weights, about = {}, {}
    for name, run in soft_runs(matrix).items():
        weigher = Weigher.of(workshop, run, given.batch_size)
        if weigher is None:
            print(f"{name}: no posterior, left out")
            continue
        positives = torch.arange(given.batch_size)
        found = torch.cat([negatives_of(batch, positives).flatten() for _, batch in weigher.batches(BATCHES)])
        weights[name] = found
        used = weigher.options if weigher.posterior is None else {"prior": weigher.posterior.prior}
        about[name] = used | {
            "below_0_9": float((found < 0.9).float().mean()),
            "below_0_5": float((found < 0.5).float().mean()),
            "quantiles": torch.quantile(found.float(), torch.tensor([0.001, 0.01, 0.1, 0.5, 0.9, 0.99])).tolist(),
        }
        print(f"{name}: {100 * about[name]['below_0_9']:.2f}% of the negatives below 0.9")
    (language,) = {run.settings["language"] for run in soft_runs(matrix).values()}
    plot_weights(weights, given.results / "weights.svg", batch_size=given.batch_size, language=language)
    content = {
        "command": f"python evaluation/figures.py evaluation/{given.config.name}",
        "language": language,
        "batch_size": given.batch_size,
        "rows": about,
    }
    (given.results / "weights.json").write_text(json.dumps(content, indent=1) + "\n")
    _case_study(workshop, next(iter(soft_runs(matrix).values())), output / "case_study.html", given.batch_size)
    return 0


def _case_study(workshop: Workshop, run: Run, page: Path, batch_size: int) -> None:
    """Inspect the batch, of the first hundred in random order, in which the row's estimator finds most to soften."""
    settings = run.settings
    model = load_model(settings["model"], workshop.device)
    pairs = workshop.pairs(settings["language"], settings["corpus"]["train_pairs"])["train"]
    texts = pairs.select_columns(["query", "code"])
    estimator = workshop.estimator(settings["row"], model, texts, settings)
    batches = min(100, len(pairs) // batch_size)
    best, chosen = -1.0, list(range(batch_size))
    for rows, similarity in batch_similarities(
        estimator, PairTexts(texts, model=model), batch_size, batches=batches, seed=0
    ):
        positives = torch.arange(batch_size)
        highest = float(negatives_of(similarity.cpu() / similarity.cpu().diagonal()[:, None], positives).max())
        if highest > best:
            best, chosen = highest, rows
    inspection = inspect_pairs(pairs.select(chosen), estimator, model=model, batch_size=batch_size)
    page.parent.mkdir(parents=True, exist_ok=True)
    inspection.write_page(page, title=f"One batch of {batch_size}, weighed by {settings['row']['name']}")
    print(f"Case study: {page}")


if __name__ == "__main__":
    sys.exit(main())
