"""CarvedAnswerer on real models: order, batches, agreement with foveate's own answers, guard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import foveate
from foveate.errors import InputError, NotFiredError
from foveate.jobs.answerer import CarvedAnswerer, Request
from foveate.jobs.answerer_settings import AnswererSettings
from foveate.jobs.generation_settings import GenerationSettings
from foveate.jobs.harness_turns import question_turns
from foveate.models.load import load_vlm
from foveate.tasks.named import load_questions
from foveate.tasks.question import Question
from tests.cli.vlm_folder import NUM_VISUAL, save_tiny_vlm

SHORT = GenerationSettings.of({"max_new_tokens": 6})


def request_of(question: Question, **changes: Any) -> Request:
    return Request(
        label=question.id,
        turns=lambda: question_turns(question.question, [question.image], question.id),
        **{"settings": SHORT, **changes},
    )


def load(**settings: Any) -> CarvedAnswerer:
    return CarvedAnswerer.load(AnswererSettings.of({"pretrained": "embedded", **settings}))


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return load_questions("reading", limit=10)


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_vlm(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tiny(tiny_folder: Path) -> Callable[..., CarvedAnswerer]:
    def make(**settings: Any) -> CarvedAnswerer:
        given = {"method": "fastv", "keep_tokens": 4, **settings}
        return load(**{**given, "pretrained": str(tiny_folder)})

    return make


@pytest.mark.parametrize("name", ["tokencarve", "divprune", "noop"])
def test_answers_equal_foveates_own(name: str, questions: list[Question]) -> None:
    budget = {} if name == "noop" else {"keep_tokens": 49}
    answerer = load(method=name, batch_size=4, **budget)
    said = answerer.answer([request_of(question) for question in questions])
    tally = answerer.tally
    vlm = load_vlm("embedded")
    own = []
    with foveate.attach(vlm.model, foveate.method(name, **budget)):
        for start in range(0, len(questions), 4):
            batch = questions[start : start + 4]
            inputs = vlm.inputs([q.question for q in batch], [q.image for q in batch])
            own += vlm.answer(inputs, max_new_tokens=6)
    assert [answer.text for answer in said] == own
    assert all(1 <= answer.num_tokens <= 6 for answer in said)
    assert tally.kept == 10 * (196 if name == "noop" else 49)


def test_the_order_is_that_of_the_requests(questions: list[Question]) -> None:
    """Mixed settings go to different batches; answers come back where they belong."""
    longer = GenerationSettings.of({"max_new_tokens": 7})
    mixed = [
        request_of(question, settings=longer if i % 3 else SHORT)
        for i, question in enumerate(questions)
    ]
    done: list[int] = []
    said = load(method="noop", batch_size=3).answer(mixed, done.append)
    right = [a.text in q.answers for a, q in zip(said, questions, strict=True)]
    assert sum(right) >= 9
    assert sum(done) == 10
    assert max(done) == 3


def test_the_likeliest_option_is_what_the_model_would_say(questions: list[Question]) -> None:
    options = ["69", "no", "gray", "soup"]
    asked = [
        request_of(question, continuation=lambda option=option: f" {option}")
        for question in questions[:4]
        for option in options
    ]
    answerer = load(method="tokencarve", keep_tokens=98, batch_size=5)
    said = answerer.answer([request_of(question) for question in questions[:4]])
    scores = answerer.score(asked)
    alone = [answerer.score([request])[0] for request in asked[:3]]
    for row, answer in enumerate(said):
        losses = [score.loss for score in scores[4 * row : 4 * row + 4]]
        if answer.text in options:
            assert options[losses.index(min(losses))] == answer.text
    for score, option in zip(scores[:4], options, strict=True):
        assert score.is_greedy == (said[0].text == option)
    for one, batched in zip(alone, scores[:3], strict=True):
        assert one.log_likelihood == pytest.approx(batched.log_likelihood, abs=1e-3)


def picture(color: str = "red", size: tuple[int, int] = (32, 32)) -> Image.Image:
    return Image.new("RGB", size, color)


def ask(*images: Image.Image, **changes: Any) -> Request:
    return Request(
        label="colors/0",
        turns=lambda: question_turns("what color is the shape ?", images, "colors/0"),
        **{"settings": SHORT, **changes},
    )


def test_several_images_and_none_in_one_batch(tiny: Callable[..., CarvedAnswerer]) -> None:
    answerer = tiny(batch_size=3)
    said = answerer.answer([ask(picture(), picture("blue")), ask(), ask(picture("green"))])
    assert len(said) == 3
    assert (answerer.tally.requests, answerer.tally.with_images) == (3, 2)
    assert (answerer.tally.before, answerer.tally.kept) == (3 * NUM_VISUAL, 3 * 4)


def test_beams_count_once(tiny: Callable[..., CarvedAnswerer]) -> None:
    answerer = tiny(batch_size=2)
    beams = GenerationSettings.of({"max_new_tokens": 3, "num_beams": 3})
    answerer.answer([ask(picture(), settings=beams), ask(picture("blue"), settings=beams)])
    assert (answerer.tally.images, answerer.tally.kept) == (2, 8)


def test_sampling_follows_torchs_seed(tiny: Callable[..., CarvedAnswerer]) -> None:
    answerer = tiny()
    hot = GenerationSettings.of({"max_new_tokens": 12, "temperature": 5.0})
    said = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        said.append(answerer.answer([ask(picture(), settings=hot)])[0].text)
    assert said[0] == said[1]
    assert said[0] != said[2]


def test_an_answer_ends_at_a_stop_text(tiny: Callable[..., CarvedAnswerer]) -> None:
    answerer = tiny()
    long = GenerationSettings.of({"max_new_tokens": 12})
    (full,) = answerer.answer([ask(picture(), settings=long)])
    mark = full.text[len(full.text) // 2 :][:2]
    stopping = GenerationSettings.of({"max_new_tokens": 12, "until": [mark]})
    (short,) = answerer.answer([ask(picture(), settings=stopping)])
    assert short.text == full.text[: full.text.index(mark)].strip()
    assert short.num_tokens < full.num_tokens


def test_a_system_turn_and_square_pictures_reach_the_prompt(
    tiny: Callable[..., CarvedAnswerer], monkeypatch: pytest.MonkeyPatch
) -> None:
    answerer = tiny(system_prompt="is a circle", image_aspect_ratio="pad")
    seen: list[Any] = []
    made = answerer.vlm.processor.apply_chat_template
    monkeypatch.setattr(
        answerer.vlm.processor,
        "apply_chat_template",
        lambda turns, **kwargs: seen.extend(turns) or made(turns, **kwargs),
    )
    answerer.answer([ask(picture("blue", (32, 16)))])
    ((system, user),) = seen
    assert system == {"role": "system", "content": [{"type": "text", "text": "is a circle"}]}
    square = user["content"][0]["image"]
    assert square.size == (32, 32)
    assert square.getpixel((16, 16)) == (0, 0, 255)
    # CLIP's mean colour, above and below the picture.
    assert square.getpixel((16, 0)) == square.getpixel((16, 31)) == (122, 116, 104)


def test_a_method_that_never_fires_is_an_error(
    tiny: Callable[..., CarvedAnswerer], monkeypatch: pytest.MonkeyPatch
) -> None:
    answerer = tiny()
    monkeypatch.setattr(foveate.Run, "_install", lambda self: None)
    with pytest.raises(
        NotFiredError, match=r"colors/0 has 1 image, but fastv.* saw no visual token"
    ):
        answerer.answer([ask(picture())])
    with pytest.raises(NotFiredError, match="colors/0 has 1 image"):
        answerer.score([ask(picture(), continuation=lambda: " red")])


def test_other_use_of_the_model_is_not_counted(tiny: Callable[..., CarvedAnswerer]) -> None:
    answerer = tiny()
    inputs = answerer.vlm.inputs("what is the color ?", picture())
    with foveate.attach(answerer.vlm.model, foveate.FastV(keep_tokens=2)):
        answerer.vlm.answer(inputs, max_new_tokens=2)
    answerer.answer([ask(picture())])
    assert answerer.tally.images == 1


def test_the_model_is_restored_after_every_batch(tiny: Callable[..., CarvedAnswerer]) -> None:
    answerer = tiny()
    answerer.answer([ask(picture())])
    assert "generate" not in vars(answerer.vlm.model)
    with foveate.attach(answerer.vlm.model, foveate.FastV(keep_tokens=2)):
        pass


def test_an_empty_continuation_is_refused(tiny: Callable[..., CarvedAnswerer]) -> None:
    with pytest.raises(InputError, match="continuation '' has no tokens"):
        tiny().score([ask(picture())])


def test_pixel_limits_of_a_family_with_fixed_sizes(tiny_folder: Path) -> None:
    settings = {"pretrained": str(tiny_folder), "method": "noop", "max_pixels": 4096}
    with pytest.raises(InputError, match=r"settings of qwen2_vl.*family 'llava', whose pictures"):
        CarvedAnswerer.load(AnswererSettings.of(settings))
