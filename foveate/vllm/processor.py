"""Fewer placeholders: vLLM's processors of prompts, for images that will be carved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import PromptUpdateDetails

from foveate.carve.method import Method
from foveate.core.frames import Frames, spread
from foveate.errors import InputError
from foveate.vllm.budgets import budget_field, kept, methods_of_items, write_budgets
from foveate.vllm.config_hook import FAMILIES, method_in, served_in
from foveate.vllm.metrics import COUNTS
from foveate.vllm.settings import KEY

__all__ = ["carved_processor"]

_Model = TypeVar("_Model", bound=type)
_is_dummy: ContextVar[bool] = ContextVar("is_dummy", default=False)
_counts: ContextVar[list[tuple[int, int]]] = ContextVar("counts")  # of the request at hand


@dataclass
class ShortPlaceholders(PromptUpdateDetails):  # type: ignore[misc]
    """The placeholders of a carved item.

    Args:
        num_tokens, num_kept: visual tokens of the item before and after carving.
    """

    num_tokens: int = 0
    num_kept: int = 0


def carved_processor(model: _Model) -> _Model:
    """Give a model class the processor of its parent, with fewer placeholders when carving.

    Without a "foveate" entry the parent's own processor is made.
    """
    stock: Any = model._processor_factory  # type: ignore[attr-defined]  # inherited

    def make_info(ctx: Any) -> Any:
        info = stock.info(ctx)
        if method_in(ctx.model_config.hf_config) is None:
            return info
        return _extended(info, _CarvedInfo)(ctx)

    def make_processor(info: Any, dummy_inputs: Any) -> Any:
        processor = stock.processor(info, dummy_inputs)
        if method_in(info.ctx.model_config.hf_config) is None:
            return processor
        return _extended(processor, _CarvedProcessor)(info, dummy_inputs)

    MULTIMODAL_REGISTRY.register_processor(
        make_processor, info=make_info, dummy_inputs=stock.dummy_inputs
    )(model)
    return model


def _extended(chosen: Any, mixin: type) -> Any:
    """The class that vLLM's factory chose for the model, extended."""
    return type(f"Carved{type(chosen).__name__}", (mixin, type(chosen)), {})


class _CarvedInfo:
    """Mixed in before vLLM's class."""

    ctx: Any

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        limits: Mapping[str, int | None] = super().get_supported_mm_limits()  # type: ignore[misc]
        family = FAMILIES[self.ctx.model_config.architecture]
        # 0 and not left out: vLLM's processors expect the modalities they know.
        return {name: limit if name in family.modalities else 0 for name, limit in limits.items()}

    def validate_num_items(self, modality: str, num_items: int) -> None:
        family = FAMILIES[self.ctx.model_config.architecture]
        if num_items and modality not in family.modalities:
            raise InputError(
                f"got {num_items} {modality} item(s), and this server compresses {family.title}, "
                f"of which foveate takes {' and '.join(family.modalities)} only; serve it without "
                "foveate."
            )
        super().validate_num_items(modality, num_items)  # type: ignore[misc]

    def get_mm_max_tokens_per_item(
        self, seq_len: int, mm_counts: Mapping[str, int]
    ) -> Mapping[str, int] | None:
        most: Mapping[str, int] | None = super().get_mm_max_tokens_per_item(  # type: ignore[misc]
            seq_len, mm_counts
        )
        if most is None:  # vLLM then processes the largest item, and counts
            return None
        method = method_in(self.ctx.model_config.hf_config)
        assert method is not None
        # A video's stays: its frames are not known here, and it is an upper bound.
        return {
            name: method.count(count) if name == "image" else count
            for name, count in most.items()
            if name in mm_counts
        }


# How a request's choices travel among the settings of vLLM's own processor, which never sees them.
_Choices = Mapping[
    str, Sequence[tuple[int, Method]]
]  # modality -> (number of the item, its method)


