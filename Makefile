# Thin targets over the `bench` command; `make help` lists them. Options: BACKEND, QUICK=1, FULL=1,
# FORCE=1, JOBS, SEED, LENGTHS=FILE, ARTIFACTS, PYTHON (3.11 or newer); for containers RUNNER=docker,
# DEVICE=cpu|cuda, BUILD_ARGS="NAME=VALUE ..." (docs/containers.md); for a cluster RAY=ADDRESS
# (docs/cluster.md).

PYTHON    ?= python3
VENV      ?= .venv
ARTIFACTS ?= artifacts
BACKEND   ?= auto

# What to install: where models are executed or kernels measured, PyTorch too. Containers bring it,
# and to build or pack their images nothing else is needed.
MODELS = $(filter cpu cuda,$(BACKEND))$(filter fig18 fig18-a,$(MAKECMDGOALS))$(shell command -v nvidia-smi)
OTHERS = $(filter-out images bundle bundle-check,$(or $(MAKECMDGOALS),help))
INSIDE = $(filter docker,$(RUNNER))$(if $(OTHERS),,yes)
WHAT  := $(if $(INSIDE),base,$(if $(MODELS),models,base))
BENCH := $(VENV)/bin/bench
STAMP := $(VENV)/.installed-$(WHAT)
TRACES = $(if $(QUICK),--quick) $(if $(FULL),--full)
FLAGS  = --artifacts $(ARTIFACTS) --backend $(BACKEND) $(TRACES) \
         $(if $(SEED),--seed $(SEED)) $(if $(LENGTHS),--lengths $(LENGTHS))
WORK   = $(if $(JOBS),--jobs $(JOBS))
PLACE  = $(WORK) $(if $(RUNNER),--runner $(RUNNER)) $(BUILD) $(ON_RAY)
ON_RAY = $(if $(RAY),--ray $(RAY))
BUILD  = $(foreach argument,$(BUILD_ARGS),--build-arg $(argument))
IMAGES = $(if $(DEVICE),--device $(DEVICE)) $(BUILD)
RUN    = $(FLAGS) $(PLACE) $(if $(FORCE),--force)
# Ray is installed where it is asked for, unless some version of it is there.
GET_RAY = $(if $(RAY),@$(VENV)/bin/python -c 'import ray' 2>/dev/null || \
          $(VENV)/bin/python -m pip install --quiet --editable ".[ray]")

.DEFAULT_GOAL := help
.PHONY: help install install-test doctor all-main all report capacity reference test benchmark \
        benchmark-models gpu-check gpu-point images lock bundle bundle-check clean always

help:  ## this list, with the figures, their times and hardware
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## */make \1\t/' | expand -t 23
	@echo "make figN              one figure, or a part of it by its name: fig12, fig12-13b, fig14-beam, ..."
	@if [ -x $(BENCH) ]; then $(BENCH) figures; else echo "'make install' first shows the figures here"; fi

install: $(STAMP)  ## make the environment in .venv

$(STAMP): pyproject.toml tools/install.sh
	@PYTHON="$(PYTHON)" sh tools/install.sh $(VENV) $(WHAT)

install-test:
	@PYTHON="$(PYTHON)" sh tools/install.sh $(VENV) test

doctor: $(STAMP)  ## what this machine can run, and how to fix what it cannot
	@$(BENCH) doctor --artifacts $(ARTIFACTS)

all-main: $(STAMP)  ## the paper's main comparison (Fig. 12 with OPT-13B, Fig. 14) and the report
	$(GET_RAY)
	@$(BENCH) figure all-main $(RUN)
	@$(BENCH) report $(FLAGS)

all: $(STAMP)  ## every figure that can run, and the report
	$(GET_RAY)
	@$(BENCH) figure all $(RUN)
	@$(BENCH) report $(FLAGS)

# Any name of the registry: `bench figures` lists them, and a wrong one is told the nearest.
fig%: $(STAMP) always
	$(GET_RAY)
	@$(BENCH) figure $@ $(RUN)

always:

report: $(STAMP)  ## hold all results against the paper's numbers
	@$(BENCH) report $(FLAGS)

capacity: $(STAMP)  ## sustained rates by bisection over three seeds, for the report's ratios
	$(GET_RAY)
	@$(BENCH) capacity --figure all --artifacts $(ARTIFACTS) $(TRACES) $(PLACE)

reference: $(STAMP)  ## run everything and renew artifacts/reference/sim, to compare others' runs with
	$(GET_RAY)
	@$(BENCH) reference --renew --artifacts $(ARTIFACTS) $(WORK) $(ON_RAY)
	@$(BENCH) reference --renew --quick --artifacts $(ARTIFACTS) $(WORK) $(ON_RAY)
	@$(VENV)/bin/python -m tools.readme

test: install-test  ## install what the tests need and run them, linters first
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/pytest -n 2 --dist loadfile -m "not alone"
	@$(VENV)/bin/pytest -m alone

benchmark: $(STAMP)  ## host time of the engine, with its limits
	@$(VENV)/bin/python -m benchmarks.engine

GPU_CHECK = $(if $(wildcard $(VENV)/bin/python),$(VENV)/bin/python,$(PYTHON)) -m benchmarks.gpu_check \
            $(if $(LIBRARY),--library $(LIBRARY)) --out $(or $(OUT),$(ARTIFACTS)/$@)

gpu-check:  ## check and time everything that needs a GPU: ONLY=, SKIP="PART ...", LIBRARY=FILE
	@$(GPU_CHECK) $(if $(ONLY),--only $(ONLY)) $(if $(SKIP),--skip $(SKIP))

gpu-point:  ## one point of Fig. 12 on the GPU, and the simulation's error there
	@$(GPU_CHECK) --only library profile point --duration 120 --systems astra orca-oracle

benchmark-models: install-test  ## tokens/s on the CPU: ours, transformers, CTranslate2
	@$(VENV)/bin/python -m pip install --quiet --editable ".[benchmark]"
	@$(VENV)/bin/python -m benchmarks.models

images: $(STAMP)  ## build the systems' container images that are missing or stale
	@$(BENCH) images $(IMAGES)

lock: install  ## renew the images' lock files and Dockerfiles
	@$(VENV)/bin/python -m pip install --quiet --editable ".[lock]"
	@PATH="$(VENV)/bin:$$PATH" $(VENV)/bin/python -m tools.lock

bundle: $(STAMP)  ## archive images, locks, results and sources for a repository, with checksums
	@$(BENCH) bundle --artifacts $(ARTIFACTS) $(IMAGES)

bundle-check: $(STAMP)  ## prove that the bundle is whole and runs without a network
	@$(BENCH) bundle --check --artifacts $(ARTIFACTS)

clean:  ## remove results, figures and report (the environment and references stay)
	rm -rf $(ARTIFACTS)/results $(ARTIFACTS)/kernels $(ARTIFACTS)/figures $(ARTIFACTS)/report
