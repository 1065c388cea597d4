"""The corpora are built from archives that lie in the downloads folder already, as after an earlier run."""

import hashlib
import io
import json
import re
import subprocess
import tarfile
from pathlib import Path

import pytest
from datasets import load_dataset

from evaluation.__main__ import main
from evaluation.corpus import packages as registry
from evaluation.corpus.build import PACKAGES
from evaluation.corpus.packages import Corpus, CorpusError, Package, fetch, read_corpora
from evaluation.report.tables import OTHERS

WORDS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta")


def function(verb, noun, package):
    return (
        f'def {verb}_{noun}(value):\n    """{verb.title()} the {noun} of {package}."""\n'
        f"    {noun} = value + len({package!r})\n    return sorted({noun}, key={verb!r})\n"
    )


def archive(folder, package, sources):
    path = folder / f"{package}-1.0.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for name, text in sources.items():
            info = tarfile.TarInfo(f"{package}-1.0/{package}/{name}")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def description(tmp_path):
    downloads = tmp_path / "downloads" / "python"
    downloads.mkdir(parents=True)
    shared = function("copy", "everything", "all of them")
    packages = []
    for package in ("one", "two", "three", "four"):
        text = "\n".join(function("read", word, package) for word in WORDS)
        path = archive(downloads, package, {"__init__.py": "", "code.py": f"{shared}\n{text}"})
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        packages.append(f'  {{ name = "{package}", version = "1.0", license = "MIT", sha256 = "{digest}" }},')
    lines = [
        'version = "7"',
        "[languages.python]",
        'client = "pip"',
        'validation = ["thr*"]',
        'test = ["four"]',
        "packages = [",
        *packages,
        "]",
    ]
    path = tmp_path / "packages.toml"
    path.write_text("\n".join(lines))
    return path


def build(description, output, *options):
    downloads = description.parent / "downloads"
    places = ["--packages", description, "--output", output, "--downloads", downloads]
    return main(["corpora", *map(str, places), *options])


def test_splits_are_whole_packages_and_load_as_a_dataset(description, tmp_path, capsys):
    build(description, tmp_path / "out")
    splits = load_dataset(str(tmp_path / "out"), "python", cache_dir=str(tmp_path / "cache"))
    assert {name: set(split["package"]) for name, split in splits.items()} == {
        "train": {"one", "two"},
        "validation": {"three"},
        "test": {"four"},
    }
    # The function that all packages share stays on the test side alone.
    shared = {name: [query for query in split["query"] if "everything" in query] for name, split in splits.items()}
    assert {name: len(queries) for name, queries in shared.items()} == {"train": 0, "validation": 0, "test": 1}
    assert set(splits["train"]["version"]) == {"1.0"}
    assert set(splits["train"]["license"]) == {"MIT"}
    assert "| python | 16 | 8 | 9 |" in capsys.readouterr().out
    card = (tmp_path / "out" / "README.md").read_text()
    assert re.search(r"\| python \| validation \| three \| 1\.0 \| MIT \| [0-9a-f]{64} \|", card)


def test_building_twice_gives_the_same_bytes(description, tmp_path):
    for output in ("first", "second"):
        build(description, tmp_path / output)
    files = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*") if path.is_file())
    assert len(files) == 5
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes(), file


def test_another_version_is_not_mixed_into_a_folder(description, tmp_path, capsys):
    build(description, tmp_path / "out")
    description.write_text(description.read_text().replace('version = "7"', 'version = "8"'))
    assert build(description, tmp_path / "out") == 2
    assert "holds version 7, this is 8" in capsys.readouterr().err


def test_a_pattern_that_fits_nothing_is_refused(description, tmp_path, capsys):
    description.write_text(description.read_text().replace('["four"]', '["five"]'))
    build(description, tmp_path / "out")
    assert "python is skipped: python: test names 'five'" in capsys.readouterr().out


def test_a_language_whose_client_is_missing_is_skipped_by_name(description, tmp_path, capsys, monkeypatch):
    description.write_text(description.read_text().replace('"pip"', '"npm"'))
    monkeypatch.setattr(registry.shutil, "which", lambda name: None)
    build(description, tmp_path / "out")
    assert "python is skipped: npm is not installed here" in capsys.readouterr().out


class FakeClient:
    """Stands for a registry's client that serves one version, and leaves it where it is called.

    Args:
        content: Of the file.
        version: The one that is served; None for no package at all.
        told: What it prints when it is asked for the version.
    """

    def __init__(self, content, version="1.2.3", told="thing@1.2.3 | MIT"):
        self.content, self.version, self.told, self.commands = content, version, told, []

    def __call__(self, command, *, cwd=None, **options):
        self.commands.append(command)
        if cwd is None:
            return subprocess.CompletedProcess(command, 0, self.told, "")
        if self.version is None or not command[-1].endswith(self.version):
            return subprocess.CompletedProcess(command, 1, "", "warning\nno such version")
        (Path(cwd) / "served.tgz").write_bytes(self.content)
        return subprocess.CompletedProcess(command, 0, "", "")


