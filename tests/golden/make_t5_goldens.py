#!/usr/bin/env python3
"""A tiny T5 tokenizer, and what transformers makes of texts with it: tests/golden/t5/, for tests/prompt.rs.

    python tests/golden/make_t5_goldens.py            # transformers 5.23, sentencepiece 0.2.3

The vocabulary is trained by SentencePiece as T5's was (Unigram, no start of text), with a handful of normalization rules
in place of T5's `nmt_nfkc`, whose compiled form alone would weigh 300 KB; `T5TokenizerFast` makes `tokenizer.json` of it.
Writes that folder without `spiece.model`, and cases.json: what `padding="max_length", truncation=True` gives.
"""
import itertools
import json
import tempfile
from pathlib import Path

import sentencepiece
import transformers

COLOURS = "red green blue yellow white black orange purple pink gray".split()
SHAPES = "circle square triangle star heart ring cross diamond".split()
RULES = {"ﬁ": "fi", "\u00a0": " ", "\u3000": " ", "\t": " ", "\n": " ", "e\u0301": "é", "①": "1", "…": "...", "Ａ": "A", "\u200b": ""}
TEXTS = [
    "",
    " ",
    "a red circle",
    "  a   red\tcircle \n",
    "A RED CIRCLE, a small star.",
    "caf\u00e9 and cafe\u0301",
    "\ufb01ne\u00a0white\u3000ring\u2026 \u2460",
    "ze\u200bro width",
    "日本語 and 😀 emoji",
    "unknown: \u2603\u2603 \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "left▁of the underscore",
    "a </s> inside, <pad> and <extra_id_0>",
    "(weights:1.3) [and] brackets\\",
    "a green star left of a white ring on a black background, a blue square above an orange cross on a pink background",
]

folder = Path(__file__).parent / "t5"
sentences = [f"a {a} {s} left of a {b} {t} on the background, (and) [or] the: small. large! caf\u00e9 fi 0123456789 zeXYZ..."
             for a, b, s, t in itertools.product(COLOURS[:6], COLOURS, SHAPES[:4], SHAPES)]
with tempfile.TemporaryDirectory() as scratch:
    rules = "".join(f"{' '.join(f'{ord(c):X}' for c in a)}\t{' '.join(f'{ord(c):X}' for c in b)}\n" for a, b in RULES.items())
    Path(scratch, "rules.tsv").write_text(rules)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_prefix=f"{scratch}/spiece", vocab_size=120, model_type="unigram",
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, normalization_rule_tsv=f"{scratch}/rules.tsv", num_threads=1, hard_vocab_limit=False,
        minloglevel=2)
    tokenizer = transformers.T5TokenizerFast.from_pretrained(scratch, vocab_file=f"{scratch}/spiece.model", extra_ids=3)
tokenizer.save_pretrained(folder)

tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
cases = []
for text, max_length in itertools.product(TEXTS, (4, 24)):
    tokens = tokenizer(text, padding="max_length", max_length=max_length, truncation=True, add_special_tokens=True)
    count = len(tokenizer(text)["input_ids"])
    cases.append({"text": text, "max_length": max_length, "count": count, "input_ids": tokens["input_ids"]})
golden = {"transformers": transformers.__version__, "class": type(tokenizer).__name__, "cases": cases}
(folder / "cases.json").write_text(json.dumps(golden, separators=(",", ":")).replace('{"text"', '\n{"text"') + "\n")
print({path.name: path.stat().st_size for path in folder.iterdir()})
