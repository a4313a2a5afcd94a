"""The classifier for one's own data: equal to its parts, for any classes, honest about what is missing; its steps check it."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from emolib import EmotionClassifier, profiles
from emolib.app import steps
from emolib.data import prompts
from emolib.data.dataset import DataError, column
from emolib.data.labels import SHARED_CLASSES
from emolib.models import encoder, fusion, heads
from emolib.models.fusion import Calibration
from emolib.models.tuning import Tuned
from emolib.profiles import Work
from emolib.results.predictions import predictions

PRIOR = np.array([0.15, 0.15, 0.35, 0.3, 0.05])


@pytest.fixture(scope="module")
def clip():
    return encoder.load(profiles.get("sample").clip, "float32")


@pytest.fixture(scope="module")
def model(clip):
    """The sample's tiny CLIP as a fused classifier."""
    both = {
        "image": heads.zero_shot(clip, prompts.FACES["ensemble"]),
        "text": heads.zero_shot(clip, prompts.TEXTS["ensemble"]),
    }
    calibrations = {"image": Calibration(1.3, np.log(PRIOR)), "text": Calibration(0.8, np.zeros(5))}
    return EmotionClassifier(clip, both, steps.OWN, classes=SHARED_CLASSES, calibrations=calibrations, prior=PRIOR)


def test_both_together_are_the_product_of_the_calibrated_experts(model, sample_faces, sample_texts):
    images, texts = list(sample_faces.images[:6]), sample_texts.texts[:6].tolist()
    found = model(text=texts, image=images)
    own = {
        "image": model.heads["image"].posterior(model.encoder.encode_images(images, cache=False)),
        "text": model.heads["text"].posterior(model.encoder.encode_texts(texts, cache=False)),
    }
    inside = {m: fusion.in_shared(own[m], steps.OWN[m]) for m in own}
    by_hand = [model.calibrations[m](p / p.sum(1, keepdims=True)) for m, p in inside.items()]
    both, conflict = fusion.product(*by_hand, PRIOR), fusion.conflict(*by_hand, PRIOR, rate=0.1)
    for i, emotion in enumerate(found):
        assert list(emotion.posterior) == list(SHARED_CLASSES) and emotion.label == SHARED_CLASSES[both[i].argmax()]
        assert np.allclose(list(emotion.posterior.values()), both[i], atol=1e-6)
        assert emotion.conflict == pytest.approx(conflict[i], abs=1e-6)
        for m in own:
            assert list(getattr(emotion, m)) == list(steps.OWN[m]) and np.allclose(list(getattr(emotion, m).values()), own[m][i])
            assert emotion.outside[m] == pytest.approx(1 - inside[m][i].sum(), abs=1e-6)


def test_the_supposed_rate_of_conflicts_moves_the_score_alone(model, sample_faces):
    parts = {"classes": model.classes, "calibrations": model.calibrations, "prior": PRIOR}
    often = EmotionClassifier(model.encoder, model.heads, model.own, **parts, conflict_rate=0.5)
    rare, common = (m(text="i feel angry", image=sample_faces.images[0]) for m in (model, often))
    assert common.posterior == rare.posterior
    assert common.conflict / (1 - common.conflict) == pytest.approx(9 * rare.conflict / (1 - rare.conflict))


def test_one_modality_answers_in_its_own_classes(model, sample_faces):
    face = sample_faces.images[0]
    seen, said = model(image=face), model(text="i feel so angry")
    assert seen.text is None and seen.conflict is None and seen.posterior == seen.image and list(seen.outside) == ["image"]
    assert list(seen.posterior) == list(steps.OWN["image"]) and list(said.posterior) == list(steps.OWN["text"])
    mixed = model(text=["i feel so angry", None, "what a joy"], image=[None, face, face])
    assert mixed[0].posterior == pytest.approx(said.posterior, abs=1e-6) and mixed[1].posterior == pytest.approx(seen.posterior)
    assert mixed[2].conflict is not None and list(mixed[2].posterior) == list(SHARED_CLASSES)


