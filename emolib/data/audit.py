"""What one must know of a data set before trusting a score on it: duplicates, leaks, labels, votes; splits free of leaks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import StratifiedGroupKFold
from tqdm import tqdm

from emolib.data.dataset import DataError, Dataset, content
from emolib.data.labels import FACE_CLASSES, FERPLUS_COLUMNS, FERPLUS_TO_FACE, SPLITS
from emolib.data.pairing import tokens
from emolib.data.pictures import SIDE, grey_pixels


def audit(data: Dataset, voted: bool | None = None) -> tuple[dict, dict]:
    """Counts (notes) and arrays for a record, by the columns that are there; no single picture or sentence among them.

    voted: whether there are votes, for the record alone: they are no part of the data's fingerprint.
    arrays, of the held-out items in the order of every record: "ids"; "group" (N,), equal for exact and near duplicates;
    "duplicate" (N,) int8, 2 where an earlier split holds an exact duplicate, 1 where it holds a near one, else 0. Items with
    an image and a text are duplicates if they share either.
    """
    groups, pairs = ([find(data, m) for m in data.modalities] for find in (duplicates, near_duplicates))
    near = np.concatenate([some[:, :2] for some in pairs])
    group, linked, held_out = merge(groups), merge(groups, near), data.held_out
    duplicate = np.where(in_earlier_split(data, group), 2, in_earlier_split(data, linked)).astype(np.int8)
    notes = {
        "counts": data.counts().tolist(),
        "duplicates": count_duplicates(data, group),
        "near_duplicates": count_near_duplicates(data, near),
        "exposed": by_split(data, duplicate > 0),
        "dropped_by_cleaning": len(data) - len(clean(data)),
    }
    arrays = {"ids": data.ids[held_out], "group": linked[held_out], "duplicate": duplicate[held_out]}
    if data.images is not None:
        notes |= {"mirrored_near_duplicates": int(pairs[0][:, 2].sum()), "constant": by_split(data, constant(data))}
        notes |= count_votes(data)
        arrays |= {"ferplus": ferplus_labels(data)[held_out], "mean_images": mean_images(data)}
    if data.texts is not None:
        said, arrays["length_counts"] = count_words(data)
        notes |= said
    return notes, arrays


def duplicates(data: Dataset, modality: str) -> np.ndarray:
    """(N,) int: of each item the first row with the same picture, byte for byte, or the same text, but for case and spaces."""
    items = data.images if modality == "image" else [" ".join(text.lower().split()) for text in data.texts]
    first: dict[bytes, int] = {}  # by checksum: photographs would fill the memory
    return np.array([first.setdefault(hashlib.sha256(content(item)).digest(), row) for row, item in enumerate(items)], dtype=int)


def near_duplicates(data: Dataset, modality: str, **limits) -> np.ndarray:
    """Pairs of different items that look or read the same: rows first < second, (P, 2); of images (P, 3), 1 if mirrored."""
    return (near_images if modality == "image" else near_texts)(data, **limits)


def near_images(data: Dataset, *, coarse: float = 0.94, fine: float = 0.90, block: int = 2048) -> np.ndarray:
    """Pairs of different pictures that look the same, mirrored or not: (P, 3) rows first < second, and 1 if only mirrored.

    Two pictures count if their 16x16 block means correlate at `coarse` or more and all their pixels at `fine` or more: the same
    photograph after a change of light, contrast or compression, a water mark, a shift of a pixel. Of 48 pairs of FER-2013
    drawn just above these limits and looked at on a contact sheet, all seemed the same photograph; just below, two of 16 did
    not. One matrix product; constant pictures have none.
    """
    pixels, pairs = squares(data), []
    means = unit(pixels.reshape(len(pixels), 16, pixels.shape[1] // 16, 16, -1).mean((2, 4), dtype=np.float32))
    mirrored = means.reshape(-1, 16, 16)[:, :, ::-1].reshape(len(means), -1)
    for start in tqdm(range(0, len(means), block), desc="near duplicates", unit="block", leave=False):
        for flip, other in ((0, means), (1, mirrored)):
            first, second = np.nonzero(means[start : start + block] @ other[start:].T >= coarse)
            keep = first < second
            pairs.append(np.stack([first[keep] + start, second[keep] + start, np.full(keep.sum(), flip)], 1))
    found = np.concatenate(pairs)
    # Sorted, a pair that matches both ways comes unmirrored first, and that one is kept.
    found = found[np.lexsort(found.T[::-1])]
    found = found[np.unique(found[:, :2], axis=0, return_index=True)[1]]
    group = duplicates(data, "image")
    found = found[group[found[:, 0]] != group[found[:, 1]]]
    second = pixels[found[:, 1]]
    second = np.where(found[:, 2, None, None] == 1, second[:, :, ::-1], second)
    return found[(unit(pixels[found[:, 0]]) * unit(second)).sum(1) >= fine]


def near_texts(data: Dataset, *, jaccard: float = 0.8, block: int = 500) -> np.ndarray:
    """Pairs of different texts that share most of their words: (P, 2) row numbers, first < second.

    jaccard: smallest |A and B| / |A or B| of the two word sets.
    """
    bags = CountVectorizer(analyzer=tokens, binary=True, dtype=np.float32).fit_transform(data.texts)
    size, turned, group = np.diff(bags.indptr), bags.T.tocsr(), duplicates(data, "text")
    pairs = []
    for start in range(0, len(data), block):
        shared = (bags[start : start + block] @ turned[:, start:]).tocoo()
        first, second = shared.row + start, shared.col + start
        union = size[first] + size[second] - shared.data
        keep = (first < second) & (shared.data >= jaccard * union)
        pairs.append(np.stack([first[keep], second[keep]], 1))
    found = np.unique(np.concatenate(pairs), axis=0)
    return found[group[found[:, 0]] != group[found[:, 1]]]


def squares(data: Dataset) -> np.ndarray:
    """(N, S, S) uint8 grey: pictures as they are where they are a grey array with S a multiple of 16, else resized to 48."""
    pixels = grey_pixels(data.images)
    return pixels if pixels.shape[1] % 16 == 0 else grey_pixels(pixels, SIDE)


def unit(pictures: np.ndarray) -> np.ndarray:
    """Pictures as vectors of mean 0 and length 1, so that products are correlations; constant ones as zeros."""
    flat = pictures.reshape(len(pictures), np.prod(pictures.shape[1:], dtype=int)).astype(np.float32)
    flat = flat - flat.mean(1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.divide(flat, length, out=np.zeros_like(flat), where=length > 1e-3)


def constant(data: Dataset) -> np.ndarray:
    """(N,) bool: pictures of one single grey value."""
    flat = squares(data).reshape(len(data), -1)
    return flat.min(1) == flat.max(1)


def leaks(data: Dataset) -> np.ndarray:
    """(N,) bool: Training items whose image or text occurs in validation or test as well."""
    train = data.split == "train"
    groups = [duplicates(data, modality) for modality in data.modalities]
    return train & np.any([np.isin(group, group[~train]) for group in groups], axis=0)


def clean(data: Dataset) -> Dataset:
    """Training without exact duplicates of held-out items and without constant pictures; the rest is untouched."""
    blank = constant(data) if data.images is not None else np.zeros(len(data), bool)
    return data.select(~(leaks(data) | (blank & (data.split == "train"))))


def draw_splits(data: Dataset, splits: Sequence[str] = SPLITS[1:], *, folds: int = 7) -> Dataset:
    """The data with those of the splits that it lacks drawn from Training: a seventh each, classes alike, duplicates together.

    Duplicates are the same picture, where there are none the same text; near ones, which may link everything to everything,
    are counted by `audit`. Without Training nothing is drawn. Always the same for the same data. Raises DataError where a class
    is too small to be in each split.
    """
    lacking = [split for split in splits if split not in data.split]
    if not lacking or "train" not in data.split:
        return data
    train = data.part("train")
    group = duplicates(train, train.modalities[0])
    found, rows = data.split.astype("U10"), np.flatnonzero(data.split == "train")
    first = np.unique(group, return_index=True)[1]
    if (counts := np.bincount(train.labels[first], minlength=len(data.classes))).min(initial=folds) < folds:
        few = int(counts.argmin())
        raise DataError(
            f"{data.source}: {counts[few]} different items of the class {data.classes[few]}, wanted {folds} or more to draw "
            f"{' and '.join(lacking)} from; add some, leave the class out, or give the splits yourself"
        )
    parts = StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(group, train.labels, group)
    for split, (_, chosen) in zip(lacking, parts, strict=False):
        found[rows[chosen]] = split
    source = f"{data.source}, {' and '.join(lacking)} drawn from Training (a seventh each, duplicates together)"
    return replace(data, split=found, source=source)


def merge(groups: list[np.ndarray], pairs: np.ndarray | None = None) -> np.ndarray:
    """(N,) int: items that share a number in any of the `duplicates`, or that a pair of rows (P, 2) joins, share one."""
    n = len(groups[0])
    edges = [np.stack([np.arange(n), group], 1) for group in groups] + ([] if pairs is None else [pairs])
    rows, columns = np.concatenate(edges).T
    return connected_components(sparse.coo_matrix((np.ones(len(rows)), (rows, columns)), (n, n)), directed=False)[1]


def in_earlier_split(data: Dataset, group: np.ndarray) -> np.ndarray:
    """(N,) bool: items whose group occurs in an earlier split; Training comes before validation before test."""
    rank = np.array([SPLITS.index(split) for split in data.split], dtype=int)
    first = np.full(group.max(initial=0) + 1, len(SPLITS))
    np.minimum.at(first, group, rank)
    return first[group] < rank


def by_split(data: Dataset, which: np.ndarray) -> list[int]:
    """How many items of a mask lie in each split."""
    return [int(which[data.split == split].sum()) for split in SPLITS]


def count_duplicates(data: Dataset, group: np.ndarray) -> dict:
    """Content that recurs: how much of it inside each split and across each two, and with how many different labels.

    Counts for each split: surplus rows (copies beyond the first), groups, and groups whose rows disagree on the label; for each
    two splits: rows of the later one with a duplicate in the earlier, and how many of these have one there with another label.
    """
    distinct = len(np.unique(group))
    found: dict = {"distinct": distinct, "surplus": len(group) - distinct, "conflicting_groups": conflicts(group, data.labels)}
    for split in SPLITS:
        inside = data.split == split
        sizes = np.bincount(group[inside])
        found[split] = {
            "surplus": int(inside.sum() - (sizes > 0).sum()),
            "groups": int((sizes > 1).sum()),
            "conflicting_groups": conflicts(group[inside], data.labels[inside]),
        }
    for early, late in combinations(SPLITS, 2):
        known: dict[int, set] = {}
        for number, label in zip(group[data.split == early], data.labels[data.split == early], strict=True):
            known.setdefault(number, set()).add(label)
        rows = [row for row in np.flatnonzero(data.split == late) if group[row] in known]
        others = [row for row in rows if known[group[row]] - {data.labels[row]}]
        found[f"{early}-{late}"] = {"rows": len(rows), "conflicting_rows": len(others)}
    return found


def conflicts(group: np.ndarray, labels: np.ndarray) -> int:
    """Groups whose rows carry more than one label."""
    pairs = np.unique(np.stack([group, labels], 1), axis=0)
    return int((np.bincount(pairs[:, 0]) > 1).sum())


def count_near_duplicates(data: Dataset, pairs: np.ndarray) -> dict:
    """Pairs in all, and for each two splits the later split's rows that have one in the earlier."""
    found = {"pairs": len(pairs)}
    both = np.concatenate([pairs, pairs[:, ::-1]])
    for early, late in combinations(SPLITS, 2):
        found[f"{early}-{late}"] = len(np.unique(both[(data.split[both] == (early, late)).all(1), 1]))
    return found


