"""The command ``st-softinfonce``: mine, inspect and list estimators; nothing that Python users cannot call.

Whatever is heavy is imported where it is used, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, cast

if TYPE_CHECKING:
    from datasets import Dataset

    from st_softinfonce.estimators import SimilarityEstimator
    from st_softinfonce.treatments import Treatment

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
_FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}
# Classes of st_softinfonce.treatments; of the first two, calibrate() makes what the estimator does not have.
_CALIBRATED = ("soften", "discount")
_TREATMENTS = (*_CALIBRATED, "mask", "promote", "distill")
_FAILED, _BAD_USE, _INTERRUPTED, _BROKEN_PIPE = 1, 2, 130, 141

_DESCRIPTION = """\
Soft-InfoNCE for sentence-transformers, before and after training: pairs from your code, and what treatments of their
negatives do. Training itself is Python; start from examples/own_repository.py."""
_EPILOG = """\
  st-softinfonce mine src -o pairs                       # pairs of a documentation and its function
  st-softinfonce inspect pairs -o false-negatives.html   # which negatives are treated how, with their code
  st-softinfonce estimators                              # what can judge them

Each command has its own --help. Exit status: 0 done, 1 failed, 2 used wrongly, 130 interrupted."""


class CommandError(Exception):
    """Ends the command with one line on stderr."""

    def __init__(self, message: str, status: int = _FAILED) -> None:
        super().__init__(message)
        self.status = status


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # In one line, and naming the command whose --help says more.
        self.exit(_BAD_USE, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Instead of the process's own.

    Returns:
        The exit status: 0 done, 1 failed, 2 used wrongly, 130 interrupted.

    Raises:
        SystemExit: After ``--help`` or ``--version``, or if the arguments cannot be parsed.
    """
    options = _parser().parse_args(arguments)
    with warnings.catch_warnings(), _quiet_without_a_terminal():
        warnings.showwarning = _show_warning
        try:
            # What libraries print is not what was asked for: with --json it would spoil the document.
            with contextlib.redirect_stdout(sys.stderr):
                answer, text, problem = options.command(options)
            print(json.dumps(answer, indent=2, ensure_ascii=False) if options.json else text, flush=True)
            if problem is not None:
                raise CommandError(problem)
        except KeyboardInterrupt:
            return _complain("interrupted", _INTERRUPTED)
        except BrokenPipeError:
            # Whoever read the output has enough; the interpreter must not fail to flush it at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _BROKEN_PIPE
        except CommandError as error:
            return _complain(f"error: {error}", error.status)
        except (FileNotFoundError, FileExistsError, NotADirectoryError, ValueError, TypeError) as error:
            return _complain(f"error: {error}", _BAD_USE)
        except ImportError as error:
            return _complain(f"error: {error}", _FAILED)
        except Exception as error:
            return _complain(f"error: {type(error).__name__}: {error}", _FAILED)
    return 0


# What a command returns: the JSON document, the text for people, and the problem if it failed all the same.
_Answer = tuple[Any, str, "str | None"]


def _mine(options: argparse.Namespace) -> _Answer:
    from st_softinfonce.data import mine_to_parquet
    from st_softinfonce.data.mining import cores
    from st_softinfonce.data.mining_report import advice_on

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No pairs found", category=UserWarning)  # said below
        try:
            report = mine_to_parquet(
                options.paths,
                options.output,
                languages=options.language,
                overwrite=options.overwrite,
                undocumented=options.undocumented,
                num_proc=options.num_proc or min(cores(), _MOST_PROCESSES),
                **_limits(options),
            )
        except FileExistsError as error:
            raise CommandError(str(error).replace("overwrite=True", "--overwrite"), _BAD_USE) from error
    advice = advice_on(report)
    answer = {
        "output": str(options.output),
        "pairs": report.functions_kept,
        "candidates": report.candidates_kept,
        "enough": not advice,
        "advice": advice,
        "report": asdict(report),
    }
    lines = [str(report), "", f"{report.functions_kept:,} pairs in {options.output}", *advice]
    if report.functions_kept:
        lines.append(f"Next: st-softinfonce inspect {options.output} -o false-negatives.html")
        return answer, "\n".join(lines), None
    return answer, str(report), f"no pairs found under {', '.join(options.paths)}. {' '.join(advice)}"


