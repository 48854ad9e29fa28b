"""The same questions to transformers with `foveate.attach`: what vLLM's answers are held to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import foveate
from foveate.carve.method import Method
from foveate.carve.profile import Profile
from foveate.models.load import load_vlm
from tests.vllm.engine.server import Answer


class Reference:
    """A model in transformers, compressed by a method, or by a profile's."""

    def __init__(self, folder: Path, method: Method | Profile) -> None:
        self.vlm = load_vlm(folder, device="cpu", dtype="float32")
        self.method = method

    def inputs(self, images: Sequence[Image.Image], question: str) -> dict[str, Any]:
        return self.vlm.inputs(question, images)

    def ask(self, images: Sequence[Image.Image], question: str, *, max_tokens: int = 8) -> Answer:
        """One chat request: images, then a question; greedy."""
        inputs = self.inputs(images, question)
        with foveate.attach(self.vlm.model, self.method) as run, torch.no_grad():
            made = self.vlm.model.generate(
                **inputs,
                max_new_tokens=max_tokens,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        length = inputs["input_ids"].shape[1]
        ids = made.sequences[0, length:]
        scores = torch.stack(made.logits)[:, 0].float().log_softmax(dim=-1)
        dropped = sum(image.before - image.kept for image in run.report.images)
        return Answer(
            text=self.vlm.tokenizer.decode(ids, skip_special_tokens=True).strip(),
            prompt_tokens=length - dropped,
            logprobs=tuple(scores.gather(1, ids[:, None])[:, 0].tolist()),
        )
