"""The three lists of packages agree; published pages need no torch."""

import re
import subprocess
import sys
import tomllib

import yaml

from emolib.profiles import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WANTED = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]


def test_environment_yml_equals_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    listed = next(entry for entry in environment if isinstance(entry, dict))["pip"]
    assert sorted(listed) == sorted([*WANTED, "--editable ."])
    assert f"python{PROJECT['requires-python']}" in environment


def test_constraints_pin_everything_within_bounds():
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line and line[0] != "#"
    )
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    for requirement in WANTED:
        name, bound = re.match(r"([\w-]+)>=([\d.]+)$", requirement).groups()
        pinned = [int(part) for part in re.findall(r"\d+", pins[name])]
        assert pinned >= [int(part) for part in bound.split(".")], requirement


def test_what_published_pages_import_holds_no_torch():
    names = "demo, faces, fusion_report, metrics, pairs, published, records, report, texts"
    code = f"import sys; from emolib import {names}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_no_pickle_is_read_or_written():
    for path in (ROOT / "emolib").glob("*.py"):
        assert not re.search(r"\bpickle\.|torch\.(save|load)\(|allow_pickle=True|trust_remote_code=True", path.read_text()), path


def test_modules_import_in_one_direction():
    """Every import between modules points down this list."""
    order = [
        "labels", "profiles", "store", "published", "prompts", "items", "records", "metrics", "texts", "faces", "sample", "pairs",
        "fusion", "training", "baselines", "clip", "heads", "tuning", "generality", "tiny", "joint", "classifier", "report",
        "fusion_report", "demo", "colab", "page", "__main__",
    ]  # fmt: skip
    for path in (ROOT / "emolib").glob("*.py"):
        if path.stem == "__init__":
            continue
        found = set()
        for names in re.findall(r"^\s*from emolib import ([\w, ]+)$", path.read_text(), re.M):
            found |= {name.strip() for name in names.split(",")}
        found |= set(re.findall(r"^\s*from emolib\.(\w+) import", path.read_text(), re.M))
        for name in found:
            assert order.index(name) < order.index(path.stem), f"{path.stem} imports {name}"
