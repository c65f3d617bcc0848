# nightshift: make demo, make test. Each target sets up what it needs.
PYTHON ?= python3
# cpu or gpu: which of ONNX Runtime's pinned wheels `setup` takes.
ORT ?= cpu
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
NIGHTSHIFT := $(TARGET_DIR)/release/nightshift
CARGO_FLAGS := --release --locked
# An environment of its own for the programs that load results.
CLIENTS := $(TARGET_DIR)/clients-venv
# And one for Snakemake and Kubernetes' schemas.
JOBS := $(TARGET_DIR)/jobs-venv
# And one for an S3 server.
BUCKETS := $(TARGET_DIR)/buckets-venv
# And ONNX Runtime for GPUs.
CUDA := $(TARGET_DIR)/cuda
# Such as `--kills 20 --seed 1`.
BUCKETS_FLAGS ?=
# Such as `--moments 7 --seed 1`.
CLIENTS_FLAGS ?=
# The benchmark's models, pictures and results, and the programs that it measures, each in an environment of its own.
BENCH := $(TARGET_DIR)/bench
# A Python that already has what benches/requirements.txt lists may stand for the first.
BENCH_PYTHON ?= $(BENCH)-venv/bin/python
# Such as `--cases C1,C2 --rounds 3`, or `--smoke`.
BENCH_FLAGS ?=

.PHONY: help setup build demo test check fmt clippy doc bench bench-others bench-contestants bench-pool bench-kernels torture clean-demo \
    clients test-clients jobs-tools test-jobs test-slurm test-report buckets-tools test-buckets \
    cuda-tools test-cuda

help: ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | column -t -s '|'

setup: ## fetch ONNX Runtime's shared library into .ort/ (ORT=gpu for the CUDA build)
	@$(PYTHON) scripts/fetch_onnxruntime.py --dest .ort $(if $(filter gpu,$(ORT)),--gpu)

build: ## build target/release/nightshift
	@cargo build $(CARGO_FLAGS)

demo: setup build ## make the pictures of jobs/demo.csv with the model that ships
	@$(NIGHTSHIFT) run jobs/demo.csv --model onnx/tiny-shapes --out out/demo \
	    --steps 20 --guidance-scale 4 --contact-sheet out/demo-contact-sheet.png

test: setup ## run all tests
	@cargo test $(CARGO_FLAGS)

clients: $(CLIENTS)/installed

$(CLIENTS)/installed: tests/clients/requirements.txt
	@rm -rf $(CLIENTS)
	@$(PYTHON) -m venv $(CLIENTS)
	@$(CLIENTS)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

test-clients: setup build clients ## load results with datasets, webdataset, pandas and readers of parameters
	@$(CLIENTS)/bin/python tests/clients/check_clients.py --binary $(NIGHTSHIFT) $(CLIENTS_FLAGS)

jobs-tools: $(JOBS)/installed

$(JOBS)/installed: tests/jobs/requirements.txt
	@rm -rf $(JOBS)
	@$(PYTHON) -m venv $(JOBS)
	@$(JOBS)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

test-jobs: setup build jobs-tools ## check what jobs/ shows with Snakemake, GNU parallel and Kubernetes' schemas
	@$(JOBS)/bin/python tests/jobs/check_jobs.py --binary $(NIGHTSHIFT)

buckets-tools: $(BUCKETS)/installed

$(BUCKETS)/installed: tests/buckets/requirements.txt
	@rm -rf $(BUCKETS)
	@$(PYTHON) -m venv $(BUCKETS)
	@$(BUCKETS)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

test-buckets: setup build buckets-tools ## output in a bucket, against an S3 server on this machine that fails now and then
	@$(BUCKETS)/bin/python tests/buckets/check_buckets.py --binary $(NIGHTSHIFT) $(BUCKETS_FLAGS)

cuda-tools:
	@$(PYTHON) scripts/fetch_onnxruntime.py --dest $(CUDA)/ort --gpu

test-cuda: setup build cuda-tools ## ONNX Runtime's real CUDA provider without a GPU: placement, options, recorded calls, lost devices
	@$(PYTHON) tests/cuda/check_cuda.py --binary $(NIGHTSHIFT) --ort $(CUDA)/ort

test-slurm: setup build ## take jobs/slurm through a night on a real Slurm of one machine (as root; packages slurm-wlm and munge)
	@$(PYTHON) tests/slurm/check_slurm.py --binary $(NIGHTSHIFT)

test-report: setup build ## open the pages of `nightshift report` and `trace` in headless Chromium (package chromium)
	@$(PYTHON) tests/report/check_report.py --binary $(NIGHTSHIFT)

check: setup fmt clippy doc test ## formatting, lints, docs and all tests: what CI runs

torture: setup ## the tests of crashes, kills and full disks in their full numbers (about half an hour)
	@TORTURE=1 cargo test $(CARGO_FLAGS) --test kills --test faulty_disk --test edits --test poison --test verify --test millions \
	    -- --test-threads 1 --nocapture

bench: bench-others bench-pool bench-kernels ## all benchmarks; benches/RESULTS.md (about an hour and 25 GB, a quiet machine)

bench-others: setup build bench-contestants $(BENCH)/sd15/made ## nightshift beside diffusers, optimum-onnx and stable-diffusion.cpp
	@cargo bench --locked --bench encode --no-run
	@$(BENCH_PYTHON) benches/bench.py --work $(BENCH) --binary $(NIGHTSHIFT) \
	    --optimum-python $(BENCH)-optimum-venv/bin/python --sdcpp-python $(BENCH)-sdcpp-venv/bin/python $(BENCH_FLAGS)

# One that cannot be installed is left out of the comparison; the report says so.
bench-contestants: $(if $(filter $(BENCH)-venv/bin/python,$(BENCH_PYTHON)),$(BENCH)-venv/installed)
	@$(MAKE) --no-print-directory $(BENCH)-optimum-venv/installed || echo "optimum-onnx cannot be installed here, left out"
	@$(MAKE) --no-print-directory $(BENCH)-sdcpp-venv/installed || echo "stable-diffusion.cpp cannot be built here, left out"

$(BENCH)-venv/installed: benches/requirements.txt onnx/requirements.txt
$(BENCH)-optimum-venv/installed: benches/requirements-optimum.txt
$(BENCH)-sdcpp-venv/installed: benches/requirements-sdcpp.txt

$(BENCH)-%/installed:
	@rm -rf $(@D)
	@$(PYTHON) -m venv $(@D)
	@CMAKE_ARGS=-DGGML_NATIVE=ON $(@D)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

$(BENCH)/vocabulary/installed: benches/requirements-vocabulary.txt | bench-contestants
	@rm -rf $(@D)
	@$(BENCH_PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --target $(@D) --requirement $<
	@touch $@

$(BENCH)/sd15/made: benches/make_sd15.py benches/ldm_names.py | $(BENCH)/vocabulary/installed
	@$(BENCH_PYTHON) benches/make_sd15.py $(BENCH)

bench-pool: setup ## the lane pool against fixed batches of the same rows, as ratios
	@cargo bench --locked --bench pool

bench-kernels: ## our own kernels alone, on one thread
	@cargo bench --locked --bench kernels

fmt:
	@cargo fmt --check

clippy:
	@cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings
	@cargo clippy $(CARGO_FLAGS) --no-default-features -- -D warnings

doc:
	@RUSTDOCFLAGS="-D warnings" cargo doc $(CARGO_FLAGS) --no-deps --document-private-items

clean-demo: ## forget the demo's pictures
	@rm -rf out/demo out/demo-contact-sheet.png
