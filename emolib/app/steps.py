"""The steps of the fusion page, which load torch only when they compute: train fusions, write and try the classifier."""

from __future__ import annotations

import numpy as np

from emolib.app.classifier import EmotionClassifier
from emolib.data.dataset import Dataset
from emolib.data.labels import FACE_CLASSES, TEXT_CLASSES
from emolib.models import fusion
from emolib.models.fusion import Experts
from emolib.profiles import Clip, Fusion, Search, Tuning, Work
from emolib.results import report, tables
from emolib.results.predictions import Facts, Predictions, facts

OWN = {"image": FACE_CLASSES, "text": TEXT_CLASSES}
CHOSEN = {"emotion": "Epochs, prompts, mixture and calibration", "own": "Epochs, learning rates, heads and calibration"}
LIMITS = {
    "emotion": "The labels say what annotators saw in a picture or a hashtag said about a text, not what a person felt. The sets "
    "have no demographic data, so no error can be given for a group of people. Nothing was tested on items of another origin.",
    "own": "The labels say what those saw who gave them. Nothing was tested on items of another origin.",
}
LAW = """\
**Intended use.** Research on methods; not for judging real people.

**Law.** In the European Union inferring emotions at work and in education is prohibited (Regulation 2024/1689, Article
5(1)(f)); other emotion recognition from biometric data is high-risk. The terms of the data and of the encoder apply to these
weights.
"""


def load_encoder(clip: Clip, precision: str):
    """The dual encoder of a profile, see `encoder.load`; imports torch only now."""
    from emolib.models import encoder

    return encoder.load(clip, precision)


def search(encoder, pairs: Dataset, modality: str, config: Tuning, grid: Search, *, work: Work = Work()) -> Facts:
    """The learning rate for `tune` of a modality: see `tuning.search`."""
    from emolib.models import tuning

    return tuning.search(encoder, pairs.seen(modality), "lpft", config, None, grid, work=work)


def tune(encoder, pairs: Dataset, modality: str, config: Tuning, *, work: Work = Work()) -> Predictions:
    """Fine-tune the encoder on what pairs show ("image", "text" or "both"), from a linear probe on: see `tuning.tune`."""
    from emolib.models import tuning

    return tuning.tune(encoder, pairs.seen(modality), "lpft", config, None, work=work)


def learn(encoder, pairs: Dataset, kind: str, config: Fusion, matched: bool, *, work: Work = Work()) -> Predictions:
    """Train one fusion of `KINDS` on the frozen features of pairs, once per seed: see `fusion_networks.learn`."""
    from emolib.models import fusion_networks

    return fusion_networks.learn(encoder, pairs, kind, config, matched, work)


def learn_on_tuned(encoder, pairs: Dataset, kind: str, config: Fusion, models: dict[str, str], made: list[Predictions], *,
                   work: Work = Work()) -> Predictions:  # fmt: skip
    """The same on the vectors of encoders that were fine-tuned on these pairs and are left as they are from then on.

    models: {modality: step} of `tune`, whose first seed is taken. made: what is recorded of them, so that this record knows it.
    """
    return learn(tuned(encoder, models, work)[0], pairs, kind, config, False, work=work)


def tuned(encoder, models: dict[str, str], work: Work) -> tuple:
    """The encoder with each modality's part of a fine-tuned model, {modality: step}, and these models' heads by modality."""
    from emolib.models.encoder import PARTS
    from emolib.models.tuning import Tuned

    found = {m: Tuned.load(work.model(step)) for m, step in models.items()}
    weights = {k: v for m, t in found.items() for k, v in t.weights.items() if k.startswith(PARTS[m])}
    return encoder.with_weights(weights), {m: t.head for m, t in found.items()}


def assemble(encoder, models: dict[str, str], experts: Experts | None, own: dict[str, tuple[str, ...]], work: Work):
    """The `EmotionClassifier` of fine-tuned models, {modality: step}: each gives its part of the encoder and its head.

    experts: their calibrations, prior and shared classes; None for one modality. own: each modality's classes.
    """
    fused = {}
    if experts:
        calibrations = dict(zip(fusion.MODALITIES, experts.calibrations, strict=True))
        fused = {"classes": experts.image.classes, "calibrations": calibrations, "prior": experts.prior}
    return EmotionClassifier(*tuned(encoder, models, work), own, **fused)


