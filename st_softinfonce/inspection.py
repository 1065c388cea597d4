"""What do the weights do to my data: likely false negatives with their texts, as a DataFrame and as a page."""

from __future__ import annotations

import html
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from datasets import Dataset
from torch import Tensor, nn
from tqdm import tqdm

from st_softinfonce.calibration import PairTexts, batch_similarities, check_count
from st_softinfonce.estimators.base import SimilarityEstimator
from st_softinfonce.estimators.registry import get_estimator
from st_softinfonce.functional import RelevancePosterior, check_weighting, negative_weights, posterior_weights

_ORIGIN = ("path", "name", "package")
_WEIGHT_BIN = 0.05
_MOST_BARS = 60


# Where a row is all alike, its weights are 1 up to rounding.
_SOFTENED = 1 - 1e-4


@dataclass(frozen=True)
class Inspection:
    """What an estimator's weights do to a dataset: :func:`inspect_pairs` makes it.

    Attributes:
        negatives: The negatives softened most, as :func:`softened_negatives` returns them.
        summary: Numbers by their name, for reading.
        weights: How many negatives have a weight from each multiple of ``weight_bin`` on.
        similarities: Likewise for the estimator's similarity and ``similarity_bin``.
        weight_bin: Width of a bin.
        similarity_bin: Width of a bin.
    """

    negatives: pd.DataFrame
    summary: dict[str, str]
    weights: dict[int, int]
    similarities: dict[int, int]
    weight_bin: float
    similarity_bin: float

    def write_page(self, path: str | os.PathLike[str], *, title: str = "Likely false negatives") -> Path:
        """Write one HTML page that needs nothing else: numbers, histograms, and the texts side by side.

        Args:
            path: Where to; an existing file is replaced.
            title: The page's heading.

        Returns:
            The path.
        """
        weights = _histogram(self.weights, self.weight_bin, "Weight of a negative")
        similarities = _histogram(self.similarities, self.similarity_bin, "Similarity to the query (estimator)")
        numbers = "".join(
            f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
            for name, value in self.summary.items()
        )
        rows = "".join(_pair_section(number, row) for number, row in enumerate(self.negatives.to_dict("records"), 1))
        target = Path(path)
        target.write_text(
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>'
            f"<h1>{html.escape(title)}</h1><dl>{numbers}</dl>"
            f'<div class="plots">{weights}{similarities}</div>'
            f"<h2>The {len(self.negatives)} negatives softened most</h2>"
            "<p>Each query on the left is pushed away from the document on the right, with the weight given. "
            "One row for each two queries; those least pushed away, and most similar, come first.</p>"
            f"{rows or '<p>None.</p>'}</body></html>\n",
            encoding="utf-8",
        )
        return target


