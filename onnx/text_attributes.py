"""Teaches the text encoder alone what a caption asks for: colours, shapes, sizes, order.

The diffusion loss teaches words too, but slowly: an outline is few pixels. A linear reading of the last position, which
has seen the whole caption, must name every attribute; the reading is thrown away, the text encoder is kept."""
import numpy as np
import torch
import torch.nn.functional as F

import shapes_data
from training_loop import Log, Rate, make_scenes, save
from tiny_parts import new_text_encoder

COLORS = [*shapes_data.COLORS, None]
SHAPES = [*shapes_data.SHAPES, None]
SIZES = ["small", "", "large", None]
RELATIONS = [None, *shapes_data.RELATIONS]
GROUPS = (len(COLORS), *(len(COLORS), len(SHAPES), len(SIZES)) * 2, len(RELATIONS))


def attributes(scene, caption):
    """The index of each attribute that `caption` of `scene` names; None where it names none."""
    if not caption:
        scene = dict(background=None, objects=[], relation=None)
    objects = [*scene["objects"], *[dict(color=None, shape=None, size=None)] * 2][:2]
    background = scene["background"] if " on " in caption else None
    found = [COLORS.index(background)]
    for o in objects:
        found += [COLORS.index(o["color"]), SHAPES.index(o["shape"]), SIZES.index(o["size"])]
    return [*found, RELATIONS.index(scene["relation"])]


def draw_captions(scenes, rng):
    """A caption for each scene, one in ten empty."""
    return ["" if rng.random() < 0.1 else shapes_data.caption(s, rng) for s in scenes]


def token_ids(captions, tokenizer):
    return torch.tensor([e.ids for e in tokenizer.encode_batch(captions)])


def train_text(args, tokenizer):
    """The pretrained text encoder's parameters go to `text.pt`."""
    path = args.work / "text.pt"
    if path.exists():
        return
    torch.manual_seed(6)
    rng = np.random.default_rng(6)
    scenes = make_scenes(args.pictures, seed=0)[0]
    encoder = new_text_encoder(tokenizer)
    reading = torch.nn.Linear(encoder.config.hidden_size, sum(GROUPS))
    parameters = [*encoder.parameters(), *reading.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.01, betas=(0.9, 0.98))
    rate, log = Rate(100, args.text_steps, args.text_steps // 2), Log("text", "loss")
    for step in range(args.text_steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * rate.at(step)
        batch = [scenes[i] for i in rng.integers(len(scenes), size=128)]
        captions = draw_captions(batch, rng)
        wanted = torch.tensor([attributes(s, c) for s, c in zip(batch, captions)])
        last = encoder(token_ids(captions, tokenizer)).last_hidden_state[:, -1]
        logits = reading(last).split(GROUPS, dim=1)
        loss = sum(F.cross_entropy(logit, wanted[:, i]) for i, logit in enumerate(logits))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        log.add(step + 1, loss.item(), rate.at(step))
    save(path, encoder.state_dict())
