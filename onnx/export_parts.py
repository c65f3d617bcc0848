"""The graphs that a diffusers pipeline becomes: for each its module, its inputs and outputs, and inputs to try it with.

Nothing is loaded before `Part.load` is called, and each part is loaded alone.
"""
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import diffusers
import torch
import transformers
from diffusers.models.transformers import transformer_flux

from torch_to_onnx import BATCH, IMAGE, LATENT, PIXELS, TEXT, Unet, VaeDecoder, VaeEncoder, Wrapper

TOKENS = {0: "batch", 1: "image_sequence"}
IDS = {0: "sequence"}
IMAGE_IDS = {0: "image_sequence"}


class Unsupported(Exception):
    """The model is of a kind that has no export here; the text says why."""


class ClipEncoder(Wrapper):
    """CLIP: last state, pooled output or projection, and every layer's state if `states` is set."""

    def __init__(self, model, pooled, states):
        super().__init__(model)
        self.pooled, self.states = pooled, states

    def forward(self, input_ids):
        output = self.model(input_ids, output_hidden_states=self.states)
        first = (output.last_hidden_state, output[self.pooled])
        return (*first, *output.hidden_states) if self.states else first


class T5Encoder(Wrapper):
    def forward(self, input_ids):
        return self.model(input_ids).last_hidden_state


class UnetXl(Wrapper):
    def forward(self, sample, timestep, encoder_hidden_states, text_embeds, time_ids):
        conditions = {"text_embeds": text_embeds, "time_ids": time_ids}
        return self.model(sample, timestep, encoder_hidden_states, added_cond_kwargs=conditions, return_dict=False)[0]


class UnetLcm(Wrapper):
    def forward(self, sample, timestep, encoder_hidden_states, timestep_cond):
        timestep_cond = timestep_cond.to(sample.dtype)
        return self.model(sample, timestep, encoder_hidden_states, timestep_cond=timestep_cond, return_dict=False)[0]


class Sd3Transformer(Wrapper):
    def forward(self, hidden_states, encoder_hidden_states, pooled_projections, timestep):
        return self.model(hidden_states, encoder_hidden_states, pooled_projections, timestep, return_dict=False)[0]


def position_angles(self, ids):
    """FluxPosEmbed.forward with its frequencies as constants in float64: the exporter would round them to float32."""
    powers = [torch.arange(0, width, 2, dtype=torch.float64) / width for width in self.axes_dim]
    frequencies = [(1.0 / self.theta**p).repeat_interleave(2)[None] for p in powers]
    angles = torch.cat([ids[:, i:i + 1].double() * f for i, f in enumerate(frequencies)], dim=-1)
    return angles.cos().float(), angles.sin().float()


def rotate(x, freqs_cis, sequence_dim):
    """diffusers' apply_rotary_emb as Flux calls it; the exporter takes the sizes in the original for constants."""
    assert sequence_dim == 1
    cos, sin = (angles[None, :, None, :] for angles in freqs_cis)
    real, imaginary = x.unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.stack([-imaginary, real], dim=-1).flatten(3)
    return (x.float() * cos + rotated.float() * sin).to(x.dtype)


class FluxTransformer(Wrapper):
    patches = (*Wrapper.patches, (transformer_flux.FluxPosEmbed, "forward", position_angles),
               (transformer_flux, "apply_rotary_emb", rotate))

    def forward(self, hidden_states, encoder_hidden_states, pooled_projections, timestep, txt_ids, img_ids, guidance=None):
        return self.model(
            hidden_states, encoder_hidden_states, pooled_projections, timestep, img_ids, txt_ids, guidance,
            return_dict=False)[0]


@dataclass
class Case:
    """Sizes to run a graph with. `height` and `width` are those of the latents."""
    batch: int
    height: int
    width: int
    length: int


@dataclass
class Part:
    """One graph."""
    name: str  # its folder in the export
    source: str  # its folder in the diffusers model
    kind: str  # clip, t5, unet, sd3, flux, vae
    load: Callable  # dtype -> wrapped module
    inputs: dict  # name -> dynamic axes
    outputs: dict
    example: Callable  # Case, generator -> inputs by name, float32
    cases: list  # the first is the traced one
    # Inputs that stay float32 in a float16 export: 16 bits do not hold a timestep of 999.5 or a size of 4097.
    precise: tuple = ()
    # Whether diffusers runs it in float32 whatever the model's dtype.
    upcast: bool = False


