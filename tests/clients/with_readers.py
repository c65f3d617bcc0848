"""Programs that read the parameters in a picture: sd-parsers, sd-geninfo, and A1111's own way to take them apart."""
import json
import re

import PIL.Image
import sd_parsers
from sd_geninfo.sd_geninfo import read_geninfo

import expect

# `re_param_code` of AUTOMATIC1111's modules/infotext_utils.py, 1.10.
SETTING = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def check(files, wanted):
    """`files`: key → file of its picture."""
    manager = sd_parsers.ParserManager()
    # All are kept: sd-parsers 0.6 remembers what it read last by the image's id(), and gives it again for another image to which Python
    # gives the same (`_jpeg_usercomment.py`).
    images = []
    for key, path in files.items():
        values = wanted[key].values()
        with PIL.Image.open(path) as image:
            images.append(image)
            text, _ = read_geninfo(image)
            info = manager.parse(image)
        expect.true(f"{path}: sd-geninfo finds nothing", text)
        prompt, negative, settings = a1111(text)
        settings_are(key, values, settings)
        expect.equal(f"{key}: prompt", prompt, lines_of(values["text"]))
        expect.equal(f"{key}: negative prompt", negative, lines_of(values["negative_prompt"]))
        expect.true(f"{path}: sd-parsers finds nothing", info)
        expect.equal(f"{key}: generator", info.generator.value, "AUTOMATIC1111")
        expect.equal(f"{key}: samplers", len(info.samplers), 1)
        sampler = info.samplers[0]
        expect.equal(f"{key}: prompt", [str(prompt) for prompt in sampler.prompts], [values["text"]])
        wanted_negative = [values["negative_prompt"]] if values["negative_prompt"] else []
        expect.equal(f"{key}: negative prompt", [str(prompt) for prompt in sampler.negative_prompts], wanted_negative)
        expect.equal(f"{key}: sampler", sampler.name, "Euler")
        found = [sampler.parameters[name] for name in ["steps", "cfg_scale", "seed"]] + [info.metadata["Size"]]
        expect.equal(f"{key}: parameters", found, [settings[name] for name in ["Steps", "CFG scale", "Seed", "Size"]])
        expect.equal(f"{key}: model", sampler.model.name, "null")
    yield f"sd-parsers, sd-geninfo and A1111's expression: {len(files)} pictures"


def settings_are(key, values, settings):
    steps, size = str(values["num_inference_steps"]), f"{values['width']}x{values['height']}"
    wanted = {"Steps": steps, "Sampler": "Euler", "CFG scale": "3", "Size": size}
    expect.equal(f"{key}: settings", {name: settings.get(name) for name in wanted}, wanted)
    if "seed" in values:
        # The picture has the seed itself, the table what of it fits into 64 bits with a sign.
        expect.equal(f"{key}: seed", int(settings["Seed"]), values["seed"] % 2**64)


def a1111(text):
    """`parse_generation_parameters`, as far as it is about prompts and settings."""
    *lines, last = text.strip().split("\n")
    prompt, negative, is_negative = [], [], False
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            is_negative, line = True, line[len("Negative prompt:"):].strip()
        (negative if is_negative else prompt).append(line)
    unquoted = lambda value: json.loads(value) if value.startswith('"') else value
    return "\n".join(prompt), "\n".join(negative), {name: unquoted(value) for name, value in SETTING.findall(last)}


def lines_of(text):
    """A text as A1111 gives it back: each line without blanks around it."""
    return "\n".join(line.strip() for line in text.split("\n"))
