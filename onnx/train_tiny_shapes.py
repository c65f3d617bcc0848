#!/usr/bin/env python3
"""Trains `tiny-shapes`, the latent diffusion model that ships with nightshift, from nothing.

    python onnx/train_tiny_shapes.py --work DIR            # all stages; the same command resumes
    python onnx/export_tiny_shapes.py --work DIR --out onnx/tiny-shapes

Stages, each kept in DIR and skipped when its result is there:
  tokenizer  a byte-level BPE in CLIP's form, learned from captions
  text       CLIPTextModel alone learns to tell what a caption asks for (`text_attributes.py`), so that the UNet finds
             colours, shapes and places laid out before it
  vae        AutoencoderKL, L1 + MSE + a little KL, on drawn pictures; then every picture is encoded once
  unet       UNet2DConditionModel and the text encoder together, v-prediction, 10 % empty captions, EMA of the weights
  decoder    the VAE's decoder alone, L1, on the latents with a little noise: sharper edges, truer colours

The learning rate is warm-up, constant, then a linear fall over the last `--decay-steps`: a run can be stopped and
resumed anywhere (at most 500 steps are lost), and be given more or fewer `--steps` without having planned its length.
`--minutes` begins the fall so that the UNet's stage ends about then. VAE and UNet are trained by `--processes`
processes of one thread each, which add their gradients: at this size that is faster than threads inside the
operations. `torch.compile` fuses what stands between the convolutions (it needs a C++ compiler; `--eager` does without).
"""
import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import tiny_models
import tiny_tokenizer
from muon import Muon
from text_attributes import draw_captions, token_ids, train_text
from tiny_parts import (
    BETA_END, BETA_START, BUCKETS, MODEL_MAX_LENGTH, NUM_TRAIN_TIMESTEPS, new_text_encoder, new_unet)
from train_autoencoder import SHARES, encode_all, refine_decoder, train_vae
from training_loop import Average, Log, Rate, add_up_gradients, agreed, in_processes, make_scenes, save


def timestep_levels():
    """Cumulative share of the timesteps to train on: half uniform, half around the noise that leaves colours but hides
    outlines, where shapes are decided."""
    t = np.arange(NUM_TRAIN_TIMESTEPS)
    bell = np.exp(-0.5 * ((t - 380) / 150) ** 2)
    return np.cumsum(0.5 / len(t) + 0.5 * bell / bell.sum())


def draw_timesteps(levels, count, rng):
    """`count` timesteps, stratified: less variance between batches than independent ones."""
    return torch.from_numpy(np.searchsorted(levels, (np.arange(count) + rng.random(count)) / count).clip(0, 999))


def noisy_and_target(x0, noise, t, alphas_cumprod):
    """The noised latents at timesteps `t`, and the velocity to predict (arXiv 2202.00512, appendix D)."""
    a = alphas_cumprod[t].sqrt()[:, None, None, None]
    s = (1 - alphas_cumprod[t]).sqrt()[:, None, None, None]
    return a * x0 + s * noise, a * noise - s * x0


