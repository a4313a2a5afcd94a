"""The four sizes of the study. A profile is configuration only: frozen, comparable, free of torch."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Fit:
    """One training run: optimiser, schedule, regularisation, early stop."""

    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: str = "adamw"  # or "sgd", with Nesterov momentum 0.9
    weight_decay: float = 0.01
    label_smoothing: float = 0.1
    warmup: float = 0.2  # share of the steps on which the rate rises; it then falls to zero along a cosine
    ema: float = 0.0  # decay of the weight average that is evaluated; 0 evaluates the weights themselves
    patience: int = 5  # epochs without a better validation accuracy before the run stops
    clip_norm: float = 1.0


@dataclass(frozen=True)
class Recurrent:
    """A bidirectional LSTM or GRU over words."""

    fit: Fit
    seeds: tuple[int, ...] = (0, 1, 2)
    embedding: int = 200
    hidden: int = 128
    dropout: float = 0.5
    word_dropout: float = 0.1
    min_count: int = 2
    max_length: int = 66  # the longest text of the DAIR-AI set has 66 words


@dataclass(frozen=True)
class Convolutional:
    """A residual network for 48x48 grey faces."""

    fit: Fit
    seeds: tuple[int, ...] = (0,)
    stem: int = 24
    widths: tuple[int, ...] = (48, 96, 192, 384)
    blocks: tuple[int, ...] = (2, 2, 2, 1)
    dropout: float = 0.2
    # (share of the epochs, side in pixels): small pictures first are cheap and teach the coarse features.
    sizes: tuple[tuple[float, int], ...] = ((0.65, 32), (0.35, 44))
    augment: float = 1.0  # strength of turns, scales, shifts and light changes; 0 leaves only the mirror
    erase: float = 0.1  # share of the training pictures that lose a random rectangle


@dataclass(frozen=True)
class Clip:
    """A dual encoder of `transformers`, and how pictures and texts reach it."""

    source: str  # a folder (of the repository or of EMOLIB_DATA) or a Hub id; the variable EMOLIB_CLIP names another
    says: str = field(default="", compare=False)  # what it is, for the head of each page; no record depends on it
    revision: str | None = None  # of a Hub id
    image_size: int | None = None  # pixels; None is the checkpoint's own; others interpolate the position embeddings
    batch_size: int = 64
    elsewhere: bool = True  # whether EMOLIB_CLIP may name another


@dataclass(frozen=True)
class Tuning:
    """One way of training a dual encoder further."""

    fit: Fit
    seeds: tuple[int, ...] = (0,)
    kept: tuple[int, ...] = field(default=(0,), compare=False)  # seeds whose model is kept, the first among them
    rank: int = 0  # of LoRA's matrices; 0 trains the weights themselves
    patches: float = 1.0  # share of the picture's patches that a training step sees (Li et al. 2023, arXiv:2212.00794)
    augment: float = 0.5
    erase: float = 0.1
    drop: float = field(default=0.0, metadata={"unsaid": 0.0})  # share of a text's tokens that a training step leaves out

    def at(self, rate: float, rank: int | None = None) -> Tuning:
        """The same with another learning rate, and where one is given another rank of LoRA."""
        return replace(self, fit=replace(self.fit, learning_rate=rate), rank=self.rank if rank is None else rank)


@dataclass(frozen=True)
class Search:
    """Short trainings on validation, on the first seed, from which a training's learning rate is chosen."""

    factors: tuple[float, ...] = (1 / 3, 1, 3)  # of the rate in the training's own settings, each as far from the next
    # More rates, tried one by one, as long as the best one is the lowest or highest; a record that says nothing tried none.
    beyond: int = field(default=2, metadata={"unsaid": 0})
    epochs: int = 2
    rows: int = 8000  # Training and validation items, as many of each; few favour rates too low for many


@dataclass(frozen=True)
class Generality:
    """How what the fine-tuned encoders still know is measured."""

    alphas: tuple[float, ...] = tuple(i / 10 for i in range(11))  # of WiSE-FT: 0 is the pretrained encoder
    faces: int | None = None  # validation faces judged at each alpha; None is all of them
    pairs: int | None = None  # pictures with captions for retrieval; None is all of them


@dataclass(frozen=True)
class Frozen:
    """What is asked of the pretrained encoder."""

    sizes: tuple[int, ...] = ()  # picture sizes whose features are compared
    size_rows: int = 2000  # Training faces, and as many validation faces, of that comparison
    shots: tuple[int, ...] = (1, 4, 16, 64)  # Training items a class
    shot_seeds: int = 5  # draws of them


@dataclass(frozen=True)
class Fusion:
    """Networks that see both modalities of a pair, on frozen features, and what is asked of them."""

    fit: Fit
    seeds: tuple[int, ...] = tuple(range(10))  # some comparisons lie near the limit of what can be shown, and a run is cheap
    width: int = 128
    dropout: float = 0.2
    drop: float = 0.2  # share of the training pairs that lose one modality (modality dropout)
    pairings: int = 200  # re-pairings of the test pairs
    emap: int = 300  # test pairs of which every face meets every text


