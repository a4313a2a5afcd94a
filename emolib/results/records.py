"""Predictions are records: each expensive step is computed once, stored with its provenance, and replayed by readers.

Needs no torch. Features are a cache, predictions are a result: never silently recomputed, never silently replaced.
"""

from __future__ import annotations

import datetime
import hashlib
import inspect
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from emolib import profiles, store
from emolib.data.dataset import Dataset
from emolib.data.labels import SPLITS
from emolib.profiles import ROOT, Profile
from emolib.results.predictions import Facts, Predictions, Result, facts

RECORDS = ROOT / "data" / "records"
PLAIN = str | int | float | bool | None


class MissingRecord(FileNotFoundError):
    """A step's record that is not there: says which notebook makes it and with which command."""


class StaleRecord(ValueError):
    """A record made with another configuration, encoder or data, or damaged: says what differs and how to make it anew."""


@dataclass(frozen=True)
class Run:
    """One notebook under one profile.

    profile: whose settings and numbers are shown. replays: whether they come from the committed records.
    """

    notebook: str
    profile: Profile
    replays: bool = False

    @property
    def folder(self) -> Path:
        """Records that are shown lie in data/records/<profile>; those of a run under way in its output folder."""
        return RECORDS / self.profile.name if self.replays else profiles.out_folder(self.profile) / "records"

    def prepare(self, function: Callable, *arguments) -> Any:
        """What only a computing run needs (data, an encoder): function(*arguments); None where records are replayed."""
        return None if self.replays else function(*arguments)

    def step(self, name: str, function: Callable, *arguments) -> Result:
        """The step's result: replayed from its record, or computed, recorded and read back.

        The record's configuration is what is passed: settings, and the fingerprints of data sets, encoders and earlier
        results. It is compared at each reading; arguments that a replaying run has as None are not known and not compared.
        A function with a parameter `work` gets the profile's. One that returns (notes, arrays) makes `Facts` about the
        first data set among its arguments. Where a record has but the first of the seeds that are asked for, only the others
        are trained, and both made one record.
        """
        config, earlier = describe(function, arguments), None
        if begun := self.begun(name, config):
            earlier, seeds = begun
            arguments = [replace(a, seeds=seeds) if hasattr(a, "seeds") else a for a in arguments]
        elif self.replays or (self.folder / f"{name}.json").exists():
            result = self.load(name, config)
            if not self.replays:
                print(f"{name}: from {self.folder}; --fresh computes it anew", file=sys.stderr)
            return result
        started = time.monotonic()
        extra = {"work": self.profile.work(name)} if "work" in inspect.signature(function).parameters else {}
        result = function(*arguments, **extra)
        if isinstance(result, tuple):
            result = facts(next(a for a in arguments if isinstance(a, Dataset)), *result)
        before = read_about(self, name)["made"] if earlier else None
        write(name, earlier.joined(result) if earlier else result, self, config, time.monotonic() - started, before)
        # From here on the record is the result; a checkpoint left behind would let a later run skip the training.
        shutil.rmtree(profiles.out_folder(self.profile) / "checkpoints" / name, ignore_errors=True)
        return self.load(name)

    def begun(self, name: str, config: dict) -> tuple[Predictions, tuple[int, ...]] | None:
        """A record of some, but not all of the seeds that are asked for, a posterior each, and the seeds that it lacks."""
        key = next((k for k, v in config.items() if isinstance(v, dict) and "seeds" in v), None)
        if self.replays or key is None or not (self.folder / f"{name}.json").exists():
            return None
        found, stored, seeds = self.load(name), read_about(self, name)["config"], config[key]["seeds"]
        done = (stored.get(key) or {}).get("seeds", [])
        same = stored == config | {key: config[key] | {"seeds": done}} and seeds[: len(done)] == done != seeds
        each = isinstance(found, Predictions) and len(found.notes.get("runs", ())) == len(found.probs) and not found.arrays
        return (found, tuple(seeds[len(done) :])) if same and each else None

    def load(self, name: str, config: dict | None = None) -> Result:
        """A record, checked: it exists (MissingRecord names the notebook that makes it), its arrays are the ones vouched for, its
        configuration is the step's, where one is given."""
        path = self.folder / name
        about = read_about(self, name)
        record = " --record" if self.replays else ""
        again = f"python -m emolib run --profile {about['profile']} --fresh{record} {about['notebook'][:2]}"
        data = path.with_suffix(".safetensors")
        if not data.exists() or store.file_digest(data) != about["sha256"]:
            raise StaleRecord(f"{data} is missing or not the file that its JSON vouches for; make it anew: {again}")
        if config is not None:
            compare(about, config, again, unknown=self.replays)
        arrays = store.read_arrays(data)
        extra = {k.removeprefix("extra."): v for k, v in arrays.items() if k.startswith("extra.") and k != "extra.none"}
        origin = about["data"]
        if about["kind"] == "facts":
            return Facts(origin["fingerprint"], origin["source"], about["notes"], extra)
        return Predictions(
            np.array(SPLITS)[arrays["split"]], arrays["ids"].astype(int), arrays["labels"].astype(int), arrays["probs"],
            tuple(about["classes"]), origin["fingerprint"], origin["source"], about["notes"], extra,
        )  # fmt: skip


