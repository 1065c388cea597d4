"""Random pairs to judge by eye, as the files of `query_review` hold them.

    python -m evaluation.corpus.query_sample ruby FOLDER --seed 4 > sample.jsonl
    python -m evaluation.corpus.query_sample python FOLDER --seed 4 --any-language > sample.jsonl

The folder holds archives of packages as their registry's client fetches them. Each archive gives equally many pairs,
or all that it has, and one more as long as they are needed. The same archives and seed give the same pairs. With
`--any-language`, documentation is drawn before it is known whether it is English, with what mining makes of it.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

from st_softinfonce.data import MiningReport, Source, mine_pairs
from st_softinfonce.data.discovery import find_files
from st_softinfonce.data.english import EnglishFilter, english_score
from st_softinfonce.data.file_miner import FileMiner, MiningOptions
from st_softinfonce.data.languages import load_miners

_SHOWN = 600


Read = Callable[[Path, str], list[dict[str, Any]]]


def pairs(archive: Path, language: str) -> list[dict[str, Any]]:
    """Mine the pairs of an archive."""
    return mine_pairs(archive, languages=language, show_progress=False).to_list()


def documentation(archive: Path, language: str) -> list[dict[str, Any]]:
    """Mine the pairs of an archive in any language, each with whether mining drops it as not English."""
    limits = MiningOptions()
    miner, english, rows = FileMiner([language], limits), EnglishFilter(), []
    found = find_files(
        [Source(archive)], load_miners([language]), MiningReport(), limits.max_file_bytes, limits.max_archive_bytes
    )
    for file in found:
        mined = miner.mine(str(file.location), file.language)
        are_english = english.judge(file.neighbourhood, list(map(english_score, mined.queries)))
        for function in mined.functions:
            if function.query_index is not None:
                texts = {"path": file.path, "name": function.name, "query": function.query, "code": function.code}
                rows.append(texts | {"dropped": not are_english[function.query_index]})
    return rows


def draw(language: str, archives: list[Path], seed: int, read: Read = pairs) -> Iterator[dict[str, Any]]:
    """Draw pairs of a language, of one archive after the other in turns, until none is left.

    Args:
        language: The language.
        archives: The archives; those that hold no pairs are passed over.
        seed: Of the order of an archive's pairs.
        read: What reads an archive: `pairs` or `documentation`.
    """
    shuffled = []
    for archive in sorted(archives):
        rows = read(archive, language)
        random.Random(f"{seed} {archive.name}").shuffle(rows)
        shuffled.append([{"archive": archive.name, **row} for row in rows])
    return (row for row in chain.from_iterable(zip_longest(*shuffled)) if row is not None)


def main() -> None:
    """Print the pairs as JSON lines, each with the begin of its code, which `query_review` leaves out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("language")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--any-language", action="store_true", help="documentation that is not English too")
    given = parser.parse_args()
    read = documentation if given.any_language else pairs
    for row in islice(draw(given.language, list(given.folder.iterdir()), given.seed, read), given.count):
        shown = {name: row[name] for name in ("archive", "path", "name", "query", "dropped") if name in row}
        print(json.dumps(shown | {"code": row["code"][:_SHOWN]}, ensure_ascii=False))


if __name__ == "__main__":
    main()
