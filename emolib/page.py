"""Notebooks as readers get them: one self-contained HTML page, and the committed copies with figures and README table."""

from __future__ import annotations

import base64
import html
import re
import tomllib
from pathlib import Path

import nbformat
from latex2mathml.converter import convert as mathml
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter

from emolib import fusion_report, profiles, report, store
from emolib.profiles import ROOT, Profile

_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 56rem; padding: 1rem; font: 16px/1.55 system-ui, sans-serif; color: #222; background: #fff; }
nav { border: 1px solid #ddd; border-radius: .4rem; padding: .6rem 1.2rem; margin: 1rem 0 2rem; }
section { border-top: 3px solid #0072B2; margin-top: 3rem; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
a { color: #0072B2; } img { max-width: 100%; height: auto; }
pre { font: 13px/1.45 ui-monospace, monospace; overflow-x: auto; margin: 0; }
.highlight { background: #f6f7f9; border-radius: .3rem; padding: .6rem .8rem; margin: .6rem 0; }
table { display: block; overflow-x: auto; border-collapse: collapse; font-size: .88rem; margin: .8rem 0; }
p, li { overflow-wrap: anywhere; } td { overflow-wrap: normal; }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .6rem; vertical-align: top; } thead th { border-bottom: 2px solid #999; }
"""


# Kernels warn that they listen on a local port, which sounds more alarming than it is.
QUIET = ["--IPKernelApp.log_level=ERROR"]
WIDGET = "application/vnd.jupyter.widget-view+json"
_FORMULA = "FORMULA-NUMBER-"
_BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
_COLAB = """\
import subprocess
import sys
from pathlib import Path

study = Path("/content/study")
if "google.colab" in sys.modules:  # fetch the study and what this machine lacks, never torch; elsewhere nothing is done
    if not study.exists():
        {fetch}
    subprocess.run([sys.executable, str(study / "emolib" / "colab.py")], check=True)
    sys.path.insert(0, str(study))"""
_FETCH = 'subprocess.run(["git", "clone", "--quiet", "--depth", "1", "{address}", str(study)], check=True)'
_NO_ADDRESS = 'raise SystemExit("Put this study at /content/study: the notebook does not know where it is published.")'


def write(notebooks: list[Path], path: Path, profile: Profile) -> Path:
    """Join executed notebooks into one HTML page with a contents list: no script, no network; returns its path."""
    exporter = HTMLExporter(template_name="basic", embed_images=True, exclude_input_prompt=True, exclude_output_prompt=True)
    names, sections, contents = {p.name: p.stem for p in notebooks}, [], []
    for notebook in notebooks:
        node, formulas = nbformat.read(notebook, as_version=4), []
        for cell in node.cells:
            if cell.cell_type == "code":  # bars and log lines belong on the terminal, widgets need a live notebook
                cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr" and WIDGET not in o.get("data", {})]
            if cell.cell_type == "markdown":
                cell.source = with_formulas(cell.source, formulas)
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    output.metadata["image/png"] = {"alt": f"figure: {cell.id.replace('-', ' ')}"}
        node.metadata.pop("widgets", None)  # their state, which would become a script
        node.cells[0].source = _without_badge(node.cells[0].source)
        node.cells = [cell for cell in node.cells if cell.get("id") != "colab"]
        body, _ = exporter.from_notebook_node(node)
        for name, stem in names.items():
            body = body.replace(f'href="{name}"', f'href="#{stem}"')
        # Section numbers start anew in each notebook, so their anchors must carry the notebook's name.
        body = re.sub(r'(<h\d id=")', rf"\g<1>{notebook.stem}-", body)
        body = re.sub(r'<a class="anchor-link".*?</a>', "", body)
        body = re.sub(rf"{_FORMULA}(\d+);", lambda found, formulas=formulas: formulas[int(found[1])], body)
        title = re.search(r"<h1[^>]*>(.*?)</h1>", body, re.S)
        contents.append(f'<li><a href="#{notebook.stem}">{title.group(1) if title else notebook.stem}</a></li>')
        sections.append(f'<section id="{notebook.stem}">{body}</section>')
    title = "Multimodal emotion recognition with CLIP"
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{HtmlFormatter().get_style_defs('.highlight')}{_STYLE}</style></head><body><header><h1>{title}</h1>"
        f"<p>Profile <b>{profile.name}</b>. {html.escape(profile.says)}</p></header>"
        f"<nav><ol>{''.join(contents)}</ol></nav>{''.join(sections)}</body></html>"
    )
    store.write_text(path, page)
    return path


def with_formulas(markdown: str, formulas: list[str]) -> str:
    """Markdown whose formulas, $$...$$ and $...$, are marks; their MathML, which browsers show without any script, goes to
    `formulas`. (The exporter mends what it takes for unclosed tags, so MathML cannot go through it.)"""

    def mark(found: re.Match, display: str) -> str:
        formulas.append(mathml(found[1], display=display))
        return f"{_FORMULA}{len(formulas) - 1};"

    for pattern, display in ((r"\$\$(.+?)\$\$", "block"), (r"(?<![\\$`])\$([^$`\n]+?)\$(?!\d)", "inline")):
        markdown = re.sub(pattern, lambda found, display=display: mark(found, display), markdown, flags=re.S)
    return markdown


def publish(notebooks: list[Path]) -> list[Path]:
    """Re-execute notebooks as they are committed (profile published), clean them, rewrite figures and the README table."""
    written = []
    for path in notebooks:
        node = nbformat.read(path, as_version=4)
        dress(node, path.stem, repository())
        NotebookClient(
            node, timeout=600, kernel_name="python3", extra_arguments=QUIET, resources={"metadata": {"path": str(path.parent)}}
        ).execute()
        clean(node)
        written += [figure(path, cell) for cell in node.cells if picture(cell)]
        store.write_text(path, nbformat.writes(node) + "\n")
        written.append(path)
    readme = ROOT / "README.md"
    store.write_text(readme, generated(readme.read_text(encoding="utf8"), repository()))
    return [*written, readme]


def repository() -> str | None:
    """The address of the repository, from pyproject.toml, the one place where it stands; None while it has none.

    Raises ValueError for an address that is not of GitHub: Colab opens no other.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
    address = project.get("urls", {}).get("Repository", "").rstrip("/").removesuffix(".git") or None
    if address and not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", address):
        raise ValueError(
            f"pyproject.toml: Repository is {address}, wanted https://github.com/OWNER/NAME, for Colab opens no other"
        )
    return address


def badge(name: str, address: str) -> str:
    """The badge that opens a notebook of a GitHub repository in Colab, as Markdown."""
    place = address.removeprefix("https://github.com/")
    return f"{_BADGE}(https://colab.research.google.com/github/{place}/blob/main/notebooks/{name}.ipynb)"


def dress(node: nbformat.NotebookNode, name: str, address: str | None) -> None:
    """Put badge and Colab cell into a notebook, as they follow from the repository's address."""
    first = node.cells[0]
    *head, links = _without_badge(first.source).split("\n\n")
    first.source = "\n\n".join([*head, *([badge(name, address)] if address else []), links])
    node.cells = [cell for cell in node.cells if cell.get("id") != "colab"]
    code = _COLAB.format(fetch=_FETCH.format(address=address) if address else _NO_ADDRESS)
    node.cells.insert(1, nbformat.v4.new_code_cell(code, id="colab"))


def _without_badge(source: str) -> str:
    return "\n\n".join(part for part in source.split("\n\n") if not part.startswith(_BADGE))


def generated(readme: str, address: str | None) -> str:
    """README.md with its generated parts: the results, and how to open the notebooks in Colab."""
    readme = between(readme, "results", results(profiles.get("published")))
    names = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    badges = "\n".join(f"- {name[:2]} {badge(name, address)}" for name in names) if address else (
        "*There is no button here yet, for this copy does not know where it is published: write the address to `pyproject.toml` "
        "(`[project.urls]`, `Repository = \"https://github.com/...\"`) and run `make publish`. Until then upload a notebook to "
        "Colab, and the study's folder to `/content/study`.*"
    )  # fmt: skip
    return between(readme, "colab", badges)


def results(profile: Profile) -> str:
    """The README's tables."""
    return f"{report.results(profile)}\n\n{fusion_report.results(profile)}"


def clean(node: nbformat.NotebookNode) -> None:
    """Leave only what a reader or nbval needs: no timings, no versions, no ids of a run."""
    node.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in node.cells:
        if cell.cell_type == "code":  # a widget is alive only beside its kernel; a page that is read shows the picture below it
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}


def picture(cell: nbformat.NotebookNode) -> str | None:
    """The cell's first PNG, in base64."""
    pictures = [o["data"]["image/png"] for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    return pictures[0] if pictures else None


def figure(notebook: Path, cell: nbformat.NotebookNode) -> Path:
    """Write a cell's picture to figures/NN-cell.png."""
    path = ROOT / "figures" / f"{notebook.name[:2]}-{cell.id}.png"
    with store.atomic(path) as temporary:
        temporary.write_bytes(base64.b64decode(picture(cell)))
    return path


def between(readme: str, name: str, text: str) -> str:
    """README.md with a text between the two markers of that name."""
    start, end = f"<!-- {name}: written by make publish -->", f"<!-- end of {name} -->"
    if start not in readme or end not in readme:
        raise ValueError(f"README.md has no {start} ... {end}; put the two markers back where the {name} belong")
    return readme.split(start)[0] + f"{start}\n{text}\n" + end + readme.split(end)[1]