def start(notebook: str, profile: str) -> Run:
    """Begin a notebook: prints one line that says which data, profile and encoder its numbers come from.

    Raises StaleRecord where the records that it would replay are of two encoders, or of another than EMOLIB_CLIP names.
    """
    asked = profiles.get(profile)
    run = Run(notebook, profiles.get(asked.replays or profile), bool(asked.replays))
    code()
    from IPython.display import Markdown, display

    how = f"computed here, profile `{profile}`"
    if run.replays:
        how = f"replayed from the records of profile `{run.profile.name}`{recorded(run)}"
    says = [run.profile.says, *([encoder_said(run)] if notebook >= "03" else [])]
    display(Markdown(f"**Numbers on this page:** {how}. {' '.join(says)}"))
    return run


def encoder_said(run: Run) -> str:
    """A sentence on the dual encoder of a page: of its records where these are replayed, else of the profile."""
    named = os.environ.get("EMOLIB_CLIP")
    found = {json.dumps(e) for e in (about["config"].get("encoder") for about in abouts(run)) if e} if run.replays else set()
    if len(found) > 1:
        raise StaleRecord(f"the records of {run.notebook} are of several encoders: {' and '.join(sorted(found))}; record it anew")
    used = json.loads(found.pop())["name"] if found else None
    if named and used and Path(named.partition("@")[0]).name != used.split("/")[-1]:
        raise StaleRecord(
            f"EMOLIB_CLIP names {named}, but profile published replays records of {used}; unset it, or compute with that "
            f"encoder: python -m emolib run --profile {run.profile.name} {run.notebook[:2]}"
        )
    usual = run.profile.clip.source.split("/")[-1]
    if used is None and named and run.profile.clip.elsewhere:
        return f"Its encoder is {named}."
    return run.profile.clip.says if used is None or used.split("/")[-1] == usual else f"Its encoder is {used}."


def abouts(run: Run) -> list[dict]:
    """What stands beside the arrays of each record of a notebook."""
    found = [json.loads((run.folder / f"{name}.json").read_text(encoding="utf8")) for name in names(run.folder)]
    return [about for about in found if about["notebook"] == run.notebook]


def recorded(run: Run) -> str:
    """When, on what and by which code the records of a notebook were made."""
    made = [about["made"] for about in abouts(run)]
    for one in made:  # and goes on with what it appends: a record may have been extended more than once
        made += [one["before"]] if "before" in one else []
    if not made:
        return ""
    dates, devices, commits = (sorted({m[key] for m in made}) for key in ("date", "device", "commit"))
    by = f"code {commits[0]}" if len(commits) == 1 else f"by {len(commits)} versions of the code, which the records name"
    return f" (made {dates[0]}{f' to {dates[-1]}' if len(dates) > 1 else ''} on {', '.join(devices)}, {by})"


def describe(function: Callable, arguments: tuple) -> dict:
    """What a step's result depends on, as JSON values by the function's parameters; None for what is not at hand."""
    bound = inspect.signature(function).bind_partial(*arguments)
    bound.apply_defaults()
    return {name: summary(value) for name, value in bound.arguments.items() if name != "work"}


