"""What must hold before the first token is dropped, or a wrong answer could come of it.

Nothing here is asked of a pass that keeps everything.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from foveate.carve.engine.cache_kinds import check_carvable, check_without_cache
from foveate.carve.engine.call import Call
from foveate.carve.engine.setting import Setting
from foveate.errors import UnsupportedModeError, UnsupportedModelError
from foveate.models.anatomy import Anatomy
from foveate.models.layer_kinds import check_layer_kinds


def check_model(setting: Setting, call: Call, cache: Any, index: int) -> None:
    """Kinds of layers and of their caches, and places that layers count themselves.

    Args:
        setting: of the run.
        call: whose tokens are to be dropped.
        cache: that the layer is given, None for none.
        index: of the layer before which they are.

    Raises:
        UnsupportedModelError: a kind of layer that foveate does not know.
        UnsupportedModeError: a kind of cache, or a prompt too long for how places are counted.
    """
    check_layer_kinds(setting.layers)
    if cache is not None:
        check_carvable(cache)
    elif call.cache is not None:
        raise UnsupportedModelError(
            "the decoder's layers are not given the KV cache under a name that foveate knows, so "
            f"it cannot be carved at layer {index}; attach a method that decides before the model."
        )
    else:
        check_without_cache(setting.anatomy.text_config)
    _check_counted_places(setting, call, index)


def _check_counted_places(setting: Setting, call: Call, index: int) -> None:
    """Llama 4 scales queries by how many tokens stand before them, counted in the layer itself."""
    for i in sorted(setting.layers.counting):
        attention: Any = setting.layers.attentions[i]
        if i < index or attention.use_rope:
            continue
        reach = getattr(attention, "floor_scale", 0)
        if call.past + call.length >= reach:
            raise UnsupportedModeError(
                f"layer {i} scales attention by the place of a token, which it counts itself, and "
                f"dropped tokens would be missing from its count; prompts shorter than "
                f"{int(reach)} tokens are not scaled, this one has {call.past + call.length}."
            )


def check_tokens(call: Call, index: int, hidden: Tensor, num_left: int) -> None:
    """The layer must be given one row of hidden states for each token that is left.

    Args:
        call: whose tokens are to be dropped.
        index: of the layer before which they are.
        hidden: [B, L, D].
        num_left: how many tokens a row should have.
    """
    if tuple(hidden.shape[:2]) != (call.batch, num_left):
        raise UnsupportedModeError(
            f"layer {index} runs on {hidden.shape[1]} of the {num_left} tokens of each row, so "
            "none can be dropped before it; choose an earlier layer."
        )


def check_nothing_added(anatomy: Anatomy, changed: list[int]) -> None:
    """Features that the model adds between layers would fall on the wrong tokens.

    Args:
        changed: layers whose input was not the output of the one before.
    """
    if changed:
        raise UnsupportedModelError(
            f"{anatomy.family.title} changes hidden states between layers {changed[0] - 1} and "
            f"{changed[0]}, probably by adding visual features there, and foveate took tokens to "
            f"be free to drop from layer {anatomy.family.first_layer(anatomy.config)} on. The "
            "family's first_layer is too low."
        )
