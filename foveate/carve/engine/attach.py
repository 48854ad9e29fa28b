"""attach: put a compression method on an unmodified model, and take it off without a trace."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from foveate.carve.engine.assisted import PromptFirst
from foveate.carve.engine.decide import Group
from foveate.carve.engine.forward_pass import ForwardPass, ImagePlan, Reused, Setting
from foveate.carve.engine.units import FeatureRecorder
from foveate.carve.method import LAYER_NEEDS, Method, Step
from foveate.carve.spec import parse_method
from foveate.carve.tower.merge import TowerShortener
from foveate.carve.tower.record import TowerRecorder
from foveate.core.budget import parse_budget
from foveate.core.report import Report
from foveate.errors import AttachError, BudgetError, MethodError, UnsupportedModeError
from foveate.models.anatomy import Anatomy, anatomy_of, visual_token_ids
from foveate.models.attention import RowRecorder

ATTACHED: WeakKeyDictionary[nn.Module, Run] = WeakKeyDictionary()


def attach(
    model: nn.Module,
    method: Method | str,
    *,
    keep: str | int | float | None = None,
    visual_mask: Tensor | None = None,
) -> Run:
    """Compress the visual tokens of every prompt that `model` sees, until detached.

    The model is not modified: hooks are added, and removed by `run.detach()` or at the end of a
    `with` block, also after an exception.

    Args:
        model: a transformers vision-language model of a supported family (`foveate models`), or a
            plain text decoder together with `visual_mask`.
        method: what to keep, e.g. `foveate.TokenCarve(keep_tokens=128)`, or as the command line's
            --method writes it: "tokencarve", "fastv(prune_layer=3)", "divprune:50%+tokencarve",
            "package.module:Class".
        keep: budget of a method given as text: "25%" or 0.25 of the visual tokens, "128" or 128 of
            them. A method object has its own.
        visual_mask: [B, S] bool, True at visual tokens, for callers who pass `inputs_embeds` (token
            ids then do not say where images are). It applies to every pass whose new tokens have
            that shape; assign `run.visual_mask` to change it. Each contiguous run counts as one
            image.

    Returns:
        A Run: a context manager that holds the report and the plans of the last prefill.

    Raises:
        UnsupportedModelError: the model family is unknown or has no visual tokens.
        MethodError: prune_layer does not fit the model, the text names no method, or a method
            object comes with `keep`.
        BudgetError: an impossible budget, or none.
        AttachError: the model has a run attached already.

    Example:
        with foveate.attach(model, foveate.TokenCarve(keep_tokens=128)) as run:
            out = model.generate(**inputs, max_new_tokens=64)
        print(run.report)
    """
    run = Run(model, _with_budget(method, keep), visual_mask=visual_mask)
    run.attach()
    return run


def _with_budget(method: Method | str, keep: str | int | float | None) -> Method:
    if isinstance(method, str):
        if keep is None:
            raise BudgetError(f"{method!r} comes without a budget; give one, e.g. keep='25%'.")
        return parse_method(method, parse_budget(keep))
    if keep is not None:
        raise MethodError(
            f"got keep={keep!r} beside the method {method}, which has a budget of its own; give "
            "one of them."
        )
    return method


class Run:
    """A method on a model, and the record of what it did. Made by `attach`.

    Attributes:
        method: the method in force.
        report: what happened in the last prefill (a Report); None before the first.
        reports: of all prefills, oldest first.
        plans: ImagePlan of every image of the last prefill: where it sat, what was kept.
        decisions: the same step by step: layer -> Groups of images that lost tokens there.
        visual_mask: explicit positions for `inputs_embeds` callers, see `attach`.
        next_serial: running number of the next image, which seeds random methods; set it to go on
            where another run left off.
    """

    def __init__(
        self, model: nn.Module, method: Method, *, visual_mask: Tensor | None = None
    ) -> None:
        if not isinstance(method, Method):
            raise MethodError(
                f"got {method!r} as the method; pass an instance such as "
                "foveate.TokenCarve(keep_tokens=128), or a name with keep=."
            )
        if isinstance(model, getattr(torch._dynamo.eval_frame, "OptimizedModule", ())):
            raise UnsupportedModeError(
                "a torch.compile'd model cannot be hooked; pass the model itself, uncompiled."
            )
        self.model = model
        self.method = method
        self.visual_mask = visual_mask
        self.reports: list[Report] = []
        self.plans: list[ImagePlan] = []
        self.decisions: dict[int, list[Group]] = {}
        self._anatomy: Anatomy = anatomy_of(model, with_explicit_mask=visual_mask is not None)
        # Inside a PEFT wrapper it is the transformers model that generates.
        self._host: Any = self._anatomy.model
        steps = method.steps(len(self._anatomy.layers), first_layer(self._anatomy))
        self.steps = {step.layer: step for step in steps}
        self.prune_layer = steps[0].layer
        self._rotary = _rotary(self._anatomy) if _renumbers(steps) else None
        self._handles: list[RemovableHandle] = []
        self._recorder: FeatureRecorder | None = None
        self._row_recorders: dict[int, RowRecorder] = {}
        self._tower: TowerRecorder | TowerShortener | None = None
        self._setting: Setting | None = None
        self._pass: ForwardPass | None = None
        self.next_serial = 0
        self._uncached: _UncachedPrompt | None = None

    # --- on and off ---

    @property
    def attached(self) -> bool:
        return bool(self._handles)

    @property
    def report(self) -> Report | None:
        return self.reports[-1] if self.reports else None

    def attach(self) -> Run:
        """Put the hooks on (again). Raises AttachError if the model has a run attached."""
        base = self._anatomy.base
        if base in ATTACHED:
            raise AttachError(
                f"the model already runs {ATTACHED[base].method}; detach that run first."
            )
        ATTACHED[base] = self
        try:
            self._install()
        except BaseException:
            self.detach()
            raise
        return self

    def detach(self) -> None:
        """Restore the model exactly. Harmless if already detached.

        A KV cache that was carved raises CarvedCacheError when decoding goes on without a run.
        """
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for recorder in (self._recorder, self._tower, *self._row_recorders.values()):
            if recorder is not None:
                recorder.remove()
        self._row_recorders = {}
        self._recorder = self._tower = self._setting = None
        for wrapped in ("generate", "_get_candidate_generator"):
            self._host.__dict__.pop(wrapped, None)
        self._pass = None
        self._uncached = None
        if ATTACHED.get(self._anatomy.base) is self:
            del ATTACHED[self._anatomy.base]

    def __enter__(self) -> Run:
        if not self.attached:
            self.attach()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    def _install(self) -> None:
        anatomy, layers = self._anatomy, self._anatomy.layers
        self._tower = _on_the_tower(anatomy, list(self.steps.values()))
        listeners = [self._tower.collect] if self._tower is not None else []
        self._recorder = FeatureRecorder(anatomy, listeners)
        for index, step in self.steps.items():
            of_layer = step.reads & LAYER_NEEDS
            if of_layer:
                before: Any = layers[index - 1].self_attn
                if of_layer - {"attention_output"}:
                    self._row_recorders[index - 1] = RowRecorder(before)
                if "attention_output" in of_layer:
                    self._handles.append(before.register_forward_hook(self._after_attention))
        self._setting = Setting(
            anatomy=anatomy,
            method=self.method,
            steps=self.steps,
            recorder=self._recorder,
            row_recorders=self._row_recorders,
            tower=self._tower,
            rotary=self._rotary,
        )
        for i, layer in enumerate(layers):
            hook = functools.partial(self._before_layer, i)
            self._handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
        base = anatomy.base
        self._handles.append(base.register_forward_pre_hook(self._before_base, with_kwargs=True))
        self._handles.append(base.register_forward_hook(self._after_base, always_call=True))
        host = self._host
        if host is not base:
            self._handles.append(
                host.register_forward_pre_hook(self._before_model, with_kwargs=True)
            )
        if hasattr(host, "generate"):
            # On the instance, never on the class.
            host.__dict__["generate"] = self._guarded_generate(host.generate)
            make = host._get_candidate_generator
            host.__dict__["_get_candidate_generator"] = self._prompt_first(make)

    # --- hooks ---

    def _guarded_generate(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        """Refuse what hooks cannot see from inside a forward pass, before any work is done."""

        @functools.wraps(generate)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            for config in (kwargs.get("generation_config"), self._host.generation_config):
                chunk = getattr(config, "prefill_chunk_size", None)
                chunk = kwargs.get("prefill_chunk_size", chunk)
                if chunk is not None:
                    raise UnsupportedModeError(
                        f"prefill_chunk_size={chunk} splits the prompt before the question "
                        "is seen, so visual tokens cannot be scored; leave it unset (a carved "
                        "prefill is shorter anyway)."
                    )
            self._uncached = None
            return generate(*args, **kwargs)

        return guarded

    def _prompt_first(self, make: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(make)
        def make_prompt_first(*args: Any, **kwargs: Any) -> Any:
            return PromptFirst(make(*args, **kwargs))

        return make_prompt_first

    def _before_model(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if bound_arguments(module, args, kwargs).get("labels") is not None:
            raise UnsupportedModeError(
                "labels were passed, but a carved prefill returns logits for the kept tokens only, "
                "so the loss would be misaligned; compute it outside foveate.attach."
            )

    def _before_base(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        assert self._setting is not None
        inputs = bound_arguments(module, args, kwargs)
        visual_mask, is_explicit = self._visual_mask(inputs)
        reused = None
        if inputs.get("past_key_values") is None and self._uncached is not None:
            reused = self._uncached.plans_for(inputs)
        self._pass = ForwardPass(
            self._setting,
            inputs,
            visual_mask,
            is_explicit_mask=is_explicit,
            first_serial=self.next_serial,
            reused=reused,
        )

    def _visual_mask(self, inputs: dict[str, Any]) -> tuple[Tensor | None, bool]:
        """Where the new tokens are visual, [B, S] or None, and whether the caller said so."""
        ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
        tokens = ids if ids is not None else embeds
        if tokens is None:
            raise UnsupportedModeError(
                "the model was called with neither input_ids nor inputs_embeds."
            )
        batch, length = tokens.shape[:2]
        if self.visual_mask is not None and self.visual_mask.shape[1] == length:
            if batch % self.visual_mask.shape[0]:
                raise UnsupportedModeError(
                    f"visual_mask has {self.visual_mask.shape[0]} rows and the batch {batch}; give "
                    "one row per sample (beams are repeated for you)."
                )
            repeats = batch // self.visual_mask.shape[0]
            return self.visual_mask.to(tokens.device).bool().repeat_interleave(repeats, 0), True
        if ids is None:
            if length > 1 and self.visual_mask is None:
                raise UnsupportedModeError(
                    "inputs_embeds does not say which tokens are visual; pass visual_mask= to "
                    "foveate.attach, or set run.visual_mask (all False for text only)."
                )
            return None, True
        if length == 1:
            return None, False  # a decoded token is text, whatever its id
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for token_id in visual_token_ids(self._anatomy).values():
            mask |= ids == token_id
        return mask, False

    def _before_layer(
        self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._pass is None:
            return None
        return self._pass.enter_layer(index, args, kwargs)

    def _after_attention(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._pass is not None and self._pass.has_visual:
            self._pass.attention_output = output[0]

    def _after_base(self, module: nn.Module, args: Any, output: Any) -> None:
        """Runs after an exception too, with output None."""
        forward, self._pass = self._pass, None
        for recorder in self._row_recorders.values():
            recorder.forget()
        if output is None or forward is None:
            return
        forward.finish()
        is_prefill = forward.has_visual or forward.past == 0
        if is_prefill and forward.reused is None:
            self.next_serial += len(forward.image_plans)
            self.plans, self.decisions = forward.image_plans, forward.groups
            self.reports.append(forward.report())
        if forward.used_cache is None and forward.fired:
            self._uncached = _UncachedPrompt.after(forward, self._uncached)


class _UncachedPrompt:
    """Plans of a prompt that is fed again, one token longer, at every step of cacheless generation.

    Selection belongs to the prompt: deciding anew at each step would read another last token.
    """

    def __init__(self, forward: ForwardPass) -> None:
        self.input_ids = forward.inputs.get("input_ids")
        self.features = _features(forward.inputs)
        self.groups, self.image_plans = forward.groups, forward.image_plans
        self.next_length = forward.length + 1

    @classmethod
    def after(cls, forward: ForwardPass, previous: _UncachedPrompt | None) -> _UncachedPrompt:
        if forward.reused is not None and previous is not None:
            previous.next_length = forward.length + 1
            return previous
        return cls(forward)

    def plans_for(self, inputs: dict[str, Any]) -> Reused | None:
        """The plans for a call that goes on with this prompt, or None."""
        ids = inputs.get("input_ids")
        if self.input_ids is None or ids is None or ids.shape[1] != self.next_length:
            return None
        if not _same(_features(inputs), self.features):
            return None
        # Beams only move within a sample, and its rows share one prompt and one plan.
        prompt_length = self.input_ids.shape[1]
        is_continued = bool((ids[:, :prompt_length] == self.input_ids).all())
        if not is_continued:
            return None
        return Reused(self.groups, self.image_plans, prompt_length)


def _features(inputs: Mapping[str, Any]) -> list[Any]:
    """The objects that hold this call's images."""
    encoded = inputs.get("mm_encoder_outputs") or {}
    return [
        value
        for value in (
            inputs.get("pixel_values"),
            inputs.get("pixel_values_videos"),
            *encoded.values(),
        )
        if value is not None
    ]


