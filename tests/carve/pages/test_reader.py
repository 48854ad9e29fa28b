"""PageReader: the price in tokens is exact on every family, and it declines where pages lose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import foveate
from foveate.carve.pages.exact import ExactRules
from foveate.carve.pages.fact_sheet import PER_PAGE, FactSheetLayout, fact_sheet
from foveate.carve.pages.plan import PromptCounter, text_prompt
from foveate.carve.pages.reader import PageReader
from foveate.carve.pages.size import page_size
from foveate.errors import BudgetError, DeclinedError, InputError, WindowError
from foveate.models.processor import load_processor
from foveate.models.vlm import VisionLanguageModel
from foveate.tasks.reading import page_at
from tests import tiny_vlm as tiny
from tests.models.test_processors import CASES, save_processor

QUESTION = "what color ?"
TEXT = "word30 is 4711\nand word31 is 0xff\n" * 3


@pytest.fixture(scope="module")
def vlm_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], VisionLanguageModel]:
    """Tiny random models with their families' real processors, built once each."""
    built: dict[str, VisionLanguageModel] = {}

    def build(name: str) -> VisionLanguageModel:
        if name not in built:
            folder = tmp_path_factory.mktemp(name)
            save_processor(CASES[name], folder)
            model = tiny.build(name)
            processor = load_processor(str(folder), model.config.model_type)
            built[name] = VisionLanguageModel(name=name, model=model, processor=processor)
        return built[name]

    return build


@pytest.fixture(scope="module")
def embedded() -> PageReader:
    return PageReader("embedded")


@pytest.fixture(scope="module")
def sheet() -> str:
    """An item a line, enough for two pages."""
    cells = [cell for cell in page_at(2, 0).cells if cell.kind == "item"]
    return fact_sheet((cells * 2)[: PER_PAGE + 3])


def length(inputs: dict[str, Any]) -> int:
    return int(inputs["input_ids"].shape[1])


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # in PaliGemma's processor
@pytest.mark.parametrize("name", CASES)
def test_the_price_is_exact(name: str, vlm_of: Callable[[str], VisionLanguageModel]) -> None:
    """What is counted before is what the model then is given, keeps and holds."""
    vlm = vlm_of(name)
    method = foveate.TokenCarve(keep_ratio=0.4, prune_layer=CASES[name].first_layer)
    reader = PageReader(vlm, method=method)
    plan = reader.plan(TEXT, QUESTION, max_new_tokens=2)
    assert len(plan.pages) > 1
    with foveate.attach(vlm.model, method) as run:
        vlm.answer(plan.inputs, max_new_tokens=2)
    report, cost = run.report, plan.cost
    assert report is not None
    assert report.fired
    assert len(report.images) == len(plan.pages)
    assert (report.before, report.kept) == (cost.visual_tokens, cost.kept_tokens)
    assert report.length_before == length(plan.inputs) == cost.prompt_tokens
    assert report.length_after == cost.question_tokens + cost.page_tokens
    bare, raw = (vlm.inputs(t) for t in (QUESTION, text_prompt(TEXT, QUESTION)))
    assert cost.question_tokens == length(bare)
    assert cost.text_tokens == length(raw) - length(bare)
    listed = vlm.inputs(f"{plan.exact.text}\n\n{QUESTION}")
    assert plan.exact.num_kept == 4
    assert cost.exact_tokens == length(listed) - length(bare) > 0
    assert cost.overhead_tokens >= 0


@pytest.mark.parametrize("name", ["llava", "idefics3"])
def test_without_carving_and_without_exact_strings(
    name: str, vlm_of: Callable[[str], VisionLanguageModel]
) -> None:
    reader = PageReader(vlm_of(name), method=foveate.NoOp(), rules=ExactRules(kinds=()))
    cost = reader.plan(TEXT, QUESTION).cost
    assert (cost.exact_tokens, cost.kept_tokens) == (0, cost.visual_tokens)
    assert cost.prompt_tokens == cost.question_tokens + cost.page_tokens


@pytest.mark.parametrize(
    ("name", "size", "crop"),
    [
        ("llava", (24, 24), None),
        ("llava_next", (48, 48), None),
        ("llava_onevision", (24, 24), None),
        ("qwen2_vl", (64, 64), 8),
        ("idefics3", (48, 48), 24),
        ("internvl", (24, 24), None),
        ("paligemma", (24, 24), None),
        ("gemma3", (24, 24), None),
    ],
)
@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_page_suits_the_processor(
    name: str,
    size: tuple[int, int],
    crop: int | None,
    vlm_of: Callable[[str], VisionLanguageModel],
) -> None:
    counter = PromptCounter(vlm_of(name))
    page = page_size(counter.vlm.processor, counter.page_tokens)
    assert ((page.width, page.height), page.crop_px) == (size, crop)
    # A token stands for as many pixels as the page says.
    tokens = counter.page_tokens(size)
    assert page.cell_px**2 * tokens == pytest.approx(size[0] * size[1])


