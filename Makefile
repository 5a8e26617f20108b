# Thin targets over the `bench` command; `make help` lists them. Options: BACKEND, QUICK=1, SHORT=1,
# FULL=1 (the default of the simulation, on GPUs the paper's hour-long traces),
# FORCE=1, JOBS, SEED, LENGTHS=FILE, ARTIFACTS, PYTHON (3.11 or newer); for containers RUNNER=docker,
# DEVICE=cpu|cuda, BUILD_ARGS="NAME=VALUE ..." (docs/containers.md); for a cluster RAY=ADDRESS
# (docs/cluster.md).

PYTHON    ?= python3
VENV      ?= .venv
ARTIFACTS ?= artifacts
BACKEND   ?= auto

# What a user may set reaches the shell in the environment, as it was written: a recipe names
# "$$ARTIFACTS", so that no space, quote, `$` or `;` in it means anything to make or to the shell.
OPTIONS = PYTHON VENV ARTIFACTS BACKEND JOBS SEED LENGTHS RUNNER DEVICE RAY OUT ONLY SKIP LIBRARY BUDGET
$(foreach name,$(OPTIONS),$(eval override $(name) := $$(value $(name))))
export $(OPTIONS)
ifdef BUILD_ARGS
override BUILD_ARGS := $(value BUILD_ARGS)
export BENCH_BUILD_ARGS = $(BUILD_ARGS)
endif
$(foreach name,VENV ARTIFACTS,$(if $(strip $($(name))),,$(error $(name) is empty: name a folder)))
# The goal of a figure, as one word of the shell.
define newline


endef
quoted = '$(subst $(newline),,$(subst ','\'',$1))'

# What to install: where models are executed or kernels measured, PyTorch too. Containers bring it,
# and to build or pack their images nothing else is needed.
MODELS = $(filter cpu cuda,$(BACKEND))$(filter fig18 fig18-a validate,$(MAKECMDGOALS))$(shell command -v nvidia-smi)
OTHERS = $(filter-out images bundle bundle-check,$(or $(MAKECMDGOALS),help))
INSIDE = $(filter docker,$(RUNNER))$(if $(OTHERS),,yes)
WHAT  := $(if $(INSIDE),base,$(if $(MODELS),models,base))
BENCH  = "$$VENV/bin/bench"
# A given option as one word, with its value however it begins; nothing if it is not given.
option = $${$1:+"--$2=$$$1"}
STORE  = --artifacts="$$ARTIFACTS"
TRACES = $(if $(QUICK),--quick) $(if $(SHORT),--short) $(if $(FULL),--full)
FLAGS  = $(STORE) --backend="$$BACKEND" $(TRACES) $(call option,SEED,seed) $(call option,LENGTHS,lengths)
WORK   = $(call option,JOBS,jobs) $(call option,RAY,ray)
PLACE  = $(WORK) $(call option,RUNNER,runner)
IMAGES = $(call option,DEVICE,device)
RUN    = $(FLAGS) $(PLACE) $(if $(FORCE),--force)
# The environment's Python where there is one, else the one named.
ANY_PYTHON = python="$$VENV/bin/python"; [ -x "$$python" ] || python=$${PYTHON:-python3}; "$$python"

.DEFAULT_GOAL := help
.PHONY: help install install-test doctor all-main all report reference test benchmark lines \
        benchmark-models gpu-check validate images lock bundle bundle-check clean ready on-ray always

help:  ## this list, with the figures, their times and hardware
	@grep -hE '^[a-z0-9-]+:.*##' $(call quoted,$(strip $(MAKEFILE_LIST))) | sed -E 's/^([a-z0-9-]+):.*## */make \1\t/' | expand -t 23
	@echo "make figN              one figure, or a part of it by its name: fig12, fig12-13b, fig14-beam, ..."
	@if [ -x $(BENCH) ]; then $(BENCH) figures; else echo "'make install' first shows the figures here"; fi

