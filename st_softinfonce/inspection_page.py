"""The page of an inspection: what to make of it, numbers, and the texts side by side."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from st_softinfonce.effects import EFFECTS, SOFTENED_BELOW
from st_softinfonce.estimators.base import Compares
from st_softinfonce.estimators.words import split_content_words, split_words

# Columns that say where a pair comes from.
ORIGIN = ("path", "name", "package")
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


def render(title: str, summary: Mapping[str, str], negatives: pd.DataFrame, compares: Compares) -> str:
    """Write an inspection, whose attributes these are, as one HTML document that needs nothing else."""
    effects = [(str(effect), rows) for effect, rows in negatives.groupby("effect", sort=False)]
    unused = set(EFFECTS) - {effect for effect, _ in effects}
    numbers = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in summary.items()
        if name not in unused
    )
    parts = []
    for effect, rows in effects:
        pairs = [_pair(number, row, compares) for number, row in enumerate(rows.to_dict("records"), 1)]
        meaning = f"{_MEANING[effect]} The {len(rows)} strongest:"
        parts.append(f"<h2>{effect.capitalize()}: {summary[effect]}</h2><p>{meaning}</p>{''.join(pairs)}")
    introduction = _INTRODUCTION.replace("MARKS", _MARKS if compares in _MATCHED_IN else "")
    heading = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{heading}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>'
        f"<h1>{heading}</h1>{introduction}<dl>{numbers}</dl>"
        f"{''.join(parts) or '<p>No negative is treated.</p>'}</body></html>\n"
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
        places = [html.escape(str(row[prefix + name])) for name in ORIGIN if row.get(prefix + name)]
        origin = f'<p class="origin">{" &middot; ".join(places)}</p>' if places else ""
        query, code = text(f"{prefix}query"), text(f"{prefix}code")
        return f'<div><h3>{heading}</h3><p class="query">{query}</p>{origin}<pre>{code}</pre></div>'

    names = [name for name in row if str(name).startswith("similarity")]
    if row["effect"] in ("promoted", "taught"):
        names = ["target", *names]
    if row["effect"] != "masked" and row["weight"] < SOFTENED_BELOW:
        names = ["weight", *names]
    shown = [f"{html.escape(str(name)).replace('_', ' ')} <b>{row[name]:.4g}</b>" for name in names]
    own = "its own document has" if compares in ("documents", "scores") else "the same text would have"
    shown.append(f"{own} {row['own_similarity']:.4g}")
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
with what the treatment makes of them. Similarities are on the estimator's own scale: BM25 has no highest score,
cosines end at 1.MARKS</p>
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
dl div:nth-child(-n+2){grid-column:span 2}
dl div{background:var(--box);border:1px solid var(--line);border-radius:6px;padding:8px 12px}
dt{color:var(--soft);font-size:13px}dd{margin:0;font-weight:600;overflow-wrap:anywhere}
.next{border-left:4px solid var(--bar);padding:2px 16px;margin:0 0 20px}.next h2{margin:4px 0}
ol{margin:0;padding-left:20px}code{background:var(--box);border-radius:4px;padding:1px 4px;overflow-wrap:anywhere;
font:13px ui-monospace,monospace}
section{border:1px solid var(--line);border-radius:6px;margin:14px 0;padding:10px 14px}
.numbers{margin:0 0 6px}.numbers b:first-child{display:inline-block;min-width:2em;color:var(--soft)}
.sides{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:16px}
.sides>div{min-width:0}.query{margin:2px 0;font-weight:600;overflow-wrap:anywhere}
mark{background:var(--mark);color:inherit;border-radius:3px}
.origin{margin:0;color:var(--soft);font-size:13px;overflow-wrap:anywhere}
pre{background:var(--box);border-radius:6px;padding:10px;margin:6px 0 0;max-height:340px;overflow:auto;
font:12.5px/1.45 ui-monospace,monospace;tab-size:4}
"""
