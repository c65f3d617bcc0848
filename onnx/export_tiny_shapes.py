#!/usr/bin/env python3
"""Writes `tiny-shapes` as ONNX graphs in the folder layout of optimum's exports.

    python onnx/export_tiny_shapes.py --work DIR --out onnx/tiny-shapes

DIR is the folder of `train_tiny_shapes.py`; the averaged (EMA) weights are taken. Differences from optimum's graphs:
the UNet's `timestep` is `[batch]`, so that images at different steps share a call, and every initialiser keeps torch's
name and layout, so that `tiny_models.load_torch` rebuilds the torch models. The same checkpoint gives the same bytes.
Before it ends the script compares every graph with torch and runs the batch checks that nightshift relies on.
"""
import argparse
import copy
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from tokenizers import Tokenizer
from transformers import CLIPTokenizer

import shapes_data
import tiny_models
import tiny_parts
from torch_to_onnx import (
    BATCH, IMAGE, LATENT, PIXELS, TEXT, TextEncoder, Unet, VaeDecoder, VaeEncoder, session, to_onnx, write_clip_tokenizer,
    write_json,
)

LIMIT_BYTES = 20_000_000
TOLERANCE = 1e-4  # of the largest absolute value of torch's output


def parts(models):
    """Of each graph: its name, the module, its inputs and outputs with their dynamic dimensions."""
    return (
        ("text_encoder", TextEncoder(models.text_encoder), {"input_ids": TEXT},
         {"last_hidden_state": TEXT, "pooler_output": BATCH}),
        ("unet", Unet(models.unet), {"sample": IMAGE, "timestep": BATCH, "encoder_hidden_states": TEXT},
         {"out_sample": IMAGE}),
        ("vae_encoder", VaeEncoder(models.vae), {"sample": IMAGE},
         {"latent_parameters": LATENT}),
        ("vae_decoder", VaeDecoder(models.vae), {"latent_sample": IMAGE},
         {"sample": PIXELS}),
    )


