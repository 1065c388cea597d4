"""The paper's models and the script that trains them, on tiny random weights."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from code_search_net_trees import write_prepared
from conftest import DOCUMENTS, QUERIES, write_package
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tiny_models import byte_pairs, save_roberta
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

from st_softinfonce import SoftInfoNCELoss, TextColumn

EXAMPLE = Path(__file__).parent.parent / "examples" / "backbones"
LINES = [*QUERIES, *DOCUMENTS]
DIMENSION = 16
MODE = "<encoder-only>"

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")


@pytest.fixture(autouse=True)
def scripts_folder(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    return save_roberta(tmp_path_factory.mktemp("roberta"), LINES)


@pytest.fixture(scope="module")
def unixcoder_folder(tmp_path_factory):
    return save_roberta(tmp_path_factory.mktemp("unixcoder"), LINES, [MODE], dropout=0.1)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """A Qwen3-Embedding: the last token's vector, normalised; a prompt for queries."""
    folder = tmp_path_factory.mktemp("qwen")
    vocabulary, merges = byte_pairs(LINES, ["<|endoftext|>"])
    Qwen2Tokenizer(vocab=vocabulary, merges=merges, model_max_length=512).save_pretrained(folder / "raw")
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(vocabulary),
        hidden_size=DIMENSION,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=32,
        max_position_embeddings=512,
    )
    Qwen3Model(config).save_pretrained(folder / "raw")
    transformer = Transformer(str(folder / "raw"), processor_kwargs={"padding_side": "left"})
    model = SentenceTransformer(
        modules=[transformer, Pooling(DIMENSION, pooling_mode="lasttoken"), Normalize()],
        prompts={"query": "Instruct: search\nQuery:", "document": ""},
        device="cpu",
    )
    model.save_pretrained(str(folder / "model"))
    return str(folder / "model")


def build(name, folder, language="python"):
    from backbones import BACKBONES

    return BACKBONES[name].build(folder, language)


def test_unixcoder_reads_its_mode_first_and_bm25_does_not_count_it(unixcoder_folder, tmp_path):
    model = build("unixcoder", unixcoder_folder)
    model.save_pretrained(str(tmp_path))
    for loaded in (model, SentenceTransformer(str(tmp_path), device="cpu")):
        for task in ("query", "document"):
            features = loaded.preprocess(["read a file", "sort"], prompt=loaded.prompts[task], task=task)
            tokens = [loaded.tokenizer.convert_ids_to_tokens(row) for row in features["input_ids"]]
            assert tokens[0][:4] == ["<s>", MODE, "</s>", "read"]
            assert tokens[0][-1] == "</s>"
            column = TextColumn(features, loaded.tokenizer)
            assert column.texts == ["read a file", "sort"]
            mode = loaded.tokenizer.convert_tokens_to_ids(MODE)
            assert not (column.content_ids == mode).any()
            # also where the host does not say how long the prompt is
            features.pop("prompt_length")
            assert TextColumn(features, loaded.tokenizer).texts == ["read a file", "sort"]