def test_a_classifier_of_any_classes(clip, sample_faces):
    own = {"image": ("beard", "glasses"), "text": ("glasses", "hat", "beard")}
    made = {m: heads.zero_shot(clip, [[f"a person with {name}"] for name in own[m]]) for m in own}
    found = EmotionClassifier(clip, made, own, classes=("glasses", "beard"))(text="he has a beard", image=sample_faces.images[0])
    assert list(found.posterior) == ["glasses", "beard"] and found.outside["text"] == pytest.approx(found.text["hat"])
    image = np.array([found.image[c] for c in found.posterior])
    text = np.array([found.text[c] for c in found.posterior])
    assert list(found.posterior.values()) == pytest.approx(image * text / (image * text).sum())
    alone = EmotionClassifier(clip, {"image": made["image"]}, own)
    assert alone(image=sample_faces.images[0]).posterior == pytest.approx(found.image) and not alone.classes
    with pytest.raises(ValueError, match="no head for texts, only for images"):
        alone(text="he has a beard")
    with pytest.raises(ValueError, match="0 of the classes beard, glasses stand for the fused class hat"):
        EmotionClassifier(clip, made, own, classes=("hat",))
    with pytest.raises(ValueError, match="image head has 2 rows for 3 classes"):
        EmotionClassifier(clip, made, own | {"image": ("a", "b", "c")}, classes=("glasses",))
    with pytest.raises(ValueError, match="2 heads and 0 fused classes"):
        EmotionClassifier(clip, made, own)


def test_wrong_calls_say_what_is_wanted(model, sample_faces, tmp_path):
    with pytest.raises(ValueError, match="item 1 has neither"):
        model(text=["a", None], image=[None, None])
    with pytest.raises(ValueError, match="item 0 has neither"):
        model()
    with pytest.raises(ValueError, match="found 2 texts and 1 images"):
        model(text=["a", "b"], image=[sample_faces.images[0]])
    with pytest.raises(DataError, match="image 1"):
        model(image=[sample_faces.images[0], b"no picture"])
    with pytest.raises(DataError, match="wanted at least one word"):
        model(text=" ")
    with pytest.raises(encoder.MissingModel, match=r"emolib\.json is not there.*notebook 4, 5 or 6"):
        EmotionClassifier.from_pretrained(tmp_path)


@pytest.mark.parametrize("modalities", [("image", "text"), ("image",)])
def test_what_is_saved_is_what_is_loaded(model, sample_faces, tmp_path, modalities):
    some = {m: model.heads[m] for m in modalities}
    fused = {"classes": SHARED_CLASSES, "calibrations": model.calibrations, "prior": PRIOR, "conflict_rate": 0.3}
    made = EmotionClassifier(model.encoder, some, steps.OWN, **(fused if len(some) == 2 else {}))
    made.save_pretrained(tmp_path, "# a card\n")
    again = EmotionClassifier.from_pretrained(tmp_path)
    items = {"image": list(sample_faces.images[:3])} | ({"text": ["i feel sad", "so glad", "oh"]} if len(some) == 2 else {})
    assert again(**items) == made(**items) and again.fingerprint == made.fingerprint != model.fingerprint
    assert (tmp_path / "README.md").read_text() == "# a card\n" and not list(tmp_path.glob("*.bin"))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("emolib.json", lambda b: b[:100], "emolib.json is damaged"),
        ("emolib.json", lambda b: b"{}", "emolib.json is damaged or of an older edition"),
        ("emolib.json", lambda b: b"7", "emolib.json is damaged"),
        ("heads.safetensors", lambda b: b[:-1] + bytes([b[-1] ^ 1]), "heads.safetensors is not the file that was written"),
        ("model.safetensors", lambda b: b[: len(b) // 2], "model.safetensors is not the file that was written.*cut or changed"),
        ("tokenizer.json", None, "tokenizer.json is not there; wanted a folder that notebook 4, 5 or 6 exports"),
        ("preprocessor_config.json", lambda b: b.replace(b"0.", b"1."), "preprocessor_config.json is not the file"),
    ],
)
def test_a_damaged_export_is_refused(model, tmp_path, name, change, message):
    model.save_pretrained(tmp_path, "# a card\n")
    if change:
        (tmp_path / name).write_bytes(change((tmp_path / name).read_bytes()))
    else:
        (tmp_path / name).unlink()
    with pytest.raises(encoder.MissingModel, match=message):
        EmotionClassifier.from_pretrained(tmp_path)


