"""Models and shortcuts that the tests of retrieval share."""

from __future__ import annotations

import mteb
import numpy as np
import torch
from mteb.models.model_meta import ModelMeta


class TableEncoder:
    """mteb's encoder protocol over a table of vectors, one a text; scores are dot products in float64."""

    def __init__(self, vectors, name="tests/table-encoder"):
        self.vectors = vectors
        self.texts_seen = []
        self.mteb_model_meta = ModelMeta.create_empty({"name": name, "revision": "1"})

    def encode(self, inputs, *, task_metadata, hf_split, hf_subset, prompt_type=None, **kwargs):
        texts = [text for batch in inputs for text in batch["text"]]
        self.texts_seen += texts
        return np.stack([self.vectors[text] for text in texts])

    def similarity(self, left, right):
        return torch.from_numpy(np.asarray(left) @ np.asarray(right).T)

    def similarity_pairwise(self, left, right):
        return torch.from_numpy((np.asarray(left) * np.asarray(right)).sum(axis=1))


def random_vectors(texts, seed=0):
    """Different vectors for the same text as query and as document are not needed: no test has such a text."""
    generator = np.random.default_rng(seed)
    return {text: generator.normal(size=16) for text in dict.fromkeys(texts)}


def evaluate(model, tasks, cache=None, **options):
    return mteb.evaluate(model, tasks=tasks, cache=cache, co2_tracker=False, show_progress_bar=False, **options)


def score(model, task, **options):
    return evaluate(model, [task], **options).task_results[0].get_score()
