"""The paper's backbones on tiny random weights: GraphCodeBERT's module, and the script that trains all of them."""

import copy
import json
import pickle
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DOCUMENTS, QUERIES
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import ByteLevelBPETokenizer
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model, RobertaConfig, RobertaModel, RobertaTokenizerFast

from st_softinfonce import CachedSoftInfoNCELoss, SoftInfoNCELoss, TextColumn
from st_softinfonce.models import GraphCodeBERT, extract_data_flow

SCRIPT = Path(__file__).parent.parent / "examples" / "backbones" / "train.py"
DIMENSION = 16
MODE = "<encoder-only>"
CODES = [
    "def f(a, b):\n    c = a + b\n    while c:\n        a = c\n    return a",
    "def g(x):\n    # comment\n    return x",
    "def h():\n    return 1",
    "def broken(:\n  x = x",
]


def byte_pairs(special_tokens):
    tokenizer = ByteLevelBPETokenizer()
    lines = [*QUERIES, *DOCUMENTS, *CODES]
    tokenizer.train_from_iterator(lines, vocab_size=400, special_tokens=special_tokens, show_progress=False)
    return tokenizer


def save_roberta(folder, extra_tokens=(), dropout=0.1):
    """A RoBERTa of two narrow layers; extra tokens are in its vocabulary, but the tokenizer takes them to pieces."""
    trained = byte_pairs(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    vocabulary = trained.get_vocab()
    for token in extra_tokens:
        vocabulary[token] = len(vocabulary)
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    RobertaTokenizerFast(vocab=vocabulary, merges=merges, model_max_length=512).save_pretrained(folder)
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(vocabulary),
        hidden_size=DIMENSION,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=514,
        type_vocab_size=1,
        initializer_range=0.5,  # so that attention is far from uniform and a wrong mask shows
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    RobertaModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    return save_roberta(tmp_path_factory.mktemp("roberta"), dropout=0.0)


@pytest.fixture(scope="module")
def unixcoder_folder(tmp_path_factory):
    return save_roberta(tmp_path_factory.mktemp("unixcoder"), [MODE])


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """A Qwen3-Embedding: the last token's vector, normalised; a prompt for queries."""
    folder = tmp_path_factory.mktemp("qwen")
    trained = byte_pairs(["<|endoftext|>"])
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    Qwen2Tokenizer(vocab=trained.get_vocab(), merges=merges, model_max_length=512).save_pretrained(folder / "raw")
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=trained.get_vocab_size(),
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


def make_model(folder, attention="sdpa", **options):
    options = {"language": "python", "model_kwargs": {"attn_implementation": attention}, **options}
    module = GraphCodeBERT(folder, **options)
    return SentenceTransformer(modules=[module, Pooling(DIMENSION, pooling_mode="mean")], device="cpu")


@pytest.fixture(params=["sdpa", "eager"])
def model(request, roberta):
    return make_model(roberta, request.param)


def plain_model(folder):
    return SentenceTransformer(modules=[Transformer(folder), Pooling(DIMENSION, pooling_mode="mean")], device="cpu")


# The attention mask and the input, from the paper's description, one cell at a time.


def oracle_attention(tokens, special, node_tokens, sources):
    size = tokens + len(node_tokens)
    allowed = np.zeros((size, size), dtype=bool)
    for query in range(size):
        for key in range(size):
            both_tokens = query < tokens and key < tokens
            query_is_special = query < tokens and special[query]
            if both_tokens or query_is_special:
                allowed[query, key] = True
            elif query < tokens:
                allowed[query, key] = query in node_tokens[key - tokens]
            elif key < tokens:
                allowed[query, key] = key in node_tokens[query - tokens]
            else:
                allowed[query, key] = query == key or key - tokens in sources[query - tokens]
    return allowed


def oracle_embedding(module, code):
    """The mean of one text's token vectors, by calling the transformer with everything made by hand."""
    flow = extract_data_flow(code, "python")
    encoding = module.tokenizer(flow.text, return_offsets_mapping=True)
    ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
    node_tokens = [
        [place for place, (start, end) in enumerate(offsets) if start < end and start < stop and end > begin]
        for begin, stop in flow.variables
    ]
    special = [token in (module.tokenizer.cls_token_id, module.tokenizer.sep_token_id) for token in ids]
    allowed = oracle_attention(len(ids), special, node_tokens, flow.sources)
    words = module.model.embeddings.word_embeddings.weight
    rows = [words[token] for token in ids]
    rows += [torch.stack([words[ids[place]] for place in places]).mean(dim=0) for places in node_tokens]
    positions = [2 + place for place in range(len(ids))] + [0] * len(node_tokens)
    attention = torch.zeros(allowed.shape).masked_fill(~torch.tensor(allowed), torch.finfo(torch.float32).min)
    with torch.no_grad():
        states = module.model(
            inputs_embeds=torch.stack(rows)[None],
            position_ids=torch.tensor([positions]),
            attention_mask=attention[None, None],
        ).last_hidden_state
    return states[0, : len(ids)].mean(dim=0).numpy()


def test_code_is_read_as_the_paper_describes(model):
    codes = [*CODES[:2], "def f(quixotic_zebra):\n    é = quixotic_zebra\n    return f'{é} {quixotic_zebra}'"]
    for embedding, code in zip(model.encode_document(codes), codes, strict=True):
        assert extract_data_flow(code, "python").variables
        np.testing.assert_allclose(embedding, oracle_embedding(model[0], code), atol=1e-5)
    # The last one has variables of several tokens.
    assert model.preprocess(codes[2:], task="document")["node_tokens"].sum(dim=1).max() > 1


def test_attention_follows_a_graph_made_by_hand(model):
    # <s> a b c </s>, node 0 written with a b, node 1 with c, its value from node 0; then a shorter text.
    cls, sep, pad = (getattr(model.tokenizer, f"{name}_token_id") for name in ("cls", "sep", "pad"))
    features = {
        "input_ids": torch.tensor([[cls, 10, 11, 12, sep], [cls, 10, sep, pad, pad]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
        "node_tokens": torch.zeros(2, 5, 2, dtype=torch.bool),
        "node_sources": torch.zeros(2, 2, 2, dtype=torch.bool),
    }
    features["node_tokens"][0, [1, 2], 0] = features["node_tokens"][0, 3, 1] = True
    features["node_tokens"][1, 1, 0] = features["node_sources"][0, 1, 0] = True
    allowed = model[0].attention(features).int().tolist()
    assert allowed[0] == [
        [1, 1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 0, 1],
        [1, 1, 1, 1, 1, 1, 1],
        [0, 1, 1, 0, 0, 1, 0],
        [0, 0, 0, 1, 0, 1, 1],
    ]
    # Nothing that is no padding attends to padding.
    assert [row for place, row in enumerate(allowed[1]) if place in (0, 1, 2, 5)] == [
        [1, 1, 1, 0, 0, 1, 0],
        [1, 1, 1, 0, 0, 1, 0],
        [1, 1, 1, 0, 0, 1, 0],
        [0, 1, 0, 0, 0, 1, 0],
    ]
    assert all(any(row) for row in allowed[1])


@pytest.mark.parametrize("code", CODES[2:], ids=["no-variables", "does-not-parse"])
def test_without_nodes_it_is_plain_roberta(model, roberta, code):
    flow = extract_data_flow(code, "python")
    plain = plain_model(roberta).encode([code if flow is None else flow.text])
    np.testing.assert_allclose(model.encode_document([code]), plain, atol=1e-6)
    # also beside a text that has nodes
    np.testing.assert_allclose(model.encode_document([code, CODES[0]])[:1], plain, atol=1e-6)


def test_queries_and_texts_without_a_task_are_plain_roberta(model, roberta):
    plain = plain_model(roberta).encode(CODES)
    np.testing.assert_allclose(model.encode_query(CODES), plain, atol=1e-6)
    np.testing.assert_allclose(model.encode(CODES), plain, atol=1e-6)
    assert np.abs(model.encode_document(CODES[:1]) - plain[:1]).max() > 1e-3


def test_no_nodes_allowed_is_plain_roberta(roberta):
    without = make_model(roberta, data_flow_length=0)
    plain = plain_model(roberta).encode([extract_data_flow(code, "python").text for code in CODES[:3]])
    np.testing.assert_allclose(without.encode_document(CODES[:3]), plain, atol=1e-6)


def test_an_embedding_does_not_depend_on_its_batch(model):
    together = model.encode_document(CODES)
    alone = np.concatenate([model.encode_document([code]) for code in CODES])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert np.isfinite(together).all()


def test_data_flow_changes_the_embedding(model):
    """The same tokens in the same order, but another source: what the text alone cannot tell is in the graph."""
    features = model.preprocess(CODES[:1], task="document")
    with torch.no_grad():
        before = model(dict(features))["sentence_embedding"]
        other = model({**features, "node_sources": torch.zeros_like(features["node_sources"])})["sentence_embedding"]
    assert (before - other).abs().max() > 1e-4


def test_attentions_agree(roberta):
    sdpa, eager = (make_model(roberta, attention).encode_document(CODES) for attention in ("sdpa", "eager"))
    np.testing.assert_allclose(sdpa, eager, atol=1e-5)


def test_lengths_cut_tokens_and_nodes(roberta):
    model = make_model(roberta, document_length=20, query_length=8, data_flow_length=3)
    code = model.preprocess(CODES[:1], task="document")
    assert code["input_ids"].shape == (1, 20)
    assert code["node_tokens"].shape == (1, 20, 3)
    assert code["node_tokens"].any(dim=1).all()
    assert model.preprocess(CODES[:1], task="query")["input_ids"].shape == (1, 8)
    # Of the variables behind the cut, none is left.
    longer = make_model(roberta, document_length=10).preprocess(CODES[:1], task="document")
    assert 0 < longer["node_tokens"].size(2) < len(extract_data_flow(CODES[0], "python").variables)
    assert torch.isfinite(model(code)["sentence_embedding"]).all()


def test_a_prompt_is_no_part_of_the_data_flow(model):
    with_prompt = model.preprocess(CODES[:2], task="document", prompt="def a(b): ")
    without = model.preprocess(CODES[:2], task="document")
    shift = with_prompt["input_ids"].size(1) - without["input_ids"].size(1)
    assert shift > 0
    assert torch.equal(with_prompt["node_sources"], without["node_sources"])
    length = without["input_ids"].size(1)
    for row, (longer, shorter) in enumerate(
        zip(with_prompt["node_tokens"].mT, without["node_tokens"].mT, strict=True)
    ):
        ids_longer = [with_prompt["input_ids"][row, node].tolist() for node in longer]
        ids_shorter = [without["input_ids"][row, node].tolist() for node in shorter]
        # The first word's byte pairs may differ by the space in front of it; the variables are none of them.
        assert ids_longer == ids_shorter
        assert not longer[:, : longer.size(1) - length].any()


def test_estimators_see_the_tokens_and_no_nodes(model):
    features = model.preprocess(CODES[:2], task="document")
    column = TextColumn(features, model.tokenizer)
    assert column.input_ids.shape == column.attention_mask.shape == features["input_ids"].shape
    assert column.texts == [extract_data_flow(code, "python").text for code in CODES[:2]]
    embedded = model(features)
    assert embedded["token_embeddings"].shape[:2] == features["input_ids"].shape


def test_it_is_saved_and_loaded_as_part_of_the_model(model, tmp_path):
    model[0].data_flow_length = 5
    expected = model.encode_document(CODES)
    model.save_pretrained(str(tmp_path))
    loaded = SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    assert type(loaded[0]) is GraphCodeBERT
    assert (loaded[0].language, loaded[0].data_flow_length) == ("python", 5)
    np.testing.assert_allclose(loaded.encode_document(CODES), expected, atol=1e-6)
    assert "GraphCodeBERT(" in repr(loaded)


def test_loading_needs_trust_in_this_package(model, tmp_path):
    model.save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SentenceTransformer(str(tmp_path), device="cpu")


def test_it_can_be_copied_and_pickled(model):
    expected = model.encode_document(CODES[:1])
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other.encode_document(CODES[:1]), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language": "cobol"}, "language must be one of"),
        ({"data_flow_length": -1}, "data_flow_length must be an integer of at least 0, got -1"),
        ({"data_flow_length": True}, "data_flow_length must be an integer"),
        ({"model_kwargs": {"attn_implementation": "flex_attention"}}, "attn_implementation must be one of"),
    ],
    ids=["language", "negative", "bool", "attention"],
)
def test_bad_options_are_refused(roberta, options, message):
    with pytest.raises(ValueError, match=message):
        GraphCodeBERT(roberta, **{"language": "python", **options})


def test_other_architectures_are_refused(bert_folder):
    with pytest.raises(ValueError, match="must be a RoBERTa, got the type 'bert'"):
        GraphCodeBERT(bert_folder, language="python")


# Training


def gradients(model, loss, queries, codes):
    features = [model.preprocess(queries, task="query"), model.preprocess(codes, task="document")]
    model.zero_grad()
    value = loss(features, None)
    value.backward()
    return value.item(), {
        name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None
    }


def test_cached_loss_equals_the_plain_one(roberta):
    model = make_model(roberta)
    codes = [*CODES, "i = j"]
    value, plain = gradients(model, SoftInfoNCELoss(model), QUERIES[:5], codes)
    cached_value, cached = gradients(model, CachedSoftInfoNCELoss(model, mini_batch_size=2), QUERIES[:5], codes)
    assert value == pytest.approx(cached_value, abs=1e-5)
    assert any(gradient.abs().max() > 1e-4 for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(cached[name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")
def test_the_trainer_sends_code_with_its_data_flow(roberta, tmp_path):
    model = make_model(roberta)
    seen = []
    forward = model[0].forward
    model[0].forward = lambda features, **kwargs: seen.append("node_tokens" in features) or forward(features, **kwargs)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path),
            max_steps=2,
            per_device_train_batch_size=8,
            learning_rate=1e-2,
            router_mapping={"query": "query", "code": "document"},
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=Dataset.from_dict({"query": QUERIES, "code": CODES * 2}),
        loss=SoftInfoNCELoss(model),
    ).train()
    assert seen[:2] == [False, True]
    assert any((weight - before[name]).abs().max() > 1e-4 for name, weight in model.named_parameters())


# The script


def build(name, folder, language="python"):
    return runpy.run_path(str(SCRIPT))["BACKBONES"][name].build(folder, language)


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


def test_settings_are_the_papers():
    backbones = runpy.run_path(str(SCRIPT))["BACKBONES"]
    assert {
        name: (backbone.model, backbone.learning_rate, backbone.batch_size) for name, backbone in backbones.items()
    } == {
        "codebert": ("microsoft/codebert-base", 1e-6, 32),
        "graphcodebert": ("microsoft/graphcodebert-base", 2e-5, 32),
        "unixcoder": ("microsoft/unixcoder-base", 2e-5, 64),
        "modern": ("Qwen/Qwen3-Embedding-0.6B", 2e-5, 32),
    }


@pytest.fixture
def source(tmp_path):
    for package in ("one", "two"):
        folder = tmp_path / "src" / package
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
        functions = [
            f'def f{number}(value):\n    """{query}"""\n    read = value + "{document} {package}"\n    return read\n'
            for number, (query, document) in enumerate(zip(QUERIES, DOCUMENTS, strict=True))
        ]
        (folder / "code.py").write_text("\n".join(functions))
    return tmp_path / "src"


def run_script(monkeypatch, folder, source, name, *options):
    monkeypatch.chdir(source.parent)
    arguments = [name, "--language", "python", "--mine", str(source), "--test-packages", "two", "--model", folder]
    options = ["--epochs", "3", "--batch-size", "8", "--learning-rate", "1e-3", *options]
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments, *options])
    runpy.run_path(str(SCRIPT), run_name="__main__")


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")
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
    run_script(monkeypatch, folder, source, name, "--output", "out")
    queries, codes = batches[0]
    assert ("prompt_length" in queries) == (name in ("unixcoder", "modern"))
    assert ("prompt_length" in codes) == (name == "unixcoder")
    assert ("node_tokens" in codes) == (name == "graphcodebert")
    assert "node_tokens" not in queries
    printed = capsys.readouterr().out
    assert "_mrr@1000: " in printed
    assert ("Data flow: 7 of the first 7 functions parse" in printed) == (name == "graphcodebert")
    out = source.parent / "out"
    trained = SentenceTransformer(str(out), trust_remote_code=name == "graphcodebert", device="cpu")
    before = build(name, folder)
    query, code = ["read a file"], ["def f(a):\n    b = a\n    return b"]
    assert np.abs(trained.encode_query(query) - before.encode_query(query)).max() > 1e-4
    assert np.isfinite(trained.encode_document(code)).all()
    assert '"estimator": "bm25"' in (out / "README.md").read_text()
    assert trained.prompts == before.prompts


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")
@pytest.mark.filterwarnings("ignore:The table of the estimator:UserWarning")
def test_the_script_trains_with_a_teacher_of_its_own(roberta, source, monkeypatch, capsys):
    run_script(monkeypatch, roberta, source, "graphcodebert", "--infonce", "--output", "teacher")
    run_script(monkeypatch, roberta, source, "graphcodebert", "--teacher", "teacher", "--output", "student")
    assert "SentenceTransformer('student', trust_remote_code=True)" in capsys.readouterr().out
    assert '"estimator": "trained-model"' in (source.parent / "student" / "README.md").read_text()


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")
def test_the_script_reads_code_search_net_without_its_test_split(roberta, tmp_path, monkeypatch, capsys):
    asked = []

    def load(directory, language, *, splits):
        asked.append((directory, language, splits))
        # Tokens joined by spaces, as GraphCodeBERT's files have them.
        codes = [f"def f ( a ) : {document.split()[1]} = a return a" for document in DOCUMENTS]
        return DatasetDict({split: Dataset.from_dict({"query": QUERIES, "code": codes}) for split in splits})

    monkeypatch.setattr("st_softinfonce.data.load_code_search_net", load, raising=False)
    monkeypatch.chdir(tmp_path)
    options = ["--model", roberta, "--epochs", "1", "--batch-size", "8", "--seed", "12345"]
    arguments = ["graphcodebert", "--language", "python", "--code-search-net", "data", *options]
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert asked == [("data", "python", ["train", "validation"])]
    printed = capsys.readouterr().out
    assert "0 of the first 8 functions parse" in printed
    assert "have lost their line breaks" in printed
    assert (tmp_path / "output" / "graphcodebert-python-12345" / "modules.json").exists()


def test_mining_needs_packages_to_validate_on(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "codebert", "--language", "python", "--mine", "src"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "--mine needs --test-packages" in capsys.readouterr().err