class _CarvedProcessor:
    """Mixed in before vLLM's class."""

    info: Any

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Read the request's budgets, and hand each item's method on with vLLM's settings."""
        settings = dict(inputs.hf_processor_mm_kwargs)
        config = self.info.ctx.model_config.hf_config
        served, of_videos = served_in(config), method_in(config, "video")
        assert served is not None
        assert of_videos is not None
        methods = methods_of_items(
            served.method,
            of_videos,
            served.ages,
            settings.pop(KEY, None),
            inputs.mm_data_items.get_all_counts(),
        )
        settings[KEY] = {kind: list(enumerate(each)) for kind, each in methods.items() if each}
        counts: list[tuple[int, int]] = []
        token = _counts.set(counts)
        try:
            made = super().apply(  # type: ignore[misc]
                replace(inputs, hf_processor_mm_kwargs=settings), timing_ctx
            )
        finally:
            _counts.reset(token)
        made[COUNTS] = counts
        return made

    def _get_mm_hashes(self, inputs: Any) -> Mapping[str, list[str]]:
        """What vLLM's caches know an item by; some of them outlive the engine, or are shared."""
        settings, choices = _split(inputs.hf_processor_mm_kwargs)
        hashes = super()._get_mm_hashes(  # type: ignore[misc]
            replace(inputs, hf_processor_mm_kwargs=settings)
        )
        return {
            kind: [
                f"{name}-{_mark(method)}"
                for name, (_, method) in zip(names, choices.get(kind, ()), strict=True)
            ]
            for kind, names in hashes.items()
        }

    def _get_cache_missing_processor_kwargs(
        self, inputs: Any, mm_is_cached: Mapping[str, Sequence[bool]]
    ) -> Mapping[str, Any]:
        missing = super()._get_cache_missing_processor_kwargs(  # type: ignore[misc]
            inputs, mm_is_cached
        )
        settings, choices = _split(missing)
        left = {
            kind: [
                choice
                for choice, is_cached in zip(each, mm_is_cached[kind], strict=True)
                if not is_cached
            ]
            for kind, each in choices.items()
        }
        return {**settings, KEY: left}

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, Any]) -> Any:
        """Each item's budget goes to the model with its pixels."""
        settings, choices = _split(hf_kwargs)
        data = super()._apply_hf_processor_main(mm_items, settings)  # type: ignore[misc]
        for kind, each in choices.items():
            if each:
                data[budget_field(kind)] = write_budgets(method for _, method in each)
        return data

    def _get_mm_fields_config(
        self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, Any]
    ) -> Mapping[str, MultiModalFieldConfig]:
        settings, choices = _split(hf_processor_mm_kwargs)
        fields = super()._get_mm_fields_config(hf_inputs, settings)  # type: ignore[misc]
        budgets = {
            budget_field(kind): MultiModalFieldConfig.batched(kind, keep_on_cpu=True)
            for kind in choices
        }
        return {**fields, **budgets}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        settings, choices = _split(hf_processor_mm_kwargs)
        config = self.info.ctx.model_config.hf_config
        updates = super()._get_prompt_updates(  # type: ignore[misc]
            mm_items, settings, out_mm_kwargs
        )
        modalities = FAMILIES[self.info.ctx.model_config.architecture].modalities
        return [
            replace(
                update,
                replacement=_shortened(
                    update.replacement,
                    choices.get(update.modality, ()),
                    method_in(config, update.modality),
                    update.modality,
                    out_mm_kwargs,
                ),
            )
            for update in updates
            if update.modality in modalities
        ]

    def _maybe_apply_prompt_updates(self, mm_items: Any, mm_res: Any) -> Any:
        """Here every item of a request is at hand, whether it was processed now or before."""
        prompt, placeholders = super()._maybe_apply_prompt_updates(  # type: ignore[misc]
            mm_items, mm_res
        )
        if _is_dummy.get():
            return prompt, placeholders
        if FAMILIES[self.info.ctx.model_config.architecture].positions == "original":
            _check_fences(prompt, placeholders)
        counts = _counts.get()
        for items in mm_res.prompt_updates.values():
            for (update,) in items:
                counts.append((update.content.num_tokens, update.content.num_kept))
        return prompt, placeholders

    def get_dummy_mm_inputs(self, *args: Any, **kwargs: Any) -> Any:
        """vLLM's own, at start: their images touch each other."""
        token = _is_dummy.set(True)
        try:
            return super().get_dummy_mm_inputs(*args, **kwargs)  # type: ignore[misc]
        finally:
            _is_dummy.reset(token)


def _split(settings: Mapping[str, Any]) -> tuple[dict[str, Any], _Choices]:
    """vLLM's settings, and the choices among them."""
    others = dict(settings)
    choices: _Choices = others.pop(KEY)
    return others, choices


def _mark(method: Method) -> str:
    """A short name of a method with its settings."""
    text = json.dumps(method.to_dict(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _shortened(
    replacement: Callable[[int], Any],
    choices: Sequence[tuple[int, Method]],
    server: Method | None,
    modality: str,
    out_mm_kwargs: Any,
) -> Callable[[int], ShortPlaceholders]:
    """vLLM's rule for the placeholders of an item, for the tokens that are kept of it."""

    def shortened(item: int) -> ShortPlaceholders:
        details = replacement(item)
        if not isinstance(details, PromptUpdateDetails):
            details = PromptUpdateDetails.from_seq(details)
        full = details.full
        views = _views(full, details.is_embed)
        num_tokens = sum(len(view) for view in views)
        number, method = choices[item]
        assert server is not None
        frames = _frames(num_tokens, modality, out_mm_kwargs[modality][item])
        keep = kept(method, server, num_tokens, frames, number, modality)
        shares = spread(keep, [len(view) for view in views])
        dropped = {i for view, share in zip(views, shares, strict=True) for i in view[share:]}
        return ShortPlaceholders(
            [token for i, token in enumerate(full) if i not in dropped],
            is_embed=details.is_embed,
            num_tokens=num_tokens,
            num_kept=keep,
        )

    return shortened


def _views(full: Sequence[int], is_embed: Callable[[Any], Any] | None) -> list[range]:
    """The runs of placeholders that features go into."""
    if is_embed is None:
        return [range(len(full))]
    mask = torch.as_tensor(is_embed(full)).int()
    edges = torch.nn.functional.pad(mask, (1, 1)).diff()
    starts, ends = ((edges == sign).nonzero()[:, 0].tolist() for sign in (1, -1))
    return [range(start, end) for start, end in zip(starts, ends, strict=True)]


def _frames(num_tokens: int, modality: str, item: Mapping[str, Any]) -> Frames | None:
    """Those of a video."""
    if modality == "image":
        return None
    return Frames.equal(int(item["video_grid_thw"].data[0]), num_tokens)


def _check_fences(prompt: Sequence[int], placeholders: Mapping[str, Sequence[Any]]) -> None:
    """Kept tokens find their positions by the text around them.

    Raises:
        InputError: an item has none.
    """
    spans = sorted(
        (item.start_idx, item.start_idx + item.length)
        for items in placeholders.values()
        for item in items
    )
    for i, (start, end) in enumerate(spans):
        touches = i + 1 < len(spans) and spans[i + 1][0] == end
        if touches or end == len(prompt):
            raise InputError(
                f"the placeholders at token {start} of the prompt have no text behind them; put "
                "each image between <|vision_start|> and <|vision_end|>, as the chat template does."
            )
