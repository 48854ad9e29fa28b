"""TokenCarve reproduces recordings of the official implementation on small random models.

Recordings live in `../shared/golden/tokencarve`, beside the project, and are not part of it; tests
that need them are skipped elsewhere. Their weights are stored, or regenerate from a frozen recipe.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, safe_open
from transformers import LlamaConfig, LlamaForCausalLM

import foveate

FOLDER = Path(__file__).resolve().parents[4] / "shared" / "golden" / "tokencarve"
RECORDINGS = sorted(FOLDER.glob("*.safetensors"))
NO_RECORDINGS = pytest.param(
    None, marks=pytest.mark.skip(reason="../shared/golden/tokencarve is not beside the project")
)


def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_recipe", FOLDER / "recipe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Recording:
    def __init__(self, path: Path) -> None:
        self.tensors = load_file(path)
        with safe_open(path, "pt") as f:
            self.meta = f.metadata()
        self.config = json.loads(self.meta["config"])
        self.sys, self.img, self.txt, self.target = (
            int(self.meta[k]) for k in ("sys", "img", "txt", "T")
        )

    def weights(self) -> dict[str, torch.Tensor]:
        stored = {k[3:]: v for k, v in self.tensors.items() if k.startswith("sd.")}
        if stored:
            return stored
        made = recipe()
        weights = made.weights(self.config, int(self.meta["seed"]))
        assert made.sha(weights) == self.meta["weights_sha256"], "the recipe made other weights"
        return {k: torch.from_numpy(v) for k, v in weights.items()}

    def embeds(self) -> torch.Tensor:
        if "inputs_embeds" in self.tensors:
            return self.tensors["inputs_embeds"].view(1, -1, self.config["hidden_size"])
        made = recipe().embeds(self.config, int(self.meta["seed"]), self.sys, self.img, self.txt)
        return torch.from_numpy(made)

    def method(self) -> foveate.TokenCarve:
        # mode 0 fuses both rankings, 1 uses information only, 2 attention only.
        weight = {"0": float(self.meta["weight"]), "1": 0.0, "2": 1.0}[self.meta["mode"]]
        return foveate.TokenCarve(keep_tokens=self.target, attention_weight=weight)


@pytest.fixture(scope="module")
def recordings() -> dict[Path, tuple[Recording, LlamaForCausalLM]]:
    return {}


@pytest.fixture
def recorded(
    request: pytest.FixtureRequest, recordings: dict[Path, tuple[Recording, LlamaForCausalLM]]
) -> tuple[Recording, LlamaForCausalLM]:
    path = request.param
    if path not in recordings:
        recording = Recording(path)
        model = LlamaForCausalLM(LlamaConfig(**recording.config, attn_implementation="sdpa")).eval()
        missing = model.load_state_dict(recording.weights(), strict=False)
        assert not missing.unexpected_keys, missing
        assert all("inv_freq" in key for key in missing.missing_keys), missing
        recordings[path] = recording, model
    return recordings[path]


every_recording = pytest.mark.parametrize(
    "recorded",
    RECORDINGS or [NO_RECORDINGS],
    indirect=True,
    ids=[path.stem for path in RECORDINGS] or None,
)


def carve(recording: Recording, model: LlamaForCausalLM) -> foveate.Run:
    mask = torch.zeros(1, recording.sys + recording.img + recording.txt, dtype=torch.bool)
    mask[:, recording.sys : recording.sys + recording.img] = True
    return foveate.attach(model, recording.method(), visual_mask=mask)


@every_recording
def test_kept_set_and_merge_pairs(recorded: tuple[Recording, LlamaForCausalLM]) -> None:
    recording, model = recorded
    with carve(recording, model) as run, torch.no_grad():
        model(inputs_embeds=recording.embeds())
    plan = run.plans[0].plan
    assert plan is not None
    kept = set((plan.keep_idx[0] + recording.sys).tolist())
    text = set(range(recording.sys)) | set(
        range(recording.sys + recording.img, recording.sys + recording.img + recording.txt)
    )
    assert kept | text == set(recording.tensors["keep"].tolist())
    merged = (plan.merge_src[0] + recording.sys, plan.merge_dst[0] + recording.sys)
    expected = (recording.tensors["merge_B"], recording.tensors["merge_A"])
    assert _pairs(*merged) == _pairs(*expected)


def _pairs(src: torch.Tensor, dst: torch.Tensor) -> set[tuple[int, int]]:
    return set(zip(src.tolist(), dst.tolist(), strict=True))


@every_recording
def test_scores(recorded: tuple[Recording, LlamaForCausalLM]) -> None:
    recording, model = recorded
    with carve(recording, model) as run, torch.no_grad():
        model(inputs_embeds=recording.embeds())
    plan = run.plans[0].plan
    assert plan is not None
    torch.testing.assert_close(
        plan.scores["attention"][0], recording.tensors["av_row"].float(), atol=1e-6, rtol=1e-4
    )
    torch.testing.assert_close(
        plan.scores["information"][0].float(),
        recording.tensors["row_contrib"].float(),
        atol=1e-3,
        rtol=1e-4,
    )


@every_recording
def test_prefill_logits(recorded: tuple[Recording, LlamaForCausalLM]) -> None:
    recording, model = recorded
    with carve(recording, model), torch.no_grad():
        logits = model(inputs_embeds=recording.embeds()).logits[0, -recording.txt :]
    expected = recording.tensors["logits_tail"].float()
    difference = (logits - expected).abs()
    assert difference.max() < 1e-4, f"max {difference.max():.2e} mean {difference.mean():.2e}"


@every_recording
def test_greedy_tokens_and_step_logits(recorded: tuple[Recording, LlamaForCausalLM]) -> None:
    recording, model = recorded
    expected = recording.tensors["tokens"].flatten()[1:]
    with carve(recording, model) as run:
        out = model.generate(
            inputs_embeds=recording.embeds(),
            max_new_tokens=len(expected),
            min_new_tokens=len(expected),
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    assert out.sequences[0, -len(expected) :].tolist() == expected.tolist()
    difference = (torch.cat(out.logits) - recording.tensors["step_logits"].float()).abs()
    assert difference.max() < 1e-4, f"max {difference.max():.2e} mean {difference.mean():.2e}"
    assert run.report is not None
    lengths = [layer.keys.shape[-2] - len(expected) + 1 for layer in out.past_key_values.layers]
    assert lengths == json.loads(recording.meta["kvlen"])
