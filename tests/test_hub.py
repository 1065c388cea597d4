"""Models, trained with our losses, pushed by the real client to a hub on loopback and loaded back without us."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import DOCUMENTS, QUERIES, make_transformer_model, make_word_tokenizer, training_arguments, write_package
from datasets import Dataset
from hub_server import Hub
from huggingface_hub import ModelCard
from mteb.results import ModelResult, TaskResult
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from st_softinfonce import SoftInfoNCELoss
from st_softinfonce.model_card import METRICS, add_mteb_results

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning"),  # the client
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning"),
]

EXAMPLE = Path(__file__).parent.parent / "examples" / "push_to_hub.py"
TOKEN = "token-of-the-test"
# In a process of its own: without this package, and with the settings that a user has from the environment.
LOAD = """
import json, sys
sys.modules["st_softinfonce"] = None  # an import of it fails
from sentence_transformers import SentenceTransformer
print(json.dumps(SentenceTransformer("user/model", device="cpu").encode(json.loads(sys.stdin.read())).tolist()))
"""


@pytest.fixture(scope="module")
def pushed(tmp_path_factory, bert_folder):
    """The hub after everything was pushed, the embeddings of the models that were, and the folder of all files."""
    folder = tmp_path_factory.mktemp("hub")
    static = SentenceTransformer(modules=[StaticEmbedding(make_word_tokenizer(), embedding_dim=16)], device="cpu")
    static.save_pretrained(str(folder / "static"))
    for package in ("one", "two"):
        write_package(folder / "src", package)
    with pytest.MonkeyPatch.context() as patch, Hub(TOKEN, patch, folder / "cache") as hub:
        patch.chdir(folder)
        model = make_transformer_model(bert_folder)
        trainer = SentenceTransformerTrainer(
            model=model,
            args=training_arguments("by-hand", max_steps=2),
            train_dataset=Dataset.from_dict({"query": QUERIES, "code": DOCUMENTS}),
            loss=SoftInfoNCELoss(model),
        )
        trainer.train()
        model.push_to_hub("user/model")
        arguments = "push_to_hub.py src --test-packages two --repository user/example --private --model static"
        patch.setattr(sys, "argv", [*arguments.split(), "--steps", "2", "--batch-size", "8"])
        runpy.run_path(str(EXAMPLE), run_name="__main__")
        yield hub, model.encode(QUERIES), folder


def test_a_pushed_model_gives_the_same_embeddings_without_this_package(pushed):
    hub, embeddings, folder = pushed
    variables = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    variables |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    options = {"cwd": folder, "env": variables, "input": json.dumps(QUERIES), "timeout": 280}
    finished = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, **options)
    assert finished.returncode == 0, finished.stderr[-5000:]
    loaded = np.array(json.loads(finished.stdout.splitlines()[-1]), dtype=np.float32)
    assert np.abs(embeddings).max() > 0
    np.testing.assert_array_equal(loaded, embeddings)  # the same weights on the same machine: bit for bit


def test_the_pushed_card_names_the_loss_and_the_model(pushed):
    for text in ("st_softinfonce.losses.soft_info_nce.SoftInfoNCELoss", '"estimator": "bm25"', '("user/model")'):
        assert text in pushed[0].files["user/model"]["README.md"].decode()


def test_the_example_pushes_its_results_before_and_after_and_keeps_the_model_private(pushed):
    card = pushed[0].files["user/example"]["README.md"].decode()
    results = ModelCard(card).data.eval_results
    assert {result.metric_type for result in results} == {
        metric + moment for metric in METRICS for moment in ("", "_before_fine_tuning")
    }
    assert {result.dataset_name.split()[0] for result in results} == {"two"}
    assert all(result.task_type and result.dataset_type and 0 <= result.metric_value <= 1 for result in results)
    assert "(docstring, code) pairs of src" in card
    assert pushed[0].private == {"user/example"}


def test_the_token_is_in_no_file(pushed):
    contents = [content for files in pushed[0].files.values() for content in files.values()]
    contents += [path.read_bytes() for path in pushed[2].rglob("*") if path.is_file()]
    assert any(b"SoftInfoNCELoss" in content for content in contents)
    assert not any(TOKEN.encode() in content for content in contents)


def test_a_pushed_card_is_kept_unless_it_is_to_be_replaced(monkeypatch, static_model, tmp_path):
    with Hub(TOKEN, monkeypatch, tmp_path / "cache") as hub:
        static_model.push_to_hub("user/model")
        scores = {"hf_subset": "default", "languages": ["python"], "main_score": 0.5, "mrr_at_1000": 0.5}
        fields = {"task_name": "Mine", "dataset_revision": "1", "mteb_version": "2", "evaluation_time": 1.0}
        result = TaskResult(scores={"test": [scores]}, **fields)
        add_mteb_results(static_model, ModelResult(model_name="m", model_revision="1", task_results=[result]))
        for options in ({}, {"replace_model_card": True}):
            static_model.push_to_hub("user/model", exist_ok=True, **options)
            assert (b"mrr_at_1000" in hub.files["user/model"]["README.md"]) == bool(options)
