"""The examples run as a user would start them, in a reduced form."""

import runpy
import sys
from pathlib import Path

import pytest
from conftest import DOCUMENTS, QUERIES, make_transformer_model
from sentence_transformers import SentenceTransformer

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def source(tmp_path):
    for package in ("one", "two"):
        folder = tmp_path / "src" / package
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
        functions = [
            f'def f{number}(value):\n    """{query}"""\n    read = "{document} {package}"\n    return read\n'
            for number, (query, document) in enumerate(zip(QUERIES, DOCUMENTS, strict=True))
        ]
        (folder / "code.py").write_text("\n".join(functions))
    return tmp_path / "src"


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")
@pytest.mark.filterwarnings("ignore:The table of the estimator:UserWarning")  # the tiny vocabulary knows few words
def test_two_stage(bert_folder, source, tmp_path, monkeypatch, capsys):
    make_transformer_model(bert_folder).save_pretrained(str(tmp_path / "base"))
    options = ["--test-packages", "two", "--model", "base", "--steps", "3", "--batch-size", "8", "--output", "out"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["two_stage.py", str(source), *options])
    runpy.run_path(str(EXAMPLES / "two_stage.py"), run_name="__main__")
    assert "SentenceTransformer('out/student')" in capsys.readouterr().out
    card = (tmp_path / "out" / "student" / "README.md").read_text()
    assert '"estimator": "trained-model"' in card
    assert '"teacher": "teacher"' in card
    assert SentenceTransformer(str(tmp_path / "out" / "student"), device="cpu").encode(["read"]).shape == (1, 16)
    assert list((tmp_path / "out" / "table").glob("part-*"))
