"""In the place of a vision tower that needs timm, where timm is not installed: nothing.

A model with such a tower cannot be built without timm. Its decoder can be checked all the same,
with features given to it, so a tower that does nothing stands in while a twin is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import CONFIG_MAPPING, AutoModel, PreTrainedModel
from transformers.utils import is_timm_available

# Model types whose class is a wrapper of timm.
_KINDS = ("timm_wrapper", "gemma3n_vision")


class StandInTower(PreTrainedModel):
    """A tower without parameters, that cannot be called."""

    main_input_name = "pixel_values"
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("the vision tower needs timm, which is not installed")


@contextmanager
def timm_stood_in() -> Iterator[None]:
    """Meanwhile AutoModel makes a StandInTower of timm's configurations, unless timm is there."""
    mapping = AutoModel._model_mapping
    kinds = [kind for kind in _KINDS if kind in CONFIG_MAPPING and not is_timm_available()]
    # Registered ones are looked up before the library's own.
    registered: dict[Any, Any] = mapping._extra_content
    before = dict(registered)
    registered.update({CONFIG_MAPPING[kind]: StandInTower for kind in kinds})
    try:
        yield
    finally:
        registered.clear()
        registered.update(before)
