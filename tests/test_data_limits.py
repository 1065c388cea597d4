"""No file stalls a run, no process that ends loses anything, and Ctrl-C ends a run at once."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from st_softinfonce.data import MiningReport, mine_pairs, mining, workers
from st_softinfonce.data.deadline import Deadline
from st_softinfonce.data.file_miner import FileMiner, MiningOptions
from st_softinfonce.data.languages import EXTENSIONS

FUNCTION = 'def {}(first, second):\n    """Add the totals of two orders."""\n    x = first + second\n    return x\n'

# A process in which files named after a mishap have it. The endless sum is C code, which no Python code can stop.
PROGRAM = """
import sys; sys.path[:] = {path!r}
import os, signal
from pathlib import Path
from st_softinfonce.data import workers
from st_softinfonce.data.file_miner import FileMiner
mine = FileMiner.mine
def unlucky(self, place, language):
    mark = Path(place).with_suffix(".mark")
    if "killed" in place or ("unlucky" in place and not mark.exists()):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if "endless" in place:
        mark.write_text(str(os.getpid()))
        sum(range(10**15))
    return mine(self, place, language)
FileMiner.mine = unlucky
workers.work()
"""


@pytest.fixture(params=[None, 2], ids=["alone", "two processes"])
def num_proc(request, monkeypatch):
    """Has all files mined by other processes: as large ones, or as some of many."""
    monkeypatch.setattr(workers, "_PROGRAM", PROGRAM)
    monkeypatch.setattr(mining, "_SAFE_BYTES", 0)
    monkeypatch.setattr(mining, "_FEW_FILES", 1)
    monkeypatch.setattr(mining, "cores", lambda: 2)
    return request.param


def write(folder, *names):
    for name in names:
        (folder / f"{name}.py").write_text(FUNCTION.format(name))
    return folder


def test_files_that_end_or_stall_their_process_are_named_and_no_other_is_lost(tmp_path, num_proc):
    write(tmp_path, "a", "b_killed", "c", "d_unlucky", "e_endless", "f")
    report = MiningReport()
    started = time.monotonic()
    pairs = mine_pairs(tmp_path, report=report, seconds_per_file=2, num_proc=num_proc)
    assert pairs["name"][:] == ["a", "c", "d_unlucky", "f"]
    assert report.problems == ["b_killed.py (crashed)", "e_endless.py (time_limit)"]
    assert report.files_skipped["crashed"] == report.files_skipped["time_limit"] == 1
    assert (tmp_path / "d_unlucky.mark").exists()
    assert time.monotonic() - started < 60


def test_ctrl_c_ends_a_run_and_its_processes_at_once(tmp_path, num_proc):
    write(tmp_path, "a", "b_endless", "c")
    interrupted = []

    def interrupt():
        while not (tmp_path / "b_endless.mark").exists() or not (tmp_path / "b_endless.mark").read_text():
            time.sleep(0.01)
        interrupted.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process of pytest-xdist ignores it
    try:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            mine_pairs(tmp_path, seconds_per_file=None, num_proc=num_proc)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - interrupted[0] < 5  # a moment, but for a busy machine
    thread.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "b_endless.mark").read_text()), 0)


def test_processes_end_with_the_one_that_asks(tmp_path):
    write(tmp_path, *(f"f{number}" for number in range(4)))
    program = (
        "import os, signal, sys\n"
        "from st_softinfonce.data.file_miner import MiningOptions\n"
        "from st_softinfonce.data.workers import WorkerPool\n"
        "pool = WorkerPool(['python'], MiningOptions(), 1)\n"
        "pool.begin([(sys.argv[1], 'python')]).result()\n"
        "(worker,) = pool._workers\n"
        "print(worker._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "f0.py")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    for _ in range(1000):
        status = Path(f"/proc/{int(ran.stdout)}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.01)
    pytest.fail("the process goes on")


def test_a_process_that_cannot_begin_is_no_files_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_PROGRAM", "raise SystemExit(3)  # {path}")
    monkeypatch.setattr(mining, "_SAFE_BYTES", 0)
    with pytest.raises(RuntimeError, match=r"could not begin \(exit status 3\)"):
        mine_pairs(write(tmp_path, "a"))


def mine(tmp_path, extension, text, seconds=10):
    place = tmp_path / f"file{extension}"
    place.write_text(text)
    language = EXTENSIONS[extension]
    return FileMiner([language], MiningOptions(seconds_per_file=seconds, max_file_bytes=len(text) + 1)).mine(
        str(place), language
    )


HEADS = {".py": "", ".js": "", ".ts": "", ".go": "package a\n", ".java": "class A {\n", ".php": "<?php\n", ".rb": ""}


@pytest.mark.parametrize("extension", HEADS)
@pytest.mark.parametrize("sign", ["[\n", "(\n"], ids=["brackets", "parentheses"])
def test_brackets_that_nothing_closes_are_no_source(tmp_path, extension, sign):
    # By the square of their number these took minutes.
    assert mine(tmp_path, extension, HEADS[extension] + sign * 300_000).rule == "garbage"


@pytest.mark.parametrize(
    ("extension", "before", "line", "after"),
    [
        (".py", "def f(x):\n    'Add the totals here.'\n", "    # a comment\n", "    x = 1\n    return x\n"),
        (".py", "def f(x):\n    'Add the totals here.'\n    x = (\n", "    # a comment\n\n", "    1)\n    return x\n"),
        (".py", "", "# a comment\n", "def f(x):\n    'Add the totals here.'\n    x = 1\n    return x\n"),
        (".rb", "# Add the totals here.\ndef f\n", "  # a comment\n", "  x = 1\n  x\nend\n"),
        (".js", "/** Add the totals here. */\nfunction f() {\n", "  // a comment\n", "  let x = 1;\n  return x\n}\n"),
        (".go", "package a\n", "// a comment\n", "\n// Adds the totals here.\nfunc f() {\n\tg()\n\th()\n}\n"),
    ],
    ids=["python body", "python brackets", "python top", "ruby", "javascript", "go"],
)
def test_thousands_of_comments_are_read_once(tmp_path, extension, before, line, after):
    # Read again for each line, they would take longer than the limit.
    file = mine(tmp_path, extension, before + line * 40_000 + after)
    assert (file.rule, [function.name for function in file.functions]) == (None, ["f"])
    assert "comment" not in file.functions[0].code


def test_comments_at_the_ends_of_strings_leave_the_code_as_it_is(tmp_path):
    string = "    x = '''\n" + "# in the string\n" * 40 + "    # and its end '''"
    source = (
        f"def f(x):\n    'Add the totals here.'\n{string}  # a comment\n" + "    # another\n\n" * 40 + "    return x\n"
    )
    assert mine(tmp_path, ".py", source).functions[0].code == f"def f(x):\n{string}\n\n    return x"


@pytest.mark.parametrize(("extension", "head"), [(".js", ""), (".java", "class A {\n"), (".php", "<?php\n")])
def test_comments_that_nothing_closes_are_read_once(tmp_path, extension, head):
    file = mine(tmp_path, extension, head + "/** Read the lines of it.\n" * 40_000)
    assert (file.rule, file.has_error, file.functions_seen) == (None, True, 0)


def test_long_functions_are_looked_through_once(tmp_path):
    body = "    x = 1\n" * 40_000 + "    return 'a\tb'\n"
    started = time.thread_time()
    file = mine(tmp_path, ".py", f"def f(x):\n    'Add the totals here.'\n{body}")
    assert [function.name for function in file.functions] == ["f"]
    assert time.thread_time() - started < 5  # looked through once for each line, it took minutes


@pytest.mark.parametrize(("size", "seconds"), [(30_000, 1), (1_500, 3600)], ids=["limit", "share of the size"])
def test_what_a_parser_despairs_of_ends_at_the_limit(tmp_path, size, seconds):
    # The time grows with the square of the size, and faster: 100 KB of these take hours.
    started = time.thread_time()
    assert mine(tmp_path, ".js", "-> -> ->\n" * size, seconds).rule == "time_limit"
    assert time.thread_time() - started < 2


def test_time_in_which_other_processes_have_the_machine_is_no_files_fault():
    deadline = Deadline(0.1)
    for _ in range(3):
        time.sleep(0.2)
        assert not deadline.is_over
    started = time.thread_time()
    while time.thread_time() < started + 0.2:
        pass
    assert deadline.is_over


@pytest.mark.skipif(sys.platform != "linux", reason="other systems set no such limit")
def test_what_takes_all_memory_ends_its_process_alone(tmp_path):
    (tmp_path / "greedy.js").write_text("f(a\n" + "%w(\n" * 40_000)  # tens of gigabytes
    report = MiningReport()
    assert mine_pairs(write(tmp_path, "a"), report=report, seconds_per_file=60)["name"][:] == ["a"]
    assert report.problems in (["greedy.js (crashed)"], ["greedy.js (time_limit)"])
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 4 << 20  # in kilobytes
