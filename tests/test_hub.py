"""Models, trained with our losses, pushed by the real client to a hub on loopback and loaded back without us."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import hub_worker as worker
import numpy as np
import pytest
from conftest import DOCUMENTS, QUERIES, make_transformer_model, make_word_tokenizer
from hub_server import Hub, check_card, connect
from huggingface_hub import ModelCard
from mteb.results import ModelResult, TaskResult
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from st_softinfonce.model_card import METRICS, add_mteb_results

pytestmark = pytest.mark.slow

TOKEN = "token-of-the-test"
PUSHED = ("user/model", "user/private", "user/end", "user/every-save", "user/without-large-files")


def run(hub, folder, mode, **environment):
    """Run the worker against the hub; its output."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    variables |= {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(folder / f"home-{mode}"),
        # git LFS: with hf_xet installed the client takes another protocol for large files, whatever the hub answers.
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parent.parent),
        **environment,
    }
    finished = subprocess.run(
        [sys.executable, worker.__file__, mode, str(folder)],
        cwd=folder,
        env=variables,
        input=TOKEN,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert finished.returncode == 0, finished.stderr[-5000:]
    return finished.stdout + finished.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory, bert_folder):
    folder = tmp_path_factory.mktemp("hub")
    make_transformer_model(bert_folder).save_pretrained(str(folder / "bert"))
    static = StaticEmbedding(make_word_tokenizer(), embedding_dim=16)
    SentenceTransformer(modules=[static], device="cpu").save_pretrained(str(folder / "static"))
    for package in ("one", "two"):
        (folder / "src" / package).mkdir(parents=True)
        functions = [
            f'def f{number}(value):\n    """{query.title()} of {package}."""\n    read = "{document} {package}"\n'
            "    return read\n"
            for number, (query, document) in enumerate(zip(QUERIES, DOCUMENTS, strict=True))
        ]
        (folder / "src" / package / "__init__.py").write_text("\n".join(functions))
    return folder


@pytest.fixture(scope="module")
def session(folder):
    """The hub after everything was pushed and loaded, and what the two processes printed."""
    with Hub(TOKEN) as hub:
        hub.create("model", "user/without-large-files", attributes="")
        return hub, run(hub, folder, "push", HF_TOKEN=TOKEN) + run(hub, folder, "load")


def card_of(session, name):
    content = session[0].repositories["model", name].files["README.md"].decode()
    assert check_card(content) == []
    return content


@pytest.mark.parametrize("name", PUSHED)
def test_a_pushed_model_gives_the_same_embeddings_without_this_package(session, folder, name):
    pushed, loaded = np.load(folder / "pushed.npz")[name], np.load(folder / "loaded.npz")[name]
    assert np.abs(pushed).max() > 0
    # The same weights on the same machine: bit for bit.
    np.testing.assert_array_equal(loaded, pushed)


def test_large_files_went_through_lfs_where_the_repository_has_them(session):
    hub = session[0]
    for name in PUSHED:
        repository = hub.repositories["model", name]
        stored = repository.files["model.safetensors"] in hub.objects.values()
        assert stored or name == "user/without-large-files"
        batches = [path for _, path, _ in hub.requests if path == f"/{name}.git/info/lfs/objects/batch"]
        assert bool(batches) == (name != "user/without-large-files")


def test_the_trainer_pushes_what_it_saves(session):
    hub = session[0]
    assert hub.repositories["model", "user/end"].messages == ["initial commit", "Model save"]
    messages = hub.repositories["model", "user/every-save"].messages
    assert len(messages) > 1
    assert all(message.startswith("Training in progress, step ") for message in messages[1:])


@pytest.mark.parametrize("name", PUSHED)
def test_the_pushed_card_names_the_loss_the_estimator_the_data_and_the_paper(session, name):
    card = card_of(session, name)
    for text in (
        "st_softinfonce.losses.soft_info_nce.SoftInfoNCELoss",
        '"estimator": "bm25"',
        f'"estimator_version": "st-softinfonce {version("st-softinfonce")}"',
        '"alpha": 1.5',
        '"beta": 0.5',
        '"weight_temperature": 1.0',
        "* Size: 6 training samples",
        "Rethinking Negative Pairs in Code Search",
        f'SentenceTransformer("{name}")',
    ):
        assert text in card


