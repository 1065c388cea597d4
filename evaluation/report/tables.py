"""Tables of the results as Markdown: from results/*.json alone, whoever made them and when."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation import UsageError
from evaluation.runs.plan import BASELINE, BEST_BY as METRIC

Summary = Mapping[str, Any]

ALL = "mean"
NAMES = {
    "mrr_at_1000_strict": "MRR, strict",
    "mrr_at_1000_duplicates": "MRR, duplicates-aware",
    "ndcg_at_10": "graded nDCG@10",
}
# Plans that are reported together, by the title of their section; any other plan is a section of its own.
SECTIONS = {
    "Several mined negatives, a stronger teacher": (
        *("mined", "same_side", "negatives"),
        *("transformer", "transformer_languages"),
    ),
    "The static matrix: random batches, one mined negative": ("cpu", "false_negatives", "why", "alpha_beta"),
}
# Who should take what in the README, and the plans, model, regime and row that measured it.
_TEACHER = "`TrainedModelEstimator(teacher, normalize=True)`"
_SAME_SIDE = '`directions=("query_to_doc", "query_to_query", "doc_to_doc")`'
ADVICE = (
    (
        "a transformer, a stronger model, and negatives that it mined",
        f"{_TEACHER}, `Distill()`",
        (("transformer", "transformer_languages"), ("minilm-2", "mined-2"), "distill"),
    ),
    (
        "static embeddings and the same",
        f"{_TEACHER}, `Mask(margin=0.05)`, {_SAME_SIDE}",
        (("mined",), ("static", "mined-4"), "gist"),
    ),
    (
        "the same, and your questions differ from the training queries",
        f"{_TEACHER}, `Distill()`",
        (("mined",), ("static", "mined-4"), "distill"),
    ),
    (
        "static embeddings and no stronger model",
        "`SoftInfoNCELoss(model, None, directions=...)` with these directions, and negatives that it mined itself",
        (("same_side",), ("static", "mined-4-own"), "info-nce-same-side"),
    ),
)
_PLACE = ("model", "regime", "share")
# The plans, model and regime of the README's table, and what its rows are called there. Of a row that several plans
# have, the one in more languages counts, or else the later plan's; all of them where they share no language.
HEADLINE, HEADLINE_PLACE = ("mined", "same_side"), ("static", "mined-4")
# Where the same rows were measured on a transformer.
TRANSFORMER, TRANSFORMER_PLACE = ("transformer", "transformer_languages"), ("minilm-2", "mined-2")
# The figure of why: the plan and the regime, and by teacher the rows of each series.
GAINS, GAINS_REGIME = "negatives", "mined-4"
GAINS_ROWS = {
    "Distill": {"trained-model": "distill-own", "minilm": "distill"},
    "Mask(relative=True)": {"trained-model": "mask-own", "minilm": "mask-relative"},
    "Soften": {"trained-model": "soft-own", "minilm": "soft-trained-model"},
}
GAINS_TEACHERS = {
    "trained-model": "the student's\nown kind",
    "minilm": "all-MiniLM",
}
METHODS = {
    "info-nce-same-side": "InfoNCE with same-side negatives: no teacher",
    "mask-distill-same-side": "same-side negatives, `Mask` and `Distill`",
    "mask-relative": "`Mask(relative=True)`: NV-Retriever's rule",
    "distill": "`Distill`: the teacher's ranking as targets",
    "gist": "same-side negatives, GISTEmbed's mask",
    "soft-trained-model": "`Soften`: the paper's weights",
    "hardness": "hardness, as in LLaVE and EmbeddingGemma",
}


def results_page(folder: Path) -> str:
    """Make RESULTS.md.

    Args:
        folder: Holds the results as JSON, and the figures.

    Returns:
        Markdown.
    """
    lines = [
        "# Results",
        "",
        "Made by `python -m evaluation report` of [results](results/), which has every number; not to be edited. "
        "[README.md](README.md) says what they mean.",
        "",
    ]
    for title, summaries in _sections(read_summaries(folder)).items():
        lines += [f"## {title}", "", *verdict(summaries.values()), ""]
        for name, summary in summaries.items():
            lines += plan_lines(name, summary, has_figure=(folder / f"{name}.svg").exists())
    for title, file, table in OTHERS:
        if (folder / file).exists():
            lines += [f"## {title}", "", *table(json.loads((folder / file).read_text())), ""]
    return "\n".join(lines).rstrip() + "\n"


def read_summaries(folder: Path) -> dict[str, Summary]:
    """Read the summaries of plans, by name; other JSON files have no entries with differences."""
    contents = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    return {name: content for name, content in contents.items() if "rows" in content and "entries" in content}


def readme_lines(folder: Path) -> list[str]:
    """Make the part of the README: what each method gains over the best InfoNCE row, over all languages.

    Args:
        folder: Holds the results as JSON.

    Returns:
        Lines of Markdown.
    """
    summaries = read_summaries(folder)
    entries = headline_entries(summaries)
    if not entries:
        return ["Nothing is measured yet."]
    transformer = headline_entries(summaries, TRANSFORMER, TRANSFORMER_PLACE)
    rows = []
    for row, (entry, languages) in entries.items():
        small = transformer.get(row)
        each = [one["to_best"][METRIC] for one in languages]
        gains = sum(one["low"] > 0 for one in each)
        losses = sum(one["high"] < 0 for one in each)
        known = [name for name in entry["to_best"] if name not in NAMES]
        other = sum(entry["to_best"][name]["mean"] for name in known) / len(known) if known else None
        rows.append(
            [
                METHODS[row],
                _points(entry, METRIC, "to_best"),
                f"{gains} of {len(each)} better, {losses} worse",
                "" if other is None else f"{100 * other:+.1f}",
                _points(small[0], METRIC, "to_best") + _of_languages(small[1]) if small else "",
            ]
        )
    heads = ["mined negatives and", "points of MRR", "languages", "other queries", "a small transformer"]
    return table(heads, rows)


def advice_lines(folder: Path) -> list[str]:
    """Make the README's table of who should take what, with what was measured.

    Args:
        folder: Holds the results as JSON.

    Returns:
        Lines of Markdown.
    """
    summaries = read_summaries(folder)
    rows = []
    for situation, take, (plans, place, row) in ADVICE:
        found = headline_entries(summaries, plans, place).get(row)
        measured = _points(found[0], METRIC, "to_best") + _of_languages(found[1]) if found else "not measured"
        rows.append([situation, take, measured])
    return table(["you have", "take", "over the best InfoNCE row"], rows)


def headline_entries(
    summaries: Mapping[str, Summary], plans: Sequence[str] = HEADLINE, place: tuple[str, str] = HEADLINE_PLACE
) -> dict[str, tuple[Mapping[str, Any], list[Mapping[str, Any]]]]:
    """Find the rows of the headline, the best first.

    Args:
        summaries: By plan.
        plans: Where to look.
        place: Model and regime.

    Returns:
        By row, its mean over languages, with ``to_best``, and the entries of the languages.
    """
    found: dict[str, tuple[Mapping[str, Any], list[Mapping[str, Any]]]] = {}
    for entries in (summaries[plan]["entries"] for plan in plans if plan in summaries):
        for row in METHODS:
            here = [
                entry
                for entry in entries
                if (entry["model"], entry["regime"], entry["row"]) == (*place, row) and "to_best" in entry
            ]
            each = [entry for entry in here if entry["language"] != ALL]
            if not each:
                continue
            entry = next(entry for entry in here if entry["language"] == ALL)
            known = found[row][1] if row in found else []
            if known and not {one["language"] for one in known} & {one["language"] for one in each}:
                found[row] = _pooled([*known, *each]), [*known, *each]
            elif len(each) >= len(known):
                found[row] = entry, each
    return dict(sorted(found.items(), key=lambda item: -item[1][0]["to_best"][METRIC]["mean"]))


def _pooled(languages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make the mean of languages of several plans: their queries are independent, so that variances add up."""
    shared = set.intersection(*(set(one["to_best"]) for one in languages))
    intervals = {}
    for metric in shared:
        each = [one["to_best"][metric] for one in languages]
        mean = sum(one["mean"] for one in each) / len(each)
        half = math.hypot(*((one["high"] - one["low"]) / 2 for one in each)) / len(each)
        intervals[metric] = {"mean": mean, "low": mean - half, "high": mean + half}
    return {"language": ALL, "to_best": intervals}


