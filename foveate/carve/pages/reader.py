"""PageReader: long text shown to an off-the-shelf vision-language model as carved pages."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from foveate.carve.attach import attach
from foveate.carve.method import Method
from foveate.carve.methods import NoOp
from foveate.carve.pages.defaults import PageDefaults
from foveate.carve.pages.exact import ExactRules
from foveate.carve.pages.layout import Layout, TextLayout
from foveate.carve.pages.plan import (
    PagePlan,
    PromptCounter,
    check_window,
    plan_pages,
    text_prompt,
)
from foveate.carve.pages.proof import Proofreader, proofread
from foveate.carve.pages.report import PageCost, PageReport
from foveate.carve.pages.size import PageSize, page_size
from foveate.errors import DeclinedError, InputError, WindowError
from foveate.models.load import load_vlm
from foveate.models.vlm import VisionLanguageModel


@dataclass(frozen=True, kw_only=True)
class PageAnswer:
    """An answer and how it came about.

    Args:
        answer: what the model said.
        report: tokens, memory and time of it.
        images: the pages it saw; none where it read text.
    """

    answer: str
    report: PageReport
    images: tuple[Image.Image, ...] = field(default=(), repr=False)


class PageReader:
    """Reads long text as pictures with a vision-language model that nobody trained for it.

    The text is drawn on pages, the pages' visual tokens are carved by `foveate.attach`, and strings
    that must be right to the letter stand as text beside them. Where that would cost more tokens
    than the text itself, it declines.

    Args:
        vlm: a loaded model, or a folder, a hub id, or "embedded" for the model that ships with
            foveate (which reads fact sheets only, see `foveate.carve.pages.fact_sheet`).
        method: how to carve; None is TokenCarve with a quarter of each page's tokens.
        rules: which strings to keep as text; None keeps every kind, and none for the embedded
            model, which was never shown text beside its pages.
        layout: how pages look; None suits the model.
        page: (width, height) px of a page, for `layout=None`; None suits the image processor.
        font_px: size of its font; None suits the model's visual tokens.
        flow: draw line ends as a sign, not as new lines, see TextLayout.
        fonts: font files for characters that the shipped Noto Sans lacks.
        proofreader: reads the pages before the model does; words that it misreads stand as text
            beside them, as exact strings do, and the report says which.
        device: as in load_vlm, where `vlm` is a name.

    Raises:
        InputError, UnsupportedModelError: the model cannot be loaded, or the page is impossible.

    Example:
        reader = foveate.PageReader("embedded")
        print(reader.read("bread red 37 52\\n" * 20, "what is the price of bread?").report)
    """

    def __init__(
        self,
        vlm: VisionLanguageModel | str | Path,
        *,
        method: Method | None = None,
        rules: ExactRules | None = None,
        layout: Layout | None = None,
        page: tuple[int, int] | None = None,
        font_px: int | None = None,
        flow: bool = False,
        fonts: tuple[str, ...] = (),
        proofreader: Proofreader | None = None,
        device: str = "auto",
    ) -> None:
        defaults = PageDefaults.of(vlm)
        if not isinstance(vlm, VisionLanguageModel):
            vlm = load_vlm(vlm, device=device)
        self.vlm = vlm
        self.method = method or defaults.method
        self.rules = rules or defaults.rules
        self.reads_fact_sheets_only = defaults.layout is not None
        self._counter = PromptCounter(vlm)
        self.proofreader = proofreader
        self._layout = layout
        self._page, self._font_px, self._flow, self._fonts = page, font_px, flow, fonts
        # Asking for another page or font leaves the style that the model knows.
        self._own = None if page or font_px or flow else defaults.layout

    @property
    def most_chars(self) -> int | None:
        """Longer texts are refused at once, so no more need be read; None if there is no limit."""
        return self._counter.most_chars

    def layout_for(self, text: str) -> Layout:
        """How a text is shown."""
        if self._layout is None and self._own is not None and self._own.takes(text):
            return self._own
        if self._layout is None:
            size: PageSize = page_size(self.vlm.processor, self._counter.page_tokens, self._page)
            self._layout = TextLayout(
                width=size.width,
                height=size.height,
                font_px=self._font_px,
                cell_px=size.cell_px,
                flow=self._flow,
                fonts=self._fonts,
                crop_px=size.crop_px,
                least_px=size.least_px,
            )
        return self._layout

    def plan(self, text: str, question: str, *, max_new_tokens: int = 32) -> PagePlan:
        """Lay out the text and count what it costs, without running the model.

        Raises:
            InputError: the text or the question is empty.
            WindowError: the model's window cannot hold the prompt with pages.
            BudgetError: the budget exceeds a page's visual tokens.
        """
        self._check(text, question, max_new_tokens)
        layout, rules, legibility = self.layout_for(text), self.rules, None
        if self.proofreader is not None:
            legibility = proofread(self.proofreader, getattr(layout, "style", None), text)
            rules = replace(rules, marked=(*rules.marked, *legibility.marks))
        plan = plan_pages(
            self._counter,
            layout,
            text,
            question,
            budget=self.method.budget,
            rules=rules,
            room=max_new_tokens,
        )
        return replace(plan, legibility=legibility)

    def read(
        self,
        text: str,
        question: str,
        *,
        max_new_tokens: int = 32,
        or_text: bool = False,
        compare: bool = True,
    ) -> PageAnswer:
        """Answer a question about a text from its pages.

        Args:
            text: the document.
            question: about it.
            max_new_tokens: longest answer.
            or_text: read the text as text where pages would cost more, or do not fit the model's
                window; the report says so.
            compare: also ask about the text as text, where the window allows it, and report that
                run's answer, KV bytes and time.

        Raises:
            DeclinedError: pages would cost at least as many tokens as the text (not with or_text).
            InputError, WindowError, BudgetError: as `plan`.
        """
        self._check(text, question, max_new_tokens)
        if compare:
            # One short run, so that neither of two timed ones pays for being the first.
            self.vlm.answer(self._counter.inputs(question), max_new_tokens=1)
        started = time.perf_counter()
        try:
            plan = self.plan(text, question, max_new_tokens=max_new_tokens)
        except WindowError as error:
            if not or_text:
                raise
            return self._read_text(text, question, max_new_tokens, str(error), None)
        if not plan.cost.pays:
            if not or_text:
                raise DeclinedError(declined(plan.cost))
            reason = f"it is cheaper: {plan.cost}"
            return self._read_text(text, question, max_new_tokens, reason, plan.cost)
        with attach(self.vlm.model, self.method) as run:
            (answer,) = self.vlm.answer(plan.inputs, max_new_tokens=max_new_tokens)
        seconds = time.perf_counter() - started
        assert run.report is not None
        # What really happened, should it ever differ from the plan.
        cost = replace(plan.cost, visual_tokens=run.report.before, kept_tokens=run.report.kept)
        report = PageReport(
            road="pages",
            cost=cost,
            num_pages=len(plan.pages),
            page=self.layout_for(text).to_dict(),
            num_exact=plan.exact.num_kept,
            left_out=[item.text for item in plan.exact.left_out],
            missing=dict(plan.pages.missing),
            legibility=plan.legibility,
            method=str(self.method),
            kv_bytes=run.report.kv_bytes,
            kv_bytes_uncarved=run.report.kv_bytes_uncompressed,
            seconds=seconds,
        )
        report = replace(report, **self._as_text(text, question, max_new_tokens, cost, compare))
        return PageAnswer(answer=answer, report=report, images=plan.pages.images)

    def _check(self, text: str, question: str, max_new_tokens: int) -> None:
        if not text or text.isspace():
            raise InputError("the text is empty, so there is nothing to read; give some text.")
        if not question.strip():
            raise InputError("the question is empty; say what to find out about the text.")
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens={max_new_tokens} is below 1; ask for at least one.")
        if self.most_chars is not None and len(text) > self.most_chars:
            raise WindowError(
                f"the text has more than {self.most_chars:,} characters, above what the model's "
                f"window of {self._counter.window} tokens can hold as pages or as text; give a "
                "shorter text or a model with a larger window."
            )

    def _read_text(
        self, text: str, question: str, max_new_tokens: int, reason: str, cost: PageCost | None
    ) -> PageAnswer:
        run = self._run_text(text, question, max_new_tokens)
        report = PageReport(
            road="text",
            reason=reason,
            cost=cost,
            method=str(self.method),
            kv_bytes=run["kv_bytes_text"],
            seconds=run["seconds_text"],
        )
        return PageAnswer(answer=run["text_answer"], report=report)

    def _as_text(
        self, text: str, question: str, max_new_tokens: int, cost: PageCost, compare: bool
    ) -> Mapping[str, Any]:
        """The part of a report that tells of the text as text."""
        if not compare:
            return {"no_text": "not asked for"}
        try:
            return self._run_text(text, question, max_new_tokens)
        except WindowError as error:
            return {"no_text": str(error)}

    def _run_text(self, text: str, question: str, max_new_tokens: int) -> dict[str, Any]:
        started = time.perf_counter()
        inputs = self._counter.inputs(text_prompt(text, question))
        check_window(self._counter, self._counter.length(inputs), max_new_tokens, "the text")
        with attach(self.vlm.model, NoOp()) as run:  # changes nothing, sees the cache
            (answer,) = self.vlm.answer(inputs, max_new_tokens=max_new_tokens)
        assert run.report is not None
        return {
            "text_answer": answer,
            "kv_bytes_text": run.report.kv_bytes,
            "seconds_text": time.perf_counter() - started,
        }


def declined(cost: PageCost) -> str:
    """Why pages are not worth it, in one sentence with the way out."""
    return (
        f"rendering is not worth it, the text is cheaper: {cost}; allow reading it as text "
        "(--or-text), or keep fewer visual tokens or exact strings, or use a smaller font."
    )
