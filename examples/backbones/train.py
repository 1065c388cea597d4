"""Fine-tune CodeBERT, GraphCodeBERT, UniXcoder or a modern embedding model with the paper's settings.

    python examples/backbones/train.py unixcoder --language ruby --code-search-net data/CSN --seed 1234
    python examples/backbones/train.py modern --language python --mine src --test-packages mypackage

The epoch that is best on the validation pairs is kept; the test pairs are never looked at. Repeat the command to go on
where it was interrupted. `paper.py` makes the whole table of the paper.
"""

import argparse
from pathlib import Path

from backbones import (
    BACKBONES,
    add_training_options,
    check_settings,
    fit,
    load,
    say_what_data_flow_sees,
    training_options,
)

from st_softinfonce import CodeRetrievalEvaluator
from st_softinfonce.data import load_code_search_net, mine_pairs, split_by_package


def read_pairs(arguments):
    """Training and validation pairs."""
    if arguments.mine:
        pairs = split_by_package(mine_pairs(arguments.mine, languages=arguments.language), arguments.test_packages)
        return pairs["train"], pairs["test"]
    splits = load_code_search_net(arguments.code_search_net, arguments.language, splits=["train", "validation"])
    return splits["train"], splits["validation"]


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
    parser.add_argument("--seed", type=int, default=1234, help="default: %(default)s")
    parser.add_argument("--output", type=Path, help="default: output/BACKBONE-LANGUAGE-SEED")
    add_training_options(parser)
    arguments = parser.parse_args()
    if arguments.mine and not arguments.test_packages:
        parser.error("--mine needs --test-packages: names of mined packages to validate on")
    name, language = arguments.backbone, arguments.language
    output = arguments.output or Path(f"output/{name}-{language}-{arguments.seed}")

    check_settings(output, {key: str(value) for key, value in vars(arguments).items() if key != "output"})
    train, validation = read_pairs(arguments)
    if name == "graphcodebert":
        say_what_data_flow_sees(train, language)
    estimator, options = arguments.estimator, {}
    if arguments.teacher:
        estimator, options = "trained-model", {"model": load(arguments.teacher, name)}
    model, best = fit(
        name,
        train.select_columns(["query", "code"]),
        CodeRetrievalEvaluator(validation, sample=None, name="validation"),
        output / "checkpoints",
        language=language,
        seed=arguments.seed,
        model=arguments.model,
        estimator=None if arguments.infonce else estimator,
        estimator_options=options,
        **training_options(arguments),
    )
    model.save_pretrained(str(output))
    print(f"Best MRR on the validation pairs: {best:.4f}")
    trust = ", trust_remote_code=True" if name == "graphcodebert" else ""
    print(f"Model: SentenceTransformer({str(output)!r}{trust})")


if __name__ == "__main__":
    main()
