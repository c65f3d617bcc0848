"""The torch models of `tiny-shapes`: from the training's checkpoint or from the exported folder, and as a pipeline.

The ONNX graphs keep torch's parameter names and layouts, so `load_torch` rebuilds the very same models from the
exported folder alone: nobody needs the checkpoint to compare nightshift with diffusers.
"""
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import torch
from diffusers import (
    AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel,
)
from onnx import numpy_helper
from tokenizers import Tokenizer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import tiny_parts


def load_checkpoint(work):
    """The models of the training folder `work` with their averaged (EMA) weights, `tokenizer`, `scaling_factor`, `step`."""
    work = Path(work)
    state = torch.load(work / "unet.pt", map_location="cpu")
    config = json.loads((work / "config.json").read_text())
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    unet, text_encoder = tiny_parts.new_unet(state.get("width", config["width"])), tiny_parts.new_text_encoder(tokenizer)
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    assert len(parameters) == len(state["ema"]), "the checkpoint is of another architecture"
    for parameter, value in zip(parameters, state["ema"]):
        parameter.data.copy_(value)
    vae = tiny_parts.new_vae()
    refined = work / "vae_refined.pt"
    vae.load_state_dict(torch.load(refined if refined.exists() else work / "vae.pt", map_location="cpu"))
    vae.register_to_config(scaling_factor=config["scaling_factor"])
    return SimpleNamespace(
        tokenizer=tokenizer, text_encoder=text_encoder.eval(), unet=unet.eval(), vae=vae.eval(), step=state["step"])


def scheduler():
    """The scheduler that `tiny-shapes` was trained for. `trailing` starts at the last timestep, where the signal is
    nearly zero, as every picture that starts from pure noise must (arXiv 2305.08891, section 3.3)."""
    return DPMSolverMultistepScheduler(
        num_train_timesteps=tiny_parts.NUM_TRAIN_TIMESTEPS, beta_start=tiny_parts.BETA_START, beta_end=tiny_parts.BETA_END,
        beta_schedule="linear", prediction_type="v_prediction", timestep_spacing="trailing",
        algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint", final_sigmas_type="zero")


def clip_tokenizer(vocab, merges, model_max_length):
    """transformers' `CLIPTokenizer` over `vocab` (token to id) and `merges` (pairs); pads with the end of text."""
    return CLIPTokenizer(vocab=vocab, merges=[tuple(pair) for pair in merges], model_max_length=model_max_length)


def load_torch(folder):
    """The torch models of an exported folder, rebuilt from its configs and from the initialisers of its graphs."""
    folder = Path(folder)
    config = lambda part: json.loads((folder / part / "config.json").read_text())
    unet = UNet2DConditionModel.from_config(config("unet"))
    unet.load_state_dict(parameters_of(folder / "unet/model.onnx", unet))
    text_encoder = CLIPTextModel(CLIPTextConfig.from_dict(config("text_encoder")))
    text_encoder.load_state_dict(parameters_of(folder / "text_encoder/model.onnx", text_encoder))
    vae = AutoencoderKL.from_config(config("vae_decoder"))
    halves = [parameters_of(folder / part / "model.onnx", vae) for part in ("vae_encoder", "vae_decoder")]
    vae.load_state_dict({**halves[0], **halves[1]})
    return SimpleNamespace(
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"), text_encoder=text_encoder.eval(),
        unet=unet.eval(), vae=vae.eval(),
        scheduler=DPMSolverMultistepScheduler.from_pretrained(folder / "scheduler"))


def parameters_of(path, module):
    """The initialisers of the graph at `path` that are named as entries of `module`'s state dict."""
    names = set(module.state_dict())
    initializers = onnx.load(path).graph.initializer
    return {i.name: torch.from_numpy(np.array(numpy_helper.to_array(i))) for i in initializers if i.name in names}


def pipeline(models):
    """diffusers' own `StableDiffusionPipeline` over `models` (of `load_torch`), without a safety checker."""
    pipe = StableDiffusionPipeline(
        vae=models.vae, text_encoder=models.text_encoder, tokenizer=models.tokenizer, unet=models.unet,
        scheduler=models.scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def with_clip_tokenizer(models):
    """`models` of `load_checkpoint` with transformers' tokenizer and the scheduler, as `pipeline` wants them."""
    bpe = json.loads(models.tokenizer.to_str())["model"]
    tokenizer = clip_tokenizer(bpe["vocab"], bpe["merges"], tiny_parts.MODEL_MAX_LENGTH)
    return SimpleNamespace(**{**vars(models), "tokenizer": tokenizer, "scheduler": scheduler()})
