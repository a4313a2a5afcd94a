"""Make a Colab machine ready: install what it lacks of the study's packages, each alone, and never move torch.

The first cell of each notebook calls `python emolib/app/colab.py` on Colab. Needs only the standard library and `packaging`, for
it runs before anything is installed.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
# Colab brings a matched pair of torch and torchvision for its own GPU driver, and is itself what jupyterlab would be.
KEPT, UNNEEDED = ("torch", "torchvision"), ("jupyterlab",)


def lacking(wanted: list[str]) -> list[Requirement]:
    """The requirements, and theirs in turn, that this machine does not meet. Raises RuntimeError for a torch that is too old."""
    found, seen, queue = [], set(), [Requirement(text) for text in wanted]
    while queue:
        requirement = queue.pop(0)
        name = canonicalize_name(requirement.name)
        # Optional extras of packages are not ours; they are listed with a marker that no plain environment meets.
        if name in seen or name in UNNEEDED or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        version = installed(name)
        if version and requirement.specifier.contains(version, prereleases=True):
            continue  # what is there and good enough has what it needs
        if name in KEPT:
            raise RuntimeError(
                f"this machine has {name} {version or 'not at all'}, wanted {requirement.specifier}; "
                "choose a runtime with a newer one "
                "(Runtime, Change runtime type): installing it here would part torch from torchvision"
            )
        found.append(requirement)
    return found


def installed(name: str) -> str | None:
    """The version of a package, None where it is missing."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def pins() -> dict[str, str]:
    """The versions of the recorded run, by package."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf8").splitlines()
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines) if version}


def main() -> int:
    """Install, round by round, what is missing and what that needs in turn; prints what it did."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
    known, wanted, done = pins(), project["dependencies"], []
    while missing := [r for r in lacking(wanted) if r.name not in done]:
        exact = [f"{r.name}=={known[n]}" if (n := canonicalize_name(r.name)) in known else str(r) for r in missing]
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *exact], check=True)
        wanted = [need for r in missing for need in metadata.requires(r.name) or []]
        done += [r.name for r in missing]
    print(f"installed: {', '.join(done) or 'nothing, all is there'}; torch {installed('torch')} as it was")
    return 0


if __name__ == "__main__":
    sys.exit(main())
