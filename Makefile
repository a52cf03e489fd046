# `make demo`: install, read posts in four languages with the bundled model, with and without their images.
# `make probe`: install, train the synthetic probe on CPU: a test that images are used.
# `make model DATA=FOLDER TEXT_MODEL=FOLDER VISION_MODEL=FOLDER`: train models/2m-ner-small from the raw sets; resumes.
# `make test`: install, check format, lint and types, run the offline tests.
# `make test-lowest`: install the lowest versions that setup.cfg allows, run the fast tests of the model.
# `make test-common`: fetch the source of transformers and run its own common model tests over ours.
# All install from a package index into .venv (test-lowest: .venv-lowest), again only when the dependencies change.
# The tests themselves run offline.

.DEFAULT_GOAL := help
.PHONY: help demo probe model test test-common test-lowest clean

# The first Python >= 3.11 on the path; `make PYTHON=/path/to/python ...` chooses another.
PYTHON ?= $(firstword $(foreach name,python3 python3.11 python3.12 python3.13 python3.14,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

help:
	@sed -n 's/^# `\(make [a-z-]*\)`: /\1  /p' Makefile

demo: $(INSTALLED)
	$(BIN)/python -m mmner.demo

probe: $(INSTALLED)
	$(BIN)/python run_mmner.py recipes/probe.yaml --output_dir outputs/probe

model: $(INSTALLED)
	DATA=$(DATA) $(BIN)/python -m dataset_script mix recipes/mixtures/small.yaml --output_dir outputs/small-mixture
	$(BIN)/python run_mmner.py recipes/small.yaml --text_model $(TEXT_MODEL) --vision_model $(VISION_MODEL) \
		--dataset outputs/small-mixture --image_feature_store outputs/small-images --output_dir outputs/small \
		--resume_from_checkpoint auto
	$(BIN)/python -m mmner.results.release outputs/small models/2m-ner-small
	DATA=$(DATA) $(BIN)/python benchmarks/accuracy/peers.py models/2m-ner-small
	$(BIN)/python -m mmner.results.release models/2m-ner-small models/2m-ner-small

test: $(INSTALLED)
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

FAST := tests/test_crf_2mner.py tests/test_alignment_2mner.py tests/test_modeling_2mner.py tests/test_pipeline_2mner.py
LOWEST := .venv-lowest
test-lowest: $(LOWEST)/.installed
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -q -n 2 $(FAST)

$(LOWEST)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(LOWEST)
	sed -n 's/^    \([A-Za-z0-9_-]*\)>=\([0-9.]*\).*/\1==\2/p' setup.cfg | sort -u > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/lowest.txt torch==2.13.0 \
		--editable '.[train,data,dev]'
	@touch $@

# The common tests come with the source distribution alone. Their markers are not ours, hence no addopts.
SOURCE := $(VENV)/transformers-source
test-common: $(SOURCE)/PKG-INFO
	TRANSFORMERS_SOURCE=$(SOURCE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -o addopts= -W ignore \
		tests/test_transformers_common.py

$(SOURCE)/PKG-INFO: $(INSTALLED)
	rm -rf $(SOURCE) && mkdir -p $(SOURCE)
	$(BIN)/python -m pip download --quiet --no-deps --no-binary transformers --dest $(SOURCE) \
		"$$($(BIN)/python -m pip freeze | grep '^transformers==')"
	tar xzmf $(SOURCE)/transformers-*.tar.gz -C $(SOURCE) --strip-components 1

clean:
	rm -rf $(VENV) $(LOWEST) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 on the path. Install one, or: make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0 --editable '.[train,data,onnx,search,serve,lora,tensorboard,dev]'
	@touch $@
