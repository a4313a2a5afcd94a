"""What people bring, and what they are told. `python tests/app/test_outcomes.py` prints the table."""
# ruff: noqa: E501

import atexit
import errno
import gzip
import json
import os
import re
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from emolib import EmotionClassifier, profiles, store
from emolib.app import predict
from emolib.data import files, official, readers
from emolib.data.labels import FERPLUS_COLUMNS
from emolib.models import encoder, heads

FACE = " ".join(["7"] * 2304)
FER = f"emotion,pixels,Usage\n3,{FACE},Training\n"
VOTES = "Usage,Image name," + ",".join(FERPLUS_COLUMNS) + "\n"
GOOD = "text,label,split\ni am so glad,joy,train\ni am so sad,sadness,dev\nso glad,joy,test\n"


def table(folder, content, name="t.csv", **options):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return readers.read_table(path, **{"text": "text", "classes": ("joy", "sadness")} | options)


def fer(folder, content=FER, votes=None):
    (folder / "fer2013.csv").write_text(content)
    if votes is not None:
        (folder / "fer2013new.csv").write_text(votes)
    return official.join_votes(
        readers.Dataset(np.array([0]), np.array([3]), np.array(["train"]), tuple("abcdefg"), "FER"), folder / "fer2013new.csv"
    ) if votes is not None else official.parse_pixels(folder / "fer2013.csv", "raise")  # fmt: skip


def goemotions(folder, line, labels=tuple(official.EKMAN)):
    (folder / "labels.txt").write_text("\n".join(labels))
    for name in ("train", "dev", "test"):
        (folder / f"{name}.tsv").write_bytes(line)
    return official.read_goemotions(folder)


def folders(folder, *names, broken=False):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), len(name)).save(folder / name)
        if broken:
            (folder / name).write_bytes((folder / name).read_bytes()[:40])
    return readers.read_class_folders(folder, draw=())


def load(folder, damage):
    damage(folder / "export")
    return EmotionClassifier.from_pretrained(folder / "export")


def classify(folder, content=GOOD, out="o.csv", **options):
    (folder / "t.csv").write_text(content)
    model = EmotionClassifier.from_pretrained(folder / "export")
    return predict.predict(model, folder / "t.csv", folder / out, **{"text_column": "text"} | options)


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


LATIN = "".join(f'{{"text": "fèel", "label": "joy", "split": "{s}"}}\n' for s in ("train", "val", "test")).encode("latin1")

