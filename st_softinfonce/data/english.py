"""Which documentation is English, judged by a text, its file and its package together."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

_LANGUAGES = (
    "en",
    "de",
    "fr",
    "es",
    "pt",
    "it",
    "nl",
    "ca",
    "ro",
    "sv",
    "da",
    "no",
    "fi",
    "pl",
    "cs",
    "hu",
    "tr",
    "id",
)
# Two of them make a text English: no other language uses these words.
_ENGLISH = frozenset("the and to with from that this given whether by be are not which its of when".split())
# One of them makes a text English that begins with it; those that are words elsewhere ("remove", "open") are left out.
_VERBS = (
    "add append apply ask attach build call cast check choose clean clear convert copy create decode define "
    "detach draw emit enable encode ensure escape extract fetch fill find fit get give handle hide "
    "initialize insert keep load look make mark merge override pop process provide push put query raise read "
    "receive register release render replace resolve retrieve return run save send serialize set show skip "
    "sort split store strip swap take tell throw translate truncate try turn unregister unset validate wait "
    "walk warn wrap write yield"
).split()
_VERBS_ALSO = (
    "assert calculate close compare compute configure construct count delete determine disable evaluate "
    "execute expand format generate import indicate invoke move normalize notify open parse perform prepare "
    "print remove represent reset start stop test transform update"
).split()
IMPERATIVES = frozenset(_VERBS + _VERBS_ALSO)
_BEGIN = frozenset(
    [*_VERBS, *(f"{verb}es" if verb.endswith(("s", "sh", "ch", "x")) else f"{verb}s" for verb in _VERBS + _VERBS_ALSO)]
)
_WORD = re.compile(r"[a-z]+")
_CERTAIN = 6.0
_PRIOR = 3.0  # mining looks for English, so that a text of which nothing is known passes for it
_PRIOR_TEXTS = 4
_MOST = 4.0  # what a file and its package can say at most for a text, and against it
_LEAST = 1.0  # less, as a package of another language has English parts more often than the reverse


class EnglishFilter:
    """Judges documentation by how likely it is in English and in 17 other languages that use Latin letters.

    A text's score is the log odds of English against the likeliest other language, by py3langid's naive Bayes
    classifier, divided by the square root of its length (as py3langid does to make odds of lengths comparable). Short
    texts have scores near 0: "Validates a signature" might be French. So the mean score of the texts of the same
    file, and of those of its package so far, are added, up to 4 for English and up to 1 against it; a sentence that
    is clearly of one language outweighs them. English words that no other language has, and verbs that documentation
    begins with ("Returns"), make a text English by themselves.

    Texts must come in a fixed order, since those of a package's earlier files speak for its later ones.

    Example:
        >>> english = EnglishFilter()
        >>> english.judge("shop", [english_score("Validates a signature.")])
        [True]
        >>> english.judge("shop", [english_score("Devuelve la lista ordenada de usuarios.")])
        [False]
    """

    def __init__(self) -> None:
        self._packages: dict[str, tuple[float, int]] = defaultdict(lambda: (_PRIOR * _PRIOR_TEXTS, _PRIOR_TEXTS))

    def judge(self, package: str, scores: Sequence[float]) -> list[bool]:
        """Judge the documentation of a file.

        Args:
            package: The file's package; whatever tells packages apart.
            scores: What `english_score` says of its texts.

        Returns:
            For each text, whether it is English.
        """
        if not scores:
            return []
        total, count = self._packages[package]
        self._packages[package] = total, count = total + sum(scores), count + len(scores)
        in_file = (sum(scores) + _PRIOR * _PRIOR_TEXTS) / (len(scores) + _PRIOR_TEXTS)
        around = max(-_LEAST, min(_MOST, (in_file + total / count) / 2))
        return [score + around > 0 for score in scores]


def is_english(text: str) -> bool:
    """Judge a text of which neither file nor package is known; what is not certain passes for English."""
    return english_score(text) + _PRIOR > 0


def english_score(text: str) -> float:
    """Score how much more likely a text is English than in the likeliest other language.

    Args:
        text: The text.

    Returns:
        Above 0 if English is likelier; within 3 of 0 nothing is certain.
    """
    words = _WORD.findall(text.lower())
    if len(_ENGLISH.intersection(words)) > 1 or (words and words[0] in _BEGIN):
        return _CERTAIN
    identifier = load_identifier()
    ranked = dict(identifier.rank(text))
    english = ranked.pop("en")
    return float(english - max(ranked.values())) / math.sqrt(len(text.encode(errors="replace")) or 1)


@lru_cache(maxsize=1)
def load_identifier() -> LanguageIdentifier:
    """Load what `english_score` judges texts by, which takes a second."""
    # Imported here, for the processes that mine files need not judge them.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    # One of its own: py3langid's is shared with whoever uses it in this process.
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.set_languages(_LANGUAGES)
    return identifier
