#!/usr/bin/env python3
"""Tiny diffusers pipelines with random weights, one of each family that nightshift runs.

    python tests/parity/tiny_families.py --out DIR [--only sd15,flux] [--small]

Each is saved with `save_pretrained` as DIR/<family>. Classes, switches and configs are those of the real models; widths
are of 16 to 96, latents of 8x8. The weights are drawn so that activations keep a size of about one: pictures are then
neither gray nor saturated and depend on prompt, guidance and noise. `--small` makes models of a few hundred kilobytes, for
goldens in git. The same bytes every time.
"""
import argparse
from pathlib import Path

import diffusers
import torch
import transformers
from tokenizers import pre_tokenizers

LENGTH = 77
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
SCALED = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
TEXTS = (
    "a small red heart above a yellow ring on a blue background", "a large green triangle on a white background",
    "a photo of the cat's hat, they're sitting and we've seen it", "a purple star left of an orange square",
    "an oil painting of a ship in a storm, dramatic light, highly detailed", "blurry, low quality, watermark",
)


class Sizes:
    """Widths and depths of everything: `normal` for the table of parity, `small` for goldens in git."""

    def __init__(self, small):
        self.unet = (8, 8) if small else (32, 48, 64, 64)
        self.groups = 4 if small else 8
        self.vae = (8, 8, 8, 8) if small else (8, 16, 16, 16)
        self.clip, self.clip_2, self.projection, self.projection_2 = (8, 16, 12, 20) if small else (32, 40, 36, 48)
        self.clip_layers, self.clip_2_layers = (3, 2) if small else (4, 3)
        self.t5 = 32 if small else 96
        self.merges = 60 if small else 400
        self.small = small


def words():
    """The words of TEXTS, each once, in their order. (A trainer of tokenizers breaks ties by chance.)"""
    return list(dict.fromkeys(word.strip(",") for text in TEXTS for word in text.split()))


def clip_tokenizer(sizes, pad_token=EOS):
    """transformers' CLIPTokenizer over a vocabulary in CLIP's form: bytes, bytes at a word's end, merges, BOS, EOS. The
    merges build the words of TEXTS letter by letter."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = []
    for word in filter(str.isalpha, words()):
        letters = [*word[:-1], f"{word[-1]}</w>"]
        merges += [("".join(letters[:i]), letters[i]) for i in range(1, len(letters))]
    merges = list(dict.fromkeys(merges))[:sizes.merges]
    tokens = [*alphabet, *(f"{symbol}</w>" for symbol in alphabet), *(a + b for a, b in merges), BOS, EOS]
    vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return transformers.CLIPTokenizer(
        vocab=vocab, merges=merges, bos_token=BOS, eos_token=EOS, unk_token=EOS, pad_token=pad_token,
        model_max_length=LENGTH)


def t5_tokenizer(model_max_length=512):
    """transformers' T5Tokenizer over a Unigram vocabulary: <pad>, </s>, <unk>, words and their beginnings, characters."""
    pieces = ["\u2581", *(f"\u2581{word}" for word in words()), *(f"\u2581{word[:3]}" for word in words() if len(word) > 5)]
    scored = [(piece, -2 - 0.125 * i) for i, piece in enumerate(dict.fromkeys(pieces))]
    scored += [(chr(code), -12 - code / 128) for code in range(33, 127)]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *scored]
    return transformers.T5Tokenizer(vocab=vocab, extra_ids=0, additional_special_tokens=None,
                                    model_max_length=model_max_length)


def fill(module, seed, gain=1.0):
    """Draws every parameter: matrices with columns of about unit length, so that activations neither grow nor vanish;
    norms near one; biases that matter. `gain` is that of the last layer's."""
    generator = torch.Generator().manual_seed(seed)
    normal = lambda p, std, mean=0.0: p.data.copy_(mean + std * torch.randn(p.shape, generator=generator))
    for name, p in module.named_parameters():
        if name.endswith("bias"):
            normal(p, 0.1)
        elif p.dim() < 2:
            normal(p, 0.1, 1.0)
        elif "embedding" in name and p.dim() == 2 and "embedder" not in name:
            normal(p, 1.0 if "relative" not in name else 0.5)
        elif name.endswith("embed_tokens.weight") or name == "shared.weight":
            normal(p, 1.0)
        else:
            normal(p, p[0].numel() ** -0.5)
    return module.eval()


