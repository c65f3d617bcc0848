#!/usr/bin/env python3
"""optimum-onnx: diffusers' pipeline over ONNX Runtime, on the graphs that nightshift runs."""
import onnxruntime
from optimum.onnxruntime import ORTStableDiffusionPipeline

import pipelines
import worker


def load(job):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    return pipelines.maker(ORTStableDiffusionPipeline.from_pretrained(job["model"], session_options=options))


if __name__ == "__main__":
    worker.main(load, ("optimum-onnx", "optimum", "onnxruntime", "torch", "diffusers", "transformers"))