def example(part, models, batch, height=64, width=64, length=tiny_parts.MODEL_MAX_LENGTH, seed=0):
    """Inputs for graph `part` at an image size of `height` x `width` pixels, as a dict of tensors."""
    generator = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=generator)
    latents = normal(batch, 4, height // 4, width // 4)
    if part == "text_encoder":
        vocab, eos = models.tokenizer.get_vocab_size(), models.text_encoder.config.eos_token_id
        ids = torch.randint(2, vocab, (batch, length), generator=generator)
        ids[:, 0] = models.text_encoder.config.bos_token_id
        for row, end in enumerate(torch.randint(1, length, (batch,), generator=generator)):
            ids[row, end:] = eos
        return {"input_ids": ids}
    if part == "unet":
        timestep = torch.rand(batch, generator=generator) * 999
        return {"sample": latents, "timestep": timestep, "encoder_hidden_states": normal(batch, length, 64)}
    if part == "vae_encoder":
        return {"sample": torch.tanh(normal(batch, 3, height, width))}
    return {"latent_sample": latents}


def write_tokenizer(models, out):
    """The tokenizer of training as transformers' CLIPTokenizer, in all the files by which a reader may look for it."""
    bpe = json.loads(models.tokenizer.to_str())["model"]
    write_clip_tokenizer(tiny_models.clip_tokenizer(bpe["vocab"], bpe["merges"], tiny_parts.MODEL_MAX_LENGTH), out)


def write_folder(models, out):
    """The whole export into the empty folder `out`, in the layout of optimum."""
    full = tiny_models.with_clip_tokenizer(models)
    tiny_models.pipeline(full).save_config(out)
    full.scheduler.save_pretrained(out / "scheduler")
    path = out / "scheduler/scheduler_config.json"
    scheduler = json.loads(path.read_text())
    # diffusers writes minus infinity, the default, as a bare word that is not JSON.
    del scheduler["lambda_min_clipped"]
    # For schedulers made from this configuration that read more than DPMSolverMultistepScheduler does: DDIM's defaults
    # would clip latents to [-1, 1].
    write_json(path, {**scheduler, "clip_sample": False, "set_alpha_to_one": True})
    (out / "tokenizer").mkdir()
    write_tokenizer(models, out / "tokenizer")
    for part, module, inputs, outputs in parts(models):
        (out / part).mkdir()
        graph = to_onnx(module, example(part, models, batch=2, width=96), inputs, outputs)
        (out / part / "model.onnx").write_bytes(graph.SerializeToString(deterministic=True))
        config = module.model.config
        if part == "text_encoder":
            config.architectures, config.dtype = ["CLIPTextModel"], "float32"
            config.save_pretrained(out / part)
        else:
            module.model.save_config(out / part)


def check_numerics(models, out):
    """Every graph against torch in float64, over batches, sizes and lengths: the largest difference relative to torch's
    range may be TOLERANCE, or twice that of torch's own float32, whose rounding the network may enlarge."""
    cases = [(1, 64, 64, 32), (2, 64, 96, 32), (3, 96, 64, 7), (5, 128, 128, 32), (1, 40, 72, 2)]
    for part, module, _, outputs in parts(models):
        graph, worst, worst_absolute, own = session(out / part / "model.onnx"), 0.0, 0.0, 0.0
        exact = copy.deepcopy(module).double()
        for seed, (batch, height, width, length) in enumerate(cases):
            inputs = example(part, models, batch, height, width, length, seed)
            with torch.no_grad():
                rounded = module(**inputs)
                expected = exact(**{k: v.double() if v.is_floating_point() else v for k, v in inputs.items()})
            got = graph.run(list(outputs), {name: value.numpy() for name, value in inputs.items()})
            several = lambda output: output if isinstance(output, tuple) else (output,)
            for a, b, c in zip(got, several(expected), several(rounded)):
                absolute, span = np.abs(a - b.numpy()).max(), b.abs().max().item()
                worst, worst_absolute = max(worst, absolute / span), max(worst_absolute, absolute)
                own = max(own, (c - b).abs().max().item() / span)
        nodes = len(onnx.load(out / part / "model.onnx").graph.node)
        print(f"{part:13} {nodes:4} nodes, against torch: max difference {worst_absolute:.2e}, relative {worst:.2e}, "
              f"torch's own {own:.2e}")
        if worst > max(TOLERANCE, 2 * own):
            sys.exit(f"{part} differs from torch by more than {TOLERANCE} and twice torch's own rounding")


def check_batches(models, out):
    """A batch of seven = one by one = shuffled = two threads, bit for bit, on CPU."""
    for part, _, inputs, outputs in parts(models):
        one, two = session(out / part / "model.onnx"), session(out / part / "model.onnx", threads=2)
        for height, width in ((64, 64), (64, 96), (96, 64), (128, 128)):
            batch = {name: value.numpy() for name, value in example(part, models, 7, height, width, seed=9).items()}
            together, order = one.run(None, batch), np.random.default_rng(0).permutation(7)
            rows = [one.run(None, {name: value[i:i + 1] for name, value in batch.items()}) for i in range(7)]
            shuffled = two.run(None, {name: value[order] for name, value in batch.items()})
            for i, output in enumerate(together):
                same = (np.array_equal(output, np.concatenate([r[i] for r in rows])),
                        np.array_equal(output, two.run(None, batch)[i]), np.array_equal(output[order], shuffled[i]))
                if not all(same):
                    sys.exit(f"{part} at {width}x{height} depends on the batch or the threads: singles, threads, order {same}")
    print("batch of 7 = singles = shuffled = 2 threads, bit for bit, for every graph at 64x64, 96x64, 64x96 and 128x128")


def check_parameters(models, out):
    """The folder alone gives back the checkpoint's models, bit for bit."""
    again = tiny_models.load_torch(out)
    for part in ("text_encoder", "unet", "vae"):
        expected, got = getattr(models, part).state_dict(), getattr(again, part).state_dict()
        if expected.keys() != got.keys() or any(not torch.equal(expected[name], got[name]) for name in expected):
            sys.exit(f"{part}: the parameters in the graph are not those of the checkpoint")
    print("the parameters read back from the graphs are those of the checkpoint, bit for bit")


def check_tokenizer(models, out):
    """tokenizer.json, transformers and vocab.json + merges.txt alone give the ids that training used."""
    clip = CLIPTokenizer.from_pretrained(out / "tokenizer")
    plain = Tokenizer.from_file(str(out / "tokenizer/tokenizer.json"))
    with tempfile.TemporaryDirectory() as folder:
        for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"):
            shutil.copy(out / "tokenizer" / name, folder)
        slow = CLIPTokenizer.from_pretrained(folder)
    rng = np.random.default_rng(5)
    texts = ["", " ", "A  Small RED heart,on a\tYELLOW background!", "ein rotes Herz, Straße 12½ 🙂 été", "it's 3.14 & <3"]
    texts += ["<|endoftext|> a star", "\u200b\ufeff\u0130", "e\u0301" * 3]
    texts += [shapes_data.caption(shapes_data.sample_scene(rng), rng) for _ in range(500)]
    texts += ["".join(chr(c) for c in rng.integers(32, 0x3000, size=9)) for _ in range(500)]
    models.tokenizer.no_padding(), models.tokenizer.no_truncation()
    for text in texts:
        ids = models.tokenizer.encode(text).ids
        for name, other in (("transformers", clip(text).input_ids), ("vocab.json + merges.txt", slow(text).input_ids),
                            ("tokenizer.json", plain.encode(text).ids)):
            if other != ids:
                sys.exit(f"{name} gives other ids than training for {text!r}: {other} instead of {ids}")
    print(f"tokenizer.json, transformers and vocab.json + merges.txt agree with training on {len(texts)} texts")


def install(new, out):
    """Puts the export `new` in place of `out`, keeping what a person wrote there (the model card)."""
    out.mkdir(parents=True, exist_ok=True)
    for entry in new.iterdir():
        old = out / entry.name
        shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        shutil.move(entry, old)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of train_tiny_shapes.py")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    models = tiny_models.load_checkpoint(args.work)
    print(f"checkpoint of step {models.step}")
    with tempfile.TemporaryDirectory() as folder:
        new = Path(folder) / "export"
        new.mkdir()
        write_folder(models, new)
        size = sum(f.stat().st_size for f in new.rglob("*") if f.is_file())
        print(f"{size / 1e6:.1f} MB in all")
        if size > LIMIT_BYTES:
            sys.exit(f"more than {LIMIT_BYTES / 1e6:.0f} MB")
        for check in (check_numerics, check_batches, check_parameters, check_tokenizer):
            check(models, new)
        install(new, args.out)


if __name__ == "__main__":
    main()
