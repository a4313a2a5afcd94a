"""How fast encoders run, the whole table in one run on one machine: `make bench`, or `python tests/bench_clip.py --tune`.

Encoding 2,000 faces three ways with the same weights: (a) the zero-shot-image-classification pipeline of transformers as its
documentation shows it, (b) get_image_features in float32 on batches of 64, (c) this library at the encoder's own picture size,
and (d) at the size that the profile uses. Beside each: its share of the machine's rate of matrix products, measured in the same
run. `--tune` measures training steps of full fine-tuning instead: images/s, memory and model FLOP utilisation; `--predict` a
table of pictures and texts through `emolib predict` against the encoder alone.
"""

import argparse
import dataclasses
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from emolib import classifier, clip, faces, fusion, heads, profiles, prompts, texts, training, tuning
from emolib.items import MissingData


def clock(action, *, least: float = 2.0) -> float:
    """Seconds of one call, the best of as many as fit into `least` seconds, after one for warming up."""
    action()
    best, started = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - started < least:
        begun = time.perf_counter()
        action()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return best


def products(profile) -> float:
    """FLOP/s of a square matrix product at the profile's precision."""
    n = 8192 if torch.cuda.is_available() else 1536
    kind = training.half(profile) or torch.float32
    a = torch.randn(n, n, device=clip.device(), dtype=kind)
    return 2 * n**3 / clock(lambda: a @ a)


