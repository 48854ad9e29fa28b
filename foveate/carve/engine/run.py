"""Run: a compression method on an unmodified model, put on by hooks, taken off without a trace."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from foveate.carve.engine.assisted import PromptFirst
from foveate.carve.engine.before_shortening import check_steps, counts_places
from foveate.carve.engine.call import Call
from foveate.carve.engine.calls import Calls, Generation
from foveate.carve.engine.checkpointed import (
    refuse_hooks_that_run_again,
    without_unused_cache,
)
from foveate.carve.engine.counted import check_sizes
from foveate.carve.engine.decide import Group
from foveate.carve.engine.explicit_mask import ExplicitMask
from foveate.carve.engine.forward_pass import ForwardPass
from foveate.carve.engine.generating import (
    given_ids,
    num_prompts,
    refuse_chunks,
    refuse_compiled,
    refuse_continuous_batching,
)
from foveate.carve.engine.host_prompt import HostPrompt
from foveate.carve.engine.image_state import ImagePlan
from foveate.carve.engine.labels import Labels, last_rows, refuse_labels
from foveate.carve.engine.pass_report import pass_report
from foveate.carve.engine.recorders import put_on_recorders
from foveate.carve.engine.renumbered import renumbers
from foveate.carve.engine.replay import Replay
from foveate.carve.engine.setting import Setting
from foveate.carve.engine.short_prompt import ShortPrompt
from foveate.carve.method import Method
from foveate.core.report import Report
from foveate.errors import MethodError, UnsupportedModeError
from foveate.models.anatomy import anatomy_of
from foveate.models.attachment import Attachment, bound_arguments
from foveate.models.family import Cut
from foveate.models.hook import hook_after, hook_before


class Run(Attachment[Report]):
    """A method on a model, and the record of what it did. Made by `foveate.attach`.

    Any number of threads may call the model meanwhile. `plans`, `decisions`, `report`,
    `visual_mask` and `next_serial` are each thread's own.

    Args:
        model, method, visual_mask: see `foveate.attach`.
        cut: "in_llm" to drop tokens between decoder layers, "before_llm" to shorten the prompt
            before the decoder; None for what the family allows (the first, if it can).

    Attributes:
        cut: the one in force.
        method: the method in force.
        report: what happened in the last prefill (a Report); None before the first.
        reports: of the prefills of all threads, oldest first.
        plans: ImagePlan of every image of the last prefill: where it sat, what was kept.
        decisions: the same step by step: layer -> Groups of images that lost tokens there.
        visual_mask: explicit positions, see `foveate.attach`. What the thread that made the run
            assigns is for threads that assign none, too.
        next_serial: running number of the next image, which seeds random methods; set it to go on
            where another run left off. None, as it is at first: the prompt itself seeds them, so
            that a prompt is treated alike whenever and beside whatever it comes.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        *,
        visual_mask: Tensor | None = None,
        cut: Cut | None = None,
    ) -> None:
        if not isinstance(method, Method):
            raise MethodError(
                f"got {method!r} as the method; pass an instance such as "
                "foveate.TokenCarve(keep_tokens=128), or a name with keep=."
            )
        refuse_compiled(model)
        super().__init__(anatomy_of(model, with_explicit_mask=visual_mask is not None))
        self.model = model
        self.method = method
        self._given_mask = visual_mask
        self._here = Calls()
        self._here.is_owner = True
        anatomy = self._anatomy
        # Inside a PEFT wrapper it is the transformers model that is called.
        self._host: Any = anatomy.model
        self._generator: Any = anatomy.generator
        family = anatomy.family
        self.cut: Cut = family.cut if cut is None else cut
        # Features that the decoder adds to visual tokens go with the tokens of a shorter prompt.
        is_before = self.cut == "before_llm"
        first = 0 if is_before else family.first_layer(anatomy.config)
        steps = method.steps(len(anatomy.layers), first)
        if is_before:
            check_steps(steps, family)
        check_sizes(steps, anatomy, self.cut)
        self.steps = {step.layer: step for step in steps}
        self.prune_layer = steps[0].layer
        self._renumbers = renumbers(steps, anatomy)
        self._setting: Setting | None = None

    @property
    def label(self) -> str:
        return str(self.method)

    @property
    def plans(self) -> list[ImagePlan]:
        return self._here.plans

    @property
    def decisions(self) -> dict[int, list[Group]]:
        return self._here.decisions

    @property
    def next_serial(self) -> int | None:
        return self._here.next_serial

    @next_serial.setter
    def next_serial(self, number: int | None) -> None:
        self._here.next_serial = number

    @property
    def visual_mask(self) -> Tensor | None:
        mask = self._explicit_mask()
        return mask.mask if mask is not None else None

    @visual_mask.setter
    def visual_mask(self, mask: Tensor | None) -> None:
        here = self._here
        if here.is_owner:  # it may let another thread generate, as streams do
            self._given_mask = mask
        here.has_own_mask = not here.is_owner
        here.explicit_mask = ExplicitMask(mask) if mask is not None else None

    def _explicit_mask(self) -> ExplicitMask | None:
        """This thread's, made of what the owner gave where the thread has said nothing."""
        here, given = self._here, self._given_mask
        if not here.has_own_mask:
            if given is None:
                here.explicit_mask = None
            elif here.explicit_mask is None or here.explicit_mask.given is not given:
                here.explicit_mask = ExplicitMask(given)
        return here.explicit_mask

    @contextmanager
    def one_prompt(self) -> Iterator[None]:
        """Plain calls in here that lengthen a prompt, without a cache, are one generation.

        The first one's decisions are applied again, as in `generate`. Outside, every call without a
        cache is a prompt of its own.
        """
        before = self._here.generation
        self._here.generation = Generation()
        try:
            yield
        finally:
            self._here.generation = before

    def detach(self) -> None:
        """Restore the model exactly. Harmless if already detached.

        A KV cache that was carved raises CarvedCacheError when decoding goes on without a run.
        """
        super().detach()

    def _install(self) -> None:
        anatomy, layers, host = self._anatomy, self._anatomy.layers, self._host
        self._refuse_compiled()
        self._setting = put_on_recorders(
            self._put_on,
            anatomy,
            self.method,
            self.steps,
            reads_ahead=self.cut == "in_llm",
            renumbers=self._renumbers,
            after_attention=self._after_attention,
        )
        base, decoder = anatomy.base, anatomy.decoder
        self._put_on(hook_before(base, self._before_base))
        if self.cut == "before_llm" or self._setting.foresight:
            self._put_on(hook_before(decoder, self._before_decoder))
        if self.cut == "before_llm":
            self._put_on(hook_after(decoder, self._after_decoder, always=True))
        is_inside = self.cut == "in_llm" or counts_places(anatomy)
        for i, layer in enumerate(layers if is_inside else ()):
            self._put_on(hook_before(layer, functools.partial(self._before_layer, i)))
            if i < max(self.steps):  # what comes behind the last step is not looked at
                self._put_on(hook_after(layer, self._after_layer))
        self._put_on(hook_after(base, self._after_base, always=True))
        if host is not base:
            self._put_on(hook_before(host, self._before_model))
            self._put_on(hook_after(host, self._after_model, always=True))
        generator = self._generator
        if generator is not host:
            self._put_on(hook_before(generator, self._before_model))
            self._put_on(hook_after(generator, self._after_model, always=True))
        if hasattr(generator, "generate"):
            self._wrap(generator, "generate", self._guarded_generate)
            self._wrap(generator, "_get_candidate_generator", self._prompt_first)
        for owner in dict.fromkeys((host, generator)):
            for name in ("generate_batch", "init_continuous_batching"):
                if hasattr(owner, name):
                    self._wrap(owner, name, refuse_continuous_batching)

    def _refuse_compiled(self) -> None:
        for module in (self._host, self._generator, self._anatomy.base, self._anatomy.decoder):
            refuse_compiled(module)

    def _forget(self) -> None:
        self._setting = None
        self._here.forget()

    # --- hooks ---

    def _guarded_generate(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        """Open a generation; refuse what hooks cannot see from inside a forward pass."""

        def guarded(*args: Any, **kwargs: Any) -> Any:
            refuse_chunks(self._generator, kwargs)
            here = self._here
            outer, here.generation = (
                here.generation,
                Generation(num_prompts=num_prompts(args, kwargs)),
            )
            here.prompt = self._told_prompt(given_ids(args, kwargs), kwargs.get("inputs_embeds"))
            if self._setting is not None:
                self._setting.recorder.expect()
            try:
                return generate(*args, **kwargs)
            finally:
                here.generation, here.prompt = outer, None

        return guarded

    def _told_prompt(self, ids: Any, embeds: Any) -> HostPrompt | None:
        """What the host tells of embeddings that its language model is about to read."""
        host = self._anatomy.family.host
        is_told = host is not None and not host.mask and isinstance(ids, Tensor)
        return HostPrompt(ids) if is_told and embeds is not None else None

    def _prompt_first(self, make: Callable[..., Any]) -> Callable[..., Any]:
        def make_prompt_first(*args: Any, **kwargs: Any) -> Any:
            return PromptFirst(make(*args, **kwargs))

        return make_prompt_first

    def _before_model(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        here = self._here
        labels, args, kwargs = Labels.of(module, args, kwargs)
        here.labels = labels or here.labels
        if module is self._host:
            inputs = bound_arguments(module, args, kwargs)
            here.prompt = self._told_prompt(inputs.get("input_ids"), True)
        return args, kwargs

    def _after_model(self, module: nn.Module, args: Any, output: Any) -> None:
        """Runs after an exception too, which may have come before the base model's call."""
        self._here.labels = self._here.prompt = None

    def _before_base(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        assert self._setting is not None
        self._refuse_compiled()
        refuse_hooks_that_run_again(self._anatomy.layers)
        here = self._here
        if here.generation is None:
            self._setting.recorder.expect()
        generation = here.generation or Generation()
        inputs = bound_arguments(module, args, kwargs)
        if self._host is self._anatomy.base:
            refuse_labels(inputs)
        labels, here.labels = here.labels, None
        prompt, here.prompt = here.prompt, None
        call = Call.of(
            inputs, self._anatomy, self._explicit_mask(), generation.num_prompts, labels, prompt
        )
        replay = generation.replay
        again = replay.continued_by(call) if replay is not None else None
        if replay is not None and not replay.has_ids and self._anatomy.family.host is not None:
            raise UnsupportedModeError(
                "without a cache a prompt comes again with every token, and a prompt of embeddings "
                "cannot be told from another one, so what was dropped of it cannot be dropped "
                "again; leave use_cache unset."
            )
        kind = ForwardPass if self.cut == "in_llm" else ShortPrompt
        here.forward = kind(
            self._setting,
            again or call,
            first_serial=here.next_serial,
            replay=replay if again is not None else None,
        )

    def _before_decoder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        forward = self._here.forward
        if isinstance(forward, ForwardPass):
            return forward.enter_decoder(args, kwargs)
        if not isinstance(forward, ShortPrompt):
            raise self._called_past_base(f"the decoder, {type(module).__name__},")
        return forward.enter_decoder(args, kwargs)

    def _after_decoder(self, module: nn.Module, args: Any, output: Any) -> None:
        """Runs after an exception too, with output None."""
        if isinstance(self._here.forward, ShortPrompt):
            self._here.forward.leave_decoder(output)

    def _before_layer(
        self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        forward = self._here.forward
        if forward is None:
            raise self._called_past_base(f"decoder layer {index}")
        if isinstance(forward, ShortPrompt):
            return forward.enter_layer(module, args, kwargs)
        return forward.enter_layer(index, args, without_unused_cache(module, kwargs))

    def _called_past_base(self, what: str) -> UnsupportedModeError:
        return UnsupportedModeError(
            f"{what} was called past {type(self._anatomy.base).__name__}, where foveate sees what "
            "a call brings, so nothing would be compressed; call the model itself, or detach first."
        )

    def _after_layer(self, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(self._here.forward, ForwardPass):
            self._here.forward.after_layer(output)

    def _after_attention(self, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(self._here.forward, ForwardPass):
            self._here.forward.after_attention(output[0])

    def _after_base(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Runs after an exception too, with output None."""
        here = self._here
        forward, here.forward = here.forward, None
        if self._setting is not None:
            for recorder in self._setting.row_recorders.values():
                recorder.here.forget()
            self._setting.recorder.expect()
        if output is None or forward is None:
            return None
        forward.finish()
        labels, left = forward.call.labels, forward.left
        if labels is not None and left is not None:
            output = labels.put_back(output, left.rows, left.keep_mask)
        elif left is not None:
            output = last_rows(output, forward.call.inputs.get("logits_to_keep"))
        generation = here.generation
        # Without a cache, every pass of a generation brings the prompt again.
        is_again = forward.used_cache is None and generation is not None and generation.has_begun
        if forward.is_prefill and not is_again:
            if here.next_serial is not None:
                here.next_serial += len(forward.image_plans)
            here.plans, here.decisions = forward.image_plans, forward.groups
            self._add_report(pass_report(forward))
        if generation is not None:
            generation.has_begun = True
            if forward.used_cache is None and forward.fired:
                if forward.replay is None:
                    generation.replay = Replay(forward.call, forward.groups)
                else:
                    forward.replay.advance(forward.call)
        return output
