"""GraphCodeBERT's module on tiny random weights: what it reads, what attends to what, and that it trains."""

import copy
import json
import pickle
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset
from graph_code_bert import GraphCodeBERT, extract_data_flow
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import ByteLevelBPETokenizer
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel, RobertaTokenizerFast

from st_softinfonce import CachedSoftInfoNCELoss, SoftInfoNCELoss, TextColumn

DIMENSION = 16
QUERIES = ["read a file", "sort the list", "open a socket", "send bytes", "count the lines"]
CODES = [
    "def f(a, b):\n    c = a + b\n    while c:\n        a = c\n    return a",
    "def g(x):\n    # comment\n    return x",
    "def h():\n    return 1",
    "def broken(:\n  x = x",
]


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    """A RoBERTa of two narrow layers on disk, with dropout off so that two passes agree."""
    folder = tmp_path_factory.mktemp("roberta")
    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator([*QUERIES, *CODES], vocab_size=400, special_tokens=special, show_progress=False)
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    RobertaTokenizerFast(vocab=trained.get_vocab(), merges=merges, model_max_length=512).save_pretrained(folder)
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=trained.get_vocab_size(),
        hidden_size=DIMENSION,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=514,
        type_vocab_size=1,
        initializer_range=0.5,  # so that attention is far from uniform and a wrong mask shows
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    RobertaModel(config).save_pretrained(folder)
    return str(folder)


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
    np.testing.assert_allclose(model.encode_document([code]), plain, atol=1e-5)
    # also beside a text that has nodes
    np.testing.assert_allclose(model.encode_document([code, CODES[0]])[:1], plain, atol=1e-5)


def test_queries_and_texts_without_a_task_are_plain_roberta(model, roberta):
    plain = plain_model(roberta).encode(CODES)
    np.testing.assert_allclose(model.encode_query(CODES), plain, atol=1e-5)
    np.testing.assert_allclose(model.encode(CODES), plain, atol=1e-5)
    assert np.abs(model.encode_document(CODES[:1]) - plain[:1]).max() > 1e-3


def test_no_nodes_allowed_is_plain_roberta(roberta):
    without = make_model(roberta, data_flow_length=0)
    plain = plain_model(roberta).encode([extract_data_flow(code, "python").text for code in CODES[:3]])
    np.testing.assert_allclose(without.encode_document(CODES[:3]), plain, atol=1e-5)


def test_an_embedding_does_not_depend_on_its_batch(model):
    together = model.encode_document(CODES)
    alone = np.concatenate([model.encode_document([code]) for code in CODES])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.isfinite(together).all()


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
    np.testing.assert_allclose(loaded.encode_document(CODES), expected, atol=1e-5)
    assert "GraphCodeBERT(" in repr(loaded)


def test_loading_needs_trust_in_this_distribution(roberta, tmp_path):
    make_model(roberta).save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match=r"graph_code_bert\.transformer\.GraphCodeBERT(.|\n)*trust_remote_code=True"):
        SentenceTransformer(str(tmp_path), device="cpu")


def test_a_saved_model_names_the_distribution_that_loads_it(roberta, tmp_path, monkeypatch):
    make_model(roberta).save_pretrained(str(tmp_path))
    modules = json.loads((tmp_path / "modules.json").read_text())
    assert modules[0]["type"] == "graph_code_bert.transformer.GraphCodeBERT"
    for name in ("graph_code_bert", "graph_code_bert.transformer"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(ImportError, match="graph_code_bert"):
        SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")


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


def test_other_architectures_are_refused(roberta, tmp_path):
    SentenceTransformer(roberta, device="cpu").tokenizer.save_pretrained(tmp_path)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=400, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="must be a RoBERTa, got the type 'bert'"):
        GraphCodeBERT(str(tmp_path), language="python")


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
    value, plain = gradients(model, SoftInfoNCELoss(model), QUERIES, codes)
    cached_value, cached = gradients(model, CachedSoftInfoNCELoss(model, mini_batch_size=2), QUERIES, codes)
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
        train_dataset=Dataset.from_dict({"query": QUERIES[:4] * 2, "code": CODES * 2}),
        loss=SoftInfoNCELoss(model),
    ).train()
    assert seen[:2] == [False, True]
    assert any((weight - before[name]).abs().max() > 1e-4 for name, weight in model.named_parameters())
