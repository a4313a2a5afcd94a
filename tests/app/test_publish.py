"""What readers get: the HTML report in a real browser, and what `make publish` writes and leaves alone."""

import json
import re
import shutil
import subprocess

import nbformat
import pytest

from emolib import profiles
from emolib.app import publish, readme
from emolib.profiles import ROOT
from emolib.results.records import Run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
# Headless browsers keep a least width of some 500 pixels, so the page is looked at through a frame of a phone's width.
PROBE = """<script>
const said = []; window.onerror = (message) => said.push(message);
window.addEventListener("load", () => parent.postMessage(JSON.stringify({
  pictures: document.images.length, broken: [...document.images].filter((i) => !i.naturalWidth).length, errors: said,
  wide: document.documentElement.scrollWidth, room: document.documentElement.clientWidth,
}), "*"));
</script>"""
FRAME = """<!doctype html><meta charset="utf-8"><body><pre></pre>
<iframe src="page.html" style="border: 0" width="WIDTH" height="800"></iframe>
<script>window.addEventListener("message", (m) => { document.querySelector("pre").textContent = m.data; });</script>"""


def seen(html: str, width: int, folder) -> dict:
    """What a browser finds in a page shown `width` pixels wide."""
    (folder / "page.html").write_text(html.replace("</head>", PROBE + "</head>"), encoding="utf8")
    (folder / "frame.html").write_text(FRAME.replace("WIDTH", str(width)), encoding="utf8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'b'}", "--virtual-time-budget=9000"]
    command = [BROWSER, *options, "--dump-dom", (folder / "frame.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return json.loads(re.search(r"<pre>(.+?)</pre>", done.stdout, re.S).group(1).replace("&quot;", '"'))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))
    path = publish.write(paths, tmp_path_factory.mktemp("report") / "report.html", profiles.get("published"))
    return path.read_text(encoding="utf8")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")
@pytest.mark.parametrize("width", [400, 1200])
def test_a_browser_shows_the_whole_report(report, width, tmp_path):
    found = seen(report, width, tmp_path)
    assert found["pictures"] >= 20 and found["broken"] == 0 and found["errors"] == []
    assert width - 20 <= found["room"] and found["wide"] <= found["room"]  # a scroll bar takes its share


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")
def test_the_browser_would_have_noticed(tmp_path):
    bad = "<img src='gone.png'><script>nowhere()</script><p style='width:900px'>wide</p>"
    found = seen(f"<html><head></head><body>{bad}</body></html>", 400, tmp_path)
    assert found["broken"] == 1 and found["wide"] > 400 and found["errors"]


def test_the_report_needs_nothing_else(report):
    assert "<script" not in report and not re.search(r"""(src|href)=["']https?://[^"']*\.(js|css|png|svg)""", report)
    assert "@import" not in report and "/content/study" not in report and "anchor-link" not in report
    assert profiles.get("published").says in report


def test_every_anchor_leads_to_one_place(report):
    ids, targets = re.findall(r'<[^<>]* id="([^"]+)"', report), re.findall(r'href="#([^"]+)"', report)
    assert len(set(ids)) == len(ids) and len(targets) >= 10 and set(targets) <= set(ids) and '.ipynb"' not in report


def test_formulas_need_no_script(report):
    assert "<math" in report and "\\mathrm" not in report and "$$" not in report and "FORMULA-" not in report
    assert publish.with_formulas("a $x_1$ and `$HOME` cost $5, $$y$$", found := []) == (
        "a FORMULA-1; and `$HOME` cost $5, FORMULA-0;"
    )
    assert 'display="block"' in found[0] and "<msub><mi>x</mi><mn>1</mn></msub>" in found[1]


def notebook(folder, name, source):
    """A page of the study's form with one cell of its own."""
    answer = 'from emolib.results import figures, report\nreport.say("**The short answer.** Yes, 1.5 of 2. More follows.")'
    node = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_markdown_cell("# 4 · A title\n\nA question.\n\nnext: [5](05_b.ipynb)", id="title"),
        nbformat.v4.new_code_cell(answer, id="answer"), nbformat.v4.new_code_cell(source, id="cell"),
    ], metadata={"kernelspec": {"name": "python3", "display_name": "x", "language": "python"}})  # fmt: skip
    nbformat.write(node, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of its own, which publishing may change."""
    for folder in ("notebooks", "figures", "records/sample", "records/mini", "emolib"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copyfile(ROOT / "emolib" / "profiles.py", tmp_path / "emolib" / "profiles.py")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n')
    parts = (
        f"<!-- {name}: written by make publish -->\nold\n<!-- end of {name} -->" for name in ("answers", "findings", "results")
    )
    (tmp_path / "README.md").write_text("\n".join(["# R", *parts, "end\n"]))
    for module in (publish, readme):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(publish, "RECORDS", tmp_path / "records")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def test_publishing_writes_pages_figures_and_texts_and_removes_what_is_stale(study):
    path = notebook(study / "notebooks", "04_a", "figures.plt.bar([0], [0.5])\nprint('drawn')")
    for name in ("04-gone.png", "07-other.png"):
        (study / "figures" / name).touch()
    assert [p.name for p in publish.publish([path])] == ["04-cell.png", "04_a.ipynb", "README.md", "RESULTS.md"]
    node = nbformat.read(path, as_version=4)
    assert [c.id for c in node.cells] == ["title", "colab", "answer", "cell"] and not any(c.metadata for c in node.cells)
    assert [c.execution_count for c in node.cells[1:]] == [1, 2, 3] and node.metadata.language_info == {"name": "python"}
    assert {p.name for p in (study / "figures").iterdir()} == {"04-cell.png", "07-other.png"}
    text, results = (study / "README.md").read_text(), (study / "RESULTS.md").read_text()
    assert text.startswith("# R\n") and "\nold\n" not in text and "| system |" in text and text.endswith("-->\nend\n")
    assert "-->\nYes, 1.5 of 2. More follows.\n<!--" in text and "\n4. [A title](notebooks/04_a.ipynb): see above.\n<!--" in text
    other = study / "notebooks" / "03_b.ipynb"
    other.write_bytes(path.read_bytes())
    assert (
        "3. [A title](notebooks/03_b.ipynb): Yes, 1.5 of 2.\n"
        in readme.written(Run("publish", profiles.get("mini"), True))["README.md"]
    )
    assert f"`{profiles.get('published').replays}`" in results and "| **" in results


def test_a_failing_cell_leaves_every_page_as_it_was(study):
    paths = [notebook(study / "notebooks", "04_a", "print(1)"), notebook(study / "notebooks", "05_b", "raise KeyError('lost')")]
    before = [path.read_bytes() for path in paths]
    with pytest.raises(Exception, match="lost"):
        publish.publish(paths)
    assert [path.read_bytes() for path in paths] == before and not (study / "RESULTS.md").exists()


def test_one_field_says_whose_records_are_shown(study):
    shown = profiles.get("published").replays
    other = "mini" if shown == "sample" else "sample"
    publish.set_replayed(other)
    old, new = (path.read_text() for path in (ROOT / "emolib" / "profiles.py", study / "emolib" / "profiles.py"))
    (line,) = set(new.splitlines()) - set(old.splitlines())
    assert 'Profile("published"' in line and old == new.replace(line, line.replace(f'"{other}"', f'"{shown}"'))
    with pytest.raises(ValueError, match=r"holds no records; make them: python -m emolib run --profile full --record"):
        publish.set_replayed("full")
    (study / "emolib" / "profiles.py").write_text("nothing")
    with pytest.raises(ValueError, match="has 0 lines Profile"):
        publish.set_replayed("sample")


def test_markers_that_are_gone_are_named(study):
    with pytest.raises(ValueError, match="put the two markers back where the results belong"):
        readme.between("# A page without them", "results", "x")