def _same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


@functools.lru_cache(maxsize=64)
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


def bound_arguments(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The call's arguments by name."""
    bound = dict(_signature(type(module).forward).bind_partial(module, *args, **kwargs).arguments)
    bound.update(bound.pop("kwargs", {}))
    return bound


def first_layer(anatomy: Anatomy) -> int:
    """The first decoder layer that may run short."""
    return anatomy.family.first_layer(anatomy.config)


def _on_the_tower(anatomy: Anatomy, steps: Sequence[Step]) -> TowerRecorder | TowerShortener | None:
    """What the steps need done in the vision tower, if anything."""
    inside = [step.method for step in steps if step.method.where == "vision_tower"]
    reading = {need for step in steps for need in step.reads if need.startswith("vision")}
    if inside and reading:
        raise MethodError(
            f"{inside[0].name} merges tokens inside the vision tower, so {', '.join(reading)} of "
            "single tokens is not to be had; stack it with a method of the language model."
        )
    if inside:
        return TowerShortener(anatomy, inside[0])
    if reading:
        return TowerRecorder(anatomy, with_attention="vision_attention" in reading)
    return None


def _renumbers(steps: Sequence[Step]) -> bool:
    wanted = {step.method.positions for step in steps}
    if len(wanted) > 1:
        raise MethodError(
            "one method of the stack keeps original positions, another renumbers them; "
            "set positions= the same in both."
        )
    return wanted == {"renumbered"}


def _rotary(anatomy: Anatomy) -> Callable[..., Any]:
    """The decoder's maker of rotary tables, for positions that close ranks."""
    rotary: Any = getattr(anatomy.decoder, "rotary_emb", None)
    rope = getattr(anatomy.text_config, "rope_parameters", None) or {}
    is_plain = rotary is not None and list(inspect.signature(rotary.forward).parameters) == [
        "x",
        "position_ids",
    ]
    if not is_plain or "mrope_section" in rope:
        raise MethodError(
            f"positions='renumbered' needs one-dimensional rotary positions, and "
            f"{anatomy.family.title} has others; use positions='original'."
        )
    found: Callable[..., Any] = rotary
    return found
