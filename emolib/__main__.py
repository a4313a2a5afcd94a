"""The command line: `python -m emolib run | predict | table | tune | publish | sample`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

from emolib import profiles, records
from emolib.profiles import PROFILES, ROOT, Profile

NOTEBOOKS = ROOT / "notebooks"


def main(arguments: list[str] | None = None) -> int:
    """Parse the command and run it; returns the exit code."""
    parser = argparse.ArgumentParser("emolib", description="Multimodal emotion recognition with CLIP: run and read the study.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="execute notebooks through papermill")
    run.add_argument("notebooks", nargs="*", metavar="01", help="numbers of the notebooks, default: all")
    run.add_argument("--profile", default="published", choices=PROFILES, help="default: %(default)s")
    run.add_argument("--out", type=Path, help="folder for executed notebooks, records and the report, default: runs/PROFILE")
    run.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    run.add_argument("--fresh", action="store_true", help="compute anew what an earlier run has already recorded")
    run.add_argument("--record", action="store_true", help="copy the run's records to data/records/PROFILE when all passed")
    tune = commands.add_parser("tune", help="train one way only, e.g. with several GPUs: accelerate launch -m emolib tune full")
    tune.add_argument("way", choices=("full", "flyp", "lora", "lpft"))
    tune.add_argument("--profile", required=True, choices=[name for name, p in PROFILES.items() if not p.replays])
    own = commands.add_parser("predict", help="classify pictures and texts of your own, row by row of a csv file")
    own.add_argument("table", type=Path, help="csv file with a header; paths of pictures are relative to its folder")
    own.add_argument("--model", type=Path, required=True, help="folder that notebook 5 exports")
    own.add_argument("--image-column", help="column with the paths of pictures")
    own.add_argument("--text-column", help="column with texts")
    own.add_argument("--out", type=Path, required=True, help="csv file to write: the table with the results added")
    own.add_argument("--delimiter", default=",", help="default: a comma")
    table = commands.add_parser("table", help="print the results table (Markdown) from the records")
    table.add_argument("--profile", default="published", choices=PROFILES, help="default: %(default)s")
    commands.add_parser("publish", help="re-execute the committed notebooks, rewrite figures and the README table")
    made = commands.add_parser("sample", help="make the embedded sample anew")
    made.add_argument(
        "--clip", action="store_true", help="pre-train its dual encoder too (minutes; then record it: run --record)"
    )
    chosen = parser.parse_args(arguments)
    if chosen.command == "sample":
        from emolib import sample

        sample.make()
        if chosen.clip:
            from emolib import tiny

            tiny.make()
        return 0
    if chosen.command == "publish":
        from emolib import page

        for path in page.publish(find([])):
            print(path.relative_to(ROOT))
        return 0
    if chosen.command == "predict":
        return predict(chosen)
    if chosen.command == "tune":
        return tune_only(chosen.way, profiles.get(chosen.profile))
    if chosen.command == "table":
        from emolib import page

        print(page.results(profiles.get(chosen.profile)))
        return 0
    return run_notebooks(chosen)


def predict(chosen: argparse.Namespace) -> int:
    """Classify the rows of a table; says how many had which outcome."""
    from emolib import classifier
    from emolib.items import DataError

    if not chosen.image_column and not chosen.text_column:
        raise SystemExit("emolib: name at least one of --image-column and --text-column")
    if not chosen.table.is_file():
        raise SystemExit(f"emolib: {chosen.table} is not there")
    try:
        model = classifier.EmotionClassifier.from_pretrained(chosen.model)
        columns = {"image_column": chosen.image_column, "text_column": chosen.text_column}
        found = classifier.predict(model, chosen.table, chosen.out, **columns, delimiter=chosen.delimiter)
    except (DataError, FileNotFoundError) as error:
        raise SystemExit(f"emolib: {error}") from error
    print(f"{chosen.out}: {found.total():,} rows; " + "; ".join(f"{n:,} {what}" for what, n in found.most_common()))
    return 0


def tune_only(way: str, profile: Profile) -> int:
    """Leave the finished checkpoints of one way, for `run 04` to take up: the part that several processes can share."""
    from emolib import clip, faces, prompts, tuning

    asked = prompts.FACES[records.read("faces/clip-zero-shot", profile).notes["prompts"]]
    job = tuning.way(way, clip.load(profile), faces.prepare(profile), asked, profile)
    for seed in job.config.seeds:
        tuning.fit(job, profile, seed)
    return 0


def find(numbers: list[str]) -> list[Path]:
    """Notebook files by number, in order; SystemExit lists the choices for an unknown one."""
    known = {path.name[:2]: path for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}
    if unknown := [number for number in numbers if number not in known]:
        names = ", ".join(path.stem for path in known.values())
        raise SystemExit(f"emolib: unknown notebook {', '.join(unknown)}; choose from {', '.join(known)} ({names})")
    return [known[number] for number in sorted(set(numbers) or known)]


def run_notebooks(chosen: argparse.Namespace) -> int:
    """Execute notebooks in order, stop at the first failure; exit code 0 only if all passed."""
    import papermill

    from emolib import page

    profile: Profile = profiles.get(chosen.profile)
    if chosen.record and profile.replays:
        raise SystemExit(f"emolib: profile {profile.name} computes nothing that could be recorded")
    paths = find(chosen.notebooks)
    parameters = dict(chosen.parameter) | {"profile": profile.name}
    for path in paths:
        known = papermill.inspect_notebook(str(path))
        if unknown := set(parameters) - set(known):
            raise SystemExit(f"emolib: {path.name} has no parameter {', '.join(unknown)}; choose from {', '.join(known)}")
    out = (chosen.out or profiles.out_folder(profile)).resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ["EMOLIB_OUT"] = str(out)
    os.environ["EMOLIB_DATA"] = str(profiles.data_folder().resolve())  # the kernel runs in another folder
    if (folder := os.environ.get("EMOLIB_CLIP")) and Path(folder).is_dir():
        os.environ["EMOLIB_CLIP"] = str(Path(folder).resolve())
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # The sample is always computed live; a longer run goes on from the steps that it has finished.
    if chosen.fresh or profile.data.generated:
        records.remove(out / "records", [path.stem for path in paths])
    if chosen.fresh:
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    for number, path in enumerate(paths, 1):
        started = time.monotonic()
        print(f"[{number}/{len(paths)}] {path.stem}, profile {profile.name} ...", flush=True)
        try:
            papermill.execute_notebook(
                str(path), str(out / path.name), parameters=parameters, cwd=str(NOTEBOOKS), kernel_name="python3",
                progress_bar=False, log_output=False, stderr_file=sys.stderr, extra_arguments=page.QUIET,
            )  # fmt: skip
        except papermill.PapermillExecutionError as error:
            cell = f"cell {error.exec_count}" if error.exec_count else "a cell"
            print(f"emolib: {path.name}, {cell}: {error.ename}: {error.evalue}", file=sys.stderr)
            print(f"emolib: executed up to there: {out / path.name}", file=sys.stderr)
            return 1
        print(f"[{number}/{len(paths)}] {path.stem}: passed in {time.monotonic() - started:.0f} s", flush=True)
    if chosen.record:
        print(f"records: {records.publish(profile, [path.stem for path in paths])}")
    report = page.write(sorted(out.glob("[0-9][0-9]_*.ipynb")), out / "report.html", profile)
    print(f"open {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
