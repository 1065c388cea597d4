"""The command ``st-softinfonce``: arguments in, a public function called, text or JSON out.

Whatever is heavy is imported where it is used, so that ``--help`` answers at once. A command is a function below: its
docstring is its help, and it returns the JSON document, the text for people, and an error to end with, or ``None``.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
# What calibration.make_treatment() knows, listed here so that --help need not import torch.
_TREATMENTS = ("soften", "discount", "mask", "promote", "distill")
_MOST_PROCESSES = 8  # more than that wait for this one
_FAILED, _BAD_USE, _INTERRUPTED, _BROKEN_PIPE = 1, 2, 130, 141
# Of mine; those that are not given keep the function's own defaults.
_LIMITS: dict[str, tuple[type, str]] = {
    "min_query_tokens": (int, "fewest words of a query"),
    "max_query_tokens": (int, "most words of a query"),
    "min_code_lines": (int, "fewest lines of code without documentation"),
    "max_file_bytes": (int, "skip larger files"),
    "max_archive_bytes": (int, "unpack no more than that of an archive"),
    "seconds_per_file": (float, "skip files that take longer"),
}

_DESCRIPTION = """\
Soft-InfoNCE for sentence-transformers, before training: pairs from your code, and what treatments of their negatives
do. Training itself is Python; start from examples/own_repository.py."""
_EPILOG = """\
examples:
  st-softinfonce mine src -o pairs                       # pairs of a documentation and its function
  st-softinfonce inspect pairs -o false-negatives.html   # which negatives are treated how, with their code
  st-softinfonce calibrate pairs --batch-size 256        # treatments that are fitted to your data and batch size
  st-softinfonce estimators                              # what can judge negatives