def parts(folder):
    """All parts of the diffusers model in `folder`, in the order in which a picture passes them."""
    index = json.loads((folder / "model_index.json").read_text())
    has = lambda name: isinstance(index.get(name), list) and index[name][0] is not None
    refuse_unknown(index, has)
    backbone = "transformer" if has("transformer") else "unet"
    family = family_of(folder, index, backbone)
    encoders = [name for name in ("text_encoder", "text_encoder_2", "text_encoder_3") if has(name)]
    made = [text_encoder(folder, name, index[name][1], states=family != "flux") for name in encoders]
    denoiser = {"unet": unet, "sd3": sd3_transformer, "flux": flux_transformer}[family](folder)
    return [*made, denoiser, *vae(folder, upcast=is_xl(folder) if family == "unet" else False)]


def is_xl(folder):
    return read_config(folder, "unet").get("addition_embed_type") == "text_time"


def refuse_unknown(index, has):
    """Fails for pipelines with parts that nothing here exports."""
    known = {"text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3", "unet",
             "transformer", "vae", "scheduler", "safety_checker", "feature_extractor", "image_encoder"}
    others = sorted(name for name in index if has(name) and name not in known)
    if others or not has("vae") or not (has("unet") or has("transformer")):
        what = f"the pipeline has the parts {', '.join(others)}" if others else "the pipeline lacks a `vae` or `unet`"
        raise Unsupported(f"{index.get('_class_name')}: {what}, for which there is no export here")


def family_of(folder, index, backbone):
    """Which of the three kinds of denoiser it is."""
    class_name = index[backbone][1]
    families = {"UNet2DConditionModel": "unet", "SD3Transformer2DModel": "sd3", "FluxTransformer2DModel": "flux"}
    if class_name not in families:
        raise Unsupported(f"`{class_name}` is no denoiser that can be exported here; there are {', '.join(families)}")
    if index["vae"][1] != "AutoencoderKL":
        raise Unsupported(f"`{index['vae'][1]}` is no autoencoder that can be exported here; there is AutoencoderKL")
    return families[class_name]


def read_config(folder, part):
    return json.loads((folder / part / "config.json").read_text())


def load_transformers(folder, part, class_name, dtype):
    return getattr(transformers, class_name).from_pretrained(folder / part, dtype=dtype).eval()


def load_diffusers(folder, part, class_name, dtype):
    return getattr(diffusers, class_name).from_pretrained(folder / part, torch_dtype=dtype).eval()


def text_encoder(folder, name, class_name, states):
    """A CLIP or T5 text encoder."""
    config = read_config(folder, name)
    if class_name == "T5EncoderModel":
        load = lambda dtype: T5Encoder(load_transformers(folder, name, class_name, dtype))
        kind, outputs, longest = "t5", {"last_hidden_state": TEXT}, 512
    elif class_name in ("CLIPTextModel", "CLIPTextModelWithProjection"):
        pooled = "text_embeds" if class_name.endswith("Projection") else "pooler_output"
        load = lambda dtype: ClipEncoder(load_transformers(folder, name, class_name, dtype), pooled, states)
        layers = config.get("num_hidden_layers", 12)
        kind, outputs, longest = "clip", {"last_hidden_state": TEXT, pooled: BATCH}, config.get("max_position_embeddings", 77)
        if states:
            outputs.update({f"hidden_states.{i}": TEXT for i in range(layers + 1)})
    else:
        raise Unsupported(f"{name}: `{class_name}` is no text encoder that can be exported here")
    end = config.get("eos_token_id") if kind == "clip" and config.get("eos_token_id") != 2 else None
    example = lambda case, generator: {"input_ids": token_ids(case, generator, config.get("vocab_size", 49408), end)}
    cases = [Case(2, 0, 0, longest), Case(1, 0, 0, longest), Case(3, 0, 0, 7)]
    return Part(name, name, kind, load, {"input_ids": TEXT}, outputs, example, cases)