def test_a_drive_that_knows_no_permissions_takes_an_export(model, tmp_path, monkeypatch):
    def refuse(path, mode):
        raise PermissionError("no permissions on this drive")

    monkeypatch.setattr(type(tmp_path), "chmod", refuse)
    model.save_pretrained(tmp_path, "# a card\n")
    assert EmotionClassifier.from_pretrained(tmp_path).classes == model.classes


def test_a_crop_sees_every_picture_and_may_find_nothing(model, sample_faces, tmp_path):
    model.save_pretrained(tmp_path, "# a card\n")
    wide = Image.new("RGB", (90, 60))
    wide.paste(Image.fromarray(sample_faces.images[0]), (40, 5))

    def cut(picture):
        return picture.crop((40, 5, 88, 53)) if picture.width == 90 else None

    cropped = EmotionClassifier.from_pretrained(tmp_path, crop=cut, conflict_rate=0.5)
    assert cropped(image=wide).posterior == pytest.approx(model(image=sample_faces.images[0]).posterior, abs=1e-6)
    assert cropped.conflict_rate == 0.5
    with pytest.raises(DataError, match="image 0: the crop found nothing in it"):
        cropped(image=sample_faces.images[0])


def test_columns_of_a_table_are_several_items(model, sample_faces):
    texts, images = ["so glad", "i feel sad"], column(list(sample_faces.images[:2]))
    wanted = model(text=texts, image=list(images))
    assert wanted == model(text=pd.Series(texts), image=images) == model(text=np.array(texts), image=tuple(images))
    assert model(text=pd.Series(["so glad", np.nan]), image=images)[1].text is None


@pytest.fixture(scope="module")
def work(clip, model, tmp_path_factory):
    """Fine-tuned models, of which one part each is to be used."""
    made = Work("float32", 1, tmp_path_factory.mktemp("runs"))
    for step, modality, shift in (("faces/x", "image", 0.02), ("texts/y", "text", 0.05), ("faces/z", "image", -0.1)):
        moved = {k: v + shift if v.is_floating_point() else v for k, v in clip.weights.items()}
        Tuned(moved, model.heads[modality]).save(made.model(step))
    return made


MODELS = {"image": "faces/x", "text": "texts/y"}


@pytest.fixture(scope="module")
def pairs(sample_faces, sample_texts):
    """Pairs in no particular order: 60 held-out items of each set."""
    rows, n = sample_faces.held_out[::14], 57
    return dataclasses.replace(
        sample_faces.select(rows[:n]), labels=np.arange(n) % 5, classes=SHARED_CLASSES,
        texts=column(sample_texts.texts[sample_texts.held_out[::14][:n]].tolist()), extras={},
    )  # fmt: skip


@pytest.fixture(scope="module")
def experts(clip, model, work, pairs):
    """What a study would have recorded of the two models on these pairs."""
    alone = []
    for modality, step in MODELS.items():
        tuned = Tuned.load(work.model(step))
        vectors = getattr(clip.with_weights(tuned.weights), f"encode_{modality}s")(getattr(pairs, f"{modality}s"), cache=False)
        probs = fusion.in_shared(tuned.head.posterior(vectors), steps.OWN[modality])
        alone.append(predictions(pairs, model.calibrations[modality](probs / probs.sum(1, keepdims=True))[None]))
    return fusion.Experts(*alone, PRIOR, tuple(model.calibrations[m] for m in MODELS), "-")


def test_each_modality_takes_its_own_part_of_its_own_model(clip, work, experts):
    made = steps.assemble(clip, MODELS, experts, steps.OWN, work)
    weights, (image, text) = made.encoder.weights, (Tuned.load(work.model(s)).weights for s in MODELS.values())
    for name, start in clip.weights.items():
        wanted = next((t[name] for m, t in (("image", image), ("text", text)) if name.startswith(encoder.PARTS[m])), start)
        assert weights[name].equal(wanted), name
    assert made.classes == SHARED_CLASSES and made.calibrations["text"] is experts.calibrations[1]


