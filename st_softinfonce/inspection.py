"""What would treatments do to my data: the negatives treated, with their texts, as a DataFrame and as a page."""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from torch import Tensor, nn
from tqdm import tqdm

from st_softinfonce._checks import check_count
from st_softinfonce.effects import EFFECTS, EffectSums, effect_of
from st_softinfonce.estimators.base import Compares, SimilarityEstimator
from st_softinfonce.estimators.words import split_content_words, split_words
from st_softinfonce.losses.judgement import OneOrSeveral, read_judges
from st_softinfonce.pair_batches import PairTexts, batch_similarities
from st_softinfonce.treatments import Distill, combine

__all__ = ["Inspection", "inspect_pairs"]

_ORIGIN = ("path", "name", "package")
_BINS = 40
# What each effect means, for the page.
_MEANING = {
    "masked": "Taken out: the query is not pushed away from this document at all.",
    "promoted": "Treated as another right answer: the query is pulled towards this document. The target says how "
    "strongly; those of a query sum to 1, its own document included.",
    "taught": "The query learns the estimator's ranking: this document gets the target shown. Those of a query sum to "
    "1, its own document included.",
    "softened": "Pushed away less: a negative of weight 0.1 counts a tenth of an ordinary one, whose weight is 1.",
}
# Where words that the estimator may have matched are marked: in the query, and in this text of the negative. Two
# documents share too many words for marks to help.
_MATCHED_IN = {"queries": "negative_query", "documents": "negative_code", "scores": "negative_code"}


