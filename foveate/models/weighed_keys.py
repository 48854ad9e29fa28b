"""An attention module whose flash kernel counts keys by their sizes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from foveate.errors import UnsupportedModeError
from foveate.models.attention import Kernel, Probe
from foveate.models.key_sizes import PARTS, sizes_of, widened

WIDEST = 256  # columns that flash kernels take


class WeighedKeys(Probe):
    """Lets an attention module count keys by the sizes that come with its mask.

    To be put on before other probes of the module: they read q and k as the model made them.
    """

    def read(self, query: Tensor, key: Tensor, mask: Any, **settings: Any) -> None:
        """Nothing."""

    def attend(
        self,
        kernel: Kernel,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Any,
        *args: Any,
        **settings: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attention by a kernel, with wider q and k where sizes come with the mask.

        Raises:
            UnsupportedModeError: the model caps its logits, or its heads leave no room.
        """
        sizes = sizes_of(mask)
        if sizes is None:
            return kernel(self.module, query, key, value, mask, *args, **settings)
        sizes.num_read += 1
        dim = query.shape[-1]
        if settings.get("softcap") is not None:
            raise UnsupportedModeError(
                "sizes='log' adds log(size) to attention logits behind their soft cap, and a flash "
                "kernel caps last; load the model with attn_implementation='eager', or use "
                "sizes='ignore'."
            )
        if dim + PARTS > WIDEST:
            raise UnsupportedModeError(
                f"sizes='log' takes {PARTS} more columns of q and k in a flash kernel, which has "
                f"{WIDEST} for the {dim} of this model; load it with attn_implementation='sdpa' or "
                "'eager', or use sizes='ignore'."
            )
        scaling = settings.get("scaling")
        settings["scaling"] = scaling = dim**-0.5 if scaling is None else scaling
        query, key = widened(query, key, sizes.log_sizes, scaling)
        return kernel(
            self.module, query, key, value, mask if sizes.is_needed else None, *args, **settings
        )
