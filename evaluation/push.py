"""Why the gain is what it is: where InfoNCE pushes, and how much of that the weights change.

    python evaluation/push.py evaluation/cpu.toml                    # batches of 64 and 1,024 of every language
    python evaluation/push.py evaluation/cpu.toml --batch-sizes 256 --languages python

InfoNCE pushes query i away from its negatives, from negative j by ``p[i, j]``, the softmax of its scores: that is the
gradient's part of the negative, so that the shares of ``p`` are the shares of what training does to them. Soft-InfoNCE
has ``p`` of the weighted softmax instead. The scores are those of the base model and of the comparison's model trained
with InfoNCE, the relevant negatives are those that documentation and duplicates show (evaluation/oracle.py). Writes
evaluation/results/push.json, and the table of evaluation/README.md between its markers.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from torch import Tensor

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from evaluation.matrix import Matrix
from evaluation.models import load_model
from evaluation.oracle import relevance_groups
from evaluation.report import ROOT, markdown_row, write_between_markers
from evaluation.training import Workshop
from evaluation.weighing import Weigher, parser_of_results, soft_runs, workshop_of

SCALE = 20.0
# So that a mean is over as many queries whatever the batch size.
QUERIES = 4096


def pushes(scores: Tensor, weights: Tensor | None = None) -> Tensor:
    """Compute how hard each negative is pushed away: the gradient of the query's loss by the negative's score.

    Args:
        scores: ``(N, N)``, the positives on the diagonal.
        weights: Of the negatives, ``(N, N)``; ``None`` is InfoNCE.

    Returns:
        ``(N, N)``, 0 on the diagonal.
    """
    logits = scores if weights is None else scores + weights.log()
    return logits.softmax(dim=1).fill_diagonal_(0.0)


def compare_pushes(plain: Tensor, weighted: Tensor, relevant: Tensor) -> dict[str, float]:
    """Sum up what weights do to the pushes of a batch.

    Args:
        plain: Of InfoNCE, ``(N, N)``.
        weighted: With weights.
        relevant: Bool, the diagonal not among them.

    Returns:
        Sums, to be added up over batches.
    """
    share = [push / push.sum() for push in (plain, weighted)]
    return {
        "plain": float(plain.sum()),
        "weighted": float(weighted.sum()),
        "plain_relevant": float(plain[relevant].sum()),
        "weighted_relevant": float(weighted[relevant].sum()),
        # Half the sum of the differences between two distributions: the part of the push that goes elsewhere.
        "moved": float((share[0] - share[1]).abs().sum() / 2),
        "batches": 1.0,
    }


def measure(workshop: Workshop, matrix: Matrix, language: str, batch_size: int) -> list[dict[str, Any]]:
    """Measure the pushes of one language's training pairs in random batches.

    Args:
        workshop: Has the pairs and teachers.
        matrix: With fingerprints.
        language: Which.
        batch_size: Pairs a batch.

    Returns:
        An entry a state of the model and row.
    """
    runs = soft_runs(matrix, language)
    settings = next(iter(runs.values())).settings
    recipe = matrix.content["models"][settings["model"]["name"]]["teacher"]
    pairs = workshop.pairs(language, settings["corpus"]["train_pairs"])["train"]
    groups = torch.from_numpy(relevance_groups(pairs))
    teacher = workshop.teacher("trained-model", {**settings, "teachers": {"trained-model": recipe}})
    scores_of = {
        "base": _Scores(load_model(settings["model"], workshop.device), pairs),
        "trained": _Scores(SentenceTransformer(str(teacher), device=workshop.device), pairs),
    }
    sums: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    queries = with_relevant = 0
    for name, run in runs.items():
        weigher = Weigher.of(workshop, run, batch_size)
        if weigher is None:
            continue
        first = not sums
        for rows, weights in weigher.batches(max(1, QUERIES // batch_size)):
            relevant = groups[rows, None] == groups[rows]
            relevant.fill_diagonal_(False)
            if first:  # every row has the same batches
                queries += len(rows)
                with_relevant += int(relevant.any(dim=1).sum())
            for state, scores in scores_of.items():
                plain = pushes(scores.of(rows))
                for key, value in compare_pushes(plain, pushes(scores.of(rows), weights), relevant).items():
                    sums[state, name][key] += value
    place = {"language": language, "batch_size": batch_size, "queries": queries}
    return [
        place
        | {
            "state": state,
            "row": name,
            "queries_with_a_relevant_negative": with_relevant / queries,
            "share_on_relevant": total["plain_relevant"] / total["plain"],
            "relevant_left": total["weighted_relevant"] / total["plain_relevant"] if total["plain_relevant"] else None,
            "others_left": (total["weighted"] - total["weighted_relevant"])
            / (total["plain"] - total["plain_relevant"]),
            "moved": total["moved"] / total["batches"],
        }
        for (state, name), total in sums.items()
    ]


class _Scores:
    """A model's scores of any batch of pairs."""

    def __init__(self, model: SentenceTransformer, pairs: Dataset) -> None:
        self.queries, self.documents = (
            model.encode(pairs[column][:], convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False)
            .float()
            .cpu()
            for column in ("query", "code")
        )

    def of(self, rows: list[int]) -> Tensor:
        return SCALE * self.queries[rows] @ self.documents[rows].T


