"""What is trained of a dual encoder, and how: LoRA, full, LP-FT, contrastive with prompts (FLYP), both towers on pairs.

Every way ends in plain weights of the encoder's own shape and a `Head`, so that whatever is measured of one encoder can
be measured of each, and of each mixture with the encoder as it came (WiSE-FT).
"""

from __future__ import annotations

import copy
import hashlib
import json
import resource
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from emolib import clip, heads, store, training
from emolib.baselines import augment
from emolib.clip import PARTS, Encoder
from emolib.faces import Faces
from emolib.heads import Head
from emolib.items import Items, held_out_rows
from emolib.profiles import Profile, Tuning, out_folder
from emolib.records import Facts, Predictions, facts, predictions
from emolib.texts import Texts

LORA_LAYERS = "q_proj|k_proj|v_proj|query|key|value"  # as in CLIP-LoRA, Zanella and Ben Ayed 2024, arXiv:2405.18541


@dataclass(frozen=True)
class Tuned:
    """A further trained encoder: its weights by name, and its head. alpha-mixtures of two are Tuned as well."""

    weights: dict[str, torch.Tensor]
    head: Head

    def mixed(self, start: Tuned, alpha: float) -> Tuned:
        """(1 - alpha) x start + alpha x this, weight by weight and in the head: `start` at 0, this at 1, exactly.

        Source: Wortsman et al. 2022, Robust fine-tuning of zero-shot models (WiSE-FT), arXiv:2109.01903, equation 1.
        """
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is {alpha}, wanted 0 to 1")
        weights = {k: blend(start.weights[k], v, alpha) for k, v in self.weights.items()}
        head = Head(blend(start.head.weight, self.head.weight, alpha), blend(start.head.bias, self.head.bias, alpha))
        return Tuned(weights, head)

    def save(self, path: Path) -> None:
        """One safetensors file, written whole or not at all."""
        tensors = {f"model.{k}": v.contiguous().clone() for k, v in self.weights.items()}
        tensors |= {"head.weight": torch.from_numpy(self.head.weight), "head.bias": torch.from_numpy(self.head.bias)}
        with store.atomic(path) as temporary:
            save_file(tensors, temporary)

    @staticmethod
    def load(path: Path) -> Tuned:
        """What `save` wrote; FileNotFoundError says which command makes it."""
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there; make it: python -m emolib run --profile PROFILE --fresh 04")
        tensors = load_file(path)
        head = Head(tensors.pop("head.weight").numpy(), tensors.pop("head.bias").numpy())
        return Tuned({k.removeprefix("model."): v for k, v in tensors.items()}, head)


def blend(start, end, alpha: float):
    """(1 - alpha) x start + alpha x end; counters and other whole numbers are the end's."""
    whole = isinstance(end, torch.Tensor) and not end.is_floating_point()
    return end if whole else (1 - alpha) * start + alpha * end


def path_of(profile: Profile, name: str, seed: int) -> Path:
    """Where a tuned encoder lies: <output folder>/models/<step>/seed-<seed>.safetensors."""
    return out_folder(profile) / "models" / name / f"seed-{seed}.safetensors"


