"""What a user installs: the files of the wheel and of the source distribution, and the names that they find."""

import runpy
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import tomllib

import st_softinfonce

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel is built by way of the source distribution: one built here would hold what an earlier build left."""
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel):
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    package = ROOT / "st_softinfonce"
    files = {path for path in package.rglob("*") if path.suffix == ".py" or path.name == "py.typed"}
    assert names == {path.relative_to(ROOT).as_posix() for path in files}
    assert "st_softinfonce/py.typed" in names


def test_the_wheel_registers_its_estimators_and_carries_the_licence(wheel):
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    entry_points = wheel.read(f"{info}/entry_points.txt").decode()
    assert "st-softinfonce = st_softinfonce.cli:main" in entry_points
    assert "[st_softinfonce.estimators]" in entry_points
    assert "bm25 = st_softinfonce.estimators.bm25:BM25Estimator" in entry_points
    assert "Apache License" in wheel.read(f"{info}/licenses/LICENSE").decode()


def test_the_source_distribution_holds_the_tests_and_what_they_read(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    rooms = [".ci", "docs", "evaluation", "examples", "st_softinfonce", "tests"]
    files = {path for room in rooms for path in (ROOT / room).rglob("*") if path.is_file()}
    wanted = {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}
    assert {name for name in wanted if ".egg-info/" not in name} <= names
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "constraints.txt"} <= names
    assert not [name for name in names if name.endswith(".pyc")]


def test_the_version_is_the_installed_one():
    assert st_softinfonce.__version__ == version("st-softinfonce")


def test_public_names_exist():
    for name in st_softinfonce.__all__:
        assert hasattr(st_softinfonce, name)


def test_on_a_package_index_no_link_of_the_readme_leads_nowhere():
    release = runpy.run_path(str(ROOT / ".ci" / "absolute_links.py"))
    text = release["absolute_links"]((ROOT / "README.md").read_text(), "https://host/owner/project", "1.2.3")
    assert not release["LINK"].search(text)
    assert "](https://host/owner/project/raw/v1.2.3/docs/inspection.png)" in text
    assert "[LICENSE](https://host/owner/project/blob/v1.2.3/LICENSE)" in text.replace("Apache-2.0", "LICENSE")
    urls = tomllib.loads(release["project_urls"]("https://host/owner/project"))["project"]["urls"]
    assert urls["Repository"] == "https://host/owner/project"
    assert urls["Issues"] == "https://host/owner/project/issues"