def ferplus_labels(data: Dataset) -> np.ndarray:
    """(N,) int: the face class that more than half of the ten FER+ annotators chose, -1 where there is none."""
    if not voted(data):
        return np.full(len(data), -1)
    votes = data.extras["votes"]
    to_class = np.array([FACE_CLASSES.index(FERPLUS_TO_FACE[c]) if c in FERPLUS_TO_FACE else -1 for c in FERPLUS_COLUMNS])
    return np.where(votes.max(1) * 2 > votes.sum(1), to_class[votes.argmax(1)], -1)


def voted(data: Dataset) -> bool:
    """Whether there are FER+ votes for the face classes."""
    return "votes" in data.extras and data.classes == FACE_CLASSES


def count_votes(data: Dataset) -> dict:
    """How often FER+'s annotators saw no face, or the label; None where there are no votes."""
    if not voted(data):
        return dict.fromkeys(("not_a_face", "agreement", "agreement_all", "agreement_matrix"))
    winner = data.extras["votes"].argmax(1)
    matrix = np.zeros((len(FACE_CLASSES), len(FERPLUS_COLUMNS)), int)
    np.add.at(matrix, (data.labels, winner), 1)
    same = np.array([FERPLUS_TO_FACE.get(c) for c in FERPLUS_COLUMNS])[winner] == np.array(FACE_CLASSES)[data.labels]
    return {
        "not_a_face": by_split(data, data.extras["votes"][:, -1] == 10),
        "agreement": [float(same[data.split == s].mean()) for s in SPLITS],
        "agreement_all": float(same.mean()),
        "agreement_matrix": matrix.tolist(),
    }


