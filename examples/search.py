"""Search code with a model: rank, place and name of the functions that answer a question, documented or not.

python examples/search.py "retry after a lost connection" --model DIR --code src
python examples/search.py --model DIR --code src --before BASE_MODEL < questions.txt
"""

import argparse
import hashlib
import os
import sys
from pathlib import Path

os.environ |= {} if (bars := sys.stderr.isatty()) else {"TQDM_DISABLE": "1"}  # read when libraries are imported
import numpy as np
from sentence_transformers import SentenceTransformer

from st_softinfonce import data


def digest(text):
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def state(folder):
    files = [path for path in sorted(folder.rglob("*")) if "/." not in path.relative_to(folder.parent).as_posix()]
    return digest("\n".join(f"{path} {path.lstat().st_mtime_ns}" for path in files))


def index(name, code, folder):
    """A model, and labels and vectors of all functions, kept in a file: only what is new to it is encoded."""
    model, file = SentenceTransformer(name), folder / f"{digest(f'{name} {code.resolve()}')}.npz"
    states, kept = [state(Path(name)), state(code)], dict(np.load(file)) if file.exists() else {"states": ["", ""]}
    if list(kept["states"]) != states:
        rows = data.mine_pairs(code, undocumented=True) or sys.exit(f"No functions found below {code}.")
        keys = [digest(text) for text in rows["code"]]
        known = dict(zip(kept["keys"], kept["vectors"], strict=True)) if kept["states"][0] == states[0] else {}
        new = {key: text for key, text in zip(keys, rows["code"], strict=True) if key not in known}
        known |= zip(new, model.encode_document(list(new.values()), show_progress_bar=bars), strict=True)
        labels = [(row["path"], row["line"], row["name"]) for row in rows]
        kept = {"states": states, "keys": keys, "labels": labels, "vectors": np.stack([known[key] for key in keys])}
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(file, **kept)
    return model, kept


parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
parser.add_argument("question", nargs="*", help="without one, questions are read, one a line")
parser.add_argument("--model", required=True, help="folder or name; the index is kept beside it, in MODEL.search")
parser.add_argument("--code", required=True, type=Path, help="folder to search")
parser.add_argument("--before", nargs="*", default=[], help="other models, whose ranks are shown beside")
args = parser.parse_args()
indexes = [index(name, args.code, Path(f"{args.model}.search")) for name in (args.model, *args.before)]
for question in args.question or filter(None, map(str.strip, sys.stdin)):
    found = [model.similarity(model.encode_query(question), kept["vectors"])[0] for model, kept in indexes]
    ranks = zip(*((-scores).argsort().argsort().add(1).tolist() for scores in found), strict=True)
    print(f"\n{question}\n    rank" + "  before" * len(args.before))
    for of_row, (path, line, name) in sorted(zip(ranks, indexes[0][1]["labels"], strict=True), key=lambda row: row[0]):
        if min(of_row) <= 8:
            print("".join(f"{rank:8}" for rank in of_row), f" {next(args.code.rglob(path), path)}:{line}  {name}")
