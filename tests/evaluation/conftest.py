"""A corpus of three packages, and a plan over it whose base model is a tiny one on disk."""

import pytest
from bench import Bench, make_pairs, write_corpus


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(
        tmp_path / "corpus",
        train=make_pairs("one", 0, 40),
        validation=make_pairs("two", 40, 25),
        test=make_pairs("three", 65, 25),
    )


@pytest.fixture
def bench(tmp_path, corpus, static_model):
    static_model.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    return Bench(tmp_path, corpus, tmp_path / "model")
