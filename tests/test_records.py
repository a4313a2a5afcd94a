"""Records: what is stored is what is read; nothing stale, half-written or orphaned is ever shown."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap

import nbformat
import numpy as np
import pytest

from emolib import fusion, profiles, records, store
from emolib.profiles import PROFILES, ROOT
from emolib.records import Facts, MissingRecord, Predictions, Run, StaleRecord


def make(n=6, k=3, seeds=2):
    rng = np.random.default_rng(0)
    split = np.array(["validation"] * (n // 2) + ["test"] * (n - n // 2))
    probs = rng.dirichlet(np.ones(k), (seeds, n)).astype(np.float32)
    labels = rng.integers(0, k, n)
    return Predictions(
        split, np.arange(n) + 100, labels, probs, tuple("abc"[:k]), "f", "made", {"curve": [1, 2]}, {"map": np.eye(2)}
    )


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("EMOLIB_OUT", str(tmp_path))
    return Run("02_baselines", profiles.get("sample"))


def test_what_is_stored_is_what_is_read(run):
    made = make()
    read = run.step("texts/gru", lambda: made, uses=("gru",))
    for name in ("split", "ids", "labels", "probs"):
        assert np.array_equal(getattr(read, name), getattr(made, name)), name
    assert read.classes == made.classes and read.notes == made.notes and np.array_equal(read.arrays["map"], np.eye(2))
    assert np.array_equal(run.load("texts/gru").probs, made.probs)
    facts = run.step("texts/audit", lambda: Facts("f", "made", {"n": 3}))
    assert facts.notes == {"n": 3} and facts.arrays == {}
    about = json.loads((run.folder / "texts" / "gru.json").read_text())
    assert about["config"]["gru"]["hidden"] == run.profile.gru.hidden
    assert {"commit", "versions", "device", "date", "seconds"} <= set(about["made"])


def test_a_step_is_computed_once(run):
    run.step("texts/gru", make)
    run.step("texts/gru", lambda: pytest.fail("computed again"))


def test_a_finished_step_leaves_no_checkpoint(run, tmp_path):
    left = tmp_path / "checkpoints" / "texts" / "gru" / "seed-0.safetensors"
    store.write_arrays(left, {"x": np.ones(1)})
    run.step("texts/gru", make)
    assert not left.parent.exists()


def test_a_changed_configuration_fails_loudly(run):
    run.step("texts/gru", make, uses=("gru",))
    changed = dataclasses.replace(run.profile, gru=dataclasses.replace(run.profile.gru, hidden=999))
    with pytest.raises(StaleRecord, match=r"recorded with gru = .*'hidden': 24.*'hidden': 999.*--profile sample --fresh 02"):
        records.check_config(json.loads((run.folder / "texts/gru.json").read_text()), changed, "... --profile sample --fresh 02")
    records.check_config(json.loads((run.folder / "texts/gru.json").read_text()), run.profile, "")
    about = json.loads((run.folder / "texts/gru.json").read_text())
    about["config"]["gru"]["hidden"] = 25
    (run.folder / "texts/gru.json").write_text(json.dumps(about))
    with pytest.raises(StaleRecord):
        run.load("texts/gru")
    with pytest.raises(StaleRecord):
        run.step("texts/gru", make, uses=("gru",))
    # another system's configuration is not this record's business
    run.step("faces/cnn", make, uses=("cnn",))
    records.check_config(json.loads((run.folder / "faces/cnn.json").read_text()), changed, "")


def test_swapped_or_missing_arrays_fail_loudly(run):
    run.step("texts/gru", make)
    store.write_arrays(run.folder / "texts" / "gru.safetensors", {"probs": np.ones(3)})
    with pytest.raises(StaleRecord, match="not the file that its JSON vouches for"):
        run.load("texts/gru")


def test_a_missing_record_names_its_notebook(run):
    with pytest.raises(MissingRecord, match=r"texts/gru \(profile sample\) is made by 02_baselines; .* --profile sample 02"):
        run.load("texts/gru")
    with pytest.raises(MissingRecord, match="no other profile has a record"):
        run.load("texts/no-such-system")


def test_predictions_refuse_nonsense():
    made = make()
    with pytest.raises(ValueError, match="misses a sum of 1"):
        dataclasses.replace(made, probs=made.probs * 1.1)
    with pytest.raises(ValueError, match="wanted"):
        dataclasses.replace(made, probs=made.probs[0])
    with pytest.raises(ValueError, match="Training items"):
        dataclasses.replace(made, split=np.array(["train"] * 6))
    assert made.validation.ids.tolist() == [100, 101, 102] and made.test.ids.tolist() == [103, 104, 105]
    assert np.allclose(made.posterior, made.probs.mean(0))


def test_a_kill_in_mid_write_leaves_no_broken_file(tmp_path):
    """A process is killed inside the write; the old file is whole, and a new run can write again."""
    target = tmp_path / "record.safetensors"
    store.write_arrays(target, {"x": np.arange(3)})
    code = f"""
        import os, signal
        from pathlib import Path
        from emolib import store
        with store.atomic(Path({str(target)!r})) as temporary:
            temporary.write_bytes(b"half a file")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert store.read_arrays(target)["x"].tolist() == [0, 1, 2]
    store.write_arrays(target, {"x": np.arange(4)}, {"note": 1})
    assert store.read_arrays(target)["x"].tolist() == [0, 1, 2, 3] and store.read_note(target) == {"note": 1}