def flop(encoder, *, batch: int = 2) -> float:
    """Floating-point operations of one picture, forward, counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    pixels = torch.zeros(batch, 3, encoder.size, encoder.size, device=clip.device(), dtype=encoder.model.dtype)
    with torch.no_grad(), FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(
        torch.nn.attention.SDPBackend.MATH
    ):  # fmt: skip
        encoder.image_vectors(pixels)
    return counter.get_total_flops() / batch


def pictures(profile, count: int) -> np.ndarray:
    """Faces of FER-2013 where they are at hand, else the drawn ones, as often as it takes."""
    try:
        pixels = faces.load(profile).pixels
    except MissingData:
        pixels = faces.load(profiles.get("sample")).pixels
    return np.resize(pixels, (count, *pixels.shape[1:]))


def encode(profile, count: int) -> None:
    """The table of the three ways."""
    from transformers import pipeline

    pixels, peak = pictures(profile, count), products(profile)
    native = clip.load(dataclasses.replace(profile, clip=dataclasses.replace(profile.clip, image_size=None)))
    used = clip.load(profile)
    asked = [some[0] for some in prompts.FACES["single"]]

    def documented():
        model = pipeline(
            "zero-shot-image-classification", model=native.model, tokenizer=native.tokenizer, image_processor=native.processor
        )
        for face in tqdm(pixels, desc="pipeline", leave=False):
            model(Image.fromarray(face).convert("RGB"), candidate_labels=asked, hypothesis_template="{}")

    def plain():
        for start in tqdm(range(0, count, 64), desc="get_image_features", leave=False):
            images = [Image.fromarray(face).convert("RGB") for face in pixels[start : start + 64]]
            with torch.no_grad():
                native.model.get_image_features(**native.processor(images, return_tensors="pt").to(clip.device()))

    rows = [
        ("(a) pipeline, as documented", documented, native),
        ("(b) get_image_features, float32, batches of 64", plain, native),
    ]
    rows.append(("(c) this library, own size", lambda: native.encode_images(pixels, cache=False), native))
    if used.size != native.size:
        rows.append(("(d) this library, the profile's size", lambda: used.encode_images(pixels, cache=False), used))
    print(f"{native.name}, {count:,} faces, {peak / 1e9:,.0f} GFLOP/s in matrix products ({training.half(profile) or 'float32'})")
    print(
        "| way | pixels | images/s | times (a) | times (b) | share of the product rate |\n| :-- | --: | --: | --: | --: | --: |"
    )
    speeds = []
    for name, action, encoder in rows:
        action() if torch.cuda.is_available() else None  # kernels are chosen at the first call
        started = time.perf_counter()
        action()
        speeds.append(count / (time.perf_counter() - started))
        share = speeds[-1] * flop(encoder) / peak
        times = [f"{speeds[-1] / base:.1f}" for base in speeds[:2]] + [""] * (2 - len(speeds[:2]))
        print(f"| {name} | {encoder.size} | {speeds[-1]:,.1f} | {times[0]} | {times[1]} | {100 * share:.0f} % |", flush=True)


def tune(profile, count: int, steps: int) -> None:
    """Training steps of full fine-tuning as the loop does them, data preparation included."""
    encoder, config = clip.load(profile), profile.full
    some = faces.load(profiles.get("sample")).select(np.arange(512))
    some = dataclasses.replace(some, pixels=pictures(profile, 512))
    head = heads.zero_shot(encoder, prompts.FACES["templates"])
    acc = training.accelerator(profile)
    model = tuning.Classifier(encoder, "image", head, config, train_head=False)
    model, optimizer = acc.prepare(model, training.make_optimizer(model, config.fit))
    batches, rng = tuning.FaceBatches(some, encoder, config), np.random.default_rng(0)
    size = config.fit.batch_size
    fit = dataclasses.replace(config.fit, epochs=1)

    def one():
        rows = rng.integers(0, len(some), size)
        inputs = batches.batch(rows, rng, 0.5)
        loss = torch.nn.functional.cross_entropy(model(*inputs), torch.as_tensor(some.labels[rows], device=acc.device))
        optimizer.zero_grad()
        acc.backward(loss)
        acc.clip_grad_norm_(model.parameters(), fit.clip_norm)
        optimizer.step()

    model.train()
    for _ in range(3):
        one()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in tqdm(range(steps), desc="steps", leave=False):
        one()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    speed, peak = steps * size / (time.perf_counter() - started), products(profile)
    share = 3 * speed * flop(encoder) * config.patches / peak  # backward costs twice the forward pass
    print(
        f"{encoder.name}, full fine-tuning, batches of {size} at {encoder.size} pixels, {config.patches:.0%} of the patches: "
        f"{speed:,.0f} images/s, {tuning.peak_memory() / 1e9:.1f} GB, MFU {100 * share:.0f} % of {peak / 1e12:,.2f} TFLOP/s"
    )


def tables(profile, count: int) -> None:
    """`emolib predict` on a csv file of faces and sentences, against encoding the same files and texts and nothing else."""
    encoder = clip.load(profile)
    asked = {"image": prompts.FACES["templates"], "text": prompts.TEXTS["templates"]}
    both = {cue: heads.zero_shot(encoder, some) for cue, some in asked.items()}
    own = dict.fromkeys(both, fusion.Calibration(1.0, np.zeros(5)))
    model = classifier.EmotionClassifier(encoder, both, own, np.full(5, 0.2))
    sentences = np.resize(texts.load(profiles.get("sample")).texts, count).tolist()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for i, face in enumerate(pictures(profile, count)):
            Image.fromarray(face).save(folder / f"{i}.png")
        lines = [f'{i}.png,"{sentence}"' for i, sentence in enumerate(sentences)]
        (folder / "table.csv").write_text("\n".join(["image,text", *lines]) + "\n")

        def ours():
            (folder / "out.csv").unlink(missing_ok=True)
            classifier.predict(model, folder / "table.csv", folder / "out.csv", image_column="image", text_column="text")

        def plain():
            encoder.encode_images([folder / f"{i}.png" for i in range(count)], cache=False)
            encoder.encode_texts(sentences, cache=False)

        seconds = [clock(action, least=0) for action in (ours, plain)]
    print(
        f"{encoder.name}, {count:,} rows: predict {count / seconds[0]:,.0f} rows/s, the encoder alone {count / seconds[1]:,.0f}: "
        f"{100 * seconds[1] / seconds[0]:.0f} %"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="sample", choices=[p for p in profiles.PROFILES if p != "published"])
    parser.add_argument("--faces", type=int, default=2000)
    parser.add_argument("--tune", action="store_true", help="measure training instead of encoding")
    parser.add_argument("--predict", action="store_true", help="measure tables of pictures and texts instead")
    parser.add_argument("--steps", type=int, default=20)
    chosen = parser.parse_args()
    profile = profiles.get(chosen.profile)
    if profile.precision == "float64":
        profile = dataclasses.replace(profile, precision="float32", threads=None)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, {clip.device()}")
    if chosen.predict:
        tables(profile, chosen.faces)
    elif chosen.tune:
        tune(profile, chosen.faces, chosen.steps)
    else:
        encode(profile, chosen.faces)


if __name__ == "__main__":
    main()
