"""A small corpus, and a plan over it whose base model is on disk."""

import json

import pyarrow.parquet as pq
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tiny_models import make_word_tokenizer

from evaluation.__main__ import main

VERBS = ["read", "write", "open", "close", "sort", "merge", "count", "find", "parse", "send"]
NOUNS = ["file", "list", "number", "socket", "string", "lines", "bytes", "data", "value", "key"]
PLAN = """
[corpus]
folder = "{corpus}"
validation_queries = 20
test_queries = 20
[machine]
processes = 1
threads = 1
[tuning]
languages = ["python"]
metric = "mrr_at_1000_duplicates"
[models.tiny]
base = "{model}"
learning_rates = [0.01, 0.1]
trained-model = {{ learning_rate = 0.01, batch_size = 8, steps = 4 }}
[regimes.random]
batch_size = 8
epochs = 1
[rows.zero-shot]
[rows.info-nce]
loss = "MultipleNegativesRankingLoss"
[rows.soft-bm25]
loss = "SoftInfoNCELoss"
estimator = "bm25"
treatment = "soften"
[rows.soft-teacher]
loss = "SoftInfoNCELoss"
estimator = "trained-model"
treatment = "soften"
[[matrix]]
models = ["tiny"]
languages = ["python"]
regimes = ["random"]
rows = "all"
seeds = [1, 2]
"""


def make_pairs(package, start, count):
    rows = []
    for number in range(start, start + count):
        verb, noun, other = VERBS[number % 10], NOUNS[number // 10 % 10], NOUNS[(number * 7 + 3) % 10]
        rows.append(
            {
                "query": f"{verb} the {noun} of {other}",
                "code": f"def {verb} {noun} for {other} return {noun} {verb}",
                "language": "python",
                "path": f"{package}/{noun}.py",
                "name": f"{verb}_{noun}",
                "package": package,
                "duplicate_group": number,
            }
        )
    return Dataset.from_list(rows)


def write_corpus(folder, **splits):
    place = folder / "python"
    place.mkdir(parents=True)
    for split, rows in splits.items():
        pq.write_table(rows.data.table, place / f"{split}-00000.parquet")
    return folder


def make_corpus(folder):
    """A corpus of three packages."""
    splits = {"train": make_pairs("one", 0, 40), "validation": make_pairs("two", 40, 25)}
    return write_corpus(folder, **splits, test=make_pairs("three", 65, 25))


def make_bench(folder, corpus):
    """A plan over a corpus, whose base model is a tiny one on disk."""
    torch.manual_seed(0)
    model = SentenceTransformer(modules=[StaticEmbedding(make_word_tokenizer(), embedding_dim=16)], device="cpu")
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    return Bench(folder, corpus, folder / "model")


class Bench:
    """A plan's file, and what its commands leave."""

    def __init__(self, folder, corpus, model):
        self.folder, self.corpus = folder, corpus
        self.path, self.runs, self.results = folder / "tiny.toml", folder / "runs", folder / "results"
        self.path.write_text(PLAN.format(corpus=corpus, model=model))

    def edit(self, *changes, add=""):
        text = self.path.read_text() + add
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        self.path.write_text(text)

    def run(self, *options):
        return main(["run", str(self.path), "--output", str(self.runs / "tiny"), *options])

    def lines(self):
        return [json.loads(line) for line in (self.runs / "tiny" / "results.jsonl").read_text().splitlines()]
