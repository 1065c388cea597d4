"""The examples run as a user would start them, in a reduced form."""

import ast
import io
import json
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import DOCUMENTS, QUERIES, make_transformer_model, write_package
from sentence_transformers import SentenceTransformer
from tiny_models import save_bert

from st_softinfonce.data import mine_pairs, mine_to_parquet
from st_softinfonce.tasks import bm25_rows, evaluate_rows, task_from_pairs

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(EXAMPLES.parent),
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning"),
    pytest.mark.filterwarnings("ignore::st_softinfonce.functional.SmallBatchWarning"),
]


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
    for name in ("TQDM_DISABLE", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "1")  # so that what the examples set is undone after the test

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


def bare(name, words="none"):
    return f'def {name}(value):\n    read = "{words}"\n    return read + value\n'


INTERVAL = r"([+-]?\d\.\d{3}) \[([+-]?\d\.\d{3}), ([+-]?\d\.\d{3})\]"


def table(output):
    """The lines of a table of intervals: name to mean, low and high."""
    found = re.findall(rf"^    (\S.*?) *{INTERVAL}", output, re.MULTILINE)
    return {name: tuple(map(float, numbers)) for name, *numbers in found}


def mean_rank(ranks):
    values = [rank for rows in ranks.values() for _, rank in rows.values()]
    return sum(values) / len(values)


# From a repository to answers

OWN = ("--min-pairs", 10, "--steps", 3, "--batch-size", 4, "--max-tokens", 16, "--output", "out")


def test_own_repository_ranks_all_functions_before_and_after_beside_infonce_and_bm25(base, source, tmp_path, run):
    for number in range(3):
        write_package(source, f"more{number}", 4)
    (source / "one" / "bare.py").write_text(bare("first") + bare("second"))
    output = run("own_repository.py", source, "--model", base, *OWN, "--test-packages", "two", "more1")
    assert "WARNING" not in output
    assert "16 training pairs, 12 test pairs from other packages" in output
    # The queries of the two packages, among the functions of all of them and the two without documentation.
    assert "python: MRR of 12 queries among 30 candidates, with 95% intervals" in output
    rows = mine_pairs(source, undocumented=True)
    asked = rows.filter(
        lambda query, package: query and package in ("two", "more1"), input_columns=["query", "package"]
    )
    task = task_from_pairs(asked, "OwnRepository", corpus=rows)
    found = table(output)
    assert list(found) == [
        *("BM25", "before", "InfoNCE", "Soft-InfoNCE, bm25"),
        *(f"Soft-InfoNCE, bm25 - {other}" for other in ("BM25", "before", "InfoNCE")),
    ]
    models = {"before": base, "InfoNCE": "out/infonce", "Soft-InfoNCE, bm25": "out/model"}
    for name, folder in models.items():
        model = SentenceTransformer(folder, device="cpu")
        assert model.max_seq_length == 32  # not those of --max-tokens
        model.max_seq_length = 16
        assert found[name][0] == pytest.approx(mean_rank(evaluate_rows(model, task)[1]), abs=6e-4)
        assert weights_differ(folder, base) == (folder != base)
    assert found["BM25"][0] == pytest.approx(mean_rank(bm25_rows(task)), abs=6e-4)
    assert all(low <= mean <= high for mean, low, high in found.values())
    difference = found["Soft-InfoNCE, bm25"][0] - found["before"][0]
    assert found["Soft-InfoNCE, bm25 - before"][0] == pytest.approx(difference, abs=2e-3)
    saved = json.loads((tmp_path / "out" / "results.json").read_text())
    assert saved["python, before"] == pytest.approx(found["before"], abs=6e-4)
    assert "Texts were cut to 16 tokens here (--max-tokens)" in output
    card = (tmp_path / "out" / "model" / "README.md").read_text()
    assert '"estimator": "bm25"' in card
    assert "mrr_at_1000_duplicates_before_fine_tuning" in card
    assert any(text.strip('"') in card for text in DOCUMENTS)


