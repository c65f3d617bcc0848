#!/usr/bin/env python3
"""Trains `tiny-shapes`, the latent diffusion model that ships with nightshift, from nothing.

    python onnx/train_tiny_shapes.py --work DIR            # tokenizer, VAE, then UNet and text encoder; resumes
    python onnx/export_tiny_shapes.py --work DIR --out onnx/tiny-shapes

Stages, each kept in DIR and skipped when its result is there:
  tokenizer  a byte-level BPE in CLIP's form, learned from captions
  vae        AutoencoderKL, L1 + MSE + a little KL, on drawn pictures; then every picture is encoded once
  decoder    the VAE's decoder alone, L1, on those latents with a little noise: sharper edges, truer colours
  unet       UNet2DConditionModel and CLIPTextModel together, v-prediction, 10 % empty captions, EMA of the weights

The learning rate is warm-up, constant, then a linear fall over the last `--decay-steps`: a run can be stopped and
resumed anywhere (at most 500 steps are lost), and be given more or fewer `--steps` without having planned its length.
The UNet is trained by `--processes` processes of one thread each, which add their gradients: at this size that is
faster than threads inside the operations, and it bears other work on the machine better.
"""
import argparse
import json
import math
import os
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

import shapes_data
import tiny_tokenizer

NUM_TRAIN_TIMESTEPS = 1000
BETA_START, BETA_END = 1e-4, 0.02
MODEL_MAX_LENGTH = 32
# (width, height, share of the pictures). UNet and VAE are convolutional; several sizes keep them honest.
BUCKETS = ((64, 64, 0.7), (96, 64, 0.15), (64, 96, 0.15))


def new_vae():
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(16, 32, 48), layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8, sample_size=64,
    )


def new_unet(width):
    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(width, 2 * width), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64, attention_head_dim=4, norm_num_groups=8,
    )


def new_text_encoder(tokenizer):
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=64, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=MODEL_MAX_LENGTH, hidden_act="quick_gelu", projection_dim=64,
        bos_token_id=tokenizer.token_to_id(tiny_tokenizer.BOS), eos_token_id=tokenizer.token_to_id(tiny_tokenizer.EOS),
        pad_token_id=tokenizer.token_to_id(tiny_tokenizer.EOS),
    ))


def make_scenes(count, seed):
    """`count` scenes, split over BUCKETS; returns a list per bucket."""
    rng = np.random.default_rng(seed)
    return [[shapes_data.sample_scene(rng, w, h) for _ in range(round(count * share))] for w, h, share in BUCKETS]


def pictures(scenes):
    return np.stack([shapes_data.draw(s) for s in scenes])