def _of_languages(entries: Sequence[Mapping[str, Any]]) -> str:
    names = [entry["language"] for entry in entries]
    return f" ({names[0].capitalize()} alone)" if len(names) == 1 else f" ({len(names)} languages)"


def _alone(names: Iterable[str], every: Iterable[str]) -> str:
    """Name the languages of a number where others have more: it is no match for the numbers around it."""
    return "" if set(names) == set(every) else f" ({', '.join(sorted(names))} alone)"


def _sections(summaries: Mapping[str, Summary]) -> dict[str, dict[str, Summary]]:
    titles = {name: title for title, names in SECTIONS.items() for name in names}
    order = [name for name in summaries if name not in titles] + list(titles)
    sections: dict[str, dict[str, Summary]] = defaultdict(dict)
    for name in order:
        if name in summaries:
            sections[titles.get(name, f"`{name}`")][name] = summaries[name]
    return sections


def verdict(summaries: Iterable[Summary]) -> list[str]:
    """Count where what follows from an estimator beats the same loss without one, treatment by treatment.

    Args:
        summaries: Of plans.

    Returns:
        Lines of Markdown.
    """
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for summary in summaries:
        for entry in summary["entries"]:
            if entry["kind"] is not None and entry["language"] != ALL and "difference" in entry:
                difference = entry["difference"][METRIC]
                counts[entry["kind"]][0 if difference["low"] > 0 else 2 if difference["high"] < 0 else 1] += 1
    if not counts:
        return ["Nothing is compared with InfoNCE yet."]
    rows = [
        [kind if kind != "oracle" else "oracle (not a method)", sum(found), *found] for kind, found in counts.items()
    ]
    return [
        f"Against InfoNCE (of the same options, where there is such a row), {NAMES[METRIC]}; a comparison is an "
        "estimator with its options, model, language and regime, and is undecided if its 95% interval holds 0.",
        "",
        *table(["treatment", "comparisons", "better", "undecided", "worse"], rows),
    ]