def test_own_repository_alone_keeps_private_texts_to_itself_and_progress_out_of_pipes(
    base, bert_folder, source, tmp_path
):
    options = ["--teacher", bert_folder, "--negatives", "1", "--test-packages", "two", "--private", *map(str, OWN)]
    finished = subprocess.run(
        [sys.executable, str(EXAMPLES / "own_repository.py"), str(source), "--model", base, *options],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "%|" not in finished.stderr  # no progress bars
    assert "Distill - InfoNCE" in table(finished.stdout)
    assert '"treatment": "Distill"' in (tmp_path / "out" / "model" / "README.md").read_text()
    files = [path for path in (tmp_path / "out").rglob("*") if path.suffix in (".md", ".json")]
    assert len(files) > 6
    texts = "".join(path.read_text() for path in files)
    assert not [secret for secret in (*QUERIES, *DOCUMENTS) if secret in texts]


@pytest.mark.parametrize(
    ("files", "level"),
    [
        (["a/code.py", "b/code.py", "c/code.py", "d/code.py", "e/code.py", "f/code.py", "setup.py"], "folders"),
        (["a.py", "b.py", "c.py", "d.py", "e.py"], "files"),
    ],
    ids=["folders", "files"],
)
def test_own_repository_of_one_package_is_split_within_it_and_says_so_at_the_end(base, tmp_path, run, files, level):
    for file in files:
        write_package(tmp_path / "alone", "pack", 4, file)
    output = run("own_repository.py", tmp_path / "alone", "--model", base, *OWN)
    assert re.search(rf"test pairs from other {level}$", output, re.MULTILINE)
    assert f"WARNING: the test pairs are other {level} of the same packages" in output[output.index("Models: ") :]


def test_own_repository_of_one_file_cannot_be_split(base, tmp_path, run):
    write_package(tmp_path / "alone", "pack")
    with pytest.raises(SystemExit, match="got 8 rows of 1: add sources"):
        run("own_repository.py", tmp_path / "alone", "--model", base, *OWN, "--min-pairs", 4)


def test_own_repository_refuses_too_few_pairs_and_names_options_that_it_has(base, source, run, capsys):
    (source / "one" / "short.py").write_text(
        'def short(value):\n    """Two words."""\n    read = value\n    return read\n'
    )
    with pytest.raises(SystemExit, match="16 pairs found, at least 200 needed") as refused:
        run("own_repository.py", source, "--model", base)
    (named,) = re.findall(r"a lower (--\S+) brings", str(refused.value))
    output = run("own_repository.py", source, "--model", base, *OWN, "--test-packages", "two", named, 1)
    assert "9 training pairs" in output
    with pytest.raises(SystemExit, match="training pairs make no two batches of 32"):
        run("own_repository.py", source, "--model", base, "--min-pairs", 10)


def test_own_repository_without_documentation_is_searched_without_training(base, tmp_path, run):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "bare.py").write_text(bare("read", "file"))
    with pytest.raises(SystemExit, match="1 of 1 functions have no documentation") as refused:
        run("own_repository.py", "code", "--model", base)
    command = re.search('^python examples/(search.py) "question" (.*)$', str(refused.value), re.MULTILINE)
    assert search_lines(run(command[1], "read", *command[2].split())) == [["1", "code/bare.py:1", "read"]]


def test_own_repository_draws_queries_and_candidates_of_a_large_repository(base, source, tmp_path, run):
    for number in range(3):
        write_package(source, f"more{number}", 4)
    most = ["--most-queries", 5, "--most-candidates", 7]
    output = run("own_repository.py", source, "--model", base, *OWN, "--test-packages", "two", *most)
    (candidates,) = re.findall(r"python: MRR of 5 queries among (\d+) candidates", output)
    assert 7 <= int(candidates) <= 12


def search_lines(output):
    return [line.split() for line in output.splitlines() if re.match(r" +\d+ ", line)]


