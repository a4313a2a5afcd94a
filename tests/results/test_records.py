"""Records: what is stored is what is read; nothing stale, half-written or orphaned is ever shown."""

import dataclasses
import functools
import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import textwrap

import nbformat
import numpy as np
import pytest

from emolib import profiles, store
from emolib.data.dataset import Dataset
from emolib.data.labels import METHODS, WAYS
from emolib.models import fusion
from emolib.profiles import PROFILES, ROOT, Fit, Recurrent, Search, Work
from emolib.results import records
from emolib.results.predictions import Facts, Predictions
from emolib.results.records import MissingRecord, Run, StaleRecord

FIT = Fit(epochs=1, batch_size=2, learning_rate=0.1)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("EMOLIB_OUT", str(tmp_path))
    return Run("02_baselines", profiles.get("sample"))


@dataclasses.dataclass(frozen=True)
class Encoder:
    """What records know of a dual encoder."""

    fingerprint: str
    name: str = "clip-x"
    size: int = 48


def data(label=0):
    return Dataset(
        np.arange(2), np.array([label, 1]), np.array(["train", "test"]), ("a", "b"), "made", texts=np.array(["x", "y"])
    )


def replaying(run):
    """The same run as a reader replays it."""
    return dataclasses.replace(run, replays=True)


def test_what_is_stored_is_what_is_read(run, make):
    made = make(n=6, validation=3, notes={"curve": [1, 2]}, arrays={"map": np.eye(2)})
    read = run.step("texts/gru", lambda config: made, FIT)
    for name in ("split", "ids", "labels", "probs"):
        assert np.array_equal(getattr(read, name), getattr(made, name)), name
    assert read.classes == made.classes and read.notes == made.notes and np.array_equal(read.arrays["map"], np.eye(2))
    assert np.array_equal(run.load("texts/gru").probs, made.probs)
    about = json.loads((run.folder / "texts" / "gru.json").read_text())
    assert about["config"]["config"] == dataclasses.asdict(FIT) and about["profile"] == "sample"
    assert {"commit", "versions", "device", "date", "seconds"} <= set(about["made"])
    found = run.step("texts/audit", lambda items: ({"n": 3}, {}), data())
    assert (found.notes, found.arrays, found.fingerprint) == ({"n": 3}, {}, data().fingerprint)


def test_a_step_is_computed_once_with_the_profiles_work_and_leaves_no_checkpoint(run, make, tmp_path):
    def fit(config, *, work=None):
        assert work == Work("float64", 1, tmp_path, "texts/gru")
        store.write_arrays(work.checkpoint(0), {"x": np.ones(1)})
        return make()

    run.step("texts/gru", fit, FIT)
    assert not (tmp_path / "checkpoints" / "texts" / "gru").exists()
    run.step("texts/gru", lambda config: pytest.fail("computed again"), FIT)
    assert run.prepare(data).source == "made" and replaying(run).prepare(data) is None


