"""A profile served by vLLM: what transformers answers with the same file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import foveate
from foveate.carve.profile import ModelId, Profile
from foveate.measure.quality import exact_match
from foveate.models.load import load_config, weights_of_files
from foveate.tasks.named import load_questions
from foveate.tasks.question import Question
from foveate.vllm.command import serve_command
from foveate.vllm.settings import KEY
from tests.vllm.engine.in_process import engine
from tests.vllm.engine.reference import Reference
from tests.vllm.engine.server import EMBEDDED, Answer

NUM_QUESTIONS = 300
# Rounding: kernels differ, and a near-tie of two tokens' scores may fall the other way.
NEAR = 2e-3


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `foveate tune` writes it; LLaVA's tokens have no gaps in vLLM."""
    weights = weights_of_files(str(EMBEDDED), load_config(str(EMBEDDED)))
    made = Profile(
        method=foveate.DivPrune(keep_ratio=0.75, positions="renumbered"),
        model=ModelId(name="embedded", type="llava", weights=weights),
    )
    path = tmp_path_factory.mktemp("profile") / "profile.toml"
    made.save(path)
    return path


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return load_questions("reading", limit=NUM_QUESTIONS)


@pytest.fixture(scope="module")
def answers(path: Path, questions: list[Question]) -> list[Answer]:
    """From an engine with the settings that `foveate serve --profile` starts its server with."""
    words = serve_command("embedded", foveate.load_profile(path).method, None, [])
    asked = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "image_pil", "image_pil": question.image},
                    {"type": "text", "text": question.question},
                ],
            }
        ]
        for question in questions
    ]
    with engine(EMBEDDED, json.loads(words[-1])[KEY], max_num_batched_tokens=1024) as running:
        return running.chats(asked, max_tokens=16)


@pytest.fixture(scope="module")
def references(path: Path, questions: list[Question]) -> list[Answer]:
    model = Reference(EMBEDDED, foveate.load_profile(path))
    return [model.ask([q.image], q.question, max_tokens=16) for q in questions]


def test_answers_are_those_of_transformers(
    questions: list[Question], answers: list[Answer], references: list[Answer]
) -> None:
    assert len(answers) == NUM_QUESTIONS
    assert [a.prompt_tokens for a in answers] == [r.prompt_tokens for r in references]
    pairs = list(zip(answers, references, strict=True))
    other = [(a.text, r.text) for a, r in pairs if a.text != r.text]
    assert len(other) <= 0.01 * NUM_QUESTIONS, other
    far = [distance for a, r in pairs if (distance := abs(a.logprobs[0] - r.logprobs[0])) >= NEAR]
    assert len(far) <= 0.03 * NUM_QUESTIONS, far
    right = sum(exact_match(a.text, q.answers) for a, q in zip(answers, questions, strict=True))
    assert right > 0.5 * NUM_QUESTIONS  # it does read


def test_another_setting_gives_other_probabilities(path: Path, questions: list[Question]) -> None:
    """The control of the test above: it would see a method that is not the profile's."""
    tuned = foveate.load_profile(path)
    other = foveate.UniformGrid(keep_ratio=0.75, positions="renumbered")
    own, others = (
        [model.ask([q.image], q.question, max_tokens=1) for q in questions[:10]]
        for model in (Reference(EMBEDDED, tuned), Reference(EMBEDDED, other))
    )
    assert [a.prompt_tokens for a in own] == [a.prompt_tokens for a in others]
    far = [abs(a.logprobs[0] - b.logprobs[0]) for a, b in zip(own, others, strict=True)]
    assert sum(distance >= NEAR for distance in far) >= 5, far
