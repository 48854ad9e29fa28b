"""What a run reads off a call of `generate`, and the ways of running a model that it refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from foveate.errors import UnsupportedModeError


def num_prompts(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int | None:
    """Rows that a call of `generate` was given."""
    given = [given_ids(args, kwargs), kwargs.get("inputs_embeds")]
    return next((len(tokens) for tokens in given if isinstance(tokens, Tensor)), None)


def given_ids(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The prompt's token ids in a call of `generate`."""
    given = [args[0] if args else None, *map(kwargs.get, ("inputs", "input_ids"))]
    return next((tokens for tokens in given if isinstance(tokens, Tensor)), None)


def refuse_chunks(model: Any, kwargs: Mapping[str, Any]) -> None:
    """A prompt that comes in chunks is selected from before it is all there.

    Raises:
        UnsupportedModeError: a call of `generate` asks for chunks, itself or by configuration.
    """
    for config in (kwargs.get("generation_config"), model.generation_config):
        chunk = getattr(config, "prefill_chunk_size", None)
        chunk = kwargs.get("prefill_chunk_size", chunk)
        if chunk is not None:
            raise UnsupportedModeError(
                f"prefill_chunk_size={chunk} splits the prompt before the question is seen, so "
                "visual tokens cannot be scored; leave it unset (a carved prefill is shorter "
                "anyway)."
            )


def refuse_compiled(module: nn.Module) -> None:
    """Hooks inside a compiled model would be compiled away, or into it.

    Raises:
        UnsupportedModeError: it is compiled, by torch.compile or in place.
    """
    is_compiled = isinstance(module, getattr(torch._dynamo.eval_frame, "OptimizedModule", ()))
    if is_compiled or getattr(module, "_compiled_call_impl", None) is not None:
        raise UnsupportedModeError(
            f"{type(module).__name__} is compiled, and a compiled model cannot be hooked; pass the "
            "model itself, uncompiled (or take off what model.compile() put on: "
            "model._compiled_call_impl = None)."
        )


def refuse_continuous_batching(method: Callable[..., Any]) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise UnsupportedModeError(
            "continuous batching (generate_batch) packs prompts into a paged cache and takes token "
            "ids without images, so nothing can be carved; use generate with a batch, or foveate's "
            "vLLM plugin."
        )

    return refuse
