"""A text as a prompt with pages: the pages, the exact strings, and the exact price in tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from foveate.carve.pages.exact import ExactList, ExactRules, find_exact, list_by_page
from foveate.carve.pages.layout import Layout, Pages
from foveate.carve.pages.proof import Legibility
from foveate.carve.pages.report import PageCost
from foveate.core.budget import Budget
from foveate.errors import WindowError
from foveate.models.anatomy import anatomy_of, visual_token_ids
from foveate.models.special_tokens import placeholder_marks, special_tokens
from foveate.models.vlm import VisionLanguageModel

# No tokenizer averages more characters a token over a whole text, and no page that can be read
# holds more for each visual token (64 px tokens under a 6 px font: about 150).
MOST_CHARS_A_TOKEN = 256


@dataclass(frozen=True)
class PagePlan:
    """A prompt that is ready to run.

    Args:
        pages: what is shown.
        exact: the strings listed beside them.
        inputs: of `model.generate`.
        cost: in tokens, beside the same text as text.
        legibility: of the pages to a proofreader, None without one.
    """

    pages: Pages
    exact: ExactList
    inputs: dict[str, Any] = field(repr=False)
    cost: PageCost
    legibility: Legibility | None = None


class PromptCounter:
    """Counts tokens of prompts of one model through its own processor and chat template."""

    def __init__(self, vlm: VisionLanguageModel) -> None:
        self.vlm = vlm
        anatomy = anatomy_of(vlm.model, with_explicit_mask=False)
        self._visual_ids = set(visual_token_ids(anatomy).values())
        self._special = _special_tokens(vlm)
        self._page_tokens: dict[tuple[int, int], tuple[int, int]] = {}
        window = getattr(anatomy.text_config, "max_position_embeddings", None)
        self.window: int | None = int(window) if window else None

    @property
    def most_chars(self) -> int | None:
        """Longer texts exceed the window whichever way they are read; None without a window."""
        return None if self.window is None else MOST_CHARS_A_TOKEN * self.window

    def inputs(self, content: str, images: Sequence[Image.Image] = ()) -> dict[str, Any]:
        """One prompt. `content` is plain text: special tokens spelled in it stay text."""
        return self.vlm.inputs(self.plain(content), images)

    def length(self, inputs: dict[str, Any]) -> int:
        return int(inputs["input_ids"].shape[1])

    def visual(self, inputs: dict[str, Any]) -> int:
        """Visual tokens of a prompt."""
        return sum(int((inputs["input_ids"] == i).sum()) for i in self._visual_ids)

    def tokens_of(self, text: str) -> int:
        """Of a text alone, without a prompt."""
        return len(self.vlm.tokenizer(self.plain(text), add_special_tokens=False)["input_ids"])

    def page_tokens(self, size: tuple[int, int]) -> int:
        """Visual tokens of one page of (width, height) px among several.

        LLaVA-OneVision cuts a single picture into tiles, several not; so two pages are counted.
        """
        return self._probe(size)[1] // 2

    def single_page_tokens(self, size: tuple[int, int]) -> int:
        """Visual tokens of a page that is alone."""
        return self._probe(size)[0]

    def plain(self, text: str) -> str:
        """The text with the model's special tokens broken by a space after the first character.

        A document that spells `<image>` would otherwise put an image into the prompt.
        """
        for token in self._special:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def _probe(self, size: tuple[int, int]) -> tuple[int, int]:
        if size not in self._page_tokens:
            page = Image.new("RGB", size, "white")
            one, two = ([page] * n for n in (1, 2))
            self._page_tokens[size] = (
                self.visual(self.inputs("?", one)),
                self.visual(self.inputs("?", two)),
            )
        return self._page_tokens[size]


def _special_tokens(vlm: VisionLanguageModel) -> tuple[str, ...]:
    """What a tokenizer or processor treats as more than text, longest first."""
    tokens = {*special_tokens(vlm.tokenizer).values(), *placeholder_marks(vlm.processor)}
    return tuple(sorted((t for t in tokens if len(t) > 1), key=lambda t: (-len(t), t)))


def plan_pages(
    counter: PromptCounter,
    layout: Layout,
    text: str,
    question: str,
    *,
    budget: Budget,
    rules: ExactRules,
    room: int,
) -> PagePlan:
    """Lay a text out, list its exact strings, and count what the prompt costs.

    Args:
        counter: of the model.
        layout: how pages look.
        text, question: plain text, neither empty.
        budget: visual tokens to keep of each page.
        rules: which strings to list.
        room: tokens of the window that the answer needs.

    Raises:
        WindowError: the model's window cannot hold the prompt.
        BudgetError: the budget exceeds a page's visual tokens.
    """
    bare = counter.length(counter.inputs(question))
    most = _most_pages(counter, layout.size, bare + room)
    pages = layout.lay_out(text, max_pages=most)
    if not pages.complete:
        assert counter.window is not None
        raise WindowError(
            f"the text needs more than {most} pages of {layout.size[0]} x {layout.size[1]} px, and "
            f"the model's window of {counter.window} tokens holds {most} of "
            f"{counter.page_tokens(layout.size)} visual tokens each (carving comes after they "
            "entered); give a shorter text, a smaller font, or a model with a larger window."
        )
    exact = list_by_page(
        find_exact(text, rules),
        pages.ranges,
        max_tokens=rules.max_tokens,
        count_tokens=counter.tokens_of,
    )
    beside = f"{exact.text}\n\n{question}" if exact.text else question
    inputs = counter.inputs(beside, pages.images)
    visual = counter.visual(inputs)
    exact_tokens = counter.length(counter.inputs(beside)) - bare if exact.text else 0
    counts = _per_page(counter, pages, visual)
    cost = PageCost(
        question_tokens=bare,
        text_tokens=counter.length(counter.inputs(text_prompt(text, question))) - bare,
        visual_tokens=visual,
        kept_tokens=sum(budget.count(n, page) for page, n in enumerate(counts)),
        exact_tokens=exact_tokens,
        overhead_tokens=counter.length(inputs) - bare - visual - exact_tokens,
    )
    check_window(counter, cost.prompt_tokens, room, "the prompt with pages")
    return PagePlan(pages, exact, inputs, cost)


def text_prompt(text: str, question: str) -> str:
    """The same question about the text as text."""
    return f"{text}\n\n{question}"


def check_window(counter: PromptCounter, tokens: int, room: int, what: str) -> None:
    """Raises WindowError if `tokens` and the answer's `room` exceed the model's window."""
    if counter.window is not None and tokens + room > counter.window:
        raise WindowError(
            f"{what} has {tokens} tokens and the answer may have {room}, above the model's window "
            f"of {counter.window}; give a shorter text or a model with a larger window."
        )


def _most_pages(counter: PromptCounter, size: tuple[int, int], others: int) -> int | None:
    """Pages that the window has room for; None if it has no limit."""
    if counter.window is None:
        return None
    left = counter.window - others
    alone, each = counter.single_page_tokens(size), counter.page_tokens(size)
    if alone > left:
        raise WindowError(
            f"one page of {size[0]} x {size[1]} px has {alone} visual tokens and the question and "
            f"answer {others}, above the model's window of {counter.window}; use a smaller page."
        )
    return max(1, left // max(1, each))


def _per_page(counter: PromptCounter, pages: Pages, visual: int) -> list[int]:
    """Visual tokens of each page; the last one may be lower than the others."""
    sizes = [image.size for image in pages.images]
    if sizes[-1] != sizes[0]:
        full = counter.page_tokens(sizes[0])
        return [*[full] * (len(sizes) - 1), visual - full * (len(sizes) - 1)]
    assert visual % len(sizes) == 0, (visual, len(sizes))  # equal pictures, equal tokens
    return [visual // len(sizes)] * len(sizes)
