"""Notebooks as readers get them: one self-contained HTML page, and the committed copies with figures and README table."""

from __future__ import annotations

import base64
import html
import re
from pathlib import Path

import nbformat
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
.anchor-link { display: none; }
table { display: block; overflow-x: auto; border-collapse: collapse; font-size: .88rem; margin: .8rem 0; }
p, li, td { overflow-wrap: anywhere; }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .6rem; vertical-align: top; } thead th { border-bottom: 2px solid #999; }
"""


def write(notebooks: list[Path], path: Path, profile: Profile) -> Path:
    """Join executed notebooks into one HTML page with a contents list: no script, no network; returns its path."""
    exporter = HTMLExporter(template_name="basic", embed_images=True, exclude_input_prompt=True, exclude_output_prompt=True)
    names, sections, contents = {p.name: p.stem for p in notebooks}, [], []
    for notebook in notebooks:
        node = nbformat.read(notebook, as_version=4)
        for cell in node.cells:  # progress bars and log lines belong on the terminal
            if cell.cell_type == "code":
                cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        body, _ = exporter.from_notebook_node(node)
        for name, stem in names.items():
            body = body.replace(f'href="{name}"', f'href="#{stem}"')
        # Section numbers start anew in each notebook, so their anchors must carry the notebook's name.
        body = re.sub(r'(<h\d id=")', rf"\g<1>{notebook.stem}-", body)
        title = re.search(r"<h1[^>]*>(.*?)<a class", body, re.S)
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


def publish(notebooks: list[Path]) -> list[Path]:
    """Re-execute notebooks as they are committed (profile published), clean them, rewrite figures and the README table."""
    written = []
    for path in notebooks:
        node = nbformat.read(path, as_version=4)
        NotebookClient(node, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
        clean(node)
        written += [figure(path, cell) for cell in node.cells if picture(cell)]
        store.write_text(path, nbformat.writes(node) + "\n")
        written.append(path)
    readme = ROOT / "README.md"
    store.write_text(readme, with_table(readme.read_text(encoding="utf8"), results(profiles.get("published"))))
    return [*written, readme]


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


def with_table(readme: str, table: str) -> str:
    """README.md with the generated table between its markers."""
    start, end = "<!-- results: written by make publish -->", "<!-- end of results -->"
    if start not in readme or end not in readme:
        raise ValueError(f"README.md has no {start} ... {end}; put the two markers back where the table belongs")
    return readme.split(start)[0] + f"{start}\n{table}\n" + end + readme.split(end)[1]
