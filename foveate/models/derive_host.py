"""Models around a language model of their own: where it is, and how the host shows images to it."""

from __future__ import annotations

import ast
import inspect
from typing import Any

from torch import nn

from foveate.errors import UnsupportedModelError
from foveate.models.class_source import is_self, tree_of
from foveate.models.family import Host

# Endings of a decoder's argument that is True where images stand, and its argument with them.
_MASK_ENDINGS = ("_position_mask",)
_FEATURES = "image_embeds"
# Where configurations say how many tokens an image, or a frame of a video, becomes.
_UNITS = ("num_query_tokens", "latent_query_num")


def refusal(model: nn.Module, why: str) -> UnsupportedModelError:
    """The error that says why a model cannot be carved."""
    config: Any = model.config
    return UnsupportedModelError(
        f"{type(model).__name__} ({config.model_type}) cannot be carved: {why}. `foveate models` "
        "lists what can."
    )


def host_of(model: nn.Module, decoder: nn.Module) -> Host | None:
    """How a model shows images to the language model inside it; None for models of one piece.

    Args:
        model: a vision-language model.
        decoder: the module in it that holds `.layers`.

    Raises:
        UnsupportedModelError: the decoder is not inside the part that generates.
    """
    generates = part_that_generates(model)
    mask = _mask_argument(decoder)
    if generates is None and mask is None:
        return None
    base = next((name for name, module in model.named_modules() if module is decoder), "")
    if generates is not None and not base.startswith(f"{generates}."):
        raise refusal(
            model, f"its generate() runs {generates}.generate(), and its decoder is elsewhere"
        )
    config: Any = model.config
    unit = next((name for name in _UNITS if isinstance(getattr(config, name, None), int)), "")
    return Host(
        generates=generates or "",
        base=base,
        mask=mask or "",
        features=_FEATURES if mask else "",
        unit=unit,
    )


def check_language_model(model: nn.Module) -> None:
    """Refuse language models that read their prompt by cross-attention, as T5 does.

    Raises:
        UnsupportedModelError: the part that generates is an encoder with a decoder.
    """
    generates = part_that_generates(model)
    part: Any = getattr(model, generates) if generates is not None else None
    if getattr(getattr(part, "config", None), "is_encoder_decoder", False):
        raise refusal(
            model,
            f"its language model {type(part).__name__} is an encoder with a decoder that reads it "
            "by cross-attention",
        )


def part_that_generates(model: nn.Module) -> str | None:
    """The part whose `generate` a model's own runs, past the model's forward; None for none."""
    method = getattr(type(model), "generate", None)
    for node in ast.walk(tree_of(method)) if method is not None else ():
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner = node.func.value
        is_part = isinstance(owner, ast.Attribute) and is_self(owner.value)
        if node.func.attr == "generate" and is_part and isinstance(owner, ast.Attribute):
            return owner.attr
    return None


def puts_features_in_front(model: nn.Module) -> bool:
    """Whether a model's base lengthens its text by features of images, for which no token stands.

    GIT does: `torch.cat((visual_features, text), dim=1)`, between its embeddings and its layers.
    """
    base = getattr(model, "base_model", model)
    for node in ast.walk(tree_of(getattr(type(base), "forward", None))):
        if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.cat" and node.args):
            continue
        joined = node.args[0]
        if isinstance(joined, (ast.Tuple, ast.List)) and joined.elts:
            first = ast.unparse(joined.elts[0])
            if "features" in first and ("visual" in first or "image" in first):
                return True
    return False


def _mask_argument(decoder: nn.Module) -> str | None:
    """The argument of a decoder that marks images among its tokens, beside their features."""
    takes = inspect.signature(type(decoder).forward).parameters
    if _FEATURES not in takes:
        return None
    return next((name for name in takes if name.endswith(_MASK_ENDINGS)), None)
