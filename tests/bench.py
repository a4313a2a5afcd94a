"""How fast it is, on one machine in one run: `make bench`, or `python tests/bench.py --profile mini --only tune`.

encode: 2,000 faces three ways with the same weights: (a) the zero-shot-image-classification pipeline of transformers as its
documentation shows it, (b) get_image_features in float32 on batches of 64, (c) this library at the encoder's own picture size,
and (d) at the profile's. tune: training steps of each way of fine-tuning, data preparation included. predict: a table of
pictures and texts through `emolib predict` against the encoder alone. Beside each the share of the machine's rate of matrix
products. work: how much arithmetic profile `full` is, step by step, how long it and how much disk it would take; computed.
"""

import argparse
import dataclasses
import platform
import resource
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from emolib import profiles
from emolib.app import predict as tables
from emolib.app.classifier import EmotionClassifier
from emolib.data import labels, prompts, sets
from emolib.data.dataset import Dataset, MissingData
from emolib.data.labels import FACE_CLASSES, SHARED_CLASSES, TEXT_CLASSES
from emolib.data.pictures import grey_pixels
from emolib.models import encoder, heads, networks, training, tuning
from emolib.profiles import Search

T4, H100 = 10e12, 300e12  # assumed FLOP/s in 16 bits: a sixth of a T4's peak, a third of an H100's


def clock(action, *, least: float = 2.0) -> float:
    """Seconds of one call, the best of as many as fit into `least` seconds, after one for warming up."""
    action()
    times, started = [], time.perf_counter()
    while not times or time.perf_counter() - started < least:
        begun = time.perf_counter()
        action()
        torch.cuda.synchronize() if torch.cuda.is_available() else None
        times.append(time.perf_counter() - begun)
    return min(times)


def products(precision: str) -> float:
    """FLOP/s of a square matrix product at a precision."""
    n = 8192 if torch.cuda.is_available() else 1536
    a = torch.randn(n, n, device=encoder.device(), dtype=training.half(precision) or torch.float32)
    return 2 * n**3 / clock(lambda: a @ a)


