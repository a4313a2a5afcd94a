"""On a machine like Colab's (torch there, nothing of ours) the first cells fetch, install what lacks, and move no torch."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib import metadata
from pathlib import Path

import nbformat
import pytest

from emolib.app import publish, readme
from emolib.profiles import ROOT

SITE = Path(sysconfig.get_path("purelib"))
LACKED = ("papermill", "tenacity", "peft")  # papermill needs tenacity, which is not in our list
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


def wheel(name: str, folder: Path) -> None:
    """An installed package as the wheel that it came from, so that the test needs no network."""
    about = metadata.distribution(name)
    files = [f for f in about.files if ".." not in f.parts and "__pycache__" not in f.parts]
    with zipfile.ZipFile(folder / f"{name}-{about.version}-py3-none-any.whl", "w") as packed:
        for file in files:
            packed.write(about.locate_file(file), str(file))


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A fresh environment that sees all packages but ours and LACKED, the study as a repository, a stub of google.colab."""
    folder = tmp_path_factory.mktemp("colab")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    site = next((folder / "venv" / "lib").glob("python*")) / "site-packages"
    ours = {entry for name in (*LACKED, "emolib") for f in metadata.files(name) for entry in f.parts[:1]}
    for entry in SITE.iterdir():
        if entry.name not in ours and "emolib" not in entry.name:
            (site / entry.name).symlink_to(entry)
    (folder / "wheels").mkdir()
    for name in LACKED:
        wheel(name, folder / "wheels")
    (folder / "stub" / "google" / "colab").mkdir(parents=True)
    (folder / "stub" / "google" / "colab" / "__init__.py").touch()
    (folder / "stub" / "sitecustomize.py").write_text("import google.colab\n")
    ignored = shutil.ignore_patterns(".git", ".venv", "runs", "raw", "cache", "__pycache__", "*.egg-info", ".*_cache")
    shutil.copytree(ROOT, folder / "repository", ignore=ignored)
    for command in (["init", "--quiet"], ["add", "."], ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "study"]):
        subprocess.run(["git", *command], cwd=folder / "repository", check=True)
    return folder, site


def first_cells(folder, name):
    """Run a notebook up to the cell that says where a page's numbers come from, as this machine's Python would."""
    node = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    publish.dress(node, name, str(folder / "repository"))
    cells = {cell.id: cell.source for cell in node.cells if cell.cell_type == "code"}
    code = "\n".join([*list(cells.values())[: list(cells).index("start") + 1], "import emolib", "print(emolib.__file__)"])
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "EMOLIB_OUT")}
    clean |= {"PYTHONPATH": str(folder / "stub"), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder / "wheels")}
    command = [folder / "venv" / "bin" / "python", "-c", code.replace("/content/study", str(folder / "study"))]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=clean)


@pytest.mark.parametrize("name", NAMES)
def test_first_cells_of_each_notebook_work(name, machine):
    folder, site = machine
    done = first_cells(folder, name)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == str(folder / "study" / "emolib" / "__init__.py")
    assert all((site / lacked).is_dir() for lacked in LACKED)
    kept = [path for path in site.iterdir() if path.name.partition("-")[0] in ("torch", "torchvision")]
    assert len(kept) >= 4 and all(path.is_symlink() for path in kept)


def test_a_torch_that_is_too_old_is_left_alone_and_named(machine):
    """pip refuses as a whole: nothing is installed, torch stays, the reader sees which version is wanted."""
    folder, site = machine
    project = folder / "study" / "pyproject.toml"
    text = project.read_text()
    project.write_text(text.replace('"torch>=2.9"', '"torch>=99"'))
    try:
        done = first_cells(folder, NAMES[0])
    finally:
        project.write_text(text)
    assert done.returncode != 0 and "torch>=99" in done.stderr, done.stderr[-2000:]
    assert all(path.is_symlink() for path in site.iterdir() if path.name.partition("-")[0] in ("torch", "torchvision"))


def test_without_an_address_the_cell_says_what_to_do(tmp_path):
    node = nbformat.read(ROOT / "notebooks" / f"{NAMES[0]}.ipynb", as_version=4)
    publish.dress(node, NAMES[0], None)
    code = node.cells[1].source.replace("/content/study", str(tmp_path / "study"))
    code = f"import sys, types\nsys.modules['google.colab'] = types\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and f"Put this study at {tmp_path / 'study'}" in done.stderr and "Traceback" not in done.stderr
    assert "colab.research" not in node.cells[0].source


def test_the_address_comes_from_pyproject(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    for line, wanted in (
        ("", None),
        ('Repository = "https://github.com/some-one/study.git"', "https://github.com/some-one/study"),
    ):
        (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "x"\n[project.urls]\n{line}\n')
        assert readme.repository() == wanted
    (tmp_path / "pyproject.toml").write_text('[project.urls]\nRepository = "https://example.org/study"\n')
    with pytest.raises(ValueError, match=r"Repository is https://example\.org/study, wanted https://github\.com/OWNER/NAME"):
        readme.repository()


def test_with_an_address_each_notebook_has_its_badge():
    node = nbformat.read(ROOT / "notebooks" / f"{NAMES[1]}.ipynb", as_version=4)
    publish.dress(node, NAMES[1], "https://github.com/someone/study")
    again = nbformat.from_dict(node)
    publish.dress(again, NAMES[1], "https://github.com/someone/study")
    assert again == node and node.cells[0].source.count("colab-badge.svg") == 1
    assert f"colab.research.google.com/github/someone/study/blob/main/notebooks/{NAMES[1]}.ipynb" in node.cells[0].source
    assert '"https://github.com/someone/study"' in node.cells[1].source
    publish.dress(again, NAMES[1], None)
    assert "colab-badge" not in again.cells[0].source