# What it is: (how it is read, what is said of it; a number: how many rows there are).
CASES = {
    "a table": (lambda f: table(f, GOOD), 3),
    "a table with a byte order mark": (lambda f: table(f, b"\xef\xbb\xbf" + GOOD.encode()), 3),
    "a table in UTF-16": (lambda f: table(f, GOOD.encode("utf-16")), 3),
    "a table of an old Macintosh (CR)": (lambda f: table(f, GOOD.replace("\n", "\r")), 3),
    "a table packed by gzip": (lambda f: table(f, gzip.compress(GOOD.encode()), "t.csv.gz"), 3),
    "a table called .gz that is none": (lambda f: table(f, GOOD, "t.csv.gz"), r"t\.csv\.gz is no readable \.csv file: BadGzipFile"),
    "a gzip file that was cut": (lambda f: table(f, gzip.compress(GOOD.encode())[:-12], "t.csv.gz"), r"t\.csv\.gz is no readable"),
    "an empty file": (lambda f: table(f, ""), r"t\.csv is empty, wanted a header and rows"),
    "a header alone": (lambda f: table(f, "text,label\n"), "t.csv has no part train"),
    "another delimiter": (lambda f: table(f, GOOD.replace(",", ";")), 3),
    "a delimiter nobody knows": (lambda f: table(f, GOOD.replace(",", "|")), r"columns found \['text\|label\|split'\], missing"),
    "a delimiter of two letters": (lambda f: files.read_file(f / "t.csv", "ab"), "the delimiter is 'ab', wanted one character"),
    "no delimiter": (lambda f: files.read_file(f / "t.csv", ""), "the delimiter is '', wanted one character"),
    "a column that is not there": (lambda f: table(f, GOOD, text="said"), r"columns found \['text', 'label', 'split'\], missing \['said'\]"),
    "two columns of one name": (lambda f: table(f, "text,label,text\na,b,c\n"), "the column 'text' is there twice"),
    "a comma too many": (lambda f: table(f, GOOD + "glad, very,joy,train\n"), r"t\.csv, line 5: 4 cells, wanted 3.*in quotes"),
    "a cell too few": (lambda f: table(f, GOOD + "glad\n"), r"t\.csv, line 5: 1 cells, wanted 3"),
    "a quote that is never closed": (lambda f: table(f, 'text,label\n"glad,joy\nsad,sadness\n'), "line 2: unexpected end of data"),
    "a quote that swallows rows": (lambda f: table(f, 'n,text\n1,"so\n2,sad"\n3,x\n'), "line 2: a quote opens a cell that takes in whole rows"),
    "a text over two lines": (lambda f: table(f, GOOD + '"so glad,\nand happy",joy,train\n'), 4),
    "a label that no class has": (lambda f: table(f, GOOD, classes=("joy", "fear")), r"line 3: label is 'sadness', wanted one of"),
    "a label of 5,000 digits": (lambda f: table(f, GOOD + f"a,{'9' * 5000},train\n"), r"line 5: label is '9{98}"),
    "a text of nothing": (lambda f: table(f, GOOD + "  ,joy,train\n"), r"line 5: the text is empty, wanted at least one word in text"),
    "a byte that is not UTF-8": (lambda f: table(f, GOOD.encode() + b"tr\xe8s,joy,test\n"), r"line 5: byte 0xe8 at column 2 is not UTF-8"),
    "a row as long as a book": (lambda f: table(f, f"text,label\n{'x' * 10**6},y,z\n"), r"^.{1,350}$"),
    "a line that is no JSON": (lambda f: table(f, '{"text": "a", \n', "t.jsonl"), r"t\.jsonl, line 1: .* is no JSON object"),
    "a line of JSON that is a list": (lambda f: table(f, '["a"]\n', "t.jsonl"), r"t\.jsonl, line 1: .*wanted one with the names"),
    "JSON that is not UTF-8": (lambda f: table(f, LATIN, "t.jsonl"), r"t\.jsonl, line 1: byte 0xe8 at column 1 is not UTF-8"),
    "parquet that is none": (lambda f: table(f, b"PAR1xx", "t.parquet"), r"t\.parquet is no readable \.parquet file"),
    "None in parquet": (lambda f: table(f, store_parquet(f), "t.parquet"), "row 1: the text is empty"),
    "pictures in class folders": (lambda f: folders(f, "train/a/1.png", "val/a/2.png", "test/a/03.png"), 3),
    "a picture that was cut": (lambda f: folders(f, "a/1.png", broken=True), r"a/1\.png: the picture cannot be read: "),
    "a folder without pictures": (lambda f: readers.read_class_folders(f / "void"), "no picture in test/<class>/"),
    "FER-2013 without Usage": (lambda f: fer(f, "emotion,pixels\n3,7\n"), r"fer2013\.csv: columns found .*, missing \['Usage'\]"),
    "FER-2013, a pixel too few": (lambda f: fer(f, FER[:-12] + ",Training\n"), "row 0: 2303 pixels, wanted 2304"),
    "FER+, empty": (lambda f: fer(f, votes=""), r"fer2013new\.csv is empty"),
    "FER+ without columns": (lambda f: fer(f, votes="Usage,x\nTraining,1\n"), r"fer2013new\.csv: columns found .*missing \['NF'"),
    "FER+ with words": (lambda f: fer(f, votes=VOTES + "Training,a,many" + ",0" * 9 + "\n"), "line 2: 'many' votes, wanted 0 to 10"),
    "GoEmotions, not UTF-8": (lambda f: goemotions(f, b"tr\xe8s\t0\tid\n"), "is not UTF-8"),
    "GoEmotions, other labels": (lambda f: goemotions(f, b"fine\t0\tid\n", ("joy", "sadness")), "2 labels, joy, sadness, wanted the 28"),
    "GoEmotions, nothing for us": (lambda f: goemotions(f, b"fine\t6\tid\n"), "none of 3 rows has one of anger, fear"),
    "GoEmotions, another format": (lambda f: goemotions(f, b"fine,joy\n"), r"train\.tsv, row 0: 'fine,joy', wanted text"),
    "a model folder that is none": (lambda f: EmotionClassifier.from_pretrained(f / "void"), r"emolib\.json is not there; wanted"),
    "a damaged emolib.json": (lambda f: load(f, lambda e: (e / "emolib.json").write_text("{")), r"emolib\.json is damaged"),
    "weights that were cut": (lambda f: load(f, lambda e: os.truncate(e / "model.safetensors", 9)), "is not the file that was written"),
    "a lost tokenizer": (lambda f: load(f, lambda e: (e / "tokenizer.json").unlink()), r"tokenizer\.json is not there"),
    "EMOLIB_CLIP names nothing": (lambda f: no_encoder(f), "EMOLIB_CLIP names /no/such/folder, and there is no such folder"),
    "predict": (lambda f: classify(f), 3),
    "predict, no such column": (lambda f: classify(f, text_column="said"), "has no column 'said'; its columns are text, label, split"),
    "predict, the result is there": (lambda f: (classify(f), classify(f))[1], "is there already; remove it"),
    "predict, a column p_joy": (lambda f: classify(f, GOOD.replace("label", "p_joy")), "has a column 'p_joy' already"),
    "predict, no such folder for --out": (lambda f: classify(f, out="t.csv/o.csv"), "Not a directory|File exists"),
}  # fmt: skip


