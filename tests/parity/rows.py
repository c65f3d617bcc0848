"""The rows that make_parity.py compares: what is asked of each family, by which task and scheduler."""

KARRAS = {"use_karras_sigmas": True}
SDE = {"algorithm_type": "sde-dpmsolver++"}
# nightshift's names, and the diffusers class and fields that each means.
SCHEDULERS = {
    "ddim": ("DDIMScheduler", {}), "ddpm": ("DDPMScheduler", {}), "pndm": ("PNDMScheduler", {}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True}), "lms": ("LMSDiscreteScheduler", {}),
    "lms_karras": ("LMSDiscreteScheduler", KARRAS), "euler": ("EulerDiscreteScheduler", {}),
    "euler_karras": ("EulerDiscreteScheduler", KARRAS), "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}), "heun_karras": ("HeunDiscreteScheduler", KARRAS),
    "dpm2": ("KDPM2DiscreteScheduler", {}), "dpm2_karras": ("KDPM2DiscreteScheduler", KARRAS),
    "dpm2_a": ("KDPM2AncestralDiscreteScheduler", {}), "dpm2_a_karras": ("KDPM2AncestralDiscreteScheduler", KARRAS),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}), "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", KARRAS),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", SDE),
    "dpmpp_2m_sde_karras": ("DPMSolverMultistepScheduler", {**SDE, **KARRAS}),
    "dpmpp_2s": ("DPMSolverSinglestepScheduler", {}), "dpmpp_2s_karras": ("DPMSolverSinglestepScheduler", KARRAS),
    "unipc": ("UniPCMultistepScheduler", {}), "unipc_karras": ("UniPCMultistepScheduler", KARRAS),
    "deis": ("DEISMultistepScheduler", {}), "deis_karras": ("DEISMultistepScheduler", KARRAS),
    "lcm": ("LCMScheduler", {}), "tcd": ("TCDScheduler", {}), "edm_euler": ("EDMEulerScheduler", {}),
    "edm_dpmpp_2m": ("EDMDPMSolverMultistepScheduler", {}), "flow_euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "flow_heun": ("FlowMatchHeunDiscreteScheduler", {}),
}
# What a user of diffusers sets, and nightshift by itself, to sample a model of flow matching by an algorithm that is not for
# flow matching alone; `flow_shift` is the model's `shift`.
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
PLAIN = [name for name in SCHEDULERS if not name.startswith("flow")]

COLUMNS = (
    "id", "prompt", "negative_prompt", "prompt_2", "negative_prompt_2", "prompt_3", "negative_prompt_3", "seed",
    "num_inference_steps", "guidance_scale", "guidance_rescale", "eta", "width", "height", "scheduler", "image",
    "mask_image", "strength", "clip_skip", "original_size", "crops_coords_top_left", "target_size", "aesthetic_score",
    "negative_aesthetic_score", "image_guidance_scale")

SD = "StableDiffusion"
PIPELINES = {
    "sd15": {"text": f"{SD}Pipeline", "img2img": f"{SD}Img2ImgPipeline", "inpaint": f"{SD}InpaintPipeline"},
    "sd21v": {"text": f"{SD}Pipeline", "img2img": f"{SD}Img2ImgPipeline"},
    "sdxl": {"text": f"{SD}XLPipeline", "img2img": f"{SD}XLImg2ImgPipeline", "inpaint": f"{SD}XLInpaintPipeline"},
    "sdxl-refiner": {"img2img": f"{SD}XLImg2ImgPipeline"},
    "turbo": {"text": f"{SD}XLPipeline", "img2img": f"{SD}XLImg2ImgPipeline"},
    "lcm": {"text": "LatentConsistencyModelPipeline", "img2img": "LatentConsistencyModelImg2ImgPipeline"},
    "inpaint9": {"inpaint": f"{SD}InpaintPipeline"},
    "ip2p": {"edit": f"{SD}InstructPix2PixPipeline"},
    "sd3": {"text": f"{SD}3Pipeline", "img2img": f"{SD}3Img2ImgPipeline"},
    "sd3-no-t5": {"text": f"{SD}3Pipeline"},
    "flux": {"text": "FluxPipeline", "img2img": "FluxImg2ImgPipeline"},
    "flux-schnell": {"text": "FluxPipeline"},
}

PROMPTS = (
    "a small red heart above a yellow ring", "an oil painting of a ship in a storm, dramatic light",
    "a large green triangle on a white background", "the cat's hat, they're sitting", "a purple star left of an orange square")