def classify_pairs(encoder, data: Dataset, models: dict, experts: Experts, own: dict = OWN, *, work: Work = Work()) -> Facts:
    """What the classifier of `assemble` says about the held-out pairs of a set that it has never seen.

    arrays: "ids", "labels" (N,) in the classes of `data` (notes), "split" (N,) 0 validation, 1 test, and each modality's
    calibrated posterior in the fused classes, "image" and "text" (N, K).
    """
    some = data.select(data.held_out)
    answers = assemble(encoder, models, experts, own, work).posteriors(some.texts.tolist(), list(some.images))
    arrays = {"ids": some.ids.astype(np.int32), "labels": some.labels.astype(np.int8)}
    arrays |= {"split": (some.split == "test").astype(np.int8)} | {m: p.astype(np.float32) for m, p in answers.experts.items()}
    return facts(data, {"classes": list(data.classes)}, arrays)


def export(encoder, data: Dataset, models: str | dict, answers: Predictions | Experts, own: dict = OWN, *,
           work: Work = Work()) -> Facts:  # fmt: skip
    """Write a classifier with its card to <work.folder>/export/emotion-<image, text or fusion>, and load it again.

    The folder is called own-<...> where `own`, each modality's classes, are not those of the study.

    models: the step that made the model of the data's one modality, or {modality: step} of two. answers: what is recorded of
    it on `data`: predictions, or two experts. notes: "files" and, on 200 held-out items in full precision,
    "largest_difference" between what is loaded and what was written, and "from_record", the mean difference from the recorded
    answers, which may be of 16 bits. Raises ValueError above 1e-4, and above 0.01 from the record.
    """
    experts, kind = answers if isinstance(answers, Experts) else None, "emotion" if own == OWN else "own"
    if isinstance(models, str):
        models, own = {data.modalities[0]: models}, {data.modalities[0]: data.classes}
    classifier = assemble(encoder, models, experts, own, work)
    classifier.encoder.precision = exact = "float64" if encoder.precision == "float64" else "float32"
    title = f"{kind}-{'fusion' if experts else data.modalities[0]}"
    folder = work.folder / "export" / title
    classifier.save_pretrained(folder, card(title, encoder.name, answers))
    some = data.select(data.held_out[:200])
    again, written = (posterior(c, some) for c in (EmotionClassifier.from_pretrained(folder, precision=exact), classifier))
    recorded = (experts.fused() if experts else answers).probs[0, : len(some)]
    worst, apart = float(np.abs(again - written).max()), float(np.abs(again - recorded).mean())
    if worst > 1e-4 or apart > 0.01:
        raise ValueError(
            f"{folder}: loaded again, its posteriors lie up to {worst:.1g} from those written (wanted 0.0001) and on average "
            f"{apart:.1g} from the recorded ones (wanted 0.01); make the models anew: "
            f"python -m emolib run --profile PROFILE --fresh {'04 05' if kind == 'emotion' else '06'}"
        )
    files = sorted(path.name for path in folder.iterdir())
    return facts(data, {"files": files, "largest_difference": worst, "from_record": apart})


def posterior(classifier: EmotionClassifier, data: Dataset) -> np.ndarray:
    """(N, K): of both modalities where there are two, else of the one."""
    texts, images = ([None] * len(data) if column is None else list(column) for column in (data.texts, data.images))
    answers = classifier.posteriors(texts, images)
    return next(iter(answers.own.values())) if answers.fused is None else answers.fused


def card(title: str, encoder: str, answers: Predictions | Experts) -> str:
    """The model card that goes with a classifier: data, scores with intervals, limits, intended use, law."""
    systems = {title: answers}
    if isinstance(answers, Experts):
        systems = {"image and text": answers.fused(), "image alone": answers.image, "text alone": answers.text}
    first, kind = next(iter(systems.values())), title.partition("-")[0]
    scores = report.markdown(tables.scores({name: found.test for name, found in systems.items()}))
    return (
        f"# {title}\n\nThe dual encoder {encoder}, fine-tuned, with a linear head per modality, to tell "
        f"{', '.join(first.classes)} apart. Load it with `emolib.EmotionClassifier.from_pretrained`.\n\n**Data.** "
        f"{first.source}. {CHOSEN[kind]} were chosen on validation items. On test items:\n\n{scores}\n\n"
        f"**Limits.** {LIMITS[kind]}\n\n{LAW}"
    )
