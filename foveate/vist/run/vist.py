"""Vist: a frozen language model, a frozen encoder, and the trained parts between them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foveate.errors import AttachError, ConfigError, InputError, UnsupportedModeError
from foveate.models.attachment import attached_to
from foveate.vist.config import CarvedConfig, GlanceConfig, VistConfig
from foveate.vist.encoder.characters import check_reads
from foveate.vist.fixation.look import Fixation, Looker, check_memory
from foveate.vist.fixation.report import Look
from foveate.vist.forms.carved import Lower, carved_prefix, lower_of
from foveate.vist.forms.choose import Carver
from foveate.vist.forms.recast import Recast
from foveate.vist.forms.state_index import state_entries
from foveate.vist.forms.states import states_prefix
from foveate.vist.fusion.fusion import PrefixCache, empty_prefix, fit_span, stack_prefixes
from foveate.vist.fusion.kv_prefix import EmbeddingPrefix
from foveate.vist.fusion.prefix import compute_prefix, decoder_of, decoder_shape
from foveate.vist.latents.memory import Memory, MemoryBatch, pad_memories
from foveate.vist.parts import VistParts, weights_hash
from foveate.vist.run.attached import VistRun
from foveate.vist.run.load import load_parts
from foveate.vist.run.pretrained import Pretrained
from foveate.vist.run.read_document import (
    DocumentParts,
    TokensOf,
    read_document,
    read_pictures,
)
from foveate.vist.run.text_rows import (
    Ids,
    TextScores,
    all_real,
    pad_left,
    row_of,
    rows_of,
    score_rows,
    text_rows,
)
from foveate.vist.run.vist_report import VistReport


class Vist(Pretrained):
    """Far context as latents beside raw recent text, for an unmodified causal language model.

    Source: Xing et al. 2025 (arXiv:2502.00791); docs/vist.md says where it is silent and what we
    chose.

    Args:
        model: causal language model of a supported family. It is frozen and put in eval mode.
        tokenizer: its tokenizer; only `read` needs it.
        encoder: frozen; see docs/vist.md for the interface.
        config: of the trained parts.
        parts: trained parts; None makes new ones.

    Raises:
        UnsupportedModelError: the model's family cannot read memories.
        ConfigError: the resampler's input_width is not the encoder's width.
        InputError: latents are to be pointed at tokens, and the encoder reads no characters.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        encoder: Any,
        config: VistConfig,
        parts: VistParts | None = None,
    ) -> None:
        self.anatomy = decoder_of(model)
        self.model = model
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.config = config
        if encoder is not None and encoder.width != config.resampler.input_width:
            raise ConfigError(
                f"the resampler takes features of width {config.resampler.input_width} and the "
                f"encoder gives {encoder.width}; set ResamplerConfig(input_width={encoder.width})."
            )
        if encoder is not None and isinstance(config.resampler, GlanceConfig):
            check_reads(encoder)
        model.requires_grad_(False).eval()
        if isinstance(encoder, nn.Module):
            encoder.requires_grad_(False).eval()
        device = self.anatomy.base.get_input_embeddings().weight.device
        if parts is None:
            parts = VistParts(config, decoder_shape(self.anatomy), self.anatomy.layers).to(device)
        self.parts = parts
        self._run: VistRun | None = None
        self._hashes: dict[int, tuple[Any, str]] = {}
        self._lower: tuple[Any, Tensor | None, Lower] | None = None

    @classmethod
    def _load(
        cls,
        folder: Path,
        base: Any,
        tokenizer: Any,
        encoder: Any,
        device: str | torch.device | None,
        access: Mapping[str, Any],
    ) -> Vist:
        model, tokenizer, encoder, about, parts = load_parts(
            folder, base, tokenizer, encoder, device, access
        )
        made = cls(model, tokenizer, encoder, about.config, parts)
        made.about = about
        return made

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.parts.parameters()).device
        return device

    @property
    def window(self) -> int:
        """Positions the model was made for."""
        return int(self.anatomy.config.max_position_embeddings)

    @property
    def report(self) -> VistReport | None:
        """What the last prompt of the last attached run read."""
        return self._run.report if self._run is not None else None

    # --- a document becomes a memory ---

    def read(
        self,
        text: str | Iterable[str],
        num_latents: int | None = None,
        *,
        tokens: TokensOf = "source",
        form: str = "latents",
        **settings: Any,
    ) -> Memory:
        """Read a document once, for any number of questions.

        Args:
            text: the document, or its pieces in order; a long one is read in bounded memory but for
                the latents.
            num_latents: per strip; None is the trained number.
            tokens: which the memory keeps for looking again: the source's, or "read": what the
                encoder reads in the pictures, as if there were no source. The memory says how many
                of them differ.
            form: of the memory, see `recast`.
            settings: of `recast`: share, carving, head_ids.

        Raises:
            InputError: the text is empty, or fills more strips than config.max_pages; or the
                encoder reads no characters and tokens="read"; `recast`'s.
        """
        memory = read_document(text, self._reader(), num_latents=num_latents, tokens=tokens)
        return self.recast(memory, form, **settings) if form != "latents" or settings else memory

    def read_pictures(
        self,
        pixels: NDArray[np.uint8],
        patch_mask: NDArray[np.bool_],
        num_latents: int | None = None,
    ) -> Memory:
        """Read a document of which there are only pictures; its tokens are those that are read.

        Args:
            pixels: uint8 [P, H, W], strips in the encoder's style (`Renderer(encoder.style)`), in
                reading order.
            patch_mask: bool [P, L], True = holds text.
            num_latents: per strip; None is the trained number.

        Raises:
            InputError: the encoder reads no characters; or the pictures show none, or fill more
                strips than config.max_pages.
        """
        return read_pictures(pixels, patch_mask, self._reader(), num_latents=num_latents)

    def _reader(self) -> DocumentParts:
        if self.encoder is None or self.tokenizer is None:
            raise InputError("this Vist has no encoder or tokenizer; it reads latents only.")
        return DocumentParts(
            encoder=self.encoder,
            parts=self.parts,
            tokenizer=self.tokenizer,
            embed=self.embed,
            encoder_id=self.identity(self.encoder),
            parts_id=self.identity(self.parts),
        )

    def recast(
        self,
        memory: Memory,
        form: str,
        *,
        share: float | None = None,
        carving: Carver | None = None,
        head_ids: Ids = (),
    ) -> Memory:
        """The memory in another form; all of them are attached alike.

        "carved": the LLM's lower layers read all tokens (config.carved.layer of them), a share goes
        on above and is kept. "states": the LLM reads the document whole, its keys and values are
        held on the host; a share is on the device for every question, and the segments that a
        question looks at are exact. Both get an index of the model's states, which looking goes by.

        Args:
            memory: that knows its tokens (one that `read` made).
            form: "carved" or "states".
            share: of the tokens that stand for the document. None is what a carved memory was
                trained for, and a tenth of states.
            carving: for "carved": a method that chooses them, e.g. foveate.method("divprune",
                keep_ratio=0.33), whose own budget counts; None is the ends of sentences, lines and
                demonstrations.
            head_ids: the tokens before the memory; () is the tokenizer's beginning of text. States
                can be read after them only.

        Raises:
            InputError: another form, or a setting it does not take; no tokens, or none of this
                model's; a memory of another Vist; a method that cannot choose among words; a
                document longer than the model's positions (states).
            ConfigError: carved, and this Vist has no config.carved.
            UnsupportedModeError: this Vist's latents do not enter as a KV prefix.
        """
        if form not in ("carved", "states"):
            raise InputError(
                f"a memory cannot be made {form!r} of another; use 'carved' or 'states', or read "
                "the document for its latents (form='latents', without further settings)."
            )
        if self.parts.fusion.prefix is None:
            raise UnsupportedModeError(
                f"form={form!r} is of keys and values of the model's own attention, and this Vist "
                "reads by cross-attention; use one with fusion form 'kv_prefix'."
            )
        self._check_free("reading")
        self._check_memory(memory)
        if memory.tokens is not None:
            check_memory(memory, self._num_words)
        if share is not None and not 0 < share <= 1:
            raise InputError(f"share={share} is outside (0, 1]; 0.33 is a third of the tokens.")
        recast = Recast(
            anatomy=self.anatomy,
            head_ids=self._first_ids(head_ids),
            model=self.identity(self.model) if form == "states" else "",
        )
        if form == "states":
            if carving is not None:
                raise InputError("form='states' drops nothing; leave carving out.")
            return recast.held(memory, 0.1 if share is None else share)
        if carving is not None and share is not None:
            raise InputError(
                f"share={share} and {carving.name} both say how much stays; give the method its "
                "budget, and leave share out."
            )
        config = self._carved()
        return recast.carved(memory, share or config.share, config.layer, carving)

    def _carved(self) -> CarvedConfig:
        config = self.config.carved
        if config is None:
            raise ConfigError(
                "this Vist has no config.carved, which says in which layer a carved memory is cut; "
                "use one that has, or VistConfig(carved=CarvedConfig(layer=..., lora_rank=0)) "
                "without training."
            )
        return config

    def _first_ids(self, head_ids: Ids) -> tuple[int, ...]:
        """The tokens before a memory that is to be read after some."""
        ids = tuple(row_of(head_ids).tolist())
        first = getattr(self.tokenizer, "bos_token_id", None)
        if not ids and first is None:
            raise InputError(
                "the tokenizer has no token for the beginning of a text; pass head_ids, the tokens "
                "before the memory (the first is the attention sink)."
            )
        return ids or (int(first),)

    @property
    def _num_words(self) -> int:
        """Token ids that the model knows."""
        return len(self.anatomy.base.get_input_embeddings().weight)

    # --- a memory becomes keys and values ---

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings of token ids."""
        embeds: Tensor = self.anatomy.base.get_input_embeddings()(ids)
        return embeds

    def prefill(
        self,
        memories: Memory | Sequence[Memory | None],
        head_ids: Ids = (),
        *,
        raw_length: int | None = None,
    ) -> PrefixCache:
        """Keys and values of memories after a head text, for any number of questions.

        Args:
            memories: one, or B of them.
            head_ids: [H], the raw text before the memory, at least one token (the attention sink);
                not needed in the cross-attention form.
            raw_length: longest raw text beside it, head and new tokens included; it decides how far
                the positions of a too long document are scaled. None leaves half the window.

        Raises:
            InputError: there is no memory, or no head text.
        """
        self._check_free("prefilling")
        rows = [memories] if isinstance(memories, Memory) else list(memories or ())
        if not rows:
            raise InputError("prefill got no memories; give one, or one for each prompt.")
        ids = row_of(head_ids).to(self.device)
        length = raw_length if raw_length is not None else self.window // 2
        spans = [fit_span(m.num_tokens, length, self.window) if m else 0 for m in rows]
        head = self.embed(ids[None])
        heads = tuple(ids.tolist())
        with torch.no_grad():
            made = [
                self.compute(memory, head, span, heads)
                if memory is not None
                else empty_prefix(self.parts.fusion, head)
                for memory, span in zip(rows, spans, strict=True)
            ]
        return stack_prefixes(made)

    def compute(
        self, memory: Memory, head: Tensor, span: int, head_ids: tuple[int, ...]
    ) -> PrefixCache:
        """The prefix [1 row] of one memory after `head` [1, H, hidden_size]."""
        if memory.form != "latents":
            self._check_memory(memory)
            return self._rows_of(memory, head, span, head_ids)
        batch = self._batch([memory])
        assert batch is not None
        return self._compute(batch, [span], head, all_real(head), (head_ids,))

    def _rows_of(
        self,
        memory: Memory,
        head: Tensor,
        span: int,
        head_ids: tuple[int, ...],
        is_raw: Tensor | None = None,
    ) -> PrefixCache:
        """The prefix of a memory whose entries are tokens.

        Args:
            is_raw: [K] bool, which entries are looked at, not skimmed.
        """
        if memory.form == "states":
            return states_prefix(memory, span, head_ids, self.device)
        lower = self._lower_of(memory, head, span, head_ids, keeps=is_raw is not None)
        prefix = carved_prefix(self.anatomy, self.parts.carved, memory, lower, span, is_raw)
        return replace(prefix, heads=(head_ids,))

    def _lower_of(
        self, memory: Memory, head: Tensor, span: int, head_ids: tuple[int, ...], *, keeps: bool
    ) -> Lower:
        """What the layers below the cut make of a memory; kept for the next look at it."""
        key = (id(memory.tokens), head_ids, span, self._carved().layer)
        if self._lower is not None and head_ids and self._lower[0] == key:
            return self._lower[2]
        with torch.no_grad():
            lower = lower_of(self.anatomy, memory, head, span, self._carved().layer)
        # The tokens are kept too, so that their id stays their own.
        self._lower = (key, memory.tokens, lower) if keeps else self._lower
        return lower

    def _compute(
        self,
        batch: MemoryBatch,
        spans: Sequence[int],
        head: Tensor,
        head_mask: Tensor,
        head_ids: tuple[tuple[int, ...], ...] = (),
    ) -> PrefixCache:
        if self.parts.fusion.prefix is not None and not bool(head_mask.any(dim=1).all()):
            raise InputError(
                "a memory needs at least one raw token before it (the attention sink); pass "
                "head_ids, e.g. the first token of the prompt."
            )
        prefix = compute_prefix(self.anatomy, self.parts.fusion, batch, spans, head, head_mask)
        return PrefixCache(**{**vars(prefix), "heads": head_ids})

    # --- reading ---

    def attach(
        self,
        memories: Memory | PrefixCache | Sequence[Memory | PrefixCache | None] | None,
        *,
        memory_at: int | Sequence[int] = 1,
        fixate: float | Fixation | None = None,
        question: str | Sequence[str | None] | None = None,
    ) -> VistRun:
        """Let the model read memories in every call and `generate`, until detached.

        Args:
            memories: one for each prompt, None for a prompt without; or one for all prompts. What
                `prefill` made may stand for memories.
            memory_at: where the memory sits: raw tokens of the prompt before it (one number, or one
                for each prompt), e.g. the chat's opening. At least 1. Padding does not count.
                Ignored in the cross-attention form, where a memory comes before all text.
            fixate: share of a memory's tokens (0.1 = a tenth) that may be read in its place, or a
                Fixation: the places that the question points at are read as text in place of
                latents, where and how often Fixation.placing says; latents stay beside them as
                Fixation.skim says, and where there is no such place. All together are never more.
                None or 0 reads all latents and nothing else. What the first prompt of a KV cache
                looked at stays in it; a new question needs a new cache.
            question: what to look for, one for each prompt or one for all; None is the text of the
                prompt after the memory. Give it where the prompt has more in it than the question.

        Raises:
            AttachError: the model has something attached already.
            InputError: an empty list; a memory of another Vist; no raw token before one; fixate
                with a prefix, or with a memory that does not know its tokens.
            ConfigError: fixate is not a share.
            UnsupportedModeError: its attention kernel cannot read memories; fixate in another form
                than embeddings.

        Example:
            with vist.attach(vist.read(document)) as run:
                out = model.generate(**inputs, max_new_tokens=64)
            print(run.report)
        """
        if isinstance(memories, PrefixCache):
            # Rows without a memory read nothing, after any head.
            memories = [memories.rows([i]) if n else None for i, n in enumerate(memories.spans)]
        elif memories is None or isinstance(memories, Memory):
            memories = [memories]
        memories = list(memories) if isinstance(memories, Sequence) else [memories]
        if not memories:
            raise InputError(
                "attach got an empty list of memories; give one for each prompt (None for a prompt "
                "without), or None."
            )
        at = list(memory_at) if isinstance(memory_at, Sequence) else [memory_at]
        if not all(isinstance(n, int) and not isinstance(n, bool) for n in at):
            raise InputError(f"memory_at={memory_at!r}; give a whole number, or one a prompt.")
        if min(at, default=0) < 1:
            raise InputError(
                f"memory_at={memory_at} leaves no raw token before the memory; use 1 or more (the "
                "first token is the attention sink)."
            )
        for memory in memories:
            if isinstance(memory, Memory):
                self._check_memory(memory)
            elif memory is not None and not isinstance(memory, PrefixCache):
                raise InputError(
                    f"attach got a {type(memory).__name__} for a memory; give what read or prefill "
                    "returned, or None for a prompt without."
                )
        questions = [question] if question is None or isinstance(question, str) else question
        if not isinstance(questions, Sequence) or not all(
            q is None or isinstance(q, str) for q in questions
        ):
            raise InputError(
                f"attach got question={question!r}; give a text, or a list of one (or None) for "
                "each prompt."
            )
        looker = self._looker(fixate, memories)
        self._run = VistRun(
            self.anatomy,
            self.parts.fusion,
            memories,
            memory_at,
            embed=self.embed,
            compute=self.compute,
            window=self.window,
            look=None if looker is None else functools.partial(self._look, looker),
            ask=None if looker is None else looker.text_of,
            questions=questions,
        )
        return self._run.attach()

    def _looker(
        self, fixate: float | Fixation | None, memories: Sequence[Memory | PrefixCache | None]
    ) -> Looker | None:
        """What finds the places of `attach`'s questions; None where nothing is looked at."""
        if fixate is None or fixate == 0:
            return None
        fusion = self.parts.fusion
        if not isinstance(fusion.prefix, EmbeddingPrefix):
            raise UnsupportedModeError(
                f"fixate={fixate} needs latents that run through the model as text does, and this "
                f"Vist has form={self.config.fusion.form!r}, source={self.config.fusion.source!r}; "
                "use one of form 'kv_prefix' with source 'embeddings', or leave fixate out."
            )
        if self.tokenizer is None:
            raise InputError("fixate looks for words, and this Vist has no tokenizer; give one.")
        for memory in memories:
            if isinstance(memory, PrefixCache):
                raise InputError(
                    "fixate got a prefix, which holds no text to look at; attach the memory itself."
                )
            if memory is not None:
                check_memory(memory, self._num_words)
        fixation = fixate if isinstance(fixate, Fixation) else Fixation(share=fixate)
        return Looker(
            self.anatomy, self.tokenizer, fixation, self.parts.index, state_of=self._state_of
        )

    def _state_of(self, ids: Tensor, head: Tensor) -> Tensor:
        """Of a question after the first token of a head, [hidden_size]; see `state_entries`."""
        return state_entries(self.anatomy, head[:, :1], [ids])[0]

    def _look(
        self,
        looker: Looker,
        memory: Memory,
        question: str,
        skim: PrefixCache,
        head: Tensor,
        span: int,
        head_ids: tuple[int, ...],
    ) -> tuple[PrefixCache, Look]:
        batch, look = looker.look(
            memory.to(self.device, next(self.parts.parameters()).dtype), question, skim, head
        )
        if memory.form != "latents":
            assert batch.tokens is not None
            entries = replace(memory, latents=batch.latents[0], positions=batch.positions[0])
            is_raw = batch.tokens[0] >= 0
            prefix = self._rows_of(entries, head, span, head_ids, is_raw)
            return replace(prefix, mask=batch.mask.to(prefix.mask.device)), look
        return self._compute(batch, [span], head, all_real(head), (head_ids,)), look

    def forward_train(
        self,
        batch: MemoryBatch | None,
        head_ids: Ids | Sequence[Ids],
        tail_ids: Ids | Sequence[Ids],
        *,
        score_last: int,
        states_at: Iterable[int] = (),
    ) -> TextScores:
        """Logits of the last tokens of raw text beside memories; differentiable in the latents.

        The vocabulary is computed for the scored rows only.

        Args:
            batch: B memories (`pack_pages` of fresh latents, or `pad_memories`); None is the
                unmodified model.
            head_ids: raw text before each memory: [H] for all rows, or B of any lengths.
            tail_ids: raw text after it: [T], [B, T], or B of any lengths.
            score_last: K, tokens scored at the end of each tail.
            states_at: layers whose inputs are returned too.
        """
        self._check_free("scoring")
        heads, tails = text_rows(
            head_ids, tail_ids, batch and batch.num_rows, score_last, self.device
        )
        texts = [torch.cat(pair) for pair in zip(heads, tails, strict=True)]
        ids, mask = pad_left(texts)
        prefix = None
        if batch is not None:
            spans = [
                fit_span(n, len(text), self.window) if n else 0
                for n, text in zip(batch.num_tokens, texts, strict=True)
            ]
            head, head_mask = pad_left(heads)
            prefix = self._compute(batch, spans, self.embed(head), head_mask)
        fusion = self.parts.fusion
        return score_rows(self.anatomy, fusion, ids, mask, prefix, score_last, tuple(states_at))

    def nll(
        self,
        memory: Memory | PrefixCache | Sequence[Memory | None] | None,
        head_ids: Ids | Sequence[Ids],
        tail_ids: Ids | Sequence[Ids],
        score_last: int,
    ) -> Tensor:
        """Mean negative log likelihood of the last `score_last` tokens of each row, [B] nats.

        Args:
            memory: one for all rows, one a row (None: without), or a prefix with B rows.
            head_ids, tail_ids, score_last: as in `forward_train`.
        """
        self._check_free("scoring")
        with torch.no_grad():
            if isinstance(memory, PrefixCache):
                scores = self._score_prefix(memory, head_ids, tail_ids, score_last)
            else:
                rows = [memory] if memory is None or isinstance(memory, Memory) else list(memory)
                if any(row is not None and row.form != "latents" for row in rows):
                    raise InputError(
                        "nll scores memories of latents; for the other forms pass "
                        "vist.prefill(memories, head_ids)."
                    )
                count = max(len(rows_of(t, self.device)) for t in (head_ids, tail_ids))
                batch = self._batch(rows * count if len(rows) == 1 else rows)
                scores = self.forward_train(batch, head_ids, tail_ids, score_last=score_last)
            return scores.token_nll.mean(dim=1)

    def _score_prefix(
        self,
        prefix: PrefixCache,
        head_ids: Ids | Sequence[Ids],
        tail_ids: Ids | Sequence[Ids],
        score_last: int,
    ) -> TextScores:
        count = None if prefix.num_rows == 1 else prefix.num_rows
        heads, tails = text_rows(head_ids, tail_ids, count, score_last, self.device)
        prefix = prefix if prefix.num_rows == len(tails) else prefix.rows([0] * len(tails))
        for head, known in zip(heads, prefix.heads, strict=False):
            if known and tuple(head.tolist()) != known:
                raise InputError(
                    f"the prefix was made for the head {list(known)}, not {head.tolist()}; use the "
                    "same head_ids, or pass the memory itself."
                )
        ids, mask = pad_left([torch.cat(pair) for pair in zip(heads, tails, strict=True)])
        return score_rows(self.anatomy, self.parts.fusion, ids, mask, prefix, score_last, ())

    def _batch(self, memories: Sequence[Memory | None]) -> MemoryBatch | None:
        """Checked and on the device; None if no row has one."""
        for memory in memories:
            if memory is not None:
                self._check_memory(memory)
        dtype = next(self.parts.parameters()).dtype
        rows = [m and m.to(self.device, dtype) for m in memories]
        return pad_memories(rows) if any(row is not None for row in rows) else None

    def _check_free(self, what: str) -> None:
        running = attached_to(self.anatomy.base)
        if running is not None:
            raise AttachError(f"the model runs {running.label}; detach it before {what} with vist.")

    # --- identities ---

    def _check_memory(self, memory: Memory) -> None:
        if memory.form != "latents" and self.parts.fusion.prefix is None:
            raise UnsupportedModeError(
                f"the memory has form={memory.form!r}, of keys and values of the model's own "
                "attention, and this Vist reads by cross-attention; read the document with it."
            )
        model = memory.states.model if memory.states is not None else ""
        if model and model != self.identity(self.model):
            raise InputError(
                "the memory's states are of another language model; read the document again."
            )
        width = self.config.resampler.width if memory.form == "latents" else 0
        if memory.latents.shape[1] != width:
            raise InputError(
                f"the memory's latents have width {memory.latents.shape[1]} and this Vist reads "
                f"{width}; read the document with this Vist."
            )
        if memory.parts and memory.parts != self.identity(self.parts):
            raise InputError(
                "the memory was made by other trained parts than these; read the document again."
            )
        if self.encoder is not None and memory.encoder not in ("", self.identity(self.encoder)):
            raise InputError(
                "the memory was made with another encoder than this; read the document again."
            )

    def identity(self, module: Any) -> str:
        """Hash of a module's weights, computed again only after they changed."""
        if not isinstance(module, nn.Module):
            return ""
        state = tuple((id(p), p._version) for p in module.parameters())
        known = self._hashes.get(id(module))
        if known is None or known[0] != state:
            known = self._hashes[id(module)] = (state, weights_hash(module))
        return known[1]
