"""Merged tokens that count as often as they were made of tokens: where that can be kept.

The bias log(size) goes on the logits of a key, in every layer from the step that merges on: in the
mask, which is made for what is left of the keys anyway, or, where a flash kernel takes no such
mask, in columns of q and k of its own (models.key_sizes).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from foveate.carve.method import Step
from foveate.errors import UnsupportedModelError
from foveate.models.anatomy import Anatomy
from foveate.models.family import Cut
from foveate.models.key_sizes import KeySizes
from foveate.models.masks import check_adding


def check_sizes(steps: Sequence[Step], anatomy: Anatomy, cut: Cut) -> None:
    """Hold a model to what sizes='log' needs.

    Args:
        steps: of a run.
        anatomy: of its model.
        cut: where tokens leave.

    Raises:
        UnsupportedModelError: its decoder makes its own masks, or some layer from the first step
            that counts on has no mask of its own keys.
        UnsupportedModeError: nothing can be added to the logits of its attention kernel.
    """
    counting = counting_layers(steps, anatomy)
    if not counting:
        return
    title = anatomy.family.title
    if cut == "before_llm":
        raise UnsupportedModelError(
            f"sizes='log' adds log(size) to masks, and {title} loses visual tokens before its "
            "decoder, which makes its own; use sizes='ignore'."
        )
    if any(getattr(anatomy.text_config, "kv_sharing_modes", None) or ()):
        raise UnsupportedModelError(
            f"sizes='log' adds log(size) to the keys of merged tokens, and layers of {title} reuse "
            "keys of layers where these were not merged yet; use sizes='ignore'."
        )
    for index in counting:
        if anatomy.is_stateful(index):
            raise UnsupportedModelError(
                f"sizes='log' adds log(size) to attention logits, and layer {index} of {title} "
                "keeps a state instead of keys; use sizes='ignore'."
            )
        if getattr(anatomy.attention_of(index), "indexer", None) is not None:
            raise UnsupportedModelError(
                f"sizes='log' adds log(size) to attention logits, and layer {index} of {title} "
                "chooses the keys it looks at by an indexer, which would not see them; use "
                "sizes='ignore'."
            )
    check_adding(str(anatomy.text_config._attn_implementation))


def counting_layers(steps: Iterable[Step], anatomy: Anatomy) -> range:
    """Layers that merged tokens count in by their sizes: from the first step that asks for it."""
    asking = [step.layer for step in steps if step.method.sizes == "log"]
    return range(min(asking, default=len(anatomy.layers)), len(anatomy.layers))


def weighed_row(row: Tensor, log_sizes: Tensor) -> Tensor:
    """A row of attention as it is where keys count by their sizes: softmax(l + log n).

    Args:
        row: [B, H, L], softmax over the keys that count.
        log_sizes: [B, L] float32.
    """
    row = row * log_sizes.exp()[:, None].to(row.device)
    return row / row.sum(dim=-1, keepdim=True)


def check_counted(mask_sizes: Iterable[KeySizes], anatomy: Anatomy) -> None:
    """After a pass: every layer that was given sizes has attended with them.

    Raises:
        UnsupportedModelError: one has not, so its merged tokens counted once.
    """
    if any(sizes.num_read < sizes.num_asked for sizes in mask_sizes):
        raise UnsupportedModelError(
            f"sizes='log' is counted on the way to the flash kernel, and layers of "
            f"{anatomy.family.title} do not pass their mask through transformers' attention "
            "interface; load the model with attn_implementation='sdpa' or 'eager', or use "
            "sizes='ignore'."
        )
