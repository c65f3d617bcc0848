#!/usr/bin/env python3
"""Writes schedulers.json and schedulers.npy: traces of diffusers' schedulers, for tests/golden.rs.

    python tests/golden/make_scheduler_goldens.py            # diffusers 0.42.1, torchsde 0.2.6
    python tests/golden/make_scheduler_goldens.py --add      # keeps the traces that are there, adds those of new configs

Last bits differ between processors, as torch's square roots and logarithms do: with --add, what was checked stays what it was.

The network is `fake_model`, which tests/golden.rs computes too; initial latents and fresh noise come from one CPU
generator (tests/golden.rs draws them with its own torch-cpu noise). schedulers.json lists configs, each with its runs:
numbers of steps, of evaluations and of sigmas (0 where the class has none). schedulers.npy is one flat array of f32 in
the same order, for each run: timesteps, sigmas, init_noise_sigma (1), then for each evaluation model_input and
prev_sample. A run with a `strength` begins part-way, as diffusers' image-to-image pipelines do, with a random picture that is
drawn before the noise: of it, timesteps and sigmas are those that are left, and before each evaluation comes the picture
with the noise of that timestep (`add_noise`), which the first one starts from.
"""
import copy
import inspect
import json
import sys
import warnings
from itertools import chain
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.schedulers.scheduling_utils import AysSchedules

assert diffusers.__version__ == "0.42.1", diffusers.__version__
SHAPE = (2, 3, 3)
SEED = 1234
STEPS = (1, 2, 3, 10, 20, 50)
STRENGTHS, STRENGTH_STEPS = (0.3, 0.55, 0.8), (4, 10, 20)

LINEAR = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}
SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
ZERO_SNR = {**LINEAR, "rescale_betas_zero_snr": True}
TRAINED = {"num_train_timesteps": 60, "trained_betas": [round(0.001 + 0.0001 * i * i, 6) for i in range(60)]}
SPACINGS = ("linspace", "leading", "trailing")
PREDICTIONS = ("epsilon", "v_prediction", "sample")


def fake_model(x, t):
    k = torch.arange(x.numel(), dtype=torch.float64).reshape(x.shape)
    return torch.tanh(0.3 * x.double() + 0.5 * np.sin(0.01 * float(t)) + 0.2 * torch.cos(1.7 * k)).float()


