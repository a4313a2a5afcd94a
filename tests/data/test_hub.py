"""The Hub at loopback: what profile `full` asks of it, requests that fail, refusals in plain words."""

import os
import subprocess
import sys

import pytest

from emolib import profiles
from emolib.data import hub, official
from tests.hub import FACES, contents, serve

ASK = """
import sys
from emolib import profiles
from emolib.data import official, sets, readers
official.FER_TRAINING_COUNTS = {counts}
full = profiles.get("full")
for load in (sets.raw_faces, sets.raw_texts, sets.other_texts, sets.cifar10):
    data = load(full)
    print(data.counts().sum(1).tolist(), data.source)
"""


def asked(code, address, folder, **more):
    """What a fresh process answers that knows no Hub but the one at the address, and has no data."""
    known = {"HF_ENDPOINT": address, "HF_HOME": str(folder / "hub"), "EMOLIB_DATA": str(folder), "PYTHONPATH": str(profiles.ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | known | more, capture_output=True, text=True, check=False
    )
    return done.stdout, done.stderr


def test_every_set_of_full_comes_from_the_hub_though_each_third_request_fails(tmp_path):
    with serve(contents(), every=3) as address:
        out, err = asked(ASK.format(counts=FACES), address, tmp_path)
    faces, texts, other, things = out.splitlines() if out else pytest.fail(err)
    assert official.MERGED in faces and faces.startswith(f"[{sum(FACES) - 58}, 58, 84]")
    assert "DAIR-AI" in texts and "GoEmotions (Ekman)" in other and things.startswith("[0, 0, 60] CIFAR-10")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("dair-ai/emotion:split@0000000", "no such revision"),
        ("dair-ai/nothing@0000000", "no such repository or file"),
    ],
)
def test_a_refusal_is_final_and_says_what_to_do(source, says, tmp_path):
    code = f"from emolib.data import hub\ntry:\n    hub.tables({source!r})\nexcept hub.MissingData as error:\n    print(error)"
    with serve(contents()) as address:
        out, err = asked(code, address, tmp_path)
    assert says in out and "once more" not in err, out + err


def test_a_gated_repository_asks_for_a_token():
    class GatedRepoError(OSError):
        response = type("Response", (), {"status_code": 403})

    error = OSError("We had a problem\nand more")
    error.__cause__ = GatedRepoError("403 Client Error.\nAccess to x is restricted")
    assert "HF_TOKEN" in hub.mend(error) and not hub.stumbled(error)
    assert hub.reasons(error) == "OSError: We had a problem; after GatedRepoError: 403 Client Error."


def test_a_stumble_is_tried_three_times(monkeypatch, capsys):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    answers = iter([ConnectionError("reset"), ConnectionError("reset"), 7])

    def ask():
        if isinstance(answer := next(answers), Exception):
            raise answer
        return answer

    assert hub.patiently(ask, "a set") == 7 and capsys.readouterr().err.count("once more") == 2
    answers = iter([ValueError("wrong"), 7])
    with pytest.raises(ValueError, match="wrong"):
        hub.patiently(ask, "a set")
