"""Where the evaluation's files lie, and what a result was made with."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evaluation import UsageError

HERE = Path(__file__).parent
CONFIGS = HERE / "configs"
RESULTS = HERE / "results"
OUTPUT = Path("output/evaluation")
_DISTRIBUTIONS = ("st-softinfonce", "sentence-transformers", "transformers", "torch", "mteb", "datasets")


def find_config(name: str) -> Path:
    """Return the path of a plan: a TOML file, or the name of one in ``configs/``.

    Raises:
        UsageError: There is no such file.
    """
    for path in (Path(name), CONFIGS / f"{name}.toml"):
        if path.is_file():
            return path
    known = sorted(path.stem for path in CONFIGS.glob("*.toml"))
    raise UsageError(f"there is no file {name}, and no plan of that name in evaluation/configs, which has {known}.")


def write_json(path: Path, content: object) -> None:
    """Write a result as indented JSON, in a folder that need not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def write_result(path: Path, content: Mapping[str, Any], file: str) -> None:
    """Write a result as JSON, and print the table that RESULTS.md makes of such a ``file``."""
    from evaluation.report.tables import OTHERS

    write_json(path, content)
    (lines,) = [table(content) for _, name, table in OTHERS if name == file]
    print(*lines, sep="\n")


def about() -> dict[str, Any]:
    """Say what this process makes results with: its machine, its versions and the clone's commit.

    The commit has a "+" if tracked files differ from it, and is ``None`` outside a clone.
    """
    import torch

    machine = {
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
    return {"machine": machine, "versions": {name: version(name) for name in _DISTRIBUTIONS}, "commit": _commit()}


def _commit() -> str | None:
    git = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(git, cwd=HERE, capture_output=True, text=True).stdout.strip() or None
    except FileNotFoundError:  # no git
        return None
