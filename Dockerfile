# nightshift on NVIDIA GPUs. Needs the NVIDIA Container Toolkit on the host:
#
#     docker build -t nightshift .
#     docker run --rm --gpus all -v "$PWD:/work" nightshift run jobs/demo.csv --model MODEL --out out --device cuda
#
# Written for a driver that runs CUDA 13 (580 or newer). Nobody has built or run this image yet: see docs/gpu-servers.md.
ARG CUDA=13.0.1
FROM rust:1.92-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked

FROM python:3.11-slim-bookworm AS onnxruntime
COPY scripts/fetch_onnxruntime.py /
RUN python3 /fetch_onnxruntime.py --gpu --dest /ort

FROM nvidia/cuda:${CUDA}-cudnn-runtime-ubuntu24.04
COPY --from=build /src/target/release/nightshift /usr/local/bin/
# Beside the executable, where nightshift looks first.
COPY --from=onnxruntime /ort/ /usr/local/bin/
# The TensorRT provider needs more, from NVIDIA's own packages: libnvinfer10 and libnvonnxparsers10 for CUDA 13.
ARG TENSORRT=
RUN if [ -n "$TENSORRT" ]; then apt-get update \
    && apt-get install -y --no-install-recommends libnvinfer10="$TENSORRT" libnvonnxparsers10="$TENSORRT" \
    && rm -rf /var/lib/apt/lists/*; fi
WORKDIR /work
ENTRYPOINT ["nightshift"]
CMD ["doctor"]