def token_ids(case, generator, vocab, end):
    """Random ids with one end of text a row, which for CLIP is the largest id or the configured one."""
    ids = torch.randint(2, vocab - 2, (case.batch, case.length), generator=generator)
    for row, place in enumerate(torch.randint(1, case.length, (case.batch,), generator=generator)):
        ids[row, place:] = vocab - 1 if end is None else end
    return ids


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator)


def unet(folder):
    """UNet2DConditionModel in the shapes of Stable Diffusion 1, 2, XL, LCM, inpainting and InstructPix2Pix."""
    config = read_config(folder, "unet")
    refuse_conditions(config)
    kind = Unet
    inputs = {"sample": IMAGE, "timestep": BATCH, "encoder_hidden_states": TEXT}
    precise = ["timestep"]
    if config.get("time_cond_proj_dim"):
        kind, inputs = UnetLcm, {**inputs, "timestep_cond": BATCH}
        precise.append("timestep_cond")
    if config.get("addition_embed_type") == "text_time":
        if kind is UnetLcm:
            raise Unsupported("unet: both `timestep_cond` and `time_ids`; there is no export of such a model here")
        kind, inputs = UnetXl, {**inputs, "text_embeds": BATCH, "time_ids": BATCH}
        precise.append("time_ids")
    widths = added_widths(folder, config) if kind is UnetXl else None
    # Latents of odd sizes: the traced graph then computes the size that each upsampling must reach, as diffusers does
    # for sizes that the UNet cannot halve evenly, and serves every size.
    levels = len(config["block_out_channels"])
    odd, even = 2**levels + 1, 2**levels
    cases = [Case(2, odd, odd + 2, 77), Case(1, even, even, 77), Case(3, even, 2 * even, 77), Case(3, 2 * even, even, 7),
             Case(1, odd + 2, odd - 2, 77)]
    load = lambda dtype: kind(load_diffusers(folder, "unet", "UNet2DConditionModel", dtype))
    example = lambda case, generator: unet_example(config, inputs, widths, case, generator)
    return Part("unet", "unet", "unet", load, inputs, {"out_sample": IMAGE}, example, cases, tuple(precise))


def refuse_conditions(config):
    """Fails for UNets with conditions that have no input here."""
    if config.get("addition_embed_type") not in (None, "text_time"):
        raise Unsupported(f"unet: `addition_embed_type` {config['addition_embed_type']!r} has no export here")
    for key in ("class_embed_type", "num_class_embeds", "encoder_hid_dim", "encoder_hid_dim_type"):
        if config.get(key) is not None:
            raise Unsupported(f"unet: its config has `{key}` {config[key]!r}, a condition that has no export here")


def unet_example(config, inputs, widths, case, generator):
    """Inputs of a UNet; `widths` are those of the pooled text and of the time ids of an XL UNet."""
    width = config["cross_attention_dim"]
    values = {
        "sample": normal(generator, case.batch, config["in_channels"], case.height, case.width),
        "timestep": torch.rand(case.batch, generator=generator) * 999,
        "encoder_hidden_states": normal(generator, case.batch, case.length, width),
    }
    if "timestep_cond" in inputs:
        values["timestep_cond"] = normal(generator, case.batch, config["time_cond_proj_dim"]).clamp(-1, 1)
    if "time_ids" in inputs:
        pooled, count = widths
        values["text_embeds"] = normal(generator, case.batch, pooled)
        values["time_ids"] = torch.randint(0, 2048, (case.batch, count), generator=generator).float()
    return values


def added_widths(folder, config):
    """Width of the pooled text and number of time ids (five for a refiner, six otherwise) of an XL UNet."""
    total, each = config["projection_class_embeddings_input_dim"], config["addition_time_embed_dim"]
    pooled = read_config(folder, "text_encoder_2").get("projection_dim", 512)
    if total <= pooled or (total - pooled) % each:
        raise Unsupported(f"unet: {total} added features are not {pooled} of text and some sizes of {each} each")
    return pooled, (total - pooled) // each