def mean_images(data: Dataset) -> np.ndarray:
    """(K, S, S) float32: the mean Training picture of each class, zeros where it has none."""
    pixels, train = squares(data), data.split == "train"
    rows = [np.flatnonzero(train & (data.labels == label)) for label in range(len(data.classes))]
    return np.stack([pixels[r].mean(0) if len(r) else np.zeros(pixels.shape[1:]) for r in rows]).astype(np.float32)


def count_words(data: Dataset) -> tuple[dict, np.ndarray]:
    """Words: shares and percentiles for the notes, and how many texts have 0, 1, ... words."""
    words = [tokens(text) for text in data.texts]
    length = np.array([len(w) for w in words])
    notes = {
        "feel": float(np.mean([any(w.startswith("feel") or w == "felt" for w in ws) for ws in words])),
        "markup": int(sum("http" in text or "href" in text for text in data.texts)),
        "words": {str(q): float(np.percentile(length, q)) for q in (50, 90, 99, 100)},
        "top_terms": top_terms(data.part("train")),
    }
    return notes, np.bincount(length)


def top_terms(train: Dataset, *, count: int = 8) -> dict[str, list[str]]:
    """The words that tell each class from the others: log odds over their standard error, shrunk to the common frequency.

    Source: Monroe, Colaresi and Quinn 2008, Political Analysis 16(4), eq. 22, informative prior worth 500 words.
    """
    counter = CountVectorizer(analyzer=tokens, binary=True)
    bags, names = counter.fit_transform(train.texts), counter.get_feature_names_out()
    counts = np.stack([np.asarray(bags[train.labels == label].sum(0))[0] for label in range(len(train.classes))])
    total, found = counts.sum(0), {}
    prior = 500 * total / total.sum()
    for label, name in enumerate(train.classes):
        own, rest = counts[label] + prior, total - counts[label] + prior
        odds = np.log(own / (own.sum() - own)) - np.log(rest / (rest.sum() - rest))
        found[name] = names[np.argsort(-odds / np.sqrt(1 / own + 1 / rest), kind="stable")[:count]].tolist()
    return found
