"""Corpora of (documentation, function) pairs in six languages, from packages of pinned versions, split by package.

    python -m evaluation corpora                                    # all languages, into output/corpora
    python -m evaluation corpora --languages python go --output DIR

`packages.toml` says which packages, with their checksums, and which of them are held out. Each is fetched by the
client of its registry (`pip`, `npm`, `apt-get`) unless it lies among the downloads already, and verified. The
result is a dataset with a configuration a language and the splits train, validation and test:
`datasets.load_dataset("output/corpora", "go")`. The same packages give the same bytes.

A language is skipped by name if its client is missing, or if a registry no longer serves a package's version;
`--accept-other-versions` takes the version that it serves, and the card and the counts tell which that was. Functions
with nearly the same code as a held-out function are left out of training; other duplicates stay, and share a
`duplicate_group`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from datasets import DatasetDict, disable_progress_bars

from evaluation import UsageError
from evaluation.corpus.load import SPLITS
from evaluation.corpus.packages import CLIENTS, Corpus, CorpusError, Package, fetch, read_corpora
from evaluation.environment import write_json
from evaluation.report.tables import corpora_table, table
from st_softinfonce.data import MiningReport, Source, mine_pairs, split_by_package

PACKAGES = Path(__file__).parent / "packages.toml"
SUMMARY = "summary.json"


def build(corpus: Corpus, files: Iterable[tuple[Package, Path]], report: MiningReport) -> DatasetDict:
    """Mine the files that `fetch` returns and split the pairs; the report is filled with the counts.

    Raises:
        CorpusError: A pattern fits no package.
    """
    sources = [Source(path, **package.source_options) for package, path in files]
    pairs = mine_pairs(sources, languages=[corpus.language], keep_duplicates=True, report=report)
    packages = set(pairs.unique("package"))
    for side in ("validation", "test"):
        for pattern in getattr(corpus, side):
            if not any(fnmatchcase(package, pattern) for package in packages):
                raise CorpusError(
                    f"{corpus.language}: {side} names {pattern!r}, which fits none of {sorted(packages)}."
                )
    sides = {side: [package for package in packages if corpus.side(package) == side] for side in SPLITS}
    return split_by_package(pairs, sides["test"], validation_packages=sides["validation"], drop_leaks=True)


def count(splits: DatasetDict, dropped: dict[str, int]) -> dict[str, Any]:
    """Count what a corpus holds.

    Args:
        splits: The three splits.
        dropped: Functions that mining dropped, by rule.

    Returns:
        Rows a split and, over all splits, the shares of rows that share their documentation, and that share nearly
        their code, with another row, and of rows that would go if each group of near-duplicates kept one.
    """
    rows = {name: split.with_format(None) for name, split in splits.items()}
    queries, groups = (
        Counter(value for split in rows.values() for value in split[name]) for name in ("query", "duplicate_group")
    )
    total = groups.total()
    return {
        "rows": {name: len(split) for name, split in rows.items()},
        "packages": {name: len(set(split["package"])) for name, split in rows.items()},
        "pairs": total,
        "shared_documentation": round(sum(count for count in queries.values() if count > 1) / total, 4),
        "shared_code": round(sum(count for count in groups.values() if count > 1) / total, 4),
        "removable": round((total - len(groups)) / total, 4),
        "dropped": {rule: count for rule, count in dropped.items() if count},
    }


def _write(splits: DatasetDict, folder: Path) -> None:
    """Write a language's Parquet files, whole or not at all, in the place of earlier ones."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        for name, split in splits.items():
            split.to_parquet(str(new / f"{name}-00000.parquet"))
        if folder.exists():
            folder.rename(Path(temporary) / "old")
        new.rename(folder)


