"""The example plugin as its user has it: installed into a clean folder, found by name, trained with."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "custom_estimator"
TRAIN = """
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers
from st_softinfonce import SoftInfoNCELoss, list_estimators

words = "read write sort a the file list".split()
tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
torch.manual_seed(0)
model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")
pairs = {"query": ["read a file", "read the file", "write a list", "sort the list"],
         "code": ["read file", "file read", "write list", "list sort"]}
before = model[0].embedding.weight.detach().clone()
loss = SoftInfoNCELoss(model, estimator="shared-words")
features = [model.preprocess(column) for column in pairs.values()]
weighted = loss([dict(column) for column in features]).item()
plain = SoftInfoNCELoss(model, None)([dict(column) for column in features]).item()
SentenceTransformerTrainer(
    model=model,
    args=SentenceTransformerTrainingArguments("out", max_steps=2, per_device_train_batch_size=4, learning_rate=0.1,
                                              save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True),
    train_dataset=Dataset.from_dict(pairs),
    loss=loss,
).train()
info = list_estimators()["shared-words"]
print("RESULT", info.distribution, info.version, info.target, loss.get_config_dict()["estimator"], weighted != plain,
      not torch.equal(before, model[0].embedding.weight))
"""


def test_the_module_stays_short():
    assert len((EXAMPLE / "my_estimator.py").read_text().splitlines()) < 40


@pytest.mark.slow
def test_the_example_installs_and_trains_by_name(tmp_path):
    source = shutil.copytree(EXAMPLE, tmp_path / "source")  # building leaves files behind
    installed = tmp_path / "installed"
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", str(installed), str(source)],
        check=True,
        capture_output=True,
    )
    finished = subprocess.run(
        [sys.executable, "-c", TRAIN],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    (result,) = (line for line in finished.stdout.splitlines() if line.startswith("RESULT"))
    assert result == "RESULT my-estimator 0.1.0 my_estimator:SharedWords shared-words True True"
