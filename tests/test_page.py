"""The HTML report in a real browser: every picture is there, nothing scrolls sideways on a phone, no error is logged."""

import json
import re
import shutil
import subprocess

import nbformat
import pytest

from emolib import page, profiles
from emolib.profiles import ROOT

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
# Headless browsers keep a least width of some 500 pixels, so the page is looked at through a frame of a phone's width.
PROBE = """<script>
const said = []; window.onerror = (message) => said.push(message);
window.addEventListener("load", () => parent.postMessage(JSON.stringify({
  pictures: document.images.length, broken: [...document.images].filter((i) => !i.naturalWidth).length, errors: said,
  wide: document.documentElement.scrollWidth, room: document.documentElement.clientWidth,
  links: [...document.querySelectorAll("nav a")].filter((a) => !document.getElementById(a.getAttribute("href").slice(1))).length,
  colours: [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color],
}), "*"));
</script>"""
FRAME = """<!doctype html><meta charset="utf-8"><body><pre></pre>
<iframe src="page.html" style="border: 0" width="WIDTH" height="800"></iframe>
<script>window.addEventListener("message", (m) => { document.querySelector("pre").textContent = m.data; });</script>"""


def seen(html: str, width: int, folder) -> dict:
    """What a browser finds in a page shown `width` pixels wide."""
    (folder / "page.html").write_text(html.replace("</head>", PROBE + "</head>"), encoding="utf8")
    (folder / "frame.html").write_text(FRAME.replace("WIDTH", str(width)), encoding="utf8")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'browser'}",
        "--virtual-time-budget=9000",
    ]
    command = [BROWSER, *options, "--dump-dom", (folder / "frame.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return json.loads(re.search(r"<pre>(.+?)</pre>", done.stdout, re.S).group(1).replace("&quot;", '"'))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))
    path = page.write(paths, tmp_path_factory.mktemp("report") / "report.html", profiles.get("published"))
    return path.read_text(encoding="utf8")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")
@pytest.mark.parametrize("width", [400, 1200])
def test_a_browser_shows_the_whole_report(report, width, tmp_path):
    found = seen(report, width, tmp_path)
    assert found["pictures"] >= 25 and found["broken"] == 0 and found["errors"] == [] and found["links"] == 0
    assert width - 20 <= found["room"] and found["wide"] <= found["room"]  # a scroll bar takes its share
    assert found["colours"] == ["rgb(255, 255, 255)", "rgb(34, 34, 34)"]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")
def test_the_browser_would_have_noticed(tmp_path):
    bad = "<nav><a href='#gone'>x</a></nav><img src='gone.png'><script>nowhere()</script><p style='width:900px'>wide</p>"
    found = seen(f"<html><head></head><body>{bad}</body></html>", 400, tmp_path)
    assert found["broken"] == 1 and found["wide"] > 400 and found["links"] == 1 and found["errors"]


def test_the_report_needs_nothing_else(report):
    assert "<script" not in report and not re.search(r"""(src|href)=["']https?://[^"']*\.(js|css|png|svg)""", report)
    assert "@import" not in report and "/content/study" not in report and "widget-view" not in report


def test_badges_and_widgets_stay_out_of_the_report(tmp_path):
    node = nbformat.read(min((ROOT / "notebooks").glob("*.ipynb")), as_version=4)
    page.dress(node, "01_x", "https://github.com/someone/study")
    widget = nbformat.v4.new_output("display_data", {page.WIDGET: {"model_id": "1"}, "text/plain": "VBox(...)"})
    node.cells.append(nbformat.v4.new_code_cell("play()", outputs=[widget], execution_count=99))
    state = {"state": {"1": {"model_module": "@jupyter-widgets/controls", "model_name": "VBoxModel", "state": {}}}}
    node.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": state | {"version_major": 2, "version_minor": 0}}
    nbformat.write(node, tmp_path / "01_x.ipynb")
    html = page.write([tmp_path / "01_x.ipynb"], tmp_path / "report.html", profiles.get("sample")).read_text(encoding="utf8")
    assert "colab-badge" not in html and "VBox" not in html and "<script" not in html and profiles.get("sample").says in html
    page.clean(node)
    assert node.cells[-1].outputs == []


def test_formulas_need_no_script(report):
    assert report.count("<math") >= 10 and "<msub><mi>w</mi><mi>k</mi></msub>" in report and "<mfrac><mrow>" in report
    assert "\\mathrm" not in report and "$$" not in report and "FORMULA-NUMBER" not in report and "anchor-link" not in report
    assert page.with_formulas("a $x_1$ and `$HOME` cost $5, $$y$$", found := []) == (
        "a FORMULA-NUMBER-1; and `$HOME` cost $5, FORMULA-NUMBER-0;"
    )
    assert 'display="block"' in found[0] and "<msub><mi>x</mi><mn>1</mn></msub>" in found[1]


def test_figures_say_what_numbers_they_show():
    import matplotlib.pyplot as plt

    from emolib import report as shown

    def drawn(height, title="a"):
        fig, ax = plt.subplots()
        ax.plot([0, 1], [0.5, height])
        ax.bar([0, 1], [height, 0.25])
        ax.set_title(title)
        return shown.numbers(fig)

    assert drawn(1 / 3).startswith("Figure: 1 curves, 2 bars; 12 numbers, checksum ")
    assert drawn(1 / 3) == drawn(1 / 3 + 1e-12) and drawn(0.5) == drawn(0.5 - 1e-13)
    assert len({drawn(1 / 3), drawn(0.3334), drawn(1 / 3, "b")}) == 3


def test_markers_that_are_gone_are_named():
    with pytest.raises(ValueError, match="put the two markers back where the results belong"):
        page.between("# A page without them", "results", "x")
    assert page.between("a\n<!-- x: written by make publish -->\nold\n<!-- end of x -->\nb", "x", "new").splitlines()[2] == "new"
