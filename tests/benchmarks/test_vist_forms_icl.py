"""The table of far demonstrations: what is counted, and against what."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from benchmarks import vist_forms_icl
from benchmarks.vist_forms_icl import Arms, answer_all, mean, missed, nearest, table
from foveate.tasks.icl import Demonstration, IclSet
from foveate.vist.eval.context import Score
from foveate.vist.run.vist import Vist
from tests.vist.forms.test_forms import made

EXAMPLES = tuple(
    Demonstration(text=f"{text} w{i + 20}", label=label)
    for i in range(12)
    for text, label in (("w5 w6", "w7"), ("w8 w9", "w10"))
)
DATA = IclSet(name="things", labels=("w7", "w10"), train=EXAMPLES, test=EXAMPLES)


@pytest.fixture(scope="module")
def vist() -> Vist:
    """Tiny, with a tokenizer of the words w0 to w99."""
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(100)}, unk_token="w3"))
    words.pre_tokenizer = WhitespaceSplit()
    own = made()
    own.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="w3", bos_token="w1", eos_token="w2"
    )
    return own


def row(name: str, right: list[bool], nats: list[float], which: str = "one") -> dict[str, object]:
    return {"set": which, "seed": 1, "arm": name, "tokens": 30, "entries": 10.0, "right": right,
            "nats": nats, "said": []}  # fmt: skip


def test_missed_is_the_share_of_the_right_label() -> None:
    scores = [Score(nats=1.0, tokens=1), Score(nats=1.0, tokens=3), Score(nats=50.0, tokens=1)]
    assert missed(scores, 0) == pytest.approx(math.log(2))
    assert missed(scores, 2) == pytest.approx(49 + math.log(2))


def test_sets_weigh_the_same_and_differences_are_paired() -> None:
    rows = [
        row("none", [False] * 4, [2.0] * 4),
        row("carved", [True, True, False, False], [1.0, 1.0, 2.0, 2.0]),
        row("none", [True], [1.0], "two"),
        row("carved", [True], [0.5], "two"),
    ]
    assert mean(rows, "carved").value == pytest.approx((0.5 + 1) / 2)
    assert mean(rows, "carved", "none").value == pytest.approx((0.5 + 0) / 2)
    assert mean(rows, "carved", "none", "nats").value == pytest.approx((-0.5 - 0.5) / 2)
    lines, data = table(rows, ["none", "carved"])
    assert "| carved | 33 | 75.0 " in lines[-1]
    assert data["carved"]["nats, less none"]["value"] == pytest.approx(-0.5)


def test_every_arm_answers_and_a_run_goes_on(
    vist: Vist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vist_forms_icl, "FAR", 6)
    answers = tmp_path / "answers.jsonl"
    names = ["none", "raw", "carved", "carved, untrained", "latents", "raw (shuffled)"]
    rows = answer_all(Arms(vist), [DATA], [1], 2, names, answers)
    assert [own["arm"] for own in rows] == names
    assert all(len(own["right"]) == len(own["nats"]) == 2 for own in rows)
    by_arm = {own["arm"]: own for own in rows}
    # The LoRA of the tiny Vist is not zero, so with it and without it are two things.
    assert by_arm["carved"]["nats"] != by_arm["carved, untrained"]["nats"]
    assert by_arm["carved"]["entries"] == pytest.approx(by_arm["raw"]["entries"] / 2, rel=0.05)
    assert vist.parts.carved is not None
    monkeypatch.setattr(vist_forms_icl, "_one", None)  # nothing is asked again
    assert answer_all(Arms(vist), [DATA], [1], 2, names, answers) == rows


def test_the_nearest_whole_demonstrations_fit_the_budget(vist: Vist) -> None:
    raw = Arms(vist).raw
    found = nearest(raw, DATA, EXAMPLES[:6], "w8 w9", 22)
    assert found is not None
    assert len(found.ids) <= 22
    assert "w8 w9" in found.text
    assert "w5" not in found.text
    assert nearest(raw, DATA, EXAMPLES[:6], "w8 w9", 2) is None