@dataclass(frozen=True)
class Work:
    """How and where a step computes: nothing of it changes what is computed, but for rounding.

    folder: for checkpoints and models; None keeps neither. step: the name under which they are kept there.
    """

    precision: str = "auto"
    threads: int | None = None
    folder: Path | None = None
    step: str = "step"

    def checkpoint(self, seed: int) -> Path | None:
        """The file from which a killed training goes on."""
        return self.folder and self.folder / "checkpoints" / self.step / f"seed-{seed}.safetensors"

    def model(self, step: str | None = None, seed: int = 0) -> Path:
        """Where the trained model of this step (or of another) lies, of one seed; ValueError where nothing is kept."""
        if self.folder is None:
            raise ValueError("this work keeps no models; give it a folder: Work(folder=Path(...))")
        return self.folder / "models" / f"{step or self.step}{f'-seed-{seed}' if seed else ''}.safetensors"


@dataclass(frozen=True)
class Profile:
    """Everything a run depends on. `replays` names the profile whose records are shown instead of computing."""

    name: str
    says: str  # one sentence for the head of each page
    replays: str | None = None
    precision: str = "float32"  # "float64", "float32", "bfloat16" (autocast), "auto" (16 bits where the machine is fast in them)
    threads: int | None = None
    generated: bool = False  # rows of data/sample; else of the folder EMOLIB_DATA, then (some) of the Hub
    lstm: Recurrent | None = None
    gru: Recurrent | None = None
    cnn: Convolutional | None = None
    clip: Clip | None = None
    frozen: Frozen = field(default_factory=Frozen)
    lora: Tuning | None = None  # four ways to fine-tune on faces
    full: Tuning | None = None
    lpft: Tuning | None = None
    flyp: Tuning | None = None
    ranks: tuple[int, ...] = (2, 8, 32)  # of LoRA, tried at the best rate of its own rank
    search: Search = field(default_factory=Search)
    texts: Tuning | None = None  # of the text encoder, by LP-FT
    genuine: Tuning | None = None  # of the encoder on genuine pairs
    own: Tuning | None = None  # of the encoder on the reader's own data
    generality: Generality | None = None
    fusion: Fusion | None = None

    def work(self, step: str = "step") -> Work:
        """How and where the step of that name computes."""
        return Work(self.precision, self.threads, out_folder(self), step)


_SAMPLE_SEARCH = Search(factors=(1 / 3, 1), beyond=0, epochs=1, rows=300)
_SAMPLE_TEXT = Recurrent(
    seeds=(0, 1), fit=Fit(epochs=6, batch_size=64, learning_rate=1e-2, warmup=0.1), embedding=32, hidden=24, dropout=0.3
)
_TEXT = Recurrent(fit=Fit(epochs=7, batch_size=64, learning_rate=2e-3, warmup=0.1, ema=0.995))
_SAMPLE_CNN = Convolutional(
    fit=Fit(epochs=10, batch_size=32, learning_rate=1e-2, weight_decay=1e-3, warmup=0.1, ema=0.95, label_smoothing=0.05),
    stem=8, widths=(16, 32, 64), blocks=(1, 1, 1), dropout=0.0, sizes=((1.0, 16),), augment=0.2, erase=0.0,
)  # fmt: skip
_CNN = Convolutional(
    fit=Fit(
        epochs=60, batch_size=64, learning_rate=0.05, optimizer="sgd", weight_decay=5e-4, warmup=0.1, ema=0.999,
        patience=20, clip_norm=5.0,
    ),
    seeds=(0, 1, 2),
)  # fmt: skip


def _tuning(rate: float, *, epochs: int, ema: float = 0.0, **more) -> Tuning:
    """Fine-tuning of an encoder: AdamW with the settings that all ways share."""
    fit = Fit(epochs, 64, rate, weight_decay=0.05, warmup=0.1, label_smoothing=0.05, ema=ema)
    return Tuning(fit, **more)


def _ways(rate: float, *, epochs: int, each: dict[str, dict], **more) -> dict[str, Tuning]:
    """Every way of fine-tuning, with the same budget; LoRA's rate is ten times as high, its matrices start at zero.

    each: what single ways have of their own, the seeds trained or kept.
    """
    methods = ("full", "lora", "lpft", "flyp")  # this module knows nothing of the library
    ways = {method: _tuning(rate, epochs=epochs, **more | each.get(method, {})) for method in methods}
    return ways | {"lora": ways["lora"].at(10 * rate, rank=8)}


def _fusion(rate: float, *, epochs: int, **more) -> Fusion:
    """Small networks on frozen features: AdamW, the epoch with the best validation accuracy."""
    return Fusion(Fit(epochs=epochs, batch_size=64, learning_rate=rate, weight_decay=0.05, warmup=0.1), **more)