class Classifier(nn.Module):
    """A dual encoder with a head on the unit vectors of one tower ("image", "text"), or on the mean of both ("pair").

    Inputs: pixels (N, 3, S, S) for "image"; tokens and mask (N, T) for "text"; all three for "pair". Output: logits (N, K).
    """

    def __init__(self, encoder: Encoder, kind: str, head: Head, config: Tuning, *, train_head: bool):
        super().__init__()
        self.encoder, self.kind = copy.copy(encoder), kind
        self.encoder.model = self.model = copy.deepcopy(encoder.model)
        parts = PARTS["image"] + PARTS["text"] if kind == "pair" else PARTS[kind]
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name.startswith(parts) and not config.rank)
        kinds = {"dtype": self.model.dtype, "device": self.model.device}
        self.weight = nn.Parameter(torch.tensor(head.weight, **kinds), requires_grad=train_head)
        self.bias = nn.Parameter(torch.tensor(head.bias, **kinds), requires_grad=train_head)
        self.lora = None
        if config.rank:
            from peft import LoraConfig, get_peft_model

            where = rf"({'|'.join(parts)})\..*({LORA_LAYERS})"
            lora = LoraConfig(r=config.rank, lora_alpha=2 * config.rank, target_modules=where, init_lora_weights=True)
            self.lora = [get_peft_model(self.model, lora)]  # in a list: its parameters are those of self.model already
        if config.patches < 1:
            embeddings = next(m for n, m in self.model.named_modules() if n.endswith("vision_model.embeddings"))
            embeddings.register_forward_hook(lambda module, _, out: some_patches(out, config.patches) if self.training else out)

    def vectors(self, *inputs: torch.Tensor) -> torch.Tensor:
        """(N, D) unit vectors of one tower, or the two towers' mean, again of length 1."""
        if self.kind == "image":
            return self.encoder.image_vectors(*inputs)
        if self.kind == "text":
            return self.encoder.text_vectors(*inputs)
        return F.normalize(self.encoder.image_vectors(inputs[0]) + self.encoder.text_vectors(*inputs[1:]), dim=-1)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return F.linear(self.vectors(*inputs), self.weight, self.bias)

    def tuned(self) -> Tuned:
        """The weights in the encoder's own shape (LoRA merged) and the head."""
        model = copy.deepcopy(self.lora[0]).merge_and_unload() if self.lora else self.model
        weights = {k: v.detach().cpu() for k, v in model.state_dict().items()}
        return Tuned(weights, Head(*(p.detach().cpu().double().numpy() for p in (self.weight, self.bias))))


class Prompted(Classifier):
    """The head is the text tower's view of the class prompts, and both towers learn (FLYP)."""

    def __init__(self, encoder: Encoder, kind: str, head: Head, config: Tuning, prompts: list[list[str]]):
        super().__init__(encoder, kind, head, config, train_head=False)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name.startswith(PARTS["image"] + PARTS["text"]))
        tokens, mask = encoder.pad(encoder.tokenize([prompt for some in prompts for prompt in some]))
        self.register_buffer("tokens", tokens.to(encoder.model.device), persistent=False)
        self.register_buffer("mask", mask.to(encoder.model.device), persistent=False)
        self.ends = np.cumsum([0] + [len(some) for some in prompts])

    def directions(self) -> torch.Tensor:
        """(K, D) unit vectors: in training of one prompt a class, drawn anew each step; else the mean over its prompts."""
        spans = list(zip(self.ends[:-1], self.ends[1:], strict=True))
        if self.training:
            draw = torch.rand(len(spans)).tolist()
            rows = torch.tensor([int(a + (b - a) * u) for (a, b), u in zip(spans, draw, strict=True)])
            return self.encoder.text_vectors(self.tokens[rows], self.mask[rows])
        each = self.encoder.text_vectors(self.tokens, self.mask)
        return F.normalize(torch.stack([each[a:b].mean(0) for a, b in spans]), dim=-1)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.encoder.scale * self.vectors(*inputs) @ self.directions().T

    @torch.no_grad()
    def tuned(self) -> Tuned:
        self.eval()
        weight = self.encoder.scale * self.directions().double().cpu().numpy()
        return Tuned({k: v.detach().cpu() for k, v in self.model.state_dict().items()}, Head(weight, np.zeros(len(weight))))