def table(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Make a table of means over languages, each counting equally: of the trained model, where there is more to see.

    Args:
        entries: Of :func:`measure`.

    Returns:
        Lines of Markdown.
    """
    groups: dict[tuple[int, str], list[Mapping[str, Any]]] = defaultdict(list)
    for entry in entries:
        if entry["state"] == "trained":
            groups[entry["batch_size"], entry["row"]].append(entry)
    languages = list(dict.fromkeys(entry["language"] for entry in entries))
    heads = ["batch", "row", "queries with a relevant negative", "InfoNCE's push that is on such"]
    heads += ["of that, left", "of the others', left", "push that goes elsewhere"]
    lines = [
        f"Means over {', '.join(languages)}; the model trained with InfoNCE.",
        "",
        markdown_row(heads),
        markdown_row("---" for _ in heads),
    ]
    for (size, row), members in groups.items():
        known = [member["relevant_left"] for member in members if member["relevant_left"] is not None]
        cells = [f"{size:,}", row]
        cells += [_percent(members, "queries_with_a_relevant_negative"), _percent(members, "share_on_relevant")]
        cells += [f"{sum(known) / len(known):.0%}" if known else "", _percent(members, "others_left", 0)]
        lines.append(markdown_row([*cells, _percent(members, "moved")]))
    return lines


def _percent(members: Sequence[Mapping[str, Any]], key: str, digits: int = 1) -> str:
    return f"{sum(member[key] for member in members) / len(members):.{digits}%}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table and write the results.

    Args:
        arguments: Of the command line.

    Returns:
        0.
    """
    parser = parser_of_results(__doc__)
    parser.add_argument("--readme", type=Path, default=ROOT / "evaluation" / "README.md")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 1024], help="default: 64 1024")
    parser.add_argument("--languages", nargs="+", metavar="NAME", help="of those that the file names")
    given = parser.parse_args(arguments)
    matrix = Matrix.from_file(given.config)
    if given.languages is not None:
        matrix.keep_languages(given.languages)
    workshop = workshop_of(matrix, given)
    languages = list(dict.fromkeys(cell.language for cell in matrix.cells()))
    entries = [
        entry
        for size in given.batch_sizes
        for language in languages
        for entry in measure(workshop, matrix, language, size)
    ]
    lines = table(entries)
    print("\n".join(lines))
    options = ["--batch-sizes", *map(str, given.batch_sizes)]
    options += ["--languages", *given.languages] if given.languages is not None else []
    command = " ".join(["python evaluation/push.py", f"evaluation/{given.config.name}", *options])
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "push.json").write_text(json.dumps({"command": command, "entries": entries}, indent=1) + "\n")
    write_between_markers(given.readme, "\n".join(["", f"`{command}`. {lines[0]}", *lines[1:], ""]), "push")
    return 0


if __name__ == "__main__":
    sys.exit(main())