def scale(module, **factors):
    """Multiplies the weights whose name ends with a key of `factors` (`__` stands for a dot) by its value."""
    for ending, factor in factors.items():
        found = [p for name, p in module.named_parameters() if name.endswith(ending.replace("__", "."))]
        assert found, f"no weight is called {ending}"
        for p in found:
            p.data.mul_(factor)
    return module


def clip(sizes, seed, tokenizer, projection=None, wide=False, layers=None, act="quick_gelu", eos=2):
    """A CLIP text encoder, with a projection if one is asked for. `eos=2` is what the real configs say: the end of text
    is then the largest id."""
    width = sizes.clip_2 if wide else sizes.clip
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_attention_heads=width // 8,
        num_hidden_layers=layers or (sizes.clip_2_layers if wide else sizes.clip_layers), hidden_act=act,
        max_position_embeddings=LENGTH, projection_dim=projection or width, bos_token_id=len(tokenizer) - 2,
        eos_token_id=eos, pad_token_id=tokenizer.pad_token_id)
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return scale(fill(kind(config), seed), position_embedding__weight=0.5)


def t5(sizes, seed, tokenizer):
    config = transformers.T5Config(
        vocab_size=len(tokenizer), d_model=sizes.t5, d_kv=8, d_ff=2 * sizes.t5, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False, tie_word_embeddings=False)
    return scale(fill(transformers.T5EncoderModel(config), seed), SelfAttention__q__weight=8 ** -0.5)


def vae(sizes, seed, latents=4, **config):
    """AutoencoderKL of four levels: a latent cell is 8x8 pixels. Its latents have about the size that the config's
    scaling factor supposes."""
    factor = config.get("scaling_factor", 0.18215)
    model = diffusers.AutoencoderKL(
        block_out_channels=sizes.vae, layers_per_block=1, latent_channels=latents, norm_num_groups=4, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, **config)
    fill(model, seed)
    scale(model, decoder__conv_in__weight=0.1 * factor, decoder__conv_out__weight=0.5)
    with torch.no_grad():
        # The mean's half of the encoder's last convolution; the log variance stays near -6, as a trained one's.
        model.encoder.conv_out.weight[:latents] *= 1 / factor
        model.encoder.conv_out.weight[latents:] *= 0.3
        if model.quant_conv is None:
            model.encoder.conv_out.bias[latents:] -= 6
        else:
            model.quant_conv.weight.copy_(torch.eye(2 * latents)[:, :, None, None] + 0.02 * model.quant_conv.weight)
            model.quant_conv.bias[latents:] -= 6
    return model


def unet(sizes, seed, context, channels=4, **config):
    """UNet2DConditionModel in the shape of Stable Diffusion 1 (other shapes by `config`)."""
    kinds = ("CrossAttn{}Block2D",) * (len(sizes.unet) - 1) + ("{}Block2D",)
    defaults = dict(
        sample_size=8, in_channels=channels, out_channels=4, block_out_channels=sizes.unet, layers_per_block=1,
        down_block_types=tuple(k.format("Down") for k in kinds), up_block_types=tuple(k.format("Up") for k in kinds[::-1]),
        attention_head_dim=2 if sizes.small else 4, cross_attention_dim=context, norm_num_groups=sizes.groups)
    model = fill(diffusers.UNet2DConditionModel(**{**defaults, **config}), seed)
    return scale(model, attn2__to_out__0__weight=2.0, conv_out__weight=0.8)


def unet_xl(sizes, seed, context, pooled, ids, refiner=False):
    """The UNet of SDXL (three levels) or of its refiner (four), with sizes and pooled text as further conditions."""
    cross, plain = "CrossAttn{}Block2D", "{}Block2D"
    kinds = (plain, cross) if sizes.small else (plain, cross, cross, plain) if refiner else (plain, cross, cross)
    return unet(
        sizes, seed, context, block_out_channels=sizes.unet[:len(kinds)], use_linear_projection=True,
        down_block_types=tuple(k.format("Down") for k in kinds), up_block_types=tuple(k.format("Up") for k in kinds[::-1]),
        attention_head_dim=(2, 4, 4, 4)[:len(kinds)], transformer_layers_per_block=(1, 1, 2, 1)[:len(kinds)],
        addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=pooled + 8 * ids)