def summary(value) -> Any:
    """A value as short JSON: settings in full, data and encoders by fingerprint, results and long values by checksum."""
    if isinstance(value, Predictions | Facts):
        arrays = {"probs": value.probs} if isinstance(value, Predictions) else {}
        each = [hashlib.sha256(np.ascontiguousarray(v).tobytes()).hexdigest() for _, v in sorted((arrays | value.arrays).items())]
        return {"sha256": hashlib.sha256(json.dumps(each).encode()).hexdigest()}
    if hasattr(value, "fingerprint"):
        return {k: getattr(value, k) for k in ("name", "size", "fingerprint") if hasattr(value, k)}
    if isinstance(value, np.ndarray):
        return {"sha256": hashlib.sha256(value.tobytes()).hexdigest()}
    if is_dataclass(value):
        said = {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.compare}
        # A setting that came later is left out where it has the value that records without it were made with.
        return {name: v for name, v in said.items() if v != type(value).__dataclass_fields__[name].metadata.get("unsaid", ...)}
    if not isinstance(value, PLAIN | dict | list | tuple):
        raise TypeError(f"a step takes no {type(value).__name__}: wanted settings, data sets, encoders, results or plain values")
    text = json.dumps(plain(value))
    return plain(value) if len(text) <= 1000 else {"sha256": hashlib.sha256(text.encode()).hexdigest()}


def plain(value) -> Any:
    """Tuples as lists and results by checksum, all the way down: what JSON gives back is what was given."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if isinstance(value, PLAIN) else summary(value)


def compare(about: dict, config: dict, again: str, *, unknown: bool) -> None:
    """StaleRecord if a record's configuration is not `config`; unknown: None there means not at hand, and is passed over."""
    before = about["config"]
    if about["kind"] == "facts":  # of settings with seeds a search, which tries the first one alone
        before, config = first_seed(before), first_seed(config)
    for key in sorted(set(before) | set(config)):
        stored, now = before.get(key), config.get(key)
        if stored != now and not (unknown and now is None and key in config):
            raise StaleRecord(
                f"{about['name']} (profile {about['profile']}) was recorded with {key} = {stored!s:.300}, "
                f"wanted {now!s:.300}; make it anew: {again}"
            )


def first_seed(config: dict) -> dict:
    """A configuration whose settings have no seed but the first."""
    return {k: v | {"seeds": v["seeds"][:1]} if isinstance(v, dict) and "seeds" in v else v for k, v in config.items()}


def write(name: str, result: Result, run: Run, config: dict, seconds: float, before: dict | None = None) -> None:
    """Store arrays, then the JSON that vouches for them by checksum; a kill in between leaves no record.

    before: how the part of the result was made that was there already.
    """
    path = run.folder / name
    arrays = {f"extra.{k}": v for k, v in result.arrays.items()}
    about = {"kind": "facts"}
    if isinstance(result, Predictions):
        numbers = np.array([SPLITS.index(s) for s in result.split], dtype=np.int8)
        arrays |= {
            "split": numbers, "ids": result.ids.astype(np.int32), "labels": result.labels.astype(np.int16),
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
        "config": config,
        "data": {"source": result.source, "fingerprint": result.fingerprint},
        "notes": result.notes,
        "made": provenance() | {"seconds": round(seconds, 1)} | ({"before": before} if before else {}),
        "sha256": store.file_digest(path.with_suffix(".safetensors")),
    }
    store.write_text(path.with_suffix(".json"), json.dumps(about, indent=1) + "\n")


def read_about(run: Run, name: str) -> dict:
    """What stands beside a record's arrays; MissingRecord says which notebook makes it and with which command."""
    path = run.folder / f"{name}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf8"))
    known = sorted(RECORDS.glob(f"*/{name}.json"))
    if not known:
        raise MissingRecord(f"{name} (profile {run.profile.name}) is not recorded, and no other profile has a record so called")
    maker = json.loads(known[0].read_text(encoding="utf8"))["notebook"]
    command = f"python -m emolib run --profile {run.profile.name}{' --record' if run.replays else ''} {maker[:2]}"
    raise MissingRecord(f"{name} (profile {run.profile.name}) is made by {maker}; run: {command}")


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
    target, source = RECORDS / profile.name, profiles.out_folder(profile) / "records"
    remove(target, notebooks)
    for name in names(source):
        if json.loads((source / f"{name}.json").read_text(encoding="utf8"))["notebook"] in notebooks:
            for suffix in (".safetensors", ".json"):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / f"{name}{suffix}", target / f"{name}{suffix}")
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
