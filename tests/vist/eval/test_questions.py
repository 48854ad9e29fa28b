"""Questions about long documents: who reads what in which arm, and what is counted."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveate.errors import InputError
from foveate.measure.parts import Parts
from foveate.tasks.long_questions import PassageQuestion, make_documents
from foveate.vist.eval.arms import Subjects
from foveate.vist.eval.budget_arms import budget_view
from foveate.vist.eval.context import FarContext
from foveate.vist.eval.question_prompt import asking
from foveate.vist.eval.questions import QuestionSettings, evaluate_questions
from tests.cli.tiny_vist_folder import letter_tokenizer
from tests.vist.eval.fake_subject import FakeSubject


@dataclass
class Finder(FakeSubject):
    """Says the code of whoever the prompt's last line names, if the far text has it."""

    def answer(self, far: FarContext | None, prompt: str, max_new_tokens: int) -> str:
        self.seen.append(("answer", far, self.encode(prompt).ids, ()))
        name = prompt.rstrip("?").split()[-1]
        found = re.search(rf"code of {name} is (\w+)", far.source.text if far else "")
        return f"Surely it is {found.group(1)}!" if found else "nobody knows"


def questions() -> list[PassageQuestion]:
    made = []
    for a in range(8):
        for p in range(2):
            name = f"N{a}{p}"
            filler = f"Some other thing happened to a baker in place {a}{p}. " * 3
            made.append(
                PassageQuestion(
                    id=name,
                    article=f"T{a}",
                    passage=f"{filler}The code of {name} is c{a}{p}. {filler}".strip(),
                    question=f"what is the code of {name}",
                    answers=(f"c{a}{p}",),
                )
            )
    return made


@pytest.fixture
def subjects() -> Subjects:
    raw = Finder()
    words = raw.words
    return Subjects(
        raw=raw,
        vist=Finder(ratio=3, words=words),
        looking=lambda share: Finder(ratio=round(1 / share), words=words),
    )


def documents(tokens: int = 330) -> Any:
    return {
        str(tokens): make_documents(
            questions(), tokens=tokens, num_tokens=lambda t: len(t.split()), limit=99
        )
    }


def evaluate(subjects: Subjects, parts: Parts | None = None, **settings: Any) -> Any:
    return evaluate_questions(documents(), subjects, str, QuestionSettings(**settings), parts=parts)


def test_arms(subjects: Subjects) -> None:
    result = evaluate(subjects)
    rows = {row["arm"]: row for row in result.rows}
    assert list(rows) == [
        "none", "raw", "raw-shuffled", "passage", "vist", "vist-shuffled", "truncated@0.1",
        "truncated@0.25", "segments@0.1", "segments@0.25", "bm25@0.05", "bm25@0.1", "bm25@0.25",
        "bm25@0.5", "bm25-twice@0.1", "bm25-twice@0.25",
        "fixate@0.1", "fixate@0.25", "fixate-shuffled@0.1", "fixate-shuffled@0.25",
    ]  # fmt: skip
    right = {name: row["contained"]["value"] for name, row in rows.items()}
    for name in ("raw", "passage", "bm25@0.1", "bm25@0.5", "vist", "fixate@0.1"):
        assert right[name] == 1
    for name in ("none", "raw-shuffled", "vist-shuffled", "fixate-shuffled@0.25"):
        assert right[name] == 0
    assert right["segments@0.25"] < 1
    assert rows["raw"]["f1"]["value"] == pytest.approx(2 / 5)
    assert rows["raw"]["minus_shuffled"]["value"] == 1
    assert rows["fixate@0.1"]["minus_bm25"]["value"] == 0
    assert rows["vist"]["minus_bm25"]["value"] == 0
    assert rows["bm25@0.1"]["minus_bm25"] is None
    assert rows["none"]["minus_raw"]["value"] == -1
    tokens = rows["raw"]["entries"]
    assert rows["raw"]["share"] == 1
    assert rows["none"]["entries"] == 0
    for name, row in rows.items():
        if "@" in name:
            # Every entry counts: no arm goes beyond its budget by more than rounding.
            assert row["entries"] <= float(name.split("@")[1]) * tokens + 1
    assert "| bm25@0.1 |" in result.markdown()
    item = result.samples[0]
    assert item["answers"]["raw"] == f"Surely it is {item['accepted'][0]}!"


def test_looking_is_told_the_question(subjects: Subjects) -> None:
    looking: list[Finder] = []

    def make(share: float) -> Finder:
        looking.append(Finder(words=subjects.raw.words))  # type: ignore[attr-defined]
        return looking[-1]

    told = Subjects(raw=subjects.raw, vist=subjects.vist, looking=make)
    evaluate(told, arms=("fixate",), budgets=(0.2,))
    assert {far.question for one in looking for _, far, *_ in one.seen if far} == {
        q.question for q in questions() if int(q.article[1]) % 2
    }


