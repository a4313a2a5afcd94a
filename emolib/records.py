"""Predictions are records: each expensive step is computed once, stored with its provenance, and replayed by readers.

Needs no torch. Features are a cache, predictions are a result: never silently recomputed, never silently replaced.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np

from emolib import profiles, store
from emolib.items import Items, held_out_rows, split_names
from emolib.labels import SPLITS
from emolib.profiles import ROOT, Profile

RECORDS = ROOT / "data" / "records"


class MissingRecord(FileNotFoundError):
    """A step's record that is not there: says which notebook makes it and with which command."""


class StaleRecord(ValueError):
    """A record made with another configuration, or damaged: says what differs and how to make it anew."""


@dataclass(frozen=True)
class Predictions:
    """What a system says about validation and test items.

    split: (N,) "validation" or "test". ids, labels: (N,) int. probs: (S, N, K) float32, S seeds, rows sum to 1.
    fingerprint, source: of the data. notes: JSON values (curves, seconds). arrays: what figures need beyond probs.
    """

    split: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    probs: np.ndarray
    classes: tuple[str, ...]
    fingerprint: str
    source: str
    notes: dict = field(default_factory=dict)
    arrays: dict = field(default_factory=dict)

    def __post_init__(self):
        n, k = len(self.ids), len(self.classes)
        if self.probs.ndim != 3 or self.probs.shape[1:] != (n, k):
            raise ValueError(f"probs have shape {self.probs.shape}, wanted (seeds, {n}, {k})")
        if n and (worst := np.abs(self.probs.sum(2, dtype=np.float64) - 1).max()) > 1e-4:
            raise ValueError(f"a row of probs misses a sum of 1 by {worst:.2g}, allowed is 1e-4")
        if "train" in self.split:
            raise ValueError("predictions hold Training items; wanted validation and test only")

    def rows(self, mask: np.ndarray) -> Predictions:
        """The items of a mask or of indices."""
        return replace(self, split=self.split[mask], ids=self.ids[mask], labels=self.labels[mask], probs=self.probs[:, mask])

    @property
    def validation(self) -> Predictions:
        """The items on which choices are made."""
        return self.rows(self.split == "validation")

    @property
    def test(self) -> Predictions:
        """The items on which results are reported."""
        return self.rows(self.split == "test")

    @property
    def posterior(self) -> np.ndarray:
        """(N, K) float64: the mean over seeds."""
        return self.probs.mean(0, dtype=np.float64)


@dataclass(frozen=True)
class Facts:
    """What a step found out that is not a prediction: counts (`notes`, JSON values) and `arrays`."""

    fingerprint: str
    source: str
    notes: dict = field(default_factory=dict)
    arrays: dict = field(default_factory=dict)


def predictions(data: Items, probs: np.ndarray, notes: dict | None = None, arrays: dict | None = None) -> Predictions:
    """Predictions for the validation items of `data`, then its test items: probs (S, N, K) in that order."""
    held_out = held_out_rows(data)
    return Predictions(
        data.split[held_out], data.ids[held_out], data.labels[held_out], probs.astype(np.float32), data.classes,
        data.fingerprint, data.source, notes or {}, arrays or {},
    )  # fmt: skip


def facts(data: Items, notes: dict, arrays: dict | None = None) -> Facts:
    """Facts about a data set."""
    return Facts(data.fingerprint, data.source, notes, arrays or {})


def start(notebook: str, profile: str) -> Run:
    """Begin a notebook: prints one line that says which data and which profile its numbers come from."""
    run = Run(notebook, profiles.get(profile))
    code()
    from IPython.display import Markdown, display

    shown = profiles.get(run.profile.replays or profile)
    how = f"computed here, profile `{profile}`"
    if run.profile.replays:
        how = f"replayed from the records of profile `{shown.name}`{recorded(run)}"
    says = shown.says if notebook < "03" else f"{shown.says} {shown.clip.says}"
    display(Markdown(f"**Numbers on this page:** {how}. {says}"))
    return run