def overview(summary: Summary) -> list[str]:
    """Make one table: a line a row, a column a model and regime, differences as means over languages.

    Args:
        summary: Of a plan.

    Returns:
        Lines of Markdown.
    """
    whole = [entry for entry in summary["entries"] if entry["language"] == ALL]
    by_row: dict[str, dict[str, Any]] = defaultdict(dict)
    for entry in sorted(whole, key=lambda entry: "difference" in entry):  # the baseline first
        by_row[_label(entry)][_title(entry)] = (
            _points(entry, METRIC) + _alone(*_languages(summary, entry))
            if "difference" in entry
            else f"{100 * entry['scores'][METRIC]:.1f}"
        )
    titles = list(dict.fromkeys(map(_title, whole)))
    named: dict[str, set[str]] = defaultdict(set)
    for entry in summary["entries"]:
        named[_title(entry)] |= {entry["language"]} - {ALL}
    every = set().union(*named.values())
    heads = [title + _alone(named[title], every) for title in titles]
    return table(
        [NAMES[METRIC], *heads], ([row, *(cells.get(t, "") for t in titles)] for row, cells in by_row.items())
    )


def plan_lines(name: str, summary: Summary, *, has_figure: bool = True) -> list[str]:
    """Report on one plan: how it was made, its figure, and a table a model and regime with each language.

    Args:
        name: Of the plan.
        summary: Of the plan.
        has_figure: Whether there is ``results/NAME.svg``.

    Returns:
        Lines of Markdown.
    """
    machines = "; ".join(f"{m['device']}, threads a run: {m['threads']}" for m in summary["machines"])
    lines = [
        f"### `{name}`",
        "",
        f"`{summary['command']}`: {summary['runs']} runs, {summary['hours']} hours of runs ({machines}). Scores and "
        "differences in points (hundredths), means over languages; 95% intervals of a paired bootstrap over queries "
        "with seeds as blocks; **bold** where the interval excludes 0.",
        "",
    ]
    if any("to_best" in entry for entry in summary["entries"]):
        lines += [
            '"Best InfoNCE" is InfoNCE in the regime where it scores best on the same test packages, language by '
            "language: what a row has to beat. The columns of languages are differences to it.",
            "",
        ]
    chosen = [
        f"`{row}` {json.dumps({k: v for k, v in settings.items() if k in ('treatment', 'options')})}"
        for row, settings in summary["rows"].items()
        if row in summary.get("chosen", ())
    ]
    if chosen:
        lines += [f"Options chosen on validation packages: {'; '.join(chosen)}.", ""]
    if any(name not in NAMES for name in summary["entries"][0]["scores"]):
        lines += [
            "Columns after the languages: the difference on queries of other kinds, which no model was trained for: "
            "HumanEval's tasks, intents of cheat sheets, and descriptions of JavaScript snippets.",
            "",
        ]
    if has_figure:
        lines += [f"![{name}: differences to InfoNCE](results/{name}.svg)", ""]
    lines += [*overview(summary), ""]
    metrics = [metric for metric in NAMES if metric in summary["entries"][0]["scores"]]
    for title in dict.fromkeys(map(_title, summary["entries"])):
        here = [entry for entry in summary["entries"] if _title(entry) == title]
        named = sorted({entry["language"] for entry in here} - {ALL})
        has_best = any("to_best" in entry for entry in here)
        which = "to_best" if has_best else "difference"
        by_language = {(entry["row"], entry["language"]): _points(entry, METRIC, which) for entry in here}
        shown = named if len(named) > 1 else []
        heads = ["row", *(NAMES[metric] for metric in metrics), "MRR - InfoNCE", "nDCG - InfoNCE"]
        others = [name for name in here[0]["scores"] if name not in NAMES]
        heads += [*(["MRR - best InfoNCE"] if has_best else []), *shown, *others]
        whole = sorted((e for e in here if e["language"] == ALL), key=lambda entry: -entry["scores"][METRIC])
        rows = (
            [
                _label(entry) + _alone(*_languages(summary, entry)),
                *(f"{100 * entry['scores'][metric]:.1f}" for metric in metrics),
                _points(entry, METRIC),
                _points(entry, "ndcg_at_10"),
                *([_points(entry, METRIC, "to_best")] if has_best else []),
                *(by_language.get((entry["row"], language), "") for language in shown),
                *(_points(entry, name, which) for name in others),
            ]
            for entry in whole
        )
        seeds = max(entry["seeds"] for entry in here)
        lines += [f"**{title}** ({', '.join(named)}; {seeds} seeds)", "", *table(heads, rows), ""]
    for entry in summary["not_applicable"]:
        lines += [f"Not applicable: {entry['row']} with {entry['model']}, {entry['regime']}: {entry['reason']}", ""]
    return lines


