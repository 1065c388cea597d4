import hashlib
import os
import signal
import subprocess
import sys
import tracemalloc

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from st_softinfonce.data import MiningReport, Source, mine_pairs, mine_to_parquet, mining, parquet as module


def function(name, body="total = first + second"):
    return f'def {name}(first, second):\n    """Add the totals of two orders."""\n    {body}\n    return total\n'


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.fixture
def trees(tmp_path):
    files = {
        f"p{i}/m{j}.py": function(f"f{i}{j}") + function(f"g{i}", "total = 1") for i in range(3) for j in range(4)
    }
    return write(
        tmp_path / "trees",
        {
            **files,
            "p0/LICENSE": "Permission is hereby granted, free of charge, to any person obtaining a copy",
        },
    )


def digests(folder):
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_rows_are_those_of_mine_pairs(tmp_path, trees):
    expected_report, given = MiningReport(), MiningReport()
    expected = mine_pairs(trees, report=expected_report)
    report = mine_to_parquet(trees, tmp_path / "a" / "out", rows_per_shard=4, report=given)
    loaded = load_dataset(str(tmp_path / "a" / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == list(expected)
    assert loaded.column_names == expected.column_names
    assert report == given == expected_report
    assert [path.name for path in sorted((tmp_path / "a" / "out" / "data").iterdir())] == [
        f"train-0000{shard}.parquet" for shard in range(4)
    ]
    assert len(expected) == 15


def test_mining_twice_gives_the_same_bytes(tmp_path, trees):
    for name in ("one", "two"):
        mine_to_parquet(trees, tmp_path / name, rows_per_shard=7)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert len(digests(tmp_path / "one")) == 4


def test_duplicates_are_kept_when_asked_for_and_share_a_group(tmp_path, trees):
    pairs = mine_pairs(trees, keep_duplicates=True)
    assert len(pairs) == 24
    groups = [row["duplicate_group"] for row in pairs if row["name"] == "g1"]
    assert len(groups) == 4
    assert len(set(groups)) == 1
    mine_to_parquet(trees, tmp_path / "out", keep_duplicates=True)
    loaded = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["duplicate_group"][:] == pairs["duplicate_group"][:]


def test_groups_of_two_corpora_can_be_put_together(tmp_path):
    write(tmp_path, {"a/x.py": function("f") + function("f2"), "b/y.py": function("unlike", "total = [first] * 7")})
    together = mine_pairs(tmp_path)["duplicate_group"][:]
    assert (
        mine_pairs(tmp_path / "a")["duplicate_group"][:] + mine_pairs(tmp_path / "b")["duplicate_group"][:] == together
    )


def test_card_lists_licences_and_what_was_left_out(tmp_path, trees):
    report = mine_to_parquet([Source(trees, version="1|2")], tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| p0 | 1\\|2 | MIT | 5 |" in card
    assert "| p1 | 1\\|2 |  | 5 |" in card
    assert "| python | 15 |" in card
    assert str(report) in card
    assert "duplicate" in str(report)
    assert str(tmp_path) not in card


def test_card_names_the_largest_packages_and_counts_the_rest(tmp_path, trees, monkeypatch):
    monkeypatch.setattr(module, "_MOST_PACKAGES", 1)
    mine_to_parquet(trees, tmp_path / "out")
    assert "and 2 more with 10 pairs together." in (tmp_path / "out" / "README.md").read_text()


def test_existing_output_is_refused_unless_it_is_ours(tmp_path, trees):
    output = tmp_path / "out"
    mine_to_parquet(trees / "p0", output)
    before = digests(output)
    with pytest.raises(
        FileExistsError, match=r"output must not exist, got .*out': give another folder, or overwrite=True"
    ):
        mine_to_parquet(trees, output)
    assert digests(output) == before
    mine_to_parquet(trees, output, overwrite=True)
    assert digests(output) != before
    write(output, {"notes.txt": "mine"})
    before = digests(output)
    with pytest.raises(FileExistsError, match="which was not mined or was changed since: give"):
        mine_to_parquet(trees, output, overwrite=True)
    assert digests(output) == before
    for path in (tmp_path / "empty", tmp_path / "file"):
        path.mkdir() if path.name == "empty" else path.write_text("text")
        with pytest.raises(FileExistsError, match="which was not mined"):
            mine_to_parquet(trees, path, overwrite=True)


def test_failure_leaves_what_was_there(tmp_path, trees, monkeypatch):
    mine_to_parquet(trees / "p0", tmp_path / "out" / "data")
    before = digests(tmp_path / "out")

    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_add_groups", fail)
    with pytest.raises(KeyboardInterrupt):
        mine_to_parquet(trees, tmp_path / "out" / "data", overwrite=True)
    assert digests(tmp_path / "out") == before
    with pytest.raises(KeyboardInterrupt):
        mine_to_parquet(trees, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "trees"]


def test_nothing_found_still_gives_a_dataset(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.warns(
        UserWarning, match=r"No pairs found under .*empty: 0 source files .* Give other paths: files of"
    ) as caught:
        mine_to_parquet(tmp_path / "empty", tmp_path / "out")
    assert caught[0].filename == __file__
    # `load_dataset` itself refuses datasets without rows.
    table = pq.read_table(tmp_path / "out" / "data")
    assert table.num_rows == 0
    assert table.column_names[-1] == "duplicate_group"


@pytest.mark.parametrize("rows", [0, 1.5, True], ids=str)
def test_rows_per_shard_is_checked(tmp_path, trees, rows):
    with pytest.raises(ValueError, match="rows_per_shard must be an integer of at least 1"):
        mine_to_parquet(trees, tmp_path / "out", rows_per_shard=rows)


def test_memory_hardly_grows_with_the_rows(tmp_path, monkeypatch):
    for name in ("BATCH_ROWS", "_JUDGED_FUNCTIONS"):
        monkeypatch.setattr(mining, name, 50)
    monkeypatch.setattr(module, "BATCH_ROWS", 50)

    def body(name):
        return (
            f'def {name}(first):\n    """Add the totals of two orders."""\n    x = "{"y" * 4000}"\n    return {name}\n'
        )

    peaks = []
    for size in (40, 160):
        files = {f"p/{i}.py": "".join(body(f"f{i}_{j}") for j in range(20)) for i in range(size)}
        folder = write(tmp_path / str(size), files)
        tracemalloc.start()
        report = mine_to_parquet(folder, tmp_path / f"out{size}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert report.functions_kept == 20 * size
    texts = 20 * (160 - 40) * len(body("f"))
    assert peaks[1] - peaks[0] < texts / 4


def test_what_is_mined_is_what_is_loaded(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / name, {"x.py": function(name)})
        mine_to_parquet(tmp_path / name / "x.py", tmp_path / name / "out")
    cache = str(tmp_path / "cache")

    def names(folder):
        return load_dataset(str(folder), split="train", cache_dir=cache)["name"][:]

    assert [names(tmp_path / name / "out") for name in ("one", "two")] == [["one"], ["two"]]
    write(tmp_path / "one", {"x.py": function("three")})
    mine_to_parquet(tmp_path / "one" / "x.py", tmp_path / "one" / "out", overwrite=True)
    assert names(tmp_path / "one" / "out") == ["three"]


@pytest.mark.parametrize("step", [1, 2])
def test_an_interrupt_while_replacing_loses_nothing(tmp_path, trees, monkeypatch, step):
    mine_to_parquet(trees / "p0", tmp_path / "out")
    before, rename, steps = digests(tmp_path / "out"), module.Path.rename, []

    def interrupt(self, target):
        steps.append(self)
        if len(steps) == step:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(module.Path, "rename", interrupt)
    with pytest.raises(KeyboardInterrupt):
        mine_to_parquet(trees, tmp_path / "out", overwrite=True)
    assert digests(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "trees"]


def test_what_a_killed_run_leaves_is_put_right(tmp_path, trees):
    output = tmp_path / "out"
    mine_to_parquet(trees / "p0", output)
    before = digests(output)
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from st_softinfonce.data import mine_to_parquet\n"
        "rename = Path.rename\n"
        "def kill(self, target):\n"
        "    if self.name == 'new':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return rename(self, target)\n"
        "Path.rename = kill\n"
        "mine_to_parquet(sys.argv[1], sys.argv[2], overwrite=True)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program, str(trees), str(output)], env=with_path(), check=False)
    assert ran.returncode == -signal.SIGKILL
    assert not output.exists()
    (work,) = tmp_path.glob(".*")
    assert digests(work / "old") == before
    with pytest.raises(FileExistsError, match="or overwrite=True"):
        mine_to_parquet(trees, output)
    assert digests(output) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "trees"]


def with_path():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def test_two_runs_do_not_write_into_one_folder(tmp_path, trees):
    with module._work_folder(tmp_path / "out") as work:
        with pytest.raises(FileExistsError, match=r"must not be written by another process, got .*out': wait"):
            mine_to_parquet(trees, tmp_path / "out")
        assert work.exists()
    mine_to_parquet(trees, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "trees"]


def test_what_someone_adds_while_a_folder_is_replaced_is_kept(tmp_path, trees, caplog):
    (tmp_path / "out").mkdir()
    with module._work_folder(tmp_path / "out") as work:
        write(work / "old", {"data/train-00000.parquet": "", "README.md": "", "notes.txt": "mine"})
    assert (work / "old" / "notes.txt").read_text() == "mine"
    assert "files that were added to" in caplog.text


@pytest.mark.parametrize("name", ["data/train-mine.parquet", "data/train-00099.parquet", "notes.txt", "data/x/y"])
def test_a_users_own_files_are_never_deleted(tmp_path, trees, name):
    mine_to_parquet(trees / "p0", tmp_path / "out")
    write(tmp_path / "out", {name: "mine"})
    with pytest.raises(FileExistsError, match="was changed since"):
        mine_to_parquet(trees, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / name).read_text() == "mine"


def test_candidates_are_a_split_of_their_own(tmp_path, trees):
    write(trees, {"p0/bare.py": "def bare(first):\n    total = [first]\n    return total\n"})
    mine_to_parquet(trees, tmp_path / "out", undocumented=True, rows_per_shard=2**63)
    loaded = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(part) for name, part in loaded.items()} == {"train": 15, "candidates": 1}


def test_an_empty_output_is_refused(trees):
    with pytest.raises(ValueError, match="output must be a folder to make"):
        mine_to_parquet(trees, "")
