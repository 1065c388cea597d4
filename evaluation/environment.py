"""Where the evaluation's files lie, and what a result was made with."""

from __future__ import annotations

import json
import os
import platform
import subprocess
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


def about() -> dict[str, Any]:
    """Describe what the results of this process are made with.

    Returns:
        ``machine`` (architecture, cores, torch's threads, device), ``versions`` by distribution, and ``commit`` with a
        "+" if tracked files differ from it, or ``None`` outside a clone.
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
    try:
        head, changed = (
            subprocess.run(["git", *command], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")