@dataclass(frozen=True)
class Inspection:
    """What treatments do to a dataset: :func:`inspect_pairs` makes it.

    Attributes:
        negatives: The negatives that are treated most, one row for each two queries. Columns: ``query``, ``code``,
            ``negative_query``, ``negative_code``; ``similarity`` (of several estimators the first's; the others'
            are ``similarity_NAME``); ``weight`` (0 if masked), ``target`` and ``effect`` (``"masked"``,
            ``"promoted"``, ``"taught"`` or ``"softened"``); ``row`` and ``negative_row`` of the dataset; and
            ``path``, ``name`` and ``package`` of both where the dataset has them.
        summary: Numbers by their name, for reading.
        histograms: By what is counted, how many negatives are in each bin, and the edges of the bins, as
            ``np.histogram`` returns them.
        compares: What the first estimator compares, as :attr:`SimilarityEstimator.compares`.
    """

    negatives: pd.DataFrame
    summary: dict[str, str]
    histograms: dict[str, tuple[np.ndarray, np.ndarray]]
    compares: Compares

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON primitives.

        Returns:
            ``summary``, ``histograms`` and ``negatives``, in which ``None`` is a similarity of -inf.
        """
        histograms = {
            name: {"negatives": counts.tolist(), "edges": edges.tolist()}
            for name, (counts, edges) in self.histograms.items()
        }
        negatives = json.loads(self.negatives.to_json(orient="records", double_precision=15))
        return {"summary": self.summary, "histograms": histograms, "negatives": negatives}

    def write_page(self, path: str | os.PathLike[str], *, title: str = "Likely false negatives") -> Path:
        """Write one HTML page that needs nothing else: what to make of it, numbers, and the texts side by side.

        Args:
            path: Where to; an existing file is replaced.
            title: The page's heading.

        Returns:
            The path.
        """
        effects = [(str(effect), rows) for effect, rows in self.negatives.groupby("effect", sort=False)]
        unused = set(EFFECTS) - {effect for effect, _ in effects}
        numbers = "".join(
            f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
            for name, value in self.summary.items()
            if name not in unused
        )
        plots = "".join(_histogram(name, *histogram) for name, histogram in self.histograms.items())
        parts = []
        for effect, rows in effects:
            pairs = [_pair(number, row, self.compares) for number, row in enumerate(rows.to_dict("records"), 1)]
            meaning = f"{_MEANING[effect]} The {len(rows)} strongest:"
            parts.append(f"<h2>{effect.capitalize()}: {self.summary[effect]}</h2><p>{meaning}</p>{''.join(pairs)}")
        introduction = _INTRODUCTION.replace("MARKS", _MARKS if self.compares in _MATCHED_IN else "")
        heading = html.escape(title)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{heading}</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>'
            f'<h1>{heading}</h1>{introduction}<dl>{numbers}</dl><div class="plots">{plots}</div>'
            f"{''.join(parts) or '<p>No negative is treated.</p>'}</body></html>\n",
            encoding="utf-8",
        )
        return target


def inspect_pairs(
    pairs: Dataset,
    estimator: str | SimilarityEstimator = "bm25",
    treatment: OneOrSeveral | None = None,
    *,
    treatments: Sequence[tuple[str | SimilarityEstimator, OneOrSeveral | None]] | None = None,
    model: nn.Module | None = None,
    batch_size: int = 64,
    top: int = 100,
    passes: int = 1,
    seed: int = 0,
    **reading: Any,
) -> Inspection:
    """Go through a dataset in batches, as training does, and see what treatments do to its negatives.

    A pass sees ``batch_size - 1`` negatives of each query, those that share its batch: a larger batch or more passes
    find more of the data's false negatives. The last batch is left out if it is not full.

    Args:
        pairs: The columns ``query`` and ``code``, or else the first two columns.
        estimator: As for :class:`~st_softinfonce.SoftInfoNCELoss`: an installed estimator's name, or an estimator.
            One that compares the model's scores is given those of the model as it is.
        treatment: Likewise: one treatment or several; ``None`` takes the estimator's own.
        treatments: Likewise, instead of both: ``[(estimator, treatment), ...]``.
        model: The model to train, which decides what is read of the texts.
        batch_size: At least 2; the paper's weights depend on it. Made smaller if there are fewer pairs.
        top: At least 1. Negatives to keep of each effect, one for each two queries (by their text).
        passes: At least 1. Times to go through the data, each in another order.
        seed: Of the order.
        **reading: ``tokenizer`` instead of ``model``, and ``prompts``, ``router_mapping`` and ``max_length`` as given
            to the trainer: see :class:`~st_softinfonce.pair_batches.PairTexts`.

    Returns:
        The negatives that are treated (masked, at a weight below 0.9, or with more than a tenth of their positive's
        target), numbers and histograms.

    Raises:
        ValueError: An option is out of range, the treatment has no effect, or the estimator is unknown or breaks
            its contract.
        TypeError: Something else than an estimator or a treatment is given.
    """
    judges = read_judges(estimator, treatment, treatments)
    if not judges:
        raise ValueError(f"treatment must have an effect, got {treatment or treatments!r}: this is plain InfoNCE.")
    for name, value, least in (("top", top, 1), ("passes", passes, 1), ("batch_size", batch_size, 2)):
        check_count(name, value, least)
    texts = PairTexts(pairs, model=model, **reading)
    batch_size = max(2, min(batch_size, len(texts)))
    batches = passes * max(1, len(texts) // batch_size)
    blocks = zip(
        *(batch_similarities(judge.estimator, texts, batch_size, batches=batches, seed=seed) for judge in judges),
        strict=True,
    )
    names = ["similarity", *(f"similarity_{judge.estimator.name}" for judge in judges[1:])]
    # Which query each pair has, as a number.
    query_of = np.unique(np.array(texts.queries, dtype=object), return_inverse=True)[1]
    scan = _Scan(query_of, top, names)
    positives = torch.arange(batch_size)
    for judged in tqdm(blocks, desc="Inspecting", total=batches, unit="batch", disable=None):
        similarities = [similarity.cpu() for _, similarity in judged]
        said = [(judge.treatments, similarity, None) for judge, similarity in zip(judges, similarities, strict=True)]
        promoting = [
            (tuple(one for one in chosen if one.order < Distill.order), similarity, known)
            for chosen, similarity, known in said
        ]
        log_weights, targets = combine(said, positives)
        promotions = combine(promoting, positives)[1]
        if promotions is None:
            promotions = torch.eye(batch_size)  # nothing but a teacher gives a negative a target
        scan.add(np.array(judged[0][0]), similarities, log_weights, targets, promotions)
    effects = scan.sums.read()
    assert effects is not None  # there is at least one batch of two
    summary = {
        "estimator": "; ".join(f"{judge.estimator.name} (compares {judge.estimator.compares})" for judge in judges),
        "treatment": "; ".join(" and ".join(map(str, judge.treatments)) for judge in judges),
        "pairs": f"{len(texts):,}",
        "batch size": f"{batch_size:,}",
        "negatives seen": f"{scan.seen:,}",
        **{effect: scan.share(scan.counts[place]) for place, effect in enumerate(EFFECTS, 1)},
        "with the query's own text": scan.share(scan.twins),
        "share of the targets": f"{effects.target:.3%}",
        "effective negatives": f"{effects.effective_negatives:.4g} of {batch_size - 1}",
    }
    histograms = {name: counts.histogram() for name, counts in scan.histograms.items() if counts.total}
    return Inspection(_with_texts(scan.kept, texts, pairs), summary, histograms, judges[0].estimator.compares)


class _Scan:
    """What is kept of the batches seen so far: counts, and of each effect the strongest for each two queries."""

    def __init__(self, query_of: np.ndarray, top: int, similarities: list[str]) -> None:
        self._query_of, self._top, self._names = query_of, top, similarities
        self.sums = EffectSums()
        self.seen = self.twins = 0
        self.counts = np.zeros(len(EFFECTS) + 1, dtype=np.int64)
        self.histograms = {name: _Counts() for name in (*similarities, "weight", "target")}
        columns = ["row", "negative_row", *similarities, "weight", "target", "effect"]
        self.kept = pd.DataFrame(columns=columns)

    def share(self, count: int) -> str:
        return f"{count:,} ({100 * count / self.seen:.3g}%)"

    def add(
        self,
        rows: np.ndarray,
        similarities: list[Tensor],
        log_weights: Tensor | None,
        targets: Tensor | None,
        promotions: Tensor,
    ) -> None:
        positives = torch.arange(len(rows))
        negative = ~torch.eye(len(rows), dtype=torch.bool)
        self.sums.add(log_weights, targets, positives, negative)
        effect = effect_of(log_weights, targets, positives, negative, promotions)
        values = dict(zip(self._names, similarities, strict=True))
        if log_weights is not None:
            values["weight"] = log_weights.exp()
        if targets is not None:
            values["target"] = targets
        for name, value in values.items():
            self.histograms[name].add(value[negative].numpy())
        own = self._query_of[rows]
        self.seen += int(negative.sum())
        self.twins += int((own[:, None] == own[None, :]).sum()) - len(rows)
        self.counts += np.bincount(effect[negative].numpy(), minlength=len(self.counts))
        place, other = effect.nonzero().numpy().T
        found = {name: value.numpy()[place, other] for name, value in values.items()}
        found |= {"row": rows[place], "negative_row": rows[other], "effect": effect.numpy()[place, other]}
        # What no treatment sets is 1 for a weight and 0 for a target.
        new = pd.DataFrame({"weight": 1.0, "target": 0.0} | found, columns=self.kept.columns)
        self.kept = self._strongest(pd.concat([self.kept, new]) if len(self.kept) else new)

    def _strongest(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Keep the strongest of each effect, one for each two queries by their text."""
        frame = frame.sort_values(
            ["effect", "weight", "target", *self._names, "row", "negative_row"],
            ascending=[True, True, False, *[False] * len(self._names), True, True],
        )
        own = self._query_of[frame["row"].astype(int)]
        other = self._query_of[frame["negative_row"].astype(int)]
        frame = frame.assign(one=np.minimum(own, other), two=np.maximum(own, other))
        # Repeats first: equal queries would take all the places.
        frame = frame.drop_duplicates(["effect", "one", "two"]).groupby("effect").head(self._top)
        return frame.drop(columns=["one", "two"])


