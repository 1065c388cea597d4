"""The command line: what it prints where, its exit status, and that nothing heavy is loaded for help."""

import json
import os
import re
import signal
import subprocess
import sys
import warnings
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
from conftest import DOCUMENTS, QUERIES, make_transformer_model
from datasets import load_dataset
from sentence_transformers import SentenceTransformer
from tiny_models import WORDS

from st_softinfonce import RelevancePosterior, calibrate, cli, get_estimator, list_estimators
from st_softinfonce.data import MiningReport, mine_pairs
from st_softinfonce.data.mining_report import advice_on
from st_softinfonce.inspection import inspect_pairs

ROOT = Path(__file__).parent.parent
COMMANDS = ("mine", "inspect", "calibrate", "estimators")


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "src" / "pack"
    folder.mkdir(parents=True)
    functions = [
        f'def f{number}(value):\n    """{query} of data"""\n    read = "{document}"\n    return read\n'
        for number, (query, document) in enumerate(zip(QUERIES, DOCUMENTS, strict=True))
    ]
    (folder / "__init__.py").write_text("\n".join(functions) + "\ndef bare(value):\n    return value\n")
    return tmp_path / "src"


@pytest.fixture
def base(bert_folder, tmp_path):
    make_transformer_model(bert_folder).save_pretrained(str(tmp_path / "base"))
    return str(tmp_path / "base")


@pytest.fixture
def run(capsys, monkeypatch):
    """Run a command in this process: its status, stdout and stderr. The environment is as before afterwards."""
    monkeypatch.setattr(os, "environ", os.environ.copy())

    def run(*arguments):
        capsys.readouterr()
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as error:
            status = error.code
        return status, *capsys.readouterr()

    return run


def complaint(stderr):
    """The single line that an error is."""
    (line,) = [line for line in stderr.splitlines() if "error:" in line]
    assert line.startswith("st-softinfonce")
    assert "Traceback" not in stderr
    return line


@pytest.mark.parametrize(
    "arguments", [(), *[(name,) for name in COMMANDS]], ids=lambda value: "-".join(value) or "all"
)
def test_help_teaches_with_an_example(run, arguments):
    status, out, err = run(*arguments, "--help")
    assert (status, err) == (0, "")
    assert "example" in out
    assert out.count("  st-softinfonce ") >= 1
    for name in COMMANDS if not arguments else ["--json"]:
        assert name in out