def contrastive(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """CLIP's loss between the pictures of a batch and the prompts of their classes: (N, K) logits -> a scalar.

    Each picture is to find its own prompt among the batch's, and each prompt its picture; two pictures of one class count
    as each other's mistakes, as in the source: Goyal et al. 2023, Finetune like you pretrain, arXiv:2212.00638, equation 2.
    """
    pairs, own = logits[:, labels], torch.arange(len(labels), device=labels.device)
    rows = F.cross_entropy(pairs, own, label_smoothing=label_smoothing)
    return (rows + F.cross_entropy(pairs.T, own, label_smoothing=label_smoothing)) / 2


def some_patches(tokens: torch.Tensor, share: float) -> torch.Tensor:
    """A random share of the patch tokens, the class token always: (N, 1 + P, W) -> (N, 1 + P', W), each picture its own."""
    n, patches, width = tokens[:, 1:].shape
    kept = torch.rand(n, patches, device=tokens.device).argsort(1)[:, : max(1, round(share * patches))].sort(1).values
    return torch.cat([tokens[:, :1], tokens[:, 1:].gather(1, kept.unsqueeze(2).expand(-1, -1, width))], 1)


class FaceBatches:
    """Grey faces as an encoder's pictures (see `training.Batches`); they lie on the device, and are enlarged there."""

    lengths = None

    def __init__(self, faces: Faces, encoder: Encoder, config: Tuning):
        self.pixels = torch.from_numpy(faces.pixels).to(encoder.model.device)
        self.labels, self.encoder, self.config = faces.labels, encoder, config

    def batch(self, rows, rng, progress):
        if rng is None:
            return (self.encoder.grey(self.pixels[rows]),)
        x = self.pixels[rows].unsqueeze(1).to(self.encoder.model.dtype) / 255 - 0.5  # what is turned in is middle grey
        return (self.encoder.normalise(augment(x, rng, self.encoder.size, self.config) + 0.5),)

    def views(self, inputs, progress, *, final):
        return [inputs]


class TextBatches:
    """Texts as an encoder's tokens (see `training.Batches`)."""

    def __init__(self, texts: Texts, encoder: Encoder, config: Tuning):
        self.tokens = encoder.tokenize(texts.texts)
        self.lengths = np.array([len(tokens) for tokens in self.tokens])
        self.labels, self.encoder = texts.labels, encoder

    def batch(self, rows, rng, progress):
        return self.encoder.pad([self.tokens[row] for row in rows])

    def views(self, inputs, progress, *, final):
        return [inputs]


class PairBatches:
    """A face and a text of one label (see `training.Batches`)."""

    def __init__(self, pairs, encoder: Encoder, config: Tuning):
        self.faces, self.texts = FaceBatches(pairs.faces, encoder, config), TextBatches(pairs.texts, encoder, config)
        self.labels, self.lengths = pairs.labels, self.texts.lengths

    def batch(self, rows, rng, progress):
        return *self.faces.batch(rows, rng, progress), *self.texts.batch(rows, rng, progress)

    def views(self, inputs, progress, *, final):
        return [inputs]


BATCHES = {"image": FaceBatches, "text": TextBatches, "pair": PairBatches}


@dataclass(frozen=True)
class Job:
    """One training: which encoder learns what, from where.

    name: of the step. kind: "image" (data: Faces), "text" (Texts), "pair" (pairs.Pairs). head: where the head starts, and
    stays unless `train_head`. prompts: sentences a class; with them both towers learn contrastively (FLYP).
    """

    name: str
    encoder: Encoder
    kind: str
    data: Items
    head: Head
    config: Tuning
    train_head: bool = False
    prompts: list[list[str]] | None = None

    def model(self) -> Classifier:
        """A fresh model; the encoder is copied."""
        if self.prompts:
            return Prompted(self.encoder, self.kind, self.head, self.config, self.prompts)
        return Classifier(self.encoder, self.kind, self.head, self.config, train_head=self.train_head)

    @property
    def key(self) -> str:
        """What a checkpoint of this training depends on."""
        settings = asdict(replace(self.config, seeds=()))
        start = hashlib.sha256(self.head.weight.tobytes() + self.head.bias.tobytes()).hexdigest()
        return json.dumps(
            [self.data.fingerprint, self.encoder.fingerprint, self.encoder.size, settings, self.prompts, start, self.train_head]
        )


def tune(job: Job, profile: Profile) -> Predictions:
    """Train once a seed, keep the weights (`path_of`) and judge them on held-out items.

    The seeds differ in the order of the rows, the augmentation and LoRA's start, not in the encoder.
    """
    done, probs, rows = [], [], held_out_rows(job.data)
    for seed in job.config.seeds:
        done.append(fit(job, profile, seed))
        tuned = done[-1].model.tuned()
        tuned.save(path_of(profile, job.name, seed))
        probs.append(tuned.head.posterior(clip.vectors(job.encoder.with_weights(tuned.weights), job.data.select(rows))))
    notes = {"history": [d.history for d in done], "runs": [d.notes for d in done], "encoder": job.encoder.facts}
    return predictions(job.data, np.stack(probs), notes)


def fit(job: Job, profile: Profile, seed: int) -> training.Fitted:
    """One run of the loop, with its cost: seconds, trained parameters, peak memory in bytes."""
    with training.arithmetic(profile):
        torch.manual_seed(seed)
        train, validation = (BATCHES[job.kind](job.data.part(s), job.encoder, job.config) for s in ("train", "validation"))
        done = training.fit(
            job.model(), train, validation, job.config.fit, profile, seed=seed, key=job.key,
            checkpoint=out_folder(profile) / "checkpoints" / job.name / f"seed-{seed}.safetensors",
            loss=contrastive if job.prompts else F.cross_entropy,
        )  # fmt: skip
    return replace(done, notes=done.notes | {"peak_memory": peak_memory()})


def peak_memory() -> int:
    """Bytes: of the GPU where there is one, else of this process since its start."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def way(name: str, encoder: Encoder, faces: Faces, asked: list[list[str]], profile: Profile, *, step: str = "") -> Job:
    """One of the study's ways of tuning the image tower on faces: "full", "lora", "lpft" or "flyp".

    asked: prompts a class. "full" and "lora" keep the zero-shot head, "lpft" starts from the linear probe's and trains it
    (Kumar et al. 2022, arXiv:2202.10054), "flyp" trains both towers against the prompts. step: its name, if not the way's.
    """
    step, config = step or f"faces/clip-{name}", getattr(profile, name)
    if name == "lpft":
        head = Tuned.load(path_of(profile, "faces/clip-linear", 0)).head
        return Job(step, encoder, "image", faces, head, config, train_head=True)
    head = heads.zero_shot(encoder, asked)
    return Job(step, encoder, "image", faces, head, config, prompts=asked if name == "flyp" else None)


def probe(name: str, encoder: Encoder, data: Items, profile: Profile) -> Predictions:
    """A linear probe on the frozen encoder; its head is kept beside the predictions."""
    found, head = heads.linear(data, clip.vectors(encoder, data))
    Tuned(encoder.weights, head).save(path_of(profile, name, 0))
    return replace(found, notes=found.notes | {"encoder": encoder.facts})


def export(name: str, encoder: Encoder, faces: Faces, found: Predictions, card: str, profile: Profile) -> Facts:
    """Write a tuned encoder as a folder that `from_pretrained` reads, with head and model card, and load it again.

    The folder is <output folder>/export/emotion-clip. notes: its files, and how far the posteriors of the encoder that was
    loaded from it lie from the predictions `found`, on 500 items. Raises ValueError if that is more than 1e-4.
    """
    folder = out_folder(profile) / "export" / "emotion-clip"
    tuned = Tuned.load(path_of(profile, name, 0))
    for part in (encoder.with_weights(tuned.weights).model, encoder.tokenizer, encoder.processor):
        part.save_pretrained(folder)
    store.write_arrays(folder / "head.safetensors", {"weight": tuned.head.weight, "bias": tuned.head.bias})
    settings = {"classes": list(found.classes), "image_size": encoder.size, "kind": "image"}
    store.write_text(folder / "emolib.json", json.dumps(settings, indent=1) + "\n")
    store.write_text(folder / "README.md", card)
    again = clip.load(replace(profile, clip=replace(profile.clip, source=str(folder))), anywhere=False)
    some = held_out_rows(faces)[:500]
    probs = tuned.head.posterior(again.encode_images(faces.pixels[some], cache=False))
    worst = float(np.abs(probs - found.probs[0, : len(some)]).max())
    if worst > 1e-4:
        raise ValueError(f"{folder}: its posteriors lie {worst:.1g} from those recorded as {name}, wanted at most 0.0001")
    return facts(faces, {"files": sorted(p.name for p in folder.iterdir()), "largest_difference": worst})
