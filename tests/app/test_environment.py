"""What holds for the whole repository: lists of packages agree, imports run one way, files are small, nothing is unpickled."""

import ast
import re
import subprocess
import sys
import tomllib

import nbformat
import pytest
import yaml

from emolib.profiles import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
WANTED = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
FILES = sorted((ROOT / "emolib").rglob("*.py"))
FLOORS = ("profiles", "store", "data", "results", "models", "app", "__main__")


def test_environment_yml_equals_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    listed = next(entry for entry in environment if isinstance(entry, dict))["pip"]
    assert sorted(listed) == sorted([*WANTED, "--editable ."])
    assert f"python{PROJECT['requires-python']}" in environment


def test_constraints_pin_everything_within_bounds():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {name.lower().replace("_", "-"): version for name, _, version in (line.partition("==") for line in lines) if version}
    for requirement in WANTED:
        name, bound = re.match(r"([\w-]+)>=([\d.]+)$", requirement).groups()
        pinned = [int(part) for part in re.findall(r"\d+", pins[name])]
        assert pinned >= [int(part) for part in bound.split(".")], requirement


def test_every_subpackage_is_installed():
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in FILES}
    assert folders == set(PYPROJECT["tool"]["setuptools"]["packages"])


def imported(source):
    """The modules of emolib that a file imports, wherever in it: ("data", "labels"), ("store",), ..."""
    for node in (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Import | ast.ImportFrom)):
        names = [alias.name for alias in node.names]
        assert "*" not in names and getattr(node, "level", 0) == 0, "imports name what they take, from the whole package"
        names = [f"{node.module}.{name}" for name in names] if isinstance(node, ast.ImportFrom) else names
        yield from (name.split(".")[1:] for name in names if name.split(".")[0] == "emolib")


def upward(path, source):
    """The imports of a file that point up, or to no floor at all."""
    floor = FLOORS.index(path.relative_to(ROOT / "emolib").parts[0].removesuffix(".py"))
    return [name for name in imported(source) if name[0] not in FLOORS or FLOORS.index(name[0]) > floor]


def test_imports_run_one_way():
    assert {path: up for path in FILES if path.stem != "__init__" and (up := upward(path, path.read_text()))} == {}


def test_an_import_that_runs_back_up_is_found():
    path = ROOT / "emolib" / "data" / "labels.py"
    assert upward(path, "from emolib import store\nfrom emolib.data.dataset import Dataset\nimport numpy") == []
    for bad in ("from emolib.results import report", "import emolib.models.encoder", "def f():\n    from emolib import app"):
        assert len(upward(path, bad)) == 1


def test_files_are_small():
    assert {path.name: n for path in FILES if (n := len(path.read_text().splitlines())) > 350} == {}


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_imports_of_a_page_are_quiet_and_mostly_without_torch(path):
    """Under a kernel without widgets; pages 3 and 4 have a small live computation, the others replay without torch."""
    start = next(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.id == "start")
    lines = [ast.unparse(n) for n in ast.parse(start).body if isinstance(n, ast.Import | ast.ImportFrom)]
    kernel = "import sys, ipykernel.zmqshell; sys.modules['ipywidgets'] = None"
    code = "\n".join([kernel, *lines, "import tqdm.auto; print('torch' in sys.modules)"])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "" and (done.stdout.strip() == "False" or path.name[:2] in ("03", "04", "06"))


def test_nothing_is_unpickled_and_no_foreign_code_is_run():
    for path in FILES:
        text = path.read_text()
        assert not re.search(r"\bpickle\.|torch\.(save|load)\(|allow_pickle=True|trust_remote_code=True", text), path
        loads = re.findall(r"Auto\w+\.from_pretrained\(", text)
        assert not loads or "trust_remote_code" in text, f"{path}: say trust_remote_code=False"
