"""Words of text and code, and ids that agree between processes."""

import os
import subprocess
import sys

import pytest
import torch

from st_softinfonce.estimators import words
from st_softinfonce.estimators.words import split_words, word_ids


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("parseHTTPResponse", "parse http response"),
        ("HTTPResponse", "http response"),
        ("parseHTTP", "parse http"),
        ("snake_case __init__ CONSTANT_NAME", "snake case init constant name"),
        ("utf8 UTF-8 sha256sum float32", "utf 8 utf 8 sha 256 sum float 32"),
        ("x = self.fooBar(a, 'it''s');", "x self foo bar a it s"),
        ("getX isABTest aB", "get x is ab test a b"),
        ("Größe größeÄndern naïve", "größe größeändern naïve"),
        ("na\u0131ve cafe\u0301", "na\u0131ve café"),
        ("ﬁle \uff11\uff12", "file 12"),
        ("читатьФайл 读取文件", "читатьфайл 读取文件"),
        ("... _ !?", ""),
        ("", ""),
    ],
)
def test_text_is_split_into_words(text, expected):
    assert split_words(text) == expected.split()


def test_equal_words_have_equal_ids_and_others_do_not():
    ids = word_ids(["readFile", "file", "write a FILE", ""])
    assert ids.dtype == torch.int64
    assert ids.shape == (4, 3)
    assert ids[0, 1] == ids[1, 0] == ids[2, 2]
    assert len(set(ids[ids >= 0].tolist())) == 4
    assert (ids[3] == -1).all()


def test_many_words_have_ids_of_their_own():
    ids = word_ids([" ".join(f"word{number}" for number in range(50_000))], str.split)[0]
    assert (ids >= 0).all()
    assert len(set(ids.tolist())) == 50_000
    assert ids.max() > 2**61  # the whole range is in use


@pytest.mark.parametrize("texts", [[], ["", ""]], ids=["none", "empty"])
def test_nothing_is_a_row_of_padding_each(texts):
    assert torch.equal(word_ids(texts), torch.full((len(texts), 1), -1))


def test_ids_are_the_same_in_every_process():
    script = f"import runpy; print(runpy.run_path({words.__file__!r})['word_ids'](['readFile']).tolist())"
    finished = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "12"},
    )
    expected = [[7472320645344532892, 8868705337392868102]]
    assert finished.stdout.strip() == str(word_ids(["readFile"]).tolist()) == str(expected)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (str.upper, r"tokenizer must return a list of strings for a text, got str from str.upper: 'READ'"),
        (lambda text: [1, 2], r"tokenizer must return a list of strings for a text, got list from .*: '\[1, 2\]'"),
    ],
    ids=["a-string", "numbers"],
)
def test_a_function_that_does_not_split_is_refused(split, message):
    with pytest.raises(ValueError, match=message):
        word_ids(["read"], split)
