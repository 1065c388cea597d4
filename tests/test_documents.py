"""Every Python block of the README and of docs/ runs, in the order of its page."""

import re
from pathlib import Path

import mteb
import pytest
import torch
from conftest import DOCUMENTS, QUERIES, make_transformer_model
from datasets import Dataset
from sentence_transformers import SentenceTransformer

import st_softinfonce

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#]+)")

pytestmark = [
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning"),
    pytest.mark.filterwarnings("ignore::st_softinfonce.functional.SmallBatchWarning"),
]


@pytest.fixture
def names(bert_folder, tmp_path, monkeypatch):
    """What a page may take for granted: pairs, a split, a model, a teacher; and a hub that has the base model."""
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    for package in ("mypackage", "other"):
        (tmp_path / "src" / package).mkdir(parents=True)
        functions = [
            f'def f{number}(value):\n    """{QUERIES[number % 8].capitalize()} number {number}."""\n'
            f'    read = "{DOCUMENTS[number % 8]} {package}"\n    return read\n'
            for number in range(40)
        ]
        (tmp_path / "src" / package / "code.py").write_text("\n".join(functions))
    pairs = Dataset.from_dict(
        {
            "query": [f"{QUERIES[n % 8]} number {n}" for n in range(64)],
            "code": [f"{DOCUMENTS[n % 8]} {n}" for n in range(64)],
            "language": ["python"] * 64,
            "package": [f"package{n % 16}" for n in range(64)],
        }
    )
    model = make_transformer_model(bert_folder)
    base = str(tmp_path / "base")
    model.save_pretrained(base)
    original = SentenceTransformer.__init__

    def load(self, name=None, *args, **options):
        original(self, base if isinstance(name, str) and not Path(name).exists() else name, *args, **options)

    monkeypatch.setattr(SentenceTransformer, "__init__", load)
    monkeypatch.setattr(SentenceTransformer, "push_to_hub", lambda *_, **__: None)
    made = {name: getattr(st_softinfonce, name) for name in st_softinfonce.__all__}
    split = {"train": pairs, "test": pairs}
    task = st_softinfonce.tasks.task_from_pairs(pairs, name="Given") if hasattr(st_softinfonce, "tasks") else None
    return made | {
        "pairs": pairs,
        "split": split,
        "model": model,
        "teacher": make_transformer_model(bert_folder),
        "SentenceTransformer": SentenceTransformer,
        "mteb": mteb,
        "task": task,
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_runs(page, names):
    blocks = BLOCK.findall(page.read_text())
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)
    assert blocks or page.name == "data.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_repository_leads_somewhere(page):
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target
