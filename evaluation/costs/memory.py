"""Peak memory of one step, each loss in a process of its own, as ratios to the host's InfoNCE.

python -m evaluation cost memory        # cached losses, batch 4,096, on a small model; minutes on two cores
python -m evaluation cost memory --batch-size 32 512 2048 8192 --cached-from 1024
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from evaluation.costs.losses import GUIDED, HOST, UNWEIGHTED, make_losses

MOST_GUIDED = 2048
ESTIMATORS = ("bm25", "bm25:compares=documents", "trained-model:model=guide")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--batch-size", type=int, nargs="+", default=[4096], help="default: 4096")
    parser.add_argument("--mini-batch-size", type=int, default=32, help="of cached losses; default: %(default)s")
    parser.add_argument("--cached-from", type=int, default=0, metavar="SIZE", help="smaller batches: plain losses")
    parser.add_argument("--repeats", type=int, default=3, help="default: %(default)s")


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Measure every loss several times at each batch size."""
    return {"sizes": [_measure_size(given, size) for size in given.batch_size]}


def _measure_size(given: argparse.Namespace, batch_size: int) -> dict[str, Any]:
    mini_batch_size = given.mini_batch_size if batch_size >= given.cached_from else None
    # The guided loss holds (rows, n, D) at once, and its steps grow out of all proportion to the others'.
    names = [HOST, UNWEIGHTED, *ESTIMATORS, *([GUIDED] if batch_size <= MOST_GUIDED else [])]
    peaks, added = defaultdict(list), defaultdict(list)
    for _ in range(given.repeats):
        for name in names:
            options = [name, str(batch_size), json.dumps(mini_batch_size)]
            command = [sys.executable, "-m", "evaluation.costs.memory", *options]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            before, peak = json.loads(output.splitlines()[-1])
            peaks[name].append(peak)
            added[name].append(peak - before)
    print(f"batch {batch_size}, mini-batches of {mini_batch_size}: {dict(peaks)} MiB", flush=True)

    def to_host(values: dict[str, list[float]]) -> dict[str, float]:
        return {name: statistics.median(values[name]) / statistics.median(values[HOST]) for name in names}

    return {
        "batch_size": batch_size,
        "mini_batch_size": mini_batch_size,
        "peak_mib": peaks,
        "added_by_step_mib": added,
        "ratio_to_host": to_host(peaks),
        "ratio_of_step": to_host(added),
    }


def _step(name: str, batch_size: int, mini_batch_size: int | None) -> None:
    """Make one step of one loss, and print the peak memory of this process before and after, in MiB."""
    torch.manual_seed(0)
    model = _model()
    generator = random.Random(0)

    def texts(longest: int) -> list[str]:
        lengths = (generator.randint(4, longest) for _ in range(batch_size))
        return [" ".join(f"w{int(generator.paretovariate(0.7)) % 5000}" for _ in range(length)) for length in lengths]

    batch = [model.preprocess(texts(24)), model.preprocess(texts(48))]
    make = make_losses(model, ESTIMATORS, mini_batch_size)[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    make()(batch, None).backward()
    print(json.dumps([before / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def _model() -> SentenceTransformer:
    """Make a small transformer without pretrained weights."""
    words = ["[PAD]", "[UNK]", *(f"w{number}" for number in range(5000))]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    with tempfile.TemporaryDirectory() as folder:
        BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
        fast.save_pretrained(folder)
        transformer = Transformer(folder)
    return SentenceTransformer(modules=[transformer, Pooling(64)], device="cpu")


if __name__ == "__main__":
    _step(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
