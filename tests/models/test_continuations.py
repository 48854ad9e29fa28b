"""Likelihoods equal those of a plain forward pass; conversations reach the model as they are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

import foveate
from foveate.errors import InputError
from foveate.models.continuations import Continuation, continuation_ids
from foveate.models.continuations import score_continuations as score
from foveate.models.load import load_vlm
from foveate.models.vlm import VisionLanguageModel
from tests import tiny_vlm as tiny
from tests.cli.vlm_folder import save_tiny_vlm

CONTINUATIONS = ([17, 33, 5], [61], [44, 45])


def bare(name: str) -> VisionLanguageModel:
    """A tiny model of a family, with what generation reads of a processor."""
    tokenizer = SimpleNamespace(pad_token_id=tiny.PAD_ID, eos_token_id=None)
    return VisionLanguageModel(
        name=name, model=tiny.build(name), processor=SimpleNamespace(tokenizer=tokenizer)
    )


def by_forward(vlm: VisionLanguageModel, alone: dict[str, Any], ids: list[int]) -> float:
    """The oracle: one pass over prompt and continuation, without foveate."""
    new = torch.tensor([ids])
    inputs = {**alone, "input_ids": torch.cat([alone["input_ids"], new], dim=1)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    types = tiny.FAMILIES[vlm.name].types
    if types:
        inputs[types] = torch.cat([alone[types], torch.zeros_like(new)], dim=1)
    with torch.no_grad():
        logits = vlm.model(**inputs).logits[:, -len(ids) - 1 : -1]
    return float(logits.log_softmax(-1).gather(2, new[..., None]).sum())


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3", "internvl"])
def test_likelihoods_equal_a_forward_pass(name: str) -> None:
    vlm = bare(name)
    num_images = (2, 0, 1)
    inputs = tiny.prompts(vlm.model, name, num_images)
    with foveate.attach(vlm.model, foveate.NoOp()):
        scores = score(vlm, inputs, CONTINUATIONS)
    for row, (given, wanted) in enumerate(zip(scores, CONTINUATIONS, strict=True)):
        alone = tiny.row_of(inputs, vlm.model, name, row, num_images)
        expected = by_forward(vlm, alone, wanted)
        assert given.log_likelihood == pytest.approx(expected, abs=1e-3 * abs(expected))
        assert given.num_tokens == len(wanted)
        assert given.loss == -given.log_likelihood / len(wanted)


def test_carved_likelihoods_equal_decoding_on_the_carved_cache() -> None:
    vlm = bare("llava")
    inputs = tiny.prompts(vlm.model, "llava", (1,))
    wanted = CONTINUATIONS[0]
    with foveate.attach(vlm.model, foveate.FastV(keep_ratio=0.5)) as run:
        (given,) = score(vlm, inputs, [wanted])
        assert run.report is not None
        assert run.report.fired
        total = 0.0
        with torch.no_grad():
            out = vlm.model(**inputs, use_cache=True)
            for i, token in enumerate(wanted):
                total += float(out.logits[0, -1].log_softmax(-1)[token])
                out = vlm.model(
                    input_ids=torch.tensor([[token]]),
                    attention_mask=torch.ones(1, inputs["input_ids"].shape[1] + i + 1).long(),
                    past_key_values=out.past_key_values,
                )
    assert given.log_likelihood == pytest.approx(total, rel=1e-4)
    with foveate.attach(vlm.model, foveate.NoOp()):
        assert score(vlm, inputs, [wanted]) != [given]


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3"])
def test_what_generation_writes_is_greedy_and_as_likely_as_there(name: str) -> None:
    vlm = bare(name)
    inputs = tiny.prompts(vlm.model, name, (1,))
    with foveate.attach(vlm.model, foveate.FastV(keep_ratio=0.5)):
        out = vlm.model.generate(
            **inputs,
            max_new_tokens=3,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        ids = out.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        other = [ids[0], ids[1], (ids[2] + 1) % 80]
        (written,) = score(vlm, inputs, [ids])
        assert not score(vlm, inputs, [other])[0].is_greedy
    steps = [step[0].log_softmax(-1)[i] for step, i in zip(out.logits, ids, strict=True)]
    assert written.is_greedy
    assert written.log_likelihood == pytest.approx(float(sum(steps)), rel=1e-4)


def test_loss_is_the_mean_over_tokens() -> None:
    assert Continuation(log_likelihood=-6.0, is_greedy=False, num_tokens=3).loss == 2.0


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return load_vlm(save_tiny_vlm(tmp_path_factory.mktemp("tiny")))


RED = Image.new("RGB", (32, 32), "red")


def user(*parts: Any) -> dict[str, Any]:
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "image": part}
        for part in parts
    ]
    return {"role": "user", "content": content}


def test_a_question_is_a_conversation_of_one_turn(vlm: VisionLanguageModel) -> None:
    one = vlm.inputs("what color ?", RED)
    other = vlm.chat_inputs([[user(RED, "what color ?")]])
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_several_turns_and_images_inside_the_text(vlm: VisionLanguageModel) -> None:
    turns = [
        user("is", RED, "a circle ?"),
        {"role": "assistant", "content": [{"type": "text", "text": "no"}]},
        user("what shape ?"),
    ]
    assert vlm.chat_text(turns) == (
        "USER: is <image> a circle ? ASSISTANT: no USER: what shape ? ASSISTANT:"
    )
    inputs = vlm.chat_inputs([turns, [user("what color ?")]])
    assert inputs["input_ids"].shape[0] == 2
    (text,) = {vlm.generate(inputs, max_new_tokens=2)[0].text}
    assert isinstance(text, str)


def test_a_continuation_is_written_as_it_follows_the_prompt(vlm: VisionLanguageModel) -> None:
    known = vlm.tokenizer.get_vocab()
    turns = [user("what color ?")]
    assert continuation_ids(vlm, turns, " red") == [known["red"]]
    # Without a space the tokenizer would write one unknown word, so the text is taken alone.
    assert continuation_ids(vlm, turns, "red") == [known["red"]]
    with pytest.raises(InputError, match=r"continuation ' ' has no tokens"):
        continuation_ids(vlm, turns, " ")


def test_without_a_chat_template_there_is_one_user_turn(tmp_path: Path) -> None:
    plain = load_vlm(save_tiny_vlm(tmp_path, template=None))
    assert plain.chat_text([user(RED, "what ?")]) == "<image>\nwhat ?\n"
    system = {"role": "system", "content": [{"type": "text", "text": "no"}]}
    with pytest.raises(
        InputError, match=r"no chat template, so it takes one user turn, not 2 turns \(system, user"
    ):
        plain.chat_inputs([[system, user(RED, "what ?")]])
