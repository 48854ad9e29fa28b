"""The shipped model: loads as an ordinary LLaVA, reads pages, and fits its size limit."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from foveate.assets import vlm_path
from foveate.tasks.reading import reading_questions
from training.vlm.evaluate import answers_right
from training.vlm.load import load_model
from training.vlm.packing import pack
from training.vlm.vision import pixels_of
from training.vlm.vocabulary import VOCABULARY, encode


@pytest.fixture(scope="module")
def loaded():
    return AutoModelForImageTextToText.from_pretrained(
        vlm_path(), dtype=torch.float32, output_loading_info=True
    )


@pytest.fixture(scope="module")
def model(loaded):
    return loaded[0].eval()


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(vlm_path())


@pytest.fixture(scope="module")
def questions():
    return list(reading_questions(split="dev", num_pages=6, per_page=6))


def _prompt(processor, question: str) -> str:
    content = [{"type": "image"}, {"type": "text", "text": question}]
    message = {"role": "user", "content": content}
    return processor.apply_chat_template([message], add_generation_prompt=True)


def test_loads_without_missing_or_unexpected_weights(loaded) -> None:
    report = loaded[1]
    assert type(loaded[0]).__name__ == "LlavaForConditionalGeneration"
    assert {key: set(value) for key, value in report.items()} == {key: set() for key in report}


def test_checkpoint_has_classic_names_and_half_precision() -> None:
    from safetensors import safe_open

    with safe_open(vlm_path() / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
        kinds = {file.get_slice(name).get_dtype() for name in names}
    assert kinds == {"F16"}
    assert "vision_tower.vision_model.embeddings.class_embedding" in names
    assert "multi_modal_projector.linear_1.weight" in names
    assert "language_model.model.embed_tokens.weight" in names
    assert "language_model.lm_head.weight" in names


def test_folder_is_small() -> None:
    total = sum(path.stat().st_size for path in vlm_path().iterdir())
    assert total <= 25 * 2**20, f"{total / 2**20:.1f} MiB exceeds 25 MiB"


def test_chat_template_gives_the_trained_prompt(processor) -> None:
    text = _prompt(processor, "What costs 37?")
    ids = processor.tokenizer(text)["input_ids"]
    words = [VOCABULARY[idx] for idx in ids]
    assert words == ["USER:", "<image>", "what", "costs", "3", "7", "?", "ASSISTANT:"]


def test_tokenizer_agrees_with_the_training_code(processor, questions) -> None:
    for question in questions:
        ids = processor.tokenizer(question.question, add_special_tokens=False)["input_ids"]
        assert ids == encode(question.question)
    assert processor.tokenizer.decode(encode("bread costs 37")) == "bread costs 37"


def test_processor_gives_the_training_pixels(processor, questions) -> None:
    inputs = processor(
        images=questions[0].image, text=_prompt(processor, "what costs 37?"), return_tensors="pt"
    )
    expected = pixels_of([questions[0].image])
    assert (inputs["input_ids"] == VOCABULARY.index("<image>")).sum() == 196
    torch.testing.assert_close(inputs["pixel_values"], expected, atol=1e-5, rtol=0)


def test_training_code_and_transformers_agree(model, processor, questions) -> None:
    ours = load_model(vlm_path())
    question = questions[0]
    inputs = processor(
        images=question.image, text=_prompt(processor, question.question), return_tensors="pt"
    )
    with torch.no_grad():
        theirs = model(**inputs).logits[0, -1]
        ids, targets = pack([[(q.question, q.answers[0]) for q in questions[:3]]])
        hidden = ours.language(ours.eye(pixels_of([question.image])), ids)
        last = int((targets[0, 0] != -100).nonzero()[0, 0])
        logits = ours.language.lm_head(hidden[0, 0, last])
    difference = (theirs - logits).abs()
    assert difference.max() < 2e-3, f"max {difference.max():.2e}, mean {difference.mean():.2e}"


def test_generate_agrees_with_packed_scoring_and_mostly_reads(
    model,
    processor,
    questions,
) -> None:
    ours = load_model(vlm_path())
    right = []
    for question in questions[::2]:
        inputs = processor(
            images=question.image, text=_prompt(processor, question.question), return_tensors="pt"
        )
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=4)
        answer = processor.tokenizer.decode(
            out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        ids, targets = pack([[(question.question, question.answers[0])]])
        with torch.no_grad():
            visual = ours.eye(pixels_of([question.image]))[0]
        assert answers_right(ours, visual, ids[0], targets[0]).item() == (
            answer in question.answers
        ), (question, answer)
        right.append(answer in question.answers)
    assert sum(right) / len(right) >= 0.7, right


def test_pruned_scoring_with_all_tokens_kept_is_the_full_model(questions) -> None:
    ours = load_model(vlm_path())
    group = [q for q in questions if q.image_id == questions[0].image_id]
    with torch.no_grad():
        visual = ours.eye(pixels_of([group[0].image]))[0]
    ids, targets = pack([[(q.question, q.answers[0]) for q in group]])
    full = answers_right(ours, visual, ids[0], targets[0])
    kept = answers_right(ours, visual, ids[0], targets[0], keep=torch.arange(196), prune_layer=2)
    assert full.tolist() == kept.tolist()


def test_configuration_names_the_end_and_pad_tokens() -> None:
    config = json.loads((vlm_path() / "generation_config.json").read_text())
    assert VOCABULARY[config["eos_token_id"]] == "</s>"
    assert VOCABULARY[config["pad_token_id"]] == "<pad>"
