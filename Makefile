# Two commands do everything on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help setup run test lint nbval publish bench full sample clean

help: ## print this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "installing into $(VENV), which takes some minutes ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	touch $@

setup: $(VENV)/.ready ## make .venv and install the exact versions of constraints.txt

run: setup ## run the study live on the embedded sample, then name the HTML report to open
	$(BIN)/python -m emolib run --profile sample

test: setup lint ## lint, unit tests, nbval on the committed notebooks, the live sample run
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	$(MAKE) --no-print-directory nbval

lint: setup ## ruff over code and notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

nbval: setup ## recompute the committed notebooks and compare every output
	$(BIN)/python -m pytest --nbval notebooks -n 2 --dist loadfile

publish: setup ## re-execute the committed notebooks; rewrite figures, README, RESULTS (PROFILE=full: from its records)
	$(BIN)/python -m emolib publish $(if $(PROFILE),--profile $(PROFILE))

BENCH ?= sample
bench: setup ## measure encoding, fine-tuning and predict, all in one run (BENCH=mini or full for other encoders)
	$(BIN)/python tests/bench.py --profile $(BENCH)

full: setup ## record the study with OpenAI's CLIP on one GPU (not run yet); then: make publish PROFILE=full
	-$(BIN)/python -m emolib data
	$(BIN)/python -m emolib run --profile full --record

sample: setup ## make the embedded sample anew (not its encoder: data/sample/pretrain.py)
	$(BIN)/python data/sample/make.py

clean: ## delete runs and caches (records and figures stay)
	rm -rf runs data/cache .pytest_cache .ruff_cache notebooks/.ruff_cache .hypothesis