def store_parquet(folder: Path) -> bytes:
    pd.DataFrame({"text": ["a", None, "b"], "label": ["joy"] * 3, "split": ["train", "val", "test"]}).to_parquet(
        folder / "x.parquet"
    )
    return (folder / "x.parquet").read_bytes()


def no_encoder(folder: Path):
    before = os.environ.get("EMOLIB_CLIP")
    os.environ["EMOLIB_CLIP"] = "/no/such/folder"
    try:
        return encoder.load(profiles.get("full").clip)
    finally:
        os.environ.pop("EMOLIB_CLIP") if before is None else os.environ.update(EMOLIB_CLIP=before)


def prepare(folder: Path) -> None:
    """An export to load and to damage."""
    shutil.copytree(exported(), folder / "export")


@cache
def exported() -> Path:
    """The export, written once."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    clip = encoder.load(profiles.get("sample").clip, "float32")
    head = heads.zero_shot(clip, [["glad"], ["sad"]])
    EmotionClassifier(clip, {"text": head}, {"text": ("joy", "sadness")}).save_pretrained(folder, "# a card\n")
    return folder


def outcome(case: str, folder: Path) -> str | int:
    """The number of rows, or what is said."""
    try:
        found = CASES[case][0](folder)
    except (ValueError, OSError) as error:
        return str(error)
    return found.total() if hasattr(found, "total") else len(found)


@pytest.mark.parametrize("case", CASES)
def test_outcome(case, tmp_path):
    if re.search("predict|weights|emolib.json|tokenizer", case):
        prepare(tmp_path)
    (found, wanted) = outcome(case, tmp_path), CASES[case][1]
    if isinstance(wanted, int):
        assert found == wanted
    else:
        assert re.search(wanted, str(found)) and len(str(found)) < 350 + len(str(tmp_path)) * 3, found


def test_a_full_disk_stops_predict_and_what_was_done_stays(tmp_path, monkeypatch):
    prepare(tmp_path)
    monkeypatch.setattr(predict, "CHUNK", 1)
    kept, calls = store.write_text, []
    monkeypatch.setattr(store, "write_text", lambda *given: full_disk() if calls else (calls.append(1), kept(*given)))
    with pytest.raises(OSError, match="No space left"):
        classify(tmp_path)
    assert json.loads(next(tmp_path.glob("*.parts/0.json")).read_text())["outcomes"] == {"text only": 1}
    monkeypatch.setattr(store, "write_text", kept)
    assert classify(tmp_path).total() == 3 and not list(tmp_path.glob("*.parts"))


if __name__ == "__main__":
    print("| what | outcome |\n| :-- | :-- |")
    for name in CASES:
        with tempfile.TemporaryDirectory() as made:
            prepare(Path(made))
            said = str(outcome(name, Path(made))).replace(made, "FOLDER").replace("\n", " ").replace("|", "\\|")
        print(f"| {name} | {said + ' rows' if said.isdecimal() else said} |")
    sys.exit()