def test_the_pushed_example_has_its_results_before_and_after_in_the_metadata(session, folder):
    results = ModelCard(card_of(session, "user/example")).data.eval_results
    assert {result.metric_type for result in results} == {
        metric + moment for metric in METRICS for moment in ("", "_before_fine_tuning")
    }
    assert {result.dataset_name.split()[0] for result in results} == {"two"}
    assert all(0 <= result.metric_value <= 1 for result in results)
    assert "(docstring, code) pairs of src" in card_of(session, "user/example")
    assert np.load(folder / "loaded.npz")["user/example"].shape == (len(worker.QUERIES), 16)


def test_mined_pairs_come_back_as_they_were_pushed(session, folder):
    pairs = json.loads((folder / "pairs.json").read_text())
    assert pairs == {"query": worker.QUERIES, "code": worker.DOCUMENTS}


def test_what_cannot_be_read_or_written_is_the_clients_own_error(session, folder):
    errors = json.loads((folder / "load-errors.json").read_text())
    for name in ("private", "nonexistent"):
        assert errors[name].startswith("RepositoryNotFoundError: 401"), errors[name]
        assert f"user/{name}" in errors[name]
    assert "409 Conflict" in json.loads((folder / "push-errors.json").read_text())["exists"]


def test_the_token_is_nowhere(session, folder):
    hub, printed = session
    assert "model.safetensors" in printed  # the progress bars of the client: something was captured
    contents = [
        content
        for repository in hub.repositories.values()
        for files in repository.commits.values()
        for content in files.values()
    ]
    contents += [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert any(b"SoftInfoNCELoss" in content for content in contents)
    assert TOKEN not in printed
    assert not any(TOKEN.encode() in content for content in contents)


@pytest.mark.filterwarnings(
    "ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning"
)  # the client's own use
def test_a_pushed_card_is_kept_unless_it_is_to_be_replaced(monkeypatch, static_model, tmp_path):
    with Hub(TOKEN) as hub:
        connect(monkeypatch, hub, tmp_path / "cache")
        static_model.push_to_hub("user/model")
        results = ModelResult(model_name="m", model_revision="1", task_results=[])
        scores = {"hf_subset": "default", "languages": ["python"], "main_score": 0.5, "mrr_at_1000": 0.5}
        results.task_results.append(
            TaskResult(
                task_name="Mine",
                dataset_revision="1",
                mteb_version="2",
                evaluation_time=1.0,
                scores={"test": [scores]},
            )
        )
        add_mteb_results(static_model, results)
        static_model.push_to_hub("user/model", exist_ok=True)
        repository = hub.repositories["model", "user/model"]
        assert b"mrr_at_1000" not in repository.files["README.md"]
        static_model.push_to_hub("user/model", exist_ok=True, replace_model_card=True)
        assert b"mrr_at_1000" in repository.files["README.md"]
        loaded = SentenceTransformer("user/model", device="cpu")
    assert "model.safetensors" in {path.name for path in (tmp_path / "cache").rglob("*")}
    np.testing.assert_array_equal(loaded.encode(QUERIES), static_model.encode(QUERIES))


def test_the_server_knew_every_request_of_the_client(session):
    assert session[0].unknown == []


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            "model-index:\n- name: a\n  results:\n  - task: {type: sts}\n    dataset: {name: b}\n    metrics: []",
            "type",
        ),
        (
            "model-index:\n- name: a\n  results:\n  - task: {type: retrieval}\n    dataset: {name: b, type: b}\n"
            "    metrics:\n    - {type: mrr, value: }",
            "must have a value",
        ),
        ("metrics:\n- 1", "array of strings"),
        ("a: [", "no YAML"),
    ],
    ids=["no-type", "no-value", "no-text", "no-yaml"],
)
def test_the_server_refuses_a_card_with_unusable_metadata(metadata, message):
    assert any(message in error for error in check_card(f"---\n{metadata}\n---\n"))
