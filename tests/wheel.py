"""Tests that need the wheel of the embedded Vist's language model skip where it is missing."""

from __future__ import annotations

import pytest

from foveate.models.smollm2 import INSTALL, is_installed

needs_smollm2 = pytest.mark.skipif(
    not is_installed(),
    reason=f"the wheel of the embedded Vist's language model is not installed: {INSTALL}",
)
