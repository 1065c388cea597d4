"""The paper's main table in one command: languages x models x losses x seeds on CodeSearchNet, and the mean test MRR.

    python examples/backbones/paper.py --bf16
    python examples/backbones/paper.py --data data/CSN --languages ruby --models unixcoder=models/unixcoder --bf16
    python examples/backbones/paper.py --list

Every run keeps the epoch with the best MRR on the validation queries, and is then measured once on the test queries,
each against all candidates of its language. Repeat the command to go on where it stopped: finished runs are skipped,
and a run that was interrupted goes on from its last epoch. The table, for what is finished, is in OUTPUT/table.md.
"""

import argparse
import contextlib
import json
import shutil
import tempfile
import time
import warnings
from collections import defaultdict
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from statistics import fmean

import mteb
from backbones import (
    BACKBONES,
    TASKS,
    add_training_options,
    check_settings,
    fit,
    load,
    say_what_data_flow_sees,
    training_options,
)
from sentence_transformers import SentenceTransformer
from transformers.utils.logging import disable_progress_bar

from st_softinfonce import CodeRetrievalEvaluator
from st_softinfonce.data import load_code_search_net
from st_softinfonce.data.code_search_net import PAPER_COUNTS
from st_softinfonce.estimators import train_simcse
from st_softinfonce.tasks import CodeSearchNetMRR