def test_a_lower_last_page_costs_less(vlm_of: Callable[[str], VisionLanguageModel]) -> None:
    reader = PageReader(vlm_of("qwen2_vl"), method=foveate.TokenCarve(keep_ratio=0.5))
    plan = reader.plan("30\n" * 10, QUESTION)
    heights = [image.height for image in plan.pages.images]
    assert heights == [64, 64, 32]
    # 8 px a token; the budget is a page's own.
    assert plan.cost.visual_tokens == 8 * 8 + 8 * 8 + 8 * 4
    assert plan.cost.kept_tokens == 32 + 32 + 16


def test_a_lower_last_page_has_fewer_tiles(vlm_of: Callable[[str], VisionLanguageModel]) -> None:
    reader = PageReader(vlm_of("idefics3"), method=foveate.TokenCarve(keep_ratio=0.4))
    plan = reader.plan("30\n" * 4, QUESTION)
    assert [image.size for image in plan.pages.images] == [(48, 48), (48, 24)]
    # Four tiles and the whole picture, then two and the whole, of 9 tokens each.
    assert plan.cost.visual_tokens == 45 + 27
    assert plan.cost.kept_tokens == 18 + 11
    with foveate.attach(reader.vlm.model, reader.method) as run:
        reader.vlm.answer(plan.inputs, max_new_tokens=1)
    assert run.report is not None
    assert [(image.before, image.kept) for image in run.report.images] == [(45, 18), (27, 11)]


def test_special_tokens_in_a_document_stay_text(
    vlm_of: Callable[[str], VisionLanguageModel],
) -> None:
    reader = PageReader(vlm_of("llava"))
    plan = reader.plan("say <image> and </s> again", "what <image> ?")
    assert plan.cost.visual_tokens == 36 * len(plan.pages)
    counter = PromptCounter(reader.vlm)
    assert counter.plain("a <image> b</s>") == "a < image> b< /s>"
    assert counter.visual(counter.inputs("<image>")) == 0


def test_declines_where_the_text_is_cheaper(
    vlm_of: Callable[[str], VisionLanguageModel],
) -> None:
    reader = PageReader(vlm_of("llava"))
    with pytest.raises(DeclinedError) as raised:
        reader.read(TEXT, QUESTION)
    cost = reader.plan(TEXT, QUESTION).cost
    assert not cost.pays
    assert str(raised.value) == (
        f"rendering is not worth it, the text is cheaper: {cost.page_tokens} tokens as pages "
        f"({cost.kept_tokens} of {cost.visual_tokens} visual tokens, {cost.exact_tokens} for exact "
        f"strings, {cost.overhead_tokens} around the pages), {cost.text_tokens} as text; allow "
        "reading it as text (--or-text), or keep fewer visual tokens or exact strings, or use a "
        "smaller font."
    )


def test_reads_the_text_where_that_was_allowed(
    vlm_of: Callable[[str], VisionLanguageModel],
) -> None:
    vlm = vlm_of("llava")
    answer = PageReader(vlm).read(TEXT, QUESTION, or_text=True, max_new_tokens=3)
    report = answer.report
    assert (report.road, answer.images) == ("text", ())
    assert report.reason.startswith("it is cheaper: ")
    inputs = vlm.inputs(text_prompt(TEXT, QUESTION))
    assert answer.answer == vlm.answer(inputs, max_new_tokens=3)[0]
    # 5 layers, 2 heads of 12, keys and values, float32
    assert report.kv_bytes == length(inputs) * 5 * 2 * 12 * 2 * 4
    assert report.lines()[0] == ("read as text", report.reason)


def test_equal_prices_are_declined_and_one_token_less_is_not(embedded: PageReader) -> None:
    """The decision is the comparison of the counted tokens, at its very border."""
    sheet = "bread red 37 52\n" * 10  # 6 tokens a line
    for keep, pays in ((59, True), (60, False), (61, False)):
        method = foveate.TokenCarve(keep_tokens=keep, prune_layer=5)
        reader = PageReader(
            embedded.vlm, method=method, layout=FactSheetLayout(), rules=ExactRules(kinds=())
        )
        cost = reader.plan(sheet, "what costs 37?").cost
        assert (cost.text_tokens, cost.page_tokens, cost.pays) == (60, keep, pays)


def test_embedded_model_reads_a_fact_sheet(embedded: PageReader, sheet: str) -> None:
    facts = [line.split() for line in sheet.splitlines()]
    word, _, price, _ = facts[0]
    one_page = "\n".join(" ".join(fact) for fact in facts[:PER_PAGE])
    answer = embedded.read(one_page, f"what is the price of {word}?", max_new_tokens=4)
    report = answer.report
    assert (answer.answer, report.road, report.num_pages) == (price, "pages", 1)
    assert report.cost is not None
    assert (report.cost.visual_tokens, report.cost.kept_tokens) == (196, 49)
    assert (report.cost.exact_tokens, report.num_exact) == (0, 0)
    per_token = 8 * 4 * 64 * 2 * 4  # layers, heads, width, keys and values, float32
    question = report.cost.question_tokens
    assert report.kv_bytes == (question + 49) * per_token
    assert report.kv_bytes_uncarved == (question + 196) * per_token
    assert report.kv_bytes_text == (question + report.cost.text_tokens) * per_token
    assert report.seconds_text is not None
    assert str(report) == "\n".join(f"{k:<8}  {v}" for k, v in report.lines())
    assert "| pages |" in report.to_markdown()
    assert report.to_dict()["cost"]["pays"] is True


