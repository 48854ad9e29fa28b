"""Reading ahead: text alone passes some layers, then looks at visual tokens that have not.

The decoder is run once more inside its own pass, without a cache, on what it was called with. Its
layers make ready what each of them needs (masks and rotary tables of its kind), the hooks before
them leave the rows of text alone, and before the layer that looks the visual tokens come in, in the
states of the step that asks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from foveate.carve.engine.call import Call
from foveate.carve.engine.counted import weighed_row
from foveate.carve.engine.layer_inputs import LayerInputs
from foveate.carve.engine.left import Left
from foveate.carve.engine.readers import Readers
from foveate.carve.engine.residual_streams import ResidualStreams
from foveate.carve.engine.setting import Setting
from foveate.core.layout import PAD, columns_of, kept_rows, last_valid, longest_row, sent
from foveate.errors import UnsupportedModelError
from foveate.models.attention import Enough
from foveate.models.cache_argument import NAMES as CACHES
from foveate.models.cache_argument import cache_in, with_cache
from foveate.models.masks import narrow_tokens


class Foresight:
    """One reading ahead.

    Args:
        setting: the run's parts.
        call: whose prompt it is.
        readers: which rows of it read.
        step: layer of the step that asks.
        hidden: [B, L, D] of its tokens as they enter that layer, residual streams side by side.
        left: which tokens these are; None for all.
    """

    def __init__(
        self,
        setting: Setting,
        call: Call,
        readers: Readers,
        step: int,
        hidden: Tensor,
        left: Left | None,
    ) -> None:
        self._anatomy = setting.anatomy
        self.layer = setting.foresight[step]
        self._recorder = setting.row_recorders[self.layer]
        self._one_query = setting.one_query[self.layer]
        self._call = call
        self._hidden = hidden
        self._left = left
        self._inputs = LayerInputs(
            kernel=str(setting.anatomy.text_config._attn_implementation),
            batch=call.batch,
            length=call.length,
            past=0,
            device=call.device,
        )
        counts = readers.text.sum(dim=1)
        self._has_filler = bool(counts.min() != counts.max())
        self._text = sent(kept_rows(readers.text, int(counts.max())), call.device)
        longest = longest_row(readers.visual)
        self._visual = sent(kept_rows(readers.visual, longest), call.device)
        self._last = sent(last_valid(readers.text)[:, None], call.device)
        self._streams: ResidualStreams | None = None
        self._row: Tensor | None = None

    def read(self, given: dict[str, Any]) -> Tensor:
        """[B, S] float32: attention of each prompt's last row of text over its visual tokens.

        Args:
            given: arguments of the decoder's call, by name.
        """
        decoder: Any = self._anatomy.decoder
        try:
            with torch.no_grad():
                # Past the hooks, this run's among them: for them the decoder runs already.
                decoder.forward(**self._given(given))
        except Enough:
            pass
        if self._row is None:
            raise UnsupportedModelError(
                f"the question cannot read ahead in {self._anatomy.family.title}: attention of "
                f"layer {self.layer} does not go through transformers' attention interface, where "
                "foveate reads it; use foresight=False (foveacarve)."
            )
        seen = self._visual != PAD
        row = self._row.mean(dim=1)[:, :-1].masked_fill(~seen.to(self._row.device), 0.0)
        read = row.new_zeros(self._call.batch, self._call.length + 1)
        # What is nobody's goes into a column of its own.
        at = torch.where(seen, self._visual, self._call.length).to(row.device)
        return read.scatter_(1, at, row)[:, :-1]

    def enter_layer(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What a layer of the inner pass is called with.

        Raises:
            Enough: this is the layer that looks, and it has.
        """
        hidden = args[0] if args else kwargs["hidden_states"]
        if self._streams is None:
            self._streams = ResidualStreams(hidden, self._call.batch, self._call.length)
            self._streams.check()
            joined = narrow_tokens(self._streams.joined(hidden), self._text, token_dim=-2)
            hidden = self._streams.apart(joined, hidden)
        if index == self.layer:
            self._look(hidden, kwargs)
            raise Enough
        kwargs = dict(kwargs)
        query_idx = self._inputs.query_idx(self._text)
        given = kwargs.get("attention_mask")
        if self._anatomy.is_stateful(index):
            kwargs["attention_mask"] = self._inputs.padding(given, query_idx, self._has_filler)
        else:
            kwargs["attention_mask"] = self._inputs.mask(
                given, query_idx, query_idx, self._has_filler
            )
        self._narrow(index, kwargs, self._text)
        self._inputs.spare_flash(kwargs)
        if args:
            return (hidden, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": hidden}

    def _given(self, given: dict[str, Any]) -> dict[str, Any]:
        """The decoder's arguments for a pass of its own on the same tokens, without a cache."""
        batch, length, past = self._call.batch, self._call.length, self._call.past
        device = self._call.device
        out = with_cache(given, None) if cache_in(given) is not None else dict(given)
        for name, value in given.items():
            if name.startswith("output_"):  # they are asked of the outer pass
                del out[name]
            elif name != "attention_mask" and self._is_packed(name, value):
                out[name] = None  # features that layers add to visual tokens: none of these runs
        mask = given.get("attention_mask")
        if mask is None:
            # Without a cache, gaps in positions would be taken for borders of sequences.
            mask = torch.ones(batch, length, dtype=torch.long, device=device)
        out["attention_mask"] = _of_new_tokens(mask, past)
        if given.get("position_ids") is None and past:
            out["position_ids"] = torch.arange(past, past + length, device=device)[None]
        return {**out, "use_cache": False}

    def _is_packed(self, name: str, value: Any) -> bool:
        """Whether an argument of the decoder holds features of visual tokens alone.

        Raises:
            UnsupportedModelError: it holds tensors of another kind.
        """
        entries = list(value.values()) if isinstance(value, dict) else value
        if not isinstance(entries, (list, tuple)) or not any(
            isinstance(entry, Tensor) for entry in entries
        ):
            return False
        if any(len(entry) != self._call.known.num_visual for entry in entries):
            raise UnsupportedModelError(
                f"the decoder is called with {name}, tensors that foveate cannot assign to tokens, "
                "so the question cannot read ahead; use foresight=False (foveacarve)."
            )
        return True

    def _narrow(self, index: int, kwargs: dict[str, Any], rows: Tensor) -> None:
        has_indexer = getattr(self._anatomy.attention_of(index), "indexer", None) is not None
        self._inputs.narrow_rest(kwargs, rows, own_topk=has_indexer)

    def _look(self, text: Tensor, kwargs: dict[str, Any]) -> None:
        """Let the last row of text, which has come this far, look at the visual tokens."""
        assert self._streams is not None
        layer: nn.Module = self._anatomy.layers[self.layer]
        rows = torch.cat([self._visual, self._last], dim=1)  # [B, V + 1]
        places = self._visual
        if self._left is not None:
            found = columns_of(self._visual.clamp_min(0), self._left.rows)
            places = torch.where(self._visual == PAD, PAD, found.to(places.device))
        question = self._streams.joined(text)[:, -1:]
        visual = narrow_tokens(self._hidden, places, token_dim=-2).to(question.device)
        both = self._streams.apart(torch.cat([visual, question], dim=1), text)
        kwargs = {**kwargs, "attention_mask": None, **{n: None for n in CACHES if n in kwargs}}
        kwargs.pop("hidden_states", None)
        self._narrow(self.layer, kwargs, rows)
        length = rows.shape[1]
        is_visual = torch.cat([self._visual != PAD, torch.zeros_like(self._last).bool()], dim=1)
        wanted = torch.full((len(rows),), length - 1, device=rows.device)
        with self._one_query.asked(len(rows), length):
            self._row = self._recorder.look(
                lambda: layer.forward(both, **kwargs), wanted, is_visual
            )
        sizes = self._left.log_sizes if self._left is not None else None
        if sizes is not None and self._row is not None:
            own = sizes.gather(1, places.clamp_min(0).to(sizes.device))
            own = own.masked_fill(places.to(sizes.device) == PAD, 0.0)
            self._row = weighed_row(self._row, nn.functional.pad(own, (0, 1)))


def _of_new_tokens(mask: Any, past: int) -> Any:
    """A mask without the columns of what a cache holds."""
    if isinstance(mask, dict):
        return {name: _of_new_tokens(value, past) for name, value in mask.items()}
    return mask[..., past:] if isinstance(mask, Tensor) and past else mask
