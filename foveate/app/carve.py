"""The Carve tab without a browser: one question, answered in full and carved, with all details."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from PIL import Image

from foveate.carve.answerer import Answerer
from foveate.carve.attach import attach
from foveate.carve.compare.agreement import Agreement, agreement_over_budgets
from foveate.carve.engine.token_scores import StepScores, step_scores
from foveate.carve.method import Method
from foveate.carve.methods import NoOp
from foveate.carve.profile import Profile
from foveate.carve.registry import all_methods
from foveate.carve.spec import parse_method
from foveate.core.budget import Budget
from foveate.core.layout import ImageSpan
from foveate.core.plan import KeepPlan
from foveate.core.report import Report
from foveate.errors import FoveateError, InputError
from foveate.models.generation import Answer
from foveate.models.view import Box, seen_box
from foveate.models.vlm import VisionLanguageModel

__all__ = ["Carver", "Carving", "suitable_methods"]

# The full answer stands beside every result, and what is made of methods is typed, not picked.
USUAL = "tokencarve"
SURE = 0.5  # the least likely token of an answer that the model means
# Pixels of the images that the embedded model was trained on: pages, and single shapes.
EMBEDDED_SIZES = ((224, 224), (64, 64))
NOT_OFFERED = ("noop", "stack", "text-share")


@dataclass(frozen=True, kw_only=True)
class Carving:
    """One question answered twice.

    Args:
        image, question: what was asked.
        choice: the method as it was chosen, one of Carver.methods.
        method: that carved.
        full, carved: answers by token, with their times.
        full_kv_bytes, kv_bytes: of the KV cache after the prompt; None without a cache.
        report: of the carved prefill.
        span: where the image's tokens sit.
        plan: what became of them; None if the image was kept whole.
        steps: scores behind the decision, step by step.
        seen: the part of the image that the model sees, in px.
        unknown: words of the question that the model cannot read.
        caution: what to know about all answers of the model, "" for nothing.
    """

    image: Image.Image = field(repr=False)
    question: str
    choice: str
    method: Method
    full: Answer
    carved: Answer
    full_kv_bytes: int | None
    kv_bytes: int | None
    report: Report
    span: ImageSpan = field(repr=False)
    plan: KeepPlan | None = field(repr=False)
    steps: tuple[StepScores, ...] = field(repr=False)
    seen: Box
    unknown: tuple[str, ...]
    caution: str = ""

    @property
    def doubt(self) -> str:
        """Why it says little that both answers agree; "" where nothing speaks against it."""
        if self.unknown:
            return "the model does not know all words of the question."
        if self.caution and self.image.size not in EMBEDDED_SIZES:
            return self.caution
        least = min((token.probability for token in self.full.tokens), default=0.0)
        if least < SURE:
            return f"the model is not sure of it (a token of {100 * least:.0f} %)."
        return ""

    @property
    def is_same(self) -> bool:
        """Whether both answers are the same, token for token."""
        return self.full.ids == self.carved.ids


def suitable_methods(vlm: VisionLanguageModel) -> list[str]:
    """Methods that can be put on a model with their own defaults, those of packages too."""
    found = []
    for name in all_methods():
        if name in NOT_OFFERED:
            continue
        try:
            attach(vlm.model, name, keep=0.5).detach()
        except FoveateError:
            continue
        found.append(name)
    return found


class Carver:
    """Answers questions with one model, one at a time.

    Args:
        vlm: the model.
        more: methods to offer beside those that `foveate methods` lists, as --method writes them.
        profile: a setting to offer too, whose budget is its own.

    Attributes:
        methods: the choices.
        initial: the one to begin with.

    Raises:
        FoveateError: one of `more` cannot be put on the model.
    """

    def __init__(
        self, vlm: VisionLanguageModel, more: Sequence[str] = (), profile: Profile | None = None
    ) -> None:
        self.vlm = vlm
        self._tuned: dict[str, Method] = {}
        if profile is not None:
            attach(vlm.model, profile).detach()
            self._tuned[f"profile: {profile.method}"] = profile.method
        for text in more:
            attach(vlm.model, text, keep=0.5).detach()
        self.methods = list(dict.fromkeys([*self._tuned, *suitable_methods(vlm), *more]))
        usual = USUAL if USUAL in self.methods else self.methods[0]
        self.initial = next(iter(self._tuned), usual)
        # A model holds one run at a time.
        self._lock = threading.Lock()

    def warm_up(self, image: Image.Image) -> None:
        """One short answer, so that the first timed one does not pay for being the first."""
        with self._lock:
            self.vlm.answer(self.vlm.inputs("warm up", image), max_new_tokens=1)

    def method(self, name: str, keep_ratio: float) -> Method:
        """A method of the list at a budget, which a profile has of its own.

        Raises:
            InputError: it is not in the list.
            BudgetError: an impossible budget.
        """
        if name not in self.methods:
            raise InputError(
                f"method {name!r} is not offered for this model; choose one of "
                f"{', '.join(self.methods)}."
            )
        if name in self._tuned:
            return self._tuned[name]
        return parse_method(name, Budget(keep_ratio=keep_ratio))

    def carve(
        self,
        image: Image.Image,
        question: str,
        method: str,
        keep_ratio: float,
        *,
        max_new_tokens: int = 16,
    ) -> Carving:
        """Answer with all visual tokens, then with a share of them.

        Args:
            image: RGB.
            question: about it.
            method: name of one of `methods`.
            keep_ratio: share of the visual tokens to keep, in (0, 1].
            max_new_tokens: longest answer.

        Raises:
            InputError: an unknown method, or input that the processor cannot take.
            FoveateError: what `attach` raises.
        """
        chosen = self.method(method, keep_ratio)
        with self._lock:
            inputs = self.vlm.inputs(question, image)
            # NoOp changes nothing and sees the cache.
            both = [Answerer(self.vlm, one) for one in (NoOp(), chosen)]
            full, carved = (
                one.answer(inputs, probabilities=True, max_new_tokens=max_new_tokens)
                for one in both
            )
            run = both[1].run
        assert run is not None
        if len(run.plans) != 1:
            raise InputError(
                f"the model made {len(run.plans)} token groups of one image, so they cannot be "
                "drawn; use `foveate ask` for this model."
            )
        (entry,) = run.plans
        return Carving(
            image=image,
            question=question,
            choice=method,
            method=chosen,
            full=full.rows[0],
            carved=carved.rows[0],
            full_kv_bytes=full.reports[-1].kv_bytes,
            kv_bytes=carved.reports[-1].kv_bytes,
            report=carved.reports[-1],
            span=entry.span,
            plan=entry.plan,
            steps=step_scores(run),
            seen=seen_box(self.vlm.processor, image.size),
            unknown=tuple(self.vlm.unknown_words(question)),
            caution=self.vlm.caution,
        )

    def agreement(self, carving: Carving) -> Iterator[Agreement]:
        """The same question and method at all budgets, one after the other; none of a profile."""
        if carving.choice in self._tuned:
            return
        with self._lock:
            inputs = self.vlm.inputs(carving.question, carving.image)
            yield from agreement_over_budgets(
                self.vlm,
                inputs,
                carving.full.ids,
                lambda ratio: self.method(carving.choice, ratio),
            )