Each command has its own --help. Exit status: 0 done, 1 failed, 2 used wrongly, 130 interrupted."""

_Answer = tuple[Any, str, "str | None"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, with these arguments instead of the process's own, and return the exit status.

    It is 0 if all is done, 1 if something failed, 2 for wrong use, 130 if interrupted, 141 if the output was closed.

    Raises:
        SystemExit: After ``--help`` or ``--version``, or if the arguments cannot be parsed.
    """
    options = _parser().parse_args(arguments)
    if not sys.stderr.isatty():
        # Keeps the progress bars of libraries out of logs and pipes; read when those are imported, later on.
        os.environ.update(HF_DATASETS_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1")
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: _complain(f"warning: {message}")
        try:
            # Libraries print too; in the output, that would spoil the JSON document.
            with contextlib.redirect_stdout(sys.stderr):
                answer, text, problem = options.command(options)
            print(json.dumps(answer, indent=2, ensure_ascii=False) if options.json else text, flush=True)
            if problem is None:
                return 0
            _complain(f"error: {problem}")
            return _FAILED
        except KeyboardInterrupt:
            _complain("interrupted")
            return _INTERRUPTED
        except BrokenPipeError:
            # Whoever read the output has enough; the interpreter must not fail to flush it at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _BROKEN_PIPE
        except Exception as error:
            bad_use = isinstance(
                error, (FileNotFoundError, FileExistsError, NotADirectoryError, ValueError, TypeError)
            )
            says_enough = bad_use or isinstance(error, (ImportError, OSError))
            _complain(f"error: {error}" if says_enough else f"error: {type(error).__name__}: {error}")
            return _BAD_USE if bad_use else _FAILED


def _mine(options: argparse.Namespace) -> _Answer:
    """Make (query, code) pairs of source trees.

    A query is the first paragraph of a function's documentation, its code the function without it. Writes a dataset
    that datasets.load_dataset("DIR") reads, with its card, and prints what was dropped by which rule. The same sources
    give the same bytes.
    """
    from st_softinfonce.data import mine_to_parquet
    from st_softinfonce.data.mining import cores
    from st_softinfonce.data.mining_report import advice_on

    limits = {name: value for name in _LIMITS if (value := getattr(options, name)) is not None}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No pairs found", category=UserWarning)  # said below
        try:
            report = mine_to_parquet(
                options.paths,
                options.output,
                languages=options.language,
                overwrite=options.overwrite,
                undocumented=options.undocumented,
                num_proc=min(cores(), _MOST_PROCESSES) if options.num_proc is None else options.num_proc,
                **limits,
            )
        except FileExistsError as error:
            raise FileExistsError(str(error).replace("overwrite=True", "--overwrite")) from error
    advice = advice_on(report)
    answer = {
        "output": str(options.output),
        "pairs": report.functions_kept,
        "candidates": report.candidates_kept,
        "enough": not advice,
        "advice": advice,
        "report": asdict(report),
    }
    if not report.functions_kept:
        return answer, str(report), f"no pairs found under {', '.join(options.paths)}. {' '.join(advice)}"
    lines = [str(report), "", f"{report.functions_kept:,} pairs in {options.output}", *advice]
    lines.append(f"Next: st-softinfonce inspect {options.output} -o false-negatives.html")
    return answer, "\n".join(lines), None


def _inspect(options: argparse.Namespace) -> _Answer:
    """See which negatives are treated how, with their code.

    Goes through pairs in batches, as training does, and writes a page of what a treatment does to their negatives:
    numbers, and the negatives treated most, each beside its query: your data's likely false negatives.
    """
    if options.output is None and not options.json:
        raise ValueError("inspect needs -o PAGE.html, --json, or both.")
    if options.output is not None:
        if options.output.is_dir():
            raise ValueError(f"-o must name a file, got the folder {options.output}.")
        options.output.parent.mkdir(parents=True, exist_ok=True)  # fails before the work, not after it
    from st_softinfonce.inspection import inspect_pairs

    inspection = inspect_pairs(**_read(options), batch_size=options.batch_size, top=options.top)
    lines = [f"{name + ':':26} {value}" for name, value in inspection.summary.items()]
    if options.output is not None:
        lines.append(f"{'page:':26} {inspection.write_page(options.output)}")
    return {"page": options.output and str(options.output), **inspection.to_dict()}, "\n".join(lines), None


def _calibrate(options: argparse.Namespace) -> _Answer:
    """Count what treatments do at your batch size, and fit them to your data.

    Goes through pairs in batches of your size, counts what the treatment does to the negatives, and fits two more:
    Soften with a temperature that softens the share asked for, and Discount with a posterior of relevance. Prints the
    lines of Python that train with them.
    """
    from st_softinfonce.calibration import calibrate

    share, prior = options.softened_share, options.prior
    report = calibrate(**_read(options), batch_size=options.batch_size, softened_share=share, prior=prior)
    given = "".join(f", {name}={value!r}" for name, value in options.option)
    code = report.python(f"get_estimator({options.estimator!r}{given})" if given else repr(options.estimator))
    return {**report.to_dict(), "python": code}, f"{report}\n\n{code}".rstrip(), None


def _estimators(options: argparse.Namespace) -> _Answer:
    """List the estimators that are installed.

    With the distribution and the class that each comes from. Give the name to SoftInfoNCELoss(model, estimator=NAME)
    and to --estimator. Plugins are not imported for the list.
    """
    from st_softinfonce.estimators import list_estimators

    infos = list_estimators().values()
    width = max((len(info.name) for info in infos), default=0)
    lines = [f"{info.name:{width}}  {info.distribution} {info.version}  {info.target}" for info in infos]
    return [asdict(info) for info in infos], "\n".join(lines) or "No estimators are installed.", None


def _read(options: argparse.Namespace) -> dict[str, Any]:
    """Make what the arguments name: estimator, treatment, pairs, and the model that reads them."""
    if options.treatment_option and options.treatment is None:
        raise ValueError("--treatment-option needs --treatment: name the treatment.")
    from st_softinfonce.calibration import make_treatment
    from st_softinfonce.estimators import get_estimator
    from st_softinfonce.pair_batches import read_pairs

    try:
        estimator = get_estimator(options.estimator, **dict(options.option))
    except OSError as error:
        raise OSError(f"the estimator {options.estimator!r} cannot be made: {_first_sentence(error)}.") from error
    pairs = read_pairs(options.paths, languages=options.language)
    # Its retries would be a page of warnings before the one line that says what to do.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(options.model)
    except Exception as error:
        raise OSError(
            f"the model {options.model!r} could not be loaded ({_first_sentence(error)}). It is no folder here, and "
            "the Hub did not give it: without a network give one from disk, --model FOLDER."
        ) from error
    treatment = None
    if options.treatment is not None:
        given = dict(options.treatment_option)
        treatment = make_treatment(options.treatment, given, estimator, pairs, options.batch_size, model=model)
    return {"estimator": estimator, "pairs": pairs, "treatment": treatment, "model": model}


def _first_sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()).split('. ')[0][:200]}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # In one line, and naming the command whose --help says more.
        self.exit(_BAD_USE, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _parser() -> _Parser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="st-softinfonce", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('st-softinfonce')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)

    def command(run: Callable[[argparse.Namespace], _Answer], example: str) -> argparse.ArgumentParser:
        description = inspect.getdoc(run) or ""
        made = commands.add_parser(
            run.__name__[1:],
            help=description[0].lower() + description.splitlines()[0][1:-1],
            description=description,
            epilog=f"example:\n  st-softinfonce {example}",
            formatter_class=raw,
        )
        made.set_defaults(command=run)
        made.add_argument("--json", action="store_true", help="print one JSON document instead, for scripts")
        return made

    add = command(_mine, "mine src ../other-project --language python -o pairs").add_argument
    add("paths", nargs="+", metavar="PATH", help="folders, files, or archives (wheel, sdist, ...)")
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="the folder to make")
    add("--overwrite", action="store_true", help="replace what mine wrote there before")
    add("--language", action="append", metavar="NAME", help="mine this one; repeat for several (default: all)")
    add("--undocumented", action="store_true", help="write functions without documentation as the split 'candidates'")
    add("--num-proc", type=int, metavar="N", help=f"processes (default: the cores, at most {_MOST_PROCESSES})")
    for name, (kind, text) in _LIMITS.items():
        add(f"--{name.replace('_', '-')}", type=kind, metavar="N", help=text)

    inspect_command = command(
        _inspect,
        """inspect pairs -o false-negatives.html
  st-softinfonce inspect pairs --estimator trained-model --option model=my-code-search -o page.html \\
    --treatment mask --treatment-option margin=0.05""",
    )
    _add_pairs_arguments(inspect_command)
    add = inspect_command.add_argument
    add("-o", "--output", type=Path, metavar="PAGE", help="the HTML page; an existing one is replaced")
    add("--top", type=int, default=100, metavar="N", help="negatives to show of each effect (default: %(default)s)")

    calibrate_command = command(_calibrate, "calibrate pairs --model my-base-model --batch-size 256")
    _add_pairs_arguments(calibrate_command)
    add = calibrate_command.add_argument
    share = "share of the negatives that Soften is to soften (default: %(default)s)"
    add("--softened-share", type=float, default=0.05, metavar="SHARE", help=share)
    add("--prior", type=float, metavar="P", help="probability that a random pair is relevant (default: estimated)")

    command(_estimators, "estimators")
    return parser


def _add_pairs_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    options: dict[str, Any] = {"type": _key_value, "action": "append", "default": [], "metavar": "NAME=VALUE"}
    data = "a folder that mine wrote; Parquet, JSON Lines or CSV files (columns query and code, or the first two); "
    add("paths", nargs="+", metavar="DATA", help=data + "or sources as for mine")
    add("--estimator", default="bm25", metavar="NAME", help="what judges (default: %(default)s)")
    add("--option", **options, help="of the estimator, e.g. model=FOLDER or compares=documents; repeat for several")
    add("--treatment", choices=_TREATMENTS, help="what to do with what it finds relevant (default: its own)")
    add("--treatment-option", **options, help="of the treatment, e.g. margin=0.05; repeat for several")
    model = "the model to train, name or folder, by which texts are read as in training (default: %(default)s)"
    add("--model", default=DEFAULT_MODEL, metavar="NAME", help=model)
    add("--batch-size", type=int, default=64, metavar="N", help="that of training (default: %(default)s)")
    add("--language", action="append", metavar="NAME", help="mine this one; repeat for several (default: all)")


def _key_value(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}, e.g. compares=documents or margin=0.05")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _complain(message: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(f"st-softinfonce: {' '.join(message.split())}", file=sys.stderr, flush=True)
