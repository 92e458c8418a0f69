# Each target does all of its own set-up in .venv. With another Python: make test PYTHON=python3.12
#
# The plain torch wheel for Linux brings CUDA along. For the small CPU build:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export TOKENIZERS_PARALLELISM := false

.PHONY: help demo test test-slow test-versions test-integrations app card licences lint format clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

# requirements.txt only limits the versions here: the demo does without what training and tests need.
$(VENV)/.demo: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint requirements.txt torch transformers
	touch $@

$(VENV)/.dev: requirements.txt requirements-runtime.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	touch $@

demo: $(VENV)/.demo ## encode sentences, show what each costs: make demo TEXTS="one|two" or FILE=texts.txt
	HF_HUB_OFFLINE=1 $(BIN)/python examples/demo.py $(if $(TEXTS),--texts "$$TEXTS") $(if $(FILE),--file "$$FILE")

lint: $(VENV)/.dev ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint ## lint, then the fast tests
	HF_HUB_OFFLINE=1 PYTEST_TIMEOUT=900 $(BIN)/python -m pytest

test-slow: $(VENV)/.dev ## the tests that take minutes; that of the wheel downloads packages
	$(BIN)/python -m pytest -m slow

test-versions: ## the model code with the oldest and the newest torch and transformers, a .venvs/ each
	$(PYTHON) tests/versions.py

# An environment apart: langchain-huggingface holds huggingface_hub below a major version that is out.
$(VENV)-integrations/.done: requirements.txt requirements-app.txt requirements-runtime.txt requirements-integrations.txt
	$(PYTHON) -m venv $(VENV)-integrations
	$(VENV)-integrations/bin/python -m pip install --quiet --requirement requirements-integrations.txt
	! command -v npm >/dev/null || npm install --silent --ignore-scripts --prefix $(VENV)-integrations @huggingface/transformers@4
	touch $@

test-integrations: $(VENV)-integrations/.done ## LEAP in other libraries and transformers.js; the page in Chromium
	HF_HUB_OFFLINE=1 $(VENV)-integrations/bin/python -m pytest -m "integrations and not slow" \
		tests/project/test_integrations.py tests/project/test_corpora.py tests/eval/quality/test_eval_mteb_model.py tests/leap/page/test_page_browser.py

card: $(VENV)/.dev ## render the model card, docs/evidence.md and README's table from results/
	$(BIN)/python -m eval card

licences: $(VENV)/.dev ## list the licences of all packages in docs/licences.md; fails on one not accepted
	$(BIN)/pip-licenses --output-file=docs/licences.md

$(VENV)/.app: requirements.txt requirements-app.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements-app.txt
	touch $@

app: $(VENV)/.app ## the page to try LEAP on, at http://127.0.0.1:7860
	HF_HUB_OFFLINE=1 $(BIN)/python app.py

clean: ## remove the environments and caches
	rm -rf $(VENV) $(VENV)-integrations .venvs .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
