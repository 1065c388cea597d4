"""Words of text and code, and numbers for them that agree between processes."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Words of English that two texts may share without having anything in common.
STOP_WORDS = frozenset(
    "about all also although am an and any are as at be because been before being both but by can cannot could did do "
    "does doing each either else every few for from had has have having he her here him his how however if in into is "
    "it its itself just may me might more most must my neither no nor not of off on once only onto or other others "
    "our out over own per same shall she should since so some such than that the their them themselves then there "
    "therefore these they this those though through thus to too under until up upon us very via was we were what "
    "whatever when whenever where whereas wherever whether which while who whole whom whose why will with within "
    "without would yet you your".split()
)
# Marks of a token that begins a word, where tokens that do not are unmarked: byte-level BPE, SentencePiece.
_WORD_MARKS = ("\u0120", "\u2581")
_BASE = 0x9E3779B97F4A7C15
_LONGEST_WORD = 4096
_TOKENS_AT_A_TIME = 65536
# A run of digits; capitals up to the one that begins the next word; a word, perhaps with a capital. Letters that have
# no place in ASCII count as small ones.
_WORD = re.compile(r"\d+|[A-Z]+(?![^\W\dA-Z_])|[A-Z]?[^\W\dA-Z_]+")


def split_words(text: str) -> list[str]:
    """Split text or code into lower-cased words in order, at snake_case, camelCase and digits.

    Punctuation is dropped. Digits are words of their own, so that ``utf8``, ``utf-8`` and ``UTF_8`` agree.

    Example:
        >>> split_words("parseHTTPResponse(raw_bytes2) # reads UTF-8")
        ['parse', 'http', 'response', 'raw', 'bytes', '2', 'reads', 'utf', '8']
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return [word.lower() for word in _WORD.findall(text)]


def word_ids(texts: Iterable[str], split: Callable[[str], list[str]] = split_words) -> Tensor:
    """Number the words of texts by a hash: the same in every process and on every device, so it can be gathered.

    Two of a million words share one with a probability of 1 in 10 million. Returned is ``(n, longest)`` int64 on the
    CPU, at least 0, and -1 after a text's last word.

    Raises:
        ValueError: ``split`` returned something else than a list of strings.
    """
    rows = []
    for text in texts:
        words = split(text)
        if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
            raise ValueError(
                f"tokenizer must return a list of strings for a text, got {type(words).__name__} from "
                f"{name_of(split)}: {str(words)[:40]!r}. Return text.split(), say, not the text."
            )
        rows.append([_word_id(word) for word in words])
    width = max((len(row) for row in rows), default=0)
    filled = [row + [-1] * (max(width, 1) - len(row)) for row in rows]
    return torch.tensor(filled, dtype=torch.int64).view(len(rows), max(width, 1))


