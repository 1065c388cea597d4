"""Fine-tune CodeBERT, GraphCodeBERT, UniXcoder or a modern embedding model with the paper's settings.

    python examples/backbones/train.py unixcoder --language ruby --code-search-net data/CSN --seed 1234
    python examples/backbones/train.py modern --language python --mine src --test-packages mypackage

The settings are those of Li et al. (2023) and, where the paper does not say, of the code published with it: queries of
128 and code of 256 tokens, 30 epochs, dot products of vectors that are not normalised, seeds 1234, 12345 and 123456.
The epoch that is best on the validation pairs is kept; the test pairs are never looked at.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import set_seed

from st_softinfonce import SoftInfoNCELoss, get_estimator
from st_softinfonce.data import mine_pairs, split_by_package

LENGTHS = {"query_length": 128, "document_length": 256}
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
    loss: Callable = SoftInfoNCELoss.paper


BACKBONES = {
    # The paper says 2e-5; the README of its code trains CodeBERT, and only CodeBERT, with 1e-6.
    "codebert": Backbone(codebert, "microsoft/codebert-base", learning_rate=1e-6),
    "graphcodebert": Backbone(graphcodebert, "microsoft/graphcodebert-base"),
    "unixcoder": Backbone(unixcoder, "microsoft/unixcoder-base", batch_size=64),
    # Not in the paper. Its vectors are normalised, so the loss has its usual cosines at scale 20.
    "modern": Backbone(modern, "Qwen/Qwen3-Embedding-0.6B", loss=SoftInfoNCELoss),
}


def read_pairs(arguments):
    """Training pairs, validation pairs, and the candidates to rank for the latter."""
    if arguments.mine:
        pairs = mine_pairs(arguments.mine, languages=arguments.language)
        pairs = split_by_package(pairs, test_packages=arguments.test_packages)
        return pairs["train"], pairs["test"], pairs["test"]["code"]
    from st_softinfonce.data import load_code_search_net

    pairs = load_code_search_net(arguments.code_search_net, arguments.language, splits=["train", "validation"])
    return pairs["train"], pairs["validation"], pairs["validation"]["code"]


def say_what_data_flow_sees(train, language):
    some = train["code"][:200]
    flows = [graph_code_bert().extract_data_flow(code, language) for code in some]
    parsed = sum(flow is not None for flow in flows)
    print(f"Data flow: {parsed} of the first {len(some)} functions parse; the others are read as plain text.")
    if parsed < len(some) / 2:
        print("Tokens joined by spaces have lost their line breaks: take CodeSearchNet's own files or mined code.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("backbone", choices=BACKBONES)
    parser.add_argument("--language", required=True, help="go, java, javascript, php, python or ruby")
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--code-search-net", help="folder with CodeSearchNet, or id of a dataset on the Hub")
    data.add_argument("--mine", nargs="+", type=Path, help="source trees to mine instead")
    parser.add_argument("--test-packages", nargs="+", help="mined packages to validate on")
    parser.add_argument("--estimator", default="bm25", help="what weighs the negatives (default: %(default)s)")
    parser.add_argument("--infonce", action="store_true", help="plain InfoNCE, the paper's baseline and teacher")
    parser.add_argument("--teacher", help="output of such a run: weigh with the trained model instead")
    parser.add_argument("--model", help="name or path of other weights of the same architecture")
    parser.add_argument("--epochs", type=float, default=30, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, help="default: the paper's")
    parser.add_argument("--learning-rate", type=float, help="default: the paper's")
    parser.add_argument(
        "--seed", type=int, default=1234, help="the paper has 1234, 12345, 123456 (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, help="default: output/BACKBONE-LANGUAGE-SEED")
    arguments = parser.parse_args()
    if arguments.mine and not arguments.test_packages:
        parser.error("--mine needs --test-packages: names of mined packages to validate on")
    backbone = BACKBONES[arguments.backbone]
    output = arguments.output or Path(f"output/{arguments.backbone}-{arguments.language}-{arguments.seed}")

    set_seed(arguments.seed)  # before the model: checkpoints without a pooler get a new one
    model = backbone.build(arguments.model or backbone.model, arguments.language)
    train, validation, candidates = read_pairs(arguments)
    train = train.select_columns(["query", "code"])
    if arguments.backbone == "graphcodebert":
        say_what_data_flow_sees(train, arguments.language)

    # The tasks tell the lengths apart, and the code that has data flow.
    tasks = {"query": "query", "code": "document"}
    prompts = {column: model.prompts[task] for column, task in tasks.items() if model.prompts.get(task)}
    estimator = arguments.estimator
    if arguments.teacher:
        # The host imports no class but its own without trust_remote_code.
        teacher = SentenceTransformer(arguments.teacher, trust_remote_code=arguments.backbone == "graphcodebert")
        estimator = get_estimator("trained-model", model=teacher)
        estimator.precompute(train, model, prompts=prompts, tasks=tasks)
    loss = backbone.loss(model, None if arguments.infonce else estimator)

    evaluator = InformationRetrievalEvaluator(
        queries={str(number): query for number, query in enumerate(validation["query"])},
        corpus={str(number): code for number, code in enumerate(candidates)},
        relevant_docs={str(number): {str(number)} for number in range(len(validation))},
        mrr_at_k=[1000],
        name="validation",
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(output / "checkpoints"),
            num_train_epochs=arguments.epochs,
            per_device_train_batch_size=arguments.batch_size or backbone.batch_size,
            learning_rate=arguments.learning_rate or backbone.learning_rate,
            router_mapping=tasks,
            prompts=prompts,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model=f"eval_validation_{model.similarity_fn_name}_mrr@1000",
            seed=arguments.seed,
            report_to="none",
        ),
        train_dataset=train,
        evaluator=evaluator,
        loss=loss,
    )
    trainer.train()
    model.save_pretrained(str(output))
    print(f"Best {trainer.args.metric_for_best_model}: {trainer.state.best_metric:.4f}")
    trust = ", trust_remote_code=True" if arguments.backbone == "graphcodebert" else ""
    print(f"Model: SentenceTransformer({str(output)!r}{trust})")


if __name__ == "__main__":
    main()