def scheduler(class_name, **config):
    return getattr(diffusers, class_name)(**config)


def pndm():
    return scheduler("PNDMScheduler", **SCALED, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)


def euler_xl():
    return scheduler("EulerDiscreteScheduler", **SCALED, timestep_spacing="leading", steps_offset=1)


def stable_diffusion(sizes, class_name, kind, pad_token=EOS, act="quick_gelu", eos=None, **config):
    """A pipeline of one CLIP, one UNet, one VAE. `kind` is the scheduler, `config` the UNet's."""
    tokenizer = clip_tokenizer(sizes, pad_token)
    extra = {} if class_name == "LatentConsistencyModelPipeline" else dict(image_encoder=None)
    eos = len(tokenizer) - 1 if eos == "true" else 2
    return getattr(diffusers, class_name)(
        vae=vae(sizes, 1), text_encoder=clip(sizes, 2, tokenizer, act=act, eos=eos), tokenizer=tokenizer,
        unet=unet(sizes, 3, sizes.clip, **config), scheduler=kind, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False, **extra)


def sd15(sizes):
    return stable_diffusion(sizes, "StableDiffusionPipeline", pndm())


def sd21v(sizes):
    kind = scheduler("DDIMScheduler", **SCALED, clip_sample=False, set_alpha_to_one=False, steps_offset=1,
                     prediction_type="v_prediction")
    return stable_diffusion(
        sizes, "StableDiffusionPipeline", kind, pad_token="!", act="gelu", use_linear_projection=True,
        attention_head_dim=(1, 2, 4, 4)[:len(sizes.unet)])


def lcm(sizes):
    kind = scheduler("LCMScheduler", **SCALED, clip_sample=False, set_alpha_to_one=True, original_inference_steps=50)
    return stable_diffusion(
        sizes, "LatentConsistencyModelPipeline", kind, eos="true", time_cond_proj_dim=256)


def inpaint9(sizes):
    return stable_diffusion(sizes, "StableDiffusionInpaintPipeline", pndm(), channels=9)


def ip2p(sizes):
    kind = scheduler("EulerAncestralDiscreteScheduler", **SCALED)
    return stable_diffusion(sizes, "StableDiffusionInstructPix2PixPipeline", kind, channels=8)


def sdxl_of(sizes, kind):
    tokenizer, tokenizer_2 = clip_tokenizer(sizes), clip_tokenizer(sizes, "!")
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(sizes, 4, scaling_factor=0.13025), text_encoder=clip(sizes, 5, tokenizer), tokenizer=tokenizer,
        text_encoder_2=clip(sizes, 6, tokenizer_2, sizes.projection_2, wide=True, act="gelu"), tokenizer_2=tokenizer_2,
        unet=unet_xl(sizes, 7, sizes.clip + sizes.clip_2, sizes.projection_2, 6), scheduler=kind,
        force_zeros_for_empty_prompt=True, add_watermarker=False)


def sdxl(sizes):
    return sdxl_of(sizes, euler_xl())


def turbo(sizes):
    kind = scheduler("EulerAncestralDiscreteScheduler", **SCALED, timestep_spacing="trailing", steps_offset=1)
    return sdxl_of(sizes, kind)


def sdxl_refiner(sizes):
    tokenizer = clip_tokenizer(sizes, "!")
    return diffusers.StableDiffusionXLImg2ImgPipeline(
        vae=vae(sizes, 4, scaling_factor=0.13025), text_encoder=None, tokenizer=None,
        text_encoder_2=clip(sizes, 6, tokenizer, sizes.projection_2, wide=True, act="gelu"), tokenizer_2=tokenizer,
        unet=unet_xl(sizes, 8, sizes.clip_2, sizes.projection_2, 5, refiner=True), scheduler=euler_xl(),
        force_zeros_for_empty_prompt=False, requires_aesthetics_score=True, add_watermarker=False)


