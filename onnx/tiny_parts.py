"""The parts of `tiny-shapes` as torch modules with fresh weights, and the numbers that all scripts share."""
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

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
