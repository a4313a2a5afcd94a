"""Notebooks as readers get them: the committed copies with their figures, and one self-contained HTML page."""

from __future__ import annotations

import base64
import html
import re
from pathlib import Path

import nbformat
from latex2mathml.converter import convert as mathml
from nbclient import NotebookClient

from emolib import profiles, store
from emolib.app import readme
from emolib.profiles import ROOT, Profile
from emolib.results.records import RECORDS, Run

# Kernels warn that they listen on a local port, which sounds more alarming than it is.
QUIET = ["--IPKernelApp.log_level=ERROR"]
TITLE = "Multimodal emotion recognition with CLIP"
_REPLAYS = re.compile(r'(Profile\("published",[^)]*?replays=")(\w+)(")')
_COLAB = """\
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

address, study = {address!r}, Path("/content/study")
if "google.colab" in sys.modules:  # fetch the study and what it needs; torch stays as Colab has it
    if not study.exists() and not address:
        raise SystemExit(f"Put this study at {{study}}: the notebook does not know its address.")
    if not study.exists():
        subprocess.run(["git", "clone", "--quiet", "--depth=1", address, str(study)], check=True)
    needed = tomllib.loads((study / "pyproject.toml").read_text())["project"]["dependencies"]
    kept = [f"{{name}}=={{version(name)}}" for name in ("torch", "torchvision")]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *needed, *kept], check=True)
    sys.path.insert(0, str(study))"""
_STYLE = """
body { margin: 0 auto; max-width: 56rem; padding: 1rem; font: 16px/1.55 system-ui, sans-serif; color: #222; background: #fff; }
section { border-top: 3px solid #0072B2; margin-top: 3rem; } img { max-width: 100%; height: auto; }
pre { font: 13px/1.45 ui-monospace, monospace; overflow-x: auto; margin: 0; }
.highlight { background: #f6f7f9; padding: .6rem .8rem; margin: .6rem 0; }
table { display: block; overflow-x: auto; border-collapse: collapse; font-size: .88rem; } p, li { overflow-wrap: anywhere; }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .6rem; vertical-align: top; }
"""


def publish(notebooks: list[Path], profile: str | None = None) -> list[Path]:
    """Re-execute the committed notebooks and rewrite them, the figures, README.md and RESULTS.md; returns what was written.

    profile: whose records profile `published` replays from now on; None leaves it. Nothing is written where a cell fails,
    but for that choice.
    """
    if profile:
        set_replayed(profile)
    shown, address = profile or profiles.get("published").replays, readme.repository()
    nodes = {path: executed(path, address) for path in notebooks}
    written = []
    for path, node in nodes.items():
        written += [figure(path, cell) for cell in node.cells if picture(cell)]
        store.write_text(path, nbformat.writes(node) + "\n")
        written.append(path)
    for stale in {f for path in notebooks for f in (ROOT / "figures").glob(f"{path.name[:2]}-*.png")} - set(written):
        stale.unlink()
    for name, text in readme.written(Run("publish", profiles.get(shown), True)).items():
        store.write_text(ROOT / name, text)
        written.append(ROOT / name)
    return written


def set_replayed(name: str) -> None:
    """Make profile `published` replay the records of another profile: the one field `replays` of profiles.py."""
    if not (RECORDS / profiles.get(name).name).is_dir():
        raise ValueError(f"{RECORDS / name} holds no records; make them: python -m emolib run --profile {name} --record")
    path = ROOT / "emolib" / "profiles.py"
    text, count = _REPLAYS.subn(rf"\g<1>{name}\g<3>", path.read_text(encoding="utf8"))
    if count != 1:
        raise ValueError(f'{path} has {count} lines Profile("published", ..., replays="..."), wanted one')
    store.write_text(path, text)


def executed(path: Path, address: str | None) -> nbformat.NotebookNode:
    """A committed notebook, run anew as it stands and cleaned."""
    node = nbformat.read(path, as_version=4)
    dress(node, path.stem, address)
    options = {"timeout": 600, "kernel_name": "python3", "extra_arguments": QUIET}
    NotebookClient(node, resources={"metadata": {"path": str(path.parent)}}, **options).execute()
    clean(node)
    return node


