"""Words of text and code, and ids that agree between processes."""

import os
import random
import re
import subprocess
import sys

import pytest
import torch
from tiny_models import make_word_tokenizer
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from st_softinfonce import TextColumn
from st_softinfonce.estimators import words
from st_softinfonce.estimators.words import STOP_WORDS, Vocabulary, split_words, word_ids


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
    expected = [[9190277902008562532, 8115663927053678284]]
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


SAID = [
    "Returns the parsed HTTP response of a raw socket",
    "reads every line of the README and counts the bytes",
    "connection refused by the remote host; retry with backoff",
    "x = self.value(a, 'it') or None # UTF-8, sha256 of 1024 bytes",
    "Größe und Länge naïve café",
]
# Not in what the tokenizers learn from, so that they are cut into pieces.
PIECES = "unheardof retries recounted backoffs parses Sockets HOSTS hosted sha512 responses 2048 Längen".split()


def make_tokenizer(kind):
    """A tokenizer of one of the usual kinds, trained on a few lines."""
    special = {"special_tokens": ["[UNK]", "[PAD]"], "show_progress": False}
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=140, **special)
    elif kind == "byte-level":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=340, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **special)
    elif kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=120, unk_token="[UNK]", **special)
    elif kind == "end-of-word":
        tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
        trainer = trainers.BpeTrainer(vocab_size=140, end_of_word_suffix="</w>", **special)
    else:  # of characters
        tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
        tokenizer.decoder = decoders.Fuse()
        trainer = trainers.WordLevelTrainer(vocab_size=200, **special)
    tokenizer.train_from_iterator(SAID, trainer)
    return tokenizer


KINDS = ("wordpiece", "byte-level", "unigram", "end-of-word", "characters")


def runs(text):
    """The words of a text, one by one: runs of letters and digits that say something."""
    return [
        word
        for word in re.findall(r"[^\W_]+", text.lower())
        if word not in STOP_WORDS and not re.fullmatch("[a-z0-9]", word)
    ]


def words_of(vocabulary, ids):
    return [[word for word in row if word >= 0] for row in vocabulary.words(ids).tolist()]


def of_pieces(names, rows, **model):
    """Words of rows of tokens, as a list for each row that tells which are equal; and the number of each word."""
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=names[0], **model))
    width = max(map(len, rows))
    ids = torch.tensor([[vocabulary[name] for name in row] + [-1] * (width - len(row)) for row in rows])
    return words_of(Vocabulary.of(tokenizer), ids)


class TestVocabulary:
    @pytest.mark.parametrize("kind", KINDS)
    def test_words_are_those_of_the_decoded_text(self, kind):
        """Every word of every text, however it is cut, has the number of that word and no other."""
        tokenizer = make_tokenizer(kind)
        generator = random.Random(0)
        pool = [word for text in SAID for word in text.split()] + PIECES + ["(", ".", "_", "'"]
        # Decoding drops what is unknown, and joins what stood beside it.
        pool = [word for word in pool if tokenizer.token_to_id("[UNK]") not in tokenizer.encode(word).ids]
        if kind == "byte-level":  # where pieces of a character are words of their own
            pool = [word for word in pool if word.isascii()]
        texts = [" ".join(generator.choices(pool, k=generator.randrange(30))) for _ in range(200)]
        column = TextColumn.from_texts(texts, tokenizer)
        found = words_of(Vocabulary.of(tokenizer), column.content_ids)
        expected = [runs(text) for text in column.texts]
        assert [len(row) for row in found] == [len(row) for row in expected]
        pairs = {pair for row, words in zip(found, expected, strict=True) for pair in zip(row, words, strict=True)}
        assert len(pairs) == len({number for number, _ in pairs}) == len({word for _, word in pairs}) > 25
        cut = {word for word in (*pool, *PIECES) if len(tokenizer.encode(word).tokens) > 1}
        assert len(cut) > 5

    def test_a_word_has_one_number_in_every_vocabulary(self):
        numbers = set()
        for kind in KINDS:
            tokenizer = make_tokenizer(kind)
            column = TextColumn.from_texts(["socket"], tokenizer)
            numbers |= {tuple(*words_of(Vocabulary.of(tokenizer), column.content_ids))}
        assert len(numbers) == 1

    def test_a_word_is_where_it_begins_and_nothing_where_there_is_no_content(self):
        vocabulary = Vocabulary.of(make_word_tokenizer())
        names = make_word_tokenizer().get_vocab()
        ids = torch.tensor([[names["sort"], -1, names["list"]], [-1, names["list"], -1], [-1, -1, -1]])
        words = vocabulary.words(ids)
        assert ((words >= 0) == (ids >= 0)).all()
        assert words[0, 2] == words[1, 1] != words[0, 0]

    def test_a_capital_within_a_word_begins_another_one(self):
        names = ["?", "parse", "##Http", "##HTTP", "##Response", "##response", "READ", "##ME", "##me", "Http", "##s"]
        rows = [
            ["parse", "##Http", "##Response"],
            ["parse"],
            ["Http", "##response"],
            ["Http"],
            ["READ", "##ME"],
            ["READ", "##me"],
            ["parse", "##HTTP", "##s"],
        ]
        camel, parse, http_response, http, readme, same, with_s = of_pieces(names, rows)
        assert len(camel) == 3
        assert camel[0] == parse[0]
        assert camel[1] == http[0]
        assert len(http_response) == len(http) == 1
        assert http_response != http
        assert readme == same
        assert len(readme) == 1
        assert len(with_s) == 2

    def test_stop_words_single_letters_and_punctuation_say_nothing(self):
        names = ["?", "the", "THE", "of", "x", "7", "(", "_", "##e", "th", "lock", "xy", "77"]
        rows = [["the", "THE", "of", "x", "7", "(", "_"], ["th", "##e"], ["lock", "x", "xy", "77"]]
        nothing, cut, something = of_pieces(names, rows)
        assert nothing == cut == []
        assert len(something) == 3

    def test_scripts_without_spaces_or_capitals_have_a_word_a_token(self):
        names = ["?", "读取", "##文件", "文件", "を", "##を", "чита", "##ть", "読"]
        together, file, kana, cyrillic, one = of_pieces(
            names, [["读取", "##文件"], ["文件"], ["読", "##を", "を"], ["чита", "##ть"], ["чита"]]
        )
        assert together[1:] == file
        assert len(together) == 2
        assert len(kana) == 3
        assert kana[1] == kana[2]
        assert len(cyrillic) == 1  # written with spaces and capitals
        assert cyrillic != one

    def test_pieces_of_a_character_are_told_apart(self):
        tokenizer = make_tokenizer("byte-level")
        vocabulary = Vocabulary.of(tokenizer)
        column = TextColumn.from_texts(["读", "取", "读"], tokenizer)
        found = words_of(vocabulary, column.content_ids)
        assert found[0] == found[2] != found[1]

    def test_underscores_and_digits(self):
        names = ["?", "utf", "##8", "utf8", "-", "8", "_", "sha", "##25", "##6", "sha256", "mode"]
        rows = [["utf", "##8"], ["utf8"], ["utf", "-", "8"], ["sha", "##25", "##6"], ["sha256"], ["utf", "_", "mode"]]
        cut, whole, apart, sha, sha256, snake = of_pieces(names, rows)
        assert cut == whole
        assert sha == sha256
        assert len(apart) == 1
        assert snake[0] == apart[0] != whole[0]
        assert len(snake) == 2
