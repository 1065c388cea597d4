"""Peak memory of the cached losses, each in a process of its own, as ratios to the host's cached loss.

python evaluation/memory.py                    # batch 4,096 on a small model; about two minutes on two cores
python evaluation/memory.py --batch-size 1024
"""

import argparse
import json
import platform
import random
import resource
import statistics
import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "memory.json"
LOSSES = ("host", "alpha=0", "bm25", "bm25-documents")


def measure(name: str, batch_size: int, mini_batch_size: int) -> None:
    """Run one step of one loss, and print this process's peak memory before and after in MiB."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from st_softinfonce import BM25Estimator, CachedSoftInfoNCELoss

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
    losses = {
        "host": lambda: CachedMultipleNegativesRankingLoss(model, mini_batch_size=mini_batch_size),
        "alpha=0": lambda: CachedSoftInfoNCELoss(model, alpha=0, mini_batch_size=mini_batch_size),
        "bm25": lambda: CachedSoftInfoNCELoss(model, "bm25", mini_batch_size=mini_batch_size),
        "bm25-documents": lambda: CachedSoftInfoNCELoss(
            model, BM25Estimator(compares="documents"), mini_batch_size=mini_batch_size
        ),
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    losses[name]()(batch, None).backward()
    print(json.dumps([before / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def main() -> None:
    """Measure every loss several times, print the table and write the results."""
    import tempfile

    parser = argparse.ArgumentParser(description="Peak memory of the cached losses, against the host's.")
    parser.add_argument("--batch-size", type=int, default=4096, help="default: %(default)s")
    parser.add_argument("--mini-batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: evaluation/results/memory.json")
    arguments = parser.parse_args()
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in LOSSES}
    for _ in range(arguments.repeats):
        for name in LOSSES:
            with tempfile.TemporaryDirectory() as folder:
                options = [name, str(arguments.batch_size), str(arguments.mini_batch_size), folder]
                command = [sys.executable, __file__, "--measure", *options]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            before, peak = json.loads(output.splitlines()[-1])
            measured[name].append((peak, peak - before))
    # The process's whole peak, and what the step adds to the imported libraries and the model.
    peaks = {name: [peak for peak, _ in values] for name, values in measured.items()}
    added = {name: [step for _, step in values] for name, values in measured.items()}
    host, host_added = statistics.median(peaks["host"]), statistics.median(added["host"])
    print(f"peak memory of one step, batch {arguments.batch_size}, mini-batch {arguments.mini_batch_size}")
    print(f"{'loss':16} {'MiB (min - max)':>22} {'to the host':>12} {'of the step alone':>18}")
    for name, values in peaks.items():
        spread = f"{min(values):.0f} - {max(values):.0f}"
        ratios = f"{statistics.median(values) / host:12.3f} {statistics.median(added[name]) / host_added:18.2f}"
        print(f"{name:16} {statistics.median(values):8.0f} {spread:>13} {ratios}")
    command = f"python evaluation/memory.py --batch-size {arguments.batch_size} --repeats {arguments.repeats}"
    report = {"command": command, "machine": platform.machine(), "peak_mib": peaks, "added_by_step_mib": added}
    report["ratio_to_host"] = {name: statistics.median(values) / host for name, values in peaks.items()}
    report["ratio_of_step"] = {name: statistics.median(values) / host_added for name, values in added.items()}
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