def corpus_of(content, client="npm"):
    package = Package("thing", "1.2.3", "MIT", hashlib.sha256(content).hexdigest())
    return Corpus("javascript", client, (package,), (), ())


@pytest.mark.parametrize(
    ("client", "last"), [("pip", "thing==1.2.3"), ("npm", "thing@1.2.3"), ("apt", "thing=1.2.3")], ids=str
)
def test_a_package_is_fetched_once_and_verified(tmp_path, monkeypatch, client, last):
    fake = FakeClient(b"right")
    monkeypatch.setattr(registry.subprocess, "run", fake)
    for _ in range(2):
        ((_, path),) = fetch(corpus_of(b"right", client), tmp_path)
        assert path.read_bytes() == b"right"
    assert [command[-1] for command in fake.commands] == [last]


def test_another_checksum_is_refused_and_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(registry.subprocess, "run", FakeClient(b"wrong"))
    with pytest.raises(CorpusError, match=r"thing 1\.2\.3 has the checksum .* what the registry serves has changed"):
        fetch(corpus_of(b"right"), tmp_path)
    assert [path for path in tmp_path.iterdir() if path.is_file()] == []


def test_a_package_that_is_not_served_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(registry.subprocess, "run", FakeClient(b"right", version=None, told=""))
    with pytest.raises(CorpusError, match=r"npm does not give thing 1\.2\.3 \(no such version\)"):
        fetch(corpus_of(b"right"), tmp_path, accept_other_versions=True)


TOLD = {
    "pip": "thing (1.2.4)\nAvailable versions: 1.2.4, 1.2.2\n",
    "npm": "\nthing@1.2.4 | MIT | deps: none | versions: 7\nA thing\n",
    "apt": "thing:\n  Installed: (none)\n  Candidate: 1.2.4\n  Version table:\n",
}


@pytest.mark.parametrize(("client", "told"), TOLD.items(), ids=TOLD)
def test_a_version_that_is_no_longer_served_is_named_with_the_one_that_is(tmp_path, monkeypatch, client, told):
    monkeypatch.setattr(registry.subprocess, "run", FakeClient(b"newer", "1.2.4", told))
    with pytest.raises(CorpusError, match=rf"{client} no longer serves thing 1\.2\.3, but 1\.2\.4: .*--accept-other"):
        fetch(corpus_of(b"older", client), tmp_path)
    ((package, path),) = fetch(corpus_of(b"older", client), tmp_path, accept_other_versions=True)
    assert path.read_bytes() == b"newer"
    assert (package.version, package.sha256) == ("1.2.4", hashlib.sha256(b"newer").hexdigest())
    assert (package.name, package.license) == ("thing", "MIT")


def test_the_version_that_was_taken_is_on_the_card_and_in_the_counts(description, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "downloads" / "python"
    served = (folder / "two-1.0.tgz").read_bytes()
    (folder / "two-1.0.tgz").unlink()
    monkeypatch.setattr(registry.subprocess, "run", FakeClient(served, "1.1", "two (1.1)\n"))
    build(description, tmp_path / "out")
    assert "python is skipped: pip no longer serves two 1.0, but 1.1" in capsys.readouterr().out

    digest = hashlib.sha256(served).hexdigest()
    (folder / "served.tgz").unlink(missing_ok=True)
    pinned = description.read_text().replace(digest, "0" * 64)
    description.write_text(pinned)
    build(description, tmp_path / "out", "--accept-other-versions")
    counts = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert counts["languages"]["python"]["other_versions"] == {"two": {"version": "1.1", "sha256": digest}}
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| two | 1.1 in the place of 1.0 | MIT | {digest} |" in card
    assert "0" * 64 not in card
    rows = load_dataset(str(tmp_path / "out"), "python", split="train", cache_dir=str(tmp_path / "cache"))
    assert dict(zip(rows["package"], rows["version"], strict=True)) == {"one": "1.0", "two": "1.1"}
    (lines,) = (lines for _, file, lines in OTHERS if file == "corpora.json")
    assert f"python: two 1.1 (SHA-256 {digest})" in "\n".join(lines(counts))


def test_the_description_holds_out_whole_packages_of_six_languages():
    _, languages = read_corpora(PACKAGES)
    assert list(languages) == ["python", "javascript", "go", "java", "php", "ruby"]
    for corpus in languages.values():
        assert len({package.name for package in corpus.packages}) == len(corpus.packages)
        assert all(len(package.sha256) == 64 and package.license for package in corpus.packages)
        if not any(package.by_folder for package in corpus.packages):
            assert {corpus.side(package.name) for package in corpus.packages} == {"train", "validation", "test"}
