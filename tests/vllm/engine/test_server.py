"""`foveate serve` with the embedded model, against transformers with the same kept tokens."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from foveate import TokenCarve
from foveate.measure.quality import exact_match
from foveate.tasks.easy_vqa import easy_vqa_questions
from foveate.tasks.question import Question
from tests.vllm.engine.server import EMBEDDED, Answer, Server, serving

NUM_VISUAL, KEEP = 196, 49
NUM_QUESTIONS = 300
METHOD = TokenCarve(keep_tokens=KEEP, where="encoder", positions="renumbered")
# Rounding: kernels differ, and a near-tie of two tokens' scores may fall the other way.
NEAR = 2e-3


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    """Every few of the test split, one an image at most times; 224 x 224, so nothing is resized."""
    every = list(easy_vqa_questions(split="test", canvas=True))
    step = len(every) // NUM_QUESTIONS
    return every[::step][:NUM_QUESTIONS]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with serving(["-m", "foveate", "serve", "embedded", "--keep", "25%"], log) as running:
        yield running


@pytest.fixture(scope="module")
def references(questions: list[Question]) -> list[Answer]:
    from tests.vllm.engine.reference import Reference

    model = Reference(EMBEDDED, METHOD)
    return [model.ask([q.image], q.question) for q in questions]


@pytest.fixture(scope="module")
def answers(server: Server, questions: list[Question]) -> list[Answer]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda q: server.ask([q.image], q.question), questions))


def test_it_says_what_it_will_save(server: Server) -> None:
    first = server.log.read_text().splitlines()[0]
    assert first.startswith("foveate: 49 of the 196 visual tokens of an image go on")


def test_prompts_are_shorter_by_what_is_dropped(
    answers: list[Answer], references: list[Answer]
) -> None:
    assert [a.prompt_tokens for a in answers] == [r.prompt_tokens for r in references]


def test_answers_are_those_of_transformers(answers: list[Answer], references: list[Answer]) -> None:
    same = sum(a.text == r.text for a, r in zip(answers, references, strict=True))
    assert same >= 0.99 * len(answers), f"{same} of {len(answers)} answers are the same"


def test_the_same_tokens_were_kept(answers: list[Answer], references: list[Answer]) -> None:
    """Other tokens would give other probabilities."""
    distances = [
        abs(a.logprobs[0] - r.logprobs[0]) for a, r in zip(answers, references, strict=True)
    ]
    near = sum(distance < NEAR for distance in distances)
    assert near >= 0.97 * len(distances), (
        f"{near} of {len(distances)} first tokens are as likely; largest difference "
        f"{max(distances)}"
    )


def test_accuracy_is_that_of_transformers(
    questions: list[Question], answers: list[Answer], references: list[Answer]
) -> None:
    def right(given: list[Answer]) -> float:
        pairs = zip(given, questions, strict=True)
        return sum(exact_match(answer.text, q.answers) for answer, q in pairs) / len(questions)

    assert abs(right(answers) - right(references)) <= 0.01
    assert right(answers) > 0.8  # it does see


def test_64_concurrent_requests_with_any_number_of_images(
    server: Server, questions: list[Question]
) -> None:
    """Each is answered as when it is alone, whatever runs beside it and whatever is cached."""

    def ask(i: int) -> Answer:
        images = [questions[(i + j) % 7].image for j in range(i % 4)]
        return server.ask(images, questions[i].question)

    before = server.counters()
    with ThreadPoolExecutor(64) as pool:
        together = list(pool.map(ask, range(64)))
    alone = [ask(i) for i in range(64)]
    assert [a.text for a in together] == [a.text for a in alone]
    text_tokens = [a.prompt_tokens - KEEP * (i % 4) for i, a in enumerate(together)]
    assert max(text_tokens) < 30
    after = server.counters()
    num_images = 2 * sum(i % 4 for i in range(64))
    assert {name: after[name] - before[name] for name in after} == {
        "images": num_images,
        "visual_tokens": num_images * NUM_VISUAL,
        "kept_tokens": num_images * KEEP,
    }


def test_what_is_kept_does_not_depend_on_company(server: Server, questions: list[Question]) -> None:
    """The first of three images in a new batch, and alone: the same probabilities."""
    # Other pixels, so that neither is in a cache.
    images = [q.image.transpose(method) for q in questions[:8] for method in (0, 1)]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda im: server.ask([im], "what color is the shape?"), images))
    alone = [server.ask([image], "what color is the shape?") for image in images]
    for one, other in zip(together, alone, strict=True):
        assert one.text == other.text
        assert abs(one.logprobs[0] - other.logprobs[0]) < 1e-4


def test_an_impossible_request_is_answered_with_an_error(server: Server) -> None:
    with pytest.raises(AssertionError, match="400"):
        server.ask([], "what? " * 2000)
    assert server.ask([], "what color is the shape?").text


def test_budgets_of_requests_are_vllm_s_to_allow(server: Server, questions: list[Question]) -> None:
    with pytest.raises(AssertionError, match=r"400: .*--trust-request-mm-kwargs"):
        server.ask([questions[0].image], "what?", budget={"keep_ratio": 0.1})
    assert server.ask([questions[0].image], "what color is the shape?").text


def test_without_an_entry_it_is_stock_vllm(
    tmp_path: Path, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plugin loaded and not asked for anything, against no plugin: the same bits."""
    command = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(EMBEDDED)]
    found = []
    for plugins in ("foveate", "none"):
        monkeypatch.setenv("VLLM_PLUGINS", plugins)
        with serving(command, tmp_path / f"{plugins}.txt") as running:
            found.append([running.ask([q.image], q.question) for q in questions[:40]])
            text = running.get("/metrics")
            assert ("foveate_images_total" in text) == (plugins == "foveate")
    assert found[0] == found[1]
    assert found[0][0].prompt_tokens > NUM_VISUAL