def sd3_transformer(folder):
    config = read_config(folder, "transformer")
    patch, largest = config["patch_size"], config["pos_embed_max_size"] * config["patch_size"]
    inputs = {"hidden_states": IMAGE, "encoder_hidden_states": TEXT, "pooled_projections": BATCH, "timestep": BATCH}

    def example(case, generator):
        return {
            "hidden_states": normal(generator, case.batch, config["in_channels"], case.height, case.width),
            "encoder_hidden_states": normal(generator, case.batch, case.length, config["joint_attention_dim"]),
            "pooled_projections": normal(generator, case.batch, config["pooled_projection_dim"]),
            "timestep": torch.rand(case.batch, generator=generator) * 1000}

    side = min(16, largest // (2 * patch) * patch)
    cases = [Case(2, side, side + 2 * patch, 93), Case(1, side, side, 77), Case(3, side + patch, side - patch, 333)]
    load = lambda dtype: Sd3Transformer(load_diffusers(folder, "transformer", "SD3Transformer2DModel", dtype))
    return Part("transformer", "transformer", "sd3", load, inputs, {"out_hidden_states": IMAGE}, example, cases,
                ("timestep",))


def flux_transformer(folder):
    config = read_config(folder, "transformer")
    inputs = {"hidden_states": TOKENS, "encoder_hidden_states": TEXT, "pooled_projections": BATCH, "timestep": BATCH,
              "txt_ids": IDS, "img_ids": IMAGE_IDS}
    if config["guidance_embeds"]:
        inputs["guidance"] = BATCH

    def example(case, generator):
        rows, columns = torch.meshgrid(torch.arange(case.height), torch.arange(case.width), indexing="ij")
        image_ids = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float()
        values = {
            "hidden_states": normal(generator, case.batch, case.height * case.width, config["in_channels"]),
            "encoder_hidden_states": normal(generator, case.batch, case.length, config["joint_attention_dim"]),
            "pooled_projections": normal(generator, case.batch, config["pooled_projection_dim"]),
            "timestep": torch.rand(case.batch, generator=generator), "txt_ids": torch.zeros(case.length, 3),
            "img_ids": image_ids, "guidance": 1 + 4 * torch.rand(case.batch, generator=generator)}
        return {name: values[name] for name in inputs}

    cases = [Case(2, 6, 8, 16), Case(1, 4, 4, 64), Case(3, 9, 5, 33)]
    load = lambda dtype: FluxTransformer(load_diffusers(folder, "transformer", "FluxTransformer2DModel", dtype))
    return Part("transformer", "transformer", "flux", load, inputs, {"out_hidden_states": TOKENS}, example, cases,
                ("timestep", "txt_ids", "img_ids", "guidance")[:4 if config["guidance_embeds"] else 3])


def vae(folder, upcast):
    """Both halves of AutoencoderKL. With `upcast`, the pipeline is one that honours `force_upcast`."""
    config = read_config(folder, "vae")
    upcast = upcast and config.get("force_upcast", True)
    channels, scaling = config.get("latent_channels", 4), config.get("scaling_factor") or 0.18215
    cell = 2 ** (len(config["block_out_channels"]) - 1)
    shift = config.get("shift_factor") or 0.0
    load = lambda kind: lambda dtype: kind(load_diffusers(folder, "vae", "AutoencoderKL", dtype))

    def pixels(case, generator):
        return {"sample": torch.tanh(normal(generator, case.batch, 3, case.height * cell, case.width * cell))}

    def latents(case, generator):
        values = normal(generator, case.batch, channels, case.height, case.width)
        return {"latent_sample": values / scaling + shift}

    cases = [Case(2, 4, 6, 0), Case(1, 8, 8, 0), Case(3, 5, 3, 0)]
    return (
        Part("vae_encoder", "vae", "vae", load(VaeEncoder), {"sample": IMAGE}, {"latent_parameters": LATENT}, pixels, cases,
             upcast=upcast),
        Part("vae_decoder", "vae", "vae", load(VaeDecoder), {"latent_sample": IMAGE}, {"sample": PIXELS}, latents, cases,
             upcast=upcast),
    )
