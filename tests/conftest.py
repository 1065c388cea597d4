"""Fixtures, texts and checks that several tests share; models come from tiny_models.py."""

import os
import tempfile

# Before any library reads them: what the tests and their processes load or make stays out of the user's caches.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="st-softinfonce-tests-")
os.environ["HF_HOME"] = f"{os.environ['XDG_CACHE_HOME']}/huggingface"
os.environ["MTEB_CACHE"] = f"{os.environ['XDG_CACHE_HOME']}/mteb"
os.environ["MPLCONFIGDIR"] = f"{os.environ['XDG_CACHE_HOME']}/matplotlib"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import atexit
import copy
import gzip
import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tiny_models import make_tokenizer, make_transformer_model, make_word_tokenizer, save_bert
from torch.utils._python_dispatch import TorchDispatchMode

atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the other cores are busy with the other workers


@pytest.fixture(scope="session")
def reference_cases():
    path = Path(__file__).parent / "data" / "reference_cases.json.gz"
    return json.loads(gzip.decompress(path.read_bytes()))


@pytest.fixture
def word_tokenizer():
    return make_word_tokenizer()


@pytest.fixture
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    """A BERT of two narrow layers on disk."""
    return save_bert(tmp_path_factory.mktemp("tiny") / "bert", num_hidden_layers=2, max_position_embeddings=32)


@pytest.fixture
def transformer_model(bert_folder):
    return make_transformer_model(bert_folder)


@pytest.fixture
def static_model(word_tokenizer):
    torch.manual_seed(0)
    return SentenceTransformer(modules=[StaticEmbedding(word_tokenizer, embedding_dim=16)], device="cpu")


# A conftest.py of its own in tests/evaluation would hide this file from tests that import it by name.
@pytest.fixture
def corpus(tmp_path):
    from bench import make_corpus

    return make_corpus(tmp_path / "corpus")


@pytest.fixture
def bench(tmp_path, corpus):
    from bench import make_bench

    return make_bench(tmp_path, corpus)


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


COLUMNS = {
    "pairs": [QUERIES, DOCUMENTS],
    "one-negative": [QUERIES, DOCUMENTS, NEGATIVES],
    "two-negatives": [QUERIES, DOCUMENTS, NEGATIVES, NEGATIVES[::-1]],
}
ALL_DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")


def write_package(folder, package, count=8, file="code.py"):
    """Write a package of documented functions; their number, for each package other texts."""
    (folder / package / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / package / "__init__.py").write_text("")
    functions = [
        f'def f{number}(value):\n    """{QUERIES[number]} of data"""\n'
        f'    read = "{DOCUMENTS[number]} {package} {file}"\n    return read\n'
        for number in range(count)
    ]
    (folder / package / file).write_text("\n".join(functions))


def with_dropout(model, share=0.3):
    """Turn a model's dropout on."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = share
    return model.train()


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


def pairwise(**choices):
    """Parametrise so that any two values of two arguments meet in a test, which takes far fewer than all with all.

    Choices are a list, or a dict whose keys name them.
    """
    named = [given if isinstance(given, dict) else {str(one): one for one in given} for given in choices.values()]
    rows, everything = [], list(itertools.product(*named))
    left = {pair for row in everything for pair in itertools.combinations(enumerate(row), 2)}
    while left:
        rows.append(max(everything, key=lambda row: len(left & set(itertools.combinations(enumerate(row), 2)))))
        left -= set(itertools.combinations(enumerate(rows[-1]), 2))
    cases = [pytest.param(*map(dict.get, named, row), id="-".join(row)) for row in rows]
    return pytest.mark.parametrize(list(choices), cases)


def training_arguments(folder, kind=SentenceTransformerTrainingArguments, **options):
    """Eight pairs a step on the CPU, with nothing saved, shown or reported."""
    defaults = {"per_device_train_batch_size": 8, "learning_rate": 1e-2, "save_strategy": "no", "report_to": "none"}
    return kind(str(folder), **(defaults | {"disable_tqdm": True, "use_cpu": True} | options))


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