class _Counts:
    """Counts values whose range is not known before all have been seen: by their number in half precision."""

    def __init__(self) -> None:
        self._counts = np.zeros(2**16, dtype=np.int64)

    def add(self, values: np.ndarray) -> None:
        halves = values[np.isfinite(values)].clip(-65504, 65504).astype(np.float16)
        self._counts += np.bincount(halves.view(np.uint16), minlength=2**16)

    @property
    def total(self) -> int:
        return int(self._counts.sum())

    def histogram(self) -> tuple[np.ndarray, np.ndarray]:
        seen = self._counts.nonzero()[0]
        values = seen.astype(np.uint16).view(np.float16).astype(np.float64)
        return np.histogram(values, bins=_BINS, weights=self._counts[seen])


def _with_texts(kept: pd.DataFrame, texts: PairTexts, pairs: Dataset) -> pd.DataFrame:
    """Put the texts, and where they come from, beside the numbers of the negatives kept."""
    rows = {"": kept["row"].astype(int).tolist(), "negative_": kept["negative_row"].astype(int).tolist()}
    columns: dict[str, Any] = {}
    for prefix, places in rows.items():
        columns[f"{prefix}query"] = [texts.queries[row] for row in places]
        columns[f"{prefix}code"] = [texts.documents[row] for row in places]
    numbers = [name for name in kept.columns if name not in ("row", "negative_row", "effect")]
    columns |= {name: kept[name].tolist() for name in numbers}
    columns["effect"] = [EFFECTS[int(number) - 1] for number in kept["effect"]]
    columns |= {f"{prefix}row": places for prefix, places in rows.items()}
    plain = pairs.with_format(None)
    for name in _ORIGIN:
        if name in pairs.column_names:
            columns |= {f"{prefix}{name}": plain.select(places)[name][:] for prefix, places in rows.items()}
    return pd.DataFrame(columns)


