"""What cannot be fails when the engine is configured, or says so to the request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from foveate.errors import FoveateError, InputError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    from tests.vllm.engine.tiny_models import save_tiny

    return lambda family: save_tiny(family, tmp_path_factory.mktemp(family))


def configure(folder: Path, entry: Any, **options: Any) -> Any:
    from vllm.engine.arg_utils import EngineArgs

    return EngineArgs(
        model=str(folder),
        additional_config={} if entry is None else {"foveate": entry},
        dtype="float32",
        max_model_len=512,
        enforce_eager=True,
        **options,
    ).create_engine_config()


def refusal(folder: Path, entry: Any, **options: Any) -> str:
    # vLLM may wrap what is raised while it validates its configuration.
    with pytest.raises((FoveateError, ValueError)) as caught:
        configure(folder, entry, **options)
    return str(caught.value)


def test_a_model_that_cannot_be_compressed(tmp_path: Path) -> None:
    import transformers as tf

    from tests.vllm.engine.tiny_models import TEXT, tokenizer

    config = tf.LlamaConfig(**TEXT)
    tf.LlamaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    assert (
        "--additional-config asks for foveate, and LlamaForCausalLM cannot be compressed in vLLM; "
        "serve one of LLaVA-1.5, LLaVA-NeXT, LLaVA-OneVision, Qwen2-VL, Qwen2.5-VL, Qwen3-VL, "
        "InternVL, or leave foveate out."
    ) in refusal(tmp_path, {"keep_ratio": 0.25})
    assert configure(tmp_path, None).model_config.architecture == "LlamaForCausalLM"


def test_a_method_that_cannot_act_there(tiny: Callable[[str], Path]) -> None:
    text = refusal(tiny("qwen2_vl"), {"method": "fastv", "keep_ratio": 0.25})
    assert "fastv reads the attention of a decoder layer, and in vLLM it decides before" in text


def test_options_that_go_past_the_plugin(tiny: Callable[[str], Path]) -> None:
    folder = tiny("qwen2_5_vl")
    entry = {"keep_ratio": 0.25}
    assert "--enable-mm-embeds lets requests bring features" in refusal(
        folder, entry, enable_mm_embeds=True
    )
    assert "cannot be read once it is compiled" in refusal(
        folder, entry, compilation_config={"compile_mm_encoder": True}
    )


def test_a_budget_for_requests_in_the_server_s_own_settings(tiny: Callable[[str], Path]) -> None:
    text = refusal(
        tiny("qwen2_vl"), {"keep_ratio": 0.25}, mm_processor_kwargs={"foveate": {"keep_ratio": 0.1}}
    )
    assert "--mm-processor-kwargs has 'foveate', which is for requests" in text


def test_a_refusal_in_a_validator_ends_without_a_traceback() -> None:
    import subprocess
    import sys

    source = """
from pydantic import BaseModel, model_validator
from foveate.errors import BudgetError
from foveate.vllm.plugin import _say_refusals
_say_refusals()
class Config(BaseModel):
    @model_validator(mode="after")
    def check(self):
        raise BudgetError("too little.")
try:
    Config()
except Exception as error:
    raise RuntimeError("the engine did not start") from error
