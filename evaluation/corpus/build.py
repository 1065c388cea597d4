"""Corpora of (documentation, function) pairs in six languages, from packages of pinned versions, split by package.

    python -m evaluation corpora                                    # all languages, into output/corpora
    python -m evaluation corpora --languages python go --output DIR

`packages.toml` says which packages, with their checksums, and which of them are held out. Each is fetched by the
client of its registry (`pip`, `npm`, `apt-get`) unless it lies among the downloads already, and verified. The
result is a dataset with a configuration a language and the splits train, validation and test:
`datasets.load_dataset("output/corpora", "go")`. The same packages give the same bytes.

A language whose client is missing is skipped by name. Functions with nearly the same code as a held-out function are
left out of training; other duplicates stay, and share a `duplicate_group`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, disable_progress_bars

from evaluation import UsageError
from evaluation.corpus.load import SPLITS
from evaluation.environment import write_json
from st_softinfonce.data import MiningReport, Source, mine_pairs, split_by_package

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGES = Path(__file__).parent / "packages.toml"
SUMMARY = "summary.json"
CLIENTS = {"pip": "pip", "npm": "npm", "apt": "apt-get"}

# The same wheels on every machine: only their Python files are read.
WHEELS = ["--only-binary=:all:", "--python-version=3.11"]
WHEELS += [
    f"--platform={name}_x86_64" for name in ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux2014")
]


class CorpusError(UsageError):
    """A language cannot be built; the text says why and what to do."""


@dataclass(frozen=True)
class Package:
    """One package of `packages.toml`.

    Attributes:
        name: Its name in the registry.
        version: Its version there.
        license: SPDX expression.
        sha256: Of the file that the registry serves.
        by_folder: Whether each folder at the top of its sources is a package of its own, as modules of the JDK are.
    """

    name: str
    version: str
    license: str
    sha256: str
    by_folder: bool = False

    @property
    def source_options(self) -> dict[str, Any]:
        """What mining should record of its code."""
        package = (lambda path: path.split("/")[0]) if self.by_folder else self.name
        return {"package": package, "version": self.version, "license": self.license}


@dataclass(frozen=True)
class Corpus:
    """One language of `packages.toml`.

    Attributes:
        language: The language.
        client: The registry's client: a key of `CLIENTS`.
        packages: What to mine.
        validation: Patterns of the names of packages to validate on.
        test: Patterns of the names of packages to test on.
        survey: Counts and shares of an earlier survey of about the same packages, to compare with.
    """

    language: str
    client: str
    packages: tuple[Package, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    survey: dict[str, float]

    def side(self, package: str) -> str:
        """Find the split that a package belongs to."""
        for side in ("test", "validation"):
            if any(fnmatchcase(package, pattern) for pattern in getattr(self, side)):
                return side
        return "train"


def read_corpora(path: Path) -> tuple[str, dict[str, Corpus]]:
    """Read the version and the languages of a description such as `packages.toml`.

    Raises:
        CorpusError: A client is unknown.
    """
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    corpora = {}
    for language, entry in content["languages"].items():
        if entry["client"] not in CLIENTS:
            raise CorpusError(
                f"{path.name}: client of {language} must be one of {[*CLIENTS]}, got {entry['client']!r}."
            )
        packages = tuple(Package(**package) for package in entry["packages"])
        sides = tuple(entry["validation"]), tuple(entry["test"])
        corpora[language] = Corpus(language, entry["client"], packages, *sides, entry.get("survey", {}))
    return content["version"], corpora


def fetch(corpus: Corpus, downloads: Path) -> list[tuple[Package, Path]]:
    """Fetch the files of a corpus that are not among the downloads yet, and verify all.

    Raises:
        CorpusError: A package is not served, or is another than it was.
    """
    downloads.mkdir(parents=True, exist_ok=True)
    here = {_sha256(path): path for path in sorted(downloads.iterdir()) if path.is_file()}
    files = []
    for package in corpus.packages:
        if package.sha256 not in here:
            print(f"    fetching {package.name} {package.version}", flush=True)
            path = _download(corpus.client, package, downloads)
            digest = _sha256(path)
            if digest != package.sha256:
                path.unlink()
                raise CorpusError(
                    f"{package.name} {package.version} has the checksum {digest}, expected {package.sha256}: what the "
                    "registry serves has changed. Enter the new checksum if you trust it, and raise the version."
                )
            here[digest] = path
        files.append((package, here[package.sha256]))
    return files


def _download(client: str, package: Package, downloads: Path) -> Path:
    command = {
        "pip": [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *WHEELS],
        "npm": ["npm", "pack", "--silent"],
        "apt": ["apt-get", "download", "--quiet"],
    }[client]
    wanted = {"pip": "{}=={}", "npm": "{}@{}", "apt": "{}={}"}[client].format(package.name, package.version)
    # In a folder of its own, so that whatever the client calls the file, it is the one that is new.
    with tempfile.TemporaryDirectory(dir=downloads) as folder:
        result = subprocess.run([*command, wanted], cwd=folder, capture_output=True, text=True, check=False)
        found = sorted(Path(folder).iterdir())
        if result.returncode or len(found) != 1:
            last = (result.stderr.strip() or "no file").splitlines()[-1]
            raise CorpusError(
                f"{client} does not give {wanted} ({last}): is the registry reached, and its list up to "
                "date? If it no longer has that version, enter one that it has."
            )
        return Path(shutil.move(found[0], downloads / found[0].name))


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
    queries, groups = (
        Counter(value for split in splits.values() for value in _column(split, name))
        for name in ("query", "duplicate_group")
    )
    total = groups.total()
    return {
        "rows": {name: len(split) for name, split in splits.items()},
        "packages": {name: len(set(_column(split, "package"))) for name, split in splits.items()},
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
    lines += [
        "task_categories:",
        "- text-retrieval",
        "tags:",
        "- code",
        "---",
        "",
        f"# Code search corpora {version}",
        "",
    ]
    lines += ["Documentation and functions of open-source packages, split by package.", ""]
    lines += [*table(counts, corpora), ""]
    lines += ["| language | split | package | version | licence |", "| --- | --- | --- | --- | --- |"]
    for language in counts:
        for package in corpora[language].packages:
            side = "by folder" if package.by_folder else corpora[language].side(package.name)
            lines.append(f"| {language} | {side} | {package.name} | {package.version} | {package.license} |")
    return "\n".join([*lines, ""])


def table(counts: dict[str, Any], corpora: dict[str, Corpus]) -> Iterator[str]:
    """Yield the lines of a Markdown table of the counts, each beside the survey's."""
    yield "| language | train | validation | test | pairs (survey) | documentation shared | code shared | removable |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for language, entry in counts.items():
        survey = corpora[language].survey
        rows = " | ".join(f"{entry['rows'][split]:,}" for split in SPLITS)
        pairs = f"{entry['pairs']:,} ({survey['pairs']:,})" if survey else f"{entry['pairs']:,}"
        shares = " | ".join(
            f"{entry[name]:.1%} ({survey[name]:.1%})" if survey else f"{entry[name]:.1%}"
            for name in ("shared_documentation", "shared_code", "removable")
        )
        yield f"| {language} | {rows} | {pairs} | {shares} |"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--packages", type=Path, default=PACKAGES, help="the description (default: packages.toml)")
    parser.add_argument("--languages", nargs="+", help="default: all of the description")
    parser.add_argument("--output", type=Path, default=Path("output/corpora"), help="default: %(default)s")
    parser.add_argument("--downloads", type=Path, default=Path("output/downloads"), help="default: %(default)s")
    parser.add_argument("--other-queries", action="store_true", help="only the sets of queries of other kinds")
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
            if corpus.client != "pip" and shutil.which(CLIENTS[corpus.client]) is None:
                raise CorpusError(f"{CLIENTS[corpus.client]} is not installed here")
            splits = build(corpus, fetch(corpus, given.downloads / language), report)
        except CorpusError as error:
            print(f"    {language} is skipped: {error}", flush=True)
            continue
        _write(splits, given.output / language)
        counts[language] = count(splits, report.functions_dropped)
        counts = {name: counts[name] for name in corpora if name in counts}
        write_json(given.output / SUMMARY, {"version": version, "languages": counts})
        (given.output / "README.md").write_text(card(version, corpora, counts), encoding="utf-8")
    if given.counts is not None:
        write_json(given.counts, {"version": version, "languages": counts})
    print(*table(counts, corpora), sep="\n")
    return 0


def _column(split: Dataset, name: str) -> list[Any]:
    return list(split.with_format(None)[name])


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