@dataclass(frozen=True)
class Vocabulary:
    """What a tokenizer's tokens are as parts of words, so that words can be compared without decoding a text."""

    # Of each token (vocabulary,):
    letters: Tensor  # int64, a hash of its letters and digits in lower case
    count: Tensor  # int64, how many those are
    joins: Tensor  # bool, whether it goes on with a word that the token before it has begun
    closes: Tensor  # bool, whether a word ends with it, whatever comes next
    capital: Tensor  # bool, whether it begins with a capital letter, as a word within camelCase does
    ends_capital: Tensor  # bool, whether it ends with one, as the first half of README does
    powers: Tensor  # (longest word,) int64, what the hash of letters at a place in their word is multiplied by
    ignored: Tensor  # hashes of words that say nothing: STOP_WORDS and single letters and digits

    @classmethod
    def of(cls, tokenizer: Any) -> Vocabulary:
        """Read the vocabulary of a tokenizer of transformers, or of a ``tokenizers.Tokenizer``, on the CPU.

        Tokens of scripts that are written without spaces, or without capitals, are words of their own, as is what is
        only a part of a character (of UTF-8, in byte-level vocabularies).
        """
        backend = tokenizer if hasattr(tokenizer, "encode_batch") else getattr(tokenizer, "backend_tokenizer", None)
        model = getattr(backend, "model", None)
        decode = tokenizer.batch_decode if backend is None else backend.decode_batch
        names = {number: name for name, number in tokenizer.get_vocab().items()}
        size = max(names, default=0) + 1
        prefix = getattr(model, "continuing_subword_prefix", None)
        suffix = getattr(model, "end_of_word_suffix", None)
        begins = any(name[:1] in _WORD_MARKS and len(name) > 1 for name in names.values())
        characters = 2 * sum(len(name) == 1 for name in names.values()) > len(names)
        rows: list[tuple[int, int, bool, bool, bool, bool]] = []  # the fields of each token, in their order
        for start in range(0, size, _TOKENS_AT_A_TIME):
            numbers = range(start, min(start + _TOKENS_AT_A_TIME, size))
            texts = decode([[number] for number in numbers], skip_special_tokens=False)
            for number, text in zip(numbers, texts, strict=True):
                name = names.get(number, "")
                if prefix and name.startswith(prefix):
                    text = text.removeprefix(prefix)
                # The pieces of a character have a name, but no text.
                piece = "\ufffd" in text or not text
                own = name.strip("".join(_WORD_MARKS)) if piece else "".join(filter(str.isalnum, text))
                if not own:
                    rows.append((0, 0, False, False, False, False))
                    continue
                if prefix:
                    continues = name.startswith(prefix)
                else:
                    continues = name[:1] not in _WORD_MARKS if begins else bool(suffix) or characters
                has_capitals = own[0].isascii() or own[0].lower() != own[0].upper()
                joins = continues and text[:1].isalnum() and has_capitals
                closes = not text[-1:].isalnum() or bool(suffix and name.endswith(suffix))
                lower = own.lower()
                hashed = _signed(_hash_letters(lower))
                rows.append((hashed, len(lower), joins, closes, own[0].isupper(), own[-1].isupper()))
        powers = [_signed(pow(_BASE, place, 2**64)) for place in range(_LONGEST_WORD)]
        ignored = [*STOP_WORDS, *string.ascii_lowercase, *string.digits]
        hashes = sorted(_signed(_hash_letters(word)) for word in ignored)
        return cls(*map(torch.tensor, (*zip(*rows, strict=True), powers, hashes)))

    def to(self, device: torch.device) -> Vocabulary:
        """Return it on a device, the same object if it is there already."""
        if self.letters.device == device:
            return self
        return Vocabulary(*(getattr(self, field.name).to(device) for field in fields(self)))

    def words(self, ids: Tensor) -> Tensor:
        """Put tokens ``(n, length)`` together to words, without waiting for the device.

        A word is a run of letters and digits that the tokenizer has cut into pieces; case does not matter, except
        that a capital within a word begins another one. Stop words, single letters and digits, and whatever has no
        letter or digit, are left out. Returned is a hash of each word where it begins, -1 elsewhere.
        """
        token = ids.clamp(min=0, max=self.letters.numel() - 1)
        count = self.count[token].masked_fill(ids < 0, 0)  # (n, length)
        filled = count > 0
        # What the token before leaves open.
        opened = F.pad((filled & ~self.closes[token])[:, :-1], (1, 0))
        in_capitals = F.pad(self.ends_capital[token][:, :-1], (1, 0))
        begins = filled & ~(self.joins[token] & opened & (~self.capital[token] | in_capitals))
        before = count.cumsum(dim=1) - count  # letters before the token, in its row
        place = torch.arange(ids.size(1), device=ids.device).expand_as(ids)
        first = torch.where(begins, place, 0).cummax(dim=1).values  # where the token's word begins
        offset = (before - before.gather(1, first)).clamp(max=self.powers.numel() - 1)
        parts = (self.letters[token] * self.powers[offset]).masked_fill(~filled, 0)
        words = torch.zeros_like(ids).scatter_add(1, first, parts)
        return (words & torch.iinfo(torch.int64).max).masked_fill(~begins | torch.isin(words, self.ignored), -1)


def split_content_words(text: str) -> list[str]:
    """Split as :func:`split_words`, without stop words and single letters and digits."""
    return [word for word in split_words(text) if word not in STOP_WORDS and not (len(word) == 1 and word.isascii())]


def _hash_letters(letters: str) -> int:
    """Hash letters so that the hash of a word is the sum of those of its parts, each times a power of the base."""
    return sum((ord(letter) + 1) * pow(_BASE, place, 2**64) for place, letter in enumerate(letters)) % 2**64


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number


@lru_cache(maxsize=2**18)
def _word_id(word: str) -> int:
    return _hash_letters(word) % 2**63  # a negative id is padding


def name_of(split: object) -> str:
    """Name a function that splits texts."""
    return getattr(split, "__qualname__", type(split).__name__)
