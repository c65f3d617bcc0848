"""How rows go through a pipeline with diffusers' interface."""
import torch
from diffusers import EulerDiscreteScheduler


def maker(pipe):
    """A function from rows to pictures. Each row's noise is that of its seed, drawn by torch on the CPU."""
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)

    def make(rows):
        first = rows[0]
        return pipe(
            prompt=[row["prompt"] for row in rows], num_inference_steps=first["steps"], guidance_scale=first["guidance"],
            width=first["size"], height=first["size"],
            generator=[torch.Generator("cpu").manual_seed(row["seed"]) for row in rows]).images
    return make
