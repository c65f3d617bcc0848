"""What the training stages share: processes that add their gradients, the learning rate, data and checkpoints."""
import os
import time

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import shapes_data
from tiny_parts import BUCKETS


def in_processes(stage, args):
    """Runs `stage(rank, args)` in `args.processes` processes of one thread each, joined by torch.distributed."""
    mp.spawn(_enter, args=(stage, args), nprocs=args.processes)


def _enter(rank, stage, args):
    torch.set_num_threads(1)
    rendezvous = args.work / f"rendezvous-{os.getppid()}"
    dist.init_process_group("gloo", init_method=f"file://{rendezvous.resolve()}", rank=rank, world_size=args.processes)
    stage(rank, args)
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        rendezvous.unlink(missing_ok=True)


def add_up_gradients(parameters):
    """Replaces each process's gradients by their mean over all processes."""
    gradients = [p.grad for p in parameters]
    flat = torch._utils._flatten_dense_tensors(gradients)
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    torch._foreach_copy_(gradients, torch._utils._unflatten_dense_tensors(flat, gradients))


def agreed(value):
    """The value of process 0, on every process: what depends on a clock must not differ between them."""
    box = torch.tensor(float(value), dtype=torch.float64)
    dist.broadcast(box, 0)
    return box.item()


class Rate:
    """The share of the peak learning rate: warm-up, constant, linear fall; see `train_tiny_shapes.py`."""

    def __init__(self, warmup, steps, decay_steps, final=0.02):
        self.warmup, self.final = warmup, final
        self.decay_steps, self.start = decay_steps, steps - decay_steps

    def at(self, step):
        if step >= self.start:
            return max(self.final, 1 - (step - self.start) / self.decay_steps)
        return min(1, (step + 1) / self.warmup)

    def done(self, step):
        return step >= self.start + self.decay_steps


class Average:
    """Exponential moving average of `parameters`, with a shorter memory at first."""

    def __init__(self, parameters, decay=0.999):
        self.parameters, self.decay = [p.detach() for p in parameters], decay
        self.values = [p.clone() for p in self.parameters]

    def update(self, step):
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, self.parameters, 1 - decay)


class Log:
    """Prints the mean of `what` and the pace every hundred steps, on process 0."""

    def __init__(self, name, what, first=0):
        self.name, self.what, self.first, self.started, self.shown = name, what, first, time.time(), []

    def add(self, step, value, scale):
        self.shown.append(value)
        if step % 100 == 0 and (not dist.is_initialized() or dist.get_rank() == 0):
            pace = (time.time() - self.started) / (step - self.first)
            print(f"{self.name} step {step} {self.what} {np.mean(self.shown[-100:]):.4f} rate {scale:.2f} {pace:.3f} s/step",
                  flush=True)


def make_scenes(count, seed):
    """`count` scenes, split over BUCKETS; returns a list per bucket."""
    rng = np.random.default_rng(seed)
    return [[shapes_data.sample_scene(rng, w, h) for _ in range(round(count * share))] for w, h, share in BUCKETS]


def pictures(scenes):
    return np.stack([shapes_data.draw(s) for s in scenes])


def to_tensor(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def save(path, value):
    torch.save(value, f"{path}.tmp")
    os.replace(f"{path}.tmp", path)