def _inspect(options: argparse.Namespace) -> _Answer:
    if options.output is None and not options.json:
        raise CommandError("inspect needs -o PAGE.html, --json, or both.", _BAD_USE)
    estimator_options = dict(_key_value("--option", text) for text in options.option)
    treatment_options = dict(_key_value("--treatment-option", text) for text in options.treatment_option)
    if treatment_options and options.treatment is None:
        raise CommandError("--treatment-option needs --treatment: options of which one?", _BAD_USE)
    if options.output is not None:
        if options.output.is_dir():
            raise CommandError(f"-o must name a file, got the folder {options.output}.", _BAD_USE)
        # Before the work, not after it.
        options.output.parent.mkdir(parents=True, exist_ok=True)

    from st_softinfonce.estimators import get_estimator
    from st_softinfonce.inspection import inspect_pairs

    try:
        estimator = get_estimator(options.estimator, **estimator_options)
    except OSError as error:
        raise CommandError(f"the estimator {options.estimator!r} cannot be made: {_first_sentence(error)}.") from error
    pairs = _load_pairs(options)
    if len(pairs) < 2:
        raise CommandError(f"there must be at least 2 pairs to compare, got {len(pairs)}: give more data.")
    reader = _load_reader(options)
    treatment = _treatment(options, estimator, treatment_options, pairs, reader)
    inspection = inspect_pairs(pairs, estimator, treatment, batch_size=options.batch_size, top=options.top, **reader)
    lines = [f"{name + ':':26} {value}" for name, value in inspection.summary.items()]
    if options.output is not None:
        lines.append(f"{'page:':26} {inspection.write_page(options.output)}")
    answer = {
        "page": None if options.output is None else str(options.output),
        "summary": inspection.summary,
        "histograms": {
            name: {"negatives": counts.tolist(), "edges": edges.tolist()}
            for name, (counts, edges) in inspection.histograms.items()
        },
        # JSON has no infinity: "never relevant" becomes null.
        "negatives": json.loads(inspection.negatives.to_json(orient="records", double_precision=15)),
    }
    return answer, "\n".join(lines), None


def _treatment(
    options: argparse.Namespace,
    estimator: SimilarityEstimator,
    given: dict[str, Any],
    pairs: Dataset,
    reader: dict[str, Any],
) -> Treatment | None:
    """Make the treatment asked for; ``None`` is the estimator's own."""
    if options.treatment is None:
        return None
    from st_softinfonce import treatments
    from st_softinfonce.calibration import calibrate

    kind: Any = getattr(treatments, options.treatment.capitalize())
    own: Any = estimator.treatment
    try:
        if isinstance(own, kind) and (not given or options.treatment == "soften"):
            return cast("Treatment", replace(own, **given))
        if options.treatment not in _CALIBRATED:
            return cast("Treatment", kind(**given))
        report = calibrate(estimator, pairs, max(2, min(options.batch_size, len(pairs))), **reader)
        fitted: Any = getattr(report, options.treatment)
        if fitted is None:
            problem = getattr(report, f"{options.treatment}_problem")
            raise CommandError(f"no treatment {options.treatment!r} for {options.estimator!r}: {problem}")
        return cast("Treatment", replace(fitted, **given))
    except TypeError as error:
        names = ", ".join(field.name for field in fields(kind))
        raise CommandError(
            f"--treatment-option of {options.treatment} must be among {names}: {error}.", _BAD_USE
        ) from error