def to_tensor(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def save(path, value):
    torch.save(value, f"{path}.tmp")
    os.replace(f"{path}.tmp", path)


class Rate:
    """Warm-up, constant, linear fall; see the module's text."""

    def __init__(self, peak, warmup, steps, decay_steps, final=0.02):
        self.peak, self.warmup, self.final = peak, warmup, final
        self.decay_steps, self.start = decay_steps, steps - decay_steps

    def at(self, step):
        if step >= self.start:
            return self.peak * max(self.final, 1 - (step - self.start) / self.decay_steps)
        return self.peak * min(1, (step + 1) / self.warmup)

    def done(self, step):
        return step >= self.start + self.decay_steps


def train_vae(args, buckets):
    path = args.work / "vae.pt"
    vae = new_vae()
    if path.exists():
        vae.load_state_dict(torch.load(path))
        return vae.eval()
    torch.manual_seed(1)
    vae.train()
    model = vae.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-3, weight_decay=0.0, betas=(0.9, 0.99))
    images = [pictures(b[:6000]) for b in buckets]
    shares = np.array([share for _, _, share in BUCKETS])
    rng = np.random.default_rng(2)
    rate = Rate(2.5e-3, 50, args.vae_steps, args.vae_steps // 2)
    started, step, shown = time.time(), 0, []
    while not rate.done(step):
        for group in optimizer.param_groups:
            group["lr"] = rate.at(step)
        bucket = images[rng.choice(len(images), p=shares)]
        x = to_tensor(bucket[rng.integers(len(bucket), size=16)]).contiguous(memory_format=torch.channels_last)
        noise = torch.randn(x.shape[0], 4, x.shape[2] // 4, x.shape[3] // 4)
        loss, error = vae_loss(model, x, noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        shown.append(error.item())
        if step % 100 == 0:
            print(f"vae step {step} error {np.mean(shown[-100:]):.4f} {(time.time() - started) / step:.3f} s/step", flush=True)
    save(path, vae.state_dict())
    return vae.eval()


def vae_loss(vae, x, noise):
    posterior = vae.encode(x).latent_dist
    decoded = vae.decode(posterior.mean + posterior.std * noise).sample
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    error = (decoded - x).abs().mean()
    return error + 0.5 * F.mse_loss(decoded, x) + 2e-4 * kl, error


@torch.no_grad()
def encode_all(args, vae, buckets):
    path = args.work / "latents.pt"
    if path.exists():
        return torch.load(path)
    latents = []
    for scenes in buckets:
        parts = [vae.encode(to_tensor(pictures(scenes[i:i + 256]))).latent_dist.mean for i in range(0, len(scenes), 256)]
        latents.append(torch.cat(parts))
    scaling_factor = 1 / torch.cat([z.flatten() for z in latents]).std().item()
    print(f"scaling_factor {scaling_factor:.5f}, channel means {latents[0].mean((0, 2, 3)).tolist()}", flush=True)
    result = dict(scaling_factor=scaling_factor, latents=[z * scaling_factor for z in latents])
    save(path, result)
    return result


def refine_decoder(args, vae, buckets, encoded):
    """Trains the decoder alone on the latents as they are, lightly disturbed, as the UNet will disturb them."""
    path = args.work / "vae_refined.pt"
    if path.exists():
        return
    torch.manual_seed(4)
    for p in vae.parameters():
        p.requires_grad_(False)
    parameters = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    for p in parameters:
        p.requires_grad_(True)
    vae.train()
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0, betas=(0.9, 0.99))
    rng, shares = np.random.default_rng(5), np.array([share for _, _, share in BUCKETS])
    rate = Rate(2e-3, 30, args.decoder_steps, args.decoder_steps * 4 // 5)
    shown, started = [], time.time()
    for step in range(args.decoder_steps):
        for group in optimizer.param_groups:
            group["lr"] = rate.at(step)
        b = rng.choice(len(buckets), p=shares)
        pick = rng.integers(len(buckets[b]), size=16)
        x = to_tensor(pictures([buckets[b][i] for i in pick]))
        z = encoded["latents"][b][torch.from_numpy(pick)]
        z = z + 0.06 * torch.rand(16, 1, 1, 1) * torch.randn_like(z)
        error = (vae.decode(z / encoded["scaling_factor"]).sample - x).abs().mean()
        optimizer.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        shown.append(error.item())
        if (step + 1) % 100 == 0:
            print(f"decoder step {step + 1} error {np.mean(shown[-100:]):.4f} {(time.time() - started) / (step + 1):.3f} s/step", flush=True)
    save(path, vae.state_dict())


def training_ids(scenes, rng, tokenizer):
    captions = ["" if rng.random() < 0.1 else shapes_data.caption(s, rng) for s in scenes]
    return torch.tensor([e.ids for e in tokenizer.encode_batch(captions)])


def add_up_gradients(parameters):
    """Replaces each process's gradients by their mean over all processes."""
    gradients = [p.grad for p in parameters]
    flat = torch._utils._flatten_dense_tensors(gradients)
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    torch._foreach_copy_(gradients, torch._utils._unflatten_dense_tensors(flat, gradients))


def train_unet(rank, args):
    torch.set_num_threads(1)
    rendezvous = args.work / "rendezvous"
    dist.init_process_group("gloo", init_method=f"file://{rendezvous.resolve()}", rank=rank, world_size=args.processes)
    tokenizer = tiny_tokenizer.load_or_train(args.work / "tokenizer.json", MODEL_MAX_LENGTH)
    buckets = make_scenes(args.pictures, seed=0)
    latents = torch.load(args.work / "latents.pt")["latents"]
    torch.manual_seed(3)
    unet, text_encoder = new_unet(args.width), new_text_encoder(tokenizer)
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    say = print if rank == 0 else lambda *_, **__: None
    say(f"unet {sum(p.numel() for p in unet.parameters()) / 1e6:.2f} M, "
          f"text encoder {sum(p.numel() for p in text_encoder.parameters()) / 1e6:.2f} M parameters", flush=True)
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01, betas=(0.9, 0.99))
    ema = [p.detach().clone() for p in parameters]
    path, step = args.work / "unet.pt", 0
    rate = Rate(args.lr, 200, args.steps, args.decay_steps)
    if path.exists():
        state = torch.load(path)
        for p, value in zip(parameters, state["parameters"]):
            p.data.copy_(value)
        ema, step = state["ema"], state["step"]
        if state["optimizer"]:
            optimizer.load_state_dict(state["optimizer"])
        say(f"resumed at step {step}", flush=True)
    alphas_cumprod = torch.cumprod(1 - torch.linspace(BETA_START, BETA_END, NUM_TRAIN_TIMESTEPS), 0)

    def loss_of(x0, noise, t, ids):
        a = alphas_cumprod[t].sqrt()[:, None, None, None]
        s = (1 - alphas_cumprod[t]).sqrt()[:, None, None, None]
        prediction = unet(a * x0 + s * noise, t, text_encoder(ids).last_hidden_state, return_dict=False)[0]
        return F.mse_loss(prediction, a * noise - s * x0)

    common = np.random.default_rng(1000 + step)
    rng = np.random.default_rng((1000 + step, rank))
    torch.manual_seed(100_000 * (rank + 1) + step)
    batch = args.batch // args.processes
    shares = np.array([share for _, _, share in BUCKETS])
    shown, started, first = [], time.time(), step
    while not rate.done(step):
        for group in optimizer.param_groups:
            group["lr"] = rate.at(step)
        # The square bucket alone at first: the other sizes only have to learn what a wider picture changes.
        b = 0 if step < args.square_steps else common.choice(len(BUCKETS), p=shares)
        pick = rng.integers(len(buckets[b]), size=batch)
        x0 = latents[b][torch.from_numpy(pick)]
        ids = training_ids([buckets[b][i] for i in pick], rng, tokenizer)
        # Stratified timesteps: the same mean as uniform ones, with less variance between batches.
        t = ((torch.arange(batch) + torch.rand(batch)) * NUM_TRAIN_TIMESTEPS / batch).long()
        loss = loss_of(x0, torch.randn_like(x0), t, ids)
        optimizer.zero_grad()
        loss.backward()
        add_up_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        decay = min(0.999, (1 + step) / (10 + step))
        torch._foreach_lerp_(ema, [p.detach() for p in parameters], 1 - decay)
        shown.append(loss.item())
        if step % 100 == 0:
            pace = (time.time() - started) / (step - first)
            say(f"unet step {step} loss {np.mean(shown[-100:]):.4f} lr {rate.at(step):.2e} {pace:.3f} s/step", flush=True)
        if rank == 0 and (step % 500 == 0 or rate.done(step)):
            save(path, dict(step=step, ema=ema, optimizer=optimizer.state_dict(),
                            parameters=[p.detach().clone() for p in parameters], width=args.width))


def start_from(folder, work):
    """Puts tokenizer, VAE and weights of an exported model into `work`, as if they had been trained there."""
    import tiny_models  # it imports this module

    models = tiny_models.load_torch(folder)
    shutil.copy(folder / "tokenizer/tokenizer.json", work / "tokenizer.json")
    for name in ("vae.pt", "vae_refined.pt"):
        save(work / name, models.vae.state_dict())
    parameters = [p.detach().clone() for p in (*models.unet.parameters(), *models.text_encoder.parameters())]
    save(work / "unet.pt", dict(step=0, ema=parameters, optimizer=None, parameters=parameters))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--init", type=Path, help="exported model to go on from, where --work is still empty")
    parser.add_argument("--pictures", type=int, default=32000)
    parser.add_argument("--vae-steps", type=int, default=1500)
    parser.add_argument("--decoder-steps", type=int, default=1000, help="steps of the decoder alone, after the VAE's")
    parser.add_argument("--steps", type=int, default=12000, help="UNet steps in all")
    parser.add_argument("--decay-steps", type=int, default=2500)
    parser.add_argument("--square-steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--threads", type=int, default=2, help="threads for the VAE stage")
    parser.add_argument("--processes", type=int, default=2, help="processes for the UNet stage")
    parser.add_argument("--stop-after", choices=("decoder", "unet"), default="unet")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.init and not (args.work / "vae.pt").exists():
        start_from(args.init, args.work)
    torch.set_num_threads(args.threads)
    tokenizer = tiny_tokenizer.load_or_train(args.work / "tokenizer.json", MODEL_MAX_LENGTH)
    buckets = make_scenes(args.pictures, seed=0)
    vae = train_vae(args, buckets)
    encoded = encode_all(args, vae, buckets)
    (args.work / "config.json").write_text(json.dumps(dict(scaling_factor=encoded["scaling_factor"], width=args.width)))
    refine_decoder(args, vae, buckets, encoded)
    if args.stop_after == "unet":
        (args.work / "rendezvous").unlink(missing_ok=True)
        mp.spawn(train_unet, args=(args,), nprocs=args.processes)


if __name__ == "__main__":
    main()