def test_further_seeds_are_trained_alone_and_join_the_record(run, make):
    """Only where the seeds alone differ, the first are the same and each has its own posterior; else it is stale as ever."""
    asked = []

    def train(config, *, work=None, arrays=None):
        asked.append(config.seeds)
        each = [{"seed": seed} for seed in config.seeds]
        probs = np.concatenate([make(seed=seed).probs[:1] for seed in config.seeds])
        return dataclasses.replace(make(), probs=probs, notes={"history": each, "runs": each}, arrays=arrays or {})

    config = Recurrent(FIT, seeds=(0, 1))
    first = run.step("texts/gru", train, config)
    found = run.step("texts/gru", train, wider := dataclasses.replace(config, seeds=(0, 1, 2)))
    assert asked == [(0, 1), (2,)] and [note["seed"] for note in found.notes["runs"]] == [0, 1, 2]
    assert np.array_equal(found.probs[:2], first.probs) and np.array_equal(found.probs[2], make(seed=2).probs[0])
    about = json.loads((run.folder / "texts" / "gru.json").read_text())
    assert about["config"]["config"]["seeds"] == [0, 1, 2] and about["made"]["before"]["commit"] == records.code()["commit"]
    assert len(run.step("texts/gru", train, wider).probs) == 3 and len(asked) == 2
    widest = dataclasses.replace(config, seeds=(0, 1, 2, 3, 4))
    assert len(run.step("texts/gru", train, widest).probs) == 5 and asked[2:] == [(3, 4)]
    path = run.folder / "texts" / "gru.json"
    about = json.loads(path.read_text())
    about["made"]["before"]["before"]["date"] = "2001-01-01"
    path.write_text(json.dumps(about))
    assert "made 2001-01-01 to " in records.recorded(run), "the first part of a record that was extended twice is told"
    for other in (
        config,
        dataclasses.replace(config, seeds=(1, 2, 3)),
        dataclasses.replace(widest, seeds=(0, 1, 2, 3, 4, 5), hidden=9),
    ):
        with pytest.raises(StaleRecord, match="texts/gru"):
            run.step("texts/gru", train, other)
    run.step("texts/search", lambda config: Facts("f", "made", {"rate": 1}), config)
    assert run.step("texts/search", lambda config: pytest.fail("searched again"), wider).notes == {"rate": 1}
    with pytest.raises(StaleRecord, match="texts/search"):
        run.step("texts/search", train, dataclasses.replace(config, seeds=(1,)))
    run.step("texts/lstm", functools.partial(train, arrays={"map": np.eye(2)}), config)
    with pytest.raises(StaleRecord, match="texts/lstm"):
        run.step("texts/lstm", train, wider)
    with pytest.raises(ValueError, match="only be joined on the same items"):
        make().joined(make(n=6))


def test_a_setting_that_came_later_makes_only_records_with_another_value_stale(run, make):
    """A record without it was made with the value that need not be said; every other value is."""
    search = records.summary(Search(rows=60))
    assert search["beyond"] == 2 and "beyond" not in (older := records.summary(Search(rows=60, beyond=0)))
    assert older == {"factors": [1 / 3, 1, 3], "epochs": 2, "rows": 60}
    run.step("texts/gru", lambda grid: make(n=6), Search(rows=60, beyond=0))
    with pytest.raises(StaleRecord, match="'beyond': 2"):
        run.step("texts/gru", lambda grid: make(n=6), Search(rows=60))


