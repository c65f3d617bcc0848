"""Muon (K. Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): momentum whose matrices are made orthogonal.

Weights of two or more dimensions, a convolution's taken as [out, in * height * width], move by an orthogonal matrix of
fixed size, so that rare directions (a shape's outline) learn as fast as common ones (a background's colour). All other
parameters take AdamW. The orthogonalisation is shared out among the processes of `torch.distributed`.
"""
import torch
import torch.distributed as dist

# Coefficients of the quintic iteration, from the post above.
A, B, C = 3.4445, -4.7750, 2.0315


def orthogonal(matrix, iterations=5):
    """Roughly U V^T of `matrix` = U S V^T, by Newton-Schulz iteration: singular values end between 0.7 and 1.2."""
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    for _ in range(iterations):
        gram = x @ x.T
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x.T if tall else x


class Muon:
    """Optimizer over `matrices` (Muon) and `others` (AdamW); `step(scale)` takes the share of the peak rates to use."""

    def __init__(self, matrices, others, lr=0.02, momentum=0.95, adam_lr=2e-3):
        self.matrices, self.lr, self.momentum, self.adam_lr = list(matrices), lr, momentum, adam_lr
        self.buffers = [torch.zeros_like(p, memory_format=torch.contiguous_format) for p in self.matrices]
        self.adam = torch.optim.AdamW(others, lr=adam_lr, weight_decay=0.0, betas=(0.9, 0.99))
        cost = [min(p.shape[0], p[0].numel()) ** 2 * max(p.shape[0], p[0].numel()) for p in self.matrices]
        self.owner = share_out(cost, dist.get_world_size())

    @torch.no_grad()
    def step(self, scale):
        """One step at `scale` times the peak learning rates."""
        for group in self.adam.param_groups:
            group["lr"] = self.adam_lr * scale
        self.adam.step()
        gradients = [p.grad.contiguous() for p in self.matrices]
        torch._foreach_lerp_(self.buffers, gradients, 1 - self.momentum)
        ahead = torch._foreach_lerp(gradients, self.buffers, self.momentum)
        flat = torch.zeros(sum(p.numel() for p in self.matrices))
        parts = flat.split([p.numel() for p in self.matrices])
        for part, direction, owner in zip(parts, ahead, self.owner):
            if owner == dist.get_rank():
                matrix = direction.flatten(1)
                part.copy_((orthogonal(matrix) * max(1, matrix.shape[0] / matrix.shape[1]) ** 0.5).flatten())
        dist.all_reduce(flat)
        for p, part in zip(self.matrices, parts):
            p.add_(part.view(p.shape), alpha=-self.lr * scale)

    def state_dict(self):
        return dict(buffers=self.buffers, adam=self.adam.state_dict())

    def load_state_dict(self, state):
        torch._foreach_copy_(self.buffers, state["buffers"])
        self.adam.load_state_dict(state["adam"])


def share_out(costs, count):
    """An owner below `count` for each cost, so that the owners' sums are about equal; the same on every process."""
    owners, loads = [0] * len(costs), [0] * count
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        owners[i] = loads.index(min(loads))
        loads[owners[i]] += costs[i]
    return owners
