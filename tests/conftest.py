"""Fixtures made in memory: a tokenizer and models that need no download."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import copy
import gzip
import json
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, Transformer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

SPECIAL_TOKENS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
WORDS = (
    "read write open close sort merge count find parse send a the of file list number socket string lines bytes "
    "return def for in if else none true path data value key index first last all every"
).split()


@pytest.fixture(scope="session", autouse=True)
def own_datasets_cache(tmp_path_factory):
    """Keep what the tests load out of the user's cache, and the user's out of the tests."""
    import datasets

    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="session")
def reference_cases():
    path = Path(__file__).parent / "data" / "reference_cases.json.gz"
    return json.loads(gzip.decompress(path.read_bytes()))


def make_word_tokenizer():
    vocabulary = {word: number for number, word in enumerate(SPECIAL_TOKENS + WORDS)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    return tokenizer


def make_tokenizer():
    return PreTrainedTokenizerFast(
        tokenizer_object=make_word_tokenizer(),
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        model_max_length=32,
    )


@pytest.fixture
def word_tokenizer():
    return make_word_tokenizer()


@pytest.fixture
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    """A BERT of two narrow layers on disk, with dropout off so that two passes agree."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    folder = tmp_path_factory.mktemp("tiny") / "bert"
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_transformer_model(bert_folder):
    transformer = Transformer(bert_folder)
    return SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension())], device="cpu")


@pytest.fixture
def transformer_model(bert_folder):
    return make_transformer_model(bert_folder)


@pytest.fixture
def static_model(word_tokenizer):
    torch.manual_seed(0)
    return SentenceTransformer(modules=[StaticEmbedding(word_tokenizer, embedding_dim=16)], device="cpu")


@pytest.fixture(params=["transformer", "static"])
def model(request):
    return request.getfixturevalue(f"{request.param}_model")


QUERIES = [
    "read a file",
    "read every file of a list",
    "sort the list",
    "sort a list of number",
    "open a socket",
    "send bytes",
    "count the lines",
    "find the first index",
]
DOCUMENTS = [
    "def read path return open path data",
    "def read list for path in list return data",
    "def sort list return list",
    "def sort number list return all number",
    "def open path return socket",
    "def send data bytes socket",
    "def count lines return number of lines",
    "def find value return first index",
]
NEGATIVES = [
    "def write path data",
    "def write list for path in list",
    "def merge list return list",
    "def find number list",
    "def close socket",
    "def read bytes socket",
    "def count bytes return number",
    "def find value return last index",
]


class ForbidWaiting(TorchDispatchMode):
    """Fails on what makes the host wait for a device: reading a value, or a size that depends on values."""

    waiting = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "repeat_interleave.Tensor", "bincount")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(name in str(func) for name in self.waiting):
            raise AssertionError(f"{func} waits for the device")
        indices = args[1] if str(func).startswith(("aten.index.", "aten.index_put")) else ()
        if any(index is not None and index.dtype == torch.bool for index in indices):
            raise AssertionError(f"{func} with a mask waits for the device")
        return func(*args, **(kwargs or {}))


def features(model, texts=(QUERIES, DOCUMENTS, NEGATIVES), tasks=None, **options):
    """Make a batch as the trainer's collator does, one dict a column."""
    tasks = tasks or [None] * len(texts)
    return [model.preprocess(column, task=task, **options) for column, task in zip(texts, tasks, strict=True)]


def run(model, loss, batch=None, scale=1.0):
    """Take a step without an optimizer: the loss, and the gradients by the name of their parameter."""
    model.zero_grad()
    value = loss(features(model) if batch is None else copy.deepcopy(batch), None)
    value = sum(value.values()) if isinstance(value, dict) else value
    (value * scale).backward()
    return value.detach(), gradients(model)


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert sum(gradient.abs().sum() for gradient in found.values()) > 0
    return found


def assert_same(one, other, rtol=1e-9, atol=1e-12):
    """Compare two steps: value and gradients, none of which may be all zero."""
    torch.testing.assert_close(one[0], other[0], rtol=rtol, atol=atol)
    assert one[1].keys() == other[1].keys()
    assert sum(tensor.abs().sum() for tensor in one[1].values()) > 0
    for name in one[1]:
        torch.testing.assert_close(one[1][name], other[1][name], rtol=rtol, atol=atol)