def inspect_pairs(
    pairs: Dataset,
    estimator: str | SimilarityEstimator,
    *,
    model: nn.Module | None = None,
    tokenizer: Any = None,
    batch_size: int = 64,
    top: int = 100,
    posterior: RelevancePosterior | None = None,
    alpha: float | None = None,
    beta: float | None = None,
    weight_temperature: float | None = None,
    min_weight: float = 0.1,
    passes: int = 1,
    seed: int = 0,
) -> Inspection:
    """Go through a dataset in batches, as training does, and see which negatives are softened.

    A pass sees ``batch_size - 1`` negatives of each query, those that share its batch: a larger batch or more passes
    find more of the data's false negatives. The last batch is left out if it is not full.

    Args:
        pairs: The columns ``query`` and ``code``, or else the first two columns.
        estimator: An installed estimator's name, or an estimator.
        model: The model to train: its tokenizer, maximum length and routes make the texts what they are in training.
        tokenizer: A tokenizer instead of a model; texts are then not truncated. Exactly one of both.
        batch_size: At least 2; the paper's weights depend on it. Made smaller if there are fewer pairs.
        top: At least 1. Negatives to keep, one for each two queries (by their text).
        posterior: Weigh in absolute terms instead of the paper's.
        alpha: Of the paper's weighting; ``None`` takes the estimator's. So for the next two.
        beta: Likewise.
        weight_temperature: Likewise.
        min_weight: In (0, 1]. Floor of a weight.
        passes: At least 1. Times to go through the data, each in another order.
        seed: Of the order.

    Returns:
        The negatives softened most, numbers and histograms.

    Raises:
        ValueError: An option is out of range, or the estimator is unknown or breaks its contract.
    """
    teacher = get_estimator(estimator)
    for name, value in (("top", top), ("passes", passes)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")
    defaults = teacher.weighting
    alpha = defaults.alpha if alpha is None else alpha
    beta = defaults.beta if beta is None else beta
    temperature = defaults.temperature if weight_temperature is None else weight_temperature
    check_weighting(alpha=alpha, beta=beta, temperature=temperature, min_weight=min_weight)

    def weigh(similarity: Tensor) -> Tensor:
        if posterior is not None:
            return posterior_weights(similarity, posterior=posterior, min_weight=min_weight)
        return negative_weights(similarity, alpha=alpha, beta=beta, temperature=temperature, min_weight=min_weight)

    texts = PairTexts(pairs, model=model, tokenizer=tokenizer)
    check_count("batch_size", batch_size, 2)
    batch_size = max(2, min(batch_size, len(texts)))
    scan = _Scan(texts, top)
    batches = passes * max(1, len(texts) // max(1, batch_size))
    blocks = batch_similarities(teacher, texts, batch_size, batches=batches, seed=seed)
    for rows, similarity in tqdm(blocks, desc="Inspecting", total=batches, unit="batch", disable=None):
        scan.add(rows, similarity.cpu(), weigh(similarity.cpu()))
    parameters = f"alpha {alpha:g}, beta {beta:g}, temperature {temperature:g}"
    summary = {
        "estimator": f"{teacher.name} (compares {teacher.compares})",
        "weighting": f"paper: {parameters}" if posterior is None else f"posterior: prior {posterior.prior:.2g}",
        "pairs": f"{len(texts):,}",
        "batch size": f"{batch_size:,}",
        "negatives seen": f"{scan.count:,}",
        "with weight below 0.9": scan.share(scan.below_0_9),
        "with weight below 0.5": scan.share(scan.below_0_5),
        "with the query's own text": scan.share(scan.twins),
    }
    similarities, similarity_bin = scan.similarities.histogram()
    return Inspection(scan.table(pairs), summary, dict(scan.weights), similarities, _WEIGHT_BIN, similarity_bin)


def softened_negatives(pairs: Dataset, estimator: str | SimilarityEstimator, **options: Any) -> pd.DataFrame:
    """Find the negatives of a dataset that would be softened most: its likely false negatives.

    Args:
        pairs: The columns ``query`` and ``code``, or else the first two columns.
        estimator: An installed estimator's name, or an estimator.
        **options: As for :func:`inspect_pairs`; one of ``model`` and ``tokenizer`` is needed.

    Returns:
        Columns ``query``, ``code``, ``negative_query``, ``negative_code``, ``similarity``, ``weight``, ``row``,
        ``negative_row``, and ``path``, ``name``, ``package`` of both where the dataset has them; smallest weight
        first, and among equal weights the most similar.

    Raises:
        ValueError: As :func:`inspect_pairs`.
    """
    return inspect_pairs(pairs, estimator, **options).negatives


class _FineCounts:
    """Counts values whose range is not known before all have been seen.

    The bins are a power of ten wide, so that they can be put together into any wider ones of 1, 2 or 5 times such a
    power, and made wider as the range grows: never more than 10,000 of them.
    """

    _MOST = 10_000
    # Of float32, whose values differ by more than rounding beyond this share of them.
    _PRECISION = 1e-6

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self.power = 0
        self.counts: Counter[int] = Counter()

    def add(self, values: Tensor) -> None:
        if values.numel() == 0:
            return
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        finest = max((self.high - self.low) / self._MOST, max(abs(self.low), abs(self.high)) * self._PRECISION)
        power = math.ceil(math.log10(finest)) if finest > 0 else -300  # while all are 0, in whose bin they stay
        if not self.counts:
            self.power = power
        elif power > self.power:
            factor = 10 ** (power - self.power)
            merged: Counter[int] = Counter()
            for place, count in self.counts.items():
                merged[place // factor] += count
            self.counts, self.power = merged, power
        # A little more than the edge: 0.7 in float32 is not quite seven bins of 0.1.
        _count(self.counts, values.double() + 1e-3 * 10.0**self.power, 10.0**self.power)

    def histogram(self) -> tuple[dict[int, int], float]:
        """Return counts by multiples of a bin's width, and the width: about 40 bins from the lowest to the highest."""
        width = _nice((self.high - self.low) / 40) if self.high > self.low else 1.0
        factor = max(1, round(width / 10.0**self.power))
        merged: Counter[int] = Counter()
        for place, count in self.counts.items():
            merged[place // factor] += count
        return dict(merged), factor * 10.0**self.power


@dataclass
class _Scan:
    """What is kept of the batches seen so far: counts, and the best negative of each two queries."""

    texts: PairTexts
    top: int
    count: int = 0
    below_0_9: int = 0
    below_0_5: int = 0
    twins: int = 0
    weights: Counter[int] = field(default_factory=Counter)
    similarities: _FineCounts = field(default_factory=_FineCounts)
    best: dict[tuple[str, str], tuple[float, float, int, int]] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)

    def add(self, rows: list[int], similarity: Tensor, weights: Tensor) -> None:
        size = len(rows)
        negative = ~torch.eye(size, dtype=torch.bool)
        self.count += size * (size - 1)
        self.below_0_9 += int(((weights < 0.9) & negative).sum())
        self.below_0_5 += int(((weights < 0.5) & negative).sum())
        own = torch.tensor([self.numbers.setdefault(self.texts.queries[row], len(self.numbers)) for row in rows])
        self.twins += int(((own.unsqueeze(0) == own.unsqueeze(1)) & negative).sum())
        # A little more than the edge: 0.1 in float32 is not quite two bins of 0.05.
        _count(self.weights, weights[negative] + 1e-6, _WEIGHT_BIN)
        self.similarities.add(similarity[negative & similarity.isfinite()])
        self._keep(rows, similarity, weights, negative)

    def share(self, count: int) -> str:
        return f"{count:,} ({100 * count / max(1, self.count):.3g}%)"

    def table(self, pairs: Dataset) -> pd.DataFrame:
        entries = sorted(self.best.values(), key=lambda entry: (entry[0], -entry[1], entry[2], entry[3]))[: self.top]
        texts, plain = self.texts, pairs.with_format(None)
        records = []
        for weight, similarity, row, other in entries:
            record: dict[str, Any] = {
                "query": texts.queries[row],
                "code": texts.documents[row],
                "negative_query": texts.queries[other],
                "negative_code": texts.documents[other],
                "similarity": similarity,
                "weight": weight,
                "row": row,
                "negative_row": other,
            }
            own, others = plain[row], plain[other]
            for name in _ORIGIN:
                if name in pairs.column_names:
                    record |= {name: own[name], f"negative_{name}": others[name]}
            records.append(record)
        names = ["query", "code", "negative_query", "negative_code", "similarity", "weight", "row", "negative_row"]
        origin = [prefix + name for name in _ORIGIN if name in pairs.column_names for prefix in ("", "negative_")]
        return pd.DataFrame(records, columns=names + origin)

    def _keep(self, rows: list[int], similarity: Tensor, weights: Tensor, negative: Tensor) -> None:
        candidates = negative & (weights < _SOFTENED) & similarity.isfinite()
        flat = candidates.flatten().nonzero().squeeze(1)
        if len(self.best) >= self.top:
            flat = flat[weights.flatten()[flat] <= max(entry[0] for entry in self.best.values())]
        # By weight, and by similarity among equal weights (the floor): two stable sorts.
        flat = flat[similarity.flatten()[flat].argsort(descending=True, stable=True)]
        flat = flat[weights.flatten()[flat].argsort(stable=True)][: 20 * self.top]
        values = zip(flat.tolist(), weights.flatten()[flat].tolist(), similarity.flatten()[flat].tolist(), strict=True)
        for place, weight, similar in values:
            row, other = rows[place // len(rows)], rows[place % len(rows)]
            one, two = sorted((self.texts.queries[row], self.texts.queries[other]))
            entry = (weight, similar, row, other)
            known = self.best.get((one, two))
            if known is None or (weight, -similar) < (known[0], -known[1]):
                self.best[one, two] = entry
        if len(self.best) > self.top:
            kept = sorted(self.best.items(), key=lambda item: (item[1][0], -item[1][1]))[: self.top]
            self.best = dict(kept)


def _count(counter: Counter[int], values: Tensor, width: float) -> None:
    places, counts = (values.double() / width).floor().long().unique(return_counts=True)  # type: ignore[no-untyped-call]
    counter.update(dict(zip(places.tolist(), counts.tolist(), strict=True)))


def _nice(value: float) -> float:
    """Round up to 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))


def _histogram(counts: dict[int, int], width: float, label: str) -> str:
    """Draw bars of logarithmic height, with labelled axes, as SVG."""
    if not counts:
        return ""
    while max(counts) - min(counts) >= _MOST_BARS:
        merged: Counter[int] = Counter()
        for place, count in counts.items():
            merged[place // 2] += count
        counts, width = dict(merged), 2 * width
    first, last = min(counts), max(counts)
    left, right, top, bottom, high = 104, 24, 34, 50, 300
    wide = 620
    bar = (wide - left - right) / (last - first + 1)
    decades = max(1, math.ceil(math.log10(max(counts.values()) + 1)))
    height = high - top - bottom

    def y(count: float) -> float:
        return high - bottom - height * math.log10(count) / decades if count >= 1 else high - bottom

    def x(place: float) -> float:
        return left + (place - first) * bar

    parts = [
        f'<line class="grid" x1="{left}" x2="{wide - right}" y1="{y(10**power):.1f}" y2="{y(10**power):.1f}"/>'
        f'<text x="{left - 8}" y="{y(10**power) + 4:.1f}" text-anchor="end">{10**power:,}</text>'
        for power in range(decades + 1)
    ]
    for place, count in sorted(counts.items()):
        # A bar of a single negative would have no height on a logarithmic axis.
        tall = max(high - bottom - y(count), 2.0)
        span = f"{place * width:.4g} to {(place + 1) * width:.4g}: {count:,}"
        parts.append(
            f'<rect x="{x(place) + 0.5:.1f}" y="{high - bottom - tall:.1f}" width="{max(bar - 1, 1):.1f}" '
            f'height="{tall:.1f}"><title>{span}</title></rect>'
        )
    every = max(1, round(_nice((last - first + 1) / 9)))
    for place in range(first, last + 2):
        if place % every == 0:
            parts.append(f'<text x="{x(place):.1f}" y="{high - bottom + 18}" text-anchor="middle">')
            parts.append(f"{place * width:.6g}</text>")
    name = html.escape(label)
    parts.append(f'<text class="name" x="{left}" y="18">{name}</text>')
    parts.append(f'<text x="{(left + wide - right) / 2}" y="{high - 8}" text-anchor="middle">{name}</text>')
    middle = (top + high - bottom) / 2
    parts.append(f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">negatives (log)</text>')
    return f'<svg viewBox="0 0 {wide} {high}" role="img" aria-label="Histogram: {name}">{"".join(parts)}</svg>'


def _pair_section(number: int, row: dict[Any, Any]) -> str:
    escape: Callable[[object], str] = lambda value: html.escape(str(value))  # noqa: E731

    def side(prefix: str, heading: str) -> str:
        places: Sequence[str] = [escape(row[prefix + name]) for name in _ORIGIN if row.get(prefix + name)]
        origin = f'<p class="origin">{" &middot; ".join(places)}</p>' if places else ""
        return (
            f"<div><h3>{heading}</h3><p class='query'>{escape(row[prefix + 'query'])}</p>{origin}"
            f"<pre>{escape(row[prefix + 'code'])}</pre></div>"
        )

    same = " &middot; the same query text" if row["query"] == row["negative_query"] else ""
    return (
        f'<section><p class="numbers"><b>{number}</b> weight <b>{row["weight"]:.3f}</b> &middot; similarity '
        f'<b>{row["similarity"]:.4g}</b>{same}</p><div class="sides">'
        f"{side('', 'Query and its own document')}{side('negative_', 'Negative')}</div></section>"
    )


_STYLE = """
:root{color-scheme:light dark;--back:#fff;--text:#1c2128;--soft:#5b6470;--line:#d5dae0;--box:#f5f7f9;--bar:#2f6fb2}
@media (prefers-color-scheme:dark){:root{--back:#14181d;--text:#e3e7ec;--soft:#9aa5b1;--line:#333c46;--box:#1d232a;
--bar:#6aa9e9}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1320px;padding:24px;background:var(--back);color:var(--text);
font:15px/1.5 system-ui,sans-serif}
h1{font-size:26px;margin:0 0 16px}h2{font-size:20px;margin:32px 0 4px}
h3{font-size:12px;margin:0;color:var(--soft);text-transform:uppercase;letter-spacing:.04em}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(270px,1fr));gap:10px;margin:0 0 20px}
dl div{background:var(--box);border:1px solid var(--line);border-radius:6px;padding:8px 12px}
dt{color:var(--soft);font-size:13px}dd{margin:0;font-weight:600;overflow-wrap:anywhere}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:16px}
svg{width:100%;height:auto;background:var(--box);border:1px solid var(--line);border-radius:6px}
svg text{fill:var(--soft);font:12px system-ui,sans-serif}svg .name{fill:var(--text);font-weight:600;font-size:14px}
svg rect{fill:var(--bar)}svg .grid{stroke:var(--line)}
section{border:1px solid var(--line);border-radius:6px;margin:14px 0;padding:10px 14px}
.numbers{margin:0 0 6px}.numbers b:first-child{display:inline-block;min-width:2em;color:var(--soft)}
.sides{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:16px}
.sides>div{min-width:0}.query{margin:2px 0;font-weight:600;overflow-wrap:anywhere}
.origin{margin:0;color:var(--soft);font-size:13px;overflow-wrap:anywhere}
pre{background:var(--box);border-radius:6px;padding:10px;margin:6px 0 0;max-height:340px;overflow:auto;
font:12.5px/1.45 ui-monospace,monospace;tab-size:4}
"""
