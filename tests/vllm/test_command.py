"""The command line of `foveate serve`, and what it promises."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import foveate
from foveate.core.budget import Budget
from foveate.errors import (
    ConfigError,
    InputError,
    MethodError,
    UnsupportedModeError,
    UnsupportedModelError,
)
from foveate.vllm import command
from foveate.vllm.command import check_installed, serve_command
from foveate.vllm.config_hook import CANDIDATES, FAMILIES, configure, method_in
from foveate.vllm.expectation import expected_saving

END = "ForConditionalGeneration"
QUARTER = Budget(keep_ratio=0.25)
ENTRY = {"foveate": {"method": "tokencarve", "keep_ratio": 0.25}}


def options_of(made: list[str]) -> dict[str, str]:
    return dict(itertools.pairwise(made))


def test_vllm_s_options_go_on_as_they_are() -> None:
    rest = ["--port", "9", "--tensor-parallel-size=2", "--trust-remote-code"]
    made = serve_command("some/model", "tokencarve", QUARTER, rest)
    start = made.index("--host")
    assert "some/model" in made[:start]
    assert made[start : start + 6] == ["--host", "127.0.0.1", *rest]
    assert json.loads(options_of(made)["--additional-config"]) == ENTRY


@pytest.mark.parametrize("host", [["--host", "0.0.0.0"], ["--host=0.0.0.0"]])
def test_another_host_when_asked_for(host: list[str]) -> None:
    made = serve_command("m", "tokencarve", QUARTER, host)
    assert "127.0.0.1" not in made


@pytest.mark.parametrize(
    "form", [["--additional-config", '{"a": 1}'], ['--additional-config={"a": 1}']]
)
def test_other_additional_config_stays(form: list[str]) -> None:
    made = serve_command("m", "tokencarve", QUARTER, [*form, "--port", "1"])
    assert json.loads(options_of(made)["--additional-config"]) == {"a": 1, **ENTRY}
    assert [option for option in made if option.startswith("--additional-config")] == [
        "--additional-config"
    ]
    assert options_of(made)["--port"] == "1"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            ["--additional-config", json.dumps(ENTRY)],
            "--additional-config has 'foveate' settings already; give them with --method and "
            "--keep, or --profile, or start `vllm serve` itself.",
        ),
        (["--additional-config", "[1]"], "--additional-config got '[1]'; it takes a JSON object."),
        (["--additional-config"], "--additional-config got nothing; it takes a JSON object."),
        (
            ["--additional-config.a", "1"],
            "got '--additional-config.a'; write --additional-config as one JSON object, so that "
            "the entry of foveate can be added.",
        ),
        (["other/model"], "got 'other/model' behind the model 'm'; serve one model."),
    ],
)
def test_options_that_cannot_be(options: list[str], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        serve_command("m", "tokencarve", QUARTER, options)
    assert str(caught.value) == text


def test_the_method_is_checked_before_vllm_starts() -> None:
    with pytest.raises(MethodError, match="fastv reads the attention of a decoder layer"):
        serve_command("m", "fastv", QUARTER, [])


def test_builds_of_vllm_under_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.importlib.metadata, "version", lambda name: "0.32.0")
    whole = serve_command("m", "tokencarve", QUARTER, [])
    assert whole[:4] == ["-m", "vllm.entrypoints.cli.main", "serve", "m"]

    def missing(name: str) -> str:
        raise command.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(command.importlib.metadata, "version", missing)
    other = serve_command("m", "tokencarve", QUARTER, [])
    assert other[:4] == ["-m", "vllm.entrypoints.openai.api_server", "--model", "m"]


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs vLLM; install it with pip .*foveate\[vllm\]"):
        check_installed({})
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(InputError) as caught:
        check_installed({"VLLM_PLUGINS": "lora"})
    assert str(caught.value) == (
        "VLLM_PLUGINS=lora keeps vLLM from loading the plugin; add foveate to it, or unset it."
    )
    check_installed({"VLLM_PLUGINS": "lora,foveate"})
    monkeypatch.setattr(command.importlib.metadata, "entry_points", lambda group: [])
    with pytest.raises(InputError, match=r"without its entry point 'vllm\.general_plugins'"):
        check_installed({})


def test_the_expectation_of_a_fixed_image() -> None:
    path = Path(foveate.__file__).parent / "assets" / "vlm" / "config.json"
    assert expected_saving(json.loads(path.read_text()), foveate.DivPrune(keep_ratio=0.25)) == (
        "49 of the 196 visual tokens of an image go on to the language model. With 64 text tokens "
        "that is 2.6 times fewer FLOPs of the language model in prefill, and 43% of the KV cache; "
        "the vision tower runs in full."
    )


def test_the_expectation_where_images_differ_or_sizes_are_not_said() -> None:
    config = {"model_type": "qwen2_5_vl"}
    assert expected_saving(config, foveate.DivPrune(keep_ratio=0.25)) == (
        "256 of 1024, say, visual tokens of an image go on to the language model."
    )
    assert expected_saving(config, foveate.Evs(keep_ratio=0.25)) == (
        "evs keeps a still image whole (1024 tokens, where the budget has 256): it has no frame "
        "before it."
    )


def engine(architecture: str, additional: Any = ENTRY, **model: Any) -> Any:
    multimodal = SimpleNamespace(
        language_model_only=False,
        video_pruning_rate=None,
        enable_mm_embeds=False,
        mm_encoder_tp_mode="weights",
    )
    hf_config = SimpleNamespace(
        vision_config=SimpleNamespace(model_type="clip_vision_model"),
        vision_feature_select_strategy="default",
    )
    return SimpleNamespace(
        additional_config=additional,
        lora_config=None,
        compilation_config=SimpleNamespace(compile_mm_encoder=False),
        parallel_config=SimpleNamespace(tensor_parallel_size=1),
        model_config=SimpleNamespace(
            architecture=architecture, hf_config=hf_config, multimodal_config=multimodal, **model
        ),
    )


def test_the_entry_travels_in_the_model_s_configuration() -> None:
    config = engine("LlavaForConditionalGeneration")
    method = configure(config)
    assert method is not None
    assert method.positions == "renumbered"
    assert config.model_config.hf_config.foveate == ENTRY["foveate"]
    found = method_in(config.model_config.hf_config)
    assert found is not None
    assert found.budget == QUARTER


@pytest.mark.parametrize(("name", "rule"), [("evs", "evs"), ("vidcom2", "vidcom2"), (None, "evs")])
def test_vllm_s_own_video_pruning_beside_images(
    monkeypatch: pytest.MonkeyPatch, name: str | None, rule: str
) -> None:
    """Its rate is taken over, so that one side alone cuts videos, and images keep their method."""
    announced: list[Any] = []
    stand_in = SimpleNamespace(announce_pruning=announced.append)
    monkeypatch.setitem(sys.modules, "foveate.vllm.pruning_config", stand_in)
    config = engine("Qwen2_5_VLForConditionalGeneration")
    multimodal, hf_config = config.model_config.multimodal_config, config.model_config.hf_config
    multimodal.video_pruning_rate, multimodal.video_pruning_method = 0.75, name
    for _ in range(2):  # vLLM configures the copy of each process again
        configure(config)
        assert multimodal.video_pruning_rate is None
        assert method_in(hf_config).name == "tokencarve"  # type: ignore[union-attr]
        of_videos = method_in(hf_config, "video")
        assert of_videos is not None
        assert (of_videos.name, of_videos.budget.keep_ratio) == (rule, 0.25)
    assert announced == [multimodal] * 2


def test_videos_are_cut_as_images_are_without_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = SimpleNamespace(announce_pruning=lambda config: None)
    monkeypatch.setitem(sys.modules, "foveate.vllm.pruning_config", stand_in)
    config = engine("Qwen2_5_VLForConditionalGeneration")
    configure(config)
    hf_config = config.model_config.hf_config
    assert method_in(hf_config, "video") == method_in(hf_config)


def test_video_pruning_of_a_family_whose_videos_are_not_served() -> None:
    config = engine("LlavaForConditionalGeneration")
    config.model_config.multimodal_config.video_pruning_rate = 0.5
    with pytest.raises(UnsupportedModeError) as caught:
        configure(config)
    assert str(caught.value) == (
        "--video-pruning-rate 0.5 is for videos, and beside foveate only images of LLaVA-1.5 are "
        "served; leave one of them out."
    )


def test_a_method_of_videos_where_none_are_served() -> None:
    entry = {"foveate": {"method": "evs", "keep_ratio": 0.25}}
    with pytest.raises(MethodError) as caught:
        configure(engine("LlavaForConditionalGeneration", entry))
    assert str(caught.value) == (
        "evs compares the frames of videos, and foveate serves only images of LLaVA-1.5; use "
        "another method, or serve Qwen2-VL or Qwen2.5-VL."
    )


def tuned(method: foveate.Method) -> dict[str, Any]:
    return {"foveate": {"method": method.to_dict()}}


def test_a_profile_acts_as_it_was_tuned() -> None:
    """vLLM has no gaps between the tokens of LLaVA, so a profile must not have had them either."""
    with pytest.raises(MethodError) as caught:
        configure(engine("LlavaForConditionalGeneration", tuned(foveate.DivPrune(keep_ratio=0.5))))
    assert str(caught.value) == (
        "divprune(keep=50%, prune_layer=0) was tuned with positions='original', and vLLM numbers "
        "the tokens of LLaVA-1.5 without gaps; tune for it, e.g. --methods "
        "'divprune(positions=renumbered)', or use this profile in transformers (`foveate run`)."
    )
    method = foveate.DivPrune(keep_ratio=0.5, positions="renumbered")
    served = configure(engine("LlavaForConditionalGeneration", tuned(method)))
    assert served == replace(method, prune_layer=0)


def test_a_profile_of_a_model_whose_features_enter_at_several_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in = SimpleNamespace(announce_pruning=lambda config: None)
    monkeypatch.setitem(sys.modules, "foveate.vllm.pruning_config", stand_in)
    config = engine("Qwen3VLForConditionalGeneration", tuned(foveate.DivPrune(keep_ratio=0.5)))
    vision = config.model_config.hf_config.vision_config
    vision.deepstack_visual_indexes = []
    assert configure(config) is not None
    vision.deepstack_visual_indexes = [0, 1]
    with pytest.raises(UnsupportedModeError, match="was tuned to cut behind them, where vLLM cuts"):
        configure(config)


def test_without_an_entry_nothing_is_touched() -> None:
    config = engine("AnyModel", additional={})
    assert configure(config) is None
    assert not hasattr(config.model_config.hf_config, "foveate")


def test_a_model_that_cannot_be_compressed() -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        configure(engine("Gemma4ForConditionalGeneration"))
    assert str(caught.value) == (
        "--additional-config asks for foveate, and Gemma4ForConditionalGeneration cannot be "
        "compressed in vLLM; serve one of LLaVA-1.5, LLaVA-NeXT, LLaVA-OneVision, Qwen2-VL, "
        "Qwen2.5-VL, Qwen3-VL, InternVL, or leave foveate out."
    )


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("Mistral3", "its prompts have a mark behind"),
        *((name.removesuffix(END), "foveate's class for it was not held") for name in CANDIDATES),
    ],
)
def test_a_family_that_people_ask_for(architecture: str, reason: str) -> None:
    """Why it is not served is part of the sentence."""
    with pytest.raises(UnsupportedModelError, match=rf"in vLLM \({reason}"):
        configure(engine(f"{architecture}{END}"))


@pytest.mark.parametrize("architecture", ["Glm4v", "Qwen3_5"])
def test_a_tower_that_methods_cannot_read(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = SimpleNamespace(announce_pruning=lambda config: None)
    monkeypatch.setitem(sys.modules, "foveate.vllm.pruning_config", stand_in)
    name = f"{architecture}{END}"
    monkeypatch.setitem(FAMILIES, name, CANDIDATES[name])  # type: ignore[misc]
    with pytest.raises(UnsupportedModelError, match="tokencarve reads the vision tower, and that"):
        configure(engine(name))
    entry = {"foveate": {"method": "divprune", "keep_ratio": 0.25}}
    assert configure(engine(name, entry)) is not None


def test_a_request_s_budget_in_the_server_s_options() -> None:
    config = engine("LlavaForConditionalGeneration")
    config.model_config.multimodal_config.mm_processor_kwargs = {"foveate": {"keep_ratio": 0.1}}
    with pytest.raises(ConfigError) as caught:
        configure(config)
    assert str(caught.value) == (
        "--mm-processor-kwargs has 'foveate', which is for requests; the server's own budget goes "
        "into --additional-config."
    )


def test_what_is_refused_ends_without_a_traceback() -> None:
    """However deep vLLM has wrapped it; errors that are not ours keep theirs."""
    source = """