def test_search_prints_rank_place_and_name_of_all_functions_and_encodes_only_what_is_new(
    base, bert_folder, source, tmp_path, run, monkeypatch
):
    (source / "one" / "bare.py").write_text("\n\n" + bare("undocumented", "socket bytes merge"))
    encoded = []
    encode = SentenceTransformer.encode_document
    monkeypatch.setattr(
        SentenceTransformer,
        "encode_document",
        lambda self, texts, **kw: encoded.append(texts) or encode(self, texts, **kw),
    )
    options = ["--model", base, "--code", source]
    code = bare("undocumented", "socket bytes merge").strip()
    lines = search_lines(run("search.py", code, *options))
    assert lines[0] == ["1", f"{source}/one/bare.py:3", "undocumented"]  # its own text
    assert [int(rank) for rank, *_ in lines] == list(range(1, 9))
    for _, place, name in lines:
        path, line = place.split(":")
        assert f"def {name}(" in Path(path).read_text().splitlines()[int(line) - 1]
    assert list(map(len, encoded)) == [17]
    assert search_lines(run("search.py", code, *options)) == lines
    assert len(encoded) == 1  # all of it was kept

    (source / "one" / "bare.py").write_text(bare("new", "last index") + bare("undocumented", "socket bytes merge"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("def socket bytes merge\nread a file\n"))
    output = run("search.py", *options, "--before", bert_folder)
    assert list(map(len, encoded)) == [17, 1, 18]
    one, two = output.split("read a file")
    assert "    rank  before" in one
    assert [line[2:] for line in search_lines(one)].count([f"{source}/one/bare.py:4", "undocumented"]) == 1
    ranks = [list(map(int, line[:2])) for line in search_lines(two)]
    assert [rank for rank, _ in ranks] == sorted(rank for rank, _ in ranks)
    assert {1, 2, 3, 4, 5, 6, 7, 8} <= {rank for rank, _ in ranks} & {rank for _, rank in ranks}


def test_search_sees_a_model_that_was_trained_anew(base, bert_folder, source, tmp_path, run):
    first = run("search.py", "read a file", "--model", base, "--code", source)
    save_bert(tmp_path / "other", seed=5)
    make_transformer_model(str(tmp_path / "other")).save_pretrained(str(tmp_path / base))
    assert run("search.py", "read a file", "--model", base, "--code", source) != first


def test_search_keeps_its_index_where_it_lies_within_the_code(base, source, run, monkeypatch):
    first = run("search.py", "read a file", "--model", base, "--code", ".")
    monkeypatch.setattr(SentenceTransformer, "encode_document", None)
    assert run("search.py", "read a file", "--model", base, "--code", ".") == first


def test_search_finds_the_file_of_a_package_that_is_not_called_as_its_folder(base, tmp_path, run):
    (tmp_path / "code" / "server" / "store").mkdir(parents=True)
    (tmp_path / "code" / "go.mod").write_text("module example.org/team/shop\n")
    file = tmp_path / "code" / "server" / "store" / "read.go"
    file.write_text("package store\n\nfunc read(value int) int {\n\tvalue += 1\n\treturn value\n}\n")
    output = run("search.py", "read a file", "--model", base, "--code", tmp_path / "code")
    assert search_lines(output) == [["1", f"{file}:3", "read"]]


@pytest.mark.parametrize("folder", ["no/such-folder", "notes"])
def test_search_of_what_is_no_code_says_what_can_be_read(base, tmp_path, run, capsys, folder):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "read.txt").write_text("read a file")
    with pytest.raises(SystemExit, match="2"):
        run("search.py", "read a file", "--model", base, "--code", folder)
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(rf"search.py: error: --code must be a folder with .py .* files, got {folder}", last)


# Comparisons


@pytest.mark.parametrize("kind", ["folder", "jsonl"])
def test_compare_treatments(base, static_model, bert_folder, source, tmp_path, run, kind):
    static_model.save_pretrained(str(tmp_path / "static"))
    for number in range(3):
        write_package(source, f"more{number}")
    (source / "one" / "bare.py").write_text(bare("first"))
    if kind == "folder":
        mine_to_parquet(source, tmp_path / "pairs", undocumented=True)
        pairs, model = "pairs", "static"
    else:
        rows = mine_pairs(source).select_columns(["query", "code"])
        rows.to_json(str(tmp_path / "pairs.jsonl"))
        pairs, model = "pairs.jsonl", base
    seeds = 2 if kind == "folder" else 1
    options = ["--negatives", 2, "--seeds", seeds, "--steps", 1, "--batch-size", 4]
    output = run("compare_treatments.py", pairs, "--model", model, "--teacher", bert_folder, *options)
    assert ("WARNING: what is held out are rows" in output) == (kind == "jsonl")
    assert "32 training pairs with 2 mined negatives each, 8 test pairs" in output
    (best,) = re.findall(rf"MRR of \d+ queries, {seeds} seeds; differences are to (.+)$", output, re.MULTILINE)
    means = dict(re.findall(r"^    (\S.*?)  +(\d\.\d{3})", output, re.MULTILINE))
    assert list(means) == [
        "before",
        *("InfoNCE, random negatives", "InfoNCE", "Distill(share=0.5)", "Mask(margin=0.05, relative=True)"),
        "Soften, by bm25 (the paper)",
    ]
    assert float(means[best]) == max(float(means[name]) for name in list(means)[1:3])
    lines = re.findall(rf"^    (\S.*?)  +(\d\.\d{{3}})  {INTERVAL}  (\w+)$", output, re.MULTILINE)
    assert {name for name, *_ in lines} == set(means) - {best}
    for _, mean, difference, low, high, verdict in lines:
        assert float(difference) == pytest.approx(float(mean) - float(means[best]), abs=2e-3)
        if verdict != "undecided":
            assert verdict == ("better" if float(low) >= 0 else "worse")
            assert float(low) * float(high) >= 0
    better = [name for name, *_, verdict in lines if verdict == "better" and name != "before"]
    advice = output.splitlines()[-1]
    assert any(f"Take {name}:" in advice for name in better) if better else advice.startswith(f"Stay with {best}:")


