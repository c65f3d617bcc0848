#!/usr/bin/env python3
"""What transformers prepares for CLIP, and how its CLIP scores pictures: tests/golden/clip/, for tests/scorer.rs.

    python tests/golden/make_clip_goldens.py            # transformers 5.23, Pillow 13, torch 2.15

`prepared` are `pixel_values` of noise.png (tests/golden/pixels) and of one drawn picture, under several
preprocessor_config.json, by the image processor that works on Pillow. `scores` are those of `onnx/tiny-clip`, whose torch
model is rebuilt from the graph's own weights: 100 times the cosine of the embeddings, at least 0, as torchmetrics' CLIPScore.
"""
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "onnx"))
import shapes_data
import tiny_models

CLIP = ROOT / "onnx/tiny-clip"
FOLDER = Path(__file__).parent / "clip"
CONFIGS = [
    {"size": {"shortest_edge": 12}, "crop_size": {"height": 12, "width": 12}},
    {"size": 9, "crop_size": 8},
    {"size": {"shortest_edge": 70}, "crop_size": {"height": 10, "width": 14}},
    {"size": {"height": 11, "width": 7}, "do_center_crop": False},
    {"size": {"height": 5, "width": 6}, "crop_size": {"height": 8, "width": 9}},
    {"size": {"shortest_edge": 12}, "crop_size": {"height": 12, "width": 12}, "resample": 1},
    {"size": {"shortest_edge": 10}, "crop_size": {"height": 10, "width": 10}, "do_normalize": False},
    {"do_resize": False, "crop_size": {"height": 6, "width": 8}, "do_rescale": False},
]
STATISTICS = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}


def prepared(name, config):
    picture = Image.open(FOLDER / name).convert("RGB")
    values = CLIPImageProcessorPil(**config)(picture, return_tensors="np")["pixel_values"][0]
    return dict(picture=name, config=config, shape=list(values.shape),
                values=[float(np.float32(v)) for v in values.astype(np.float32).ravel()])


def torch_model():
    model = CLIPModel(CLIPConfig.from_pretrained(CLIP))
    missing = model.load_state_dict(tiny_models.parameters_of(CLIP / "model.onnx", model), strict=False)
    # The positions are numbers, no weights; the logits' scale is in no embedding.
    assert not missing.unexpected_keys and set(missing.missing_keys) <= {"logit_scale"}, missing
    return model.eval()


def write_pictures():
    """Drawn scenes of three sizes, with their captions."""
    rng = np.random.default_rng(11)
    captions = {}
    for number, (width, height) in enumerate([(64, 64), (64, 64), (96, 64), (64, 96), (128, 128), (40, 72)]):
        scene = shapes_data.sample_scene(rng, width, height)
        name = f"scene{number}.png"
        Image.fromarray(shapes_data.draw(scene)).save(FOLDER / name)
        captions[name] = shapes_data.caption(scene, rng, plain=True)
    return captions


def main():
    FOLDER.mkdir(exist_ok=True)
    Image.open(FOLDER.parent / "pixels/noise.png").convert("RGB").save(FOLDER / "noise.png")
    captions = write_pictures()
    model, tokenizer = torch_model(), CLIPTokenizer.from_pretrained(CLIP)
    processor = CLIPImageProcessorPil.from_pretrained(CLIP)

    @torch.no_grad()
    def score(name, text):
        pixels = processor(Image.open(FOLDER / name).convert("RGB"), return_tensors="pt")["pixel_values"]
        # torchmetrics pads to the longest of a batch; a text alone is not padded.
        ids = tokenizer(text, truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt")
        output = model(pixel_values=pixels, **ids)
        cosine = torch.nn.functional.cosine_similarity(output.image_embeds.double(), output.text_embeds.double()).item()
        return max(100 * cosine, 0)

    texts = [*captions.values(), "", "Größe: 雪 🦊", "a red heart " * 30]
    scores = [dict(picture=name, text=text, score=score(name, text)) for name in [*captions, "noise.png"] for text in texts]
    cases = dict(prepared=[prepared(name, {**STATISTICS, **config}) for name in ("noise.png", "scene2.png") for config in CONFIGS],
                 scores=scores)
    (FOLDER / "cases.json").write_text(json.dumps(cases) + "\n")
    print(f"{len(cases['prepared'])} prepared pictures, {len(scores)} scores, "
          f"from {min(s['score'] for s in scores):.1f} to {max(s['score'] for s in scores):.1f}")


if __name__ == "__main__":
    main()
