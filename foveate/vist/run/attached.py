"""Vist attached to a model: `generate` and plain calls read the memories, until detached."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from foveate.errors import InputError, MemoryCacheError, UnsupportedModeError
from foveate.models.anatomy import Anatomy
from foveate.models.attachment import Attachment
from foveate.models.cache_argument import cache_in
from foveate.vist.fixation.attention import AttentionHooks
from foveate.vist.fixation.report import Look
from foveate.vist.fusion.fuse import Fuser
from foveate.vist.fusion.fusion import (
    Fusion,
    PrefixCache,
    empty_prefix,
    fit_span,
    stack_prefixes,
)
from foveate.vist.fusion.lora_hooks import LoraHooks
from foveate.vist.fusion.memory_cache import MemoryRows, can_hold, rows_in
from foveate.vist.fusion.text_pass import TextPass
from foveate.vist.latents.memory import Memory
from foveate.vist.run.vist_report import VistReport

# (memory, head, question) whose keys and values an attached run remembers.
KEPT_PREFIXES = 32
_Read = tuple[PrefixCache, Look | None]  # what a row reads, and what it looked at again
Looking = Callable[[Memory, str, PrefixCache, Tensor, int, tuple[int, ...]], _Read]


class _Reading(threading.local):
    """What one thread's calls read.

    Attributes:
        prefix: of the rows of its last prompt.
        total_length: text tokens that its generation may end with.
        num_prompts: rows that its generation was given, before beams.
        prompts, prompt_mask: token ids [B, S] of that generation and which of them are real; None
            where they are not known.
    """

    prefix: PrefixCache | None = None
    total_length: int = 0
    num_prompts: int | None = None
    prompts: Tensor | None = None
    prompt_mask: Tensor | None = None


class VistRun(Attachment[VistReport]):
    """Memories on a model. Made by `Vist.attach`; a context manager.

    Args:
        anatomy: of the model that reads.
        fusion: trained modules.
        memories: one for each prompt (None: that prompt has none), or one for all; prefixes from
            `Vist.prefill` work too.
        memory_at: raw tokens of each prompt before the memory, at least 1: the attention sink.
        embed: token ids [1, H] -> input embeddings [1, H, hidden_size].
        compute: (memory, head embeddings [1, H, hidden_size], span, head ids) -> its prefix.
        window: positions the model was made for.
        look: (memory, question, skim prefix, head embeddings, span, head ids) -> the prefix of the
            memory with the places read as text that the question points at; None looks nowhere.
        ask: token ids [S] -> the text that they ask; only `look` needs it.
        questions: one for each prompt, or one for all; None is the prompt's text after the memory.

    Attributes:
        reports: of all prompts, oldest first; `report` is the last, None before the first.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        fusion: Fusion,
        memories: Sequence[Memory | PrefixCache | None],
        memory_at: int | Sequence[int],
        *,
        embed: Callable[[Tensor], Tensor],
        compute: Callable[[Memory, Tensor, int, tuple[int, ...]], PrefixCache],
        window: int,
        look: Looking | None = None,
        ask: Callable[[Tensor], str] | None = None,
        questions: Sequence[str | None] = (None,),
    ) -> None:
        super().__init__(anatomy)
        self.memories = list(memories)
        self.memory_at = memory_at
        self._fusion, self._window = fusion, window
        self._embed, self._compute = embed, compute
        self._look, self._ask, self._questions = look, ask, list(questions)
        self._fuser = Fuser(anatomy, fusion, self._prefix_for)
        self._here = _Reading()
        self._kept: OrderedDict[Any, tuple[Any, _Read]] = OrderedDict()
        self._keeping = threading.RLock()

    @property
    def label(self) -> str:
        return f"Vist({self._fusion.config.form})"

    def _install(self) -> None:
        self._fuser.install()
        self._put_on(self._fuser)
        lora = getattr(self._fusion.prefix, "lora", None)
        if lora is not None:
            self._put_on(LoraHooks(self._anatomy, lora).keep())
        if self._look is not None:
            self._put_on(AttentionHooks(self._anatomy).keep())
        self._wrap(self._anatomy.model, "generate", self._guarded_generate)

    def _forget(self) -> None:
        self._here.prefix = None
        self._kept.clear()

    def _guarded_generate(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        """Know the number of prompts and the final length before the first pass."""

        def guarded(
            inputs: Any = None, generation_config: Any = None, *args: Any, **kwargs: Any
        ) -> Any:
            prompts = inputs if inputs is not None else kwargs.get("input_ids")
            if prompts is None:
                prompts = kwargs.get("inputs_embeds")
            if prompts is not None:
                self._here.num_prompts = int(prompts.shape[0])
                if not prompts.is_floating_point():
                    self._here.prompts = prompts
                    self._here.prompt_mask = kwargs.get("attention_mask")
                length = int(prompts.shape[1])
                configs = (generation_config, self._anatomy.model.generation_config)
                self._here.total_length = length + _new_tokens(configs, length, kwargs)
            # A static cache makes transformers compile the forward pass, past the hooks.
            if generation_config is None:
                kwargs.setdefault("disable_compile", True)
            else:  # transformers wants settings in the one or in the other
                generation_config = copy.copy(generation_config)
                generation_config.disable_compile = True
            self._here.prefix = None if cache_in(kwargs) is None else self._here.prefix
            try:
                return generate(inputs, generation_config, *args, **kwargs)
            finally:
                self._here.num_prompts, self._here.total_length = None, 0
                self._here.prompts, self._here.prompt_mask = None, None

        return guarded

    # --- which prefix a pass reads ---

    def _prefix_for(self, text: TextPass) -> PrefixCache | MemoryRows | None:
        if all(memory is None for memory in self.memories):
            if rows_in(text.cache) is not None:
                raise MemoryCacheError(
                    "the KV cache holds the memory of another run, and the one that is attached "
                    "has none for any prompt; attach the other run again, or empty the cache: "
                    "cache.reset() forgets the memory too, which crop() leaves."
                )
            return None
        reading = self._read_before(text)
        if reading is not None:
            self._check_window(text, reading)
            return reading
        count = self._here.num_prompts or text.batch
        if len(self.memories) not in (1, count) or text.batch % count:
            raise InputError(
                f"{len(self.memories)} memories are attached and {count} prompts came; attach one "
                "memory for each prompt (None for a prompt without), or one for all."
            )
        prefix, looks = self._read_heads(text, count)
        self._here.prefix = prefix
        if text.past:  # memories come before all text
            self._check_window(text, prefix)
        else:
            self._add_report(self._report(prefix, looks))
        return prefix

    def _read_before(self, text: TextPass) -> PrefixCache | MemoryRows | None:
        """What the rows of a prompt go on reading after its first pass; None to find it now.

        A cache that can hold a memory is believed alone: it may be of another prompt than this
        thread's last, or have been filled before the run was attached.
        """
        if not text.past:
            return None
        reading: PrefixCache | MemoryRows | None = self._here.prefix
        if self._fusion.prefix is None:
            return reading
        if can_hold(text.cache):
            held = text.held
            reading = held if held is not None and held.reader == self._fuser.name else None
        if reading is None:
            raise UnsupportedModeError(
                f"the KV cache holds {text.past} tokens that were read before this memory was "
                "attached; start from an empty cache."
            )
        return reading

    def _read_heads(
        self, text: TextPass, count: int
    ) -> tuple[PrefixCache, tuple[Look | None, ...]]:
        """The prefix of every row of a prompt's first pass, and what each row looked at."""
        valid = text.valid
        lengths = valid.sum(dim=1).tolist()
        at = self.memory_at
        repeats = text.batch // count
        if self._fusion.prefix is None:
            at = 0  # memories come before all text
        heads = [at] * count if isinstance(at, int) else list(at)
        if len(heads) != count:
            raise InputError(
                f"memory_at has {len(heads)} entries and {count} prompts came; give one number, or "
                "one for each prompt."
            )
        if len(self._questions) not in (1, count):
            raise InputError(
                f"attach got {len(self._questions)} questions and {count} prompts came; give one "
                "for each prompt, or one for all."
            )
        total = max(self._here.total_length, text.length)
        rows: list[_Read] = []
        places: dict[Any, int] = {}
        index = []
        for row in range(text.batch):
            prompt = row // repeats
            memory = self.memories[prompt if len(self.memories) > 1 else 0]
            if memory is not None and lengths[row] <= heads[prompt]:
                is_cropped = not text.past and rows_in(text.cache) is not None
                raise InputError(
                    f"prompt {prompt} has {lengths[row]} tokens and memory_at is {heads[prompt]}; "
                    "at least one token must come after the memory to read it"
                    + (
                        ", and its KV cache was cropped to none: give the whole prompt again."
                        if is_cropped
                        else "."
                    )
                )
            padding = text.length - int(lengths[row])
            key, make = self._row(text, row, prompt, memory, heads[prompt], total - padding)
            if key not in places:
                places[key] = len(rows)
                rows.append(self._remember(key, memory, make))
            index.append(places[key])
        stacked = stack_prefixes([prefix for prefix, _ in rows])
        looks = tuple(rows[i][1] for i in index)
        if index == list(range(stacked.num_rows)):
            return stacked, looks
        return stacked.rows(index), looks

    def _row(
        self, text: TextPass, row: int, prompt: int, memory: Any, head: int, length: int
    ) -> tuple[Any, Callable[[], _Read]]:
        """A key that is equal where a row's prefix is, and what computes it."""
        columns = text.valid[row].nonzero()[:head, 0]
        ids = text.inputs.get("input_ids")
        if ids is not None:
            head_ids = tuple(ids[row, columns].tolist())
            embeds, key_head = self._embed(ids[row : row + 1, columns]), head_ids
        else:
            embeds = text.inputs["inputs_embeds"][row : row + 1, columns]
            head_ids, key_head = (), embeds.detach().float().cpu().numpy().tobytes()
        if memory is None:
            return ("none", key_head), lambda: (empty_prefix(self._fusion, embeds), None)
        if isinstance(memory, PrefixCache):
            self._check_prefix(memory, head_ids, head, length)
            return (id(memory), key_head), lambda: (memory, None)
        span = fit_span(memory.num_tokens, length, self._window)
        key = (id(memory), key_head, span)

        def skim() -> _Read:
            return self._compute(memory, embeds, span, head_ids), None

        if self._look is None:
            return key, skim
        look, question = self._look, self._question(text, row, prompt, head)

        def looked() -> _Read:
            latents, _ = self._remember(key, memory, skim)
            return look(memory, question, latents, embeds, span, head_ids)

        return (*key, question), looked

    def _question(self, text: TextPass, row: int, prompt: int, head: int) -> str:
        """What a prompt asks: what was given, or its own text after the memory."""
        given = self._questions[prompt if len(self._questions) > 1 else 0]
        if given is not None:
            return given
        ids, valid = text.inputs.get("input_ids"), text.valid[row]
        if self._here.prompts is not None:
            # The first pass may hold a part of the prompt, or an assistant's tokens behind it.
            ids, row = self._here.prompts, prompt
            mask = self._here.prompt_mask
            if mask is not None:
                valid = mask[prompt].bool()
        if ids is None:
            raise InputError(
                "the prompt came as inputs_embeds, so what it asks is not known as text; give "
                "attach(..., question=...), or call with input_ids."
            )
        own = ids[row]
        own = own[valid[: len(own)].to(own.device)] if len(valid) >= len(own) else own
        assert self._ask is not None
        return self._ask(own[head:])

    def _check_prefix(
        self, prefix: PrefixCache, head_ids: tuple[int, ...], head: int, length: int
    ) -> None:
        if self._fusion.prefix is None:
            return
        if prefix.memory_at[0] != head or (head_ids and prefix.heads[0] != head_ids):
            raise InputError(
                f"the prefix was made for a head of {prefix.memory_at[0]} tokens "
                f"{list(prefix.heads[0])}, and the prompt starts with {list(head_ids)}; use the "
                "same head text and memory_at, or attach the memory itself."
            )
        if length + prefix.spans[0] > self._window:
            raise InputError(
                f"the prompt with its new tokens ({length}) and the prefix's {prefix.spans[0]} "
                f"positions exceed the model's {self._window}; make it with a larger "
                "raw_length, or attach the memory itself."
            )

    def _remember(self, key: Any, memory: Any, make: Callable[[], _Read]) -> _Read:
        with self._keeping:  # threads that ask the same document read it once
            if key not in self._kept:
                with torch.no_grad():
                    # The memory is kept too, so that its id stays its own.
                    self._kept[key] = (memory, make())
                while len(self._kept) > KEPT_PREFIXES:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key][1]

    def _check_window(self, text: TextPass, reading: PrefixCache | MemoryRows) -> None:
        longest = text.past + text.length
        if longest <= self._here.total_length:
            return
        span = reading.longest_span
        if span + longest > self._window:
            raise InputError(
                f"text of {longest} tokens after a memory that takes {span} positions "
                f"exceeds the model's {self._window}; start again with the whole text, so that "
                "the memory is scaled to what is left."
            )

    def _report(self, prefix: PrefixCache, looks: tuple[Look | None, ...]) -> VistReport:
        weight: Tensor = self._anatomy.layers[0].self_attn.k_proj.weight
        shape = self._fusion.shape
        per_token = (
            2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * weight.element_size()
        )
        return VistReport(
            form=self._fusion.config.form,
            num_tokens=prefix.num_tokens,
            num_latents=tuple(
                int(n) - (look.num_raw if look is not None else 0)
                for n, look in zip(prefix.mask.sum(dim=1), looks, strict=True)
            ),
            looks=looks,
            spans=prefix.spans,
            window=self._window,
            kv_bytes=prefix.num_bytes,
            kv_bytes_raw=per_token * sum(prefix.num_tokens),
        )


def _new_tokens(configs: Sequence[Any], prompt_length: int, kwargs: dict[str, Any]) -> int:
    """How many tokens a call of generate may add; the first of the configs that says it counts."""

    def given(name: str) -> int | None:
        values = [kwargs.get(name), *(getattr(config, name, None) for config in configs)]
        return next((int(value) for value in values if value is not None), None)

    new, longest = given("max_new_tokens"), given("max_length")
    if new is not None:
        return new
    # 20 is what transformers falls back to.
    return max(0, longest - prompt_length) if longest else 20
