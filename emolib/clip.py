"""Any dual encoder of `transformers`: pictures and texts become unit vectors of one space, in which near means alike.

Features are a cache: computed batch by batch, kept by a key of everything that matters, and silently made again.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import io
import json
import math
import os
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.transforms.v2.functional import InterpolationMode, resize
from tqdm import tqdm

from emolib import profiles, store, training
from emolib.items import DataError
from emolib.profiles import ROOT, Profile

SHARD = 2048  # items a cache file
GRID, WORDS = 4, 24  # patches are averaged to a grid of 4 x 4, words to at most 24
PARTS = {"image": ("vision_model", "visual_projection"), "text": ("text_model", "text_projection")}


class MissingModel(FileNotFoundError):
    """A checkpoint that is not there: says where it was looked for and how to get it."""


def load(profile: Profile, *, anywhere: bool = True) -> Encoder:
    """The profile's dual encoder with its tokenizer and image processor; EMOLIB_CLIP names another (FOLDER, ID@REVISION).

    `CLIPModel`, `SiglipModel`, `VisionTextDualEncoderModel` and whatever else has get_image_features and
    get_text_features; `anywhere=False` heeds no EMOLIB_CLIP. Safetensors only, no code from the Hub. Raises MissingModel
    where the checkpoint is not at hand.
    """
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # of reading some tensors
    source, revision = locate(profile, anywhere=anywhere)
    dtype = torch.float64 if profile.precision == "float64" else torch.float32
    options = {"revision": revision} if revision else {}
    try:
        model = AutoModel.from_pretrained(source, use_safetensors=True, dtype=dtype, **options)
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        processor = AutoImageProcessor.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise MissingModel(
            f"{source} cannot be loaded ({type(error).__name__}: {str(error).splitlines()[0]}). Wanted: a Hub id, or a folder "
            "with config.json, model.safetensors, the tokenizer's files and preprocessor_config.json, as save_pretrained "
            "writes them. With a network, try again; without one, copy such a folder and name it: "
            f"EMOLIB_CLIP=FOLDER python -m emolib run --profile {profile.name}"
        ) from error
    if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
        raise MissingModel(f"{source} is a {type(model).__name__}, wanted a dual encoder of images and texts (CLIPModel, ...)")
    return Encoder(model, tokenizer, processor, profile, name=Path(source).name if Path(source).is_dir() else source)


def locate(profile: Profile, *, anywhere: bool) -> tuple[str, str | None]:
    """Folder or Hub id of the profile's checkpoint, and the Hub revision."""
    named = os.environ.get("EMOLIB_CLIP")
    if named and anywhere and not profile.data.generated:
        name, _, revision = named.partition("@")  # ID@REVISION pins a Hub id
        return (named, None) if Path(named).is_dir() else (name, revision or None)
    source = profile.clip.source
    for folder in (ROOT / source, profiles.data_folder() / source):
        if folder.is_dir():
            return str(folder), None
    if profile.clip.revision is None:
        raise MissingModel(
            f"the checkpoint {source} is not at hand: looked for {ROOT / source} and {profiles.data_folder() / source}. "
            f"Name its folder, or another dual encoder: EMOLIB_CLIP=FOLDER python -m emolib run --profile {profile.name}"
        )
    return source, profile.clip.revision


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Encoder:
    """A dual encoder with its preprocessing.

    size: side of the pictures in pixels. dimension: D of the shared space. scale: the learned inverse temperature, by
    which cosine similarities become logits.
    """

    def __init__(self, model, tokenizer, processor, profile: Profile, *, name: str):
        self.model, self.tokenizer, self.processor = model.to(device()).eval(), tokenizer, processor
        self.profile, self.name = profile, name
        self.native = model.config.vision_config.image_size
        self.size = profile.clip.image_size or self.native
        self._resizable = "interpolate_pos_encoding" in inspect.signature(model.get_image_features).parameters
        if self.size != self.native and not self._resizable:
            raise ValueError(f"{name} ({type(model).__name__}) takes pictures of {self.native} pixels only, wanted {self.size}")
        self.scale = float(model.logit_scale.detach().double().exp())
        self.dimension = len(self.encode_texts(["a"], cache=False)[0])

    def with_weights(self, state: dict[str, torch.Tensor]) -> Encoder:
        """A copy with other weights of the same names and shapes."""
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model)
        other.model.load_state_dict(state)
        other.__dict__.pop("fingerprint", None)
        return other

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The model's tensors by name."""
        return {k: v.detach().cpu() for k, v in self.model.state_dict().items()}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all weights: equal for equal weights, whatever file they came from. An encoder's weights do not change."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.weights.items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def facts(self) -> dict:
        """What a record says about the encoder."""
        count = sum(p.numel() for p in self.model.parameters())
        kind = type(self.model).__name__
        return {"name": self.name, "class": kind, "parameters": count, "size": self.size, "fingerprint": self.fingerprint}

    def image_vectors(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, 3, S, S) normalised pictures -> (N, D) unit vectors, differentiable."""
        extra = {"interpolate_pos_encoding": True} if pixels.shape[-1] != self.native else {}
        return unit(self.model.get_image_features(pixel_values=pixels, **extra))

    def text_vectors(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(N, T) token numbers and mask -> (N, D) unit vectors, differentiable."""
        return unit(self.model.get_text_features(input_ids=tokens, attention_mask=mask))

    def image_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, 3, S, S) normalised pictures -> (N, GRID * GRID, W): the last layer's patches, averaged over a coarse grid."""
        extra = {"interpolate_pos_encoding": True} if pixels.shape[-1] != self.native else {}
        hidden = self.model.vision_model(pixel_values=pixels, **extra).last_hidden_state
        side = math.isqrt(hidden.shape[1])  # a class token, where there is one, comes before the side x side patches
        patches = hidden[:, hidden.shape[1] - side * side :].transpose(1, 2).unflatten(2, (side, side))
        return F.adaptive_avg_pool2d(patches, GRID).flatten(2).transpose(1, 2)

    def text_tokens(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(N, T) token numbers and mask -> (N, WORDS, W): the last layer's words, longer texts averaged, shorter ones padded
        with zeros."""
        hidden = self.model.text_model(input_ids=tokens, attention_mask=mask).last_hidden_state
        found = hidden.new_zeros(len(hidden), WORDS, hidden.shape[2])
        for i, (row, seen) in enumerate(zip(hidden, mask.bool(), strict=True)):
            row = row[seen] if seen.sum() <= WORDS else F.adaptive_avg_pool1d(row[seen].T, WORDS).T
            found[i, : len(row)] = row
        return found

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token numbers of each text, cut at the longest length that the encoder takes; says on stderr how many were cut."""
        if not len(texts):
            return []
        limit = min(self.tokenizer.model_max_length, self.model.config.text_config.max_position_embeddings)
        whole = self.tokenizer(list(texts), verbose=False)["input_ids"]
        if cut := sum(len(tokens) > limit for tokens in whole):
            print(f"{self.name}: {cut} of {len(whole)} texts are longer than {limit} tokens and were cut there", file=sys.stderr)
        return self.tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]

    def pad(self, tokens: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token lists as one (N, T) tensor, and its mask."""
        # SigLIP was trained with texts padded to full length and reads its vector off the last position.
        full = self.model.config.model_type.startswith("siglip")
        padding = {"padding": "max_length", "max_length": self.tokenizer.model_max_length} if full else {"padding": True}
        # A tokenizer warns when asked to pad what it has tokenized before; the two steps are apart so that batches sort.
        self.tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True
        padded = self.tokenizer.pad({"input_ids": tokens}, return_tensors="pt", **padding)
        mask = torch.ones_like(padded["input_ids"]) if full else padded["attention_mask"]
        return padded["input_ids"], mask

    def grey(self, faces: torch.Tensor) -> torch.Tensor:
        """(N, H, W) uint8 grey pictures -> (N, 3, S, S): what the image processor makes of them, at a fifth of its time."""
        size = [self.size, self.size]
        mode = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}[int(self.processor.resample)]
        return self.normalise(resize(faces.unsqueeze(1), size, InterpolationMode(mode), antialias=True) / 255)

    def normalise(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, 1 or 3, S, S) in [0, 1] -> (N, 3, S, S) with the encoder's mean and spread."""
        kind = {"dtype": self.model.dtype, "device": pictures.device}
        mean, std = (torch.tensor(x, **kind).view(3, 1, 1) for x in (self.processor.image_mean, self.processor.image_std))
        return (pictures.to(self.model.dtype) - mean) / std

    def pictures(self, pictures: Sequence, first: int = 0) -> torch.Tensor:
        """Pictures of any kind that `open_picture` takes -> (N, 3, S, S), through the checkpoint's own image processor."""
        opened = [open_picture(picture, f"picture {first + i}") for i, picture in enumerate(pictures)]
        square, size = {"height": self.size, "width": self.size}, dict(self.processor.size)
        size = {"shortest_edge": self.size} if "shortest_edge" in size else square
        extra = {"crop_size": square} if getattr(self.processor, "do_center_crop", False) else {}
        return self.processor(opened, size=size, return_tensors="pt", **extra)["pixel_values"].to(self.model.dtype)

    def encode_images(self, pictures: np.ndarray | Sequence, *, cache: bool = True, tokens: bool = False) -> np.ndarray:
        """Unit vectors (N, D) float32 of pictures: (N, H, W) uint8 grey, or a sequence of paths, bytes, PIL pictures, arrays,
        or what `pictures` made of these, for encoders that see the same ones again and again.

        tokens: their `image_tokens` (N, GRID * GRID, W) float16 instead.
        Raises DataError that names the first picture that cannot be read; what was encoded before it is kept in the cache.
        """
        grey = isinstance(pictures, np.ndarray) and pictures.ndim == 3 and pictures.dtype == np.uint8
        ready = isinstance(pictures, torch.Tensor)
        if not grey and not ready:
            pictures = [Path(picture) if isinstance(picture, str) else picture for picture in pictures]

        def batch(rows):
            if ready:
                x = pictures[rows]
            elif grey:
                x = self.grey(torch.from_numpy(pictures[rows]).to(device()))
            else:
                x = self.pictures([pictures[row] for row in rows], rows[0])
            return (self.image_tokens if tokens else self.image_vectors)(x.to(device()))

        return self._encode("image", pictures, batch, cache, tokens=tokens)

    def encode_texts(self, texts: Sequence[str], *, cache: bool = True, tokens: bool = False) -> np.ndarray:
        """Unit vectors (N, D) float32 of texts, longer ones cut at the encoder's limit. DataError names an empty text.

        tokens: their `text_tokens` (N, WORDS, W) float16 instead.
        """
        for row, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"text {row} is {text!r}, wanted at least one word")
        numbers = self.tokenize(texts)

        def batch(rows):
            padded, mask = self.pad([numbers[row] for row in rows])
            return (self.text_tokens if tokens else self.text_vectors)(padded.to(device()), mask.to(device()))

        return self._encode("text", texts, batch, cache, tokens=tokens, lengths=np.array([len(t) for t in numbers]))

    def _encode(self, kind: str, items: Sequence, vectors, cache: bool, *, tokens: bool, lengths: np.ndarray | None = None):
        """Shard by shard, from the cache where it is there; inside a shard batch by batch, texts of like length together."""
        settings = self._settings(kind) + (f"tokens {GRID} {WORDS}" if tokens else "") if cache else None
        out, size = [], self.profile.clip.batch_size
        bar = tqdm(
            total=len(items), desc=f"{self.name}, {kind}s", unit=kind, leave=False, mininterval=1, disable=len(items) < 500
        )
        for start in range(0, len(items), SHARD):
            rows = np.arange(start, min(start + SHARD, len(items)))
            path = cache_path(settings, items, rows) if cache else None
            if path and path.exists():
                out.append(store.read_arrays(path)["vectors"])
                bar.update(len(rows))
                continue
            if lengths is not None:
                rows = rows[np.argsort(lengths[rows], kind="stable")]
            parts = []
            for i in range(0, len(rows), size):
                with torch.inference_mode(), training.autocast(self.profile):
                    parts.append(vectors(rows[i : i + size]).double().cpu().numpy())
                bar.update(len(parts[-1]))
            shard = np.concatenate(parts)[np.argsort(rows, kind="stable")].astype(np.float16 if tokens else np.float32)
            if path:
                store.write_arrays(path, {"vectors": shard})
            out.append(shard)
        bar.close()
        return np.concatenate(out) if out else np.zeros((0, self.dimension), np.float32)

    def _settings(self, kind: str) -> str:
        """Everything but the items that a vector depends on."""
        import transformers

        where = str(device())
        made = [kind, self.fingerprint, self.profile.precision, where, torch.__version__, transformers.__version__]
        made += [self.size, self.processor.to_json_string()] if kind == "image" else [repr(self.tokenizer)]
        return json.dumps(made)