"""
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "foveate: too little.\n"


def test_positions_that_the_family_does_not_have(tiny: Callable[[str], Path]) -> None:
    entry = {"method": "tokencarve(positions=renumbered)", "keep_ratio": 0.25}
    assert "Qwen2.5-VL has others; use positions='original'." in refusal(tiny("qwen2_5_vl"), entry)


def test_a_tower_whose_patches_are_not_the_tokens(tiny: Callable[[str], Path]) -> None:
    folder = tiny("llava_next")
    strategy = {"vision_feature_select_strategy": "full"}
    entry = {"method": "visionzip", "keep_ratio": 0.25}
    assert "would have to be 'default'); use a method that does not read the tower" in refusal(
        folder, entry, hf_overrides=strategy
    )
    assert configure(folder, {**entry, "method": "divprune"}, hf_overrides=strategy)


def test_only_an_entry_changes_the_configuration(tiny: Callable[[str], Path]) -> None:
    from foveate.vllm.pruning_config import ImagePruningConfig

    folder = tiny("qwen2_5_vl")
    off = configure(folder, None).model_config
    assert type(off.multimodal_config).__name__ == "MultiModalConfig"
    assert not hasattr(off.hf_config, "foveate")
    on = configure(folder, {"keep_ratio": 0.25}).model_config
    assert isinstance(on.multimodal_config, ImagePruningConfig)
    assert on.multimodal_config.get_video_pruning_spec() is None
    assert on.hf_config.foveate == {"keep_ratio": 0.25}


def test_video_pruning_is_taken_over(tiny: Callable[[str], Path]) -> None:
    from foveate.vllm.config_hook import method_in

    entry = {"keep_ratio": 0.25}
    on = configure(tiny("qwen2_5_vl"), entry, video_pruning_rate=0.75).model_config
    assert on.multimodal_config.get_video_pruning_spec() is None
    of_videos = method_in(on.hf_config, "video")
    assert of_videos is not None
    assert str(of_videos) == "evs(keep=25%, prune_layer=0)"
    assert "beside foveate only images of Qwen3-VL are served" in refusal(
        tiny("qwen3_vl"), entry, video_pruning_rate=0.5
    )


def test_registering_twice_changes_nothing() -> None:
    from vllm.config import VllmConfig

    from foveate.vllm.plugin import register

    register()
    first = VllmConfig.try_verify_and_update_config
    register()
    assert VllmConfig.try_verify_and_update_config is first


def test_videos_of_a_family_whose_videos_are_not_compressed() -> None:
    from foveate.vllm.processor import _CarvedInfo

    class Info(_CarvedInfo):
        ctx = SimpleNamespace(
            model_config=SimpleNamespace(architecture="Qwen3VLForConditionalGeneration")
        )

    with pytest.raises(InputError) as caught:
        Info().validate_num_items("video", 1)
    assert str(caught.value) == (
        "got 1 video item(s), and this server compresses Qwen3-VL, of which foveate takes image "
        "only; serve it without foveate."
    )


def test_caches_know_images_by_the_method_too(tiny: Callable[[str], Path]) -> None:
    """The same image kept otherwise is another thing to caches that several engines share."""
    from vllm.multimodal import MULTIMODAL_REGISTRY

    folder = tiny("qwen2_vl")
    image = Image.new("RGB", (112, 112), (200, 30, 30))
    found = []
    for entry in (None, {"keep_ratio": 0.25}, {"keep_ratio": 0.5}, {"keep_ratio": 0.25}):
        model_config = configure(folder, entry).model_config
        processor = MULTIMODAL_REGISTRY.create_processor(model_config)
        items = processor.info.parse_mm_data({"image": [image]})
        prompt = "user: <|vision_start|> <|image_pad|> <|vision_end|> w1"
        for asked in ({}, {"foveate": {"keep_ratio": 0.25}}) if entry else ({},):
            made = processor(prompt, items, hf_processor_mm_kwargs=asked)
            (name,) = made["mm_hashes"]["image"]
            found.append(name)
    off, quarter, asked_quarter, half, asked_of_half, again, _ = found
    assert len({off, quarter, half}) == 3
    # A budget of a request is that of a server with it.
    assert quarter == asked_quarter == asked_of_half == again


def test_images_that_touch_each_other() -> None:
    from foveate.vllm.processor import _check_fences

    def item(start: int, length: int) -> Any:
        return SimpleNamespace(start_idx=start, length=length)

    _check_fences([0] * 10, {"image": [item(1, 3), item(5, 4)]})
    for items, length in (([item(1, 3), item(4, 4)], 10), ([item(1, 3), item(5, 5)], 10)):
        with pytest.raises(InputError, match="have no text behind them; put each image between"):
            _check_fences([0] * length, {"image": items})
