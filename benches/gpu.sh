#!/usr/bin/env bash
# nightshift against PyTorch on the GPU of this machine, as one table; also appended to the GPU section of benches/RESULTS.md.
#
#     benches/gpu.sh                 Stable Diffusion 1.5 (512², 20 steps) and XL (1024², 20 steps), random weights, guidance
#     benches/gpu.sh --tiny          the same way on the processor with the model that ships: shows that the script works
#     benches/gpu.sh --dry-run       says what it would do
#
# Needs a Python with torch (for CUDA), diffusers, transformers and what onnx/requirements.txt names: PYTHON=… says which.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
WORK=${WORK:-target/bench-gpu}
for flag in "$@"; do
    case "$flag" in
        --tiny | --dry-run) ;;
        *) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
done
if [[ " $* " != *" --tiny "* && " $* " != *" --dry-run "* ]]; then
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
    make setup ORT=gpu PYTHON="$PYTHON"
fi
if [[ " $* " != *" --dry-run "* && -z "${NIGHTSHIFT:-}" ]]; then
    cargo build --release --locked
fi
exec "$PYTHON" benches/gpu.py --binary "${NIGHTSHIFT:-target/release/nightshift}" --work "$WORK" "$@"