NEGATIVE = ("", "blurry, low quality", "", "a yellow ring", "watermark")
START = {"image": "pictures/square.png"}
MASK = {"image": "pictures/square.png", "mask_image": "pictures/square_mask.png"}
SIZE = {"width": 64, "height": 64}


class Rows:
    """Rows with ids, prompts and seeds that differ from row to row."""

    def __init__(self, guidance=7.5, steps=8, negative=True):
        self.made, self.guidance, self.steps, self.negative = [], guidance, steps, negative

    def add(self, task, scheduler="", note="", **cells):
        i = len(self.made)
        base = {"id": f"r{i:02}-{task}-{scheduler or 'own'}", "prompt": PROMPTS[i % 5], "seed": 100 + 7 * i,
                "negative_prompt": NEGATIVE[i % 5] if self.negative else "", "num_inference_steps": self.steps + i % 3,
                "guidance_scale": self.guidance, "scheduler": scheduler, "note": note}
        if task == "text":
            base.update(SIZE)
        self.made.append(({**base, **cells}, task))

    def text(self, *schedulers, **cells):
        for scheduler in schedulers:
            self.add("text", scheduler, **cells)

    def img2img(self, *schedulers, **cells):
        for i, scheduler in enumerate(schedulers):
            self.add("img2img", scheduler, **{**START, "strength": (0.6, 0.35, 0.8)[i % 3], **cells})

    def inpaint(self, *schedulers, **cells):
        for i, scheduler in enumerate(schedulers):
            self.add("inpaint", scheduler, **{**MASK, **SIZE, "strength": (1.0, 0.6, 0.85)[i % 3], **cells})


def sd15():
    r = Rows()
    r.text("", *PLAIN)
    r.text("euler", note="one step", num_inference_steps=1)
    r.text("dpmpp_2m", note="without guidance", guidance_scale=1.0)
    r.text("euler_a", note="wide", width=128)
    r.text("ddim", note="eta 0.5", eta=0.5)
    r.text("ddim", note="eta 1", eta=1.0)
    r.text("euler", note="guidance_rescale 0.7", guidance_rescale=0.7)
    r.text("dpmpp_2m_karras", note="clip_skip 1", clip_skip=1)
    r.text("ddim", note="clip_skip 2", clip_skip=2)
    r.text("euler", note="100 tokens", prompt=" ".join(PROMPTS))
    r.img2img("", "ddim", "ddpm", "euler", "euler_a", "heun", "lms", "dpm2_a", "dpmpp_2m_karras", "dpmpp_2m_sde", "dpmpp_2s",
              "unipc", "deis", "lcm", "tcd")
    r.img2img("euler", note="wide", image="pictures/wide.png")
    r.img2img("ddim", note="strength 1", strength=1.0)
    r.inpaint("", "ddim", "euler", "euler_a", "dpmpp_2m", "dpmpp_2m_karras", "heun", "unipc")
    r.inpaint("ddim", note="wide", image="pictures/wide.png", mask_image="pictures/wide_mask.png", width=128)
    return r.made


def sd21v():
    r = Rows()
    r.text("", "ddpm", "pndm", "lms", "euler", "euler_karras", "euler_a", "heun", "dpm2", "dpmpp_2m", "dpmpp_2m_karras",
           "dpmpp_2m_sde", "dpmpp_2s", "unipc", "deis", "tcd")
    r.text("ddim", note="guidance_rescale 0.7", guidance_rescale=0.7)
    r.text("euler", note="clip_skip 1", clip_skip=1)
    r.img2img("", "euler", "euler_a", "dpmpp_2m_karras", "unipc")
    return r.made


def sdxl():
    r = Rows(guidance=5.0)
    r.text("", "ddim", "euler_a", "euler_karras", "heun", "lms", "dpm2_a", "dpmpp_2m", "dpmpp_2m_karras", "dpmpp_2m_sde",
           "dpmpp_2s", "unipc", "deis", "pndm", "lcm", "tcd")
    r.text("euler", note="no negative prompt: zeros", negative_prompt="")
    r.text("euler", note="without guidance", guidance_scale=1.0)
    r.text("euler", note="wide", width=96)
    r.text("dpmpp_2m", note="prompt_2", prompt_2=PROMPTS[3], negative_prompt_2="blurry")
    r.text("ddim", note="guidance_rescale 0.7", guidance_rescale=0.7)
    r.text("euler", note="clip_skip 1", clip_skip=1)
    r.text("euler", note="sizes", original_size="1024x768", crops_coords_top_left="16x32", target_size="96x64")
    r.img2img("", "ddim", "euler_a", "dpmpp_2m_karras", "dpmpp_2m_sde", "unipc")
    r.img2img("euler", note="prompt_2 and sizes", prompt_2=PROMPTS[1], original_size="640x480",
              crops_coords_top_left="8x4", target_size="64x64")
    r.inpaint("", "ddim", "euler_a", "dpmpp_2m_karras")
    return r.made


