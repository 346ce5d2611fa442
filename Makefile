PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: help demo serve test test-slow check format bench finder model figures clean

help: ## show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F '\t' '{ printf "  make %-10s %s\n", $$1, $$2 }'

.venv/installed: pyproject.toml constraints.txt
	@echo "creating the environment in .venv (several GB with PyTorch; once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(INSTALL) --editable '.[openvino,pretrained]'
	@touch $@

.venv/installed-dev: .venv/installed
	@$(INSTALL) --editable '.[dev]'
	@touch $@

demo: .venv/installed ## classify drawn demo slides with the shipped bundle and say where the report is
	@$(BIN)/python pipelines/demo.py --out demo

serve: .venv/installed ## answer on http://127.0.0.1:8000 (the page, and /docs for programs)
	@$(BIN)/python serve/run.py

test: .venv/installed-dev ## run all tests
	@$(BIN)/python -m pytest

test-slow: .venv/installed-dev ## run the tests that take longer
	@$(BIN)/python -m pytest -m slow

check: .venv/installed-dev ## lint, types, architecture
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports --no-cache

format: .venv/installed-dev ## format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: .venv/installed-dev ## measure speed and memory on your images: make bench DATA=folder
	@$(BIN)/python benchmarks/batch.py $(or $(DATA),demo/slides)
	@$(BIN)/python benchmarks/training.py $(or $(DATA),demo/slides)

SHARED := $(or $(DATA),../shared/data)

finder: .venv/installed ## train a finder to ship, on models/finder.yaml, into models/with-finder
	@$(BIN)/python pipelines/train_finder.py models/finder.yaml --start models/blood-cells --out models/with-finder --anew

model: .venv/installed ## train a bundle to ship, on models/laboratories.yaml, into models/new
	@$(BIN)/python pipelines/train.py models/laboratories.yaml --out models/new --recipe robust --weights imagenet --samples 0 \
		--finder models/blood-cells --in-turn barcelona
	@$(BIN)/python pipelines/export.py models/new --engine openvino

figures: .venv/installed ## measure the shipped bundle anew and write its card and the README's table
	@rm -rf runs/figures
	@$(BIN)/python tools/figures.py $(SHARED) --out runs/figures

clean: ## remove what demo and tests made; the environment stays
	rm -rf demo .pytest_cache .ruff_cache
