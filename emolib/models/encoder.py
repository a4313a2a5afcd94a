"""Any dual encoder of `transformers`: pictures and texts become unit vectors of one space, in which near means alike.

Features are a cache: computed batch by batch, kept by a key of everything that matters, and silently made again.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
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

from emolib import profiles, store
from emolib.data import hub
from emolib.data.dataset import DataError, Dataset, column, content
from emolib.data.pictures import open_picture
from emolib.models import training
from emolib.profiles import ROOT, Clip

CACHE = ROOT / "data" / "cache" / "features"
SHARD = 2048  # items a cache file
GRID, WORDS = 4, 24  # patches are averaged to a grid of 4 x 4, words to at most 24
PARTS = {"image": ("vision_model", "visual_projection"), "text": ("text_model", "text_projection")}
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
WANTED = "a Hub id (ID@REVISION) or a folder that save_pretrained wrote: config.json, model.safetensors, tokenizer, processor"


class MissingModel(FileNotFoundError):
    """A checkpoint that is not there or no dual encoder: says where it was looked for and how to get it."""


def load(clip: Clip, precision: str = "auto") -> Encoder:
    """The dual encoder with its tokenizer and image processor; EMOLIB_CLIP names another (FOLDER, ID@REVISION).

    `CLIPModel`, `SiglipModel`, `VisionTextDualEncoderModel` and whatever else has get_image_features, get_text_features
    and logit_scale. Safetensors only, no code from the Hub. Raises MissingModel where the checkpoint is not at hand.
    """
    from safetensors import SafetensorError
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # of reading some tensors
    source, revision = locate(clip)
    dtype = torch.float64 if precision == "float64" else torch.float32
    options = {"trust_remote_code": False} | ({"revision": revision} if revision else {})
    try:
        how = {"use_safetensors": True, "dtype": dtype, "output_loading_info": True} | options
        kinds = AutoTokenizer, AutoImageProcessor
        model, info = hub.patiently(lambda: AutoModel.from_pretrained(source, **how), source)
        parts = [hub.patiently(lambda kind=kind: kind.from_pretrained(source, **options), source) for kind in kinds]
        if fault := find_fault(model, info, Path(source)):
            raise ValueError(fault)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        said = f"{source} cannot be loaded ({hub.reasons(error)}). Wanted: {WANTED}. {hub.mend(error)}"
        raise MissingModel(f"{said}. Another one is named so: EMOLIB_CLIP=FOLDER") from error
    sized = hasattr(getattr(model.config, "vision_config", None), "image_size")  # SigLIP 2's NaFlex takes any number of patches
    if not sized or not all(hasattr(model, name) for name in ("get_image_features", "get_text_features", "logit_scale")):
        kind = "wanted a dual encoder of texts and of images of one size (CLIPModel, SiglipModel, ...)"
        raise MissingModel(f"{source} is a {type(model).__name__}, {kind}")
    name = Path(source).name if Path(source).is_dir() else source
    return Encoder(model, *parts, name=name, image_size=clip.image_size, batch_size=clip.batch_size, precision=precision)


def find_fault(model, info: dict, source: Path) -> str:
    """What is wrong with a model that transformers has loaded, "" if nothing: it fills gaps with random weights, silently.

    info: its loading info.
    """
    surplus = [name for name in info["unexpected_keys"] if not name.endswith("position_ids")]  # buffers of old versions
    for what, names in (("is missing", info["missing_keys"]), ("belongs to no part of the model", surplus)):
        if names:
            return f"the tensor {sorted(names)[0]} {what} ({len(names)} in all)"
    if broken := [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]:
        return f"the tensor {broken[0]} holds values that are not finite ({len(broken)} tensors in all)"
    if source.is_dir() and not any((source / name).exists() for name in VOCABULARIES):
        return f"the tokenizer's file is missing: found none of {', '.join(VOCABULARIES)}"
    return ""


def locate(clip: Clip) -> tuple[str, str | None]:
    """Folder or Hub id of a checkpoint, and the Hub revision; MissingModel where a folder is not there."""
    named = os.environ.get("EMOLIB_CLIP")
    if named and clip.elsewhere:
        if Path(named).expanduser().is_dir():
            return str(Path(named).expanduser()), None
        name, _, revision = named.partition("@")
        if name.startswith((".", "~", os.sep)) or name.count("/") > 1 or "\\" in name:  # a Hub id is NAME or OWNER/NAME
            raise MissingModel(f"EMOLIB_CLIP names {named}, and there is no such folder; wanted {WANTED}")
        return name, revision or None
    folders = ROOT / clip.source, profiles.data_folder() / clip.source
    for folder in folders:
        if folder.is_dir():
            return str(folder), None
    if clip.revision is None:
        looked = f"the checkpoint {clip.source} is not at hand: looked for {' and '.join(map(str, folders))}"
        raise MissingModel(f"{looked}. Name its folder, or another dual encoder: EMOLIB_CLIP=FOLDER")
    return clip.source, clip.revision


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Encoder:
    """A dual encoder with its preprocessing.

    size: side of the pictures in pixels. dimension: D of the shared space. Raises ValueError for a size it cannot take.
    """

    def __init__(self, model, tokenizer, processor, *, name: str, image_size: int | None = None, batch_size: int = 64,
                 precision: str = "float32"):  # fmt: skip
        self.model, self.tokenizer, self.processor = model.to(device()).eval(), tokenizer, processor
        self.name, self.batch_size, self.precision = name, batch_size, precision
        self.native = model.config.vision_config.image_size
        self.size = image_size or self.native
        if self.size != self.native and "interpolate_pos_encoding" not in inspect.signature(model.get_image_features).parameters:
            raise ValueError(f"{name} ({type(model).__name__}) takes pictures of {self.native} pixels only, wanted {self.size}")
        self.dimension = len(self.encode_texts(["a"], cache=False)[0])

    def with_weights(self, state: dict[str, torch.Tensor]) -> Encoder:
        """A copy with other weights of the same shapes, for some or all names; RuntimeError for a name it does not have."""
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model)
        other.model.load_state_dict(self.model.state_dict() | state)
        other.__dict__ = {k: v for k, v in other.__dict__.items() if k not in ("_weights_digest", "scale")}
        return other

    @cached_property
    def scale(self) -> float:
        """The learned inverse temperature, by which cosine similarities become logits."""
        return float(self.model.logit_scale.detach().double().exp())

    @property
    def longest(self) -> int:
        """The number of tokens of the longest text that the encoder takes; SigLIP 2's tokenizer names none."""
        return min(self.tokenizer.model_max_length, self.model.config.text_config.max_position_embeddings)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The model's tensors by name, on the CPU."""
        return {k: v.detach().cpu() for k, v in self.model.state_dict().items()}

    @cached_property
    def _weights_digest(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self.weights.items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def _tokenizer_digest(self) -> str:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)  # those of transformers in Python have none
        made = json.loads(backend.to_str()) if backend else self.tokenizer.get_vocab()
        made |= {"truncation": None, "padding": None, "max_length": self.tokenizer.model_max_length}  # the last call's options
        return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of weights, tokenizer and image processor, whatever files they came from; not of the configuration."""
        parts = [self._weights_digest, self._tokenizer_digest, self.processor.to_json_string()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def facts(self) -> dict:
        """What a record says about the encoder; weights: SHA-256 of the tensors alone."""
        count, kind = sum(p.numel() for p in self.model.parameters()), type(self.model).__name__
        about = {"name": self.name, "class": kind, "parameters": count, "size": self.size}
        return about | {"fingerprint": self.fingerprint, "weights": self._weights_digest}

    def image_vectors(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, 3, S, S) normalised pictures -> (N, D) unit vectors, differentiable."""
        return unit(self.model.get_image_features(pixel_values=pixels, **self.interpolated(pixels)))

    def text_vectors(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(N, T) token numbers and mask -> (N, D) unit vectors, differentiable."""
        return unit(self.model.get_text_features(input_ids=tokens, attention_mask=mask))

    def image_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, 3, S, S) normalised pictures -> (N, GRID * GRID, W): the last layer's patches, averaged over a coarse grid."""
        hidden = self.model.vision_model(pixel_values=pixels, **self.interpolated(pixels)).last_hidden_state
        side = math.isqrt(hidden.shape[1])  # a class token, where there is one, comes before the side x side patches
        patches = hidden[:, hidden.shape[1] - side * side :].transpose(1, 2).unflatten(2, (side, side))
        return F.adaptive_avg_pool2d(patches, GRID).flatten(2).transpose(1, 2)

    def text_tokens(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(N, T) token numbers and mask -> (N, WORDS, W): the last layer's words, longer texts averaged, shorter ones padded
        with zeros."""
        hidden = self.model.text_model(input_ids=tokens, attention_mask=mask).last_hidden_state
        rows = [row[seen] for row, seen in zip(hidden, mask.bool(), strict=True)]
        rows = [row if len(row) <= WORDS else F.adaptive_avg_pool1d(row.T, WORDS).T for row in rows]
        return torch.stack([F.pad(row, (0, 0, 0, WORDS - len(row))) for row in rows])

    def interpolated(self, pixels: torch.Tensor) -> dict:
        """The option with which a model takes pictures of another than its own size."""
        return {"interpolate_pos_encoding": True} if pixels.shape[-1] != self.native else {}

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token numbers of each text, cut at the longest length that the encoder takes; says on stderr how many were cut."""
        if not len(texts):
            return []
        limit = self.longest
        texts = [text[: 100 * limit] for text in texts]  # no word of a language has so many letters; a whole book takes minutes
        whole = self.tokenizer(texts, verbose=False)["input_ids"]
        if cut := sum(len(tokens) > limit for tokens in whole):
            print(f"{self.name}: {cut} of {len(whole)} texts are longer than {limit} tokens and were cut there", file=sys.stderr)
        return self.tokenizer(texts, truncation=True, max_length=limit)["input_ids"]

    def pad(self, tokens: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token lists as one (N, T) tensor, and its mask."""
        # SigLIP was trained with texts padded to full length and reads its vector off the last position.
        full = self.model.config.model_type.startswith("siglip")
        padding = {"padding": "max_length", "max_length": self.longest} if full else {"padding": True}
        # A tokenizer warns when asked to pad what it has tokenized before; the two steps are apart so that batches sort.
        self.tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True
        padded = self.tokenizer.pad({"input_ids": tokens}, return_tensors="pt", **padding)
        mask = torch.ones_like(padded["input_ids"]) if full else padded["attention_mask"]
        return padded["input_ids"], mask

    def pixels(self, images, numbers: Sequence[int] | None = None) -> torch.Tensor:
        """Pictures of any kind in `Dataset.images`, or (N, 1 or 3, H, H) uint8 -> (N, 3, S, S) normalised, on the device.

        Raises DataError with the number (in `numbers`, else the row) of one that cannot be read.
        """
        square = stacked(images)
        square = (self.open(images, numbers) if square is None else square).to(device())
        mode = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}[int(self.processor.resample)]
        return self.normalise(resize(square, [self.size, self.size], InterpolationMode(mode), antialias=True) / 255)

    def open(self, images: Sequence, numbers: Sequence[int] | None = None) -> torch.Tensor:
        """Pictures of any kind that `open_picture` takes -> (N, 3, S, S) uint8, by the checkpoint's own processor."""
        numbers = range(len(images)) if numbers is None else numbers
        square = {"height": self.size, "width": self.size}
        size = {"shortest_edge": self.size} if "shortest_edge" in dict(self.processor.size) else square
        extra = {"crop_size": square} if getattr(self.processor, "do_center_crop", False) else {}
        plain = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
        # One by one: a batch of photographs at their full size would fill the memory.
        each = (open_picture(picture, f"picture {i}", side=self.size) for i, picture in zip(numbers, images, strict=True))
        return torch.cat([self.processor([picture], size=size, **plain, **extra)["pixel_values"] for picture in each])

    def normalise(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, 1 or 3, S, S) in [0, 1] -> (N, 3, S, S) with the encoder's mean and spread."""
        kind = {"dtype": self.model.dtype, "device": pictures.device}
        mean, std = (torch.tensor(x, **kind).view(3, 1, 1) for x in (self.processor.image_mean, self.processor.image_std))
        return (pictures.to(self.model.dtype) - mean) / std

    def encode_images(self, images, *, cache: bool = True, tokens: bool = False) -> np.ndarray:
        """Unit vectors (N, D) float32 of pictures as `pixels` takes them; tokens: their `image_tokens` float16 instead.

        Raises DataError that names the first picture that cannot be read; what was encoded before it is kept in the cache.
        """
        if stacked(images) is None:
            images = column([Path(picture) if isinstance(picture, str) else picture for picture in images])
        encode = self.image_tokens if tokens else self.image_vectors
        return self._encode("image", images, lambda rows: encode(self.pixels(images[rows], rows)), cache, tokens=tokens)

    def encode_texts(self, texts: Sequence[str], *, cache: bool = True, tokens: bool = False) -> np.ndarray:
        """Unit vectors (N, D) float32 of texts, cut at the encoder's limit; tokens: their `text_tokens` float16 instead.

        DataError names an empty text.
        """
        for row, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"text {row} is {text!r:.300}, wanted at least one word")
        numbers = self.tokenize(texts)

        encode = self.text_tokens if tokens else self.text_vectors

        def batch(rows):
            return encode(*(x.to(device()) for x in self.pad([numbers[row] for row in rows])))

        return self._encode("text", texts, batch, cache, tokens=tokens, lengths=np.array([len(t) for t in numbers]))

    def vectors(self, data: Dataset) -> np.ndarray:
        """(N, D) unit vectors of the pictures, of the texts, or the two vectors' mean, again of length 1."""
        encoded = [] if data.images is None else [self.encode_images(data.images)]
        encoded += [] if data.texts is None else [self.encode_texts(data.texts)]
        return encoded[0] if len(encoded) == 1 else sum(encoded) / np.linalg.norm(sum(encoded), axis=1, keepdims=True)

    def _encode(self, kind: str, items: Sequence, batch, cache: bool, *, tokens: bool, lengths: np.ndarray | None = None):
        """Shard by shard, from the cache where it is there."""
        settings = self._settings(kind) + (f"tokens {GRID} {WORDS}" if tokens else "") if cache else None
        shown, out = {"unit": kind, "leave": False, "mininterval": 1, "disable": len(items) < 500}, []
        with tqdm(total=len(items), desc=f"{self.name}, {kind}s", **shown) as bar:
            for start in range(0, len(items), SHARD):
                rows = np.arange(start, min(start + SHARD, len(items)))

                def make(rows=rows):
                    return {"vectors": self._shard(batch, rows, lengths).astype(np.float16 if tokens else np.float32)}

                out.append((store.cached(cache_path(settings, items, rows), make) if cache else make())["vectors"])
                bar.update(len(rows))
        return np.concatenate(out) if out else np.zeros((0, self.dimension), np.float32)

    def _shard(self, batch, rows: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
        """Batch by batch, texts of like length together."""
        order, parts = np.arange(len(rows)) if lengths is None else np.argsort(lengths[rows], kind="stable"), []
        for i in range(0, len(rows), self.batch_size):
            with torch.inference_mode(), training.autocast(self.precision):
                parts.append(batch(rows[order[i : i + self.batch_size]]).double().cpu().numpy())
        return np.concatenate(parts)[np.argsort(order, kind="stable")]

    def _settings(self, kind: str) -> str:
        """Everything but the items that a vector depends on."""
        import transformers

        made = [kind, self.fingerprint, self.model.config.to_json_string(), self.size if kind == "image" else None]
        made += [str(self.model.dtype), str(training.half(self.precision)), str(device())]
        made += [torch.__version__, transformers.__version__]
        return json.dumps(made)


def stacked(images) -> torch.Tensor | None:
    """Square pictures in one uint8 array or tensor as (N, 1 or 3, H, H); None for such as have to be opened one by one."""
    if isinstance(images, torch.Tensor):
        return images
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1] != images.shape[2]:
        return None
    pixels = torch.from_numpy(images)
    return pixels.unsqueeze(1) if images.ndim == 3 else pixels.movedim(3, 1)


def cache_path(settings: str, items: Sequence, rows: np.ndarray) -> Path:
    """CACHE/<SHA-256 of settings and contents>: other content or another setting is another file."""
    digest = hashlib.sha256(settings.encode())
    for row in rows:
        item = content(items[row])
        digest.update(len(item).to_bytes(8, "big") + item)
    return CACHE / f"{digest.hexdigest()}.safetensors"


def unit(output) -> torch.Tensor:
    """Rows of length 1, at least float32. transformers 5 returns an object whose pooler_output is projected already."""
    vectors = getattr(output, "pooler_output", output)
    return F.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=-1)