def train_unet(rank, args):
    tokenizer = tiny_tokenizer.load_or_train(args.work / "tokenizer.json", MODEL_MAX_LENGTH)
    buckets = make_scenes(args.pictures, seed=0)
    latents = torch.load(args.work / "latents.pt")["latents"]
    torch.manual_seed(3)
    unet, text_encoder = new_unet(args.width), new_text_encoder(tokenizer)
    text_encoder.load_state_dict(torch.load(args.work / "text.pt"))
    unet.to(memory_format=torch.channels_last)
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    ends = {id(p) for part in (unet.conv_in, unet.conv_out) for p in part.parameters()}
    matrices = [p for p in unet.parameters() if p.dim() > 1 and id(p) not in ends]
    chosen = {id(p) for p in matrices}
    optimizer = Muon(matrices, [p for p in parameters if id(p) not in chosen], lr=args.lr, adam_lr=1e-3)
    average, step, path = Average(parameters), 0, args.work / "unet.pt"
    if path.exists():
        state = torch.load(path)
        torch._foreach_copy_([p.detach() for p in parameters], state["parameters"])
        average.values, step = state["ema"], state["step"]
        if state["optimizer"]:
            optimizer.load_state_dict(state["optimizer"])
    first, rate = step, Rate(200, args.steps, args.decay_steps)
    alphas_cumprod = torch.cumprod(1 - torch.linspace(BETA_START, BETA_END, NUM_TRAIN_TIMESTEPS), 0)
    # Compiled for the square pictures alone: the other sizes are too few to pay for compiling twice more.
    square = unet if args.eager else torch.compile(unet, dynamic=False)
    if rank == 0:
        print(f"unet {sum(p.numel() for p in unet.parameters()) / 1e6:.2f} M parameters, from step {step}", flush=True)

    common = np.random.default_rng(1000 + step)
    rng = np.random.default_rng((1000 + step, rank))
    torch.manual_seed(100_000 * (rank + 1) + step)
    levels, batch = timestep_levels(), args.batch // args.processes
    log, began = Log("unet", "loss", step), time.time()
    while not rate.done(step):
        # The square bucket alone at first: the other sizes only have to learn what a wider picture changes.
        b = 0 if step < args.square_steps else common.choice(len(BUCKETS), p=SHARES)
        pick = rng.integers(len(buckets[b]), size=batch)
        x0 = latents[b][torch.from_numpy(pick)].contiguous(memory_format=torch.channels_last)
        ids = token_ids(draw_captions([buckets[b][i] for i in pick], rng), tokenizer)
        t = draw_timesteps(levels, batch, rng)
        noisy, target = noisy_and_target(x0, torch.randn_like(x0), t, alphas_cumprod)
        predict = square if b == 0 else unet
        loss = F.mse_loss(predict(noisy, t, text_encoder(ids).last_hidden_state, return_dict=False)[0], target)
        for p in parameters:
            p.grad = None
        loss.backward()
        add_up_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step(rate.at(step))
        step += 1
        average.update(step)
        log.add(step, loss.item(), rate.at(step))
        if step == first + 100:
            began_steady = time.time()  # the first steps wait for the compiler
        elif step % 100 == 0 and args.minutes and step < rate.start:
            pace = agreed((time.time() - began_steady) / (step - first - 100))
            left = args.minutes * 60 - agreed(time.time() - began)
            if left <= args.decay_steps * pace:
                rate = Rate(200, step + args.decay_steps, args.decay_steps)
        if rank == 0 and (step % 500 == 0 or rate.done(step)):
            save(path, dict(step=step, ema=average.values, optimizer=optimizer.state_dict(),
                            parameters=[p.detach().clone() for p in parameters], width=args.width))


def start_from(folder, work):
    """Puts tokenizer, VAE and weights of an exported model into `work`, as if they had been trained there."""
    models = tiny_models.load_torch(folder)
    shutil.copy(folder / "tokenizer/tokenizer.json", work / "tokenizer.json")
    save(work / "vae.pt", models.vae.state_dict())
    save(work / "text.pt", models.text_encoder.state_dict())
    parameters = [p.detach().clone() for p in (*models.unet.parameters(), *models.text_encoder.parameters())]
    save(work / "unet.pt", dict(step=0, ema=parameters, optimizer=None, parameters=parameters))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--init", type=Path, help="exported model to go on from, where --work is still empty")
    parser.add_argument("--pictures", type=int, default=32000)
    parser.add_argument("--text-steps", type=int, default=600)
    parser.add_argument("--vae-steps", type=int, default=1500)
    parser.add_argument("--decoder-steps", type=int, default=1500, help="steps of the decoder alone, at the end")
    parser.add_argument("--steps", type=int, default=16000, help="UNet steps in all")
    parser.add_argument("--decay-steps", type=int, default=4000)
    parser.add_argument("--minutes", type=float, help="begin the fall early, so that the UNet's stage takes this long")
    parser.add_argument("--square-steps", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--lr", type=float, default=0.02, help="Muon's, for the UNet's inner weights")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--stop-after", choices=("text", "vae", "unet", "decoder"), default="decoder")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.init and not (args.work / "vae.pt").exists():
        start_from(args.init, args.work)
    tokenizer = tiny_tokenizer.load_or_train(args.work / "tokenizer.json", MODEL_MAX_LENGTH)
    train_text(args, tokenizer)
    if args.stop_after == "text":
        return
    if not (args.work / "vae.pt").exists():
        in_processes(train_vae, args)
    encoded = encode_all(args)
    (args.work / "config.json").write_text(json.dumps(dict(scaling_factor=encoded["scaling_factor"], width=args.width)))
    if args.stop_after == "vae":
        return
    in_processes(train_unet, args)
    if args.stop_after == "decoder" and not (args.work / "vae_refined.pt").exists():
        in_processes(refine_decoder, args)


if __name__ == "__main__":
    main()
