#!/usr/bin/env python3
"""Writes schedulers.json and schedulers.npy: traces of diffusers' schedulers, for tests/golden.rs.

    python tests/golden/make_scheduler_goldens.py            # diffusers 0.42.1

The network is `fake_model`, which tests/golden.rs computes too; initial latents and fresh noise come from one CPU
generator (tests/golden.rs draws them with its own torch-cpu noise). schedulers.json lists configs, each with its numbers
of steps; schedulers.npy is one flat array of f32 in the same order, for each (config, number of steps):
timesteps (n), sigmas (n + 1, not for DDIM), init_noise_sigma (1), then for each step model_input and prev_sample.
"""
import json
from pathlib import Path

import diffusers
import numpy as np
import torch

assert diffusers.__version__ == "0.42.1", diffusers.__version__
SHAPE = (2, 3, 3)
SEED = 1234
STEPS = (1, 2, 3, 10, 20, 50)

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


def trace(scheduler, steps, eta):
    """The numbers of one run, in the order that the docstring above gives."""
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # not found by value, which starts at the second of two equal timesteps
    ddim = isinstance(scheduler, diffusers.DDIMScheduler)
    assert len(scheduler.timesteps) == steps
    yield scheduler.timesteps
    if not ddim:
        yield scheduler.sigmas
    yield torch.tensor([float(scheduler.init_noise_sigma)])
    generator = torch.Generator("cpu").manual_seed(SEED)
    sample = torch.randn((1, *SHAPE), generator=generator) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        model_input = scheduler.scale_model_input(sample, t)
        more = {"eta": eta} if ddim else {}
        sample = scheduler.step(fake_model(model_input, t), t, sample, generator=generator, **more).prev_sample
        yield model_input.flatten()
        yield sample.flatten()


def main():
    arrays, cases = [], []
    for name, betas, other, eta in configs():
        config = {**betas, **other}
        train = config.get("num_train_timesteps", 1000)
        kept = []
        for steps in (n for n in STEPS if n < train):
            scheduler = getattr(diffusers, name).from_config(config)
            numbers = np.concatenate([np.asarray(part, dtype=np.float32) for part in trace(scheduler, steps, eta)])
            if np.isfinite(numbers).all():
                kept.append(steps)
                arrays.append(numbers)
            else:
                print("not finite in the reference, left out:", name, config, steps)
        cases.append({"config": {"_class_name": name, **config}, "eta": eta, "steps": kept})
    here = Path(__file__).parent
    np.save(here / "schedulers.npy", np.concatenate(arrays))
    head = {"diffusers": diffusers.__version__, "torch": torch.__version__, "shape": SHAPE, "seed": SEED}
    lines = ",\n".join(json.dumps(case) for case in cases)
    (here / "schedulers.json").write_text(json.dumps(head)[:-1] + ', "cases": [\n' + lines + "\n]}\n")
    print(len(cases), "configs,", sum(len(case["steps"]) for case in cases), "traces")


if __name__ == "__main__":
    main()
