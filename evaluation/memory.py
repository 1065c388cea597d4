"""Peak memory of one step, each loss in a process of its own, as ratios to the host's InfoNCE.

python evaluation/memory.py                    # cached losses, batch 4,096, on a small model; minutes on two cores
python evaluation/memory.py --batch-size 32 512 2048 8192 --cached-from 1024
"""

import argparse
import copy
import json
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "memory.json"
MOST_GUIDED = 2048
LOSSES = ("host", "host's GISTEmbed", "alpha=0", "bm25", "bm25-documents", "trained-model")


def measure(name: str, batch_size: int, mini_batch_size: int | None) -> None:
    """Run one step of one loss, cached if it has mini-batches, and print the peak memory before and after in MiB."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses as host_losses
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from st_softinfonce import BM25Estimator, CachedSoftInfoNCELoss, SoftInfoNCELoss, get_estimator

    words = ["[PAD]", "[UNK]", *(f"w{number}" for number in range(5000))]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    folder = Path(sys.argv[-1])
    config = BertConfig(
        vocab_size=len(words), hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    model = SentenceTransformer(modules=[Transformer(str(folder)), Pooling(64)], device="cpu")

    generator = random.Random(0)

    def texts(longest: int) -> list[str]:
        lengths = (generator.randint(4, longest) for _ in range(batch_size))
        return [" ".join(f"w{int(generator.paretovariate(0.7)) % 5000}" for _ in range(length)) for length in lengths]

    batch = [model.preprocess(texts(24)), model.preprocess(texts(48))]
    # The losses with a teacher have one of the model's size, whatever they need it for.
    guide = (
        copy.deepcopy(model).eval().requires_grad_(False) if name in ("host's GISTEmbed", "trained-model") else None
    )
    cached = {} if mini_batch_size is None else {"mini_batch_size": mini_batch_size}
    prefix = "Cached" if cached else ""
    host = getattr(host_losses, f"{prefix}MultipleNegativesRankingLoss")
    guided = getattr(host_losses, f"{prefix}GISTEmbedLoss")
    ours = CachedSoftInfoNCELoss if cached else SoftInfoNCELoss
    losses = {
        "host": lambda: host(model, **cached),
        "host's GISTEmbed": lambda: guided(model, guide, **cached),
        "alpha=0": lambda: ours(model, alpha=0, **cached),
        "bm25": lambda: ours(model, "bm25", **cached),
        "bm25-documents": lambda: ours(model, BM25Estimator(compares="documents"), **cached),
        "trained-model": lambda: ours(model, get_estimator("trained-model", model=guide), **cached),
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    losses[name]()(batch, None).backward()
    print(json.dumps([before / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def measure_all(batch_size: int, mini_batch_size: int | None, repeats: int) -> dict[str, Any]:
    """Measure every loss several times at one batch size, and print the table."""
    # The guided loss holds (rows, n, D) at once, and its steps grow out of all proportion to the others'.
    names = [name for name in LOSSES if name != "host's GISTEmbed" or batch_size <= MOST_GUIDED]
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                options = [name, str(batch_size), json.dumps(mini_batch_size), folder]
                command = [sys.executable, __file__, "--measure", *options]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            before, peak = json.loads(output.splitlines()[-1])
            measured[name].append((peak, peak - before))
    # The process's whole peak, and what the step adds to the imported libraries and the model.
    peaks = {name: [peak for peak, _ in values] for name, values in measured.items()}
    added = {name: [step for _, step in values] for name, values in measured.items()}
    host, host_added = statistics.median(peaks["host"]), statistics.median(added["host"])
    how = "plain losses" if mini_batch_size is None else f"cached losses, mini-batches of {mini_batch_size}"
    print(f"peak memory of one step, batch {batch_size}, {how}")
    print(f"{'loss':16} {'MiB (min - max)':>22} {'to the host':>12} {'of the step alone':>18}")
    for name, values in peaks.items():
        spread = f"{min(values):.0f} - {max(values):.0f}"
        ratios = f"{statistics.median(values) / host:12.3f} {statistics.median(added[name]) / host_added:18.2f}"
        print(f"{name:16} {statistics.median(values):8.0f} {spread:>13} {ratios}", flush=True)
    return {
        "batch_size": batch_size,
        "mini_batch_size": mini_batch_size,
        "peak_mib": peaks,
        "added_by_step_mib": added,
        "ratio_to_host": {name: statistics.median(values) / host for name, values in peaks.items()},
        "ratio_of_step": {name: statistics.median(values) / host_added for name, values in added.items()},
    }


def main() -> None:
    """Measure every batch size and write the results."""
    parser = argparse.ArgumentParser(description="Peak memory of one step, against the host's InfoNCE.")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[4096], help="default: 4096")
    parser.add_argument("--mini-batch-size", type=int, default=32, help="of cached losses; default: %(default)s")
    parser.add_argument(
        "--cached-from", type=int, default=0, metavar="SIZE", help="smaller batches by the plain losses; default: none"
    )
    parser.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: evaluation/results/memory.json")
    arguments = parser.parse_args()
    report = {
        "command": f"python evaluation/memory.py {' '.join(sys.argv[1:])}".strip(),
        "machine": platform.machine(),
        "sizes": [
            measure_all(size, arguments.mini_batch_size if size >= arguments.cached_from else None, arguments.repeats)
            for size in arguments.batch_size
        ],
    }
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4]))
    else:
        main()