_THREE = {"seeds": (0, 1, 2), "kept": (0, 1, 2)}
_COARSE = (0.0, 0.25, 0.5, 0.75, 1.0)
_SAMPLE_CLIP = Clip(
    "data/sample/clip-tiny", "Its encoder is a tiny CLIP, pretrained on drawn people with captions.", elsewhere=False
)
_MINI_CLIP = Clip(
    "clip-mini",
    "Its encoder is clip-mini, 31.8 M parameters in CLIP's layout: **not OpenAI's CLIP**, and no number of it says anything "
    "about OpenAI's. FER-2013 and DAIR-AI Emotion it had never seen; MSED and GoEmotions are **in-domain** for it: their "
    "training items were part of its own, and MSED's validation pairs stopped its training. What it was made from: README.",
    image_size=160,
)
_FULL_CLIP = Clip(
    "openai/clip-vit-base-patch32", "Its encoder is OpenAI's CLIP ViT-B/32.",
    revision="c237dc49a33fc61debc9276459120b7eac67e7ef",  # the Hub's own conversion of the weights to safetensors
    batch_size=256,
)  # fmt: skip

PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "sample",
            "Generated faces and sentences, tiny models: it shows that the study runs, and says nothing about people.",
            precision="float64", threads=1, generated=True,
            lstm=_SAMPLE_TEXT, gru=_SAMPLE_TEXT, cnn=_SAMPLE_CNN, clip=_SAMPLE_CLIP,
            **_ways(5e-4, epochs=2, each={"lpft": {"seeds": (0, 1), "kept": (0, 1)}}, augment=0.2, erase=0.0), ranks=(8, 16),
            texts=_tuning(2e-3, epochs=2),
            genuine=_tuning(5e-4, epochs=1, augment=0.2, erase=0.0),
            own=_tuning(5e-3, epochs=6, rank=8, augment=0.2, erase=0.0),
            search=_SAMPLE_SEARCH,
            frozen=Frozen(sizes=(32, 48, 64), size_rows=200, shot_seeds=2),
            generality=Generality(alphas=_COARSE, faces=150, pairs=150),
            fusion=_fusion(5e-3, epochs=6, seeds=(0,), width=32, pairings=50, emap=40),
        ),
        Profile(
            "mini",
            "Models sized for two CPU cores; real data: DAIR-AI Emotion, FER-2013, MSED (notebook 6: yours, or drawn skies).",
            precision="auto", lstm=_TEXT, gru=_TEXT, cnn=_CNN, clip=_MINI_CLIP,
            **_ways(1e-4, epochs=6, ema=0.998, patches=0.4, each={}, **_THREE),
            texts=_tuning(3e-4, epochs=5, ema=0.99, drop=0.1, seeds=(0, 1, 2)),
            genuine=_tuning(1e-4, epochs=3, ema=0.99, patches=0.75, augment=0.2, erase=0.0, seeds=(0, 1, 2)),
            own=_tuning(1e-3, epochs=15, rank=8), frozen=Frozen(sizes=(112, 144, 160, 192, 224), size_rows=1500),
            generality=Generality(alphas=(0.0, 0.1, 0.25, 0.5, 1.0), faces=500, pairs=1000),
            fusion=_fusion(1e-3, epochs=15),
        ),
        Profile(
            "full",
            "Models sized for one GPU; real data: DAIR-AI Emotion, FER-2013, MSED (notebook 6: yours, or drawn skies).",
            precision="auto", lstm=_TEXT, gru=_TEXT, cnn=replace(_CNN, sizes=((0.5, 32), (0.5, 44))),
            clip=_FULL_CLIP,
            **_ways(1e-5, epochs=6, each={"lpft": _THREE}),
            texts=_tuning(1e-5, epochs=5, seeds=(0, 1, 2)),
            genuine=_tuning(1e-5, epochs=5, seeds=(0, 1, 2)),
            own=_tuning(1e-4, epochs=15, rank=8), frozen=Frozen(sizes=(96, 128, 160, 224)), generality=Generality(),
            fusion=_fusion(1e-3, epochs=15),
        ),
        Profile("published", "Replayed from the records in data/records.", replays="mini"),
    )
}  # fmt: skip


def get(name: str) -> Profile:
    """The profile of that name; ValueError lists the choices."""
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}; choose from {', '.join(PROFILES)}")
    return PROFILES[name]


def data_folder() -> Path:
    """Where the real data sets lie: the environment variable EMOLIB_DATA, else data/raw."""
    return Path(os.environ.get("EMOLIB_DATA", ROOT / "data" / "raw"))


def out_folder(profile: Profile) -> Path:
    """Executed notebooks, checkpoints and the report: EMOLIB_OUT (set by the runner), else runs/<profile>."""
    return Path(os.environ.get("EMOLIB_OUT", ROOT / "runs" / profile.name))
