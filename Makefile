# make run and make test need Python >= 3.11 and make; everything else goes into .venv.
# PYTHON chooses the interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WHEEL := .venv-wheel
PIP := -m pip install --quiet --disable-pip-version-check -c constraints.txt
SOURCES := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help run test test-all lint types wheel bench dev clean

help: ## list the verbs
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

run: $(VENV)/.run ## export the reference model and profile it into out/
	@mkdir -p out
	$(BIN)/odedeploy export mnist-odenet --tol 1e-2 --budget 60 -o out/mnist-odenet.onnx
	$(BIN)/odedeploy profile mnist-odenet --tol 1e-1 --tol 1e-2 --tol 1e-3 \
		--target cpu --target cpu-1t --samples 640 --budget 30 -o out/profile
	@echo "The trade-off plot is out/profile/pareto.png, the report out/profile/report.html."

test: lint types ## lint, type-check and run the tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile -m "not slow"

test-all: lint types ## the same with the slow tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile

lint: $(VENV)/.dev ## ruff, and the floors by import-linter
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(VENV)/.dev ## mypy, strict
	$(BIN)/mypy

wheel: $(VENV)/.dev ## build sdist and wheel, and test the wheel in an environment of its own
	rm -rf build dist $(WHEEL)
	$(BIN)/python -m build
	$(BIN)/python -m venv $(WHEEL)
	wheel=$$(ls "$$PWD"/dist/*.whl) && $(WHEEL)/bin/python $(PIP) "$$wheel[export,cpu,dev]"
	$(WHEEL)/bin/pytest -m "not slow"

bench: $(VENV)/.dev ## run every benchmark
	@set -e; for file in benchmarks/*.py; do echo "$$file"; $(BIN)/python "$$file"; done

dev: $(VENV)/.dev ## an editable install with all tools, and a look at the links
	@$(BIN)/pytest -q tests/test_house.py
	@echo "Ready: . $(BIN)/activate"

clean: ## remove what the verbs made
	rm -rf $(VENV) $(WHEEL) build dist out *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("odedeploy \
	needs Python 3.11 or later, $(PYTHON) is %d.%d; make PYTHON=python3.12." % v[:2])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(SOURCES) | $(BIN)/python
	$(BIN)/python $(PIP) -e '.[export,cpu]'
	@touch $@

$(VENV)/.dev: $(SOURCES) | $(BIN)/python
	$(BIN)/python $(PIP) -e '.[export,cpu,dev,libraries,openvino,executorch,litert]'
	$(BIN)/python $(PIP) --no-deps torchdyn torchcfm # they ask for torchvision and notebooks
	@touch $@ $(VENV)/.run