def recorded(run: Run) -> str:
    """When, on what and by which code the records of a notebook were made."""
    abouts = [json.loads((run.folder / f"{name}.json").read_text(encoding="utf8")) for name in names(run.folder)]
    made = [about["made"] for about in abouts if about["notebook"] == run.notebook]
    if not made:
        return ""
    parts = [", ".join(sorted({m[key] for m in made})) for key in ("date", "device", "commit")]
    return f" (made {parts[0]} on {parts[1]}, code {parts[2]})"


@dataclass(frozen=True)
class Run:
    """One notebook under one profile."""

    notebook: str
    profile: Profile

    @property
    def folder(self) -> Path:
        """Where this run's records lie."""
        return folder(self.profile)

    def step(self, name: str, compute: Callable[[], Predictions | Facts], *, uses: tuple[str, ...] = ()):
        """The step's result: replayed from its record, or computed and recorded. What is returned is what was stored.

        uses: the profile's fields that the result depends on; they are stored, and compared at each reading.
        """
        if self.profile.replays or (self.folder / f"{name}.json").exists():
            result = read(name, self.profile)
            if not self.profile.replays:
                print(f"{name}: from {self.folder}; --fresh computes it anew", file=sys.stderr)
            return result
        started = time.monotonic()
        result = compute()
        write(name, result, self, uses, time.monotonic() - started)
        # From here on the record is the result; a checkpoint left behind would let a later run skip the training.
        shutil.rmtree(profiles.out_folder(self.profile) / "checkpoints" / name, ignore_errors=True)
        return read(name, self.profile)

    def load(self, name: str) -> Predictions | Facts:
        """An earlier notebook's record; MissingRecord names that notebook."""
        return read(name, self.profile)


def folder(profile: Profile) -> Path:
    """Records that are shown lie in data/records/<profile>; those of a run under way in its output folder."""
    return RECORDS / profile.replays if profile.replays else profiles.out_folder(profile) / "records"


def write(name: str, result: Predictions | Facts, run: Run, uses: tuple[str, ...], seconds: float) -> None:
    """Store arrays, then the JSON that vouches for them by checksum; a kill in between leaves no record."""
    path = run.folder / name
    arrays = {f"extra.{k}": v for k, v in result.arrays.items()}
    about = {"kind": "facts"}
    if isinstance(result, Predictions):
        numbers = np.array([SPLITS.index(s) for s in result.split], dtype=np.int8)
        arrays |= {
            "split": numbers, "ids": result.ids.astype(np.int32), "labels": result.labels.astype(np.int8),
            "probs": result.probs.astype(np.float32),
        }  # fmt: skip
        about = {"kind": "predictions", "classes": list(result.classes)}
    arrays = arrays or {"extra.none": np.zeros(0, np.int8)}
    path.with_suffix(".json").unlink(missing_ok=True)
    store.write_arrays(path.with_suffix(".safetensors"), arrays)
    about |= {
        "name": name,
        "notebook": run.notebook,
        "profile": run.profile.name,
        "config": run.profile.section("precision", "data", *uses),
        "data": {"source": result.source, "fingerprint": result.fingerprint},
        "notes": result.notes,
        "made": provenance() | {"seconds": round(seconds, 1)},
        "sha256": hashlib.sha256(path.with_suffix(".safetensors").read_bytes()).hexdigest(),
    }
    store.write_text(path.with_suffix(".json"), json.dumps(about, indent=1) + "\n")


