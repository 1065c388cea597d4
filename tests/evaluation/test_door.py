"""The one door: it lists the commands, answers --help without torch, and says in one line what a user did wrong."""

import subprocess
import sys

import pytest

from evaluation.__main__ import COMMANDS, main
from evaluation.environment import find_config


def test_every_command_is_listed_and_explains_itself(capsys):
    assert main(["compare"]) == 2
    assert main([]) == 0
    listed = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n  {command} " in listed
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0
        assert f"python -m evaluation {command}" in capsys.readouterr().out


def test_tables_are_made_again_without_torch():
    code = "import sys; from evaluation import report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--corpus", "no/such-folder"], "corpus 'no/such-folder' is no folder"),
        (["--only", "other"], "--only names the row 'other'"),
        (["--languages", "perl"], "has none of the languages"),
    ],
    ids=["corpus", "row", "language"],
)
def test_a_user_error_is_one_line_and_exits_with_2(bench, capsys, options, message):
    assert bench.run(*options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_plan_is_a_file_or_the_name_of_one(bench, capsys):
    assert find_config(str(bench.path)) == bench.path
    assert find_config("smoke").name == "smoke.toml"
    assert main(["run", "none"]) == 2
    assert "no plan of that name in evaluation/configs, which has ['alpha_beta', 'cpu'," in capsys.readouterr().err
