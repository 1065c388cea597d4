"""Random pairs to judge by eye, as the files of `query_review` hold them.

    python -m evaluation.corpus.query_sample ruby FOLDER --seed 4 > sample.jsonl

The folder holds archives of packages as their registry's client fetches them. Each archive gives equally many pairs,
or all that it has, and one more as long as they are needed. The same archives and seed give the same pairs.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

from st_softinfonce.data import mine_pairs

_SHOWN = 600


def draw(language: str, archives: list[Path], seed: int) -> Iterator[dict[str, Any]]:
    """Draw pairs of a language, of one archive after the other in turns, until none is left.

    Args:
        language: The language.
        archives: The archives; those that hold no pairs are passed over.
        seed: Of the order of an archive's pairs.
    """
    shuffled = []
    for archive in sorted(archives):
        rows = mine_pairs(archive, languages=language, show_progress=False).to_list()
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
    given = parser.parse_args()
    for row in islice(draw(given.language, list(given.folder.iterdir()), given.seed), given.count):
        shown = {name: row[name] for name in ("archive", "path", "name", "query")}
        print(json.dumps(shown | {"code": row["code"][:_SHOWN]}, ensure_ascii=False))


if __name__ == "__main__":
    main()