def _load_pairs(options: argparse.Namespace) -> Dataset:
    from datasets import concatenate_datasets, load_dataset

    paths = [Path(path) for path in options.paths]
    for path in paths:
        if not path.exists():
            raise CommandError(f"PATH must exist, got {str(path)!r}: check its spelling.", _BAD_USE)
    tables = [table for path in paths if (table := _tables_of(path))]
    if not tables:
        from st_softinfonce.data import MiningReport, mine_pairs
        from st_softinfonce.data.mining_report import advice_on

        report = MiningReport()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="No pairs found", category=UserWarning)  # said by the caller
            pairs = mine_pairs(paths, languages=options.language, report=report)
        if len(pairs) < 2:
            raise CommandError(" ".join(advice_on(report, needed=2)))
        return pairs
    if len(tables) < len(paths):
        raise CommandError("give either data or source trees, not both: their columns differ.", _BAD_USE)
    try:
        parts = [load_dataset(kind, data_files=[str(file) for file in files], split="train") for kind, files in tables]
        return concatenate_datasets(parts)
    except Exception as error:
        # datasets hides the reason behind "An error occurred while generating the dataset".
        reason = error.__cause__ or error
        raise CommandError(f"{options.paths[0]!r} cannot be read as pairs: {reason}") from error


def _tables_of(path: Path) -> tuple[str, list[Path]] | None:
    """Find the data files that a path stands for, and their format; None for source code."""
    if path.is_file():
        kind = _FORMATS.get(path.suffix.lower())
        return None if kind is None else (kind, [path])
    # Where there are splits, what would be trained on.
    patterns = ("data/train-*.parquet", "train*.parquet", "data/*.parquet", "*.parquet")
    files = next((found for pattern in patterns if (found := sorted(path.glob(pattern)))), None)
    return None if files is None else ("parquet", files)


def _load_reader(options: argparse.Namespace) -> dict[str, Any]:
    """Load the model in training, or a tokenizer in its place."""
    name = options.tokenizer or options.model or DEFAULT_MODEL
    # Its retries would be a page of warnings before the one line that says what to do.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        if options.tokenizer is not None:
            from transformers import AutoTokenizer

            return {"tokenizer": AutoTokenizer.from_pretrained(name)}
        from sentence_transformers import SentenceTransformer

        return {"model": SentenceTransformer(name)}
    except Exception as error:
        what = "tokenizer" if options.tokenizer else "model"
        raise CommandError(
            f"the {what} {name!r} could not be loaded ({_first_sentence(error)}). It is neither a folder here nor to "
            "be had from the Hub: without a network give one from disk, --model FOLDER or --tokenizer FOLDER."
        ) from error


def _first_sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text.split('. ')[0][:200]}"