def test_an_error_in_mid_write_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError), store.atomic(tmp_path / "new") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_publishing_replaces_the_notebooks_records_only(run, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RECORDS", tmp_path / "shown")
    old = tmp_path / "shown" / "sample"
    run.step("texts/gru", make)
    records.publish(run.profile, ["02_baselines"])
    (old / "texts" / "gone.json").write_text(json.dumps({"notebook": "02_baselines"}))
    (old / "texts" / "kept.json").write_text(json.dumps({"notebook": "04_clip_fine_tuning"}))
    records.publish(run.profile, ["02_baselines"])
    assert records.names(old) == ["texts/gru", "texts/kept"]


# The records that are committed.

COMMITTED = [(p, name) for p in PROFILES if (records.RECORDS / p).is_dir() for name in records.names(records.RECORDS / p)]
PUBLISHED = profiles.get("published")


def shown(profile):
    return dataclasses.replace(PUBLISHED, replays=profile)


def test_there_are_committed_records():
    assert {p for p, _ in COMMITTED} >= {PUBLISHED.replays, "sample"}


@pytest.mark.parametrize(("profile", "name"), COMMITTED)
def test_committed_record_is_current_and_whole(profile, name):
    record = records.read(name, shown(profile))  # checks configuration and checksum, and that rows sum to 1
    about = json.loads((records.RECORDS / profile / f"{name}.json").read_text())
    assert about["profile"] == profile and about["name"] == name
    if isinstance(record, Predictions):
        assert len(set(record.ids)) == len(record.ids), "an item occurs twice, or in two splits"
        assert record.probs.dtype == np.float32
        if name.startswith(("texts/", "faces/")):
            audit = records.read(f"{name.split('/')[0]}/audit", shown(profile))
            assert np.array_equal(record.ids, audit.arrays["ids"]), "other items than the audit's"


@pytest.mark.parametrize("profile", sorted({p for p, _ in COMMITTED}))
@pytest.mark.parametrize("kind", ["texts/", "faces/", "pairs/", "genuine/", "genuine-masked/"])
def test_systems_of_a_set_saw_the_same_data(profile, kind):
    found = {}
    for name in records.names(records.RECORDS / profile):
        record = records.read(name, shown(profile))
        if name.startswith(kind) and isinstance(record, Predictions) and not name.endswith("-unclean"):
            found[name] = (record.fingerprint, record.labels.tobytes(), record.ids.tobytes())
    assert len(set(found.values())) == 1, {name: value[0][:12] for name, value in found.items()}


@pytest.mark.parametrize("profile", sorted({p for p, _ in COMMITTED}))
def test_dual_encoders_of_a_profile_are_one(profile):
    abouts = [
        json.loads((records.RECORDS / profile / f"{name}.json").read_text()) for name in records.names(records.RECORDS / profile)
    ]
    used = {about["notes"]["encoder"]["fingerprint"] for about in abouts if "encoder" in about["notes"]}
    assert len(used) == 1


# What stands in the braces of a step's name.
WAYS = "(?:linear|full|flyp|lora|lpft)"
BRACES = {
    "kind": "(?:faces|texts|pairs)", "way": WAYS, "best": WAYS, "w": WAYS, "side": "(?:face|text)",
    "where": "(?:genuine|genuine-masked)", "network": f"(?:{'|'.join(fusion.KINDS)})",
}  # fmt: skip


@pytest.mark.parametrize("profile", sorted({p for p, _ in COMMITTED}))
def test_every_record_is_named_by_a_notebook_and_every_name_has_a_record(profile):
    named = set()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        source = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code")
        for helper, kind in (("text_step", "texts"), ("face_step", "faces")):
            named |= {f"{kind}/{name}" for name in re.findall(rf'{helper}\("([\w-]+)"', source)}
        for name in re.findall(r'run\.(?:step|load)\(\s*f?"([\w/{}-]+)"', source):
            if "{name}" not in name and "{key}" not in name:  # helpers of notebook 2, read above; loads that steps name too
                named.add(re.sub(r"{(\w+)}", lambda found: BRACES[found[1]], name))
    made = records.names(records.RECORDS / profile)
    assert [name for name in made if not any(re.fullmatch(pattern, name) for pattern in named)] == []
    assert [pattern for pattern in named if not any(re.fullmatch(pattern, name) for name in made)] == []


def test_records_are_small_and_hold_no_text():
    files = [p for p in records.RECORDS.rglob("*") if p.is_file()]
    for profile in records.RECORDS.iterdir():
        assert sum(p.stat().st_size for p in profile.rglob("*") if p.is_file()) < 15e6, profile
    assert {p.suffix for p in files} == {".json", ".safetensors"}


def rewrite(name, *, about=None, arrays=None):
    """Change a copy of a committed record, checksum and all, as code that went wrong would have written it."""
    path = records.RECORDS / "sample" / name
    stored = json.loads(path.with_suffix(".json").read_text())
    if arrays:
        found = store.read_arrays(path.with_suffix(".safetensors"))
        arrays(found)
        store.write_arrays(path.with_suffix(".safetensors"), found)
        stored["sha256"] = hashlib.sha256(path.with_suffix(".safetensors").read_bytes()).hexdigest()
    if about:
        about(stored)
    path.with_suffix(".json").write_text(json.dumps(stored))


def current():
    test_committed_record_is_current_and_whole("sample", "faces/cnn")


def same_data():
    test_systems_of_a_set_saw_the_same_data("sample", "faces/")


def all_named():
    test_every_record_is_named_by_a_notebook_and_every_name_has_a_record("sample")


def orphan():
    for suffix in (".json", ".safetensors"):
        folder = records.RECORDS / "sample" / "faces"
        shutil.copy(folder / f"cnn{suffix}", folder / f"cnn-old{suffix}")


BREAKAGES = {
    "another configuration": (current, lambda: rewrite("faces/cnn", about=lambda a: a["config"]["cnn"].update(stem=99))),
    "another notebook's profile": (current, lambda: rewrite("faces/cnn", about=lambda a: a.update(profile="mini"))),
    "a checksum that does not fit": (current, lambda: rewrite("faces/cnn", about=lambda a: a.update(sha256="0" * 64))),
    "rows that miss one": (current, lambda: rewrite("faces/cnn", arrays=lambda a: a["probs"].__imul__(0.9))),
    "an item twice": (current, lambda: rewrite("faces/cnn", arrays=lambda a: a["ids"].__setitem__(-1, a["ids"][0]))),
    "items of Training": (current, lambda: rewrite("faces/cnn", arrays=lambda a: a["split"].__imul__(0))),
    "other data": (same_data, lambda: rewrite("faces/cnn", about=lambda a: a["data"].update(fingerprint="f"))),
    "other labels": (same_data, lambda: rewrite("faces/cnn", arrays=lambda a: a.update(labels=a["labels"][::-1]))),
    "another encoder": (
        lambda: test_dual_encoders_of_a_profile_are_one("sample"),
        lambda: rewrite("faces/clip-zero-shot", about=lambda a: a["notes"]["encoder"].update(fingerprint="f")),
    ),
    "a record that no notebook names": (all_named, orphan),
    "a record that is gone": (all_named, lambda: (records.RECORDS / "sample" / "faces" / "cnn.json").unlink()),
}


@pytest.mark.parametrize("what", BREAKAGES)
def test_each_guard_fails_on_a_broken_copy(what, tmp_path, monkeypatch):
    guard, damage = BREAKAGES[what]
    shutil.copytree(records.RECORDS / "sample", tmp_path / "sample")
    monkeypatch.setattr(records, "RECORDS", tmp_path)
    guard()
    damage()
    with pytest.raises((AssertionError, ValueError)):
        guard()
