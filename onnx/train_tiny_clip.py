#!/usr/bin/env python3
"""Trains `tiny-clip`, which says how well a picture of coloured shapes fits a caption, and writes it as an ONNX graph in
optimum's layout for CLIP: `model.onnx` (both towers), `preprocessor_config.json`, the tokenizer's files, `config.json`.

    python onnx/train_tiny_clip.py --out onnx/tiny-clip

It is transformers' `CLIPModel`, small, trained as CLIP was (arXiv 2103.00020) on the scenes of `shapes_data.py`. Random
captions of a batch nearly always differ in the background alone, so each picture also has captions of its own with one
word changed. The last lines printed say how often the right caption of unseen scenes beats changed ones.
"""
import argparse
import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

import shapes_data
from shapes_data import COLORS, SHAPES
from torch_to_onnx import TEXT, Wrapper, session, to_onnx, write_clip_tokenizer, write_json

SIZE, PATCH, WIDTH, LENGTH = 64, 8, 64, 32
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's
CHANGED = 4  # captions with one word changed, a picture
HELD_OUT = 808_808


def new_model(tokenizer):
    tower = dict(hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_attention_heads=4, projection_dim=WIDTH)
    ids = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return CLIPModel(CLIPConfig(
        text_config=dict(**tower, **ids, vocab_size=len(tokenizer), num_hidden_layers=2, max_position_embeddings=LENGTH),
        vision_config=dict(**tower, image_size=SIZE, patch_size=PATCH, num_hidden_layers=4), projection_dim=WIDTH))


def changed(scene, rng):
    """`scene` with one thing about it changed that its plain caption names."""
    scene = copy.deepcopy(scene)
    pick = lambda values, but: rng.choice([v for v in values if v not in but])
    objects = scene["objects"]
    target = objects[rng.integers(len(objects))]
    what = rng.choice(["background", "color", "shape", "other"])
    if what == "background":
        scene["background"] = pick(COLORS, [scene["background"]])
    elif what == "color":
        target["color"] = pick(COLORS, [target["color"], scene["background"]])
    elif what == "shape":
        target["shape"] = pick(SHAPES, [target["shape"]])
    elif scene["relation"]:
        if (objects[0]["color"], objects[0]["shape"]) == (objects[1]["color"], objects[1]["shape"]):
            return changed(scene, rng)
        objects.reverse()
    else:
        target["size"] = pick(shapes_data.RADIUS, [target["size"]])
    return scene


def to_pixels(pictures, rng=None):
    """Pictures uint8 [n, h, w, 3] as the network takes them; with `rng`, a little spoilt, as generated ones are."""
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    if rng is not None:
        x = (x + torch.from_numpy(rng.normal(0, rng.uniform(0, 0.06), x.shape).astype(np.float32))).clamp(0, 1)
        if rng.random() < 0.5:
            kernel = torch.tensor([0.25, 0.5, 0.25])
            x = F.conv2d(F.pad(x, (1, 1, 1, 1), "replicate"), (kernel[:, None] * kernel).repeat(3, 1, 1, 1), groups=3)
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    return (x - mean) / std


def tokens(tokenizer, captions):
    batch = tokenizer(captions, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"]


def embeds(model, pixels, ids, mask):
    """Normalized embeddings of pictures and of texts."""
    image = model.visual_projection(model.vision_model(pixels).pooler_output)
    text = model.text_projection(model.text_model(ids, attention_mask=mask).pooler_output)
    return F.normalize(image, dim=-1), F.normalize(text, dim=-1)


def loss_of(model, pixels, ids, mask, count):
    """CLIP's loss, with each picture's own changed captions among its wrong ones."""
    image, text = embeds(model, pixels, ids, mask)
    right, wrong = text[:count], text[count:].view(count, CHANGED, -1)
    scale = model.logit_scale.exp().clamp(max=100)
    among_all = scale * image @ right.T
    among_own = scale * torch.einsum("nd,ncd->nc", image, wrong)
    target = torch.arange(count)
    by_image = F.cross_entropy(torch.cat([among_all, among_own], 1), target)
    return (by_image + F.cross_entropy(among_all.T, target)) / 2


def train(model, tokenizer, args):
    scene_rng = np.random.default_rng(1)
    scenes = [shapes_data.sample_scene(scene_rng) for _ in range(args.pictures)]
    pictures = np.stack([shapes_data.draw(scene) for scene in scenes])
    rng, started = np.random.default_rng(2), time.time()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=args.steps, pct_start=0.1)
    for step in range(args.steps):
        chosen = rng.integers(len(scenes), size=args.batch)
        captions = [shapes_data.caption(scenes[i], rng) for i in chosen]
        # Changed captions are plain ones: a word left out is no mistake.
        captions += [shapes_data.caption(changed(scenes[i], rng), rng, plain=True) for i in chosen for _ in range(CHANGED)]
        loss = loss_of(model, to_pixels(pictures[chosen], rng), *tokens(tokenizer, captions), args.batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1} loss {loss.item():.4f} {(time.time() - started) / (step + 1):.3f} s/step", flush=True)