def configs():
    """(class, betas, other fields, eta)"""
    dpm, euler, ancestral, ddim = (f"{name}Scheduler" for name in (
        "DPMSolverMultistep", "EulerDiscrete", "EulerAncestralDiscrete", "DDIM"))
    for spacing in SPACINGS:
        for prediction in PREDICTIONS:
            common = {"timestep_spacing": spacing, "prediction_type": prediction}
            for karras in (False, True):
                yield dpm, LINEAR, {**common, "use_karras_sigmas": karras}, 0.0
                yield euler, LINEAR, {**common, "use_karras_sigmas": karras}, 0.0
            if prediction != "sample":
                yield ancestral, LINEAR, common, 0.0
            for eta in (0.0, 1.0):
                yield ddim, LINEAR, {**common, "clip_sample": False}, eta
    v = {"prediction_type": "v_prediction"}
    # The other betas, where it matters most: from the last timestep, and between them.
    for betas in (SCALED, COSINE, ZERO_SNR, TRAINED):
        for other in ({"timestep_spacing": "trailing"}, {"timestep_spacing": "leading", "steps_offset": 1}):
            for name in (dpm, euler, ancestral, ddim):
                yield name, betas, {**other, **v}, 0.0
    yield dpm, SCALED, {"use_karras_sigmas": True, "steps_offset": 1, "timestep_spacing": "leading"}, 0.0
    yield euler, SCALED, {"use_karras_sigmas": True, "steps_offset": 1, "timestep_spacing": "leading"}, 0.0
    yield dpm, COSINE, {"use_karras_sigmas": True, **v}, 0.0
    # DPM-Solver++: every field of its own.
    sde = {"algorithm_type": "sde-dpmsolver++"}
    for own in (
        {"solver_order": 1}, {"solver_type": "heun"}, {"solver_order": 3}, {"euler_at_final": True},
        {"lower_order_final": False}, {"lower_order_final": False, "solver_order": 3},
        {"final_sigmas_type": "sigma_min"}, {"final_sigmas_type": "sigma_min", "lower_order_final": False},
        {"final_sigmas_type": "sigma_min", "euler_at_final": True, "solver_order": 3},
        {"thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.9}, {"solver_type": "bh2"},
        {**sde, "solver_order": 1}, sde, {**sde, "solver_type": "heun"}, {**sde, "use_karras_sigmas": True},
    ):
        yield dpm, LINEAR, {**own, **v}, 0.0
        yield dpm, LINEAR, {**own, **v, "timestep_spacing": "trailing"}, 0.0
    yield dpm, LINEAR, {"solver_order": 3, "use_karras_sigmas": True, **v}, 0.0
    yield dpm, LINEAR, {"final_sigmas_type": "sigma_min", "use_karras_sigmas": True, **v}, 0.0
    yield dpm, LINEAR, {"use_exponential_sigmas": True, **v}, 0.0
    yield dpm, LINEAR, {"num_train_timesteps": 500, **v}, 0.0
    # Euler's own.
    yield euler, LINEAR, {"final_sigmas_type": "sigma_min", **v}, 0.0
    yield euler, LINEAR, {"use_exponential_sigmas": True, **v}, 0.0
    yield euler, LINEAR, {"use_karras_sigmas": True, "sigma_min": 0.05, "sigma_max": 40.0, **v}, 0.0
    # DDIM's own.
    for own in (
        {}, {"clip_sample_range": 2.5}, {"set_alpha_to_one": False, "clip_sample": False},
        {"thresholding": True, "sample_max_value": 3.0, "dynamic_thresholding_ratio": 0.8},
    ):
        yield ddim, LINEAR, {**own, **v}, 0.5
    yield ddim, ZERO_SNR, {"timestep_spacing": "trailing", "clip_sample": False, **v}, 1.0
    yield from exploding_configs()
    yield from ancestors_and_distilled_configs()
    yield from exponential_configs()
    yield from flow_and_edm_configs()


def part_way_configs():
    """One config of every class, and those whose memory or levels make a start part-way another thing."""
    v, sigma_min = {"prediction_type": "v_prediction"}, {"final_sigmas_type": "sigma_min"}
    yield "DDIMScheduler", SCALED, {"steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False}, 0.0
    yield "DDIMScheduler", LINEAR, {"clip_sample": False, "timestep_spacing": "trailing", **v}, 0.7
    yield "DDPMScheduler", LINEAR, {"clip_sample": False, **v}, 0.0
    yield "PNDMScheduler", SCALED, {"skip_prk_steps": True, "steps_offset": 1}, 0.0
    yield "LCMScheduler", {}, {}, 0.0
    yield "TCDScheduler", {}, {}, 0.3
    for name in ("EulerDiscrete", "LMSDiscrete", "HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete"):
        for own in ({"timestep_spacing": "leading", "steps_offset": 1}, {"use_karras_sigmas": True, **v}):
            yield f"{name}Scheduler", SCALED, own, 0.0
    yield "EulerAncestralDiscreteScheduler", SCALED, {"timestep_spacing": "leading", "steps_offset": 1}, 0.0
    for order in (1, 2, 3):
        own = {"solver_order": order, **v}
        for name in ("DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep"):
            yield f"{name}Scheduler", SCALED, own, 0.0
            yield f"{name}Scheduler", LINEAR, {"use_karras_sigmas": True, **own}, 0.0
        for name in ("DPMSolverSinglestep", "UniPCMultistep"):
            yield f"{name}Scheduler", SCALED, {**own, **sigma_min, "lower_order_final": False}, 0.0
        yield "EDMDPMSolverMultistepScheduler", {}, {"solver_order": order}, 0.0
    yield "DPMSolverMultistepScheduler", LINEAR, {"algorithm_type": "sde-dpmsolver++", **v}, 0.0
    yield "UniPCMultistepScheduler", LINEAR, {"disable_corrector": [0, 3, 11], **v}, 0.0
    yield "EDMEulerScheduler", {}, {}, 0.0
    for name in ("FlowMatchEuler", "FlowMatchHeun"):
        yield f"{name}DiscreteScheduler", {}, {"shift": 3.0}, 0.0


def exploding_configs():
    """LMS, Heun, KDPM2 and KDPM2 ancestral: every spacing of timesteps with every spacing of levels."""
    names = [f"{name}DiscreteScheduler" for name in ("LMS", "Heun", "KDPM2", "KDPM2Ancestral")]
    levels = ({}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True})
    for name in names:
        for spacing in SPACINGS:
            for prediction in ("epsilon", "v_prediction"):
                for level in levels if prediction == "v_prediction" or spacing == "leading" else levels[:2]:
                    yield name, LINEAR, {"timestep_spacing": spacing, "prediction_type": prediction, **level}, 0.0
        yield name, SCALED, {"timestep_spacing": "leading", "steps_offset": 1, "use_karras_sigmas": True}, 0.0
        yield name, {}, {}, 0.0
        yield name, TRAINED, {"prediction_type": "v_prediction"}, 0.0
    for name in names[:2]:
        yield name, LINEAR, {"prediction_type": "sample", "timestep_spacing": "trailing"}, 0.0
    yield names[1], LINEAR, {"clip_sample": True, "clip_sample_range": 1.5, "prediction_type": "v_prediction"}, 0.0
    for name in ("DPMSolverMultistepScheduler", "EulerDiscreteScheduler"):
        yield name, SCALED, {"use_beta_sigmas": True, "prediction_type": "v_prediction"}, 0.0


def flow_and_edm_configs():
    """The classes with samples and networks of their own kind."""
    flow, heun = "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"
    for own in ({}, {"shift": 3.0}, {"shift": 0.5}):
        yield flow, {}, own, 0.0
        yield heun, {}, own, 0.0
    for own in ({"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True},
                {"shift_terminal": 0.1}, {"stochastic_sampling": True}, {"num_train_timesteps": 500}):
        yield flow, {}, {"shift": 3.0, **own}, 0.0
    euler, multi = "EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"
    for schedule in ("karras", "exponential"):
        for prediction in ("epsilon", "v_prediction"):
            common = {"sigma_schedule": schedule, "prediction_type": prediction}
            yield euler, {}, common, 0.0
            yield multi, {}, common, 0.0
    for own in ({"sigma_min": 0.01, "sigma_max": 20.0, "sigma_data": 1.0, "rho": 5.0}, {"final_sigmas_type": "sigma_min"}):
        yield euler, {}, own, 0.0
        yield multi, {}, own, 0.0
    for own in ({"solver_order": 3}, {"solver_order": 1}, {"solver_type": "heun"}, {"algorithm_type": "sde-dpmsolver++"},
                {"thresholding": True, "sample_max_value": 1.5}, {"euler_at_final": True, "solver_order": 3}):
        yield multi, {}, own, 0.0


def exponential_configs():
    """UniPC, DEIS and DPM-Solver's other forms: orders and solvers with spacings of timesteps and of levels."""
    unipc, deis, single, multi = (f"{name}Scheduler" for name in (
        "UniPCMultistep", "DEISMultistep", "DPMSolverSinglestep", "DPMSolverMultistep"))
    v, sigma_min = {"prediction_type": "v_prediction"}, {"final_sigmas_type": "sigma_min"}
    for spacing in SPACINGS:
        for prediction in PREDICTIONS:
            common = {"timestep_spacing": spacing, "prediction_type": prediction}
            for order in (1, 2, 3):
                yield unipc, LINEAR, {**common, "solver_order": order}, 0.0
                yield deis, LINEAR, {**common, "solver_order": order}, 0.0
    for level in ({"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True}):
        for name in (unipc, deis, single):
            yield name, LINEAR, {**level, **v}, 0.0
            yield name, SCALED, level, 0.0
    for betas in (SCALED, COSINE, TRAINED):
        for name in (unipc, deis, single):
            yield name, betas, v, 0.0
    for own in (
        {"solver_type": "bh1", **sigma_min}, {"solver_type": "bh1", "solver_order": 3, **sigma_min},
        {"lower_order_final": False, "solver_order": 3, **sigma_min}, {"predict_x0": False, **sigma_min},
        {"predict_x0": False, "solver_order": 3, "solver_type": "bh1", **sigma_min}, {"disable_corrector": [0, 1, 4]},
        {"thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.9}, {"solver_type": "heun"},
        {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    ):
        yield unipc, LINEAR, {**own, **v}, 0.0
    for own in (
        {"lower_order_final": False, "solver_order": 3},
        {"thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.9},
    ):
        yield deis, LINEAR, {**own, **v}, 0.0
    ode, sde = {"algorithm_type": "dpmsolver", **sigma_min}, {"algorithm_type": "sde-dpmsolver", **sigma_min}
    sde_pp = {"algorithm_type": "sde-dpmsolver++"}
    for order in (1, 2, 3):
        for solver in ("midpoint", "heun"):
            own = {"solver_order": order, "solver_type": solver}
            for prediction in PREDICTIONS:
                yield single, LINEAR, {**own, "prediction_type": prediction}, 0.0
            for last in (sigma_min, {"lower_order_final": True, **sigma_min}):
                yield single, LINEAR, {**own, **v, **last}, 0.0
            yield single, LINEAR, {**own, **ode, **v}, 0.0
            yield multi, LINEAR, {**own, **ode, **v}, 0.0
            yield multi, SCALED, {**own, **ode}, 0.0
            if order < 3:
                yield single, LINEAR, {**own, **sde_pp, **v}, 0.0
                yield multi, LINEAR, {**own, **sde, **v}, 0.0
    yield multi, LINEAR, {**ode, "thresholding": True, "sample_max_value": 1.5, "use_karras_sigmas": True, **v}, 0.0


def ancestors_and_distilled_configs():
    """PNDM with and without its Runge-Kutta start, DDPM, LCM and TCD."""
    for spacing in SPACINGS:
        for prediction in PREDICTIONS:
            common = {"timestep_spacing": spacing, "prediction_type": prediction}
            for skip in (False, True) if prediction != "sample" else ():
                yield "PNDMScheduler", LINEAR, {**common, "skip_prk_steps": skip}, 0.0
            yield "DDPMScheduler", LINEAR, {**common, "clip_sample": False}, 0.0
    pndm = {"skip_prk_steps": True, "steps_offset": 1}
    yield "PNDMScheduler", SCALED, {**pndm, "set_alpha_to_one": False}, 0.0
    yield "PNDMScheduler", SCALED, {**pndm, "set_alpha_to_one": True}, 0.0
    yield "PNDMScheduler", COSINE, {**pndm, "prediction_type": "v_prediction"}, 0.0
    v = {"prediction_type": "v_prediction"}
    for own in ({}, {"variance_type": "fixed_large"}, {"variance_type": "fixed_small_log"}, {"clip_sample_range": 2.0},
                {"thresholding": True, "sample_max_value": 3.0, "dynamic_thresholding_ratio": 0.8}):
        yield "DDPMScheduler", LINEAR, {**own, **v}, 0.0
    yield "DDPMScheduler", ZERO_SNR, {"timestep_spacing": "trailing", **v}, 0.0
    yield "DDPMScheduler", COSINE, v, 0.0
    for prediction in PREDICTIONS:
        yield "LCMScheduler", {}, {"prediction_type": prediction}, 0.0
        for eta in (0.0, 0.3, 1.0):
            yield "TCDScheduler", {}, {"prediction_type": prediction}, eta
    for name in ("LCMScheduler", "TCDScheduler"):
        yield name, LINEAR, {"original_inference_steps": 100, **v}, 0.5 if name == "TCDScheduler" else 0.0
        yield name, ZERO_SNR, {**v}, 0.3 if name == "TCDScheduler" else 0.0
    yield "LCMScheduler", {}, {"clip_sample": True, "timestep_scaling": 4.0}, 0.0
    yield "LCMScheduler", {}, {"thresholding": True, "sample_max_value": 2.0}, 0.0


def ancestral_levels_in_f64(scheduler):
    """What `set_timesteps` computes in f32 as a difference of near equals, by the same formulas in f64."""
    twice = lambda x: torch.cat([x[:1], x[1:].repeat_interleave(2), x[-1:]])
    own = scheduler.timesteps[::2] if len(scheduler.timesteps) > 1 else scheduler.timesteps
    sigmas = torch.cat([scheduler.sigmas[:1], scheduler.sigmas[1:-1:2]]).double()
    following = torch.cat([sigmas[1:], torch.zeros(1)])
    # sqrt(following² - up²) = following² / sigma.
    down = torch.where(following > 0, following**2 / sigmas, 0.0)
    up = (following**2 - down**2) ** 0.5
    between = (sigmas * down) ** 0.5
    scheduler.sigmas_down, scheduler.sigmas_up = twice(down.float()), twice(up.float())
    scheduler.sigmas_interpol = twice(between.float())
    log_sigmas = scheduler.log_sigmas.cpu()
    told = [float(scheduler._sigma_to_t(sigma, log_sigmas)) for sigma in between.float()[:-2]]
    scheduler.timesteps[1::2] = torch.tensor(told, dtype=scheduler.timesteps.dtype)
    assert torch.equal(own, scheduler.timesteps[::2])


def integrates_noise(scheduler):
    """Whether a step is a difference of two terms that are as many times larger as the level is high (157, or 20291 with
    cosine betas), or SA-Solver, whose coefficients are such differences. In f32 that leaves 1e-4 to 1e-2 of rounding; of these
    forms the trace is computed in f64."""
    config = scheduler.config
    return (isinstance(scheduler, (diffusers.DEISMultistepScheduler, diffusers.SASolverScheduler)) or not config.get("predict_x0", True)
            or config.get("algorithm_type") in ("dpmsolver", "sde-dpmsolver"))


def flow_family_configs():
    """Flow matching in the classes that step in lambda, and Lu's levels."""
    multi, single, deis, unipc = (f"{name}Scheduler" for name in (
        "DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep"))
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    dynamic = {**flow, "use_dynamic_shifting": True}
    for name in (multi, single, deis, unipc):
        for order in (1, 2, 3):
            for shift in (1.0, 3.0):
                own = {**flow, "solver_order": order, "flow_shift": shift}
                yield name, {}, own, 0.0, {}
            yield name, {}, own, 0.0, {"strength": 0.55}
        yield name, {}, {**flow, "thresholding": True, "sample_max_value": 1.5, "flow_shift": 2.0}, 0.0, {}
        yield name, {}, dynamic, 0.0, {"image_seq_len": 2304}
        yield name, {}, {**dynamic, "max_shift": 1.6}, 0.0, {"image_seq_len": 4096, "strength": 0.8}
    yield multi, {}, {**flow, "solver_type": "heun", "flow_shift": 3.0}, 0.0, {}
    yield multi, {}, {**flow, "algorithm_type": "sde-dpmsolver++", "flow_shift": 3.0}, 0.0, {}
    yield multi, {}, {**flow, "euler_at_final": True, "solver_order": 3, "num_train_timesteps": 500}, 0.0, {}
    for own in ({"solver_type": "bh1"}, {"final_sigmas_type": "sigma_min"}, {"shift_terminal": 0.1},
                {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min", "sigma_min": 0.002, "sigma_max": 80.0},
                {"use_karras_sigmas": True}, {"disable_corrector": [0, 2]}):
        yield unipc, {}, {**flow, "flow_shift": 3.0, **own}, 0.0, {}
    for request in ({"sigmas": [1.0, 0.75, 0.5, 0.25]}, {"sigmas": [0.9, 0.6, 0.3, 0.1, 0.02], "strength": 0.8}):
        yield unipc, {}, {**flow, "flow_shift": 3.0}, 0.0, request
        yield unipc, {}, {**dynamic, "shift_terminal": 0.05}, 0.0, {**request, "image_seq_len": 1000}
    v = {"prediction_type": "v_prediction"}
    for betas in (SCALED, LINEAR, COSINE):
        for order in (2, 3):
            yield multi, betas, {"use_lu_lambdas": True, "solver_order": order, **v}, 0.0, {}
    yield multi, SCALED, {"use_lu_lambdas": True, "use_karras_sigmas": True}, 0.0, {}
    yield multi, SCALED, {"use_lu_lambdas": True, "final_sigmas_type": "sigma_min"}, 0.0, {"strength": 0.55}


def sasolver_configs():
    name, v = "SASolverScheduler", {"prediction_type": "v_prediction"}
    for orders in ((1, 1), (2, 2), (3, 3), (4, 4), (3, 1), (1, 4)):
        own = {"predictor_order": orders[0], "corrector_order": orders[1]}
        for request in ({}, {"strength": 0.55}):
            yield name, LINEAR, {**own, **v}, 0.0, request
            yield name, SCALED, {**own, "algorithm_type": "noise_prediction", **v}, 0.0, request
        yield name, SCALED, {**own, "lower_order_final": False, "timestep_spacing": "trailing", **v}, 0.0, {}
        yield name, {}, {**own, "use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}, 0.0, {}
    for own in ({}, {"prediction_type": "sample"}, {"use_karras_sigmas": True}, {"use_beta_sigmas": True},
                {"timestep_spacing": "leading", "steps_offset": 1}, {"thresholding": True, "sample_max_value": 1.5}):
        yield name, SCALED, own, 0.0, {}


def dpmsolver_sde_configs():
    name, seed = "DPMSolverSDEScheduler", {"noise_sampler_seed": 77}
    for level in ({}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True}):
        for prediction in ("epsilon", "v_prediction"):
            yield name, SCALED, {**seed, **level, "prediction_type": prediction}, 0.0, {}
    for request in ({}, {"strength": 0.3}, {"strength": 0.8}):
        yield name, {}, {**seed, "timestep_spacing": "leading", "steps_offset": 1}, 0.0, request
    yield name, {}, {"noise_sampler_seed": 2**40 + 5, "timestep_spacing": "trailing"}, 0.0, {}
    yield name, {}, {"noise_sampler_seed": SEED}, 0.0, {}


def euler_configs():
    """Levels even in log sigma, of which Euler's class makes one more than timesteps, and timesteps that are levels."""
    name, v = "EulerDiscreteScheduler", {"prediction_type": "v_prediction"}
    log, told = {"interpolation_type": "log_linear"}, {"timestep_type": "continuous"}
    for spacing in SPACINGS:
        for request in ({}, {"strength": 0.55}):
            for own in ({**log}, {**log, **v}, {**told, **v}, {**log, **told, **v}):
                yield name, SCALED, {"timestep_spacing": spacing, **own}, 0.0, request
    # A level has no timestep of its own: nothing is told, and the field has no effect.
    yield name, SCALED, told, 0.0, {}
    # Stable Video Diffusion's config, and the other spacings.
    svd = {"use_karras_sigmas": True, "sigma_min": 0.002, "sigma_max": 700.0, "steps_offset": 1, "timestep_spacing": "leading"}
    for own in (svd, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True}, {"final_sigmas_type": "sigma_min"}):
        for request in ({}, {"strength": 0.8}):
            yield name, SCALED, {**own, **told, **v}, 0.0, request
            yield name, SCALED, {**own, **log}, 0.0, request
            yield name, SCALED, {**own, **log, **told, **v}, 0.0, request
    for request in ({"sigmas": [14.6, 3.0, 0.5, 0.1, 0.0]}, {"sigmas": [14.6, 3.0, 0.5, 0.1, 0.02], "strength": 0.55}):
        yield name, SCALED, {**log, **told, **v}, 0.0, request
    yield name, SCALED, {**log, **v}, 0.0, {"timesteps": [999.0, 700.0, 401.0, 90.0]}


AYS_15, AYS_XL = ([float(t) for t in AysSchedules[f"StableDiffusion{kind}Timesteps"]] for kind in ("", "XL"))


def custom_configs():
    """Timesteps and levels that are given: the classes that take them, whole schedules and starts part-way."""
    v, karras = {"prediction_type": "v_prediction"}, {"use_karras_sigmas": True}
    few = {"timesteps": [999.0, 700.0, 401.0, 90.0]}
    for request in ({"timesteps": AYS_15}, {"timesteps": AYS_XL, "strength": 0.55}):
        yield "DDPMScheduler", SCALED, {"clip_sample": False}, 0.0, request
        for order in (1, 2, 3):
            yield "DPMSolverMultistepScheduler", SCALED, {"solver_order": order}, 0.0, request
            yield "DPMSolverSinglestepScheduler", SCALED, {"solver_order": order}, 0.0, request
        sde = {"algorithm_type": "sde-dpmsolver++", "final_sigmas_type": "sigma_min"}
        yield "DPMSolverMultistepScheduler", LINEAR, {**sde, **v}, 0.0, request
        yield "EulerDiscreteScheduler", SCALED, {"timestep_spacing": "leading", "steps_offset": 1}, 0.0, request
        yield "EulerDiscreteScheduler", LINEAR, {"final_sigmas_type": "sigma_min", **v}, 0.0, request
        yield "HeunDiscreteScheduler", SCALED, {}, 0.0, request
    fractions = {"timesteps": [980.25, 512.5, 100.75, 0.5]}
    for request in (few, {**few, "strength": 0.8}):
        yield "LCMScheduler", {}, {}, 0.0, request
        yield "TCDScheduler", {}, {}, 0.3, request
    yield "EulerDiscreteScheduler", LINEAR, v, 0.0, fractions
    yield "HeunDiscreteScheduler", LINEAR, v, 0.0, fractions
    for name in ("StableDiffusion", "StableDiffusionXL", "StableDiffusionVideo"):
        sigmas = {"sigmas": AysSchedules[f"{name}Sigmas"]}
        for request in (sigmas, {**sigmas, "strength": 0.55}):
            yield "EulerDiscreteScheduler", SCALED, v, 0.0, request
    yield "EulerDiscreteScheduler", SCALED, {"timestep_spacing": "leading", **karras}, 0.0, {"sigmas": [9.0, 1.0, 0.1]}


def sized_configs():
    """Flow matching with levels that are given, as Flux' pipeline does, and with a shift by the picture's size."""
    flow = "FlowMatchEulerDiscreteScheduler"
    dynamic = {"use_dynamic_shifting": True}
    for n in (1, 4, 10):
        flux = {"sigmas": np.linspace(1.0, 1 / n, n).tolist()}
        for own in ({}, {"shift": 3.0}):
            yield flow, {}, own, 0.0, flux
        for tokens in (256, 1024, 4096):
            yield flow, {}, dynamic, 0.0, {**flux, "image_seq_len": tokens}
        yield flow, {}, dynamic, 0.0, {**flux, "image_seq_len": 2000, "strength": 0.8}
    for own in ({}, {"time_shift_type": "linear"}, {"base_shift": 0.8, "max_shift": 2.0, "max_image_seq_len": 8192},
                {"use_karras_sigmas": True}, {"shift_terminal": 0.1}, {"use_beta_sigmas": True}, {"invert_sigmas": True}):
        for strength in ({}, {"strength": 0.55}):
            yield flow, {}, {**dynamic, **own}, 0.0, {"image_seq_len": 1536, **strength}
    yield flow, {}, {"invert_sigmas": True, "shift": 3.0}, 0.0, {}
    yield flow, {}, {"shift": 3.0}, 0.0, {"timesteps": [1000.0, 750.5, 300.0, 20.0]}


def begin(scheduler, steps, strength):
    """The first evaluation that is made: `get_timesteps` of the pipelines for image to image. That of Stable Diffusion and
    that of Stable Diffusion 3 and Flux round differently."""
    if strength is None:
        return 0
    if type(scheduler).__name__.startswith("FlowMatch") or scheduler.config.get("use_flow_sigmas"):
        t_start = int(max(steps - min(steps * strength, steps), 0))
    else:
        t_start = max(steps - min(int(steps * strength), steps), 0)
    return t_start * scheduler.order


def add_noise(scheduler, picture, noise, t):
    if hasattr(scheduler, "scale_noise"):
        return scheduler.scale_noise(picture, t.reshape(1), noise)
    return scheduler.add_noise(picture, noise, t.reshape(1))


def set_timesteps(scheduler, steps, image_seq_len=None, **custom):
    """`retrieve_timesteps` of the pipelines, and the `mu` that those of Stable Diffusion 3 and Flux pass."""
    config = scheduler.config
    if image_seq_len is not None:
        keys = ("base_image_seq_len", 256), ("max_image_seq_len", 4096), ("base_shift", 0.5), ("max_shift", 1.15)
        custom["mu"] = calculate_shift(image_seq_len, *(config.get(key, default) for key, default in keys))
    if "sigmas" in custom:
        custom["sigmas"] = np.array(custom["sigmas"])  # UniPC calculates with them as they are
    if "timesteps" in custom or "sigmas" in custom:
        scheduler.set_timesteps(**custom)
    else:
        scheduler.set_timesteps(steps, **custom)


def trace(scheduler, steps, eta, strength=None, **request):
    """The numbers of one run, in the order that the docstring above gives: timesteps and sigmas first."""
    set_timesteps(scheduler, steps, **request)
    first = begin(scheduler, steps, strength)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)  # not found by value, which starts at the second of two equal timesteps
    if isinstance(scheduler, diffusers.LMSDiscreteScheduler):
        # Its coefficients are integrals of products of f32 numbers, good to 7e-5 only; of these they are as they are meant.
        scheduler.sigmas = scheduler.sigmas.double()
    if isinstance(scheduler, diffusers.DPMSolverSDEScheduler):
        # Levels to go down to are differences of near equals; and torchsde rounds times to a millionth, so that a last bit
        # of a level moves the noise by a thousandth.
        scheduler.sigmas = scheduler.sigmas.double()
    exact = integrates_noise(scheduler)
    if exact:
        scheduler.sigmas = scheduler.sigmas.double()
    if isinstance(scheduler, diffusers.KDPM2AncestralDiscreteScheduler):
        ancestral_levels_in_f64(scheduler)
    takes = inspect.signature(scheduler.step).parameters
    yield scheduler.timesteps[first:]
    yield getattr(scheduler, "sigmas", torch.zeros(0))[first:]
    # The flow-matching classes have neither: their pipelines start from the noise and pass it on as it is.
    init_noise_sigma = float(getattr(scheduler, "init_noise_sigma", 1.0))
    scale_model_input = getattr(scheduler, "scale_model_input", lambda sample, t: sample)
    yield torch.tensor([init_noise_sigma])
    generator = torch.Generator("cpu").manual_seed(SEED)
    picture = None if strength is None else torch.randn((1, *SHAPE), generator=generator)
    noise = torch.randn((1, *SHAPE), generator=generator)
    sample = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    for i, t in enumerate(scheduler.timesteps[first:]):
        if picture is not None:
            noised = add_noise(scheduler, picture, noise, t)
            yield noised.flatten()
            sample = noised if i == 0 else sample
        sample = sample.double() if exact else sample
        model_input = scale_model_input(sample, t)
        more = {name: value for name, value in (("eta", eta), ("generator", generator)) if name in takes}
        model_output = fake_model(model_input, t)
        # SA-Solver draws noise of the type of the output.
        model_output = model_output.double() if exact and "SASolver" not in type(scheduler).__name__ else model_output
        sample = scheduler.step(model_output, t, sample, **more).prev_sample
        yield model_input.flatten()
        yield sample.flatten()


def step_counts(name, request):
    if "timesteps" in request:
        return [len(request["timesteps"])]
    if "sigmas" in request:
        # Flow matching's levels come without the final one.
        return [len(request["sigmas"]) - (1 if name == "EulerDiscreteScheduler" else 0)]
    return STRENGTH_STEPS if request else STEPS


def kept_traces(here):
    """The runs and numbers of every config that the files have."""
    cases = json.loads((here / "schedulers.json").read_text())["cases"]
    numbers, elements, kept = np.load(here / "schedulers.npy"), int(np.prod(SHAPE)), {}
    for case in cases:
        runs = case.pop("runs")
        per_step = elements * (3 if "strength" in case else 2)
        size = sum(evaluations * (1 + per_step) + sigmas + 1 for _, evaluations, sigmas in runs)
        kept.setdefault(json.dumps(case), (runs, numbers[:size]))
        numbers = numbers[size:]
    assert len(numbers) == 0, "schedulers.npy holds more than schedulers.json says"
    return kept


def main():
    here = Path(__file__).parent
    known = kept_traces(here) if "--add" in sys.argv[1:] else {}
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    arrays, cases = [], []
    plain = ((*case, {}) for case in configs())
    part_way = ((*case, {"strength": strength}) for case in part_way_configs() for strength in STRENGTHS)
    for name, betas, other, eta, request in chain(plain, part_way, custom_configs(), sized_configs(),
                                                  flow_family_configs(), sasolver_configs(), dpmsolver_sde_configs(),
                                                  euler_configs()):
        config = {**betas, **other}
        case = {"config": {"_class_name": name, **config}, "eta": eta, **request}
        if json.dumps(case) in known:
            kept, numbers = known[json.dumps(case)]
            cases.append({**case, "runs": kept})
            arrays.append(numbers)
            continue
        train = config.get("num_train_timesteps", 1000)
        kept, fresh = [], getattr(diffusers, name).from_config(config)
        for steps in (n for n in step_counts(name, request) if n < train):
            try:
                run = trace(copy.deepcopy(fresh), steps, eta, **request)
                parts = [np.asarray(part, dtype=np.float32) for part in run]
            except (ValueError, IndexError, ZeroDivisionError) as error:
                print("not possible in the reference, left out:", name, config, steps, error)
                continue
            if all(np.isfinite(part).all() for part in parts):
                kept.append([steps, len(parts[0]), len(parts[1])])
                arrays.append(np.concatenate(parts))
            else:
                print("not finite in the reference, left out:", name, config, steps)
        cases.append({**case, "runs": kept})
    np.save(here / "schedulers.npy", np.concatenate(arrays))
    head = {"diffusers": diffusers.__version__, "torch": torch.__version__, "shape": SHAPE, "seed": SEED}
    lines = ",\n".join(json.dumps(case) for case in cases)
    (here / "schedulers.json").write_text(json.dumps(head)[:-1] + ', "cases": [\n' + lines + "\n]}\n")
    print(len(cases), "configs,", sum(len(case["runs"]) for case in cases), "traces")


if __name__ == "__main__":
    main()
