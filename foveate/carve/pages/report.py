"""What a text costs as pages and as text, and what reading it did, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from foveate.carve.pages.proof import Legibility
from foveate.core.report import Listed


@dataclass(frozen=True, kw_only=True)
class PageCost:
    """Tokens of one question about one text, both ways; every number is counted, none estimated.

    Args:
        question_tokens: of the prompt without the text: the question and the chat template.
        text_tokens: what the text adds to it as text.
        visual_tokens: of all pages, before carving.
        kept_tokens: of all pages, after carving.
        exact_tokens: of the list of exact strings.
        overhead_tokens: the rest of the prompt with pages, such as markers around each picture.
    """

    question_tokens: int
    text_tokens: int
    visual_tokens: int
    kept_tokens: int
    exact_tokens: int
    overhead_tokens: int

    @property
    def page_tokens(self) -> int:
        """What the text costs as pages, after carving."""
        return self.kept_tokens + self.exact_tokens + self.overhead_tokens

    @property
    def saved_tokens(self) -> int:
        """Negative where pages cost more."""
        return self.text_tokens - self.page_tokens

    @property
    def pays(self) -> bool:
        """Whether pages cost less than the text."""
        return self.saved_tokens > 0

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt with pages, before carving: what the model's window must hold."""
        return self.question_tokens + self.visual_tokens + self.exact_tokens + self.overhead_tokens

    def to_dict(self) -> dict[str, Any]:
        """All fields and what follows from them."""
        derived = ("page_tokens", "saved_tokens", "pays", "prompt_tokens")
        return {**asdict(self), **{name: getattr(self, name) for name in derived}}

    def __str__(self) -> str:
        return (
            f"{self.page_tokens} tokens as pages ({self.kept_tokens} of {self.visual_tokens} "
            f"visual tokens, {self.exact_tokens} for exact strings, {self.overhead_tokens} around "
            f"the pages), {self.text_tokens} as text"
        )


@dataclass(frozen=True, kw_only=True)
class PageReport(Listed):
    """How a question about a text was answered.

    Args:
        road: "pages", or "text" where pages did not pay or fit and text was allowed.
        reason: why the text was read as text; "" for pages.
        cost: None where the pages did not fit the model's window.
        num_pages: pages shown.
        page: settings of the layout.
        num_exact: exact strings listed beside the pages.
        left_out: exact strings that the budget had no room for.
        missing: characters no font could draw, with their counts.
        legibility: what a proofreader misread on the pages; None where there was none.
        method: of carving, with its budget.
        kv_bytes: KV cache after the prefill that answered.
        kv_bytes_uncarved: the same with all visual tokens.
        kv_bytes_text: the same for the text as text; None if that was not run.
        seconds: from text to answer: drawing, image processing, vision tower, decoding.
        seconds_text: from text to answer as text; None if that was not run. One run each.
        text_answer: what the model said to the text as text.
        no_text: why the text was not run as text; "" if it was.
    """

    road: Literal["pages", "text"]
    reason: str = ""
    cost: PageCost | None = None
    num_pages: int = 0
    page: Mapping[str, Any] = field(default_factory=dict)
    num_exact: int = 0
    left_out: Sequence[str] = ()
    missing: Mapping[str, int] = field(default_factory=dict)
    legibility: Legibility | None = None
    method: str = ""
    kv_bytes: int | None = None
    kv_bytes_uncarved: int | None = None
    kv_bytes_text: int | None = None
    seconds: float = 0.0
    seconds_text: float | None = None
    text_answer: str | None = None
    no_text: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        plain = {**vars(self), "cost": self.cost.to_dict() if self.cost else None}
        return {
            **plain,
            "page": dict(self.page),
            "left_out": list(self.left_out),
            "missing": dict(self.missing),
            "legibility": self.legibility.to_dict() if self.legibility else None,
        }

    def lines(self) -> list[tuple[str, str]]:
        out: list[tuple[str, str]] = []
        if self.road == "text":
            out.append(("read as text", self.reason))
        else:
            size = f"{self.page.get('width')} x {self.page.get('height')} px"
            out.append(("pages", f"{self.num_pages} of {size}, {self.method}"))
        if self.cost is not None:
            out += [("as pages", self._as_pages(self.cost)), ("as text", self._as_text(self.cost))]
        if self.kv_bytes is not None:
            out.append(("KV cache", self._kv()))
        out.append(("time", self._time()))
        if self.left_out:
            shown = ", ".join(self.left_out[:5])
            more = f" and {len(self.left_out) - 5} more" if len(self.left_out) > 5 else ""
            out.append(("left out", f"{len(self.left_out)} exact strings: {shown}{more}"))
        if self.missing:
            out.append(("not drawn", f"{sum(self.missing.values())} characters no font has"))
        if self.legibility is not None:
            out.append(("legible", str(self.legibility)))
        return out

    def _as_pages(self, cost: PageCost) -> str:
        return (
            f"{cost.page_tokens} tokens: {cost.visual_tokens} -> {cost.kept_tokens} visual, "
            f"{cost.exact_tokens} for {self.num_exact} exact strings, "
            f"{cost.overhead_tokens} around the pages"
        )

    def _as_text(self, cost: PageCost) -> str:
        ratio = cost.text_tokens / cost.page_tokens
        return f"{cost.text_tokens} tokens ({ratio:.2f} times as many)"

    def _kv(self) -> str:
        parts = [_kib(self.kv_bytes)]
        if self.road == "pages":
            parts.append(f"{_kib(self.kv_bytes_uncarved)} with all visual tokens")
        if self.kv_bytes_text is not None and self.road == "pages":
            parts.append(f"{_kib(self.kv_bytes_text)} as text")
        return ", ".join(parts)

    def _time(self) -> str:
        if self.road == "text":
            return f"{self.seconds:.2f} s"
        if self.seconds_text is None:
            return f"{self.seconds:.2f} s; as text not run: {self.no_text}"
        return f"{self.seconds:.2f} s, {self.seconds_text:.2f} s as text (one run each)"


def _kib(num_bytes: int | None) -> str:
    return f"{(num_bytes or 0) / 1024:,.1f} KiB"
