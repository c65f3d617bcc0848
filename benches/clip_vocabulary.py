"""CLIP's own tokenizer, from the merges that the package `open_clip_torch` ships.

The package itself is not imported: only its list is read.
"""
import gzip

import transformers

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
SIZE = 49408


def characters():
    """The 256 characters that stand for bytes, in CLIP's order: printable bytes first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = len(set(range(256)) - set(printable))
    return [chr(code) for code in printable] + [chr(256 + i) for i in range(others)]


def tokenizer(folder):
    """transformers' `CLIPTokenizer` with the ids that every CLIP has; `folder` is where the package was installed."""
    with gzip.open(folder / "open_clip/bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    letters = characters()
    merges = [tuple(line.split()) for line in lines[1:SIZE - 2 * len(letters) - 2 + 1]]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(a + b for a, b in merges), BOS, EOS]
    assert len(tokens) == SIZE, len(tokens)
    return transformers.CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)}, merges=merges, bos_token=BOS, eos_token=EOS,
        unk_token=EOS, pad_token=EOS, model_max_length=77)
