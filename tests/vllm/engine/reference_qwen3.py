"""Qwen3-VL in transformers with its images carved before the decoder, deepstack features included.

`foveate.attach` cuts this family behind its deepstack layers, vLLM before the first. So here the
parts are put together by hand: features, plan, positions, and one forward pass a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from foveate.carve.method import Method
from foveate.vllm.selection import carve, plan_items
from tests.vllm.engine.reference import Reference
from tests.vllm.engine.server import Answer


class Qwen3Reference(Reference):
    """As Reference; for methods that do not read the tower."""

    def ask(self, images: Sequence[Image.Image], question: str, *, max_tokens: int = 8) -> Answer:
        """One chat request: images, then a question; greedy."""
        inputs = self.inputs(images, question)
        return self.answer(inputs, [self.method] * len(images), max_tokens=max_tokens)

    def answer(
        self, inputs: Mapping[str, Any], methods: Sequence[Method], *, max_tokens: int = 8
    ) -> Answer:
        """The same of a prompt as the processor gives it, each image carved by its method."""
        with torch.no_grad():
            embeds, positions, is_visual, deep = self._carved(inputs, methods)
            length, ids, logprobs = embeds.shape[1], [], []
            for _ in range(max_tokens):
                scores = self._next(embeds, positions, is_visual, deep).log_softmax(dim=-1)
                ids.append(int(scores.argmax()))
                logprobs.append(float(scores.max()))
                if ids[-1] == self.vlm.tokenizer.eos_token_id:
                    break
                token = self.vlm.model.get_input_embeddings()(torch.tensor([[ids[-1]]]))
                embeds = torch.cat([embeds, token], dim=1)
                positions = torch.cat([positions, positions[:, :, -1:] + 1], dim=2)
                is_visual = torch.cat([is_visual, torch.zeros(1, 1, dtype=torch.bool)], dim=1)
        text = self.vlm.tokenizer.decode(ids, skip_special_tokens=True).strip()
        return Answer(text=text, prompt_tokens=length, logprobs=tuple(logprobs))

    def _carved(
        self, inputs: Mapping[str, Tensor], methods: Sequence[Method]
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        base = self.vlm.model.model
        ids = inputs["input_ids"]
        embeds = base.get_input_embeddings()(ids)
        is_visual = ids == base.config.image_token_id
        positions, _ = base.get_rope_index(
            ids, inputs["mm_token_type_ids"], image_grid_thw=inputs.get("image_grid_thw")
        )
        if "pixel_values" not in inputs:
            return embeds, positions, is_visual, []
        found = base.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
        stays = ~is_visual[0]
        starts = is_visual[0].nonzero()[:, 0].split([len(f) for f in found.pooler_output])
        deep: list[list[Tensor]] = [[] for _ in found.deepstack_features]
        for i, (features, at) in enumerate(zip(found.pooler_output, starts, strict=True)):
            plan = plan_items(methods[i], features[None])
            (kept,), (places,) = carve(plan, features[None])
            embeds[0, at[places]] = kept
            stays[at[places]] = True
            for level, values in zip(deep, found.deepstack_features, strict=True):
                level.append(carve(plan, values[i][None])[0][0])
        return (
            embeds[:, stays],
            positions[:, :, stays],
            is_visual[:, stays],
            [torch.cat(level) for level in deep],
        )

    def _next(
        self, embeds: Tensor, positions: Tensor, is_visual: Tensor, deep: list[Tensor]
    ) -> Tensor:
        model = self.vlm.model
        out = model.model.language_model(
            inputs_embeds=embeds,
            position_ids=positions,
            visual_pos_masks=is_visual,
            deepstack_visual_embeds=deep or None,
            use_cache=False,
        )
        logits: Tensor = model.lm_head(out.last_hidden_state[0, -1])
        return logits