@pytest.mark.parametrize(
    ("pairs", "model", "message"),
    [
        ("src", "base", "src holds no pairs .*: st-softinfonce mine SOURCES -o PAIRS makes some"),
        ("other.jsonl", "base", r"must have the columns query and code, got \['question', 'answer'\]: rename them"),
    ],
    ids=["sources", "columns"],
)
def test_compare_treatments_says_what_to_do(base, source, tmp_path, run, pairs, model, message):
    rows = mine_pairs(source).select_columns(["query", "code"])
    rows.to_json(str(tmp_path / "pairs.jsonl"))
    rows.rename_columns({"query": "question", "code": "answer"}).to_json(str(tmp_path / "other.jsonl"))
    with pytest.raises(SystemExit, match=message):
        run("compare_treatments.py", pairs, "--model", model, "--teacher", model)


def test_quickstart(base, bert_folder, source, tmp_path, run, monkeypatch):
    monkeypatch.syspath_prepend(str(source))
    for number in range(3):
        write_package(source, f"more{number}")
    options = ["--teacher", base, "--train-packages", "one", "more0", "more1", "more2", "--test-packages", "two"]
    sizes = ["--negatives", 2, "--batch-size", 4, "--layers", 1, "--max-tokens", 16, "--output", "out"]
    output = run("quickstart.py", *options, *sizes)
    assert "32 training pairs; 8 test pairs from ['two']" in output
    scores = json.loads((tmp_path / "out" / "results.json").read_text())
    for name in ("before", "InfoNCE", "Distill", "the teacher"):
        assert f"    {name:20}{scores[name]:.3f}" in output
    gain = scores["Distill - InfoNCE"]
    assert gain["mean"] == pytest.approx(scores["Distill"] - scores["InfoNCE"])
    assert gain["low"] <= gain["mean"] <= gain["high"]
    assert scores["Distill"] != scores["before"]
    pairs = mine_pairs(source / "two", languages="python")
    student = SentenceTransformer(str(tmp_path / "out" / "model"), device="cpu")
    longest, student.max_seq_length = student.max_seq_length, 16
    _, ranks = evaluate_rows(student, task_from_pairs(pairs, "Two"))
    assert mean_rank(ranks) == pytest.approx(scores["Distill"], abs=1e-6)
    assert len(student[0].model.encoder.layer) == 1
    assert longest == 32  # not those of --max-tokens
    assert "Gained most: '" in output


def test_evaluate_mteb(base, bert_folder, source, tmp_path, run):
    (source / "one" / "bare.py").write_text(bare("first"))
    output = run(
        "evaluate_mteb.py", source, "--model", base, bert_folder, "--packages", "two", "--output", "scores.json"
    )
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert set(scores) == {base, bert_folder}
    rows = mine_pairs(source, undocumented=True)
    task = task_from_pairs(
        rows.filter(lambda package: package == "two", input_columns="package"), "MyCode", corpus=rows
    )
    expected = mean_rank(evaluate_rows(SentenceTransformer(base, device="cpu"), task)[1])
    assert scores[base]["python"]["mrr_at_1000_duplicates"] == pytest.approx(expected, abs=6e-4)
    assert re.search(rf"^{base} .*{expected:.3f} .* \+0\.000 \[\+0\.000, \+0\.000\]$", output, re.MULTILINE)
    with pytest.raises(SystemExit, match="2"):
        run("evaluate_mteb.py", source, "--model", base, "--packages", "three")