def dress(node: nbformat.NotebookNode, name: str, address: str | None) -> None:
    """Put badge and Colab cell into a notebook, as they follow from the repository's address."""
    *head, links = _without_badge(node.cells[0].source).split("\n\n")
    node.cells[0].source = "\n\n".join([*head, *([readme.badge(name, address)] if address else []), links])
    node.cells = [cell for cell in node.cells if cell.get("id") != "colab"]
    code = _COLAB.format(address=address).replace("'", '"')
    node.cells.insert(1, nbformat.v4.new_code_cell(code, id="colab"))


def _without_badge(source: str) -> str:
    return "\n\n".join(part for part in source.split("\n\n") if not part.startswith(readme.BADGE))


def clean(node: nbformat.NotebookNode) -> None:
    """Leave only what a reader or nbval needs: no timings, no versions, no ids of a run."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    node.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
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


def write(notebooks: list[Path], path: Path, profile: Profile) -> Path:
    """Join executed notebooks into one HTML page with a contents list: no script, no network; returns its path."""
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    hidden = {f"exclude_{part}": True for part in ("input_prompt", "output_prompt", "anchor_links")}
    exporter = HTMLExporter(template_name="basic", embed_images=True, **hidden)
    bodies = {notebook.stem: body(nbformat.read(notebook, as_version=4), notebook.stem, exporter) for notebook in notebooks}
    titles = {stem: re.search(r"<h1[^>]*>(.*?)</h1>", text, re.S) for stem, text in bodies.items()}
    contents = "".join(f'<li><a href="#{stem}">{found[1] if found else stem}</a></li>' for stem, found in titles.items())
    sections = "".join(f'<section id="{stem}">{text}</section>' for stem, text in bodies.items())
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{TITLE}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{HtmlFormatter().get_style_defs('.highlight')}{_STYLE}</style></head><body><h1>{TITLE}</h1>"
        f"<p>Profile <b>{profile.name}</b>. {html.escape(profile.says)}</p><nav><ol>{contents}</ol></nav>{sections}</body></html>"
    )
    store.write_text(path, page)
    return path


def body(node: nbformat.NotebookNode, stem: str, exporter) -> str:
    """One notebook as HTML, without what belongs on a terminal, in Colab or under a live kernel."""
    formulas: list[str] = []
    node.cells = [cell for cell in node.cells if cell.get("id") != "colab"]
    node.cells[0].source = _without_badge(node.cells[0].source)
    for cell in node.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\]\((\w+)\.ipynb\)", r"](#\1)", with_formulas(cell.source, formulas))
            continue
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                output.metadata["image/png"] = {"alt": f"figure: {cell.id.replace('-', ' ')}"}
    text, _ = exporter.from_notebook_node(node)
    # Sections and cells are named alike in all notebooks, so their anchors must carry the notebook's name.
    text = re.sub(r'(<[^<>]* id=")', rf"\g<1>{stem}-", text)
    return re.sub(r"FORMULA-(\d+);", lambda found: formulas[int(found[1])], text)


def with_formulas(markdown: str, formulas: list[str]) -> str:
    """Markdown whose formulas, $$...$$ and $...$, are marks; their MathML, which browsers show without any script, goes to
    `formulas`: the exporter mends what it takes for unclosed tags, so MathML cannot go through it."""

    def mark(found: re.Match, display: str) -> str:
        formulas.append(mathml(found[1], display=display))
        return f"FORMULA-{len(formulas) - 1};"

    for pattern, display in ((r"\$\$(.+?)\$\$", "block"), (r"(?<![\\$`])\$([^$`\n]+?)\$(?!\d)", "inline")):
        markdown = re.sub(pattern, lambda found, display=display: mark(found, display), markdown, flags=re.S)
    return markdown
