"""AngelSlim's token_compressor on a LLaVA of transformers: its own adapter, maps and strategies.

https://github.com/Tencent/AngelSlim, Apache-2.0. Its wheel leaves these folders out, so it comes as
a clone, from which nothing is copied.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from foveate.errors import InputError

COMMIT = "67394ce55f6b6cfae702575fbc3c7a05c13fdd74"
PACKAGE = "angelslim.compressor.token_compressor"
GET = f"git clone https://github.com/Tencent/AngelSlim .rival && git -C .rival checkout {COMMIT}"


class AngelSlim:
    """A clone of AngelSlim.

    Args:
        source: the clone's folder.

    Attributes:
        kept: the masks of what stayed, [S] bool each, in the order of passes; clear it at will.

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
        # Their own __init__ import quantisation, Ray and lm-eval, none of which are needed.
        for name in ("angelslim", "angelslim.compressor"):
            package = types.ModuleType(name)
            package.__path__ = [str(source.resolve().joinpath(*name.split(".")))]
            sys.modules[name] = package
        from importlib import import_module

        self._adapter = import_module(f"{PACKAGE}.adapter").UniversalPruningAdapter
        self._config = import_module(f"{PACKAGE}.base.config").TokenCompressorConfig
        self._llava: Any = import_module(f"{PACKAGE}.models.llava")
        self.kept: list[Tensor] = []
        _accept_newer_transformers(self._llava)
        _record_masks(import_module(f"{PACKAGE}.utils.mask_utils"), self._llava, self.kept)

    @contextmanager
    def attached(
        self,
        model: Any,
        strategy: str,
        *,
        drop: float,
        cut: int | None = None,
        tower_layer: int | None = None,
        counts_on: bool = False,
    ) -> Iterator[None]:
        """One of its LLaVA configurations on a model.

        Args:
            drop: share of the visual tokens that goes.
            cut: first decoder layer that runs short, and the layer before it is read; None for what
                the configuration says.
            tower_layer: of the vision tower that is read; None likewise.
            counts_on: let decoded tokens count their positions on from the whole prompt's, as the
                tokens that stay have kept theirs. AngelSlim takes off what went before layer 0.
        """
        path = self._configs / f"{strategy}_r0.75.yaml"
        parts = yaml.safe_load(path.read_text(encoding="utf-8"))["model_mapping"]
        if not hasattr(model.base_model.vision_tower, "vision_model"):  # in newer transformers
            for part in parts:
                part["path"] = part["path"].replace("vision_tower.vision_model", "vision_tower")
        config = self._config.from_yaml(str(path))
        needs = config.requirements
        if cut is not None:
            (stage,) = config.strategies.values()
            stage.params["layer_idx"] = cut - 1
            config.strategies = {cut - 1: stage}
            needs.llm_q_layers, needs.llm_k_layers = (
                [cut - 1] * len(layers) for layers in (needs.llm_q_layers, needs.llm_k_layers)
            )
        for stage in config.strategies.values():
            stage.params["ratio"] = drop
            if tower_layer is not None:
                stage.params["layer_idx"] = tower_layer
                needs.vit_q_layers, needs.vit_k_layers = [tower_layer], [tower_layer]
        adapter = self._adapter(model, config, parts)
        adapter.wrap_model()
        compensate = self._llava.compensate_decoding_state
        if counts_on:
            self._llava.compensate_decoding_state = _as_they_are
        try:
            yield
        finally:
            self._llava.compensate_decoding_state = compensate
            adapter.unwrap_model()


def _accept_newer_transformers(module: Any) -> None:
    """It calls create_causal_mask by argument names that transformers has changed since."""
    create = module.create_causal_mask
    if "input_embeds" in signature(create).parameters:
        return

    def create_causal_mask(*, input_embeds: Any, cache_position: Any, **others: Any) -> Any:
        return create(inputs_embeds=input_embeds, **others)

    module.create_causal_mask = create_causal_mask


def _record_masks(masks: Any, llava: Any, kept: list[Tensor]) -> None:
    """Append every mask of what stays, [S] bool, to `kept`."""
    apply = masks.apply_pruning_mask

    def apply_pruning_mask(hidden_states: Any, keep_mask: Tensor, *args: Any, **named: Any) -> Any:
        kept.append(keep_mask)
        return apply(hidden_states, keep_mask, *args, **named)

    def by_name(*, keep_mask: Tensor, **named: Any) -> Any:
        kept.append(keep_mask)
        return apply(keep_mask=keep_mask, **named)

    llava.apply_pruning_mask = apply_pruning_mask
    masks.apply_pruning_mask = by_name  # merging calls it so


def _as_they_are(position_ids: Any, cache_position: Any, mask: Any, *_: Any) -> Any:
    return position_ids, cache_position, mask
