"""Dual encoders of several kinds, in the format of `transformers`."""

import shutil

import pytest
import torch
import transformers

from emolib.profiles import ROOT, get


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Three kinds of dual encoder in transformers' format, with random weights: CLIP, SigLIP, ViT + BERT."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tiny = ROOT / get("sample").clip.source
    tokenizer, processor = (kind.from_pretrained(tiny) for kind in (transformers.CLIPTokenizer, transformers.CLIPImageProcessor))
    shutil.copytree(tiny, folder / "clip")
    torch.manual_seed(1)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    text = size | {"vocab_size": len(tokenizer), "max_position_embeddings": 64}
    vision = size | {"image_size": 48, "patch_size": 16}
    siglip = transformers.SiglipConfig(text_config=text | {"projection_size": 32}, vision_config=vision)
    transformers.SiglipModel(siglip).save_pretrained(folder / "siglip")
    parts = transformers.ViTConfig(**vision), transformers.BertConfig(**text)
    dual = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(*parts, projection_dim=16)
    transformers.VisionTextDualEncoderModel(dual).save_pretrained(folder / "dual")
    tokenizer.model_max_length = 64
    transformers.SiglipImageProcessor(size={"height": 48, "width": 48}).save_pretrained(folder / "siglip")
    for part, name in ((tokenizer, "siglip"), (tokenizer, "dual"), (processor, "dual")):
        part.save_pretrained(folder / name)
    return folder
