import ast
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from emolib.profiles import ROOT
from emolib.results import report


@pytest.fixture
def shown(monkeypatch):
    texts = []
    monkeypatch.setattr(report, "display", lambda markdown: texts.append(markdown.data))
    return texts


def test_a_frame_becomes_a_table_with_numbers_right_and_nothing_broken_by_its_cells():
    frame = pd.DataFrame(
        {"name": ["a|b", "**c**\nd"], "n": [3589, None], "p": ["< 0.001", "0.2"], "x": [np.float32(0.5), np.nan]}
    )
    assert report.markdown(frame).splitlines() == [
        "| name | n | p | x |", "| :-- | --: | --: | --: |", "| a\\|b | 3,589 | &lt; 0.001 | 0.5 |", "| **c** d | – | 0.2 | – |",
    ]  # fmt: skip
    assert report.markdown(pd.DataFrame({"a": ["x"], "b": [True]})).endswith("| :-- | :-- |\n| x | True |")


def test_numbers_as_words():
    assert report.percent(0.93125) == "93.1" and report.percent(None) == "–"
    assert report.interval((0.92, 0.94)) == "92.0–94.0" and report.p_value(0.0004) == "< 0.001"
    found = {"accuracy": 0.931, "accuracy_sd": 0.002, "accuracy_interval": (0.92, 0.942)}
    assert report.spread(found) == "93.1 ± 0.2 (92.0–94.2)"
    assert report.spread(found | {"accuracy_sd": None}) == "93.1 (92.0–94.2)"
    assert report.spread(found | {"accuracy_interval": None}) == "93.1 ± 0.2"
    assert report.signed((-0.013, (-0.02, 0.006))) == "-1.3 (-2.0 to +0.6)"


def test_sentences_and_frames_are_shown_as_markdown(shown):
    report.say("**a**")
    report.show(pd.DataFrame({"a": ["x"]}))
    assert shown == ["**a**", "| a |\n| :-- |\n| x |"]


def test_source_shows_the_lines_that_run(shown):
    report.source("results.report.signed", "results.records.Run.folder", "results.predictions.Facts")
    signed, method, decorated = shown[0].split("\n\n```python\n")
    whole = (ROOT / "emolib/results/report.py").read_text()
    lines = signed.removeprefix("```python\n").removesuffix("\n```").splitlines()
    assert lines[0] == "# emolib/results/report.py" and "\n".join(lines[1:]) in whole and lines[1].startswith("def signed(")
    assert method.splitlines()[:3] == ["# emolib/results/records.py", "@property", "def folder(self) -> Path:"]
    assert decorated.splitlines()[1:3] == ["@dataclass(frozen=True)", "class Facts:"]
    for text in (signed, method, decorated):
        ast.parse(text.removeprefix("```python\n").removesuffix("\n```"))


def test_source_imports_nothing_and_refuses_what_is_not_there():
    code = (
        "import sys; from emolib.results import report; report.source('models.networks.FaceCNN'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")
    with pytest.raises(ValueError, match=r"results/report.py defines no 'sign'.*found say, show"):
        report.source("results.report.sign")
    for name in ("results.no_module.x", "results", "numpy.mean"):
        with pytest.raises(ValueError, match="no module"):
            report.source(name)


def test_reports_and_tables_need_neither_torch_nor_matplotlib():
    code = "import sys; from emolib.results import tables, records; print({'torch', 'matplotlib', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
