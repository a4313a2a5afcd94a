"""The committed notebooks: executed, clean, true to the code; the figures and the README are what they show."""

import base64
import re

import nbformat
import pytest

from emolib import page, profiles
from emolib.profiles import ROOT

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in PATHS}
CELLS = [(name, cell) for name, node in NOTEBOOKS.items() for cell in node.cells]
CODE = [pytest.param(cell, id=f"{name}/{cell.id}") for name, cell in CELLS if cell.cell_type == "code"]
PROSE = [pytest.param(cell, id=f"{name}/{cell.id}") for name, cell in CELLS if cell.cell_type == "markdown"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_cell_was_executed_in_order(name):
    counts = [cell.execution_count for cell in NOTEBOOKS[name].cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_one_parameters_cell_with_the_profile_and_nothing_else(name):
    tagged = [c.source for c in NOTEBOOKS[name].cells if "parameters" in c.metadata.get("tags", [])]
    assert tagged == ['profile = "published"']


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_shape_and_size(name):
    node, path = NOTEBOOKS[name], ROOT / "notebooks" / f"{name}.ipynb"
    nbformat.validate(node)
    assert path.stat().st_size <= 800_000
    code = [cell for cell in node.cells if cell.cell_type == "code"]
    assert len(code) <= 30
    assert node.cells[0].source.startswith("# ")
    words = sum(len(cell.source.split()) for cell in node.cells if cell.cell_type == "markdown")
    assert words <= 1800
    page.clean(again := nbformat.from_dict(node))
    assert again == node, "metadata of a run is left; make publish removes it"


@pytest.mark.parametrize("cell", CODE)
def test_code_cells_are_short_and_outputs_clean(cell):
    lines = [line for line in cell.source.splitlines() if line.strip()]
    assert len(lines) <= 20 and not any(line.startswith("class ") for line in lines)
    for output in cell.outputs:
        assert output.output_type != "error" and output.get("name") != "stderr"
        assert not {"image/jpeg", "application/vnd.jupyter.widget-view+json"} & set(output.get("data", {}))
        text = "".join(str(v) for k, v in output.get("data", {}).items() if k.startswith("text/")) + output.get("text", "")
        assert not re.search(r"(^|[\s'\"])/\w+/\w+|[A-Z]:\\", text), "a path of some machine"
        assert not re.search(r"Warning|Traceback|\d+%\|", text)


@pytest.mark.parametrize("cell", PROSE)
def test_no_measured_number_is_typed_into_prose(cell):
    """Percentages and decimals in prose come from outputs; what is typed are definitions (a level, a share, a formula)."""
    allowed = {"95 %", "80 %"}
    prose = re.sub(r"\[[^\]]*\]\([^)]*\)|`[^`]*`|arXiv:[\d.]+|section [\d.]+|^#+ .*$", "", cell.source, flags=re.M)
    found = re.findall(r"\d+(?:\.\d+)? ?%|\b\d+\.\d+\b(?! ·)", prose)
    assert not set(found) - allowed


@pytest.mark.parametrize("cell", PROSE)
def test_links_lead_somewhere(cell):
    for target in re.findall(r"\]\(([^)]+)\)", cell.source):
        if not target.startswith("http"):
            assert (ROOT / "notebooks" / target).exists(), target


def test_figures_are_the_pictures_of_the_notebooks():
    wanted = {}
    for name, cell in CELLS:
        if cell.cell_type == "code" and page.picture(cell):
            wanted[f"{name[:2]}-{cell.id}.png"] = base64.b64decode(page.picture(cell))
    assert {path.name: path.read_bytes() for path in (ROOT / "figures").glob("*.png")} == wanted


def test_readme_holds_the_table_of_the_records():
    readme = (ROOT / "README.md").read_text(encoding="utf8")
    assert page.with_table(readme, page.results(profiles.get("published"))) == readme, "run: make publish"


def test_readme_links_and_pictures_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf8")
    targets = re.findall(r"\]\(([^)#]+)\)", readme)
    assert len(targets) >= 4
    for target in targets:
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
