"""The committed notebooks: executed, clean, readable, true to the code; figures, README and RESULTS are what they show.

Every check is a function that is also shown broken copies, which it must refuse (`test_each_guard_fails_on_a_broken_copy`).
"""

import ast
import base64
import re
import subprocess
import sys

import nbformat
import pytest

from emolib import profiles
from emolib.app import publish, readme
from emolib.profiles import ROOT
from emolib.results import report
from emolib.results.records import Run

NAMES = [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
README = (ROOT / "README.md").read_text(encoding="utf8")


def read(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def cells(node, kind):
    return [cell for cell in node.cells if cell.cell_type == kind]


def markdown(cell):
    """What a code cell shows as Markdown."""
    return "\n\n".join(output["data"]["text/markdown"] for output in cell.outputs if "text/markdown" in output.get("data", {}))


def executed_in_order(name, node):
    counts = [cell.execution_count for cell in cells(node, "code")]
    assert counts == list(range(1, len(counts) + 1))


def one_parameters_cell(name, node):
    found = [c.source.splitlines() for c in node.cells if "parameters" in c.metadata.get("tags", [])]
    assert [lines[0] for lines in found] == ['profile = "published"']
    names = [line.split(" = ")[0] for line in found[0][1:]]
    assert names == (["data", "image", "text", "label", "on_error"] if name.startswith("06") else [])


def shape_and_size(name, node):
    nbformat.validate(node)
    assert len(nbformat.writes(node).encode()) <= 800_000 and len(cells(node, "code")) <= 30
    assert node.cells[0].source.startswith(f"# {int(name[:2])} · ")
    assert sum(len(cell.source.split("## References")[0].split()) for cell in cells(node, "markdown")) <= 1800


def as_make_publish_writes_it(name, node):
    again = nbformat.from_dict(node)
    publish.clean(again)
    assert again == node, "metadata of a run is left; make publish removes it"
    publish.dress(again, name, readme.repository())
    place = [cell.id for cell in node.cells].index("colab")
    assert again.cells.pop(place).source == node.cells[place].source, "run: make publish"
    assert again.cells == [cell for cell in node.cells if cell.id != "colab"], "run: make publish"


def short_cells(name, node):
    """Cells that are read, not studied: no definitions, steps without closures, nothing that the page cuts off."""
    for cell in cells(node, "code"):
        lines, tree = [line for line in cell.source.splitlines() if line.strip()], list(ast.walk(ast.parse(cell.source)))
        assert len(lines) <= 20 and max(map(len, lines)) <= 100, cell.id
        assert not any(isinstance(n, ast.FunctionDef | ast.ClassDef) for n in tree), cell.id
        calls = (n for n in tree if isinstance(n, ast.Call) and getattr(n.func, "attr", "") in ("step", "prepare"))
        assert not any(isinstance(n, ast.Lambda) for call in calls for n in ast.walk(call)), cell.id


def answer_first(name, node):
    """The first thing that a page shows, after where its numbers come from, is its short answer, with numbers."""
    shown = [cell for cell in cells(node, "code") if cell.outputs]
    assert [cell.id for cell in shown[:2]] == ["start", "answer"]
    assert markdown(shown[1]).startswith(readme.ANSWER) and re.search(r"\d", markdown(shown[1]))


def small_tables(name, node):
    tables = [t for c in cells(node, "code") for t in re.findall(r"(?:^\|.*\|$\n?)+", markdown(c), re.M)]
    assert len(tables) <= 6
    for rows in (table.strip().splitlines() for table in tables):
        assert len(rows) - 2 <= 8 and len(re.findall(r"(?<!\\)\|", rows[0])) - 1 <= 6, rows[0]


def clean_outputs(name, node):
    for cell in cells(node, "code"):
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr", cell.id
            assert not [kind for kind in output.get("data", {}) if "widget" in kind or kind == "image/jpeg"], cell.id
            text = "".join(str(v) for k, v in output.get("data", {}).items() if k.startswith("text/")) + output.get("text", "")
            assert not re.search(r"(^|[\s'\"])/\w+/\w+|[A-Z]:\\|Warning|Traceback|\d+%\|", text), cell.id


def figures_say_their_numbers(name, node):
    for output in (o for cell in cells(node, "code") for o in cell.outputs if "image/png" in o.get("data", {})):
        assert re.fullmatch(r"Figure: .*\d numbers, checksum [0-9a-f]{12}", output["data"]["text/plain"])


def sources_are_the_librarys(name, node):
    """What `report.source` showed is what the library says now."""
    for cell in cells(node, "code"):
        for call in (n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Call)):
            if ast.unparse(call.func) == "report.source":
                shown = [report.lines(ast.literal_eval(name)) for name in call.args]
                assert shown and all(lines in markdown(cell) for lines in shown), cell.id


def no_finding_in_prose(name, node):
    """What was found is an output. What is typed are definitions: a level of confidence, a value in `code`, a formula."""
    for cell in cells(node, "markdown"):
        prose = re.sub(
            r"\[[^\]]*\]\([^)]*\)|`[^`]*`|\$[^$]*\$|arXiv:[\d.]+|sections? [\d.]+|^#+ .*$", "", cell.source, flags=re.M
        )
        prose = re.sub(r"[^.?!]*\?", "", prose)
        found = re.findall(r"\d+(?:\.\d+)? ?%|\b\d+\.\d+\b|\bbeats\b|\boutperform\w*|\bsurpass\w*", prose)
        assert not set(found) - {"95 %"}, f"{cell.id}: {found}"


def links_lead_somewhere(name, node):
    for target in (t for cell in cells(node, "markdown") for t in re.findall(r"\]\(([^)]+)\)", cell.source)):
        assert target.startswith("http") or (ROOT / "notebooks" / target).exists(), target


GUARDS = (
    executed_in_order, one_parameters_cell, shape_and_size, as_make_publish_writes_it, short_cells, answer_first, small_tables,
    clean_outputs, figures_say_their_numbers, sources_are_the_librarys, no_finding_in_prose, links_lead_somewhere,
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_committed_notebooks_pass(guard, name):
    guard(name, read(name))


def prose(node):
    return cells(node, "markdown")[1]


def cell(node, wanted):
    """The first code cell that shows what is wanted: a kind of output, or words of its source or Markdown."""
    kinds = ((c, [*(k for o in c.outputs for k in o.get("data", {})), c.source, markdown(c)]) for c in cells(node, "code"))
    return next(c for c, found in kinds if any(wanted in text for text in found))


def add(cell, text):
    cell.source += text


def printed(text, kind="stdout"):
    return nbformat.v4.new_output("stream", name=kind, text=text)


def shown(text):
    return nbformat.v4.new_output("display_data", {"text/markdown": text})


ROW = "| a | b |\n| :-- | :-- |\n"
BREAKAGES = [
    (executed_in_order, lambda n: cell(n, "text/markdown").update(execution_count=None)),
    (executed_in_order, lambda n: cell(n, "text/markdown").update(execution_count=99)),
    (one_parameters_cell, lambda n: add(cell(n, 'profile = "published"'), "\nspeed = 3")),
    (one_parameters_cell, lambda n: [c.metadata.pop("tags", None) for c in n.cells]),
    (shape_and_size, lambda n: add(prose(n), "x" * 800_000)),
    (shape_and_size, lambda n: add(prose(n), " word" * 1800)),
    (shape_and_size, lambda n: n.cells[0].update(source="No title")),
    (shape_and_size, lambda n: n.cells.extend(nbformat.v4.new_code_cell("1") for _ in range(31))),
    (as_make_publish_writes_it, lambda n: prose(n).metadata.update(execution={"iopub.status.busy": "now"})),
    (as_make_publish_writes_it, lambda n: n.metadata.update(widgets={"state": {}})),
    (as_make_publish_writes_it, lambda n: n.cells[0].update(
        source=n.cells[0].source.replace("\n\n", f"\n\n{readme.badge('01', 'https://github.com/other/one')}\n\n", 1))),
    (as_make_publish_writes_it, lambda n: add(cell(n, "google.colab"), "\nprint('an older cell')")),
    (short_cells, lambda n: add(cell(n, "text/markdown"), "\npass" * 21)),
    (short_cells, lambda n: add(cell(n, "text/markdown"), "\nclass Thing:\n    pass")),
    (short_cells, lambda n: add(cell(n, "text/markdown"), "\ndef thing():\n    pass")),
    (short_cells, lambda n: add(cell(n, "text/markdown"), "\nrun.step('a', lambda: 3)")),
    (short_cells, lambda n: add(cell(n, "text/markdown"), f"\nx = '{'x' * 100}'")),
    (answer_first, lambda n: cell(n, readme.ANSWER).update(outputs=[shown("The short answer is later.")])),
    (answer_first, lambda n: cell(n, "google.colab").outputs.append(printed("hello"))),
    (small_tables, lambda n: cell(n, "text/markdown").outputs.extend(shown(ROW) for _ in range(7))),
    (small_tables, lambda n: cell(n, "text/markdown").outputs.append(shown(ROW + "| c | d |\n" * 9))),
    (small_tables, lambda n: cell(n, "text/markdown").outputs.append(shown("| a " * 7 + "|\n" + "| :-- " * 7 + "|"))),
    (clean_outputs, lambda n: cell(n, "text/markdown").outputs.append(printed("careful", "stderr"))),
    (clean_outputs, lambda n: cell(n, "text/markdown").outputs.append(printed("saved to /home/someone/out"))),
    (clean_outputs, lambda n: cell(n, "text/markdown").outputs.append(printed("UserWarning: old"))),
    (clean_outputs, lambda n: cell(n, "text/markdown").outputs.append(
        nbformat.v4.new_output("error", ename="E", evalue="e", traceback=[]))),
    (clean_outputs, lambda n: cell(n, "text/markdown").outputs.append(
        nbformat.v4.new_output("display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "0"}}))),
    (figures_say_their_numbers, lambda n: [
        o["data"].update({"text/plain": "<Figure size 700x260 with 1 Axes>"}) for o in cell(n, "image/png").outputs]),
    (sources_are_the_librarys, lambda n: cell(n, "report.source").update(outputs=[shown("```python\nan older line\n```")])),
    (no_finding_in_prose, lambda n: add(prose(n), " It reaches 93.1 of them.")),
    (no_finding_in_prose, lambda n: add(prose(n), " It reaches 93 % of them.")),
    (no_finding_in_prose, lambda n: add(prose(n), " The product beats all networks.")),
    (links_lead_somewhere, lambda n: add(prose(n), " See [there](06_nothing.ipynb).")),
]  # fmt: skip


@pytest.mark.parametrize(("guard", "damage"), [pytest.param(*b, id=f"{b[0].__name__}-{i}") for i, b in enumerate(BREAKAGES)])
def test_each_guard_fails_on_a_broken_copy(guard, damage):
    name = next(n for n in NAMES if guard is not sources_are_the_librarys or "report.source" in str(read(n)))
    guard(name, read(name))
    broken = read(name)
    damage(broken)
    with pytest.raises((AssertionError, nbformat.ValidationError)):
        guard(name, broken)


def test_every_guard_has_a_broken_copy():
    assert {guard for guard, _ in BREAKAGES} == set(GUARDS)


@pytest.mark.parametrize("what", ["| :--", "image/png"])
def test_nbval_fails_on_a_changed_output(what, tmp_path):
    """nbval compares what the cells give today with what is committed: one changed digit of a table or figure is enough."""
    node = read(NAMES[0])
    wanted = cell(node, what)
    data = next(o["data"] for o in wanted.outputs if "data" in o)
    key = "text/plain" if "image" in what else "text/markdown"
    last = re.findall(r"checksum \w|\d", data[key])[-1]
    head, tail = data[key].rsplit(last, 1)
    data[key] = head + last[:-1] + ("1" if last[-1] != "1" else "2") + tail
    node.cells = node.cells[: node.cells.index(wanted) + 1]
    nbformat.write(node, tmp_path / "01_changed.ipynb")
    (tmp_path / "none.ini").write_text("[pytest]\n")
    options = ["-p", "no:cacheprovider", "-c", str(tmp_path / "none.ini"), "--rootdir", str(tmp_path), "--nbval", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", *options], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "1 failed" in done.stdout, done.stdout[-2000:]


def test_figures_are_the_pictures_of_the_notebooks():
    pictures = {f"{n[:2]}-{c.id}.png": publish.picture(c) for n in NAMES for c in read(n).cells if publish.picture(c)}
    shown = {path.name: path.read_bytes() for path in (ROOT / "figures").glob("*.png")}
    assert shown == {name: base64.b64decode(data) for name, data in pictures.items()}


def test_readme_and_results_hold_what_make_publish_would_write():
    run = Run("publish", profiles.get(profiles.get("published").replays), True)
    for name, text in readme.written(run).items():
        assert (ROOT / name).read_text(encoding="utf8") == text, "run: make publish"


def test_readme_links_and_pictures_exist():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(targets) >= 4
    for target in targets:
        assert target.startswith("http") or (ROOT / target).exists(), target