def cache_path(settings: str, items: Sequence, rows: np.ndarray) -> Path:
    """data/cache/clip/<SHA-256 of settings and contents>: other content or another setting is another file."""
    digest = hashlib.sha256(settings.encode())
    for row in rows:
        item = content(items[row])
        digest.update(len(item).to_bytes(8, "big") + item)
    return ROOT / "data" / "cache" / "clip" / f"{digest.hexdigest()}.safetensors"


def content(item) -> bytes:
    """The bytes that an item is, for the cache's key."""
    if isinstance(item, Path):
        return item.read_bytes() if item.is_file() else b""  # whoever opens it says what is wrong
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, bytes):
        return item
    array = np.asarray(item)
    return repr((array.shape, array.dtype)).encode() + array.tobytes()


def open_picture(picture, name: str):
    """A path, encoded bytes, an array or a PIL picture as an RGB picture; transparent parts become white.

    Raises DataError with the picture's name where it is missing, truncated or no picture at all.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        if isinstance(picture, bytes):
            picture = Image.open(io.BytesIO(picture))
        elif isinstance(picture, Path):
            name, picture = f"{name} ({picture})", Image.open(picture)
        elif isinstance(picture, np.ndarray):
            picture = Image.fromarray(picture)
        picture.load()
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError, TypeError) as error:
        raise DataError(f"{name} cannot be read: {type(error).__name__}: {error}") from error
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) / 257).astype(np.uint8))
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def unit(output) -> torch.Tensor:
    """Rows of length 1. transformers 5 returns an object whose pooler_output is projected already."""
    return F.normalize(getattr(output, "pooler_output", output), dim=-1)


def vectors(encoder: Encoder, data) -> np.ndarray:
    """(N, D) unit vectors of Faces, Texts or Pairs (then the two vectors' mean, again of length 1)."""
    if hasattr(data, "pixels"):
        return encoder.encode_images(data.pixels)
    if isinstance(data.texts, np.ndarray):
        return encoder.encode_texts(data.texts)
    both = vectors(encoder, data.faces) + vectors(encoder, data.texts)
    return both / np.linalg.norm(both, axis=1, keepdims=True)