@torch.no_grad()
def judge(model, tokenizer, count=1000):
    """How often the right caption beats one changed one, and the scores of both (100 times the cosine, at least 0)."""
    rng = np.random.default_rng(HELD_OUT)
    scenes = [shapes_data.sample_scene(rng) for _ in range(count)]
    pixels = to_pixels(np.stack([shapes_data.draw(scene) for scene in scenes]))

    def score(captions):
        image, text = embeds(model, pixels, *tokens(tokenizer, captions))
        return (100 * (image * text).sum(-1)).clamp(min=0)

    right = score([shapes_data.caption(scene, rng, plain=True) for scene in scenes])
    wrong = score([shapes_data.caption(changed(scene, rng), rng, plain=True) for scene in scenes])
    other = score([shapes_data.caption(scene, rng, plain=True) for scene in scenes[1:] + scenes[:1]])
    quantiles = lambda scores: " ".join(f"{q:.1f}" for q in torch.quantile(scores, torch.tensor([0.05, 0.5, 0.95])).tolist())
    print(f"right beats changed: {(right > wrong).float().mean():.3f} of {count} unseen scenes")
    print(f"scores, 5 % / median / 95 %: right {quantiles(right)}, one thing changed {quantiles(wrong)}, another scene {quantiles(other)}")


class Clip(Wrapper):
    def forward(self, input_ids, pixel_values, attention_mask):
        output = self.model(input_ids=input_ids, pixel_values=pixel_values, attention_mask=attention_mask)
        return output.logits_per_image, output.logits_per_text, output.text_embeds, output.image_embeds


def write(model, tokenizer, out):
    out.mkdir(parents=True, exist_ok=True)
    ids, mask = tokens(tokenizer, ["a red heart on a blue background", "a large ring"])
    inputs = dict(input_ids=ids, pixel_values=torch.randn(2, 3, SIZE, SIZE), attention_mask=mask)
    text, image = {0: "text_batch_size"}, {0: "image_batch_size"}
    graph = to_onnx(Clip(model), inputs,
                    {"input_ids": {**text, 1: "sequence_length"}, "pixel_values": image, "attention_mask": {**text, 1: "sequence_length"}},
                    {"logits_per_image": {**image, 1: "text_batch_size"}, "logits_per_text": {**text, 1: "image_batch_size"},
                     "text_embeds": text, "image_embeds": image})
    (out / "model.onnx").write_bytes(graph.SerializeToString(deterministic=True))
    write_clip_tokenizer(tokenizer, out)
    model.config.save_pretrained(out)
    write_json(out / "preprocessor_config.json", dict(
        crop_size=dict(height=SIZE, width=SIZE), do_center_crop=True, do_convert_rgb=True, do_normalize=True, do_rescale=True,
        do_resize=True, image_mean=MEAN, image_processor_type="CLIPImageProcessor", image_std=STD, resample=3,
        rescale_factor=1 / 255, size=dict(shortest_edge=SIZE)))
    check(model, out / "model.onnx", inputs)


def check(model, path, inputs):
    """The graph against torch, for one picture and text and for two."""
    for count in (1, 2):
        some = {name: value[:count] for name, value in inputs.items()}
        with torch.no_grad():
            expected = Clip(model)(**some)
        got = session(path).run(None, {name: value.numpy() for name, value in some.items()})
        worst = max(float(np.abs(a - b.numpy()).max() / b.abs().max()) for a, b in zip(got, expected))
        assert worst < 1e-4, worst
    print(f"{path}: {path.stat().st_size} bytes, equal to torch's within {worst:.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokenizer", default=Path(__file__).parent / "tiny-shapes/tokenizer")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--pictures", type=int, default=20_000)
    args = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(args.tokenizer)
    model = new_model(tokenizer).train()
    train(model, tokenizer, args)
    model.eval()
    judge(model, tokenizer)
    write(model, tokenizer, args.out)


if __name__ == "__main__":
    main()