LANGUAGES = {"ruby": "Ruby", "python": "Python", "java": "Java", "javascript": "JavaScript", "php": "PHP", "go": "Go"}
MODELS = {"codebert": "CodeBERT", "graphcodebert": "GraphCodeBERT", "unixcoder": "UniXcoder"}
LOSSES = {
    "infonce": "InfoNCE",
    "bm25": "Soft, BM25",
    "trained-model": "Soft, trained model",
    "simcse": "Soft, SimCSE",
}
# A pass forwards and backwards over a query of 128 and a code of 256 tokens: PyTorch's count for RoBERTa-base.
FLOPS_PER_PAIR = 205e9


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        default="code-search-net/code_search_net",
        help="folder with CodeSearchNet, or id of a dataset on the Hub, which is downloaded (default: %(default)s)",
    )
    parser.add_argument("--languages", nargs="+", choices=LANGUAGES, default=list(LANGUAGES), help="default: all six")
    parser.add_argument(
        "--models",
        nargs="+",
        default=list(MODELS),
        metavar="NAME[=WEIGHTS]",
        help=f"{', '.join(MODELS)}, each with a folder or a name on the Hub if it is not the paper's (default: all)",
    )
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES), help="default: all four")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1234, 12345, 123456], help="default: the paper's")
    parser.add_argument("--output", type=Path, default=Path("output/paper"), help="default: %(default)s")
    parser.add_argument(
        "--simcse-base",
        default="sentence-transformers/msmarco-distilbert-dot-v5",
        help="folder or name of the encoder that SimCSE's training starts from (default: %(default)s)",
    )
    parser.add_argument("--keep-models", action="store_true", help="keep every model, 0.5 GB each (default: teachers)")
    parser.add_argument("--evaluation-batch-size", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--list", action="store_true", help="only list what is left to do, and the hours to expect")
    parser.add_argument(
        "--teraflops", type=float, default=100, help="what your GPU does a second, for --list (default: %(default)s)"
    )
    add_training_options(parser)
    arguments = parser.parse_args()
    weights = dict(entry.partition("=")[::2] for entry in arguments.models)
    if unknown := [name for name in weights if name not in MODELS]:
        parser.error(f"--models takes {', '.join(MODELS)}, got {unknown[0]!r}")
    arguments.models = {name: place or BACKBONES[name].model for name, place in weights.items()}
    return arguments


@lru_cache(maxsize=1)
def read(data, language):
    return load_code_search_net(data, language, splits=["train", "validation", "codebase"])


def plan(arguments):
    """List all runs, seed by seed, a teacher before the run that needs it."""
    losses = [loss for loss in LOSSES if loss in arguments.losses]
    if "trained-model" in losses:
        losses = ["infonce", *(loss for loss in losses if loss != "infonce")]
    return list(product(arguments.seeds, arguments.languages, arguments.models, losses))


def folder_of(arguments, seed, language, name, loss):
    return arguments.output / name / language / f"{loss}-{seed}"


def settings_of(arguments, name, loss):
    """What a run's result depends on, beside the names in its folder."""
    more = {"simcse_base": arguments.simcse_base} if loss == "simcse" else {}
    return {"data": arguments.data, "weights": arguments.models[name], **training_options(arguments), **more}


def check_sources(arguments):
    """Find out now, not after a day, that data or weights are missing."""
    data, first = arguments.data, arguments.languages[0]
    sources = [
        (f"--data {data}", partial(load_code_search_net, data, language, splits=["validation", "test", "codebase"]))
        for language in arguments.languages
    ]
    for name, weights in arguments.models.items():
        sources.append((f"--models {name}={weights}", partial(BACKBONES[name].build, weights, first)))
    if "simcse" in arguments.losses:
        sources.append((f"--simcse-base {arguments.simcse_base}", partial(SentenceTransformer, arguments.simcse_base)))
    for option, load_source in sources:
        try:
            load_source()
        except OSError as error:
            raise SystemExit(
                f"{option} cannot be loaded: name a folder, or the Hub's with a network. {error}"
            ) from error


def make_simcse(arguments):
    """Train the paper's encoder of queries, once for all runs: on the training queries of all languages there are."""
    folder = arguments.output / "simcse"
    if not folder.exists():
        queries = []
        for language in LANGUAGES:
            with contextlib.suppress(FileNotFoundError):
                queries += load_code_search_net(arguments.data, language, splits=["train"])["train"]["query"]
        print(f"SimCSE: {arguments.simcse_base} on {len(queries)} queries", flush=True)
        base = SentenceTransformer(arguments.simcse_base)
        base.max_seq_length = min(128, base.max_seq_length or 128)
        with tempfile.TemporaryDirectory(dir=arguments.output) as made:
            on_cpu = base.device.type == "cpu"
            encoder = train_simcse(queries, base, output_dir=made, epochs=10, bf16=arguments.bf16, use_cpu=on_cpu)
            encoder.save_pretrained(f"{made}/simcse")
            if not folder.exists():  # another process may have been faster
                Path(made, "simcse").rename(folder)
    return folder


def estimator_options(arguments, seed, language, name, loss):
    if loss == "simcse":
        return {"model": make_simcse(arguments)}
    if loss != "trained-model":
        return {}
    teacher = folder_of(arguments, seed, language, name, "infonce") / "model"
    if not teacher.exists():
        raise SystemExit(f"{teacher} is missing: delete {teacher.parent} to train this teacher again.")
    return {"model": load(teacher, name)}


def score(model, arguments, language):
    """Measure the MRR of the test queries, each against all candidates of the language."""
    task = CodeSearchNetMRR(arguments.data, languages=[language])
    result = mteb.evaluate(
        model,
        tasks=[task],
        cache=None,  # it knows a model and its teacher by one name
        encode_kwargs={"batch_size": arguments.evaluation_batch_size},
        co2_tracker=False,
        show_progress_bar=False,
    )
    return result.task_results[0].get_score()


def make_run(arguments, seed, language, name, loss):
    started = time.time()
    folder = folder_of(arguments, seed, language, name, loss)
    check_settings(folder, settings_of(arguments, name, loss))
    splits = read(arguments.data, language)
    if name == "graphcodebert":
        say_what_data_flow_sees(splits["train"], language)
    evaluator = CodeRetrievalEvaluator(
        splits["validation"],
        corpus=splits["codebase"],
        sample=None,
        name="validation",
        batch_size=arguments.evaluation_batch_size,
    )
    model, best = fit(
        name,
        splits["train"].select_columns(list(TASKS)),
        evaluator,
        folder / "checkpoints",
        language=language,
        seed=seed,
        model=arguments.models[name],
        estimator=None if loss == "infonce" else loss,
        estimator_options=estimator_options(arguments, seed, language, name, loss),
        **training_options(arguments),
    )
    if arguments.keep_models or loss == "infonce":
        model.save_pretrained(str(folder / "model"))
    found = {"test_mrr": score(model, arguments, language), "validation_mrr": best}
    found["hours"] = round((time.time() - started) / 3600, 2)
    unfinished = folder / "result.json.part"
    unfinished.write_text(json.dumps(found))
    unfinished.replace(folder / "result.json")
    shutil.rmtree(folder / "checkpoints")
    return found


def make_table(arguments):
    """Lay out the finished runs as the paper's Table 1, in Markdown."""
    found = defaultdict(list)
    for run in plan(arguments):
        result = folder_of(arguments, *run) / "result.json"
        if result.exists():
            found[run[1:]].append(json.loads(result.read_text())["test_mrr"])
    lines = [
        "| model | loss, estimator | " + " | ".join(LANGUAGES[language] for language in arguments.languages) + " |",
        "| --- | --- |" + " --- |" * len(arguments.languages),
    ]
    losses = [loss for loss in LOSSES if any(key[2] == loss for key in found)]
    for name, loss in product(arguments.models, losses):
        cells = []
        for language in arguments.languages:
            values = found[language, name, loss]
            missing = f" ({len(values)} of {len(arguments.seeds)})" if len(values) < len(arguments.seeds) else ""
            cells.append(f"{fmean(values):.3f}".removeprefix("0") + missing if values else "-")
        lines.append(f"| {MODELS[name] if loss == losses[0] else ''} | {LOSSES[loss]} | {' | '.join(cells)} |")
    seeds = ", ".join(map(str, arguments.seeds))
    return "\n".join([*lines, "", f"MRR of the test queries among all candidates, mean over the seeds {seeds}.", ""])


def hours(arguments, language, loss):
    """Estimate a run from the paper's counts: all texts as long as they can be, which most are not."""
    train, validation, _, codebase = PAPER_COUNTS[language]
    forwards = FLOPS_PER_PAIR / 3  # the backward pass takes twice as long; a third of the tokens are the query's
    flops = arguments.epochs * (train * FLOPS_PER_PAIR + (validation / 3 + codebase * 2 / 3) * forwards)
    if loss == "trained-model":
        flops += train * forwards
    return flops / arguments.teraflops / 1e12 / 3600


def main():
    arguments = parse_arguments()
    disable_progress_bar()  # "Loading weights", several times a run
    warnings.filterwarnings("ignore", category=FutureWarning, module="mteb")  # mteb's own use of a renamed method
    runs = plan(arguments)
    left = [run for run in runs if not (folder_of(arguments, *run) / "result.json").exists()]
    place = "the folder" if Path(arguments.data).is_dir() else "the Hugging Face Hub,"
    print(f"CodeSearchNet: {place} {arguments.data}")
    print("Models: " + ", ".join(f"{name} from {place}" for name, place in arguments.models.items()))
    print(f"{len(runs)} runs, {len(left)} left: {arguments.output}")
    if arguments.list:
        for seed, language, name, loss in left:
            expected = hours(arguments, language, loss)
            print(f"{name:14}{language:11}{loss:14} seed {seed:<7} at most {expected:6.2f} hours")
        total = sum(hours(arguments, language, loss) for _, language, _, loss in left)
        print(f"At most {total:.0f} hours at {arguments.teraflops:g} TFLOP/s.")
    if not arguments.list:
        for seed, language, name, loss in set(runs) - set(left):
            check_settings(folder_of(arguments, seed, language, name, loss), settings_of(arguments, name, loss))
        if left:
            check_sources(arguments)
        for number, run in enumerate(left, 1):
            seed, language, name, loss = run
            print(f"{number} of {len(left)}: {name}, {language}, {loss}, seed {seed}", flush=True)
            found = make_run(arguments, *run)
            print(f"  test MRR {found['test_mrr']:.3f}, validation {found['validation_mrr']:.3f}", flush=True)
            (arguments.output / "table.md").write_text(make_table(arguments))
    print(f"\n{make_table(arguments)}")


if __name__ == "__main__":
    main()