@pytest.mark.parametrize("arguments", [["inspect", "--help"], ["estimators"]], ids=["help", "estimators"])
def test_what_should_answer_at_once_loads_nothing_heavy(arguments):
    script = (
        f"import sys\nfrom st_softinfonce.cli import main\ntry:\n    main({arguments})\nexcept SystemExit:\n"
        "    pass\nprint({'torch', 'datasets', 'transformers', 'numpy', 'pandas'} & set(sys.modules), file=sys.stderr)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert finished.stderr.strip() == "set()"


def test_the_version_is_the_packages(run):
    assert run("--version") == (0, f"st-softinfonce {version('st-softinfonce')}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "COMMAND"),
        (("mien",), "invalid choice: 'mien'"),
        (("mine", "src"), "-o/--output"),
        (("mine", "nowhere", "-o", "out"), "paths must exist, got 'nowhere'"),
        (("mine", ".", "-o", "out", "--language", "cobol"), "languages must name some of .* got 'cobol'"),
        (
            ("mine", ".", "-o", "out", "--min-code-lines", "0"),
            "min_code_lines must be an integer of at least 1, got 0",
        ),
        (("inspect", "nowhere", "-o", "page.html"), "PATH must exist, got 'nowhere'"),
        (("inspect", "."), "inspect needs -o PAGE.html, --json, or both"),
        (("inspect", ".", "-o", "."), "-o must name a file, got the folder"),
        (("inspect", ".", "--json", "--option", "compares"), "--option: must be NAME=VALUE, got 'compares'"),
        (("inspect", ".", "--json", "--treatment-option", "margin=1"), "--treatment-option needs --treatment"),
        (("inspect", ".", "--json", "--treatment", "weigh"), "invalid choice: 'weigh'"),
        (("inspect", ".", "--json", "--estimator", "bm52"), "got 'bm52'. Did you mean 'bm25'"),
        (("inspect", ".", "--json", "--option", "k9=1"), "k9"),
        (("calibrate", "nowhere"), "PATH must exist, got 'nowhere'"),
        (("calibrate", ".", "--estimator", "bm52"), "got 'bm52'. Did you mean 'bm25'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else None,
)
def test_bad_use_is_one_line_and_status_2(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert re.search(message, complaint(err))


def test_mine_writes_the_pairs_and_says_what_is_missing(run, source, tmp_path):
    status, out, err = run("mine", source, "-o", tmp_path / "pairs")
    assert status == 0, err
    mined, expected = load_dataset(str(tmp_path / "pairs"), split="train"), mine_pairs(source)
    assert mined["query"][:] == expected["query"][:]
    assert mined["code"][:] == expected["code"][:]
    assert "8 pairs found, at least 200 needed.\n1 of 9 functions have no documentation.\n" in out
    assert f"Next: st-softinfonce inspect {tmp_path / 'pairs'}" in out


def test_mine_as_json_is_one_document(run, source, tmp_path):
    status, out, err = run("mine", source, "-o", tmp_path / "pairs", "--json")
    assert (status, err) == (0, "")
    answer = json.loads(out)
    report = MiningReport()
    mine_pairs(source, report=report)
    assert answer["report"]["functions_dropped"] == report.functions_dropped
    assert (answer["pairs"], answer["enough"]) == (8, False)
    assert answer["advice"] == advice_on(report)


def test_mine_passes_its_limits_on(run, source, tmp_path):
    status, out, _ = run(
        "mine", source, "-o", tmp_path / "pairs", "--json", "--min-query-tokens", 6, "--language", "python"
    )
    assert status == 0
    assert json.loads(out)["pairs"] == len(mine_pairs(source, min_query_tokens=6)) < 8


def test_mine_does_not_replace_without_being_told(run, source, tmp_path):
    assert run("mine", source, "-o", tmp_path / "pairs")[0] == 0
    status, _, err = run("mine", source, "-o", tmp_path / "pairs")
    assert status == 2
    assert "--overwrite" in complaint(err)
    assert run("mine", source, "-o", tmp_path / "pairs", "--overwrite")[0] == 0


def test_mine_of_nothing_fails_and_says_what_was_seen(run, tmp_path):
    (tmp_path / "bare.py").write_text("def bare(value):\n    read = value\n    return read\n")
    status, out, err = run("mine", tmp_path / "bare.py", "-o", tmp_path / "pairs")
    assert status == 1
    assert "no_docstring" in out
    assert "no pairs found under" in complaint(err)
    assert "1 of 1 functions have no documentation" in err
    (tmp_path / "empty").mkdir()
    _, _, err = run("mine", tmp_path / "empty", "-o", tmp_path / "pairs", "--overwrite")
    assert "0 pairs found, at least 200 needed. No source files of the languages to mine were seen" in complaint(err)


def test_mine_into_what_is_no_folder_is_bad_use(run, source, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = run("mine", source, "-o", tmp_path / "file" / "pairs")
    assert status == 2
    complaint(err)


@pytest.mark.parametrize("kind", ["mined", "parquet", "jsonl", "csv", "source"])
def test_inspect_takes_every_kind_of_data_and_gives_what_the_function_does(run, source, base, tmp_path, kind):
    pairs = mine_pairs(source).select_columns(["query", "code", "name"])
    data = {"mined": tmp_path / "pairs", "source": source}.get(kind, tmp_path / f"data.{kind}")
    if kind == "mined":
        run("mine", source, "-o", data)
    elif kind != "source":
        frame = pd.DataFrame(pairs.to_dict())
        write = {"parquet": frame.to_parquet, "csv": lambda path: frame.to_csv(path, index=False)}
        write.get(kind, lambda path: frame.to_json(path, orient="records", lines=True))(data)
    page = tmp_path / "new" / "page.html"
    status, out, err = run("inspect", data, "--model", base, "-o", page, "--json", "--top", 5, "--batch-size", 8)
    assert status == 0, err
    answer = json.loads(out)
    expected = inspect_pairs(pairs, "bm25", model=SentenceTransformer(base, device="cpu"), batch_size=8, top=5)
    assert answer["summary"] == expected.summary
    assert [row["negative_code"] for row in answer["negatives"]] == expected.negatives["negative_code"].tolist()
    assert 0 < len(answer["negatives"]) <= 5
    assert {row["effect"] for row in answer["negatives"]} == {"softened"}
    assert "<h1>Likely false negatives</h1>" in page.read_text()


def test_inspect_takes_an_estimators_options(run, source, base, tmp_path):
    options = [
        "--estimator",
        "bm25",
        "--option",
        "compares=documents",
        "--option",
        "b=0.5",
        "--model",
        base,
    ]
    status, out, _ = run("inspect", source, *options, "-o", tmp_path / "page.html")
    assert status == 0
    assert "bm25 (compares documents)" in out
    assert f"page:{' ' * 22}{tmp_path / 'page.html'}" in out
    options = ["--estimator", "trained-model", "--option", f"model={base}", "--model", base]
    status, out, err = run("inspect", source, *options, "--json")
    assert status == 0, err
    assert json.loads(out)["summary"]["estimator"].startswith("trained-model")


def test_inspect_without_a_posterior_says_why(run, source, base):
    status, _, err = run("inspect", source, "--model", base, "--json", "--treatment", "discount")
    assert status == 2
    assert "no treatment 'discount' for 'bm25': random_scores must be at least 1000" in complaint(err)


@pytest.mark.parametrize(
    ("arguments", "treatment", "effect"),
    [
        (["soften", "temperature=0.5"], "Soften(alpha=1.5, beta=0.5, temperature=0.5, min_weight=0.1)", "softened"),
        (["mask", "top_k=2"], "Mask(top_k=2)", "masked"),
        (["promote", "above=0.2"], "Promote(above=0.2)", "promoted"),
        (["distill", "temperature=10", "share=0.9"], "Distill(share=0.9, temperature=10.0)", "taught"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_inspect_shows_any_treatment(run, source, base, arguments, treatment, effect):
    name, *given = arguments
    flags = [flag for option in given for flag in ("--treatment-option", option)]
    if name == "promote":  # takes the similarity as a probability
        flags += ["--estimator", "near-duplicate", "--option", "size=1", "--option", "compares=queries"]
    status, out, err = run("inspect", source, "--model", base, "--json", "--treatment", name, *flags)
    assert status == 0, err
    answer = json.loads(out)
    assert answer["summary"]["treatment"] == treatment
    assert {row["effect"] for row in answer["negatives"]} == {effect}


def test_inspect_without_a_network_says_what_to_do(run, source):
    status, out, err = run("inspect", source, "--json")
    assert (status, out) == (1, "")
    assert f"the model {cli.DEFAULT_MODEL!r} could not be loaded" in complaint(err)
    assert "without a network give one from disk, --model FOLDER" in err
    status, _, err = run("inspect", source, "--json", "--estimator", "trained-model", "--option", "model=nobody/none")
    assert status == 1
    assert "the estimator 'trained-model' cannot be made" in complaint(err)


@pytest.mark.parametrize(
    ("name", "content", "status", "message"),
    [
        ("broken.parquet", "no parquet", 1, "broken.parquet' cannot be read as pairs: "),
        ("one.csv", "query\nread\nwrite\n", 2, r"two text columns, got \['query'\]"),
        ("short.csv", "query,code\na,b\n", 2, "got 1: there is nothing to compare, give more data"),
    ],
)
def test_inspect_of_unusable_data(run, base, tmp_path, name, content, status, message):
    (tmp_path / name).write_text(content)
    found, _, err = run("inspect", tmp_path / name, "--model", base, "--json")
    assert found == status
    assert re.search(message, complaint(err))


def test_inspect_does_not_mix_data_and_sources(run, source, base, tmp_path):
    (tmp_path / "data.csv").write_text("query,code\na,b\n")
    status, _, err = run("inspect", tmp_path / "data.csv", source, "--model", base, "--json")
    assert status == 2
    assert "either data or source trees" in complaint(err)


def many_pairs(path):
    """70 different queries, each of them twice, so that a temperature and a posterior can be fitted."""
    queries = [f"{verb} {noun}" for verb in WORDS[:10] for noun in WORDS[13:20]] * 2
    pd.DataFrame({"query": queries, "code": [f"def {query}" for query in queries]}).to_csv(path, index=False)
    return path


def test_calibrate_gives_what_the_function_does_and_python_that_uses_it(run, base, tmp_path):
    data = many_pairs(tmp_path / "data.csv")
    model = SentenceTransformer(base, device="cpu")
    pairs = load_dataset("csv", data_files=str(data), split="train")
    options = ["--model", base, "--batch-size", 16, "--option", "tokens=all", "--softened-share", 0.1]
    status, out, err = run("calibrate", data, *options)
    assert status == 0, err
    expected = calibrate(get_estimator("bm25", tokens="all"), pairs, 16, model=model, softened_share=0.1)
    assert out.startswith(str(expected))
    assert expected.soften is not None
    assert expected.discount is not None
    answer = json.loads(run("calibrate", data, *options, "--json")[1])
    assert out.endswith(answer["python"] + "\n")
    assert answer["effects"]["soften"]["softened"] == expected.effects["soften"].softened > 0
    assert RelevancePosterior(**answer["posterior"]) == expected.posterior
    losses = []
    scope = {"model": model}
    for line in answer["python"].splitlines():
        exec(line, scope)
        if line.startswith("loss = "):
            losses.append(scope["loss"])
    assert [loss.judges[0].treatments for loss in losses] == [(expected.soften,), (expected.discount,)]
    assert losses[0].judges[0].estimator.tokens == "all"


def test_calibrate_counts_the_effects_of_any_treatment(run, source, base):
    options = ["--batch-size", 8, "--treatment", "mask", "--treatment-option", "top_k=2"]
    status, out, err = run("calibrate", source, "--model", base, "--json", *options)
    assert status == 0, err
    answer = json.loads(out)
    assert answer["treatments"] == [{"treatment": "Mask", "top_k": 2}]
    assert answer["effects"]["treatments"]["masked"] == 2 / 7
    assert answer["discount"] is None
    assert "random_scores must be at least 1000" in answer["discount_problem"]


def test_estimators_lists_what_is_installed(run):
    status, out, _ = run("estimators")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == list(list_estimators())
    assert re.search(r"^bm25 +st-softinfonce \S+ +st_softinfonce.estimators.bm25:BM25Estimator$", out, re.MULTILINE)
    _, out, _ = run("estimators", "--json")
    assert json.loads(out) == [asdict(info) for info in list_estimators().values()]


def test_an_unexpected_error_is_one_line_and_status_1(run, monkeypatch):
    def fail():
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("st_softinfonce.estimators.list_estimators", fail)
    assert run("estimators") == (1, "", "st-softinfonce: error: RuntimeError: two lines\n")


def test_warnings_are_one_line(run, monkeypatch):
    def warn():
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("two\nlines", stacklevel=1)
        return {}

    monkeypatch.setattr("st_softinfonce.estimators.list_estimators", warn)
    status, out, err = run("estimators")
    assert (status, out, err) == (0, "No estimators are installed.\n", "st-softinfonce: warning: two lines\n")


def test_a_signal_interrupts_the_process(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = (
        "import sys, time\nimport st_softinfonce.cli as cli\n"
        "def wait():\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "import st_softinfonce.estimators as estimators\nestimators.list_estimators = wait\n"
        "sys.exit(cli.main(['estimators']))"
    )
    started = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, env=environment)
    assert started.stderr.readline() == "ready\n"  # stdout is kept for the answer
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert (started.returncode, err) == (130, "st-softinfonce: interrupted\n")


def test_a_broken_pipe_is_quiet():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = (
        "import sys\nimport st_softinfonce.cli as cli, st_softinfonce.estimators as estimators\n"
        "info = estimators.EstimatorInfo('x' * 10**6, '', '', '')\n"
        "estimators.list_estimators = lambda: {'x': info}\n"
    )
    script += "sys.exit(cli.main(['estimators']))"
    started = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    started.stdout.close()
    assert started.stderr.read() == ""
    assert started.wait(timeout=60) == 141
    started.stderr.close()


@pytest.mark.slow
def test_no_progress_is_shown_where_there_is_no_terminal(source, base):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "st_softinfonce", "inspect", str(source), "--model", base, "--json"]
    finished = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert finished.stderr == b""
    json.loads(finished.stdout)