def test_a_fusion_on_tuned_vectors_sees_those_of_both_models(clip, work, pairs, experts):
    some = dataclasses.replace(pairs, split=np.resize(["train", "validation", "test"], len(pairs)))
    config, made = dataclasses.replace(profiles.get("sample").fusion, emap=5), [experts.image, experts.text]
    found, frozen = (
        function(clip, some, "concat", config, *more, work=dataclasses.replace(work, step=name))
        for name, function, more in (("after", steps.learn_on_tuned, (MODELS, made)), ("before", steps.learn, (False,)))
    )
    vectors = steps.assemble(clip, MODELS, experts, steps.OWN, work).encoder
    same = steps.learn(vectors, some, "concat", config, False, work=dataclasses.replace(work, step="same"))
    assert found.probs.tobytes() == same.probs.tobytes() != frozen.probs.tobytes()
    with pytest.raises(FileNotFoundError, match=r"genuine/z.*--fresh 05"):
        steps.learn_on_tuned(clip, some, "concat", config, MODELS | {"text": "genuine/z"}, made, work=work)


def test_what_is_written_is_checked_against_the_record(clip, work, pairs, experts):
    found = steps.export(clip, pairs, MODELS, experts, work=work)
    assert found.notes["largest_difference"] < 1e-5 and found.notes["from_record"] < 1e-5
    folder = work.folder / "export" / "emotion-fusion"
    assert found.notes["files"] == sorted(p.name for p in folder.iterdir()) and "model.safetensors" in found.notes["files"]
    card = (folder / "README.md").read_text()
    assert "| image and text |" in card and "| text alone |" in card and "Regulation 2024/1689" in card
    with pytest.raises(ValueError, match=r"on average 0\.\d+ from the recorded ones \(wanted 0\.01\)"):
        steps.export(clip, pairs, MODELS | {"image": "faces/z"}, experts, work=work)


def test_a_model_of_one_modality_is_exported_alike(clip, work, sample_faces):
    some = sample_faces.select(sample_faces.held_out[::20])
    tuned = Tuned.load(work.model("faces/x"))
    vectors = clip.with_weights(tuned.weights).encode_images(some.images, cache=False)
    recorded = predictions(some, tuned.head.posterior(vectors)[None])
    found = steps.export(clip, some, "faces/x", recorded, work=work)
    assert found.notes["from_record"] < 1e-5
    alone = EmotionClassifier.from_pretrained(work.folder / "export" / "emotion-image")(image=some.images[0])
    assert list(alone.posterior.values()) == pytest.approx(recorded.posterior[0].tolist(), abs=1e-5)


def test_a_check_in_16_bits_would_check_nothing(clip, work, pairs, experts):
    rough = clip.with_weights(clip.weights)
    rough.precision = "bfloat16"
    found = steps.export(rough, pairs, MODELS, experts, work=work)
    assert found.notes["largest_difference"] < 1e-5 and found.notes["from_record"] < 1e-5 and rough.precision == "bfloat16"


def test_foreign_pairs_are_asked_as_they_are(clip, work, pairs, experts):
    labels = (np.arange(len(pairs)) % 2).astype(int)
    train = np.where(np.arange(len(pairs)) < 5, "train", pairs.split)
    foreign = dataclasses.replace(pairs, labels=labels, split=train, classes=("sincere", "ironic"))
    found = steps.classify_pairs(clip, foreign, MODELS, experts, work=work)
    rows = foreign.held_out
    assert found.arrays["ids"].tolist() == foreign.ids[rows].tolist() and found.notes["classes"] == ["sincere", "ironic"]
    assert found.arrays["split"].tolist() == (foreign.split[rows] == "test").tolist()
    position = {number: i for i, number in enumerate(experts.image.ids.tolist())}
    for modality in MODELS:
        recorded = getattr(experts, modality).posterior[[position[i] for i in found.arrays["ids"].tolist()]]
        assert np.allclose(found.arrays[modality], recorded, atol=1e-5)
