"""The committed notebooks: executed, clean, true to the code; the figures and the README are what they show.

Every check is a function that is also shown broken copies, which it must refuse (`test_each_guard_fails_on_a_broken_copy`).
"""

import base64
import re
import subprocess
import sys

import nbformat
import pytest

from emolib import page
from emolib.profiles import ROOT

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in PATHS]
README = (ROOT / "README.md").read_text(encoding="utf8")


def read(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def executed_in_order(name, node):
    counts = [cell.execution_count for cell in node.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


def one_parameters_cell(name, node):
    tagged = [c.source for c in node.cells if "parameters" in c.metadata.get("tags", [])]
    assert tagged == ['profile = "published"']


def shape_and_size(name, node):
    nbformat.validate(node)
    assert len(nbformat.writes(node).encode()) <= 800_000
    assert len([cell for cell in node.cells if cell.cell_type == "code"]) <= 30
    assert node.cells[0].source.startswith("# ")
    prose = [cell.source.split("## References")[0] for cell in node.cells if cell.cell_type == "markdown"]
    assert sum(len(text.split()) for text in prose) <= 1800


def as_make_publish_writes_it(name, node):
    again = nbformat.from_dict(node)
    page.clean(again)
    assert again == node, "metadata or widgets of a run are left; make publish removes them"
    page.dress(again, name, page.repository())
    where = [cell.id for cell in node.cells].index("colab")
    assert again.cells.pop(where).source == node.cells[where].source, "run: make publish"
    assert again.cells == [cell for cell in node.cells if cell.id != "colab"], "run: make publish"


def short_cells(name, node):
    for cell in (cell for cell in node.cells if cell.cell_type == "code"):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) <= 20 and not any(line.startswith("class ") for line in lines), cell.id


def clean_outputs(name, node):
    for cell in (cell for cell in node.cells if cell.cell_type == "code"):
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr", cell.id
            assert not {"image/jpeg", page.WIDGET} & set(output.get("data", {})), cell.id
            text = "".join(str(v) for k, v in output.get("data", {}).items() if k.startswith("text/")) + output.get("text", "")
            assert not re.search(r"(^|[\s'\"])/\w+/\w+|[A-Z]:\\", text), f"{cell.id}: a path of some machine"
            assert not re.search(r"Warning|Traceback|\d+%\|", text), cell.id


def figures_say_their_numbers(name, node):
    for cell in node.cells:
        if page.picture(cell):
            texts = [o["data"]["text/plain"] for o in cell.outputs if "image/png" in o.get("data", {})]
            assert all(re.fullmatch(r"Figure: .*\d numbers, checksum [0-9a-f]{12}", text) for text in texts), cell.id


def no_measured_number_in_prose(name, node):
    """Percentages and decimals in prose come from outputs; what is typed are definitions (a level, a share, a formula)."""
    for cell in (cell for cell in node.cells if cell.cell_type == "markdown"):
        prose = re.sub(r"\[[^\]]*\]\([^)]*\)|`[^`]*`|arXiv:[\d.]+|section [\d.]+|^#+ .*$", "", cell.source, flags=re.M)
        found = re.findall(r"\d+(?:\.\d+)? ?%|\b\d+\.\d+\b(?! ·)", prose)
        assert not set(found) - {"95 %", "80 %"}, cell.id


def links_lead_somewhere(name, node):
    for cell in (cell for cell in node.cells if cell.cell_type == "markdown"):
        for target in re.findall(r"\]\(([^)]+)\)", cell.source):
            assert target.startswith("http") or (ROOT / "notebooks" / target).exists(), target


GUARDS = (
    executed_in_order, one_parameters_cell, shape_and_size, as_make_publish_writes_it, short_cells, clean_outputs,
    figures_say_their_numbers, no_measured_number_in_prose, links_lead_somewhere,
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_committed_notebooks_pass(guard, name):
    guard(name, read(name))


def prose(node):
    return next(cell for cell in node.cells[1:] if cell.cell_type == "markdown")


def shown(node):
    return next(cell for cell in node.cells if cell.cell_type == "code" and cell.outputs)


def pictured(node):
    return next(cell for cell in node.cells if page.picture(cell))


def printed(text, kind="stdout"):
    return nbformat.v4.new_output("stream", name=kind, text=text)


def add(cell, text):
    cell.source += text


BREAKAGES = [
    (executed_in_order, lambda n: shown(n).update(execution_count=None)),
    (executed_in_order, lambda n: shown(n).update(execution_count=99)),
    (one_parameters_cell, lambda n: [add(c, "\nspeed = 3") for c in n.cells if c.metadata.get("tags") == ["parameters"]]),
    (one_parameters_cell, lambda n: [c.metadata.pop("tags", None) for c in n.cells]),
    (shape_and_size, lambda n: add(prose(n), "x" * 800_000)),
    (shape_and_size, lambda n: add(prose(n), " word" * 1800)),
    (shape_and_size, lambda n: add(n.cells[0], "") or n.cells[0].update(source="No title")),
    (shape_and_size, lambda n: n.cells.extend(nbformat.v4.new_code_cell("1") for _ in range(31))),
    (as_make_publish_writes_it, lambda n: shown(n).metadata.update(execution={"iopub.status.busy": "now"})),
    (as_make_publish_writes_it, lambda n: n.metadata.update(widgets={"state": {}})),
    (as_make_publish_writes_it, lambda n: shown(n).outputs.append(
        nbformat.v4.new_output("display_data", {page.WIDGET: {"model_id": "0"}}))),
    (as_make_publish_writes_it, lambda n: n.cells[0].update(
        source=n.cells[0].source.replace("\n\n", f"\n\n{page.badge('01', 'https://github.com/other/one')}\n\n", 1))),
    (as_make_publish_writes_it, lambda n: add(n.cells[1], "\nprint('an older cell')")),
    (short_cells, lambda n: add(shown(n), "\npass" * 21)),
    (short_cells, lambda n: add(shown(n), "\nclass Thing:\n    pass")),
    (clean_outputs, lambda n: shown(n).outputs.append(printed("careful", "stderr"))),
    (clean_outputs, lambda n: shown(n).outputs.append(printed("saved to /home/someone/out"))),
    (clean_outputs, lambda n: shown(n).outputs.append(printed("UserWarning: old"))),
    (clean_outputs, lambda n: shown(n).outputs.append(nbformat.v4.new_output("error", ename="E", evalue="e", traceback=[]))),
    (figures_say_their_numbers, lambda n: [
        o["data"].update({"text/plain": "<Figure size 700x260 with 1 Axes>"}) for o in pictured(n).outputs if "data" in o]),
    (no_measured_number_in_prose, lambda n: add(prose(n), " It reaches 93.1 % of them.")),
    (links_lead_somewhere, lambda n: add(prose(n), " See [there](06_nothing.ipynb).")),
]  # fmt: skip


@pytest.mark.parametrize(("guard", "damage"), [pytest.param(*b, id=f"{b[0].__name__}-{i}") for i, b in enumerate(BREAKAGES)])
def test_each_guard_fails_on_a_broken_copy(guard, damage):
    guard(NAMES[0], read(NAMES[0]))
    broken = read(NAMES[0])
    damage(broken)
    with pytest.raises((AssertionError, nbformat.ValidationError)):
        guard(NAMES[0], broken)


def test_every_guard_has_a_broken_copy():
    assert {guard for guard, _ in BREAKAGES} == set(GUARDS)


@pytest.mark.parametrize("what", ["a number in a table", "a picture's numbers"])
def test_nbval_fails_on_a_changed_output(what, tmp_path):
    """nbval compares what the cells give today with what is committed: one changed digit is enough."""
    node = read(NAMES[0])
    cells = [cell for cell in node.cells if cell.cell_type == "code"]
    tables = (cell for cell in cells if any("inside train" in str(o.get("data", "")) for o in cell.outputs))
    wanted = pictured(node) if "picture" in what else next(tables)
    data = next(o["data"] for o in wanted.outputs if "data" in o)
    key = "text/plain" if "picture" in what else "text/markdown"
    old = re.findall(r"checksum \w|\d", data[key])[-1]
    head, tail = data[key].rsplit(old, 1)
    data[key] = head + old[:-1] + ("1" if old[-1] != "1" else "2") + tail
    node.cells = node.cells[: node.cells.index(wanted) + 1]
    nbformat.write(node, tmp_path / "01_changed.ipynb")
    options = ["-p", "no:cacheprovider", "-c", str(tmp_path / "none.ini"), "--rootdir", str(tmp_path)]
    (tmp_path / "none.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--nbval", str(tmp_path), *options], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "1 failed" in done.stdout, done.stdout[-2000:]


def test_figures_are_the_pictures_of_the_notebooks():
    wanted = {}
    for name in NAMES:
        for cell in read(name).cells:
            if page.picture(cell):
                wanted[f"{name[:2]}-{cell.id}.png"] = base64.b64decode(page.picture(cell))
    assert {path.name: path.read_bytes() for path in (ROOT / "figures").glob("*.png")} == wanted


def test_readme_holds_what_make_publish_would_write():
    assert page.generated(README, page.repository()) == README, "run: make publish"
    worse = README.replace("| **majority class** | **", "| **majority class** | **9", 1)
    assert worse != README and page.generated(worse, page.repository()) == README


def test_readme_links_and_pictures_exist():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(targets) >= 4
    for target in targets:
        assert target.startswith("http") or (ROOT / target).exists(), target
