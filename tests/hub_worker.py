"""What the processes of tests/test_hub.py run: python hub_worker.py push|load FOLDER. HF_ENDPOINT is their hub.

Processes of their own, because huggingface_hub reads its endpoint when it is imported.
"""

import json
import runpy
import sys
from pathlib import Path

import numpy as np

EXAMPLE = Path(__file__).parent.parent / "examples" / "push_to_hub.py"
QUERIES = ["read a file", "sort the list", "open a socket", "send bytes", "count the lines", "find the first index"]
DOCUMENTS = ["def read path", "def sort list", "def open socket", "def send data", "def count lines", "def find index"]


def push(folder, token):
    import huggingface_hub
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    from st_softinfonce import SoftInfoNCELoss

    torch.set_num_threads(1)
    pairs = Dataset.from_dict({"query": QUERIES, "code": DOCUMENTS})
    embeddings = {}
    errors = {}

    def train(base, output, **options):
        model = SentenceTransformer(str(folder / base), device="cpu")
        trainer = SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                output_dir=str(folder / output),
                per_device_train_batch_size=len(QUERIES),
                learning_rate=1e-2,
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                **({"max_steps": 2, "save_strategy": "no"} | options),
            ),
            train_dataset=pairs,
            loss=SoftInfoNCELoss(model),
        )
        trainer.train()
        return model, trainer

    model, _ = train("bert", "by-hand")
    model.push_to_hub("user/model")
    embeddings["user/model"] = model.encode(QUERIES)
    try:
        model.push_to_hub("user/model")
    except Exception as error:
        errors["exists"] = f"{type(error).__name__}: {error}"
    model.push_to_hub("user/private", private=True)
    embeddings["user/private"] = embeddings["user/model"]

    model, trainer = train("static", "end", push_to_hub=True, hub_model_id="user/end", hub_strategy="end")
    trainer.save_model()
    embeddings["user/end"] = model.encode(QUERIES)

    options = {"save_strategy": "steps", "save_steps": 1, "hub_strategy": "every_save", "hub_always_push": True}
    model, trainer = train("static", "every-save", push_to_hub=True, hub_model_id="user/every-save", **options)
    embeddings["user/every-save"] = model.encode(QUERIES)

    pairs.push_to_hub("user/pairs")

    sys.argv = ["push_to_hub.py", "src", "--test-packages", "two", "--repository", "user/example", "--model", "static"]
    sys.argv += ["--steps", "2", "--batch-size", "8"]
    runpy.run_path(str(EXAMPLE), run_name="__main__")

    # The client's own protocol, for which this repository has no large files.
    huggingface_hub.constants.HF_HUB_DISABLE_XET = False
    model.push_to_hub("user/without-large-files", exist_ok=True)
    embeddings["user/without-large-files"] = model.encode(QUERIES)

    np.savez(folder / "pushed.npz", **embeddings)
    (folder / "push-errors.json").write_text(json.dumps(errors))


def load(folder, token):
    sys.modules["st_softinfonce"] = None  # an import of it fails

    from datasets import load_dataset
    from sentence_transformers import SentenceTransformer

    errors = {}

    def failure(name, **options):
        try:
            SentenceTransformer(name, device="cpu", **options)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None

    embeddings = {
        name: SentenceTransformer(name, device="cpu").encode(QUERIES)
        for name in ("user/model", "user/end", "user/every-save", "user/example", "user/without-large-files")
    }
    errors["private"] = failure("user/private")
    errors["nonexistent"] = failure("user/nonexistent")
    embeddings["user/private"] = SentenceTransformer("user/private", device="cpu", token=token).encode(QUERIES)
    np.savez(folder / "loaded.npz", **embeddings)
    pairs = load_dataset("user/pairs", split="train", cache_dir=str(folder / "datasets"))
    (folder / "pairs.json").write_text(json.dumps(pairs.to_dict()))
    (folder / "load-errors.json").write_text(json.dumps(errors))


if __name__ == "__main__":
    {"push": push, "load": load}[sys.argv[1]](Path(sys.argv[2]), sys.stdin.read())