def sdxl_refiner():
    r = Rows(guidance=5.0)
    r.img2img("", "ddim", "euler_a", "dpmpp_2m_karras", "unipc")
    r.img2img("euler", note="aesthetic scores", aesthetic_score=7.5, negative_aesthetic_score=1.0)
    r.img2img("euler", note="sizes", original_size="640x480", crops_coords_top_left="8x4")
    r.img2img("euler", note="strength 0.3", strength=0.3)
    return r.made


def turbo():
    r = Rows(guidance=0.0, steps=1, negative=False)
    r.text("", "", "", "euler", "lcm", "dpmpp_2m", "ddim")
    r.text("", note="4 steps", num_inference_steps=4)
    r.img2img("", "", "", num_inference_steps=4)
    return r.made


def lcm():
    r = Rows(guidance=8.5, steps=4, negative=False)
    r.text("", "", "lcm")
    r.text("", note="guidance 1", guidance_scale=1.0)
    r.text("", note="guidance 4", guidance_scale=4.0)
    r.img2img("", "", "")
    return r.made


def inpaint9():
    r = Rows()
    r.inpaint("", "ddim", "euler", "euler_a", "dpmpp_2m_karras", "unipc")
    r.inpaint("ddim", note="wide", image="pictures/wide.png", mask_image="pictures/wide_mask.png", width=128)
    return r.made


def ip2p():
    r = Rows()
    for i, scheduler in enumerate(("", "ddim", "euler", "dpmpp_2m_karras", "pndm", "heun")):
        r.add("edit", scheduler, image="pictures/square.png", image_guidance_scale=(1.5, 1.2, 2.0)[i % 3])
    r.add("edit", "euler", note="wide", image="pictures/wide.png", image_guidance_scale=1.5)
    r.add("edit", "euler", note="without guidance", guidance_scale=1.0, image_guidance_scale=1.5, **START)
    return r.made


def sd3():
    r = Rows(guidance=5.0)
    r.text("", "", "flow_euler", "flow_heun")
    r.text("", note="wide", width=96)
    r.text("", note="without guidance", guidance_scale=1.0)
    r.text("", note="prompt_2 and prompt_3", prompt_2=PROMPTS[1], prompt_3=PROMPTS[3], negative_prompt="blurry",
           negative_prompt_2="gray", negative_prompt_3="watermark")
    r.text("", note="clip_skip 1", clip_skip=1)
    r.img2img("", "", "")
    r.text("dpmpp_2m", "unipc", "deis")
    return r.made


def sd3_no_t5():
    r = Rows(guidance=5.0)
    r.text("", "", "flow_heun")
    return r.made


def flux():
    r = Rows(guidance=3.5, steps=5, negative=False)
    r.text("", "", "flow_euler")
    r.text("", note="wide", width=96)
    r.text("", note="guidance 1", guidance_scale=1.0)
    r.text("", note="prompt_2", prompt_2=PROMPTS[3])
    r.img2img("", "", "", **SIZE)
    r.text("dpmpp_2m", "unipc", "deis")
    return r.made


def flux_schnell():
    r = Rows(guidance=0.0, steps=2, negative=False)
    r.text("", "", "flow_euler")
    r.text("", note="wide", width=96)
    return r.made


MAKERS = {
    "sd15": sd15, "sd21v": sd21v, "sdxl": sdxl, "sdxl-refiner": sdxl_refiner, "turbo": turbo, "lcm": lcm,
    "inpaint9": inpaint9, "ip2p": ip2p, "sd3": sd3, "sd3-no-t5": sd3_no_t5, "flux": flux, "flux-schnell": flux_schnell,
}


def rows(family):
    """All rows of the table, each with its task."""
    return MAKERS[family]()


# Turbo is XL with another scheduler.
GOLDEN = ("sd15", "sd21v", "sdxl", "sdxl-refiner", "lcm", "inpaint9", "ip2p", "sd3", "flux", "flux-schnell")


def golden_rows(family):
    """The first row of each task, and of the first task another with a further scheduler."""
    chosen, seen = [], {}
    for row, task in rows(family):
        seen[task] = seen.get(task, 0) + 1
        if seen[task] == 1 or (seen[task] == 3 and len(seen) == 1):
            chosen.append((row, task))
    return chosen
