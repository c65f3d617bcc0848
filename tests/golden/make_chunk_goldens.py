#!/usr/bin/env python3
"""How A1111 cuts long prompts into chunks and applies weights: tests/golden/chunks.json, for tests/prompt.rs.

    python tests/golden/make_chunk_goldens.py WEBUI    # stable-diffusion-webui 1.10, torch 2.15, transformers 5.23; needs lark

`WEBUI` is a checkout of https://github.com/AUTOMATIC1111/stable-diffusion-webui, whose `modules/sd_hijack_clip.py` and
`sd_emphasis.py` are imported as they are, with stand-ins for the modules that they only mention. (The stored data were made
with the classes of those files copied out of them by hand, not with a whole checkout.) The tokenizer is that of
tests/fixtures/tiny, padded as A1111 pads Stable Diffusion 1. Chunks are 75 tokens long, as A1111's, or 24 to keep the file small.
"""
import json
import random
import sys
import types
from pathlib import Path

sys.path.insert(0, str(Path(sys.argv[1], "modules")))
import prompt_parser  # noqa: E402
import sd_emphasis  # noqa: E402

stand_in = types.SimpleNamespace
modules = types.ModuleType("modules")
for name, module in {"prompt_parser": prompt_parser, "sd_emphasis": sd_emphasis, "devices": stand_in(), "sd_hijack": stand_in(),
                     "shared": stand_in(opts=stand_in(emphasis="Original", comma_padding_backtrack=20))}.items():
    setattr(modules, name, module)
    sys.modules[f"modules.{name}"] = module
sys.modules["modules"] = modules

import sd_hijack_clip  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["a", "red circle", "blue", "star", "(green:1.3)", "[ring]", "((heart))", ",", ",", "x, y", ",,", "of"]
tokenizer = transformers.CLIPTokenizer.from_pretrained(ROOT / "tests/fixtures/tiny/tokenizer")
rng = random.Random(11)


class Embedder(sd_hijack_clip.FrozenCLIPEmbedderWithCustomWordsBase):
    def __init__(self, chunk_length):
        no_embeddings = stand_in(find_embedding_at_position=lambda tokens, position: (None, None))
        super().__init__(None, stand_in(embedding_db=no_embeddings))
        self.chunk_length = chunk_length
        self.id_start, self.id_end = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.comma_token = tokenizer.get_vocab()[",</w>"]

    def tokenize(self, texts):
        return tokenizer(texts, truncation=False, add_special_tokens=False)["input_ids"]


def case(chunk_length, prompt):
    chunks, _ = Embedder(chunk_length).tokenize_line(prompt)
    return {"prompt": prompt, "model_max_length": chunk_length + 2, "ids": [chunk.tokens for chunk in chunks],
            "weights": [chunk.multipliers for chunk in chunks]}


def words(count, breaks=0.0):
    return " ".join("BREAK" if rng.random() < breaks else rng.choice(WORDS) for _ in range(count))


cases = [case(75, prompt) for prompt in ("", "a red circle", words(30), words(60, 0.03), " ".join(["star"] * 90))]
cases += [case(24, words(rng.randint(5, 40), rng.choice((0, 0.1)))) for _ in range(40)]
cases += [case(24, prompt) for prompt in ("BREAK", "a BREAK", "BREAK a", "a BREAK BREAK b", ", " * 30, "a" + ", " * 24, "a " * 24 + ",")]

generator = torch.Generator().manual_seed(3)
emphasis = sd_emphasis.EmphasisOriginal()
emphasis.z = torch.randn(1, 12, 5, generator=generator) + 0.1
emphasis.multipliers = torch.asarray([[1.0, 1.3, 1.3, 0.55, 1 / 1.1, -1.0, 0.0, 1.5730000000000004, 1.0, 1.0, 1.0, 1.0]])
golden = {"torch": torch.__version__, "cases": cases, "weights": emphasis.multipliers[0].tolist(), "before": emphasis.z[0].tolist()}
emphasis.after_transformers()
golden["after"] = emphasis.z[0].tolist()
path = Path(__file__).parent / "chunks.json"
path.write_text(json.dumps(golden, separators=(",", ":")).replace('{"prompt"', '\n{"prompt"') + "\n")
print(len(cases), "cases,", path.stat().st_size, "bytes,", max(len(c["ids"]) for c in cases), "chunks at most")