def _histogram(name: str, counts: np.ndarray, edges: np.ndarray) -> str:
    """Draw bars of logarithmic height."""
    heights = 100 * np.log10(counts + 1) / np.log10(counts.max() + 1)
    bars = "".join(
        f'<i style="height:{height:.1f}%" title="{low:.4g} to {high:.4g}: {count:,.0f}"></i>'
        for height, count, low, high in zip(heights, counts, edges, edges[1:], strict=False)
    )
    label = html.escape(f"{name.replace('_', ' ').capitalize()} of the negatives")
    ticks = "".join(f"<span>{edges[place]:.3g}</span>" for place in range(0, len(edges), len(edges) // 4))
    return (
        f'<figure role="img" aria-label="Histogram: {label}"><figcaption><b>{label}</b> '
        f"(logarithmic; the highest bar is {counts.max():,.0f})</figcaption>"
        f'<div class="bars">{bars}</div><div class="ticks">{ticks}</div></figure>'
    )


def _pair(number: int, row: dict[Any, Any], compares: Compares) -> str:
    matched_in = _MATCHED_IN.get(compares)
    words: set[str] = set()
    if matched_in is not None:
        words = set(split_content_words(row["query"])) & set(split_content_words(row[matched_in]))

    def mark(word: re.Match[str]) -> str:
        text = html.escape(word[0])
        return f"<mark>{text}</mark>" if words & set(split_words(word[0])) else text

    def text(column: str) -> str:
        value = row[column]
        return re.sub(r"\w+|\W+", mark, value) if column in ("query", matched_in) else html.escape(value)

    def side(prefix: str, heading: str) -> str:
        places = [html.escape(str(row[prefix + name])) for name in _ORIGIN if row.get(prefix + name)]
        origin = f'<p class="origin">{" &middot; ".join(places)}</p>' if places else ""
        query, code = text(f"{prefix}query"), text(f"{prefix}code")
        return f'<div><h3>{heading}</h3><p class="query">{query}</p>{origin}<pre>{code}</pre></div>'

    names = [name for name in row if str(name).startswith("similarity")]
    names = ["weight"] * (row["effect"] == "softened") + ["target"] * bool(row["target"] > 0) + names
    shown = [f"{html.escape(str(name)).replace('_', ' ')} <b>{row[name]:.4g}</b>" for name in names]
    if row["query"] == row["negative_query"]:
        shown.append("the same query text")
    elif matched_in is not None and not words:
        shown.append("no word in common")
    return (
        f'<section><p class="numbers"><b>{number}</b> {" &middot; ".join(shown)}</p><div class="sides">'
        f"{side('', 'Query and its own document')}{side('negative_', 'Negative: the document of another query')}"
        "</div></section>"
    )


_MARKS = """ Words that both texts share are <mark>marked</mark>; those that say nothing, such as "the", are not."""
_INTRODUCTION = """<p>In training, every query is pushed away from the documents of the other queries in its batch: its
negatives. Some of them answer it just as well. Below are those that the estimator takes for relevant, strongest first,
with what the treatment makes of them.MARKS</p>
<div class="next"><h2>What to do next</h2><ol>
<li>Read ten rows. Does the document on the right answer the query on the left?</li>
<li><b>Mostly yes:</b> these are false negatives. Train with this estimator and treatment:
<code>SoftInfoNCELoss(model, estimator, treatment)</code>.</li>
<li><b>Mostly no:</b> the treatment would teach mistakes. Take a stronger estimator, such as
<code>trained-model</code> with a good retrieval model, or a treatment that treats fewer;
<code>st-softinfonce calibrate</code> fits two to your data.</li>
<li><b>The same query text again and again:</b> these are duplicates. Remove them from the data, or add
<code>("identical", Mask(above=0.5))</code> to <code>treatments</code>.</li>
<li><b>Hardly any row:</b> your batches hold few false negatives, and a treatment changes little. Mined hard negatives
hold more.</li></ol></div>"""

_STYLE = """
:root{color-scheme:light dark;--back:#fff;--text:#1c2128;--soft:#5b6470;--line:#d5dae0;--box:#f5f7f9;--bar:#2f6fb2;
--mark:#ffe9a8}
@media (prefers-color-scheme:dark){:root{--back:#14181d;--text:#e3e7ec;--soft:#9aa5b1;--line:#333c46;--box:#1d232a;
--bar:#6aa9e9;--mark:#5c4a12}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1320px;padding:24px;background:var(--back);color:var(--text);
font:15px/1.5 system-ui,sans-serif}
h1{font-size:26px;margin:0 0 16px}h2{font-size:20px;margin:32px 0 4px}
h3{font-size:12px;margin:0;color:var(--soft);text-transform:uppercase;letter-spacing:.04em}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(160px,1fr));gap:10px;margin:0 0 20px}
dl div{background:var(--box);border:1px solid var(--line);border-radius:6px;padding:8px 12px}
dt{color:var(--soft);font-size:13px}dd{margin:0;font-weight:600;overflow-wrap:anywhere}
.next{border-left:4px solid var(--bar);padding:2px 16px;margin:0 0 20px}.next h2{margin:4px 0}
ol{margin:0;padding-left:20px}code{background:var(--box);border-radius:4px;padding:1px 4px;overflow-wrap:anywhere;
font:13px ui-monospace,monospace}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,380px),1fr));gap:16px;margin:0 0 20px}
figure{margin:0;background:var(--box);border:1px solid var(--line);border-radius:6px;padding:10px 14px}
figcaption,.ticks{color:var(--soft);font-size:13px}figcaption b{color:var(--text)}
.bars{display:flex;align-items:flex-end;gap:1px;height:150px;margin:10px 0 2px;border-bottom:1px solid var(--line)}
.bars i{flex:1;background:var(--bar)}.ticks{display:flex;justify-content:space-between}
section{border:1px solid var(--line);border-radius:6px;margin:14px 0;padding:10px 14px}
.numbers{margin:0 0 6px}.numbers b:first-child{display:inline-block;min-width:2em;color:var(--soft)}
.sides{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:16px}
.sides>div{min-width:0}.query{margin:2px 0;font-weight:600;overflow-wrap:anywhere}
mark{background:var(--mark);color:inherit;border-radius:3px}
.origin{margin:0;color:var(--soft);font-size:13px;overflow-wrap:anywhere}
pre{background:var(--box);border-radius:6px;padding:10px;margin:6px 0 0;max-height:340px;overflow:auto;
font:12.5px/1.45 ui-monospace,monospace;tab-size:4}
"""
