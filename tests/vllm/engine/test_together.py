"""Images of one size and budget go through the tower together, and are kept as when alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.vllm.engine.in_process import engine
from tests.vllm.engine.test_families import assert_same, picture
from tests.vllm.engine.tiny_models import save_tiny


@pytest.mark.parametrize(("family", "module"), [("qwen2_5_vl", "qwen"), ("llava_next", "llava")])
@pytest.mark.parametrize("alone", [False, True])
def test_together(
    family: str, module: str, alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foveate.vllm import carved_tower, qwen

    where: Any = qwen if module == "qwen" else carved_tower
    carve_items, sizes = where.carve_items, []

    def spy(method: Any, features: Any, **more: Any) -> Any:
        sizes.append(len(features))
        return carve_items(method, features, **more)

    monkeypatch.setattr(where, "carve_items", spy)
    images = [picture(112, 112, 30 + i) for i in range(4)] + [picture(56, 112, 40)]
    asked = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "image_pil", "image_pil": image},
                    {"type": "text", "text": "w1 w2"},
                ],
            }
        ]
        for image in images
    ]
    entry = {"keep_ratio": 0.5, "alone": alone}
    options = {"max_num_batched_tokens": 1024, "enable_prefix_caching": False}
    folder = save_tiny(family, tmp_path)
    with engine(folder, entry, **options) as running:
        sizes.clear()  # of the start
        together = running.chats(asked)
        assert sorted(sizes) == ([1] * 5 if alone else [1, 4])
    with engine(folder, entry, **options) as running:
        for found, conversation in zip(together, asked, strict=True):
            assert_same(found, running.chat(conversation))
