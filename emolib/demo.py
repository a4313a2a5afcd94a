"""The classifier to try out: type a sentence, pick a drawn face or draw one, and see both witnesses and their answer.

Drawn faces only: nobody's picture is needed. Without an exported classifier (profile `published`) what was asked once is
replayed. Torch is needed only where a classifier is loaded.
"""

from __future__ import annotations

import hashlib
import io
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure, SubFigure

from emolib import fusion, profiles, report, sample
from emolib.labels import FACE_CLASSES, SHARED_CLASSES
from emolib.profiles import Profile
from emolib.records import Facts

# One of each shared emotion, with words that the sample's language has, too; the last names two feelings.
SENTENCES = (
    "i feel so lonely since she moved away", "i am feeling happy now that it is over", "i feel angry about the new boss",
    "i feel scared before i go to sleep", "i feel surprised after reading the message",
    "i used to feel happy about my job but now i feel sad",
)  # fmt: skip
# What a reader can draw with: action units that move together.
SLIDERS = {
    "eyebrows up": (1, 2), "frown": (4,), "eyes wide open": (5,), "smile": (6, 12), "mouth corners down": (15,),
    "nose wrinkled": (9, 10), "mouth open": (26,),
}  # fmt: skip
NONE, OWN = "(none)", "draw one"
SCENES = (("happy", 1), ("happy", 0), (None, 5), ("surprise", None))  # a face and the number of a sentence
_WHO = sample.people(np.random.default_rng(17), 1)


def folder(profile: Profile) -> Path:
    """Where notebook 5 writes the profile's classifier."""
    return profiles.out_folder(profile) / "export" / "emotion-fusion"


def face(action: dict[int, float]) -> np.ndarray:
    """One and the same drawn person with these action units, {number: intensity in [0, 1]}: (48, 48) uint8."""
    amounts = np.array([[action.get(unit, 0.0) for unit in sample.UNITS]])
    return sample.draw(np.random.default_rng(5), _WHO, amounts)[0]


def ask(classifier) -> Facts:
    """What an `EmotionClassifier` says about the seven drawn faces and the sentences.

    arrays: "face" (7, 5) and "text" (M, 5), each cue's posterior of the shared classes; "prior" (5,), from which fusion starts.
    """
    pictures = [face(sample.ACTION_UNITS[name]) for name in FACE_CLASSES]
    texts = [*[None] * len(pictures), *SENTENCES]
    _, faces, said, *_ = classifier.posteriors(texts, [*pictures, *[None] * len(SENTENCES)])
    arrays = {"face": faces[: len(pictures)], "text": said[len(pictures) :], "prior": classifier.prior}
    digest = hashlib.sha256(b"".join(p.tobytes() for p in pictures) + "\n".join(SENTENCES).encode())
    return Facts(digest.hexdigest(), f"{len(pictures)} drawn faces and {len(SENTENCES)} sentences of our own", {}, arrays)


