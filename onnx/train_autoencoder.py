"""The VAE's stages of `train_tiny_shapes.py`: the whole autoencoder, the pictures' latents, then its decoder alone."""
import numpy as np
import torch
import torch.nn.functional as F

from muon import Muon
from tiny_parts import BUCKETS, new_vae
from training_loop import Log, Rate, add_up_gradients, make_scenes, pictures, save, to_tensor

SHARES = np.array([share for _, _, share in BUCKETS])


def load_vae(path):
    vae = new_vae()
    vae.load_state_dict(torch.load(path))
    return vae


def muon_for(vae, parameters):
    """Muon over the inner weights; the layers at both ends and all vectors take AdamW."""
    ends = {id(p) for part in (vae.encoder.conv_in, vae.encoder.conv_out, vae.decoder.conv_in, vae.decoder.conv_out,
                               vae.quant_conv, vae.post_quant_conv) for p in part.parameters()}
    matrices = [p for p in parameters if p.dim() > 1 and id(p) not in ends]
    chosen = {id(p) for p in matrices}
    return Muon(matrices, [p for p in parameters if id(p) not in chosen], lr=0.02, adam_lr=2e-3)


def train_vae(rank, args):
    path = args.work / "vae.pt"
    torch.manual_seed(1)
    vae = new_vae().train().to(memory_format=torch.channels_last)
    parameters = list(vae.parameters())
    optimizer = muon_for(vae, parameters)
    # Square pictures only: one shape to compile for. The decoder's own stage sees all sizes.
    images, rng = pictures(make_scenes(args.pictures, seed=0)[0]), np.random.default_rng((2, rank))
    torch.manual_seed(10 + rank)
    loss_of = vae_loss if args.eager else torch.compile(vae_loss, dynamic=False)
    rate, log = Rate(50, args.vae_steps, args.vae_steps * 3 // 5), Log("vae", "error")
    for step in range(args.vae_steps):
        x = to_tensor(images[rng.integers(len(images), size=args.batch // args.processes)])
        x = x.contiguous(memory_format=torch.channels_last)
        loss, error = loss_of(vae, x, torch.randn(x.shape[0], 4, x.shape[2] // 4, x.shape[3] // 4))
        for p in parameters:
            p.grad = None
        loss.backward()
        add_up_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step(rate.at(step))
        log.add(step + 1, error.item(), rate.at(step))
    if rank == 0:
        save(path, vae.state_dict())


def vae_loss(vae, x, noise):
    posterior = vae.encode(x).latent_dist
    decoded = vae.decode(posterior.mean + posterior.std * noise).sample
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    error = (decoded - x).abs().mean()
    return error + 0.5 * F.mse_loss(decoded, x) + 2e-4 * kl, error


@torch.no_grad()
def encode_all(args):
    """Every picture's latents, scaled to a standard deviation of one, in `latents.pt` with the `scaling_factor`."""
    path = args.work / "latents.pt"
    if path.exists():
        return torch.load(path)
    vae, latents = load_vae(args.work / "vae.pt").eval(), []
    for scenes in make_scenes(args.pictures, seed=0):
        parts = [vae.encode(to_tensor(pictures(scenes[i:i + 256]))).latent_dist.mean for i in range(0, len(scenes), 256)]
        latents.append(torch.cat(parts))
    scaling_factor = 1 / torch.cat([z.flatten() for z in latents]).std().item()
    print(f"scaling_factor {scaling_factor:.5f}, channel means {latents[0].mean((0, 2, 3)).tolist()}, "
          f"deviations {latents[0].std((0, 2, 3)).tolist()}", flush=True)
    result = dict(scaling_factor=scaling_factor, latents=[z * scaling_factor for z in latents])
    save(path, result)
    return result


def refine_decoder(rank, args):
    """Trains the decoder alone on the latents as they are, lightly disturbed, as the UNet will disturb them."""
    torch.manual_seed(4)
    vae, encoded, buckets = load_vae(args.work / "vae.pt"), encode_all(args), make_scenes(args.pictures, seed=0)
    vae.requires_grad_(False)
    parameters = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    for p in parameters:
        p.requires_grad_(True)
    vae.train().to(memory_format=torch.channels_last)
    optimizer = muon_for(vae, parameters)
    common, rng = np.random.default_rng(5), np.random.default_rng((5, rank))
    torch.manual_seed(20 + rank)
    loss_of = decoder_loss if args.eager else torch.compile(decoder_loss, dynamic=False)
    rate, log = Rate(30, args.decoder_steps, args.decoder_steps * 4 // 5), Log("decoder", "error")
    for step in range(args.decoder_steps):
        b = common.choice(len(buckets), p=SHARES)
        pick = rng.integers(len(buckets[b]), size=args.batch // args.processes)
        x = to_tensor(pictures([buckets[b][i] for i in pick]))
        z = encoded["latents"][b][torch.from_numpy(pick)]
        z = z + 0.06 * torch.rand(len(z), 1, 1, 1) * torch.randn_like(z)
        error = loss_of(vae, z / encoded["scaling_factor"], x)
        for p in parameters:
            p.grad = None
        error.backward()
        add_up_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step(0.5 * rate.at(step))
        log.add(step + 1, error.item(), rate.at(step))
    if rank == 0:
        save(args.work / "vae_refined.pt", vae.state_dict())


def decoder_loss(vae, z, x):
    return (vae.decode(z).sample - x).abs().mean()
