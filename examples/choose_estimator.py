"""Choose an estimator: what does each of them soften on my data, and is that what should be softened?

    python examples/choose_estimator.py src --estimators bm25 near-duplicate --batch-size 32
    python examples/choose_estimator.py src --estimators bm25 trained-model --teacher my-code-search

For each one a table of what its weights do at your batch size, the negatives softened most, and a page with all of
them beside their queries. Nothing is trained: what trains best, only an evaluation can tell.
"""

import argparse
from pathlib import Path

from sentence_transformers import SentenceTransformer

from st_softinfonce import calibrate, get_estimator, inspect_pairs
from st_softinfonce.data import mine_pairs


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, help="source trees to mine")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="default: %(default)s")
    parser.add_argument("--estimators", nargs="+", default=["bm25", "near-duplicate"], help="default: %(default)s")
    parser.add_argument("--teacher", help="the frozen model of trained-model, simcse or cross-encoder")
    parser.add_argument("--batch-size", type=int, default=32, help="as in training (default: %(default)s)")
    parser.add_argument("--show", type=int, default=3, help="negatives to print (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("output/estimators"), help="default: %(default)s")
    arguments = parser.parse_args()
    if missing := [str(path) for path in arguments.paths if not Path(path).exists()]:
        parser.error(f"PATH must exist, got {missing[0]!r}: check its spelling.")

    pairs = mine_pairs(arguments.paths)
    model = SentenceTransformer(arguments.model)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name in arguments.estimators:
        needs_teacher = name in ("trained-model", "simcse", "cross-encoder")
        if needs_teacher and arguments.teacher is None:
            parser.error(f"{name} needs --teacher, the model that judges")
        estimator = get_estimator(name, model=arguments.teacher) if needs_teacher else get_estimator(name)
        print(calibrate(estimator, pairs, arguments.batch_size, model=model))
        inspection = inspect_pairs(pairs, estimator, model=model, batch_size=max(arguments.batch_size, 256))
        for row in inspection.negatives.head(arguments.show).itertuples():
            print(f"    {row.weight:.2f}  {row.query[:50]!r} and {row.negative_name}: {row.negative_query[:50]!r}")
        page = inspection.write_page(arguments.output / f"{name}.html", title=f"{name}: likely false negatives")
        print(f"    all of them: {page}\n")


if __name__ == "__main__":
    main()