def peak_memory() -> int:
    """Bytes: of the GPU where there is one, else of this process since its start."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def flop(asked: encoder.Encoder) -> float:
    """Floating-point operations of one picture, forward, counted by torch."""
    pixels = torch.zeros(1, 3, asked.size, asked.size, device=encoder.device(), dtype=asked.model.dtype)
    return counted(lambda: asked.image_vectors(pixels))


def faces(profile: profiles.Profile, count: int) -> Dataset:
    """Faces of FER-2013 where they are at hand, else the drawn ones, as often as it takes."""
    try:
        found = sets.raw_faces(profile)
    except MissingData:
        found = sets.raw_faces(profiles.get("sample"))
    rows = np.resize(np.arange(len(found)), count)
    split, images = np.repeat("train", count), grey_pixels(found.images)[rows]
    return Dataset(np.arange(count), found.labels[rows], split, found.classes, found.source, images=images)


def encode(profile: profiles.Profile, count: int) -> None:
    from transformers import pipeline

    pixels, peak = faces(profile, count).images, products(profile.precision)
    native = encoder.load(dataclasses.replace(profile.clip, image_size=None), profile.precision)
    used, asked = encoder.load(profile.clip, profile.precision), [some[0] for some in prompts.FACES["single"]]
    parts = {"model": native.model, "tokenizer": native.tokenizer, "image_processor": native.processor}

    def documented():
        model = pipeline("zero-shot-image-classification", **parts)
        for face in tqdm(pixels, desc="pipeline", leave=False):
            model(Image.fromarray(face).convert("RGB"), candidate_labels=asked, hypothesis_template="{}")

    def plain():
        for start in tqdm(range(0, count, 64), desc="get_image_features", leave=False):
            images = [Image.fromarray(face).convert("RGB") for face in pixels[start : start + 64]]
            with torch.no_grad():
                native.model.get_image_features(**native.processor(images, return_tensors="pt").to(encoder.device()))

    rows = [("(a) pipeline, as documented", documented, native), ("(b) get_image_features, batches of 64", plain, native)]
    sizes = {"(c) this library, own size": native, "(d) this library, the profile's size": used}
    rows += [(name, partial(model.encode_images, pixels, cache=False), model) for name, model in sizes.items()]
    print(f"{native.name}, {count:,} faces, {peak / 1e9:,.0f} GFLOP/s in matrix products")
    print("| way | pixels | images/s | times (a) | times (b) | share of the product rate |\n|:--|--:|--:|--:|--:|--:|")
    speeds: list[float] = []
    for name, action, model in rows if used.size != native.size else rows[:3]:
        action() if torch.cuda.is_available() else None  # kernels are chosen at the first call
        started = time.perf_counter()
        action()
        speeds.append(count / (time.perf_counter() - started))
        times = " | ".join([*(f"{speeds[-1] / base:.1f}" for base in speeds[:2]), ""][:2])
        share = 100 * speeds[-1] * flop(model) / peak
        print(f"| {name} | {model.size} | {speeds[-1]:,.1f} | {times} | {share:.0f} % |", flush=True)


def tune(profile: profiles.Profile, count: int, *, least: float = 10.0) -> None:
    """The best step of each way of fine-tuning on faces, as the loop does it."""
    loaded, data, peak = encoder.load(profile.clip, profile.precision), faces(profile, count), products(profile.precision)
    head, rng = heads.zero_shot(loaded, prompts.FACES["templates"]), np.random.default_rng(0)
    print(f"{loaded.name} at {loaded.size} pixels, {peak / 1e12:,.2f} TFLOP/s in matrix products; MFU: the pictures' alone")
    print("| fine-tuning | batch | patches | images/s | most memory so far, GB | MFU |\n|:--|--:|--:|--:|--:|--:|")
    for method, name in labels.METHODS.items():
        config = getattr(profile, method)
        model, loss = tuning.model_and_loss(loaded, ("image",), method, config, prompts.FACES["templates"], head)
        run = training.Run("bench", config.fit, profile.precision, loss, Accelerator(mixed_precision="no"), model)
        batches, size = tuning.Batches(data, loaded, config), config.fit.batch_size
        run.model.train()

        def step(run=run, batches=batches, size=size):
            rows = rng.integers(0, len(data), size)
            said = torch.as_tensor(data.labels[rows], device=run.acc.device)
            training.train_step(run, batches.batch(rows, rng, 0.5), said, "one step")

        speed = size / clock(step, least=least)
        # Backward costs twice the forward pass; half of that where the weights themselves do not learn.
        share = (200 if config.rank else 300) * speed * flop(loaded) * config.patches / peak
        memory = f"{peak_memory() / 1e9:.1f} | {share:.0f} %"
        print(f"| {name} | {size} | {config.patches:.0%} | {speed:,.1f} | {memory} |", flush=True)
        del model, run, step


def predict(profile: profiles.Profile, count: int) -> None:
    """`emolib predict` on a csv file of faces and sentences, against encoding the same files and texts and nothing else."""
    loaded, own = encoder.load(profile.clip, profile.precision), {"image": FACE_CLASSES, "text": TEXT_CLASSES}
    asked = {"image": prompts.FACES["templates"], "text": prompts.TEXTS["templates"]}
    both = {modality: heads.zero_shot(loaded, some) for modality, some in asked.items()}
    model = EmotionClassifier(loaded, both, own, classes=SHARED_CLASSES)
    sentences = np.resize(sets.raw_texts(profiles.get("sample")).texts, count).tolist()
    with tempfile.TemporaryDirectory() as name:
        folder, paths = Path(name), [Path(name) / f"{i}.png" for i in range(count)]
        for path, face in zip(paths, faces(profile, count).images, strict=True):
            Image.fromarray(face).save(path)
        lines = ["image,text", *(f'{i}.png,"{sentence}"' for i, sentence in enumerate(sentences))]
        (folder / "table.csv").write_text("\n".join(lines) + "\n")

        def ours():
            (folder / "out.csv").unlink(missing_ok=True)
            tables.predict(model, folder / "table.csv", folder / "out.csv", image_column="image", text_column="text")

        def plain():
            loaded.encode_images(paths, cache=False)
            loaded.encode_texts(sentences, cache=False)

        table, bare = (count / clock(action, least=0) for action in (ours, plain))
    print(f"{loaded.name}, {count:,} rows: predict {table:,.0f} rows/s, the encoder alone {bare:,.0f}: {table / bare:.0%}")


def work() -> None:
    """The arithmetic of `full` by step, counted by torch on ViT-B/32's shape, and what it takes at assumed rates."""
    from transformers import CLIPConfig, CLIPModel

    profile = profiles.get("full")
    with torch.device("meta"):
        clip = CLIPModel(CLIPConfig())
        tokens = torch.zeros(1, 24, dtype=torch.long)  # as many as a sentence of DAIR-AI Emotion with its batch's padding
        image = counted(lambda: clip.get_image_features(pixel_values=torch.zeros(1, 3, 224, 224)))
        text = counted(lambda: clip.get_text_features(input_ids=tokens))
    cnn = networks.FaceCNN(profile.cnn, len(FACE_CLASSES)).eval()
    sides = sum(share * counted(lambda side=side: cnn(torch.zeros(1, 1, side, side))) for share, side in profile.cnn.sizes)

    def trained(config, rows: int, cost: float) -> float:
        held = 2000 * text if cost == text else 3589 * cost
        return len(config.seeds) * (config.fit.epochs * (3 * rows * cost + held) + 2 * held)  # backward costs twice forward

    kept = sum(len(getattr(profile, m).kept) for m in labels.METHODS)
    faces, texts, real, alphas = 28709, 16000, 6127, len(profile.generality.alphas)

    def tried(grid: Search, rows: int, held: int, ways: int = 1, more: int = 0) -> int:
        attempts = ways * (len(grid.factors) + grid.beyond) + more
        return attempts * grid.epochs * (3 * min(rows, grid.rows) + min(held, grid.rows))

    steps = {
        "02 CNN": trained(profile.cnn, faces, sides),
        "03 frozen vectors, picture sizes": (35887 + len(profile.frozen.sizes) * 2 * profile.frozen.size_rows) * image
        + 20000 * text,
        "04 four ways on faces": sum(trained(getattr(profile, m), faces, image) for m in labels.METHODS),
        "04 searches, at most": tried(profile.search, faces, 3589, 4, len(profile.ranks) - 1) * image
        + tried(profile.search, texts, 2000) * text,
        "04 text encoder": trained(profile.texts, texts, text),
        "04 generality": kept * alphas * ((1000 + 10000 + 3589) * image + 1000 * text),
        "05 genuine pairs, fine-tuned": 3 * trained(profile.genuine, real, image) + 4 * trained(profile.genuine, real, text),
        "05 their searches, at most": 2 * tried(profile.search, real, 1021) * (image + text),
    }
    print(f"ViT-B/32: {image / 1e9:.1f} GFLOP a picture, {text / 1e9:.1f} a sentence; CNN: {sides / 1e9:.2f} a face")
    print("| step of `full` | PFLOP | T4, minutes | H100, minutes |\n|:--|--:|--:|--:|")
    for name, value in (steps | {"all": sum(steps.values())}).items():
        print(f"| {name} | {value / 1e15:.1f} | {value / T4 / 60:.0f} | {value / H100 / 60:.1f} |")
    print(f"at {T4 / 1e12:.0f} and {H100 / 1e12:.0f} TFLOP/s, which nobody has measured here; recurrent and fusion networks,")
    print("reading and resampling are not in it.")
    vision, language = (
        4 * sum(weights.numel() for name, weights in clip.named_parameters() if name.startswith(encoder.PARTS[modality]))
        for modality in ("image", "text")
    )
    models = (kept + 3) * vision + (len(profile.flyp.kept) + 3) * language  # the mixture, texts, three of genuine pairs
    exports = 2 * (vision + language)
    states = 4 * len(profile.genuine.seeds) * (vision + language)  # weights, Adam's two moments, the best epoch's
    print(f"on disk, at most: {(models + exports + states) / 1e9:.0f} GB, of it {states / 1e9:.0f} while both encoders learn")


def counted(action) -> float:
    """Floating-point operations of a call."""
    plain = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)  # the only one that is counted everywhere
    with torch.no_grad(), plain, FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


def main() -> None:
    parts = {"encode": encode, "tune": tune, "predict": predict}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*parts, "work"])
    parser.add_argument("--profile", default="sample", choices=[p for p in profiles.PROFILES if p != "published"])
    parser.add_argument("--precision", default="auto", help="float32, bfloat16, auto (16 bits where that is fast)")
    parser.add_argument("--faces", type=int, default=2000)
    chosen = parser.parse_args()
    profile = dataclasses.replace(profiles.get(chosen.profile), precision=chosen.precision)
    print(f"torch {torch.__version__}, {platform.machine()}, {encoder.device()}, {training.half(chosen.precision) or 'float32'}")
    for name in [chosen.only] if chosen.only else parts:
        work() if name == "work" else parts[name](profile, chosen.faces)


if __name__ == "__main__":
    main()
