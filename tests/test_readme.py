"""The README's Python runs as it stands, block after block, in one session."""

import re
from pathlib import Path

import pytest
from hub_server import Hub, connect

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def working_folder(monkeypatch, tmp_path, static_model):
    """A folder where the README's relative paths exist: a code base, and a tiny model under the name it uses."""
    monkeypatch.chdir(tmp_path)
    static_model.save_pretrained("sentence-transformers/all-MiniLM-L6-v2")
    for package in ("mypackage", "otherpackage"):
        (tmp_path / "src" / package).mkdir(parents=True)
        (tmp_path / "src" / package / "__init__.py").write_text("")
        (tmp_path / "src" / package / "code.py").write_text(
            "\n".join(
                f'def {verb}_{noun}(value):\n    """{verb.title()} the {noun} of {package}."""\n'
                f"    {noun} = value\n    return {package}({noun}, '{verb}')\n"
                for verb in ("read", "write", "sort", "count", "find")
                for noun in ("file", "list", "socket", "key")
            )
        )


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on loopback that the real client takes for the Hub."""
    with Hub("token-of-the-test") as hub:
        connect(monkeypatch, hub, tmp_path / "cache")
        yield hub


@pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")  # the client's own
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")  # the trainer's default on a CPU
@pytest.mark.filterwarnings("ignore::st_softinfonce.losses.InputWarning")
@pytest.mark.filterwarnings("ignore::st_softinfonce.functional.SmallBatchWarning")
def test_every_python_block_runs(working_folder, hub, capsys):
    assert len(BLOCKS) >= 3
    session = {"__name__": "readme"}
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), session)
    assert re.search(r"^MRR [01]\.\d{3}$", capsys.readouterr().out, re.MULTILINE)


def test_every_command_of_the_readme_exists():
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    targets = re.findall(r"^\s*make (\w+)", README, re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        assert f"\n{target}:" in makefile
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (Path(__file__).parent.parent / path).exists(), path