@pytest.mark.parametrize("model", ["nobody/nothing", "src"])
@pytest.mark.parametrize(
    ("script", "arguments", "remedy"),
    [
        ("own_repository.py", ["src"], "Without a network, give a model's"),
        ("search.py", ["read", "--code", "src"], "Train one with examples/own_repository.py"),
        ("compare_treatments.py", ["pairs.jsonl"], "give a model's folder"),
    ],
    ids=["own-repository", "search", "compare-treatments"],
)
def test_without_a_model_it_says_what_to_do(source, tmp_path, run, script, arguments, remedy, model):
    mine_pairs(source).select_columns(["query", "code"]).to_json(str(tmp_path / "pairs.jsonl"))
    with pytest.raises(SystemExit, match=rf"{model} cannot be loaded: (.|\n)*{remedy}"):
        run(script, *arguments, *(["--teacher", model] if "compare" in script else []), "--model", model)


# Trainings


@pytest.mark.filterwarnings("ignore:The table of the estimator:UserWarning")  # the tiny vocabulary knows few words
def test_simcse(base, source, tmp_path, run):
    save_bert(tmp_path / "dropout", hidden_dropout_prob=0.1)
    options = ["--base-encoder", "dropout", "--steps", 2, "--batch-size", 8, "--output", "out"]
    output = run("simcse.py", source, "--model", base, *options)
    assert "SentenceTransformer('out/model')" in output
    assert '"estimator": "simcse"' in (tmp_path / "out" / "model" / "README.md").read_text()
    assert weights_differ(tmp_path / "out" / "encoder", tmp_path / "dropout")
    assert weights_differ(tmp_path / "out" / "model", tmp_path / base)


@pytest.mark.filterwarnings("ignore:The table of the estimator:UserWarning")  # the tiny vocabulary knows few words
def test_hard_negatives(base, bert_folder, source, tmp_path, run):
    options = ["--teacher", bert_folder, "--negatives", 2, "--steps", 2, "--batch-size", 8, "--output", "out"]
    output = run("hard_negatives.py", source, "--model", base, *options)
    assert "16 of 16 pairs have 2 hard negatives" in output
    card = (tmp_path / "out" / "model" / "README.md").read_text()
    assert "negative_2" in card
    assert '"treatment": "Distill"' in card
    assert weights_differ(tmp_path / "out" / "model", tmp_path / base)


def test_train_large_with_everything_at_once(base, source, tmp_path, run):
    options = ["--lora", 2, "--dimensions", 16, 8, "--mini-batch-size", 3, "--steps", 2, "--batch-size", 8]
    output = run("train_large.py", source, "--model", base, *options, "--output", "out")
    trained, total = map(int, re.search(r"^(\d+) of ([\d,]+) param", output.replace(",", ""), re.MULTILINE).groups())
    assert 0 < trained < total / 4
    assert "1 processes: SentenceTransformer('out/model', truncate_dim=8)" in output
    assert list((tmp_path / "out" / "model").rglob("adapter_model.safetensors"))
    assert loads(tmp_path / "out" / "model", truncate_dim=8).shape == (1, 8)
    assert "MatryoshkaLoss" in (tmp_path / "out" / "model" / "README.md").read_text()


@pytest.mark.slow
def test_train_large_on_two_processes(base, source, tmp_path):
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
    script = [str(EXAMPLES / "train_large.py"), str(source), "--model", base, "--steps", "2", "--batch-size", "4"]
    finished = subprocess.run(
        [*launch, *script, "--output", "out"],
        cwd=tmp_path,
        env=ENVIRONMENT,
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


REQUIRED = {
    "push_to_hub.py": ["--test-packages", "two", "--repository", "user/model"],
}


@pytest.mark.parametrize("script", [path.name for path in SCRIPTS if '"paths", nargs' in path.read_text()])
def test_a_path_that_does_not_exist_is_one_line(base, run, capsys, script):
    with pytest.raises(SystemExit, match="2"):
        run(script, "no/such-folder", "--model", base, *REQUIRED.get(script, ()))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"{script}: error: PATH must exist, got 'no/such-folder': check its spelling."


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_each_script_is_in_the_table_and_says_how_to_run_it(script):
    assert script.name in (EXAMPLES / "README.md").read_text()
    assert re.search(
        rf"(python|accelerate launch .*) ?examples/{script.name}", ast.get_docstring(ast.parse(script.read_text()))
    )


def test_every_link_of_the_table_leads_somewhere():
    for path in re.findall(r"\]\(([^)#:]+)\)", (EXAMPLES / "README.md").read_text()):
        assert (EXAMPLES / path).exists(), path