def recorded(found: Facts, name: str | None, number: int | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The recorded posteriors (5,) of a drawn face and of a sentence; None for a cue that is missing."""
    seen = None if name is None else found.arrays["face"][FACE_CLASSES.index(name)]
    return seen, None if number is None else found.arrays["text"][number]


def fused(seen: np.ndarray | None, said: np.ndarray | None, prior: np.ndarray) -> tuple[np.ndarray, float | None]:
    """(5,) posterior of both cues and the conflict score; a cue that is missing is None, and then so is the score."""
    rows = [np.full((1, len(prior)), np.nan) if p is None else p[None] for p in (seen, said)]
    score = fusion.conflict(*rows, prior)[0]
    both = fusion.fuse(lambda f, t: fusion.product(f, t, prior), *rows, prior)[0]
    return both, None if np.isnan(score) else float(score)


def scenes(found: Facts) -> Figure:
    """Cues that agree, that disagree, and each alone: `SCENES`, one a row. found: of `ask`."""
    fig = plt.figure(figsize=(7.6, 1.75 * len(SCENES)))
    for part, (name, number) in zip(fig.subfigures(len(SCENES), 1), SCENES, strict=True):
        seen, said = recorded(found, name, number)
        picture = None if name is None else face(sample.ACTION_UNITS[name])
        show(part, picture, None if number is None else SENTENCES[number], seen, said, found.arrays["prior"])
    return fig


def show(part: Figure | SubFigure, picture, sentence: str | None, seen, said, prior: np.ndarray) -> None:
    """One answer: the drawn face, the sentence, and the posteriors of each and of both."""
    left, middle, right = part.subplots(1, 3, width_ratios=(1, 1.5, 3))
    for ax in (left, middle):
        ax.axis("off")
    if picture is None:
        left.text(0.5, 0.5, "no face", ha="center", va="center", color="0.5")
    else:
        left.imshow(picture, cmap="gray", vmin=0, vmax=255)
    middle.text(0.5, 0.5, textwrap.fill(f"“{sentence}”", 22) if sentence else "no text", ha="center", va="center",
                color="black" if sentence else "0.5")  # fmt: skip
    both, score = fused(seen, said, prior)
    bars = {"face": (seen, report.LINES[1]), "text": (said, report.LINES[0]), "both": (both, "black")}
    places = np.arange(len(SHARED_CLASSES))
    for i, (name, (probs, colour)) in enumerate(bars.items()):
        if probs is not None:
            right.bar(places + 0.27 * (i - 1), 100 * probs, 0.25, color=colour, label=name)
    right.set(xticks=places, xticklabels=SHARED_CLASSES, xlim=(-0.5, len(places) - 0.5), title=verdict(both, score))
    right.set(ylim=(0, 130), yticks=(0, 50, 100), ylabel="posterior (%)")  # above 100 lies the legend
    right.grid(axis="x", visible=False)
    right.legend(fontsize=7, ncols=3, loc="upper center")


def verdict(both: np.ndarray, score: float | None) -> str:
    """ "joy 93 %, conflict score 4 %" """
    conflict = "" if score is None else f", conflict score {report.percent(score, 0)} %"
    return f"{SHARED_CLASSES[int(both.argmax())]} {report.percent(both.max(), 0)} %{conflict}"


def told(found: Facts) -> str:
    """What `scenes` shows, in words."""
    parts = []
    for name, number in SCENES:
        seen, said = recorded(found, name, number)
        cues = [f"a {name} face" if name else "no face", f"“{SENTENCES[number]}”" if number is not None else "no text"]
        parts.append(f"- {' and '.join(cues)}: {verdict(*fused(seen, said, found.arrays['prior']))}")
    return "\n".join(parts)


def play(found: Facts, profile: Profile):
    """Widgets: a sentence, a face, the answer. Needs a live notebook; elsewhere `scenes` is the picture to look at.

    With the classifier that the profile has exported any sentence can be typed and any face be drawn; without it, choose from
    what was asked when the record was made.
    """
    import ipywidgets as widgets

    live = None if profile.replays or not folder(profile).is_dir() else _load(profile)
    own = {name: widgets.FloatSlider(0, min=0, max=1, step=0.1, description=name, continuous_update=False) for name in SLIDERS}
    names = [NONE, *FACE_CLASSES, *([OWN] if live else [])]
    which = widgets.Dropdown(options=names, value="happy", description="face")
    if live:
        words = widgets.Textarea(SENTENCES[0], description="text", continuous_update=False)
        note = "Type a sentence, or leave it empty; pick a face, or draw one."
    else:
        words = widgets.Dropdown(options=[NONE, *SENTENCES], value=SENTENCES[0], description="text")
        command = f"python -m emolib run --profile {profile.replays or profile.name}"
        note = f"Choose a sentence and a face. To type and draw, this profile's classifier is needed: {command}"
    for control in (words, which):
        control.layout.width = "min(32rem, 95%)"
    drawing, picture = widgets.VBox(list(own.values())), widgets.Image(format="png", layout={"max_width": "100%"})

    def update(_=None):
        drawing.layout.display = None if which.value == OWN else "none"
        action = sample.ACTION_UNITS.get(which.value)
        if which.value == OWN:
            action = {unit: slider.value for name, slider in own.items() for unit in SLIDERS[name]}
        sentence = words.value.strip() if words.value != NONE else ""
        picture.value = _png(found, live, which.value, action, sentence or None)

    for control in (words, which, *own.values()):
        control.observe(update, "value")
    update()
    return widgets.VBox([widgets.Label(note), words, which, drawing, picture])


def _load(profile: Profile):
    from emolib.classifier import EmotionClassifier

    return EmotionClassifier.from_pretrained(folder(profile), precision=profile.precision)


def _png(found: Facts, live, name: str, action: dict[int, float] | None, sentence: str | None) -> bytes:
    """The answer as a picture; a line of text where there is nothing to answer."""
    drawn = None if action is None else face(action)
    fig = plt.figure(figsize=(7.6, 1.9))
    if drawn is None and sentence is None:
        fig.text(0.5, 0.5, "a face or a text, please", ha="center")
    elif live:
        _, seen, said, *_ = (rows[0] for rows in live.posteriors([sentence], [drawn]))
        cues = [None if missing is None else probs for missing, probs in ((drawn, seen), (sentence, said))]
        show(fig, drawn, sentence, *cues, live.prior)
    else:
        number = None if sentence is None else SENTENCES.index(sentence)
        seen, said = recorded(found, None if drawn is None else name, number)
        show(fig, drawn, sentence, seen, said, found.arrays["prior"])
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png")
    plt.close(fig)
    return buffer.getvalue()
