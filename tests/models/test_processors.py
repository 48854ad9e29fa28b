"""Each family's real processor, loaded from disk without torchvision, feeds a carved model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers as tf
from PIL import Image
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.utils import is_torchvision_available

import foveate
from foveate.draw.overlay import draw_plan
from foveate.errors import InputError
from foveate.models.processor import load_processor, without_video
from foveate.models.vlm import VisionLanguageModel
from tests import tiny_vlm as tiny

SQUARE = {"height": 24, "width": 24}
PINPOINTS = [[24, 48], [48, 24], [48, 48]]
QWEN = {90: "<|image_pad|>", 91: "<|video_pad|>", 93: "<|vision_start|>", 94: "<|vision_end|>"}


@dataclass(frozen=True)
class Case:
    """How a family writes its processor: class, image part, special tokens by id, settings."""

    processor: Any
    images: Callable[[], Any]
    special: dict[int, str] = field(default_factory=lambda: {90: "<image>"})
    named: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    mark: str = "<image>"
    template: bool = True
    first_layer: int = 2


def qwen_images() -> Any:
    return Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, size={"shortest_edge": 256, "longest_edge": 4096}
    )


def qwen(processor: Any, **changes: Any) -> Case:
    mark = "<|vision_start|><|image_pad|><|vision_end|>"
    return Case(processor, qwen_images, QWEN, mark=mark, **changes)


CASES: dict[str, Case] = {
    "llava": Case(
        tf.LlavaProcessor,
        lambda: CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=SQUARE),
        settings={
            "patch_size": 4,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        },
    ),
    "llava_next": Case(
        tf.LlavaNextProcessor,
        lambda: LlavaNextImageProcessorPil(
            size={"shortest_edge": 24}, crop_size=SQUARE, image_grid_pinpoints=PINPOINTS
        ),
        settings={
            "patch_size": 4,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        },
    ),
    "llava_onevision": Case(
        tf.LlavaOnevisionProcessor,
        lambda: LlavaOnevisionImageProcessorPil(size=SQUARE, image_grid_pinpoints=PINPOINTS),
        special={90: "<image>", 91: "<video>"},
        settings={"num_image_tokens": 36, "vision_feature_select_strategy": "full"},
    ),
    "qwen2_vl": qwen(tf.Qwen2VLProcessor),
    "qwen2_5_vl": qwen(tf.Qwen2_5_VLProcessor),
    "qwen3_vl": qwen(tf.Qwen3VLProcessor, first_layer=3),
    "idefics3": Case(
        tf.Idefics3Processor,
        lambda: Idefics3ImageProcessorPil(
            size={"longest_edge": 48}, max_image_size={"longest_edge": 24}
        ),
        special={
            90: "<image>",
            92: "<fake_token_around_image>",
            93: "<end_of_utterance>",
            94: "<global-img>",
            **{60 + 2 * i + j: f"<row_{i + 1}_col_{j + 1}>" for i in range(2) for j in range(2)},
        },
        settings={"image_seq_len": 9},
    ),
    "internvl": Case(
        tf.InternVLProcessor,
        lambda: GotOcr2ImageProcessorPil(
            size=SQUARE, crop_to_patches=True, min_patches=1, max_patches=4
        ),
        special={90: "<IMG_CONTEXT>", 91: "<video>", 93: "<img>", 94: "</img>"},
        named={
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
            "start_image_token": "<img>",
            "end_image_token": "</img>",
        },
        settings={"image_seq_length": 9},
        mark="<IMG_CONTEXT>",
    ),
    "paligemma": Case(
        tf.PaliGemmaProcessor,
        lambda: SiglipImageProcessorPil(size=SQUARE, image_seq_length=36),
        named={"image_token": "<image>"},
        template=False,
    ),
    "gemma3": Case(
        tf.Gemma3Processor,
        lambda: Gemma3ImageProcessorPil(size=SQUARE),
        special={90: "<image_soft_token>", 93: "<start_of_image>", 94: "<end_of_image>"},
        named={
            "image_token": "<image_soft_token>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
        },
        settings={"image_seq_length": 9},
        mark="<start_of_image>",
    ),
}


def save_processor(case: Case, folder: Path) -> None:
    """What a checkpoint of this family holds beside its weights."""
    words = {0: "<pad>", 1: "<s>", 2: "</s>", 3: "<unk>", 4: "what", 5: "color", 6: "?"}
    words |= case.special
    vocab = {words.get(i, f"word{i}"): i for i in range(tiny.VOCAB)}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\?|[^\s?]+"), "removed", invert=True)
    tokenizer = tf.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=case.named or list(case.special.values()),
    )
    tokenizer.add_tokens([AddedToken(token, special=True) for token in case.special.values()])
    template = (
        "{% for message in messages %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}" + case.mark + "{% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endfor %}"
    )
    settings = dict(case.settings)
    if case.template:
        settings["chat_template"] = template
    build = without_video(case.processor)
    build(image_processor=case.images(), tokenizer=tokenizer, **settings).save_pretrained(folder)


def picture(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # in PaliGemma's processor
@pytest.mark.parametrize("name", CASES)
def test_processor_from_disk_feeds_a_carved_model(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    save_processor(case, tmp_path)
    model = tiny.build(name)
    vlm = VisionLanguageModel(
        name=name, model=model, processor=load_processor(str(tmp_path), model.config.model_type)
    )
    images = [[picture(48, 24)], [picture(30, 50), picture(40, 40)]]
    inputs = vlm.inputs(["what color ?", "what ?"], images)
    method = foveate.TokenCarve(keep_ratio=0.4, prune_layer=case.first_layer)
    with foveate.attach(model, method) as run:
        answers = vlm.answer(inputs, max_new_tokens=4)
    assert len(answers) == 2
    assert run.report is not None
    assert run.report.fired
    assert [(r.sample, r.image) for r in run.report.images] == [(0, 0), (1, 0), (1, 1)]
    assert all(r.kept == foveate.Budget(keep_ratio=0.4).count(r.before) for r in run.report.images)
    for image, entry in zip([*images[0], *images[1]], run.plans, strict=True):
        drawn = draw_plan(image, entry.plan, num_tokens=entry.span.num_tokens, grid=entry.span.grid)
        assert min(drawn.size) > 100


@pytest.mark.parametrize("name", CASES)
def test_text_only_prompt(name: str, tmp_path: Path) -> None:
    """What the blind floor asks."""
    case = CASES[name]
    save_processor(case, tmp_path)
    model = tiny.build(name)
    vlm = VisionLanguageModel(
        name=name, model=model, processor=load_processor(str(tmp_path), model.config.model_type)
    )
    inputs = vlm.inputs(["what color ?", "what ?"], [[], []])
    assert 90 not in inputs["input_ids"]
    assert len(vlm.answer(inputs, max_new_tokens=2)) == 2


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision is installed")
def test_pixtral_without_torchvision_says_what_to_install(tmp_path: Path) -> None:
    case = CASES["llava"]
    save_processor(case, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mistral3"}))
    processor = json.loads((tmp_path / "processor_config.json").read_text())
    processor["processor_class"] = "PixtralProcessor"
    (tmp_path / "processor_config.json").write_text(json.dumps(processor))
    with pytest.raises(InputError, match=r"needs a package .*PixtralProcessor .*Torchvision"):
        load_processor(str(tmp_path), "mistral3")