def test_bm25_twice_reads_the_same_segments_twice_in_its_budget(subjects: Subjects) -> None:
    far = FarContext(source=subjects.raw.encode(documents()["330"][0].text))
    question, draws = "what is the code of N10", np.random.default_rng(0)
    once = budget_view("bm25@0.1", far, question, draws)
    twice = budget_view("bm25-twice@0.2", far, question, draws)
    assert once is not None
    assert twice is not None
    assert twice.ids == once.ids * 2
    assert twice.text == once.text * 2
    assert len(twice.ids) <= 0.2 * len(far.ids)


def test_bm25_read_has_only_what_was_read(subjects: Subjects) -> None:
    class Reader(Finder):
        def as_read(self, far: FarContext) -> FarContext:
            return FarContext(source=self.encode(far.text.replace("code", "cope")))

    words = subjects.raw.words  # type: ignore[attr-defined]
    blind = replace(subjects, looking_at_pictures=lambda _: Reader(words=words))
    wanted = {"arms": ("bm25", "bm25-read"), "budgets": (0.1,), "rival_budgets": ()}
    evaluate(blind, **wanted)
    seen = [far.text for _, far, *_ in subjects.raw.seen if far]  # type: ignore[attr-defined]
    assert any("cope" in text for text in seen)
    assert not any("cope" in text and "code" in text for text in seen)
    with pytest.raises(InputError, match="cannot run the arms bm25-read"):
        evaluate(subjects, arms=("bm25-read",))


def test_shuffled_documents_lack_the_passage(subjects: Subjects) -> None:
    evaluate(subjects, arms=("vist-shuffled",))
    asked = {d.text: d for d in documents()["330"]}
    seen = [far for _, far, *_ in subjects.vist.seen if far]  # type: ignore[attr-defined]
    assert len(seen) == 8
    assert {far.source.text for far in seen} <= set(asked)


def test_arms_are_named(subjects: Subjects) -> None:
    rows = evaluate(subjects, arms=("bm25",), budgets=(0.1,), rival_budgets=()).rows
    assert [row["arm"] for row in rows] == ["none", "raw", "bm25@0.1"]
    with pytest.raises(InputError, match="unknown arms sight; choose from none, raw"):
        evaluate(subjects, arms=("sight",))
    with pytest.raises(InputError, match="cannot run the arms pictures"):
        evaluate(subjects, arms=("pictures",))
    with pytest.raises(InputError, match="above 0 and up to 1"):
        QuestionSettings(budgets=(2.0,))


def test_parts(subjects: Subjects, tmp_path: Path) -> None:
    whole = evaluate(subjects, arms=("bm25",))
    for index in (0, 1):
        parts = Parts(folder=tmp_path, index=index, count=2)
        assert evaluate(subjects, parts, arms=("bm25",)) is None
    before = len(subjects.raw.seen)  # type: ignore[attr-defined]
    joined = evaluate(subjects, Parts(folder=tmp_path), arms=("bm25",))
    assert joined.rows == whole.rows
    assert len(subjects.raw.seen) == before  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="another max_new_tokens"):
        evaluate(subjects, Parts(folder=tmp_path), arms=("bm25",), max_new_tokens=3)


def test_a_single_document_cannot_be_shuffled(subjects: Subjects) -> None:
    with pytest.raises(InputError, match="leaves nothing to shuffle with"):
        evaluate_questions({"9": documents()["330"][:1]}, subjects, str, QuestionSettings())
    both = make_documents(questions(), tokens=640, num_tokens=lambda t: len(t.split()), limit=99)
    with pytest.raises(InputError, match="none is left to shuffle with"):
        evaluate_questions({"640": both}, subjects, str, QuestionSettings())


def test_ways_of_asking() -> None:
    tokenizer = letter_tokenizer()
    plain = asking(tokenizer)
    assert (plain.name, plain.head) == ("plain", None)
    assert plain.prompt_of("who?") == "\n\nQuestion: who?\nAnswer:"
    with pytest.raises(InputError, match="no chat template"):
        asking(tokenizer, "chat")
    with pytest.raises(InputError, match="use auto, chat or plain"):
        asking(tokenizer, "loud")
    tokenizer.chat_template = "{% for m in messages %}<u>{{ m.content }}</u>{% endfor %}<a>"
    chat = asking(tokenizer)
    assert (chat.head, chat.prompt_of("who?"), chat.tail) == ("<u>", "\n\nwho?", "</u><a>")
    assert asking(tokenizer, "plain").name == "plain"