def sd3_of(sizes, with_t5, **config):
    tokenizer, tokenizer_2 = clip_tokenizer(sizes), clip_tokenizer(sizes, "!")
    tokenizer_3 = t5_tokenizer() if with_t5 else None
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, in_channels=16, out_channels=16, num_layers=2 if sizes.small else 3, attention_head_dim=8,
        num_attention_heads=2 if sizes.small else 4, caption_projection_dim=16 if sizes.small else 32,
        joint_attention_dim=sizes.t5, pooled_projection_dim=sizes.projection + sizes.projection_2, pos_embed_max_size=12,
        **config)
    fill(transformer, 9)
    # What modulates a block (shift, scale, gate) stays smaller than what it modulates.
    scale(transformer, norm1__linear__weight=0.4, norm1_context__linear__weight=0.4, norm_out__linear__weight=0.4)
    return diffusers.StableDiffusion3Pipeline(
        vae=flow_vae(sizes, 1.5305, 0.0609), transformer=transformer, tokenizer=tokenizer, tokenizer_2=tokenizer_2,
        text_encoder=clip(sizes, 10, tokenizer, sizes.projection),
        text_encoder_2=clip(sizes, 11, tokenizer_2, sizes.projection_2, wide=True, act="gelu"), tokenizer_3=tokenizer_3,
        text_encoder_3=t5(sizes, 12, tokenizer_3) if with_t5 else None,
        scheduler=scheduler("FlowMatchEulerDiscreteScheduler", num_train_timesteps=1000, shift=3.0))


def flow_vae(sizes, scaling_factor, shift_factor):
    return vae(sizes, 13, latents=16, scaling_factor=scaling_factor, shift_factor=shift_factor, use_quant_conv=False,
               use_post_quant_conv=False)


def sd3(sizes):
    return sd3_of(sizes, with_t5=True)


def sd3_no_t5(sizes):
    """Without T5, and with what Stable Diffusion 3.5 adds: norms of queries and keys, a second attention."""
    return sd3_of(sizes, with_t5=False, qk_norm="rms_norm", dual_attention_layers=(0,))


def flux_of(sizes, guidance_embeds, kind):
    tokenizer, tokenizer_2 = clip_tokenizer(sizes), t5_tokenizer()
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=64, num_layers=1 if sizes.small else 2, num_single_layers=1 if sizes.small else 2,
        attention_head_dim=16, num_attention_heads=1 if sizes.small else 2, joint_attention_dim=sizes.t5,
        pooled_projection_dim=sizes.clip, guidance_embeds=guidance_embeds, axes_dims_rope=(4, 6, 6))
    fill(transformer, 14)
    scale(transformer, norm1__linear__weight=0.4, norm__linear__weight=0.4, norm_out__linear__weight=0.4)
    return diffusers.FluxPipeline(
        vae=flow_vae(sizes, 0.3611, 0.1159), transformer=transformer, scheduler=kind, tokenizer=tokenizer,
        text_encoder=clip(sizes, 15, tokenizer), tokenizer_2=tokenizer_2, text_encoder_2=t5(sizes, 16, tokenizer_2))


def flux(sizes):
    kind = scheduler("FlowMatchEulerDiscreteScheduler", num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=True,
                     base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096)
    return flux_of(sizes, True, kind)


def flux_schnell(sizes):
    return flux_of(sizes, False, scheduler("FlowMatchEulerDiscreteScheduler", num_train_timesteps=1000, shift=1.0))


FAMILIES = {
    "sd15": sd15, "sd21v": sd21v, "sdxl": sdxl, "sdxl-refiner": sdxl_refiner, "turbo": turbo, "lcm": lcm,
    "inpaint9": inpaint9, "ip2p": ip2p, "sd3": sd3, "sd3-no-t5": sd3_no_t5, "flux": flux, "flux-schnell": flux_schnell,
}


def make(family, small=False):
    """The pipeline of `family`, on one thread and without a progress bar."""
    pipe = FAMILIES[family](Sizes(small))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save(family, out, small=False):
    """Saves the pipeline of `family` in the folder `out` and returns it."""
    pipe = make(family, small)
    pipe.save_pretrained(out)
    return pipe


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default=",".join(FAMILIES), help="families, with commas between")
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    for family in args.only.split(","):
        save(family, args.out / family, args.small)
        size = sum(f.stat().st_size for f in (args.out / family).rglob("*") if f.is_file())
        print(f"{family:13} {size / 1e6:6.2f} MB")


if __name__ == "__main__":
    main()
