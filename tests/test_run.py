"""The command line, and the whole sample study live: the numbers of today are the stored ones."""

import os
import subprocess
import sys

import nbformat
import pytest

from emolib import __main__ as cli
from emolib.profiles import ROOT


def emolib(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "emolib", *arguments], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "--profile", "tiny"],
            "choose from 'sample', 'mini', 'full', 'published'|choose from sample, mini, full, published",
        ),
        (["run", "09"], "unknown notebook 09; choose from 01, 02"),
        (["run", "01", "-p", "speed", "3"], "01_data_preparation.ipynb has no parameter speed; choose from profile"),
        (["fly"], "choose from"),
        (["run", "01", "--record"], "published computes nothing"),
    ],
)
def test_a_wrong_word_is_answered_with_the_choices(arguments, message, tmp_path):
    import re

    extra = ["--out", str(tmp_path)] if arguments[0] == "run" else []
    done = emolib(*arguments, *extra)
    assert done.returncode not in (0,) and re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr


def test_table_prints_markdown():
    done = emolib("table")
    assert done.returncode == 0 and "| :-- | --: |" in done.stdout.replace("--: | --:", "--: |") and "FER-2013" in done.stdout


def test_a_failing_cell_is_named_and_the_notebook_kept(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    node = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell('profile = "published"', metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("print('so far')"),
        nbformat.v4.new_code_cell("raise KeyError('lost')"),
        nbformat.v4.new_code_cell("print('never')"),
    ])  # fmt: skip
    node.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(node, folder / "01_broken.ipynb")
    monkeypatch.setattr(cli, "NOTEBOOKS", folder)
    monkeypatch.setenv("EMOLIB_OUT", "")
    assert cli.main(["run", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "01_broken.ipynb" in said and "KeyError" in said and "lost" in said and "cell 4" in said
    kept = nbformat.read(tmp_path / "out" / "01_broken.ipynb", as_version=4)
    outputs = [o for c in kept.cells if c.cell_type == "code" for o in c.outputs]
    assert any(o.get("text") == "so far\n" for o in outputs) and not any(o.get("text") == "never\n" for o in outputs)
