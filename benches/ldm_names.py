"""The names that Stable Diffusion 1's own checkpoints give to weights, from those of diffusers.

stable-diffusion.cpp reads a checkpoint of these names as it reads the files that people have.
"""
import re

import torch

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
          "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
UNET = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0", "conv_out": "out.2"}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
VAE_OTHERS = {"conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut"}


def checkpoint(text_encoder, unet, vae):
    """One state dict of all three."""
    named = {f"cond_stage_model.transformer.text_model.{k.removeprefix('text_model.')}": v
             for k, v in text_encoder.state_dict().items()}
    named.update({f"model.diffusion_model.{unet_name(k)}": v for k, v in unet.state_dict().items()})
    named.update({f"first_stage_model.{vae_name(k)}": vae_shape(k, v) for k, v in vae.state_dict().items()})
    return {name: value.contiguous() for name, value in named.items()}


def unet_name(name):
    """`down_blocks.1.resnets.0.conv1.weight` is `input_blocks.4.0.in_layers.2.weight`."""
    place, block = unet_place(name)
    if block != "resnets":
        return place
    inner, ending = place.rsplit(".", 1)
    stem, last = inner.rsplit(".", 1)
    return f"{stem}.{RESNET[last]}.{ending}"


def unet_place(name):
    """The name with the block's number in the other count, and the kind of block it is in."""
    found = re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", name)
    if found:
        side, level, kind, layer, rest = found.groups()
        level, layer = int(level), int(layer)
        if kind == "downsamplers":
            return f"input_blocks.{3 * level + 3}.0.op.{rest.removeprefix('conv.')}", kind
        if kind == "upsamplers":
            return f"output_blocks.{3 * level + 2}.{1 if level == 0 else 2}.{rest}", kind
        number = f"input_blocks.{3 * level + layer + 1}" if side == "down" else f"output_blocks.{3 * level + layer}"
        return f"{number}.{int(kind == 'attentions')}.{rest}", kind
    found = re.match(r"mid_block\.(\w+)\.(\d)\.(.*)", name)
    if found:
        kind, layer, rest = found.groups()
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(layer)}.{rest}", kind
    stem, ending = name.rsplit(".", 1)
    return f"{UNET[stem]}.{ending}", None


def vae_name(name):
    """`decoder.up_blocks.0.resnets.2.conv1.weight` is `decoder.up.3.block.2.conv1.weight`."""
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = re.sub(r"mid_block\.attentions\.0\.([\w.]+)\.(weight|bias)",
                  lambda m: f"mid.attn_1.{VAE_ATTENTION[m[1]]}.{m[2]}", name)
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{3 - int(m[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", name)
    return re.sub("|".join(VAE_OTHERS), lambda m: VAE_OTHERS[m[0]], name)


def vae_shape(name, value):
    """The attention's matrices are convolutions of 1x1 there."""
    matrix = "attentions" in name and name.endswith("weight") and value.dim() == 2
    return torch.unflatten(value, 1, (-1, 1, 1)) if matrix else value
