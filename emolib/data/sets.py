"""The study's data sets by profile: generated, from EMOLIB_DATA or from the Hub, each made once a process; the reader's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, wraps
from pathlib import Path

import numpy as np

from emolib.data import audit, official, pairing, readers
from emolib.data.dataset import DataError, Dataset, MissingData, column
from emolib.data.files import read_file
from emolib.data.labels import CIFAR_CLASSES, FACE_CLASSES, SHARED_CLASSES, SPLITS, TEXT_CLASSES
from emolib.profiles import ROOT, Profile, data_folder

SAMPLE = ROOT / "data" / "sample"  # the generated world; make.py there wrote it
FER_FILES = ("fer2013.csv", "fer2013.csv.gz", "icml_face_data.csv")
EMOTION_HUB = "dair-ai/emotion:split@cab853a1dbdf4c42c2b3ef2173804746df8825fe"
CIFAR_HUB = "uoft-cs/cifar10@0b2714987fa478483af9968de7c934580d0bb9a2"
CIFAR_ROWS = 2000  # of the 10,000, where a profile is not `full`
FETCH = "python -m emolib data"
# {set: (folder of EMOLIB_DATA, patterns of which any shows that it is there, the Hub's copy)}
PLACES = {
    "FER-2013": ("fer2013", (*FER_FILES, "train"), official.FER_HUB),
    "FER+ votes": ("fer2013", ("fer2013new.csv",), ""),
    "DAIR-AI Emotion": ("emotion", ("train*",), EMOTION_HUB),
    "MSED": ("msed", ("train*",), ""),
    "GoEmotions": ("goemotions", official.GOEMOTIONS_LISTS, official.GOEMOTIONS_HUB),
    "CIFAR-10": ("cifar10", ("test.parquet",), CIFAR_HUB),
    "Flickr8k": ("flickr8k", (official.FLICKR[1],), ""),
}


def once(load: Callable[[Profile], Dataset]) -> Callable[[Profile], Dataset]:
    """Make a set once a process for each profile and each EMOLIB_DATA."""
    made = cache(lambda profile, folder: load(profile))
    return wraps(load)(lambda profile: made(profile, data_folder()))


def missing(what: str, looked_for: str, folder: Path, how: str) -> MissingData:
    """The error that says where a set was looked for and how to get it."""
    return MissingData(
        f"{what} is not at hand: looked for {looked_for} in {folder}. {how}, or name the folder that holds {folder.name}/: "
        "EMOLIB_DATA=FOLDER python -m emolib run"
    )


def read_drawn(name: str, classes: tuple[str, ...], source: str) -> Dataset:
    """Drawn pictures from data/sample/`name`.npz: pixels, labels, split, perhaps texts; what else is there becomes extras."""
    with np.load(SAMPLE / f"{name}.npz", allow_pickle=False) as file:
        arrays = dict(file)
    images, split = arrays.pop("pixels"), np.array(SPLITS)[arrays.pop("split")]
    texts = column(arrays.pop("texts").tolist()) if "texts" in arrays else None
    numbers = {key: values.astype(int) for key, values in arrays.items()}
    return Dataset(np.arange(len(images)), numbers.pop("labels"), split, classes, source, images, texts, numbers)


@cache
def demo_faces() -> dict[str, np.ndarray]:
    """One and the same drawn person with the expression of each of `FACE_CLASSES`: {class: (48, 48) uint8}."""
    return dict(zip(FACE_CLASSES, read_drawn("demo", FACE_CLASSES, "one drawn person").images, strict=True))


def at_hand(name: str) -> bool:
    """Whether a set of `PLACES` lies in EMOLIB_DATA."""
    folder, patterns, _ = PLACES[name]
    return any(any((data_folder() / folder).glob(pattern)) for pattern in patterns)


def plan(profile: Profile) -> list[str]:
    """Where each real set will come from, a line each: a folder, the Hub, or nowhere."""
    lines = []
    for name, (folder, _, source) in PLACES.items():
        if profile.name != "full":  # which alone takes the copy of FER-2013 that merges two test sets, and Flickr8k
            source = "" if name == "FER-2013" else source
            if name == "Flickr8k":
                continue
        where = f"from the Hub, {source}" if source else f"not at hand, what needs it is left out (to get it: {FETCH})"
        lines.append(f"{name}: {data_folder() / folder if at_hand(name) else where}")
    return lines


@once
def raw_faces(profile: Profile) -> Dataset:
    """Faces in `FACE_CLASSES`, as they come: drawn ones, else FER-2013 with FER+ votes, if at hand, in extras["votes"].

    FER-2013 from EMOLIB_DATA/fer2013 as Kaggle's csv or as class folders, else (`full`) the Hub's copy. Raises MissingData.
    """
    if profile.generated:
        return read_drawn("fer2013/faces", FACE_CLASSES, "drawn faces")
    folder = data_folder() / "fer2013"
    for name in FER_FILES:
        if (folder / name).exists():
            return official.read_pixel_csv(folder / name, votes=folder / "fer2013new.csv")
    if (folder / "train").is_dir():
        parts = {readers.split_named(path.name) for path in folder.iterdir()}
        name = "FER-2013, class folders" if "validation" in parts else official.MERGED
        return readers.read_class_folders(folder, FACE_CLASSES, name=name)
    if profile.name == "full":
        return official.read_fer_hub()
    raise missing(
        "FER-2013", f"{', '.join(FER_FILES)} or folders train/ and test/", folder,
        "Get fer2013.csv from Kaggle (challenges-in-representation-learning-facial-expression-recognition-challenge) and "
        "fer2013new.csv from github.com/microsoft/FERPlus and put both there",
    )  # fmt: skip


@once
def raw_texts(profile: Profile) -> Dataset:
    """Sentences in `TEXT_CLASSES`, as they come: built ones, else DAIR-AI Emotion from EMOLIB_DATA/emotion or the Hub.

    Raises MissingData.
    """
    if profile.generated:
        return readers.read_table(SAMPLE / "emotion", text="text", classes=TEXT_CLASSES, name="built sentences")
    folder = data_folder() / "emotion"
    source = folder if folder.is_dir() else EMOTION_HUB
    try:
        return readers.read_table(source, text="text", classes=TEXT_CLASSES, name="DAIR-AI Emotion")
    except MissingData as error:
        how = f"{error}. Put train, val and test as .txt (text;label), .csv, .jsonl or .parquet there, or ask the Hub"
        raise missing("DAIR-AI Emotion", "its three parts", folder, how) from error


@once
def faces(profile: Profile) -> Dataset:
    """The faces that systems see: Training cleaned."""
    return audit.clean(raw_faces(profile))


@once
def texts(profile: Profile) -> Dataset:
    """The sentences that systems see: Training cleaned."""
    return audit.clean(raw_texts(profile))


@once
def pairs(profile: Profile) -> Dataset:
    """Faces and sentences of one label, matched inside each split."""
    return pairing.match(faces(profile), texts(profile))


@once
def genuine(profile: Profile) -> Dataset:
    """Pairs in which someone wrote about a picture, Training without duplicates of held-out pictures or texts.

    MSED from EMOLIB_DATA/msed; in `sample` drawn faces with sentences, sincere or ironic. Raises MissingData.
    """
    if profile.generated:
        return read_drawn("ironic", ("sincere", "ironic"), "drawn faces with built sentences, sincere or ironic")
    data = msed()
    leak = audit.leaks(data)
    source = f"{data.source}, {leak.sum()} Training pairs with a duplicate in validation or test left out"
    return replace(data.select(~leak), source=source)


@once
def masked(profile: Profile) -> Dataset:
    """The genuine pairs, words that name an emotion taken out of their texts."""
    return pairing.mask_emotion_words(genuine(profile))


def msed() -> Dataset:
    """All of MSED; MissingData says how to get it."""
    folder = data_folder() / "msed"
    try:
        return official.read_msed(folder)
    except MissingData as error:
        how = f"For research, get it: {FETCH}"
        raise missing("MSED", "train, dev and test", folder, how) from error


@once
def captioned(profile: Profile) -> Dataset:
    """Pictures with captions to measure retrieval on, none of them trained on; all rows are "test", of the class "pair".

    `full`: Flickr8k's test pictures. Else MSED's test set, or as many of it as the profile says (the first of a fixed
    shuffle); in `sample` drawn people with extras["tags"] (N, 3) int: glasses, beard, long hair. Raises MissingData.
    """
    count, classes = profile.generality.pairs, ("pair",)
    if profile.generated:
        return read_drawn("captioned", classes, "drawn people with captions").select(slice(count))
    if profile.name == "full":
        return flickr8k(profile)
    test = msed().part("test")
    test = test.select(np.random.default_rng(0).permutation(len(test))[:count])
    texts, n = test.extras["caption"], len(test)
    if len(empty := np.flatnonzero([not text.strip() for text in texts])):
        raise DataError(f"MSED, test: the caption of item {test.ids[empty[0]]} is empty, wanted a sentence")
    return Dataset(np.arange(n), np.zeros(n, int), np.full(n, "test"), classes, f"MSED test, {n} pairs", test.images, texts)


@once
def flickr8k(profile: Profile) -> Dataset:
    """Flickr8k's test pictures with five captions each, see `official.read_flickr8k`. Raises MissingData."""
    folder = data_folder() / "flickr8k"
    try:
        return official.read_flickr8k(folder)
    except MissingData as error:
        raise missing("Flickr8k", " and ".join(official.FLICKR), folder, f"{error}. Get it: {FETCH}") from error


