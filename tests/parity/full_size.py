#!/usr/bin/env python3
"""Random models of real size, to see what onnx/export.py needs for them.

    python tests/parity/full_size.py sd15 DIR [--half]       # or sdxl
    python onnx/export.py DIR OUT

Stable Diffusion 1.5 (UNet of 860 million parameters) or XL (2.6 billion, and a text encoder of 695 million), with the
tokenizers of tiny_families.py. Parts are made and saved one at a time.
"""
import argparse
import gc
from pathlib import Path

import diffusers
import torch
import transformers

import tiny_families

CROSS, PLAIN = "CrossAttn{}Block2D", "{}Block2D"


def unet(kinds, channels, context, **config):
    return diffusers.UNet2DConditionModel(
        sample_size=64, block_out_channels=channels, layers_per_block=2, cross_attention_dim=context,
        down_block_types=[k.format("Down") for k in kinds], up_block_types=[k.format("Up") for k in kinds[::-1]], **config)


def unet_sd15():
    return unet((CROSS, CROSS, CROSS, PLAIN), (320, 640, 1280, 1280), 768, attention_head_dim=8)


def unet_sdxl():
    return unet((PLAIN, CROSS, CROSS), (320, 640, 1280), 2048, attention_head_dim=(5, 10, 20),
                transformer_layers_per_block=(1, 2, 10), use_linear_projection=True, addition_embed_type="text_time",
                addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816)


def clip(layers, width, act, projection=None):
    config = transformers.CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=width // 64, hidden_act=act, projection_dim=projection or width, eos_token_id=2)
    return (transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel)(config)


def vae(scaling_factor):
    return diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=512,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=scaling_factor)


PARTS = {
    "sd15": {"text_encoder": lambda: clip(12, 768, "quick_gelu"), "unet": unet_sd15, "vae": lambda: vae(0.18215)},
    "sdxl": {"text_encoder": lambda: clip(12, 768, "quick_gelu"), "text_encoder_2": lambda: clip(32, 1280, "gelu", 1280),
             "unet": unet_sdxl, "vae": lambda: vae(0.13025)},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=PARTS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--half", action="store_true", help="save in float16")
    args = parser.parse_args()
    tiny = tiny_families.save(args.model, args.out, small=True)
    del tiny
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16 if args.half else torch.float32)
    for name, make in PARTS[args.model].items():
        for old in (args.out / name).iterdir():
            old.unlink()
        part = make()
        part.save_pretrained(args.out / name)
        print(f"{name}: {sum(p.numel() for p in part.parameters()) / 1e6:.0f} million parameters", flush=True)
        del part
        gc.collect()


if __name__ == "__main__":
    main()
