"""The examples run as a user would start them, in a reduced form."""

import ast
import json
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import DOCUMENTS, QUERIES, make_transformer_model
from sentence_transformers import SentenceTransformer
from tiny_models import save_bert

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))

pytestmark = [
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning"),
    pytest.mark.filterwarnings("ignore::st_softinfonce.functional.SmallBatchWarning"),
]


def write_package(folder, package, count=8, file="code.py"):
    (folder / package / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / package / "__init__.py").write_text("")
    functions = [
        f'def f{number}(value):\n    """{QUERIES[number]} of data"""\n'
        f'    read = "{DOCUMENTS[number]} {package} {file}"\n    return read\n'
        for number in range(count)
    ]
    (folder / package / file).write_text("\n".join(functions))


@pytest.fixture
def source(tmp_path):
    for package in ("one", "two"):
        write_package(tmp_path / "src", package)
    return tmp_path / "src"


@pytest.fixture
def base(bert_folder, tmp_path):
    make_transformer_model(bert_folder).save_pretrained(str(tmp_path / "base"))
    return "base"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    def run(name, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def loads(folder, **options):
    return SentenceTransformer(str(folder), device="cpu", **options).encode(["read"])


def weights_differ(one, other):
    one, other = (SentenceTransformer(str(folder), device="cpu").state_dict() for folder in (one, other))
    return any(not torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.filterwarnings("ignore:The table of the estimator:UserWarning")  # the tiny vocabulary knows few words
def test_two_stage(base, source, tmp_path, run):
    output = run(
        "two_stage.py",
        source,
        "--test-packages",
        "two",
        "--model",
        base,
        "--steps",
        3,
        "--batch-size",
        8,
        "--output",
        "out",
    )
    assert "SentenceTransformer('out/student')" in output
    card = (tmp_path / "out" / "student" / "README.md").read_text()
    assert '"estimator": "trained-model"' in card
    assert '"teacher": "teacher"' in card
    assert loads(tmp_path / "out" / "student").shape == (1, 16)
    assert list((tmp_path / "out" / "table").glob("part-*"))


OWN = ("--min-pairs", 10, "--steps", 3, "--batch-size", 4, "--max-tokens", 32, "--output", "out")


def test_own_repository_with_several_packages(base, source, tmp_path, run):
    for number in range(3):
        write_package(source, f"more{number}", 4)
    output = run("own_repository.py", source, "--model", base, *OWN)
    assert "WARNING" not in output
    assert re.search(r"^24 training pairs, 4 test pairs$", output, re.MULTILINE)
    assert re.search(r"^python +\d\.\d{3} +\d\.\d{3} +[+-]\d\.\d{3}$", output, re.MULTILINE)
    scores = json.loads((tmp_path / "out" / "results.json").read_text())
    assert 0 < scores["mrr_at_1000"]["after"]["python"] <= 1
    assert scores["loss"]["estimator"] == "bm25"
    assert loads(tmp_path / "out" / "model").shape == (1, 16)
    assert weights_differ(tmp_path / "out" / "model", tmp_path / base)


REQUIRED = {
    "push_to_hub.py": ["--test-packages", "two", "--repository", "user/model"],
    "two_stage.py": ["--test-packages", "two"],
}


@pytest.mark.parametrize(
    "script", [path.name for path in sorted(EXAMPLES.glob("*.py")) if '"paths", nargs' in path.read_text()]
)
def test_a_path_that_does_not_exist_is_one_line(base, run, capsys, script):
    with pytest.raises(SystemExit, match="2"):
        run(script, "no/such-folder", "--model", base, *REQUIRED.get(script, ()))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"{script}: error: PATH must exist, got 'no/such-folder': check its spelling."


def test_own_repository_with_named_test_packages(base, source, run):
    output = run("own_repository.py", source, "--model", base, "--test-packages", "two", *OWN)
    assert "8 training pairs, 8 test pairs" in output


def test_own_repository_with_a_static_model_in_a_language_with_comments(static_model, tmp_path, run):
    static_model.save_pretrained(str(tmp_path / "static"))
    for package in ("one", "two", "three"):
        (tmp_path / "src" / package).mkdir(parents=True)
        (tmp_path / "src" / package / "code.go").write_text(
            f"package {package}\n"
            + "".join(
                f"\n// {query} of data\nfunc f{number}(read int) int {{\n\tread += {number}\n"
                f'\tprint("{package}")\n\treturn read\n}}\n'
                for number, query in enumerate(QUERIES)
            )
        )
    output = run("own_repository.py", tmp_path / "src", "--model", "static", *OWN, "--test-packages", "two")
    assert "16 training pairs, 8 test pairs" in output
    assert re.search(r"^go +\d\.\d{3} +\d\.\d{3} +[+-]\d\.\d{3}$", output, re.MULTILINE)


def test_own_repository_does_not_ask_a_model_for_more_tokens_than_it_takes(base, source, tmp_path, run):
    run("own_repository.py", source, "--model", base, "--test-packages", "two", *OWN, "--max-tokens", 4096)
    assert SentenceTransformer(str(tmp_path / "out" / "model"), device="cpu").max_seq_length == 32


@pytest.mark.parametrize(
    ("files", "level"),
    [
        (["a/code.py", "b/code.py", "c/code.py", "d/code.py", "e/code.py", "f/code.py"], "folders"),
        (["a.py", "b.py", "c.py", "d.py", "e.py"], "files"),
    ],
    ids=["folders", "files"],
)
def test_own_repository_of_one_package_is_split_within_it_and_says_so(base, tmp_path, run, files, level):
    for file in files:
        write_package(tmp_path / "alone", "pack", 4, file)
    output = run("own_repository.py", tmp_path / "alone", "--model", base, *OWN)
    assert f"WARNING: the test pairs are other {level} of the same packages" in output
    assert f"{4 * len(files) - 4} training pairs, 4 test pairs" in output


def test_own_repository_of_one_file_cannot_be_split(base, tmp_path, run):
    write_package(tmp_path / "alone", "pack")
    with pytest.raises(SystemExit, match="8 pairs in 1 files cannot be split"):
        run("own_repository.py", tmp_path / "alone", "--model", base, *OWN, "--min-pairs", 4)


def test_own_repository_refuses_too_few_pairs_with_numbers(base, source, run):
    (source / "one" / "bare.py").write_text("def bare(value):\n    read = value\n    return read\n")
    with pytest.raises(SystemExit, match=r"16 pairs found, at least 200 needed.\n1 of 17 functions have no doc"):
        run("own_repository.py", source, "--model", base)
    with pytest.raises(SystemExit, match="They make no two batches of 32"):
        run("own_repository.py", source, "--model", base, "--min-pairs", 10)


def test_own_repository_says_what_to_do_without_a_model(source, run):
    with pytest.raises(SystemExit, match=r"--model nobody/nothing: (.|\n)*Without a network, give a folder"):
        run("own_repository.py", source, "--model", "nobody/nothing")


@pytest.mark.filterwarnings("ignore:The table of the estimator:UserWarning")  # the tiny vocabulary knows few words
def test_simcse(base, source, tmp_path, run):
    save_bert(tmp_path / "dropout", hidden_dropout_prob=0.1)
    output = run(
        "simcse.py",
        source,
        "--model",
        base,
        "--base-encoder",
        "dropout",
        "--steps",
        2,
        "--batch-size",
        8,
        "--output",
        "out",
    )
    assert "SentenceTransformer('out/model')" in output
    assert '"estimator": "simcse"' in (tmp_path / "out" / "model" / "README.md").read_text()
    assert loads(tmp_path / "out" / "encoder").shape == (1, 16)


def test_hard_negatives(base, source, tmp_path, run):
    output = run("hard_negatives.py", source, "--model", base, "--steps", 2, "--batch-size", 8, "--output", "out")
    assert "16 of 16 pairs have 1 hard negatives" in output
    card = (tmp_path / "out" / "model" / "README.md").read_text()
    assert "negative" in card
    assert weights_differ(tmp_path / "out" / "model", tmp_path / base)


def test_matryoshka_cached(base, source, tmp_path, run):
    options = ["--dimensions", 16, 8, "--steps", 2, "--batch-size", 8, "--mini-batch-size", 3, "--output", "out"]
    output = run("matryoshka_cached.py", source, "--model", base, *options)
    assert "SentenceTransformer('out/model', truncate_dim=8)" in output
    assert loads(tmp_path / "out" / "model", truncate_dim=8).shape == (1, 8)
    card = (tmp_path / "out" / "model" / "README.md").read_text()
    assert '"loss": "CachedSoftInfoNCELoss"' in card


def test_lora(base, source, tmp_path, run):
    output = run("lora.py", source, "--model", base, "--rank", 2, "--steps", 2, "--batch-size", 8, "--output", "out")
    trained, total = map(int, re.search(r"^(\d+) of ([\d,]+) param", output.replace(",", ""), re.MULTILINE).groups())
    assert 0 < trained < total / 4
    assert list((tmp_path / "out" / "model").rglob("adapter_model.safetensors"))
    assert loads(tmp_path / "out" / "model").shape == (1, 16)


def test_choose_estimator(base, source, tmp_path, run):
    options = ["--estimators", "bm25", "near-duplicate", "trained-model", "--teacher", base, "--batch-size", 8]
    output = run("choose_estimator.py", source, "--model", base, *options, "--output", "out")
    for name in ("bm25", "near-duplicate", "trained-model"):
        assert re.search(rf"^{name}: \d+ batches of 8", output, re.MULTILINE)
        assert "<h1>" in (tmp_path / "out" / f"{name}.html").read_text()
    assert re.search(r"^    0\.\d\d  '.+' and f\d: '.+'$", output, re.MULTILINE)


def test_choose_estimator_without_its_teacher(base, source, run):
    with pytest.raises(SystemExit, match="2"):
        run("choose_estimator.py", source, "--model", base, "--estimators", "simcse")


def test_evaluate_mteb(base, bert_folder, source, tmp_path, run):
    output = run(
        "evaluate_mteb.py", source, "--model", base, bert_folder, "--packages", "two", "--output", "scores.json"
    )
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert set(scores) == {base, bert_folder}
    assert 0 < scores[base]["python"]["mrr_at_1000"] <= 1
    assert output.count(f"{scores[base]['python']['mrr_at_1000']:.3f}") >= 1


@pytest.mark.slow
def test_multi_gpu_on_two_processes(base, source, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(port)]
    script = [str(EXAMPLES / "multi_gpu.py"), str(source), "--model", base, "--steps", "2", "--batch-size", "4"]
    root = str(EXAMPLES.parent)
    environment = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    finished = subprocess.run(
        [*launch, *script, "--output", "out"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "2 processes: SentenceTransformer('out/model')" in finished.stdout
    # Eight pairs a step are seven negatives of each query: those of both processes.
    effective = float(re.search(r"'effective_negatives': '?([\d.]+)", finished.stdout + finished.stderr).group(1))
    assert 3 < effective <= 7
    assert weights_differ(tmp_path / "out" / "model", tmp_path / base)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_each_script_is_in_the_table_and_says_how_to_run_it(script):
    assert script.name in (EXAMPLES / "README.md").read_text()
    assert re.search(
        rf"(python|accelerate launch .*) ?examples/{script.name}", ast.get_docstring(ast.parse(script.read_text()))
    )


def test_every_link_of_the_table_leads_somewhere():
    for path in re.findall(r"\]\(([^)#:]+)\)", (EXAMPLES / "README.md").read_text()):
        assert (EXAMPLES / path).exists(), path
