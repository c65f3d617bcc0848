#!/usr/bin/env python3
"""What A1111 reads in prompts: tests/golden/attention.json, for tests/prompt.rs.

    python tests/golden/make_attention_goldens.py WEBUI    # stable-diffusion-webui 1.10; needs lark

`WEBUI` is a checkout of https://github.com/AUTOMATIC1111/stable-diffusion-webui, whose `modules/prompt_parser.py` is
imported as it is. (The stored data were made with the two parsers of that file copied out of it by hand, not with a whole
checkout.) Prompts are strung together at random of everything that has a meaning. A case is the prompt and either
`construct` (its schedule parser finds editing or alternation, or `AND` splits it), or `crash`, or `segments`.
"""
import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(sys.argv[1], "modules")))
import prompt_parser  # noqa: E402

PIECES = (["(", ")", "[", "]", ":", "|", "\\", " ", ",", "\n"] * 3
          + ["a", "red cat", "日本", "é", "3", "0.5", "-1", ".", "1.2.3", ":1.2.3)", ":1.3)", ": 0.8 )", "(b:1.2)", "[c]", "((d))",
             "BREAK", " BREAK ", "BREAKFAST", "AND", " and ", "\\(", "\\)", "\\[", "\\]", "\\\\", "_", "1e3"])
rng = random.Random(5)


def constructs(prompt):
    found = ["AND"] if prompt_parser.re_AND.search(prompt) else []
    try:
        tree = prompt_parser.schedule_parser.parse(prompt)
    except prompt_parser.lark.exceptions.LarkError:
        return found
    return found + sorted({str(node.data) for node in tree.iter_subtrees() if node.data in ("scheduled", "alternate")})


def case(prompt):
    if found := constructs(prompt):
        return {"prompt": prompt, "construct": found}
    try:
        return {"prompt": prompt, "segments": prompt_parser.parse_prompt_attention(prompt)}
    except ValueError:
        return {"prompt": prompt, "crash": True}


prompts = {"".join(rng.choices(PIECES, k=rng.randint(1, 12))) for _ in range(800)}
text = json.dumps([case(prompt) for prompt in sorted(prompts)], separators=(",", ":"), ensure_ascii=False)
path = Path(__file__).parent / "attention.json"
path.write_text(text.replace('{"prompt"', '\n{"prompt"') + "\n")
print(len(prompts), "prompts,", path.stat().st_size, "bytes")
