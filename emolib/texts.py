"""DAIR-AI Emotion, and any text set with the same columns: load, audit, clean. Nothing is dropped without being counted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from emolib import items
from emolib.items import DataError, Items, MissingData
from emolib.labels import SHARED_CLASSES, SPLITS, TEXT_CLASSES
from emolib.profiles import ROOT, Profile, data_folder

HUB = ("dair-ai/emotion", "split", "cab853a1dbdf4c42c2b3ef2173804746df8825fe")
_STEMS = {"train": ("train",), "validation": ("val", "validation", "dev"), "test": ("test",)}
_SUFFIXES = (".txt", ".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Texts(Items):
    """Sentences. texts: (N,) object array of non-empty str."""

    texts: np.ndarray


def load(profile: Profile, *, on_error: str = "raise") -> Texts:
    """The sentences of a profile: generated, else DAIR-AI Emotion from the folder EMOLIB_DATA/emotion, else the Hub.

    Raises MissingData where no source is at hand, DataError at a row that cannot be read.
    """
    if profile.data.generated:
        return read_folder(ROOT / "data" / "sample" / "emotion", name="built sentences")
    folder = data_folder() / "emotion"
    return read_folder(folder, on_error=on_error) if folder.is_dir() else read_hub(on_error=on_error)


def read_folder(
    folder: Path, *, name: str = "DAIR-AI Emotion", classes: tuple[str, ...] = TEXT_CLASSES, on_error: str = "raise"
) -> Texts:
    """A folder with train, val (validation, dev) and test as `.txt` (`text;label`), `.csv`, `.jsonl` or `.parquet`.

    Columns are text and label (a class's name or its number). Ids count through train, validation, test. Raises
    MissingData if a split has no file; DataError names file, row, found and wanted; on_error="skip" leaves such rows
    out and says how many in `source`.
    """
    texts, labels, split, ids, problems = [], [], [], [], []
    total = 0
    for part in SPLITS:
        path = _find(Path(folder), part)
        rows = _lines(path) if path.suffix == ".txt" else _table(path)
        for number, (text, label, wrong) in enumerate(rows):
            value, wrong = (None, wrong) if wrong else _label(label, classes)
            if not wrong and not text.strip():
                wrong = "the text is empty, wanted at least one word"
            if wrong:
                problems.append(f"{path}, row {number}: {wrong}")
                continue
            texts.append(text.strip())
            labels.append(value)
            split.append(part)
            ids.append(total + number)
        total += len(rows)
        items.refuse(problems, on_error)
    source = name + (f", {len(problems)} unreadable rows left out" if problems else "")
    column = np.empty(len(texts), dtype=object)
    column[:] = texts
    return Texts(np.array(ids), np.array(labels), np.array(split), classes, source, column)


def _find(folder: Path, part: str) -> Path:
    candidates = [folder / f"{stem}{suffix}" for stem in _STEMS[part] for suffix in _SUFFIXES]
    for path in candidates:
        if path.exists():
            return path
    raise MissingData(
        f"the {part} split is not at hand: looked for {', '.join(p.name for p in candidates)} in {folder}. Get the set "
        f"from huggingface.co/datasets/{HUB[0]} (config {HUB[1]}), or delete the folder to let the Hub be asked"
    )


def _lines(path: Path) -> list[tuple]:
    """(text, label, what is wrong) of each line of `text;label`; the text itself may hold semicolons."""
    rows = []
    for line in path.read_bytes().splitlines():
        try:
            text, found, label = line.decode("utf8").rpartition(";")
            rows.append((text, label, None if found else f"no semicolon in {text or label!r:.60}, wanted text;label"))
        except UnicodeDecodeError as error:
            rows.append(("", "", f"byte {line[error.start]:#04x} at column {error.start} is not UTF-8"))
    return rows


def _table(path: Path) -> list[tuple]:
    """The same of a table with columns text and label."""
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
    else:
        for row, line in enumerate(path.read_bytes().splitlines()):
            try:
                line.decode("utf8")
            except UnicodeDecodeError as error:
                raise DataError(f"{path}, line {row}: byte {line[error.start]:#04x} is not UTF-8") from error
        read = pd.read_csv if path.suffix == ".csv" else lambda p, **k: pd.read_json(p, lines=True, **k)
        table = read(path, dtype=str).fillna("")
    if missing := {"text", "label"} - set(table.columns):
        raise DataError(f"{path}: columns found {list(table.columns)}, missing {sorted(missing)}")
    return [(str(text), str(label), None) for text, label in zip(table["text"], table["label"], strict=True)]


def _label(label: str, classes: tuple[str, ...]) -> tuple[int | None, str | None]:
    if label in classes:
        return classes.index(label), None
    if label.isdecimal() and int(label) < len(classes):
        return int(label), None
    return None, f"label is {label!r}, wanted one of {', '.join(classes)} or 0 to {len(classes) - 1}"


def read_hub(*, on_error: str = "raise") -> Texts:
    """DAIR-AI Emotion from the Hub at a pinned revision, through `datasets`."""
    from datasets import load_dataset

    try:
        parts = load_dataset(HUB[0], HUB[1], revision=HUB[2])
    except Exception as error:
        raise MissingData(
            f"{HUB[0]} cannot be had from the Hub ({type(error).__name__}: {error}) and there is no folder "
            f"{data_folder() / 'emotion'}. With a network, try again; without one, put train, val and test as .txt "
            "(text;label), .csv, .jsonl or .parquet there, or name another folder: EMOLIB_DATA=FOLDER python -m emolib run"
        ) from error
    tables = [pd.DataFrame({"text": parts[s]["text"], "label": parts[s]["label"]}) for s in SPLITS]
    whole = pd.concat(tables, ignore_index=True)
    problems = [f"{HUB[0]}, row {row}: the text is empty" for row in whole.index[whole.text.str.strip() == ""]]
    items.refuse(problems, on_error)
    keep = (whole.text.str.strip() != "").to_numpy()
    split = np.repeat(SPLITS, [len(table) for table in tables])
    return Texts(
        np.flatnonzero(keep), whole.label.to_numpy()[keep], split[keep], TEXT_CLASSES, "DAIR-AI Emotion",
        whole.text.str.strip().to_numpy(dtype=object)[keep],
    )  # fmt: skip


def tokens(text: str) -> list[str]:
    """Lower-case words; the DAIR-AI texts hold only letters and spaces, so a space is the whole tokenizer."""
    return "".join(c if c.isalnum() or c == "'" else " " for c in text.lower()).split()


def twins(texts: Texts) -> np.ndarray:
    """(N,) int: equal texts share a number."""
    return items.twin_groups(texts.texts)


def clean(texts: Texts) -> Texts:
    """Training without texts that occur in validation or test; the rest is untouched."""
    return texts.select(~items.leaks(texts, twins(texts)))


def prepare(profile: Profile) -> Texts:
    """The sentences that systems see: loaded, and cleaned unless the profile's switch says otherwise."""
    data = load(profile)
    return clean(data) if profile.data.clean_training else data


def near_twins(texts: Texts, *, jaccard: float = 0.8, block: int = 500) -> np.ndarray:
    """Pairs of different texts that share most of their words: (P, 2) row numbers, first < second.

    jaccard: smallest |A and B| / |A or B| of the two word sets.
    """
    words: dict[str, int] = {}
    sets = [sorted({words.setdefault(w, len(words)) for w in tokens(text)}) for text in texts.texts]
    size = np.array([len(s) for s in sets])
    bags = sparse.csr_matrix(
        (np.ones(size.sum(), np.float32), np.concatenate(sets), np.r_[0, size.cumsum()]), (len(sets), len(words))
    )
    group, pairs, turned = twins(texts), [], bags.T.tocsr()
    for start in range(0, len(sets), block):
        shared = (bags[start : start + block] @ turned[:, start:]).tocoo()
        first, second = shared.row + start, shared.col + start
        union = size[first] + size[second] - shared.data
        keep = (first < second) & (shared.data >= jaccard * union)
        pairs.append(np.stack([first[keep], second[keep]], 1))
    found = np.unique(np.concatenate(pairs), axis=0)
    return found[group[found[:, 0]] != group[found[:, 1]]]


def audit(texts: Texts) -> tuple[dict, dict]:
    """What a reader must know before trusting a score: counts and arrays for a record; no sentence among them."""
    group, near = twins(texts), near_twins(texts)
    words = [tokens(text) for text in texts.texts]
    length = np.array([len(w) for w in words])
    linked = items.link(group, near)
    held_out, train = items.held_out_rows(texts), texts.split == "train"
    notes = {
        "counts": texts.counts().tolist(),
        "twins": items.shared_between(texts, group),
        "near_twins": items.pairs_between(texts, near),
        "feel": float(np.mean([any(w.startswith("feel") or w == "felt" for w in ws) for ws in words])),
        "markup": int(sum("http" in text or "href" in text for text in texts.texts)),
        "words": {str(q): float(np.percentile(length, q)) for q in (50, 90, 99, 100)},
        "dropped_by_cleaning": int(items.leaks(texts, group).sum()),
        "top_terms": top_terms(texts.part("train")),
    }
    exposed = np.isin(group, group[train])
    arrays = {"ids": texts.ids[held_out], "group": linked[held_out], "twin": exposed[held_out].astype(np.int8),
              "length_counts": np.bincount(length)}  # fmt: skip
    return notes, arrays


DROPS = (0, 0.25, 0.5, 0.75)


def drop_words(texts: Texts, share: float, *, seed: int = 0) -> Texts:
    """Texts that lost each word with probability `share`; of a text that would lose all of them one stays."""
    rng, found = np.random.default_rng(seed), []
    for text in texts.texts:
        words = text.split()
        kept = np.flatnonzero(rng.random(len(words)) >= share)
        kept = kept if len(kept) else rng.integers(0, len(words), 1)
        found.append(" ".join(words[i] for i in kept))
    return replace(texts, texts=np.array(found, dtype=texts.texts.dtype))


def top_terms(train: Texts, *, count: int = 8) -> dict[str, list[str]]:
    """The words that tell each class from the others: log odds over their standard error, shrunk to the common frequency.

    Source: Monroe, Colaresi and Quinn 2008, Political Analysis 16(4), eq. 22, informative prior worth 500 words.
    """
    rows, words = zip(
        *((label, w) for t, label in zip(train.texts, train.labels, strict=True) for w in set(tokens(t))), strict=True
    )
    names, columns = np.unique(words, return_inverse=True)
    counts = np.zeros((len(train.classes), len(names)))
    np.add.at(counts, (np.array(rows), columns), 1)
    total, found = counts.sum(0), {}
    prior = 500 * total / total.sum()
    for label, name in enumerate(train.classes):
        own, rest = counts[label] + prior, total - counts[label] + prior
        odds = np.log(own / (own.sum() - own)) - np.log(rest / (rest.sum() - rest))
        found[name] = names[np.argsort(-odds / np.sqrt(1 / own + 1 / rest), kind="stable")[:count]].tolist()
    return found


def load_other(profile: Profile) -> Texts:
    """Sentences of another origin in the five shared classes, for a test away from home: GoEmotions; `sample`: other frames.

    GoEmotions (Demszky et al. 2020, arXiv:2005.00547) with Ekman labels in EMOLIB_DATA/goemotions: {train,dev,test}.tsv
    (text, label numbers, id) and labels.txt. Rows with several labels or another one are left out, `source` says how many.
    """
    if profile.data.generated:
        return read_folder(ROOT / "data" / "sample" / "other", name="built sentences of other frames", classes=SHARED_CLASSES)
    folder = data_folder() / "goemotions"
    if not (folder / "labels.txt").exists():
        raise MissingData(
            f"GoEmotions is not at hand: looked for labels.txt and train, dev, test .tsv in {folder}. Get the Ekman version "
            "from github.com/google-research/google-research/tree/master/goemotions, or name the folder that holds "
            "goemotions/: EMOLIB_DATA=FOLDER python -m emolib run"
        )
    names = (folder / "labels.txt").read_text(encoding="utf8").split()
    rows, total = [], 0
    for split, stem in zip(SPLITS, ("train", "dev", "test"), strict=True):
        for number, line in enumerate((folder / f"{stem}.tsv").read_text(encoding="utf8").rstrip("\n").split("\n")):
            cells = line.split("\t")
            if len(cells) != 3 or not all(n.isdecimal() and int(n) < len(names) for n in cells[1].split(",")):
                raise DataError(f"{folder / stem}.tsv, row {number}: {line!r:.80}, wanted text, label numbers, id")
            label = names[int(cells[1])] if cells[1].isdecimal() else ""
            if label in SHARED_CLASSES and cells[0].strip():
                rows.append((total + number, SHARED_CLASSES.index(label), split, cells[0].strip()))
        total += number + 1
    ids, labels, split, column = zip(*rows, strict=True)
    source = f"GoEmotions (Ekman), {total - len(rows)} of {total} rows with several or other labels left out"
    return Texts(np.array(ids), np.array(labels), np.array(split), SHARED_CLASSES, source, np.array(column, dtype=object))
