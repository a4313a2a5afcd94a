"""The command line: wrong words are answered with the choices, failures named, tables printed without torch."""

import errno
import os
import re
import subprocess
import sys

import nbformat
import pytest

from emolib import __main__ as cli
from emolib.profiles import ROOT, get


def emolib(*arguments):
    return subprocess.run([sys.executable, "-m", "emolib", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--profile", "tiny"], "choose from '?sample'?, '?mini'?, '?full'?, '?published'?"),
        (["run", "09"], "unknown notebook 09; choose from 01, 02"),
        (["run", "01", "--profile", "sample", "-p", "data", "README.md"], "01_data_preparation has a parameter data that -p"),
        (["run", "06", "--profile", "sample", "-p", "profile", "mini"], "has a parameter profile that -p could set"),
        (["fly"], "choose from"),
        (["run", "01", "--record"], "published computes nothing"),
        (["predict", "x.csv", "--model", "m", "--out", "o"], "name at least one of --image-column and --text-column"),
        (["predict", "README.md", "--model", "m", "--out", "o", "--text-column", "t"], r"m/emolib\.json is not there"),
        (["publish", "--profile", "published"], "choose from '?sample'?, '?mini'?, '?full'?"),
        (["tune", "half"], "choose from '?full'?, '?lora'?, '?tuned'?, '?flyp'?"),
    ],
)
def test_a_wrong_word_is_answered_with_the_choices(arguments, message, tmp_path):
    done = emolib(*arguments, *(["--out", str(tmp_path)] if arguments[0] == "run" else []))
    assert done.returncode != 0 and re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr


def test_two_runs_do_not_share_a_folder(tmp_path):
    """The lock is that of a process: it goes with it, however it ends."""
    held = cli.hold(tmp_path)
    refused = emolib("run", "--profile", "published", "--out", str(tmp_path), "01")
    assert refused.returncode == 1 and f"another run is writing to {tmp_path}" in refused.stderr
    assert "--out FOLDER" in refused.stderr and "Traceback" not in refused.stderr
    held.close()
    cli.hold(tmp_path).close()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_drive_without_locks_keeps_nobody_out(tmp_path, monkeypatch, capsys, number):
    def refuse(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    cli.hold(tmp_path).close()
    assert f"{tmp_path} cannot be locked" in capsys.readouterr().err


def test_the_results_are_printed_without_torch():
    code = "import sys; from emolib.__main__ import main; main(['table']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False" and "| :-- | :-- |" in done.stdout and "FER-2013" in done.stdout


def test_a_failing_cell_is_named_and_the_notebook_kept(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    node = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell('profile = "published"', metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("print('so far', profile)"),
        nbformat.v4.new_code_cell("raise KeyError('lost')"),
        nbformat.v4.new_code_cell("print('never')"),
    ])  # fmt: skip
    node.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(node, folder / "01_broken.ipynb")
    monkeypatch.setattr(cli, "NOTEBOOKS", folder)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    assert cli.main(["run", "--profile", "sample", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "01_broken.ipynb" in said and "KeyError" in said and "lost" in said and "cell 4" in said
    kept = nbformat.read(tmp_path / "out" / "01_broken.ipynb", as_version=4)
    outputs = [o for c in kept.cells if c.cell_type == "code" for o in c.outputs]
    assert any(o.get("text") == "so far sample\n" for o in outputs) and not any(o.get("text") == "never\n" for o in outputs)


def test_a_run_says_beforehand_where_data_and_encoder_come_from(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("EMOLIB_DATA", str(tmp_path))
    monkeypatch.delenv("EMOLIB_CLIP", raising=False)
    cli.check(get("mini"), ["01", "02"])  # notebooks 1 and 2 need none
    with pytest.raises(SystemExit, match="clip-mini is not at hand"):
        cli.check(get("mini"), ["02", "03"])
    (tmp_path / "clip-other").mkdir()
    monkeypatch.setenv("EMOLIB_CLIP", str(tmp_path / "clip-other"))
    capsys.readouterr()
    cli.check(get("mini"), ["02", "03"])
    said = capsys.readouterr()
    assert "FER-2013: not at hand" in said.out and f"dual encoder: {tmp_path / 'clip-other'}" in said.out
    assert "pictures of 160 pixels and rates for clip-mini" in said.err