def test_unixcoder_takes_the_mean_over_all_of_its_tokens(unixcoder_folder):
    model = build("unixcoder", unixcoder_folder)
    features = model.preprocess(["read a file", "sort"], prompt=model.prompts["query"], task="query")
    with torch.no_grad():
        states = model[0].model(features["input_ids"], attention_mask=features["attention_mask"]).last_hidden_state
    expected = [row[mask.bool()].mean(dim=0) for row, mask in zip(states, features["attention_mask"], strict=True)]
    found = model.encode_query(["read a file", "sort"], convert_to_tensor=True)
    torch.testing.assert_close(found.cpu(), torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_unixcoder_needs_its_mode_in_the_vocabulary(roberta):
    with pytest.raises(SystemExit, match=f"has no token {MODE}"):
        build("unixcoder", roberta)


@pytest.mark.parametrize("name", ["codebert", "graphcodebert"])
def test_the_vector_is_that_of_the_pooler(name, roberta):
    model = build(name, roberta)
    ids = model.tokenizer(["read a file"], return_tensors="pt")
    with torch.no_grad():
        expected = model[0].model(**ids).pooler_output
    torch.testing.assert_close(model.encode_query(["read a file"], convert_to_tensor=True).cpu(), expected)


@pytest.mark.parametrize("name", ["codebert", "graphcodebert", "unixcoder", "modern"])
def test_queries_have_128_tokens_and_code_256(name, roberta, unixcoder_folder, qwen):
    folder = {"unixcoder": unixcoder_folder, "modern": qwen}.get(name, roberta)
    model = build(name, folder)
    for task, length in (("query", 128), ("document", 256)):
        prompt = model.prompts.get(task)
        assert model.preprocess(["read " * 1000], prompt=prompt, task=task)["input_ids"].shape == (1, length)


@pytest.fixture
def source(tmp_path):
    for package in ("one", "two"):
        write_package(tmp_path / "src", package)
    return tmp_path / "src"


def run_script(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
    runpy.run_path(str(EXAMPLE / "train.py"), run_name="__main__")


def mined(name, folder, source, *options):
    arguments = [name, "--language", "python", "--mine", source, "--test-packages", "two", "--model", folder]
    return [*arguments, "--epochs", 2, "--batch-size", 8, "--learning-rate", "1e-3", *options]


@pytest.mark.parametrize("name", ["codebert", "graphcodebert", "unixcoder", "modern"])
def test_the_script_trains(name, roberta, unixcoder_folder, qwen, source, monkeypatch, capsys):
    folder = {"unixcoder": unixcoder_folder, "modern": qwen}.get(name, roberta)
    batches = []
    forward = SoftInfoNCELoss.forward
    monkeypatch.setattr(
        SoftInfoNCELoss,
        "forward",
        lambda loss, features, labels: batches.append(features) or forward(loss, features, labels),
    )
    monkeypatch.chdir(source.parent)
    run_script(monkeypatch, *mined(name, folder, source, "--output", "out"))
    queries, codes = batches[0]
    assert ("prompt_length" in queries) == (name in ("unixcoder", "modern"))
    assert ("prompt_length" in codes) == (name == "unixcoder")
    assert ("node_tokens" in codes) == (name == "graphcodebert")
    assert "node_tokens" not in queries
    printed = capsys.readouterr().out
    assert "Best MRR on the validation pairs: " in printed
    assert ("Data flow: 8 of the first 8 functions parse" in printed) == (name == "graphcodebert")
    out = source.parent / "out"
    trained = SentenceTransformer(str(out), trust_remote_code=name == "graphcodebert", device="cpu")
    before = build(name, folder)
    query, code = ["read a file"], ["def f(a):\n    b = a\n    return b"]
    assert np.abs(trained.encode_query(query) - before.encode_query(query)).max() > 1e-4
    assert np.isfinite(trained.encode_document(code)).all()
    assert '"estimator": "bm25"' in (out / "README.md").read_text()
    assert trained.prompts == before.prompts


@pytest.mark.filterwarnings("ignore:The table of the estimator:UserWarning")
def test_the_script_trains_with_a_teacher_of_its_own(roberta, source, monkeypatch, capsys):
    monkeypatch.chdir(source.parent)
    run_script(monkeypatch, *mined("graphcodebert", roberta, source, "--infonce", "--output", "teacher"))
    run_script(monkeypatch, *mined("graphcodebert", roberta, source, "--teacher", "teacher", "--output", "student"))
    assert "SentenceTransformer('student', trust_remote_code=True)" in capsys.readouterr().out
    assert '"estimator": "trained-model"' in (source.parent / "student" / "README.md").read_text()


def test_the_script_reads_code_search_net_without_its_test_split(roberta, tmp_path, monkeypatch, capsys):
    """GraphCodeBERT's files hold tokens joined by spaces, which are no Python any more."""
    write_prepared(tmp_path / "data" / "python", "python")
    for unread in ("test", "codebase"):
        (tmp_path / "data" / "python" / f"{unread}.jsonl").unlink()
    monkeypatch.chdir(tmp_path)
    options = ["--code-search-net", "data", "--model", roberta, "--epochs", 1, "--batch-size", 5, "--seed", 12345]
    arguments = ["graphcodebert", "--language", "python", *options]
    run_script(monkeypatch, *arguments)
    printed = capsys.readouterr().out
    assert "functions parse; the others are read as plain text." in printed
    assert (tmp_path / "output" / "graphcodebert-python-12345" / "modules.json").exists()
    with pytest.raises(SystemExit, match=r"was made with estimator='bm25', not 'self': choose another --output"):
        run_script(monkeypatch, *arguments, "--estimator", "self")


def test_code_whose_line_breaks_are_lost_has_no_data_flow(capsys):
    from backbones import say_what_data_flow_sees

    say_what_data_flow_sees({"code": ["def f ( a ) : x = a return x"] * 3 + ["def f(a):\n    return a"]}, "python")
    printed = capsys.readouterr().out
    assert "Data flow: 1 of the first 4 functions parse" in printed
    assert "have lost their line breaks" in printed


def test_graphcodebert_says_what_to_install(roberta, monkeypatch):
    monkeypatch.setitem(sys.modules, "graph_code_bert", None)
    with pytest.raises(SystemExit, match=r"graphcodebert needs .*: pip install ./examples/graph_code_bert"):
        build("graphcodebert", roberta)
    build("codebert", roberta)


def test_mining_needs_packages_to_validate_on(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run_script(monkeypatch, "codebert", "--language", "python", "--mine", "src")
    assert "--mine needs --test-packages" in capsys.readouterr().err
