"""The cost table's arms really run at a reduced scale; peak memory each in a process of its own.

`python -m benchmarks.vist_cost.probe ARM TOTAL FAR RAW NEW` prints the bytes that one run adds,
as JSON.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from foveate.errors import InputError
from foveate.vist.cepe.cepe import Cepe
from foveate.vist.cepe.encoder import CepeConfig, ChunkEncoderConfig
from foveate.vist.config import FusionConfig, ResamplerConfig, VistConfig
from foveate.vist.encoder.encoder_config import TextEncoderConfig
from foveate.vist.encoder.text_encoder import TextEncoder
from foveate.vist.encoder.vision_encoder import VisionEncoder
from foveate.vist.run.vist import Vist

__all__ = ["PROBE_SCALE", "ProbeArms"]

# An eighth of the paper's widths, a third of its depths, the same geometry of strips and chunks.
PROBE_SCALE = {
    "hidden": 256, "layers": 8, "heads": 4, "kv_heads": 1, "intermediate": 704,
    "encoder_width": 128, "encoder_layers": 8, "encoder_heads": 2, "resampler_layers": 2,
}  # fmt: skip
NUM_WORDS = 512


class ProbeArms:
    """Random models at the reduced scale, and text of four-letter words (about 146 a strip).

    Args:
        seed: of weights and text.
    """

    def __init__(self, seed: int = 0) -> None:
        generator = random.Random(seed)
        letters = "abcdefghiklmnoprstuvwy"
        words: dict[str, None] = {}
        while len(words) < NUM_WORDS:
            words["".join(generator.choices(letters, k=4))] = None
        self.words = list(words)
        self._order = generator.choices(self.words, k=65_536)
        self.tokenizer = _tokenizer(self.words)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = _language_model(len(self.words) + 4)
            self.vists = {
                "vist": _vist(self.model, self.tokenizer, _tower()),
                "vist-reader": _vist(
                    self.model, self.tokenizer, TextEncoder(TextEncoderConfig()).eval()
                ),
                "cepe": _cepe(self.model, self.tokenizer, resample=False),
                "cepe-resampled": _cepe(self.model, self.tokenizer, resample=True),
            }

    def run(self, arm: str, total: int, split: tuple[int, int], new_tokens: int) -> int:
        """Tokenise, render, encode, prefill, decode `new_tokens`; returns the far entries read.

        Raises:
            InputError: an unknown arm, or more text than there is.
        """
        if total > len(self._order):
            raise InputError(f"total={total} exceeds the {len(self._order)} words of the text.")
        far, raw = split if arm != "raw" else (0, total)
        words = self._order[:total]
        prompt = self.tokenizer("".join(f" {word}" for word in words[far:]), return_tensors="pt")
        options: dict[str, Any] = {
            "attention_mask": prompt["attention_mask"],
            "max_new_tokens": new_tokens,
            "min_new_tokens": new_tokens,
            "do_sample": False,
            "pad_token_id": 0,
        }
        assert prompt["input_ids"].shape[1] == raw
        if arm == "raw":
            self.model.generate(prompt["input_ids"], **options)
            return 0
        if arm not in self.vists:
            raise InputError(f"unknown arm {arm!r}; choose from raw, {', '.join(self.vists)}.")
        vist = self.vists[arm]
        memory = vist.read("".join(f" {word}" for word in words[:far]))
        with vist.attach(memory):
            self.model.generate(prompt["input_ids"], **options)
        return memory.num_latents

    @staticmethod
    def peak(arm: str, total: int, split: tuple[int, int], new_tokens: int) -> int:
        """Bytes that one run adds to a process of its own at its peak.

        Raises:
            InputError: the process failed.
        """
        return _in_own_process(arm, total, split, new_tokens)


def _in_own_process(arm: str, total: int, split: tuple[int, int], new_tokens: int) -> int:
    command = [sys.executable, "-m", __spec__.name, arm, *map(str, (total, *split))]
    done = subprocess.run([*command, str(new_tokens)], capture_output=True, text=True, timeout=3600)
    if done.returncode:
        said = done.stderr.strip().split("\n")[-1]
        raise InputError(f"measuring the memory of {arm} failed: {said or 'no message'}.")
    return int(json.loads(done.stdout.strip().splitlines()[-1])["bytes"])


def added_bytes(work: Callable[[], object]) -> int:
    """Peak memory during `work` beyond what was in use before it."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    try:
        reset.write_text("5")  # Linux: start the high-water mark anew
        before = _kilobytes(status, "VmRSS")
        work()
        return 1024 * max(0, _kilobytes(status, "VmHWM") - before)
    except OSError:
        # Elsewhere the mark cannot be reset: only what exceeds every moment before is seen.
        unit = 1 if sys.platform == "darwin" else 1024
        high = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        work()
        return unit * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - high)


def _kilobytes(status: Path, name: str) -> int:
    line = next(row for row in status.read_text().splitlines() if row.startswith(f"{name}:"))
    return int(line.split()[1])


def _tokenizer(words: list[str]) -> Any:
    vocabulary = {name: i for i, name in enumerate(["<pad>", "<bos>", "<eos>", "<unk>"])}
    vocabulary |= {f" {word}": 4 + i for i, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r" \S+"), "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", pad_token="<pad>", bos_token="<bos>"
    )


def _language_model(vocabulary: int) -> Any:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=PROBE_SCALE["hidden"],
        intermediate_size=PROBE_SCALE["intermediate"],
        num_hidden_layers=PROBE_SCALE["layers"],
        num_attention_heads=PROBE_SCALE["heads"],
        num_key_value_heads=PROBE_SCALE["kv_heads"],
        max_position_embeddings=65_536,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def _tower() -> VisionEncoder:
    width = PROBE_SCALE["encoder_width"]
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=PROBE_SCALE["encoder_layers"],
        num_attention_heads=PROBE_SCALE["encoder_heads"],
        image_size=224,
        patch_size=14,
    )
    return VisionEncoder(CLIPVisionModel(config).eval())


def _resampler(input_width: int, num_latents: int = 64) -> ResamplerConfig:
    return ResamplerConfig(
        input_width=input_width,
        width=PROBE_SCALE["encoder_width"],
        num_latents=num_latents,
        layers=PROBE_SCALE["resampler_layers"],
        heads=2,
    )


def _vist(model: Any, tokenizer: Any, encoder: Any) -> Vist:
    config = VistConfig(
        resampler=_resampler(encoder.width), fusion=FusionConfig(form="cross_attention")
    )
    return Vist(model, tokenizer, encoder, config)


def _cepe(model: Any, tokenizer: Any, *, resample: bool) -> Cepe:
    encoder = ChunkEncoderConfig(
        width=PROBE_SCALE["encoder_width"],
        layers=PROBE_SCALE["encoder_layers"],
        heads=PROBE_SCALE["encoder_heads"],
    )
    config = CepeConfig(
        encoder=encoder,
        resampler=_resampler(encoder.width, 64 if resample else encoder.chunk),
        fusion=FusionConfig(form="cross_attention"),
        resample=resample,
    )
    return Cepe(model, tokenizer, config)


def main() -> None:
    """Measure one arm in this process."""
    arm, total, far, raw, new = sys.argv[1], *map(int, sys.argv[2:])
    arms = ProbeArms()
    arms.run(arm, 64, (32, 32), 1)  # what is allocated once is not the run's
    print(json.dumps({"bytes": added_bytes(lambda: arms.run(arm, total, (far, raw), new))}))


if __name__ == "__main__":
    main()