def test_a_changed_configuration_fails_loudly(run, make):
    earlier, prompts = make(), [["a prompt"] * 500]

    def step(encoder, items, config, before, sentences):
        return make()

    given = [Encoder("one"), data(), FIT, earlier, prompts]
    run.step("texts/gru", step, *given)
    changes = (Encoder("two"), data(1), dataclasses.replace(FIT, epochs=2), make(seed=1), [["another"] * 500])
    for i, (changed, name) in enumerate(zip(changes, ("encoder", "items", "config", "before", "sentences"), strict=True)):
        for mode in (run, dataclasses.replace(run, replays=True)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(records, "RECORDS", run.folder.parent / "shown")
                shutil.copytree(run.folder, records.RECORDS / "sample", dirs_exist_ok=True)
                wrong = [*given[:i], changed, *given[i + 1 :]]
                again = "--fresh --record 02" if mode.replays else "--fresh 02"
                with pytest.raises(StaleRecord, match=rf"recorded with {name} = .* wanted .*--profile sample {again}"):
                    mode.step("texts/gru", step, *wrong)
                blind = [None if isinstance(a, Encoder | Dataset) else a for a in given]
                if mode.replays:
                    mode.step("texts/gru", step, *blind)
                else:  # a run that computes knows what it computes with
                    with pytest.raises(StaleRecord):
                        mode.step("texts/gru", step, *blind)


def test_swapped_or_missing_arrays_and_records_fail_loudly(run, make):
    with pytest.raises(MissingRecord, match=r"texts/gru \(profile sample\) is made by 02_baselines; .* --profile sample 02"):
        run.load("texts/gru")
    with pytest.raises(MissingRecord, match="no other profile has a record"):
        run.load("texts/no-such-system")
    run.step("texts/gru", make)
    store.write_arrays(run.folder / "texts" / "gru.safetensors", {"probs": np.ones(3)})
    with pytest.raises(StaleRecord, match="not the file that its JSON vouches for"):
        run.load("texts/gru")


def test_a_kill_or_an_error_in_mid_write_leaves_no_broken_file(tmp_path):
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
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL and store.read_arrays(target)["x"].tolist() == [0, 1, 2]
    store.write_arrays(target, {"x": np.arange(4)}, {"note": 1})
    assert store.read_arrays(target)["x"].tolist() == [0, 1, 2, 3] and store.read_note(target) == {"note": 1}
    with pytest.raises(RuntimeError), store.atomic(tmp_path / "new" / "file") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list((tmp_path / "new").iterdir()) == []


def test_publishing_replaces_the_notebooks_records_only(run, make, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RECORDS", tmp_path / "shown")
    old = tmp_path / "shown" / "sample"
    run.step("texts/gru", make)
    records.publish(run.profile, ["02_baselines"])
    (old / "texts" / "gone.json").write_text(json.dumps({"notebook": "02_baselines"}))
    (old / "texts" / "kept.json").write_text(json.dumps({"notebook": "04_clip_fine_tuning"}))
    records.publish(run.profile, ["02_baselines"])
    assert records.names(old) == ["texts/gru", "texts/kept"]


def test_the_head_of_a_page_names_the_encoder_of_its_records(run, make, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RECORDS", tmp_path / "shown")
    monkeypatch.delenv("EMOLIB_CLIP", raising=False)
    here = dataclasses.replace(run, notebook="03_clip", profile=profiles.get("mini"))
    assert records.encoder_said(here) == here.profile.clip.says
    monkeypatch.setenv("EMOLIB_CLIP", "some/other@1")
    assert records.encoder_said(here) == "Its encoder is some/other@1."
    monkeypatch.delenv("EMOLIB_CLIP")
    here.step("faces/a", lambda encoder: make(), Encoder("one"))
    records.publish(here.profile, ["03_clip"])
    assert records.encoder_said(replaying(here)) == "Its encoder is clip-x."
    monkeypatch.setenv("EMOLIB_CLIP", "some/other")
    with pytest.raises(StaleRecord, match=r"EMOLIB_CLIP names some/other, .* records of clip-x; .*--profile mini 03"):
        records.encoder_said(replaying(here))
    here.step("faces/b", lambda encoder: make(), Encoder("two"))
    records.publish(here.profile, ["03_clip"])
    with pytest.raises(StaleRecord, match="several encoders"):
        records.encoder_said(replaying(here))


# The records that are committed.

COMMITTED = [(p, name) for p in PROFILES if (records.RECORDS / p).is_dir() for name in records.names(records.RECORDS / p)]
WITH_RECORDS = sorted({p for p, _ in COMMITTED})


def committed(profile):
    return Run("test", profiles.get(profile), replays=True)


def test_there_are_committed_records():
    assert set(WITH_RECORDS) >= {profiles.get("published").replays, "sample"}


@pytest.mark.parametrize(("profile", "name"), COMMITTED)
def test_committed_record_is_whole(profile, name):
    record, about = committed(profile).load(name), records.read_about(committed(profile), name)
    assert about["profile"] == profile and about["name"] == name
    if isinstance(record, Predictions):
        assert len(set(record.ids)) == len(record.ids), "an item occurs twice, or in two splits"
        if name.startswith(("texts/", "faces/")):
            audit = committed(profile).load(f"{name.split('/')[0]}/audit")
            assert np.array_equal(record.ids, audit.arrays["ids"]), "other items than the audit's"


@pytest.mark.parametrize("profile", WITH_RECORDS)
@pytest.mark.parametrize("kind", ["texts/", "faces/", "pairs/", "genuine/", "genuine-masked/", "own/image-", "own/text-"])
def test_systems_of_a_set_saw_the_same_data(profile, kind):
    found, whole = {}, {}
    for name in records.names(records.RECORDS / profile):
        record = committed(profile).load(name)
        if name.startswith(kind) and isinstance(record, Predictions):
            found[name] = (record.labels.tobytes(), record.ids.tobytes())
            part = name.endswith(("-unclean", "-only")) or (name.startswith("genuine") and name.endswith("-tuned"))
            whole |= {} if part else {name: record.fingerprint}  # others have fewer columns, or more Training rows
    assert len(set(found.values())) <= 1 and len(set(whole.values())) <= 1, whole


@pytest.mark.parametrize("profile", WITH_RECORDS)
def test_dual_encoders_of_a_profile_are_one(profile):
    abouts = [records.read_about(committed(profile), name) for name in records.names(records.RECORDS / profile)]
    assert len({json.dumps(e) for e in (about["config"].get("encoder") for about in abouts) if e}) == 1


# What stands in the braces of a step's name; in other braces any word.
BRACES = {
    "kind": f"(?:faces|texts|pairs|tuned|image-tuned|text-tuned|{'|'.join(fusion.KINDS)})",
    "name": "(?:genuine|genuine-masked)",
    "way": f"(?:{'|'.join(WAYS)})",
}  # fmt: skip
NAME = re.compile(r'f?"((?:faces|texts|pairs|genuine|genuine-masked|generality|own|{\w+})/[\w{}-]+)"')


@pytest.mark.parametrize("profile", WITH_RECORDS)
def test_every_record_is_named_by_a_notebook_and_every_name_has_a_record(profile):
    named = set()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        source = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code")
        for name in NAME.findall(source):
            named.add(re.sub(r"{(\w+)}", lambda found: BRACES.get(found[1], r"[\w-]+"), name))
    made = records.names(records.RECORDS / profile)
    assert [name for name in made if not any(re.fullmatch(pattern, name) for pattern in named)] == []
    named = {name for name in named if not name.endswith("-checked")}  # of OpenAI's encoder alone
    if not profiles.get(profile).clip.image_size:
        named -= {"generality/own-size"}
    if not any(getattr(profiles.get(profile), method).kept[1:] for method in METHODS):
        named = {name for name in named if "-seed-" not in name}
    assert [pattern for pattern in named if not any(re.fullmatch(pattern, name) for name in made)] == []


def test_records_are_small_and_hold_no_text():
    for profile in records.RECORDS.iterdir():
        files = [p for p in profile.rglob("*") if p.is_file()]  # of mini two thirds are ten seeds of the fusion networks
        assert sum(p.stat().st_size for p in files) < 35e6 and {p.suffix for p in files} == {".json", ".safetensors"}, profile


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


def whole():
    test_committed_record_is_whole("sample", "faces/cnn")


def same_data():
    test_systems_of_a_set_saw_the_same_data("sample", "faces/")


def all_named():
    test_every_record_is_named_by_a_notebook_and_every_name_has_a_record("sample")


def orphan():
    for suffix in (".json", ".safetensors"):
        shutil.copy(records.RECORDS / "sample" / f"faces/cnn{suffix}", records.RECORDS / "sample" / f"faces/cnn-old{suffix}")


BREAKAGES = {
    "another profile": (whole, lambda: rewrite("faces/cnn", about=lambda a: a.update(profile="mini"))),
    "a checksum that does not fit": (whole, lambda: rewrite("faces/cnn", about=lambda a: a.update(sha256="0" * 64))),
    "rows that miss one": (whole, lambda: rewrite("faces/cnn", arrays=lambda a: a["probs"].__imul__(0.9))),
    "an item twice": (whole, lambda: rewrite("faces/cnn", arrays=lambda a: a["ids"].__setitem__(-1, a["ids"][0]))),
    "items of Training": (whole, lambda: rewrite("faces/cnn", arrays=lambda a: a["split"].__imul__(0))),
    "other data": (same_data, lambda: rewrite("faces/cnn", about=lambda a: a["data"].update(fingerprint="f"))),
    "other labels": (same_data, lambda: rewrite("faces/cnn", arrays=lambda a: a.update(labels=a["labels"][::-1]))),
    "another encoder": (
        lambda: test_dual_encoders_of_a_profile_are_one("sample"),
        lambda: rewrite("faces/clip-zero-shot", about=lambda a: a["config"]["encoder"].update(fingerprint="f")),
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