import sys
from foveate.errors import BudgetError
from foveate.vllm.plugin import _say_refusals
_say_refusals()
try:
    raise {"ours": BudgetError, "other": ValueError}[sys.argv[1]]("too little.")
except Exception as error:
    raise RuntimeError("the engine did not start") from error
"""
    for kind in ("ours", "other"):
        done = subprocess.run(
            [sys.executable, "-c", source, kind], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        if kind == "ours":
            assert done.stderr == "foveate: too little.\n"
        else:
            assert "Traceback" in done.stderr


def test_a_tower_that_is_spread_over_devices_by_image() -> None:
    config = engine("LlavaForConditionalGeneration")
    config.model_config.multimodal_config.mm_encoder_tp_mode = "data"
    configure(config)  # one device
    config.parallel_config.tensor_parallel_size = 2
    with pytest.raises(Exception, match="use --mm-encoder-tp-mode weights, or a method"):
        configure(config)


def test_a_tower_that_is_not_known() -> None:
    config = engine("LlavaForConditionalGeneration")
    config.model_config.hf_config.vision_config.model_type = "pixtral"
    with pytest.raises(UnsupportedModelError) as caught:
        configure(config)
    assert str(caught.value) == (
        "this LLaVA-1.5 has a pixtral tower; towers that can be compressed are clip_vision_model "
        "and siglip_vision_model."
    )