@once
def other_texts(profile: Profile) -> Dataset:
    """Sentences of another origin in the five shared classes: GoEmotions from EMOLIB_DATA or the Hub; `sample`: other frames.

    Raises MissingData.
    """
    if profile.generated:
        name = "built sentences of other frames"
        return readers.read_table(SAMPLE / "other", text="text", classes=SHARED_CLASSES, name=name)
    if at_hand("GoEmotions"):
        return official.read_goemotions(data_folder() / "goemotions")
    try:
        return official.read_goemotions_hub()
    except MissingData as error:
        how = f"{error}. Put emotions.txt and the files of data/ of github.com/google-research/google-research, goemotions, there"
        raise missing("GoEmotions", "emotions.txt and train, dev, test .tsv", data_folder() / "goemotions", how) from error


def own(data: str | Path = "", image: str = "", text: str | tuple[str, ...] = "", label: str = "label", **options) -> Dataset:
    """The reader's own data, see `readers.read`; without any the drawn skies of data/sample, each with a remark."""
    if not data:
        return readers.read(SAMPLE / "weather.parquet", image="image", text="text", name="drawn skies with remarks")
    return readers.read(data, image=image or None, text=text, label=label, **options)


@once
def cifar10(profile: Profile) -> Dataset:
    """CIFAR-10's test pictures, all of them "test": a zero-shot task that is not emotion. Not `full`: 2,000 fixed ones.

    From EMOLIB_DATA/cifar10/test.parquet (img: encoded bytes, label: name), else the Hub. Raises MissingData.
    """
    path = data_folder() / "cifar10" / "test.parquet"
    try:
        parts = [(str(path), read_file(path), path.parent)] if path.exists() else readers.hub_tables(CIFAR_HUB)["test"]
    except MissingData as error:
        raise missing("CIFAR-10", "test.parquet", path.parent, f"{error}. Put its test split there as .parquet") from error
    columns = readers.Columns("img", (), "label")
    data = readers.assemble({"test": parts}, "CIFAR-10, test", columns, CIFAR_CLASSES, SPLITS[:2])
    few = np.sort(np.random.default_rng(0).permutation(len(data))[:CIFAR_ROWS])
    return data if profile.name == "full" else data.select(few)
