"""Run: a compression method on an unmodified model, put on by hooks, taken off without a trace."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foveate.carve.engine.assisted import PromptFirst
from foveate.carve.engine.call import Call
from foveate.carve.engine.decide import Group, ImagePlan
from foveate.carve.engine.forward_pass import ForwardPass
from foveate.carve.engine.pass_report import pass_report
from foveate.carve.engine.renumbered import renumbers
from foveate.carve.engine.replay import Replay
from foveate.carve.engine.setting import Setting
from foveate.carve.engine.units import FeatureRecorder
from foveate.carve.method import LAYER_NEEDS, Method, Step
from foveate.carve.tower.merge import TowerShortener
from foveate.carve.tower.record import TowerRecorder
from foveate.core.report import Report
from foveate.errors import MethodError, UnsupportedModeError, UnsupportedModelError
from foveate.models.anatomy import Anatomy, anatomy_of
from foveate.models.attachment import Attachment, bound_arguments
from foveate.models.attention import RowRecorder


class Run(Attachment[Report]):
    """A method on a model, and the record of what it did. Made by `foveate.attach`.

    Attributes:
        method: the method in force.
        report: what happened in the last prefill (a Report); None before the first.
        reports: of all prefills, oldest first.
        plans: ImagePlan of every image of the last prefill: where it sat, what was kept.
        decisions: the same step by step: layer -> Groups of images that lost tokens there.
        visual_mask: explicit positions for `inputs_embeds` callers, see `foveate.attach`.
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
        super().__init__(anatomy_of(model, with_explicit_mask=visual_mask is not None))
        self.model = model
        self.method = method
        self.visual_mask = visual_mask
        self.plans: list[ImagePlan] = []
        self.decisions: dict[int, list[Group]] = {}
        anatomy = self._anatomy
        # Inside a PEFT wrapper it is the transformers model that generates.
        self._host: Any = anatomy.model
        steps = method.steps(len(anatomy.layers), anatomy.family.first_layer(anatomy.config))
        self.steps = {step.layer: step for step in steps}
        self.prune_layer = steps[0].layer
        self.next_serial = 0
        self._renumbers = renumbers(steps, anatomy)
        self._setting: Setting | None = None
        self._pass: ForwardPass | None = None
        self._replay: Replay | None = None

    @property
    def label(self) -> str:
        return str(self.method)

    def detach(self) -> None:
        """Restore the model exactly. Harmless if already detached.

        A KV cache that was carved raises CarvedCacheError when decoding goes on without a run.
        """
        super().detach()

    def _install(self) -> None:
        anatomy, layers, host = self._anatomy, self._anatomy.layers, self._host
        tower = _on_the_tower(anatomy, list(self.steps.values()))
        if tower is not None:
            self._put_on(tower)
        recorder = self._put_on(
            FeatureRecorder(anatomy, [tower.collect] if tower is not None else [])
        )
        row_recorders: dict[int, RowRecorder] = {}
        reads = _layers_to_read(anatomy, self.steps)
        for index, read in reads.items():
            of_layer = self.steps[index].needs & LAYER_NEEDS
            before = anatomy.attention_of(read)
            if before is not None:
                if of_layer - {"attention_output"}:
                    row_recorders[read] = self._put_on(RowRecorder(before))
                if "attention_output" in of_layer:
                    self._put_on(before.register_forward_hook(self._after_attention))
        self._setting = Setting(
            anatomy=anatomy,
            method=self.method,
            steps=self.steps,
            renumbers=self._renumbers,
            recorder=recorder,
            reads=reads,
            row_recorders=row_recorders,
            tower=tower,
        )
        for i, layer in enumerate(layers):
            hook = functools.partial(self._before_layer, i)
            self._put_on(layer.register_forward_pre_hook(hook, with_kwargs=True))
            self._put_on(layer.register_forward_hook(self._after_layer))
        base = anatomy.base
        self._put_on(base.register_forward_pre_hook(self._before_base, with_kwargs=True))
        self._put_on(base.register_forward_hook(self._after_base, always_call=True))
        if host is not base:
            self._put_on(host.register_forward_pre_hook(self._before_model, with_kwargs=True))
        if hasattr(host, "generate"):
            self._wrap(host, "generate", self._guarded_generate)
            self._wrap(host, "_get_candidate_generator", self._prompt_first)

    def _forget(self) -> None:
        self._setting = self._pass = self._replay = None

    # --- hooks ---

    def _guarded_generate(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        """Refuse what hooks cannot see from inside a forward pass, before any work is done."""

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
            self._replay = None
            if self._setting is not None:
                self._setting.recorder.fresh.clear()
            return generate(*args, **kwargs)

        return guarded

    def _prompt_first(self, make: Callable[..., Any]) -> Callable[..., Any]:
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
        call = Call.of(inputs, self._anatomy, self.visual_mask)
        again = self._replay.continued_by(call) if self._replay is not None else None
        self._pass = ForwardPass(
            self._setting,
            again or call,
            first_serial=self.next_serial,
            replay=self._replay if again is not None else None,
        )

    def _before_layer(
        self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._pass is None:
            return None
        return self._pass.enter_layer(index, args, kwargs)

    def _after_layer(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._pass is not None:
            self._pass.after_layer(output)

    def _after_attention(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._pass is not None:
            self._pass.after_attention(output[0])

    def _after_base(self, module: nn.Module, args: Any, output: Any) -> None:
        """Runs after an exception too, with output None."""
        forward, self._pass = self._pass, None
        if self._setting is not None:
            for recorder in self._setting.row_recorders.values():
                recorder.forget()
            self._setting.recorder.fresh.clear()
        if output is None or forward is None:
            return
        forward.finish()
        if forward.is_prefill and forward.replay is None:
            self.next_serial += len(forward.image_plans)
            self.plans, self.decisions = forward.image_plans, forward.groups
            self.reports.append(pass_report(forward))
        if forward.used_cache is None and forward.fired:
            if forward.replay is None:
                self._replay = Replay(forward.call, forward.groups)
            else:
                forward.replay.advance(forward.call)


def _layers_to_read(anatomy: Anatomy, steps: Mapping[int, Step]) -> dict[int, int]:
    """Layer of a step -> the nearest layer before it that attends, where the step reads attention.

    Raises:
        UnsupportedModelError: no layer before a step attends, or none since the step before, so
            that only attention of tokens that are gone by then could be read.
    """
    reads: dict[int, int] = {}
    for index, step in steps.items():
        if not step.needs & LAYER_NEEDS:
            continue
        read = reads[index] = anatomy.attention_before(index)
        between = [other for other in steps if read < other < index]
        if between:
            raise UnsupportedModelError(
                f"{step.method.name} reads attention before layer {index}, and no layer since the "
                f"step at layer {between[-1]} has any; choose a later layer."
            )
    return reads


def _on_the_tower(anatomy: Anatomy, steps: Sequence[Step]) -> TowerRecorder | TowerShortener | None:
    """What the steps need done in the vision tower, if anything."""
    inside = [step.method for step in steps if step.method.where == "vision_tower"]
    reading = {need for step in steps for need in step.needs if need.startswith("vision")}
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