def read(name: str, profile: Profile) -> Predictions | Facts:
    """A record, checked: it exists, its arrays are the ones vouched for, its configuration is the profile's."""
    path = folder(profile) / name
    if not path.with_suffix(".json").exists():
        raise MissingRecord(missing(name, profile))
    about = json.loads(path.with_suffix(".json").read_text(encoding="utf8"))
    again = f"python -m emolib run --profile {about['profile']} --fresh {about['notebook'][:2]}"
    data = path.with_suffix(".safetensors")
    if not data.exists() or hashlib.sha256(data.read_bytes()).hexdigest() != about["sha256"]:
        raise StaleRecord(f"{data} is missing or not the file that its JSON vouches for; make it anew: {again}")
    check_config(about, profiles.get(profile.replays or profile.name), again)
    arrays = store.read_arrays(data)
    extra = {k.removeprefix("extra."): v for k, v in arrays.items() if k.startswith("extra.") and k != "extra.none"}
    origin = about["data"]
    if about["kind"] == "facts":
        return Facts(origin["fingerprint"], origin["source"], about["notes"], extra)
    return Predictions(
        split_names(arrays["split"]), arrays["ids"].astype(int), arrays["labels"].astype(int), arrays["probs"],
        tuple(about["classes"]), origin["fingerprint"], origin["source"], about["notes"], extra,
    )  # fmt: skip


def check_config(about: dict, profile: Profile, again: str) -> None:
    """StaleRecord if the record was made with another configuration than the profile has now."""
    stored = about["config"]
    unknown = [key for key in stored if not hasattr(profile, key)]
    now = profile.section(*[key for key in stored if key not in unknown])
    for key in stored:
        if key in unknown or stored[key] != now[key]:
            raise StaleRecord(
                f"{about['name']} (profile {profile.name}) was recorded with {key} = {stored[key]}, "
                f"the profile now says {now.get(key, 'nothing of that name')}; make it anew: {again}"
            )


def missing(name: str, profile: Profile) -> str:
    """The sentence for a record that is not there."""
    known = sorted(RECORDS.glob(f"*/{name}.json"))
    maker = json.loads(known[0].read_text(encoding="utf8"))["notebook"] if known else None
    shown = profile.replays or profile.name
    if maker is None:
        return f"{name} (profile {shown}) is not recorded, and no other profile has a record of that name"
    return f"{name} (profile {shown}) is made by {maker}; run: python -m emolib run --profile {shown} {maker[:2]}"


def names(where: Path) -> list[str]:
    """The records of a folder, by name."""
    return sorted(str(path.relative_to(where).with_suffix("")) for path in where.glob("*/*.json"))


def remove(where: Path, notebooks: list[str]) -> None:
    """Delete the records of a folder that the given notebooks made."""
    for name in names(where):
        if json.loads((where / f"{name}.json").read_text(encoding="utf8"))["notebook"] in notebooks:
            (where / f"{name}.json").unlink()
            (where / f"{name}.safetensors").unlink(missing_ok=True)


def publish(profile: Profile, notebooks: list[str]) -> Path:
    """Copy a finished run's records of these notebooks to data/records/<profile>, in place of the older ones."""
    target = RECORDS / profile.name
    remove(target, notebooks)
    for name in names(folder(profile)):
        about = json.loads((folder(profile) / f"{name}.json").read_text(encoding="utf8"))
        if about["notebook"] in notebooks:
            for suffix in (".safetensors", ".json"):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder(profile) / f"{name}{suffix}", target / f"{name}{suffix}")
    return target


@cache
def code() -> dict:
    """The commit that a process began with, and how many files differed from it then; later commits are not its code."""
    changed = _git("status", "--porcelain", "--untracked-files=no", "emolib", "notebooks").splitlines()
    return {"commit": _git("rev-parse", "--short=12", "HEAD") or "unknown", "changed_files": len(changed)}


def provenance() -> dict:
    """Code, versions, machine and date of a computation."""
    torch = sys.modules.get("torch")
    packages = ("numpy", "scikit-learn", "torch", "transformers", "accelerate")
    return code() | {
        "versions": {"python": platform.python_version()} | {p: metadata.version(p) for p in packages},
        "device": torch.cuda.get_device_name(0) if torch and torch.cuda.is_available() else f"CPU, {platform.machine()}",
        "threads": torch.get_num_threads() if torch else 1,
        "date": datetime.date.today().isoformat(),
    }


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()