install:  ## make the environment in .venv, and compile the engine
	@sh tools/install.sh "$$VENV" $(WHAT) compile

ready:
	@sh tools/install.sh "$$VENV" $(WHAT)

install-test:
	@sh tools/install.sh "$$VENV" test

# Ray is installed where it is asked for, unless some version of it is there.
on-ray: ready
	$(if $(RAY),@"$$VENV/bin/python" -c 'import ray' 2>/dev/null || "$$VENV/bin/python" -m pip install --quiet --editable ".[ray]")

doctor: ready  ## what this machine can run, and how to fix what it cannot
	@$(BENCH) doctor $(STORE)

all-main: on-ray  ## the paper's main comparison (Fig. 12 with OPT-13B, Fig. 14) and the report
	@$(BENCH) figure all-main $(RUN)
	@$(BENCH) report $(FLAGS)

all: on-ray  ## every figure that can run, and the report
	@$(BENCH) figure all $(RUN)
	@$(BENCH) report $(FLAGS)

# Any name of the registry: `bench figures` lists them, and a wrong one is told the nearest.
fig%: on-ray always
	@$(BENCH) figure $(RUN) -- $(call quoted,$@)

always:

report: ready  ## hold all results against the paper's numbers
	@$(BENCH) report $(FLAGS)

reference: on-ray  ## run everything and renew artifacts/reference/sim, to compare others' runs with
	@$(BENCH) reference --renew $(STORE) $(WORK)
	@$(BENCH) reference --renew --quick $(STORE) $(WORK)
	@"$$VENV/bin/python" -m tools.readme

test: install-test  ## install what the tests need and run them, linters first
	@"$$VENV/bin/ruff" check .
	@"$$VENV/bin/ruff" format --check .
	@"$$VENV/bin/mypy"
	@"$$VENV/bin/pytest" -n 2 --dist loadfile -m "not alone"
	@"$$VENV/bin/pytest" -m alone

benchmark: ready  ## host time of the engine, with its limits
	@"$$VENV/bin/python" -m benchmarks.engine

lines: ready  ## lines of source by folder; of another checkout: python -m tools.lines DIR
	@"$$VENV/bin/python" -m tools.lines

# ONLY and SKIP are names of parts, split by the shell alone.
GPU_CHECK = set -f; $(ANY_PYTHON) -m benchmarks.gpu_check $(call option,LIBRARY,library) \
            --out="$${OUT:-$$ARTIFACTS/$@}"

gpu-check:  ## check and time everything that needs a GPU: ONLY=, SKIP="PART ...", LIBRARY=FILE
	@$(GPU_CHECK) $${ONLY:+--only $$ONLY} $${SKIP:+--skip $$SKIP}

validate: ready  ## hold the simulation against this device: DEVICE=cpu|cuda, BUDGET=MINUTES
	@$(BENCH) validate $(STORE) $(call option,DEVICE,device) $(call option,BUDGET,budget)

benchmark-models: install-test  ## tokens/s on the CPU: ours and other engines
	@"$$VENV/bin/python" -m pip install --quiet --editable ".[benchmark]"
	@"$$VENV/bin/python" -m benchmarks.models

images: ready  ## build the systems' container images that are missing or stale
	@$(BENCH) images $(IMAGES)

lock: ready  ## renew the images' lock files, SBOMs and Dockerfiles
	@"$$VENV/bin/python" -m pip install --quiet --editable ".[lock]"
	@PATH="$$VENV/bin:$$PATH" "$$VENV/bin/python" -m tools.lock

bundle: ready  ## archive images, locks, results and sources for a repository, with checksums
	@$(BENCH) bundle $(STORE) $(IMAGES)

bundle-check: ready  ## prove that the bundle is whole and runs without a network
	@$(BENCH) bundle --check $(STORE)

clean: ready  ## remove results, figures and report (the environment and references stay)
	@$(BENCH) clean --yes $(STORE)
