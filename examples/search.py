"""Search code with a model: rank, place and name of the functions that answer a question, documented or not.

python examples/search.py "retry after a lost connection" --model DIR --code src --before BASE_MODEL"""

import argparse
import hashlib
import os
import sys
from pathlib import Path

os.environ |= {} if (bars := sys.stderr.isatty()) else {"TQDM_DISABLE": "1"}  # read when libraries are imported
import numpy as np
from sentence_transformers import SentenceTransformer

from st_softinfonce.data import languages, mine_pairs


def digest(value):
    return hashlib.blake2b(str(value).encode(), digest_size=16).hexdigest()


def index(name):
    """A model, and labels and vectors of all functions, kept in a file: only what is new to it is encoded."""
    try:
        model = SentenceTransformer(name)
    except (OSError, ValueError) as error:
        sys.exit(f"{name} cannot be loaded: {error}\nTrain one with examples/own_repository.py, or name another.")
    states = [[(str(path), path.lstat().st_mtime_ns) for path in paths] for paths in (Path(name).rglob("*"), sources)]
    file = Path(f"{args.model}.search", f"{digest((name, sorted(states[0]), args.code.resolve()))}.npz")
    kept = dict(np.load(file)) if file.exists() else {"state": "", "keys": [], "vectors": []}
    if kept["state"] != digest(states[1]):
        rows = mine_pairs(args.code, undocumented=True) or sys.exit(f"No functions found below {args.code}.")
        keys, known = list(map(digest, rows["code"])), dict(zip(kept["keys"], kept["vectors"], strict=True))
        new = {key: text for key, text in zip(keys, rows["code"], strict=True) if key not in known}
        known |= zip(new, model.encode_document(list(new.values()), show_progress_bar=bars), strict=True)
        labels = np.array([(row["path"], row["line"], row["name"]) for row in rows])
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, state=digest(states[1]), keys=keys, vectors=[known[key] for key in keys], labels=labels)
    return model, dict(np.load(file))


parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
parser.add_argument("question", nargs="*", help="without one, questions are read, one a line")
parser.add_argument("--model", required=True, help="folder or name; the index is kept beside it, in MODEL.search")
parser.add_argument("--code", required=True, type=Path, help="folder to search")
parser.add_argument("--before", nargs="*", default=[], help="other models, whose ranks are shown beside")
args = parser.parse_args()
sources = sorted(path for path in args.code.rglob("*") if path.suffix in languages.EXTENSIONS)
sources or parser.error(f"--code must be a folder with {' '.join(languages.EXTENSIONS)} files, got {args.code}")
indexes = [index(name) for name in (args.model, *args.before)]
for question in args.question or filter(None, map(str.strip, sys.stdin)):
    found = [model.similarity(model.encode_query(question), kept["vectors"])[0] for model, kept in indexes]
    ranks = zip(*((-scores).argsort().argsort().add(1).tolist() for scores in found), strict=True)
    print(f"\n{question}\n    rank" + "  before" * len(args.before))
    for of_row, (path, line, name) in sorted(zip(ranks, indexes[0][1]["labels"].tolist(), strict=True)):
        if min(of_row) <= 8:
            ends = ["/" + path.split("/", drop)[-1] for drop in range(path.count("/") + 1)]  # of package or folder
            place = next((file for end in ends for file in sources if f"/{file}".endswith(end)), path)
            print("".join(f"{rank:8}" for rank in of_row), f" {place}:{line}  {name}")
