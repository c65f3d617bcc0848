#!/usr/bin/env python3
"""The machine's own rate: 2048³ matrix products in float32, by torch and by ONNX Runtime, in GFLOP/s.

    python benches/matmul.py THREADS
"""
import json
import sys
import time

import numpy as np
import onnx
import onnxruntime
import torch

SIDE, TIMES = 2048, 15


def rate(multiply):
    """The median over TIMES products."""
    multiply()
    taken = []
    for _ in range(TIMES):
        began = time.perf_counter()
        multiply()
        taken.append(time.perf_counter() - began)
    return 2 * SIDE**3 / float(np.median(taken)) / 1e9


def graph():
    value = lambda name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [SIDE, SIDE])
    body = onnx.helper.make_graph([onnx.helper.make_node("MatMul", ["a", "b"], ["c"])], "product", [value("a"), value("b")],
                                  [value("c")])
    return onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)


def main():
    threads = int(sys.argv[1])
    torch.set_num_threads(threads)
    a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(graph().SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {"a": a.numpy(), "b": b.numpy()}
    print(json.dumps({"torch": rate(lambda: a @ b), "onnxruntime": rate(lambda: session.run(None, feeds))}))


if __name__ == "__main__":
    main()
