# Burnish: everything a person or CI runs. `make help` lists it.
SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := feedback serve training ui deploy
UV ?= uv
# Where `make lock` may look for wheels beside pip's sources, e.g. LOCK_FLAGS="--find-links /some/folder".
LOCK_FLAGS ?=
TRL_PPO := .cache/trl-1.12.0/trl/__init__.py
LITELLM := .cache/litellm-1.109.1/bin/litellm
export VENV

.DEFAULT_GOAL := help
.PHONY: help setup up demo bench-dpo bench-reward bench-ppo bench-hh bench-sequential bench-lora bench-mixed bench-swap bench-gateway learn test test-quick docs check-answers check-streams fuzz browser check format lock screenshots clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Make the environment from the lock file (BURNISH_EXTRA=gpu for GPU machines)
	@sh deploy/setup.sh

up: setup ## Set everything up and run it; Ctrl-C stops it
	@exec $(BIN)/burnish up

demo: setup ## Let a simulated user teach a running Burnish (start it with `make up` first)
	@$(BIN)/python -m tests.demo

bench-dpo: setup ## Measure DPO against TRL (about half an hour; the machine is to be idle)
	@$(BIN)/python -m tests.bench.dpo $(ARGS)

bench-reward: setup ## Measure reward models against TRL (about half an hour; the machine is to be idle)
	@$(BIN)/python -m tests.bench.reward $(ARGS)

bench-ppo: setup $(TRL_PPO) ## Measure PPO against TRL 1.12, the last with it (about 40 minutes; the machine is to be idle)
	@$(BIN)/python -m tests.bench.ppo $(ARGS)

# Beside the environment, whose own TRL has no PPO any more; every other package is that of the environment.
$(TRL_PPO):
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(dir $(@D)) trl==1.12.0

bench-hh: setup ## Measure reward models on hh_harmless (hours; ARGS="--minutes 30", run again to go on)
	@$(BIN)/python -m tests.bench.hh_harmless $(ARGS)

bench-sequential: setup ## Measure how often a canary is wrongly promoted, and how soon a better one is found (a minute)
	@$(BIN)/python -m tests.bench.sequential $(ARGS)

bench-lora: setup ## Measure what an adapter costs on the CPU (about 15 minutes; the machine is to be idle)
	@$(BIN)/python -m tests.bench.lora $(ARGS)

bench-mixed: setup ## Compare batches of base and adapters with batches of one of them (about 15 minutes)
	@$(BIN)/python -m tests.bench.mixed $(ARGS)

bench-swap: setup ## Measure swaps under running streams (about 15 minutes; the machine is to be idle)
	@$(BIN)/python -m tests.bench.swap $(ARGS)

bench-gateway: setup $(LITELLM) ## Measure the gateway against LiteLLM's proxy (a quarter of an hour; the machine is to be idle)
	@$(BIN)/python -m tests.bench.gateway $(ARGS)

# An environment of its own. Where an index lacks what its newest needs ask for, those of an earlier release serve it.
$(LITELLM):
	@$(BIN)/python -m venv $(dir $(@D))
	@$(@D)/pip install --quiet --disable-pip-version-check "litellm[proxy]<=1.109.1" httptools
	@$(@D)/pip install --quiet --disable-pip-version-check --no-deps litellm==1.109.1
	@touch $@

learn: setup ## Measure what each recipe learns from 96 votes (hours; ARGS="--minutes 30", run again to go on)
	@$(BIN)/python -m tests.bench.learn $(ARGS)

test: setup browser ## Set up what the tests need and run them all
	@$(BIN)/python -m pytest $(ARGS)

test-quick: setup ## The tests that need neither the engine nor a browser
	@$(BIN)/python -m pytest -m "not engine and not browser and not slow" $(ARGS)

check-answers: setup ## 500 greedy answers: the gateway's against the engine's own (some ten minutes)
	@$(BIN)/python -m tests.bench.same_answers $(ARGS)

check-streams: setup ## 1,000 streams, cut networks included, through a strict checker of the event format
	@$(BIN)/python -m tests.bench.check_streams $(ARGS)

fuzz: setup ## 5,000 and more requests drawn from openapi.json and 20,000 mutated bodies
	@$(BIN)/python -m tests.bench.fuzz $(ARGS)

docs: setup ## Write docs/fields.md and tests/serve/openapi.json anew from the code
	@$(BIN)/python -m serve.requests.field_docs
	@$(BIN)/python -m tests.serve.openapi_file

browser:
	@sh deploy/browser.sh

check: setup ## Lint, format check, types, and who may import whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy --strict $(SOURCES)
	@$(BIN)/python -m pytest -q tests/test_layout.py

format: setup ## Format the code and mend what the linter can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

screenshots: setup browser ## Take the README's screenshots from a running Burnish
	@$(BIN)/python -m tests.screenshots

lock: ## Resolve the lock files anew (needs uv)
	$(UV) pip compile pyproject.toml --extra cpu --extra dev --universal --python-version 3.11 --no-header --no-annotate \
	    --upgrade $(LOCK_FLAGS) -o deploy/lock/cpu.txt
	$(UV) pip compile pyproject.toml --extra gpu --extra dev --universal --python-version 3.11 --no-header --no-annotate \
	    --upgrade -o deploy/lock/gpu.txt

clean: ## Remove the environment and the caches (not your data in .burnish)
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
