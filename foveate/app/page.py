"""The playground's page: Gradio components, wired to the logic of `carve` and `read`."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from foveate.app.carve import Carver
from foveate.app.carve_html import agreement_html, answers_html, error_html, map_html
from foveate.app.examples import image_examples, text_examples
from foveate.app.limits import Limits
from foveate.app.read import RECENT, TextReader
from foveate.app.read_html import (
    reading_answers_html,
    reading_counts_html,
    strips_html,
    text_parts_html,
)
from foveate.app.uploads import Uploads
from foveate.carve.compare.agreement import Agreement
from foveate.carve.spec import method_class
from foveate.errors import FoveateError

__all__ = ["build_page"]

logger = logging.getLogger(__name__)

# One model, one request at a time; the others wait in Gradio's queue, which shows their place.
QUEUE: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model"}
UPLOADS_STAY = (600, 3600)  # seconds: how often to look for old uploads, when they are old
KEEP = 50
MAX_RECENT = 1024
BROKEN = "something went wrong in the playground; its terminal says what."


def build_page(
    carver: Carver,
    reader: TextReader | None,
    limits: Limits,
    uploads: Uploads,
    *,
    no_reader: str = "",
) -> Any:
    """The page as Gradio Blocks.

    Args:
        carver: of the Carve tab.
        reader: of the Read tab; None where there is no Vist to read with.
        limits: of uploads and texts.
        uploads: the only folder whose files are opened.
        no_reader: why there is none, a sentence.
    """
    with gr.Blocks(
        title="foveate play", analytics_enabled=False, delete_cache=UPLOADS_STAY
    ) as page:
        gr.Markdown(
            "# foveate play\nSee what a model keeps of an image, or of a long text, and whether "
            "its answer stays. Everything runs on this machine."
        )
        with gr.Tabs():
            with gr.Tab("Carve"):
                _carve_tab(carver, limits, uploads)
            with gr.Tab("Read"):
                if reader is None:
                    gr.HTML(error_html(no_reader), elem_classes="results")
                else:
                    _read_tab(reader, limits, uploads)
    _fetch_nothing(page, uploads)
    return page


def _carve_tab(carver: Carver, limits: Limits, uploads: Uploads) -> None:
    examples = {example.name: example for example in image_examples()}
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            image = gr.Image(
                label="Image",
                type="filepath",
                image_mode=None,
                format="png",  # examples too reach the model as they are
                sources=["upload", "clipboard"],
                buttons=[],
                height=300,
                elem_id="carve-image",
            )
            # The file comes as it is: `Limits.image` opens it, or says why it cannot. On the
            # instance, because Gradio writes a stub file beside every subclass.
            image.preprocess = _path_of
            example = gr.Dropdown(
                list(examples), value=None, label="Or a bundled example", filterable=False
            )
            question = gr.Textbox(label="Question", lines=1, max_length=limits.question_chars)
            method = gr.Dropdown(
                carver.methods,
                value=carver.initial,
                label="Method",
                filterable=False,
            )
            about = gr.Markdown(_about(carver.initial))
            keep = gr.Slider(1, 100, value=KEEP, step=1, label="Visual tokens to keep, %")
            longest = gr.Slider(
                1, limits.new_tokens, value=min(16, limits.new_tokens), step=1,
                label="Longest answer, tokens",
            )  # fmt: skip
            ask = gr.Button("Answer", variant="primary")
            error = gr.HTML(elem_classes=["results", "mistakes"], elem_id="carve-error")
        with gr.Column(scale=4, min_width=320):
            answers = gr.HTML(
                "<p>Pick an example or drop an image, ask, and press Answer.</p>",
                elem_classes="results",
                elem_id="carve-answers",
            )
            tokens = gr.HTML(elem_classes="results", elem_id="carve-map")
            plot = gr.HTML(elem_classes="results", elem_id="carve-agreement")

    def pick(name: str | None) -> tuple[Any, Any]:
        if name is None:
            return gr.skip(), gr.skip()
        return examples[name].image, examples[name].question

    def checked(path: str | None) -> str:
        """Say at once what is wrong with an upload."""
        if path is not None:
            limits.image(uploads.own(path))
        return ""

    def run(
        path: str | None,
        text: str,
        name: str,
        percent: float,
        new_tokens: float,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> Iterator[tuple[Any, Any, Any, str]]:
        asked = limits.image(path and uploads.own(path)), limits.question(text)
        longest_answer = limits.answer_length(new_tokens)
        progress(0.1, desc="Answering")
        carving = carver.carve(*asked, name, percent / 100, max_new_tokens=longest_answer)
        points: list[Agreement] = []
        ratio, doubt = percent / 100, carving.doubt
        shown = answers_html(carving), map_html(carving)
        yield "", *shown, agreement_html(points, ratio, doubt)
        for point in carver.agreement(carving):
            points.append(point)
            yield gr.skip(), gr.skip(), gr.skip(), agreement_html(points, ratio, doubt)

    example.change(pick, example, [image, question])
    image.upload(_in_sentences(checked, 1), image, error, **QUEUE)
    method.change(_about, method, about)
    gr.on(
        [ask.click, question.submit],
        _streamed(run, 4),
        [image, question, method, keep, longest],
        [error, answers, tokens, plot],
        **QUEUE,
    )


def _read_tab(reader: TextReader, limits: Limits, uploads: Uploads) -> None:
    examples = {example.name: example for example in text_examples()}
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            text = gr.Textbox(label="Long text", lines=10, max_lines=16)
            file = gr.File(
                label="Or a text file (UTF-8)", type="filepath", file_count="single", height=120
            )
            file.preprocess = _path_of
            example = gr.Dropdown(
                list(examples), value=None, label="Or a bundled text", filterable=False
            )
            question = gr.Textbox(label="Question; leave empty to continue the text", lines=1)
            recent = gr.Slider(
                16, MAX_RECENT, value=RECENT, step=16, label="Tokens at the end that stay text"
            )
            longest = gr.Slider(
                1, limits.new_tokens, value=min(24, limits.new_tokens), step=1,
                label="Longest answer, tokens",
            )  # fmt: skip
            go = gr.Button("Read", variant="primary")
            error = gr.HTML(elem_classes=["results", "mistakes"], elem_id="read-error")
        with gr.Column(scale=4, min_width=320):
            counts = gr.HTML(
                "<p>Paste a text, drop a file or pick one, and press Read.</p>",
                elem_classes="results",
                elem_id="read-counts",
            )
            answers = gr.HTML(elem_classes="results", elem_id="read-answers")
            strips = gr.HTML(elem_classes="results", elem_id="read-strips")
            parts = gr.HTML(elem_classes="results", elem_id="read-parts")

    def pick(name: str | None) -> tuple[Any, Any]:
        if name is None:
            return gr.skip(), gr.skip()
        return examples[name].text, examples[name].question

    def opened(path: str | None) -> tuple[str, Any]:
        if path is None:
            return "", gr.skip()
        return "", limits.text_file(uploads.own(path))

    def run(
        pasted: str,
        asked: str,
        raw: float,
        new_tokens: float,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> Iterator[tuple[str, str, str, str, str]]:
        long = limits.text(pasted)
        wanted = limits.question(asked) if (asked or "").strip() else None
        longest_answer = limits.answer_length(new_tokens)
        progress(0.1, desc="Drawing and reading")
        for state in reader.read(long, wanted, recent=int(raw), max_new_tokens=longest_answer):
            yield (
                "",
                reading_counts_html(state),
                reading_answers_html(state),
                strips_html(state.strips),
                text_parts_html(state),
            )

    example.change(pick, example, [text, question])
    file.upload(_in_sentences(opened, 2), file, [error, text])
    go.click(
        _streamed(run, 5),
        [text, question, recent, longest],
        [error, counts, answers, strips, parts],
        **QUEUE,
    )


def _fetch_nothing(page: Any, uploads: Uploads) -> None:
    """Leave every path that a request or an answer names where it is.

    For any component Gradio would copy a file it is told of into its folder, and download what
    looks like a web address. All that this page shows lies in its folder already.
    """

    def staying(block: Any) -> Any:
        async def stay(path: Any) -> str | None:
            if path is None:
                return None
            own = str(uploads.own(path))
            block.temp_files.add(own)  # forgotten when it is old
            return own

        return stay

    for block in page.blocks.values():
        block.async_move_resource_to_block_cache = staying(block)


def _path_of(payload: Any) -> str | None:
    return payload.path if payload is not None else None


def _about(name: str) -> str:
    """What a method does, in a line."""
    cls = method_class(name)
    if cls is None or not cls.summary:  # settings in brackets say it themselves
        return ""
    return f"*{cls.summary}*" + (f" ({cls.paper})" if cls.paper else "")


def _in_sentences(work: Callable[..., Any], outputs: int) -> Callable[..., Any]:
    """Errors become the first output, a sentence; the other outputs stay."""

    @functools.wraps(work)
    def safe(*args: Any) -> Any:
        try:
            return work(*args)
        except Exception as error:
            sentence = error_html(_sentence(error))
            return (sentence, *[gr.skip()] * (outputs - 1)) if outputs > 1 else sentence

    return safe


def _streamed(work: Callable[..., Iterator[Any]], outputs: int) -> Callable[..., Iterator[Any]]:
    """The same for a generator; an error clears what an earlier request showed."""

    @functools.wraps(work)
    def safe(*args: Any, **kwargs: Any) -> Iterator[Any]:
        try:
            yield from work(*args, **kwargs)
        except Exception as error:
            yield (error_html(_sentence(error)), *[""] * (outputs - 1))

    return safe


def _sentence(error: Exception) -> str:
    """Errors raised on purpose are sentences; of others only the terminal knows more."""
    if isinstance(error, FoveateError):
        return str(error)
    logger.error("the playground failed", exc_info=error)
    return BROKEN
