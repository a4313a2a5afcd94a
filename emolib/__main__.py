"""The command line: `python -m emolib run | data | predict | tune | table | publish`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from emolib import profiles
from emolib.data.labels import WAYS
from emolib.profiles import PROFILES, ROOT, Profile

NOTEBOOKS = ROOT / "notebooks"
COMPUTED = [name for name, profile in PROFILES.items() if not profile.replays]


def parser() -> argparse.ArgumentParser:
    """What can be asked; `answer` is the function that does it."""
    whole = argparse.ArgumentParser("emolib", description="Multimodal emotion recognition with CLIP: run and read the study.")
    commands = whole.add_subparsers(dest="command", required=True)

    def command(answer, text: str, profiles=(), **default):
        made = commands.add_parser(answer.__name__, help=text)
        made.set_defaults(answer=answer)
        if profiles:
            made.add_argument("--profile", choices=profiles, help="default: %(default)s", **default)
        return made.add_argument

    add = command(run, "execute notebooks through papermill", PROFILES, default="published")
    add("notebooks", nargs="*", metavar="01", help="numbers of the notebooks, default: all")
    add("--out", type=Path, help="folder for executed notebooks, records and the report, default: runs/PROFILE")
    add("--fresh", action="store_true", help="compute anew what an earlier run recorded, and what it left unfinished")
    add("--record", action="store_true", help="copy the run's records to data/records/PROFILE when all passed")
    add(
        "-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="of a notebook: -p data FOLDER"
    )
    command(data, "fetch the public sets that are not on the Hub into EMOLIB_DATA: FER+ votes, MSED, Flickr8k")
    add = command(predict, "classify your pictures and texts, row by row; on several GPUs: accelerate launch -m emolib predict")
    add("table", type=Path, help="csv or parquet file; paths of pictures are relative to its folder; or a folder of pictures")
    add("--model", type=Path, required=True, help="folder that notebook 4, 5 or 6 exports")
    add("--image-column", help="column with the paths of pictures")
    add("--text-column", help="column with texts")
    add("--out", type=Path, required=True, help="csv file to write: the table with the results added")
    add("--delimiter", help='one character, "tab" or "semicolon"; default: told by the header')
    add("--conflict-rate", type=float, help="share of rows whose picture and text are supposed to disagree, default: the model's")
    add = command(
        tune, "fine-tune on faces, one way; on several GPUs: accelerate launch -m emolib tune", COMPUTED, default="full"
    )
    add("way", choices=WAYS, help="tuned: LP-FT, with which the study goes on")
    add("--out", type=Path, help="folder of the run, default: runs/PROFILE")
    command(table, "print the results table (Markdown) from the records", PROFILES, default="published")
    command(publish, "re-execute the committed notebooks, rewrite figures, README.md and RESULTS.md", COMPUTED)
    return whole


def main(arguments: list[str] | None = None) -> int:
    """Parse the command and run it; returns the exit code."""
    chosen = parser().parse_args(arguments)
    return chosen.answer(chosen) or 0


def find(numbers: list[str]) -> list[Path]:
    """Notebook files by number, in order; SystemExit lists the choices for an unknown one."""
    known = {path.name[:2]: path for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}
    if unknown := [number for number in numbers if number not in known]:
        names = ", ".join(path.stem for path in known.values())
        raise SystemExit(f"emolib: unknown notebook {', '.join(unknown)}; choose from {', '.join(known)} ({names})")
    return [known[number] for number in sorted(set(numbers) or known)]


def run(chosen: argparse.Namespace) -> int:
    """Execute notebooks in order, stop at the first failure; exit code 0 only if all passed."""
    from emolib.app import publish
    from emolib.results import records

    profile, paths = profiles.get(chosen.profile), find(chosen.notebooks)
    if chosen.record and profile.replays:
        raise SystemExit(f"emolib: profile {profile.name} computes nothing that could be recorded")
    parameters = {path: given(chosen.parameter, path) for path in paths}
    if unknown := [name for name, _ in chosen.parameter if not any(name in some for some in parameters.values())]:
        named = ", ".join(path.stem for path in paths)
        raise SystemExit(f"emolib: none of the notebooks {named} has a parameter {unknown[0]} that -p could set")
    if chosen.parameter and profile.replays:
        raise SystemExit(f"emolib: profile {profile.name} computes nothing; with -p name --profile {', '.join(COMPUTED)}")
    out = prepare((chosen.out or profiles.out_folder(profile)).resolve(), profile)
    held = hold(out)  # until this function ends
    if not (profile.generated or profile.replays):
        check(profile, [path.name[:2] for path in paths])
    # The sample is always computed live; a longer run goes on from the steps that it has finished.
    if chosen.fresh or profile.generated:
        records.remove(out / "records", [path.stem for path in paths])
    if chosen.fresh:
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    for number, path in enumerate(paths, 1):
        if not execute(path, out, parameters[path] | {"profile": profile.name}, f"[{number}/{len(paths)}] {path.stem}"):
            return 1
    if chosen.record:
        kept = records.publish(profile, [path.stem for path in paths])
        packed = shutil.make_archive(str(out / f"records-{profile.name}"), "zip", kept.parent, kept.name)
        print(f"records: {kept}, and in {packed} for another copy: unzip it there in data/records")
        print(f"to show them in notebooks, README.md and RESULTS.md: python -m emolib publish --profile {profile.name}")
    print(f"open {publish.write([out / path.name for path in paths], out / 'report.html', profile)}")
    held.close()
    return 0


def prepare(out: Path, profile: Profile) -> Path:
    """Make the output folder, and tell the kernels, which run elsewhere, where everything is and how many threads to use."""
    out.mkdir(parents=True, exist_ok=True)
    if profile.threads:  # small products gain nothing by a second thread, and lose much where other work shares the machine
        os.environ.setdefault("OMP_NUM_THREADS", str(profile.threads))
    os.environ |= {"EMOLIB_OUT": str(out), "EMOLIB_DATA": str(profiles.data_folder().resolve())}
    if (folder := os.environ.get("EMOLIB_CLIP")) and Path(folder).is_dir():
        os.environ["EMOLIB_CLIP"] = str(Path(folder).resolve())
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return out


def hold(out: Path) -> TextIO:
    """Keep other runs out of a folder until what is returned is closed or the process ends; SystemExit where one is in it.

    A drive or a system that knows no such locks is said, and keeps nobody out.
    """
    file = (out / ".lock").open("w")
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SystemExit(f"emolib: another run is writing to {out}; wait for it, or name another folder: --out FOLDER") from None
    except (OSError, ImportError) as error:
        print(f"emolib: {out} cannot be locked ({str(error)[:100]}); start no second run in it", file=sys.stderr)
    return file


def given(parameters: list[tuple[str, str]], notebook: Path) -> dict[str, str]:
    """Those of the parameters that a notebook has; the path of `data` is made absolute, as its kernel runs elsewhere."""
    import papermill

    known = papermill.inspect_notebook(str(notebook)) if parameters else {}
    found = {name: value for name, value in parameters if name in known and name != "profile"}
    if (data := found.get("data")) and Path(data).exists():
        found["data"] = str(Path(data).resolve())
    return found


def execute(path: Path, out: Path, parameters: dict[str, str], title: str) -> bool:
    """Run one notebook into the output folder; says what happens, and where it failed."""
    import papermill

    from emolib.app.publish import QUIET

    started = time.monotonic()
    print(f"{title}, profile {parameters['profile']} ...", flush=True)
    options = {"cwd": str(NOTEBOOKS), "kernel_name": "python3", "extra_arguments": QUIET, "stderr_file": sys.stderr}
    try:
        papermill.execute_notebook(str(path), str(out / path.name), parameters, progress_bar=False, **options)
    except papermill.PapermillExecutionError as error:
        cell = f"cell {error.exec_count}" if error.exec_count else "a cell"
        print(f"emolib: {path.name}, {cell}: {error.ename}: {error.evalue}", file=sys.stderr)
        print(f"emolib: executed up to there: {out / path.name}", file=sys.stderr)
        return False
    print(f"{title}: passed in {time.monotonic() - started:.0f} s", flush=True)
    return True


def data(chosen: argparse.Namespace) -> int:
    """Fetch what is public and not on the Hub; 1 where something could not be had."""
    from emolib.data import fetch

    gaps = fetch.fetch(profiles.data_folder())
    print("\n".join(f"emolib: {gap}" for gap in gaps) or "all there", file=sys.stderr if gaps else sys.stdout)
    return int(bool(gaps))


def check(profile: Profile, numbers: list[str]) -> None:
    """Say before the first notebook where the data come from; SystemExit where a dual encoder is needed and not at hand."""
    from emolib.data import sets

    if numbers != ["06"]:  # which reads the reader's own
        print("\n".join(sets.plan(profile)), flush=True)
    if max(numbers) < "03":
        return
    from emolib.models import encoder

    try:
        source, revision = encoder.locate(profile.clip)
    except encoder.MissingModel as error:
        raise SystemExit(f"emolib: {error}") from error
    print(f"dual encoder: {source}{f'@{revision}' if revision else ''}", flush=True)
    if profile.clip.image_size and Path(source).name != Path(profile.clip.source).name:
        own = f"pictures of {profile.clip.image_size} pixels and rates for {profile.clip.source}"
        print(f"note: profile {profile.name} has {own}; for another encoder --profile full may serve better", file=sys.stderr)


def predict(chosen: argparse.Namespace) -> None:
    """Classify the rows of a table; says how many had which outcome."""
    from emolib.app import predict
    from emolib.app.classifier import EmotionClassifier

    if not (chosen.image_column or chosen.text_column or chosen.table.is_dir()):
        raise SystemExit("emolib: name at least one of --image-column and --text-column")
    if not chosen.table.exists():
        raise SystemExit(f"emolib: {chosen.table} is not there")
    columns = {"image_column": chosen.image_column, "text_column": chosen.text_column}
    options = {} if chosen.conflict_rate is None else {"conflict_rate": chosen.conflict_rate}
    predict.PartialState()  # each of several processes takes its own GPU before a model is put on one
    try:
        model = EmotionClassifier.from_pretrained(chosen.model, **options)
        found = predict.predict(model, chosen.table, chosen.out, **columns, delimiter=chosen.delimiter)
    except (ValueError, OSError) as error:
        raise SystemExit(f"emolib: {error}") from error
    if found:
        print(f"{chosen.out}: {found.total():,} rows; " + "; ".join(f"{n:,} {what}" for what, n in found.most_common()))


def tune(chosen: argparse.Namespace) -> None:
    """Search the settings of one way and leave its finished checkpoints, which several processes can share, for `run 04`."""
    from accelerate import PartialState

    from emolib.data import prompts, sets
    from emolib.models import encoder, tuning
    from emolib.results.records import Run, describe

    PartialState()  # each of several processes takes its own GPU before the encoder is put on one
    profile, way = profiles.get(chosen.profile), chosen.way
    out = prepare((chosen.out or profiles.out_folder(profile)).resolve(), profile)
    rank, step = int(os.environ.get("RANK", 0)), "faces/clip-search" if way == "tuned" else f"faces/clip-{way}-search"
    held = None if rank else hold(out)  # by the first process, for all
    run, data, method = Run("04_clip_fine_tuning", profile), sets.faces(profile), "lpft" if way == "tuned" else way
    loaded, config, asked = encoder.load(profile.clip, profile.precision), getattr(profile, method), None
    if method != "lpft":
        asked = prompts.FACES[run.load("faces/clip-zero-shot").notes["prompts"]]
    settings = (loaded, data, method, config, asked, profile.search, profile.ranks if method == "lora" else None)
    if rank and not (run.folder / f"{step}.json").exists():  # the others search along; one records it
        found = tuning.search(*settings, work=profile.work(step)).notes
    else:
        found = run.step(step, tuning.search, *settings).notes
    config, name = config.at(found["rate"], found.get("rank")), f"faces/clip-{way}"
    if begun := run.begun(name, describe(tuning.tune, (loaded, data, method, config, asked))):
        config = replace(config, seeds=begun[1])
    elif (run.folder / f"{name}.json").exists():
        raise SystemExit(f"emolib: {name} is recorded in {run.folder}; remove {name}.json there to train it anew")
    tuning.tune(loaded, data, method, config, asked, work=profile.work(name))
    if held:
        held.close()


def table(chosen: argparse.Namespace) -> None:
    """Print the README's table; no torch."""
    from emolib.app import readme
    from emolib.results.records import Run

    asked = profiles.get(chosen.profile)
    print(readme.results(Run("table", profiles.get(asked.replays or asked.name), bool(asked.replays)).load))


def publish(chosen: argparse.Namespace) -> None:
    """Rewrite what is generated; names each file."""
    from emolib.app import publish

    for path in publish.publish(find([]), chosen.profile):
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    sys.exit(main())
