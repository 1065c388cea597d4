"""The paper's three models and a modern one as sentence-transformers models, and how they are fine-tuned.

The settings are those of Li et al. (2023) and, where the paper does not say, of the code published with it: queries of
128 and code of 256 tokens, 30 epochs, dot products of vectors that are not normalised. The epoch with the best MRR on
the validation queries is kept.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import set_seed

from st_softinfonce import CachedSoftInfoNCELoss, SoftInfoNCELoss, get_estimator

LENGTHS = {"query_length": 128, "document_length": 256}
# The tasks tell the lengths apart, and the code that has data flow.
TASKS = {"query": "query", "code": "document"}
# The published code takes the output of RoBERTa's pooler, a layer on the first token, as the text's vector.
POOLER = {
    "modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}},
    "module_output_name": "sentence_embedding",
}


def codebert(name, language):
    return SentenceTransformer(modules=[Transformer(name, **LENGTHS, **POOLER)], similarity_fn_name="dot")


def graph_code_bert():
    try:
        import graph_code_bert
    except ImportError as error:
        raise SystemExit(
            "graphcodebert needs a distribution of its own: pip install ./examples/graph_code_bert"
        ) from error
    return graph_code_bert


def graphcodebert(name, language):
    module = graph_code_bert().GraphCodeBERT(name, language=language, data_flow_length=64, **LENGTHS, **POOLER)
    return SentenceTransformer(modules=[module], similarity_fn_name="dot")


def unixcoder(name, language):
    """Mean of all tokens, those of the mode included: <s> <encoder-only> </s> text </s>."""
    transformer = Transformer(name, **LENGTHS)
    mode = "<encoder-only>"
    if mode not in transformer.tokenizer.get_vocab():
        raise SystemExit(f"{name} has no token {mode}: choose a UniXcoder.")
    # In UniXcoder's vocabulary, but its tokenizer would take it to pieces, and BM25 would count it as a word.
    transformer.tokenizer.add_special_tokens({"extra_special_tokens": [mode]}, replace_extra_special_tokens=False)
    prompt = f"{mode}{transformer.tokenizer.sep_token}"
    return SentenceTransformer(
        modules=[transformer, Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")],
        prompts={"query": prompt, "document": prompt},
        default_prompt_name="document",
        similarity_fn_name="dot",
    )


def modern(name, language):
    """A model as its authors made it, with its own pooling and normalisation, and an instruction for code search."""
    model = SentenceTransformer(name)
    model[0].query_length, model[0].document_length = LENGTHS.values()
    if model.prompts.get("query"):
        instruction = "Given a description, retrieve the function that does what it describes"
        model.prompts["query"] = f"Instruct: {instruction}\nQuery:"
    return model


@dataclass
class Backbone:
    build: Callable
    model: str
    learning_rate: float = 2e-5
    batch_size: int = 32
    normalised: bool = False


BACKBONES = {
    # The paper says 2e-5; the README of its code trains CodeBERT, and only CodeBERT, with 1e-6.
    "codebert": Backbone(codebert, "microsoft/codebert-base", learning_rate=1e-6),
    "graphcodebert": Backbone(graphcodebert, "microsoft/graphcodebert-base"),
    "unixcoder": Backbone(unixcoder, "microsoft/unixcoder-base", batch_size=64),
    # Not in the paper. Its vectors are normalised, so the loss has its usual cosines at scale 20.
    "modern": Backbone(modern, "Qwen/Qwen3-Embedding-0.6B", normalised=True),
}


def say_what_data_flow_sees(train, language):
    some = train["code"][:200]
    flows = [graph_code_bert().extract_data_flow(code, language) for code in some]
    parsed = sum(flow is not None for flow in flows)
    print(f"Data flow: {parsed} of the first {len(some)} functions parse; the others are read as plain text.")
    if parsed < len(some) / 2:
        print("Tokens joined by spaces have lost their line breaks: take CodeSearchNet's own files or mined code.")


def load(folder, name):
    """Load a backbone that was saved; the host imports no class but its own without trust_remote_code."""
    return SentenceTransformer(str(folder), trust_remote_code=name == "graphcodebert")


def add_training_options(parser):
    """Add the options that all trainings share; `fit` takes them by these names."""
    parser.add_argument("--epochs", type=float, default=30, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, help="pairs a step (default: the paper's)")
    parser.add_argument("--learning-rate", type=float, help="default: the paper's")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16, on a GPU that does")
    parser.add_argument(
        "--mini-batch-size",
        type=int,
        help="embed so many texts at a time: the same loss, less memory, a third longer",
    )
    parser.add_argument(
        "--accumulate",
        type=int,
        default=1,
        help="split each step into so many batches; each has its own negatives only",
    )


def training_options(arguments):
    names = ("epochs", "batch_size", "learning_rate", "bf16", "mini_batch_size", "accumulate")
    return {name: getattr(arguments, name) for name in names}


def check_settings(folder, settings):
    """Note what a training in this folder is made with; refuse to go on with one that was made otherwise."""
    file = folder / "settings.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings))
        return
    before = json.loads(file.read_text())
    changed = [name for name in sorted(before.keys() | settings) if before.get(name) != settings.get(name)]
    if changed:
        made = "; ".join(f"{name}={before.get(name)!r}, not {settings.get(name)!r}" for name in changed)
        raise SystemExit(f"{folder} was made with {made}: choose another --output, or delete it.")


def fit(
    name, train, evaluator, folder, *, language, seed, model=None, estimator=None, estimator_options=None,
    epochs=30, batch_size=None, learning_rate=None, bf16=False, mini_batch_size=None, accumulate=1,
):  # fmt: skip
    """Fine-tune a backbone on the columns `query` and `code`; go on from the last checkpoint in the folder.

    `model` are other weights than the paper's; `estimator` is a name, or None for InfoNCE. Returns the model of the
    best epoch, and that epoch's value of `evaluator.primary_metric`.
    """
    backbone = BACKBONES[name]
    batch_size = batch_size or backbone.batch_size
    if batch_size % accumulate:
        raise SystemExit(f"--accumulate must divide the batch of {batch_size}, got {accumulate}.")
    set_seed(seed)  # before the model: checkpoints without a pooler get a new one
    student = backbone.build(model or backbone.model, language)
    prompts = {column: student.prompts[task] for column, task in TASKS.items() if student.prompts.get(task)}
    if estimator in ("trained-model", "simcse"):
        estimator = get_estimator(estimator, **estimator_options)
        estimator.precompute(train, student, prompts=prompts, tasks=TASKS)
    make, options = SoftInfoNCELoss, {}
    if mini_batch_size:
        make, options = CachedSoftInfoNCELoss, {"mini_batch_size": mini_batch_size}
    loss = (make if backbone.normalised else make.paper)(student, estimator, **options)
    trainer = SentenceTransformerTrainer(
        model=student,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(folder),
            num_train_epochs=epochs,
            per_device_train_batch_size=batch_size // accumulate,
            gradient_accumulation_steps=accumulate,
            learning_rate=learning_rate or backbone.learning_rate,
            bf16=bf16,
            use_cpu=student.device.type == "cpu",
            router_mapping=TASKS,
            prompts=prompts,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,  # and the best one
            load_best_model_at_end=True,
            metric_for_best_model=f"eval_{evaluator.primary_metric}",
            seed=seed,
            report_to="none",
        ),
        train_dataset=train,
        evaluator=evaluator,
        loss=loss,
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    return student, trainer.state.best_metric


def last_checkpoint(folder):
    """Find the last whole checkpoint: the trainer writes its state last."""
    states = Path(folder).glob("checkpoint-*/trainer_state.json")
    folders = sorted((state.parent for state in states), key=lambda path: int(path.name.split("-")[1]))
    return str(folders[-1]) if folders else None