def _key_value(flag: str, text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        example = "compares=documents" if flag == "--option" else "margin=0.05"
        raise CommandError(f"{flag} must be NAME=VALUE, got {text!r}, e.g. {flag} {example}.", _BAD_USE)
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _estimators(options: argparse.Namespace) -> _Answer:
    from st_softinfonce.estimators import list_estimators

    infos = list_estimators()
    rows = [(info.name, f"{info.distribution} {info.version}", info.target) for info in infos.values()]
    widths = [max(len(row[column]) for row in rows) if rows else 0 for column in range(2)]
    lines = [f"{name:{widths[0]}}  {source:{widths[1]}}  {target}" for name, source, target in rows]
    return [asdict(info) for info in infos.values()], "\n".join(lines) or "No estimators are installed.", None


def _parser() -> _Parser:
    parser = _Parser(
        prog="st-softinfonce",
        description=_DESCRIPTION,
        epilog="examples:\n" + _EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, help="show the version, and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    _add_mine(commands)
    _add_inspect(commands)
    _add_estimators(commands)
    return parser


class _Version(argparse.Action):
    """As argparse's own, but looked up only when asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from st_softinfonce import __version__

        print(f"st-softinfonce {__version__}")
        parser.exit()


def _add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], _Answer], help: str, description: str, example: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=description,
        epilog=f"example:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=run)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead, for scripts")
    return parser


def _add_language(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--language", action="append", metavar="NAME", help="mine this language; repeat for several (default: all)"
    )


_MOST_PROCESSES = 8  # more than that wait for this one
_LIMITS = {
    "min_query_tokens": "fewest words of a query",
    "max_query_tokens": "most words of a query",
    "min_code_lines": "fewest lines of code without documentation",
    "max_file_bytes": "skip larger files",
    "max_archive_bytes": "unpack no more than that of an archive",
}


def _limits(options: argparse.Namespace) -> dict[str, Any]:
    # Those that are not given keep the function's own defaults.
    names = (*_LIMITS, "seconds_per_file")
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text!r}")
    return int(text)


def _add_mine(commands: Any) -> None:
    parser = _add_command(
        commands,
        "mine",
        _mine,
        "make (query, code) pairs of source trees",
        """\
Make (query, code) pairs of source trees: the first paragraph of a function's documentation, and the function without
it. Writes a dataset that datasets.load_dataset("DIR") reads, with its card, and prints what was dropped by which rule.
The same sources give the same bytes.""",
        "  st-softinfonce mine src ../other-project --language python -o pairs",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="folders, files, or archives (wheel, sdist, ...)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="the folder to make")
    parser.add_argument("--overwrite", action="store_true", help="replace what mine wrote there before")
    _add_language(parser)
    limits = parser.add_argument_group("limits")
    for name, text in _LIMITS.items():
        limits.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=text)
    limits.add_argument("--seconds-per-file", type=float, metavar="S", help="skip files that take longer")
    parser.add_argument(
        "--undocumented",
        action="store_true",
        help="also write functions without documentation, as the split 'candidates', to search among",
    )
    parser.add_argument(
        "--num-proc", type=_positive, metavar="N", help=f"processes (default: the cores, at most {_MOST_PROCESSES})"
    )


def _add_inspect(commands: Any) -> None:
    parser = _add_command(
        commands,
        "inspect",
        _inspect,
        "see which negatives are treated how, with their code",
        """\
Go through pairs in batches, as training does, and write a page of what a treatment does to their negatives: numbers,
histograms, and the negatives treated most, each beside its query: the likely false negatives of your data.""",
        """\
  st-softinfonce inspect pairs -o false-negatives.html
  st-softinfonce inspect pairs --estimator trained-model --option model=my-code-search -o page.html \\
    --treatment mask --treatment-option margin=0.05""",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="DATA",
        help="a folder that mine wrote; Parquet, JSON Lines or CSV files (columns query and code, or the first two); "
        "or sources as for mine",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="PAGE", help="the HTML page; an existing one is replaced")
    parser.add_argument("--estimator", default="bm25", metavar="NAME", help="what judges (default: %(default)s)")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="option of the estimator, e.g. model=FOLDER or compares=documents; repeat for several",
    )
    reader = parser.add_mutually_exclusive_group()
    reader.add_argument(
        "--model",
        metavar="NAME",
        help=f"the model to train, name or folder: its tokenizer and length make the texts what they are in training "
        f"(default: {DEFAULT_MODEL})",
    )
    reader.add_argument("--tokenizer", metavar="NAME", help="a tokenizer instead; texts are then not truncated")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--treatment",
        choices=_TREATMENTS,
        help="what follows (default: the estimator's own); those with a posterior or temperature to fit take it from "
        "the data",
    )
    parser.add_argument(
        "--treatment-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="option of the treatment, e.g. margin=0.05 or temperature=0.02; repeat for several",
    )
    parser.add_argument(
        "--top", type=int, default=100, metavar="N", help="negatives to show of each effect (default: %(default)s)"
    )
    _add_language(parser)


def _add_estimators(commands: Any) -> None:
    _add_command(
        commands,
        "estimators",
        _estimators,
        "list the estimators that are installed",
        """\
List the estimators that are installed, with the distribution that each comes from. The name is what
SoftInfoNCELoss(model, estimator=NAME) and inspect --estimator NAME take; plugins are not imported for the list.""",
        "  st-softinfonce estimators",
    )


def _complain(message: str, status: int) -> int:
    text = " ".join(message.split())
    with contextlib.suppress(BrokenPipeError):
        print(f"st-softinfonce: {text}", file=sys.stderr, flush=True)
    return status


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    _complain(f"warning: {message}", 0)


@contextlib.contextmanager
def _quiet_without_a_terminal() -> Iterator[None]:
    """Keep the progress bars of the libraries out of logs and pipes; those of this package do so themselves."""
    before = dict(os.environ)
    if not sys.stderr.isatty():
        # Read when those libraries are imported, later on.
        os.environ.update(HF_DATASETS_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
