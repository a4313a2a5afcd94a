"""The label spaces: six text emotions, seven face emotions, the five they share; order, names, colours."""

TEXT_CLASSES = ("sadness", "joy", "love", "anger", "fear", "surprise")
FACE_CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
SHARED_CLASSES = ("anger", "fear", "joy", "sadness", "surprise")

# `love` has no facial counterpart, `disgust` and `neutral` no textual one; merging love into joy is an ablation, never silent.
TEXT_TO_SHARED = {name: name for name in SHARED_CLASSES}
FACE_TO_SHARED = {"angry": "anger", "fear": "fear", "happy": "joy", "sad": "sadness", "surprise": "surprise"}
TO_SHARED = FACE_TO_SHARED | TEXT_TO_SHARED

# MSED (Jia et al. 2022); its neutral and disgust are no emotion of the shared space.
MSED_CLASSES = ("happiness", "neutral", "sad", "anger", "fear", "disgust")
MSED_TO_SHARED = {"happiness": "joy", "sad": "sadness", "anger": "anger", "fear": "fear"}

# Columns of FER+ (Barsoum et al. 2016, arXiv:1608.01041): eight emotions, then "unknown" and "not a face".
FERPLUS_COLUMNS = (
    "neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF",
)  # fmt: skip
FERPLUS_TO_FACE = {
    "neutral": "neutral",
    "happiness": "happy",
    "surprise": "surprise",
    "sadness": "sad",
    "anger": "angry",
    "disgust": "disgust",
    "fear": "fear",
}

# Words for one emotion, as folders and labels of other sets have them.
WORDS = (
    {"anger", "angry"}, {"disgust", "disgusted"}, {"fear", "fearful", "afraid"}, {"joy", "happy", "happiness"},
    {"sadness", "sad"}, {"surprise", "surprised"},
)  # fmt: skip

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

SPLITS = ("train", "validation", "test")

# Ways of fine-tuning a dual encoder, as they are called on pages.
METHODS = {"full": "full fine-tuning", "lora": "LoRA", "lpft": "LP-FT", "flyp": "FLYP"}
# The same by their records: the study goes on with LP-FT, its records are those of the tuned encoder.
WAYS = {"tuned" if method == "lpft" else method: title for method, title in METHODS.items()}

# Okabe-Ito, distinguishable with every common colour blindness; a text emotion and its facial counterpart share a colour.
_PALETTE = {
    "anger": "#D55E00",
    "disgust": "#009E73",
    "fear": "#CC79A7",
    "joy": "#E69F00",
    "sadness": "#0072B2",
    "surprise": "#56B4E9",
    "neutral": "#7F7F7F",
    "love": "#882255",
}
COLOURS = _PALETTE | {face: _PALETTE[shared] for face, shared in FACE_TO_SHARED.items()}