def test_comparison_can_be_left_out(embedded: PageReader, sheet: str) -> None:
    report = embedded.read(sheet, "what costs 37?", max_new_tokens=2, compare=False).report
    assert (report.seconds_text, report.no_text) == (None, "not asked for")
    assert report.lines()[-1][1].endswith("as text not run: not asked for")


def test_exact_strings_of_the_embedded_model_only_when_asked_for(
    embedded: PageReader, sheet: str
) -> None:
    assert embedded.plan(sheet, "what?").exact.num_kept == 0
    rules = ExactRules(kinds=("number",), max_tokens=20)
    reader = PageReader(embedded.vlm, layout=FactSheetLayout(), rules=rules)
    plan = reader.plan(sheet, "what?")
    assert 0 < plan.exact.num_kept < len(sheet.splitlines()) * 2
    assert plan.exact.left_out
    assert reader._counter.tokens_of(plan.exact.text) <= 20
    assert plan.exact.text.startswith("Page 1: ")
    report = reader.read(sheet, "what?", or_text=True, compare=False, max_new_tokens=1).report
    assert f"{len(plan.exact.left_out)} exact strings: " in dict(report.lines())["left out"]


def test_other_text_gets_plain_pages(embedded: PageReader) -> None:
    assert embedded.layout_for("bread red 37 52").to_dict()["layout"] == "fact sheet"
    plain = embedded.layout_for("Once upon a time").to_dict()
    assert (plain["layout"], plain["width"], plain["height"]) == ("text", 224, 224)


def test_page_and_font_can_be_chosen(vlm_of: Callable[[str], VisionLanguageModel]) -> None:
    reader = PageReader(vlm_of("qwen2_vl"), page=(56, 40), font_px=8, flow=True)
    assert reader.layout_for("x").to_dict() | {"lines": 0, "line_height": 0} == {
        "layout": "text", "width": 56, "height": 40, "font_px": 8, "line_height": 0, "lines": 0,
        "flow": True, "crop_px": 8,
    }  # fmt: skip
    assert {i.width for i in reader.plan(TEXT, QUESTION).pages.images} == {56}


def test_pages_beyond_the_window(embedded: PageReader, sheet: str) -> None:
    with pytest.raises(WindowError) as raised:
        embedded.plan(sheet * 20, "what costs 37?")
    assert "needs more than 5 pages of 224 x 224 px" in str(raised.value)
    assert "window of 1024 tokens holds 5 of 196 visual tokens each" in str(raised.value)
    allowed = embedded.read(sheet * 5, "what costs 37?", or_text=True, max_new_tokens=1)
    assert allowed.report.road == "text"
    assert "needs more than 5 pages" in allowed.report.reason
    with pytest.raises(WindowError, match=r"the text has .* above the model's window of 1024"):
        embedded.read(sheet * 20, "what?", or_text=True)
    with pytest.raises(WindowError, match="the text has more than 262,144 characters, above what"):
        embedded.read(sheet * 5000, "what?", or_text=True)


def test_one_page_beyond_the_window(vlm_of: Callable[[str], VisionLanguageModel]) -> None:
    reader = PageReader(vlm_of("llava"))
    with pytest.raises(WindowError, match="one page of 24 x 24 px has 36 visual tokens and the"):
        reader.plan(TEXT, QUESTION, max_new_tokens=4090)


@pytest.mark.parametrize(
    ("text", "question", "message"),
    [
        ("", "what?", "the text is empty, so there is nothing to read"),
        (" \n\t", "what?", "the text is empty, so there is nothing to read"),
        ("bread red 37 52", " ", "the question is empty; say what to find out"),
    ],
)
def test_empty_input(embedded: PageReader, text: str, question: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        embedded.read(text, question, or_text=True)


def test_budget_above_a_page(embedded: PageReader, sheet: str) -> None:
    reader = PageReader(
        embedded.vlm, method=foveate.TokenCarve(keep_tokens=197), layout=FactSheetLayout()
    )
    with pytest.raises(BudgetError, match="keep_tokens=197 exceeds the 196 visual tokens"):
        reader.plan(sheet, "what?")


def test_unknown_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; check the path"):
        PageReader(tmp_path / "nowhere")


def test_page_of_no_size(vlm_of: Callable[[str], VisionLanguageModel]) -> None:
    with pytest.raises(InputError, match="page size 0 x 24 is no size"):
        PageReader(vlm_of("llava"), page=(0, 24)).plan(TEXT, QUESTION)


def test_pages_are_priced_before_they_are_read(
    vlm_of: Callable[[str], VisionLanguageModel],
) -> None:
    reader = PageReader(vlm_of("llava"), method=foveate.DivPrune(keep_information=0.9))
    with pytest.raises(BudgetError, match=r"information=90% depends on what is in image 0, and "):
        reader.plan(TEXT, QUESTION)
