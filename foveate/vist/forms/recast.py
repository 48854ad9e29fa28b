"""From a memory that knows its tokens to one of another form."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from foveate.core.visual import VisualTokens
from foveate.errors import InputError
from foveate.models.anatomy import Anatomy
from foveate.vist.forms.carved import read_lower
from foveate.vist.forms.choose import Carver, check_carver, ends_of_units, rows_of_plan
from foveate.vist.forms.layers import check_layers
from foveate.vist.forms.state_index import state_entries
from foveate.vist.forms.states import hold_states
from foveate.vist.fusion.kv_prefix import rotate
from foveate.vist.latents.held_states import HeldStates
from foveate.vist.latents.memory import Memory

__all__ = ["Recast", "attention_of_last"]


@dataclass(frozen=True, kw_only=True)
class Recast:
    """Makes carved memories and memories of states.

    Args:
        anatomy: of the decoder.
        head_ids: the text before the document, its first token the attention sink.
        model: identifies the language model.
    """

    anatomy: Anatomy
    head_ids: tuple[int, ...]
    model: str = ""

    @torch.no_grad()
    def carved(self, memory: Memory, share: float, cut: int, carver: Carver | None) -> Memory:
        """A memory of the tokens that go on above layer `cut`.

        Args:
            memory: of any form, with its tokens.
            share: of the tokens; a carver's own budget goes before.
            cut: first layer that only these enter.
            carver: who chooses them, by the states that enter that layer; None is the ends of the
                document's units.

        Raises:
            InputError: the memory does not know its tokens; see check_carver and rows_of_plan.
        """
        tokens = _tokens_of(memory)
        if carver is None:
            rows = _ends(memory, share)
        else:
            check_carver(carver)
            rows = self._chosen(tokens, cut, carver)
        return _made(self._indexed(memory), rows, "carved", None)

    @torch.no_grad()
    def held(self, memory: Memory, share: float) -> Memory:
        """A memory with the LLM's states of all tokens; its entries are the ends of units.

        Args:
            memory: of any form, with its tokens.
            share: of the tokens, that are on the device for every question.
        """
        tokens = _tokens_of(memory)
        head, embeds = self._embeds(tokens)
        states = hold_states(
            self.anatomy, head, embeds, (tokens >= 0)[None], self.head_ids, self.model
        )
        return _made(self._indexed(memory), _ends(memory, share), "states", states)

    def _indexed(self, memory: Memory) -> Memory:
        """With an index of the LLM's states, which finds more than words and pictures do."""
        assert memory.segments is not None
        tokens = _tokens_of(memory)
        first = self._embeds(tokens)[0][:, :1]  # the sink is enough, whatever else the head says
        parts = tokens.tensor_split(memory.segments.tolist()[1:])
        index = state_entries(self.anatomy, first, parts)
        return replace(memory, index=index.to(tokens.device), index_side="states")

    def _embeds(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Of the head and of the tokens, [1, H, hidden_size] and [1, N, hidden_size]."""
        base: Any = self.anatomy.base
        table = base.get_input_embeddings()
        device = table.weight.device
        head = torch.tensor([self.head_ids], device=device)
        return table(head), table(tokens.to(device).clamp_min(0)[None])

    def _chosen(self, tokens: Tensor, cut: int, carver: Carver) -> Tensor:
        """What a carving method keeps, by the states that enter the layer at the cut."""
        head, embeds = self._embeds(tokens)
        num_head, num_tokens = head.shape[1], embeds.shape[1]
        check_layers(self.anatomy, num_head + num_tokens)
        if "attention" in carver.needs and not cut:
            raise InputError(
                f"{carver.name} looks at the attention of the layer before the cut, and layer 0 "
                "has none; cut later, or use a method without attention, e.g. divprune."
            )
        device = embeds.device
        positions = num_head + torch.arange(num_tokens, device=device)[None]
        is_real = (tokens >= 0).to(device)[None]
        head_mask = torch.ones(head.shape[:2], dtype=torch.bool, device=device)
        lower = read_lower(self.anatomy, head, head_mask, embeds, positions, is_real, cut)
        real = is_real[0].nonzero()[:, 0]  # [R]
        attention = keys = None
        if "attention" in carver.needs:
            before = read_lower(self.anatomy, head, head_mask, embeds, positions, is_real, cut - 1)
            attention = attention_of_last(
                self.anatomy, cut - 1, before.hidden[:, real[-1:]], positions[:, real[-1:]],
                torch.cat([lower.head[cut - 1][0], lower.held[cut - 1][0][:, :, real]], dim=2),
            )[..., num_head:]  # fmt: skip
        if "keys" in carver.needs and cut:
            keys = lower.held[cut - 1][0][:, :, real].transpose(1, 2).flatten(2)
        visual = VisualTokens(
            hidden=lower.hidden[:, real], attention=attention, keys=keys, serials=(0,)
        )
        plan = carver.select(visual, carver.count(len(real)))
        return real[rows_of_plan(plan, carver)]


def attention_of_last(
    anatomy: Anatomy, layer: int, hidden: Tensor, position: Tensor, keys: Tensor
) -> Tensor:
    """Softmax attention of one row over keys, [1, H, M] float32.

    Args:
        anatomy: of the decoder.
        layer: whose attention.
        hidden: [1, 1, hidden_size], what enters the layer.
        position: [1, 1], of that row.
        keys: [1, H_kv, M, head_dim], rotated, the row's own last.
    """
    module: Any = anatomy.layers[layer]
    attention = module.self_attn
    query = attention.q_proj(module.input_layernorm(hidden)).view(1, 1, -1, attention.head_dim)
    if hasattr(attention, "q_norm"):
        query = attention.q_norm(query)
    query = query.transpose(1, 2)  # [1, H, 1, d]
    if getattr(attention, "use_rope", True):
        base: Any = anatomy.base
        query = rotate(query, *base.rotary_emb(hidden, position))
    repeated = keys.repeat_interleave(query.shape[1] // keys.shape[1], dim=1)
    logits: Tensor = query.float() @ repeated.float().transpose(2, 3) * attention.scaling
    return logits.softmax(-1)[:, :, 0]


def _made(memory: Memory, rows: Tensor, form: str, states: HeldStates | None) -> Memory:
    tokens = _tokens_of(memory)
    rows = rows.to(tokens.device)
    rows = rows[tokens[rows] >= 0]  # one that could not be read is no entry
    blank = memory.latents.new_zeros(len(rows), 0)
    return replace(memory, latents=blank, positions=rows.float(), form=form, states=states)


def _tokens_of(memory: Memory) -> Tensor:
    if memory.tokens is None or memory.segments is None:
        raise InputError(
            "the memory does not know the tokens of its text, which all forms but latents are made "
            "of; read the document again with this version."
        )
    return memory.tokens


def _ends(memory: Memory, share: float) -> Tensor:
    """The ends of a document's units, [K] ascending."""
    assert memory.segments is not None
    count = max(1, round(share * memory.num_tokens))
    rows = ends_of_units(memory.segments.tolist(), memory.num_tokens, count)
    return torch.tensor(rows, dtype=torch.long)
