"""AngelSlim's token_compressor on a LLaVA of transformers: its own adapter, maps and strategies.

https://github.com/Tencent/AngelSlim, Apache-2.0. Its wheel leaves these folders out, so it comes as
a clone, from which nothing is copied.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from foveate.errors import InputError

COMMIT = "67394ce55f6b6cfae702575fbc3c7a05c13fdd74"
PACKAGE = "angelslim.compressor.token_compressor"
GET = f"git clone https://github.com/Tencent/AngelSlim .rival && git -C .rival checkout {COMMIT}"


class AngelSlim:
    """A clone of AngelSlim.

    Args:
        source: the clone's folder.

    Raises:
        InputError: there is none.
    """

    def __init__(self, source: Path) -> None:
        self._configs = source / "configs" / "llava" / "pruning"
        if not (source / "angelslim" / "compressor" / "token_compressor").is_dir():
            raise InputError(
                f"{source} holds no AngelSlim with a token_compressor; get it by `{GET}`, then "
                "give --source .rival."
            )
        # Its own __init__ imports quantisation, Ray and lm-eval, none of which are needed.
        package = types.ModuleType("angelslim")
        package.__path__ = [str((source / "angelslim").resolve())]
        sys.modules["angelslim"] = package
        from importlib import import_module

        self._adapter = import_module(f"{PACKAGE}.adapter").UniversalPruningAdapter
        self._config = import_module(f"{PACKAGE}.base.config").TokenCompressorConfig
        _accept_newer_transformers(import_module(f"{PACKAGE}.models.llava"))

    @contextmanager
    def attached(self, model: Any, strategy: str, *, drop: float) -> Iterator[None]:
        """One of its LLaVA configurations on a model, with that share of visual tokens dropped."""
        path = self._configs / f"{strategy}_r0.75.yaml"
        parts = yaml.safe_load(path.read_text(encoding="utf-8"))["model_mapping"]
        for part in parts:
            # transformers has no vision_model inside the tower any more.
            part["path"] = part["path"].replace("vision_tower.vision_model", "vision_tower")
        config = self._config.from_yaml(str(path))
        for stage in config.strategies.values():
            stage.params["ratio"] = drop
        adapter = self._adapter(model, config, parts)
        adapter.wrap_model()
        try:
            yield
        finally:
            adapter.unwrap_model()


def _accept_newer_transformers(module: Any) -> None:
    """It calls create_causal_mask by argument names that transformers has changed since."""
    create = module.create_causal_mask

    def create_causal_mask(*, input_embeds: Any, cache_position: Any, **others: Any) -> Any:
        return create(inputs_embeds=input_embeds, **others)

    module.create_causal_mask = create_causal_mask
