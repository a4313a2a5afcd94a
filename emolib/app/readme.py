"""README.md with its generated parts, and RESULTS.md: from the records and the executed notebooks. Needs no notebook library."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from emolib.models import comparison
from emolib.profiles import ROOT
from emolib.results import report, tables
from emolib.results.predictions import Result
from emolib.results.records import Run

ANSWER = "**The short answer.** "  # how the output of a page's cell `answer` begins
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"


def written(run: Run) -> dict[str, str]:
    """Name and text of the two files. Raises ValueError for a marker that README.md lacks."""
    pages = {path: short_answer(path) for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))}
    main = [path for path in pages if path.name[:2] in ("04", "05")]  # their answers are the README's
    found = {path: "see above." if path in main else first_sentence(pages[path]) for path in pages}
    lines = [f"{int(path.name[:2])}. [{title(path)}](notebooks/{path.name}): {found[path]}" for path in pages]
    longer = "\n\n".join(pages[path] for path in main)
    parts = {"answers": longer, "findings": "\n".join(lines), "results": results(run.load)}
    if address := repository():
        parts["colab"] = "\n".join(f"- {path.name[:2]} {badge(path.stem, address)}" for path in pages)
    text = (ROOT / "README.md").read_text(encoding="utf8")
    for name, part in parts.items():
        text = between(text, name, part)
    return {"README.md": text, "RESULTS.md": long_results(run)}


def results(load: Callable[[str], Result]) -> str:
    """The README's table as Markdown. load: a record by its name, or MissingRecord."""
    return report.markdown(pd.concat([tables.results(load), comparison.headlines(load)], ignore_index=True))


def long_results(run: Run) -> str:
    """All tables that are too long for README and pages."""
    parts = [f"# All results\n\nWritten by `make publish` from the records of profile `{run.profile.name}`."]
    parts += [tables.results_long(run.load)]
    parts += [f"## {name}\n\n{report.markdown(frame)}" for name, frame in comparison.long_tables(run.load).items()]
    return "\n\n".join(parts) + "\n"


def short_answer(notebook: Path) -> str:
    """The Markdown that an executed notebook's cell `answer` shows, without its first words; "" where there is none."""
    for cell in json.loads(notebook.read_text(encoding="utf8"))["cells"]:
        for output in cell.get("outputs", []) if cell["id"] == "answer" else []:
            return "".join(output.get("data", {}).get("text/markdown", "")).removeprefix(ANSWER)
    return ""


def title(notebook: Path) -> str:
    """A notebook's heading without its number."""
    first = "".join(json.loads(notebook.read_text(encoding="utf8"))["cells"][0]["source"]).splitlines()[0]
    return first.removeprefix("# ").split(" · ")[-1]


def first_sentence(text: str) -> str:
    """What comes before the second sentence or list item."""
    return re.split(r"(?<=\.)\s+(?=[A-Z\d])|\n", text, maxsplit=1)[0]


def repository() -> str | None:
    """The address of the repository, from pyproject.toml, the one place where it stands; None while it has none.

    Raises ValueError for an address that is not of GitHub: Colab opens no other.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
    address = project.get("urls", {}).get("Repository", "").rstrip("/").removesuffix(".git") or None
    if address and not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", address):
        raise ValueError(f"pyproject.toml: Repository is {address}, wanted https://github.com/OWNER/NAME (Colab opens no other)")
    return address


def badge(name: str, address: str) -> str:
    """The badge that opens a notebook of a GitHub repository in Colab, as Markdown."""
    place = address.removeprefix("https://github.com/")
    return f"{BADGE}(https://colab.research.google.com/github/{place}/blob/main/notebooks/{name}.ipynb)"


def between(text: str, name: str, part: str) -> str:
    """A text with another part between the two markers of that name."""
    start, end = f"<!-- {name}: written by make publish -->", f"<!-- end of {name} -->"
    if start not in text or end not in text:
        raise ValueError(f"README.md has no {start} ... {end}; put the two markers back where the {name} belong")
    return text.split(start)[0] + f"{start}\n{part}\n" + end + text.split(end)[1]