def _push_lines(content: Mapping[str, Any]) -> list[str]:
    groups: dict[tuple[int | str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for entry in content["entries"]:
        if entry["state"] == "trained":  # where there is more to see
            groups[entry["batch_size"], entry["row"]].append(entry)
    languages = list(dict.fromkeys(entry["language"] for entry in content["entries"]))
    heads = ["batch", "row", "queries with a relevant negative", "InfoNCE's push that is on such", "of that, left"]
    rows = []
    for (size, row), members in groups.items():
        known = [member["relevant_left"] for member in members if member["relevant_left"] is not None]

        def percent(key: str, digits: int = 1, members: Sequence[Mapping[str, Any]] = members) -> str:
            return f"{sum(member[key] for member in members) / len(members):.{digits}%}"

        alone = _alone([member["language"] for member in members], languages)
        cells = [
            f"{size:,}" if isinstance(size, int) else size,
            row + alone,
            percent("queries_with_a_relevant_negative"),
            percent("share_on_relevant"),
        ]
        cells += [f"{sum(known) / len(known):.0%}" if known else "", percent("others_left", 0), percent("moved")]
        rows.append(cells)
    return [
        f"`{content['command']}`: means over {', '.join(languages)}; the model trained with InfoNCE.",
        "",
        *table([*heads, "of the others', left", "push that goes elsewhere"], rows),
    ]


def _weights_lines(content: Mapping[str, Any]) -> list[str]:
    rows = (
        [name, f"{row['below_0_9']:.3%}", f"{row['below_0_5']:.3%}", *(f"{value:.3f}" for value in row["quantiles"])]
        for name, row in content["rows"].items()
    )
    heads = ["row", "below 0.9", "below 0.5", "0.1% quantile", "1%", "10%", "50%", "90%", "99%"]
    return [
        f"`{content['command']}`: the weights of negatives, {content['language']}, in batches of "
        f"{content['batch_size']}.",
        "",
        "![Weights of the negatives by row](results/weights.svg)",
        "",
        *table(heads, rows),
    ]


def _theory_lines(content: Mapping[str, Any]) -> list[str]:
    statements = (
        [name, f"{found['checked']:,}", f"{found['violations']:,}", f"{found['smallest_margin']:.2e}"]
        for name, found in content["statements"].items()
    )
    learned = [
        [name, *(f"{one[key]:.2f}" for key in ("from_prediction", "from_information", "correlation"))]
        for name, one in content.get("optima", {}).items()
    ]
    heads = ["training with", "from the prediction", "from log p(d\\|q) / p(d)", "correlation with that"]
    about = [
        "What a free table of scores learns on distributions that are known: root mean square deviation, in nats, "
        "from the predicted optimum log p(d|q) / (n(d|q) w), and from what ranks right. Random negatives bias "
        "nothing, weights write themselves into the scores, and mined negatives hide what is relevant.",
        "",
        *table(heads, learned),
        "",
    ]
    information = content["mutual_information"]
    names = list(information[0]["estimates"])
    estimates = (
        [one["batch_size"], f"{one['known']:.2f}", *(f"{one['estimates'][name]['mean']:.2f}" for name in names)]
        for one in information
    )
    return [
        f"`{content['command']}`",
        "",
        *table(["statement", "checked", "violated", "smallest margin"], statements),
        "",
        *(about if learned else []),
        "`log N - loss` against a known mutual information, means in nats:",
        "",
        *table(["N", "known", *names], estimates),
    ]


def _step_lines(content: Mapping[str, Any]) -> list[str]:
    rows = (
        [f"{size['batch_size']:,}", name, f"{found['ms']:.2f}", _ratio(found)]
        for size in content["steps"]
        for name, found in size["losses"].items()
    )
    lines = [f"`{content['command']}`", "", *table(["batch", "loss", "median ms", "ratio to the host's loss"], rows)]
    for one in content["bm25"]:
        times = f"{one['ms']:.2f} ms; `rank_bm25` takes {_ratio(one)} times that."
        lines += ["", f"BM25 in a batch of {one['batch_size']:,}: {times}"]
    return lines


def _memory_lines(content: Mapping[str, Any]) -> list[str]:
    names = list(content["sizes"][0]["ratio_to_host"])
    ratios = ((size["batch_size"], size["ratio_to_host"]) for size in content["sizes"])
    rows = ([f"{size:,}", *(f"{found[n]:.3f}" if n in found else "" for n in names)] for size, found in ratios)
    head = f"`{content['command']}`: peak of a process that makes one step, as ratio to the host's."
    return [head, "", *table(["batch", *names], rows)]


def _cost_lines(content: Mapping[str, Any]) -> list[str]:
    mined, built = content["mining"], content["build"]
    rows = [
        [
            f"mining {mined['package']}, {mined['functions_per_second']:,.0f} functions a second",
            "parsing",
            _ratio(mined),
        ],
        [f"a table of {built['texts']:,} texts", "`model.encode`", _ratio(built)],
        ["its size on disk", "the vectors alone", f"{built['bytes_to_vectors']:.3f}"],
    ]
    rows += [
        [f"looking {one['batch']} of {one['keys']:,} keys up", "reading those rows", _ratio(one)]
        for one in content["look_up"]
    ]
    lines = [f"`{content['command']}`", "", *table(["what", "natural limit", "ratio (quartiles)"], rows)]
    if "peak_mib" in mined:
        one, two = mined["peak_mib"]
        lines += [
            "",
            f"With two processes, mining is {mined['one_process_to_two']:.2f} times as fast. Writing its pairs takes "
            f"{one:.0f} MiB at most, and {two:.0f} MiB for a folder of twice the size.",
        ]
    return lines


def corpora_table(counts: Mapping[str, Any]) -> list[str]:
    """Make the table of what each language's corpus holds."""
    heads = ["language", "train", "validation", "test", "documentation shared", "code shared", "removable"]
    rows = (
        [
            language,
            *(f"{entry['rows'][split]:,}" for split in ("train", "validation", "test")),
            *(f"{entry[share]:.1%}" for share in ("shared_documentation", "shared_code", "removable")),
        ]
        for language, entry in counts.items()
    )
    return table(heads, rows)


def _corpora_lines(content: Mapping[str, Any]) -> list[str]:
    command = f"`python -m evaluation corpora`, version {content['version']}."
    others = [
        f"{language}: {name} {other['version']} (SHA-256 {other['sha256']}), as the pinned version is not served."
        for language, entry in content["languages"].items()
        for name, other in entry.get("other_versions", {}).items()
    ]
    return [command, "", *corpora_table(content["languages"]), *(["", *others] if others else [])]


OTHERS = (
    ("Where training pushes", "push.json", _push_lines),
    ("Where training pushes, with mined negatives", "push_mined.json", _push_lines),
    ("The weights", "weights.json", _weights_lines),
    ("What of the theory holds", "theory.json", _theory_lines),
    ("Time of a step, MiniLM of three layers", "step_time.json", _step_lines),
    ("Time of a step, a tiny model", "step_time_sizes.json", _step_lines),
    ("Peak memory of a step", "memory.json", _memory_lines),
    ("Tables and mining", "costs.json", _cost_lines),
    ("The corpora", "corpora.json", _corpora_lines),
)


def replace_between_markers(path: Path, name: str, lines: Sequence[str]) -> None:
    """Replace what is between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->`` in a file.

    Args:
        path: The file.
        name: Of the markers.
        lines: The new content.

    Raises:
        UsageError: The file has not exactly one of each, in this order.
    """
    text = path.read_text()
    begin, end = (f"<!-- {name}:{which} -->" for which in ("begin", "end"))
    head, found, rest = text.partition(begin)
    _, also, tail = rest.partition(end)
    if not (found and also) or text.count(begin) + text.count(end) != 2:
        raise UsageError(f"{path} must have the markers {begin} and {end} once each, in this order.")
    path.write_text("\n".join([f"{head}{begin}", "", *lines, "", f"{end}{tail}"]))


def table(heads: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    """Make a Markdown table."""
    return [f"| {' | '.join(map(str, row))} |" for row in (heads, ["---"] * len(heads), *rows)]


def _title(entry: Mapping[str, Any]) -> str:
    share = "" if entry["share"] is None else f", {entry['share']:.0%} duplicates"
    return f"{entry['model']}, {entry['regime']}{share}"


def _label(entry: Mapping[str, Any]) -> str:
    return entry["row"] + (f" (against {entry['against']})" if entry["against"] != BASELINE else "")


def _languages(summary: Summary, entry: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """Find the languages that a row's mean is of, and those of all rows of its place."""
    here = [e for e in summary["entries"] if e["language"] != ALL and all(e[k] == entry[k] for k in _PLACE)]
    own = {e["language"] for e in here if e["row"] == entry["row"]}
    return own, {e["language"] for e in here}


def _points(entry: Mapping[str, Any], metric: str, which: str = "difference") -> str:
    if which not in entry:
        return ""
    mean, low, high = (100 * entry[which][metric][name] for name in ("mean", "low", "high"))
    text = f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def _ratio(found: Mapping[str, Any]) -> str:
    low, high = found["quartiles"]
    return f"{found['ratio']:.2f} ({low:.2f} - {high:.2f})"