def card(version: str, corpora: dict[str, Corpus], counts: dict[str, Any]) -> str:
    """Write the dataset's card: Markdown with a YAML header that `datasets.load_dataset` reads.

    Args:
        version: Of the description.
        corpora: The corpora by language.
        counts: By language; only these are in the dataset.
    """
    lines = ["---", "configs:"]
    for language in counts:
        lines += [f"- config_name: {language}", "  data_files:"]
        for split in SPLITS:
            lines += [f"  - split: {split}", f"    path: {language}/{split}-*.parquet"]
    lines += ["task_categories:", "- text-retrieval", "tags:", "- code", "---", ""]
    lines += [f"# Code search corpora {version}", ""]
    lines += ["Documentation and functions of open-source packages, split by package.", ""]
    lines += [*corpora_table(counts), ""]
    rows = []
    for language, entry in counts.items():
        for package in corpora[language].packages:
            used = asdict(package) | entry.get("other_versions", {}).get(package.name, {})
            pinned = "" if used["version"] == package.version else f" in the place of {package.version}"
            side = "by folder" if package.by_folder else corpora[language].side(package.name)
            row = language, side, package.name, used["version"] + pinned, package.license, used["sha256"]
            rows.append(row)
    return "\n".join([*lines, *table(["language", "split", "package", "version", "licence", "SHA-256"], rows), ""])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--packages", type=Path, default=PACKAGES, help="the description (default: packages.toml)")
    parser.add_argument("--languages", nargs="+", help="default: all of the description")
    parser.add_argument("--output", type=Path, default=Path("output/corpora"), help="default: %(default)s")
    parser.add_argument("--downloads", type=Path, default=Path("output/downloads"), help="default: %(default)s")
    parser.add_argument("--other-queries", action="store_true", help="only the sets of queries of other kinds")
    parser.add_argument(
        "--accept-other-versions",
        action="store_true",
        help="where a registry no longer serves a pinned version, take the one that it serves, and record it",
    )
    parser.add_argument("--counts", type=Path, metavar="FILE", help="write the counts there too, as JSON")


def run(given: argparse.Namespace) -> int:
    """Build the corpora, each language as soon as it can be used."""
    if not sys.stderr.isatty():
        disable_progress_bars()
    if given.other_queries:
        from evaluation.corpus.other_queries import build_other_queries

        for name, pairs in build_other_queries(given.downloads, given.output).items():
            print(f"{name}: {pairs:,} pairs")
        return 0
    version, corpora = read_corpora(given.packages)
    unknown = sorted(set(given.languages or ()) - set(corpora))
    if unknown:
        raise UsageError(f"--languages must be among {[*corpora]}, got {unknown}.")
    counts: dict[str, Any] = {}
    if (given.output / SUMMARY).exists():
        known = json.loads((given.output / SUMMARY).read_text())
        if known["version"] != version:
            raise UsageError(
                f"--output {given.output} holds version {known['version']}, this is {version}: give another."
            )
        counts = known["languages"]
    for language in given.languages or corpora:
        corpus, report = corpora[language], MiningReport()
        print(f"{language}: {len(corpus.packages)} packages", flush=True)
        try:
            program = CLIENTS[corpus.client].program
            if program != "pip" and shutil.which(program) is None:
                raise CorpusError(f"{program} is not installed here")
            files = fetch(corpus, given.downloads / language, given.accept_other_versions)
            splits = build(corpus, files, report)
        except CorpusError as error:
            print(f"    {language} is skipped: {error}", flush=True)
            continue
        _write(splits, given.output / language)
        counts[language] = count(splits, report.functions_dropped)
        others = {package.name: package for package, _ in files if package not in corpus.packages}
        if others:
            counts[language]["other_versions"] = {
                name: {"version": package.version, "sha256": package.sha256} for name, package in others.items()
            }
        counts = {name: counts[name] for name in corpora if name in counts}
        write_json(given.output / SUMMARY, {"version": version, "languages": counts})
        (given.output / "README.md").write_text(card(version, corpora, counts), encoding="utf-8")
    if given.counts is not None:
        write_json(given.counts, {"version": version, "languages": counts})
    print(*corpora_table(counts), sep="\n")
    return 0
