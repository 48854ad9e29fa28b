"""Images that are encoded once give bitwise the answers of images that are encoded every time."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import foveate
from foveate.carve.engine.image_cache import ImageCache, needs_the_tower
from foveate.carve.method import METHODS as ALL
from foveate.carve.method import Method
from foveate.carve.methods import FastV, TokenCarve, UniformGrid
from foveate.carve.spec import parse_method
from foveate.core.budget import Budget
from tests import tiny_vlm as tiny

METHODS = (TokenCarve(keep_ratio=0.5, prune_layer=3), FastV(keep_ratio=0.4, prune_layer=3))


def generate(model: Any, inputs: dict[str, Any], method: Method | None, **options: Any) -> Any:
    def run() -> Any:
        return model.generate(
            **inputs, max_new_tokens=4, do_sample=False, output_logits=True,
            return_dict_in_generate=True, **options,
        )  # fmt: skip

    if method is None:
        return run()
    with foveate.attach(model, method):
        return run()


@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_kept_equals_recomputed(family: str) -> None:
    model = tiny.build(family)
    inputs = tiny.prompts(model, family, [1, 2])
    before = set(model.base_model.__dict__)
    cache = ImageCache(model)
    for method in (None, *METHODS, None):
        with cache.in_use():
            kept = generate(model, inputs, method)
        fresh = generate(model, inputs, method)
        assert torch.equal(kept.sequences, fresh.sequences)
        for a, b in zip(kept.logits, fresh.logits, strict=True):
            assert torch.equal(a, b), float((a - b).abs().max())
    assert cache.num_encoded == 1
    assert set(model.base_model.__dict__) == before


def test_beams_do_not_spoil_what_is_kept() -> None:
    model = tiny.build("llava")
    inputs = tiny.prompts(model, "llava", [1, 1])
    cache = ImageCache(model)
    with cache.in_use():
        generate(model, inputs, None, num_beams=3)
    with cache.in_use():
        kept = generate(model, inputs, METHODS[0])
    assert torch.equal(kept.sequences, generate(model, inputs, METHODS[0]).sequences)
    assert cache.num_encoded == 1


def test_other_images_are_encoded_and_replace_the_kept_ones() -> None:
    model = tiny.build("llava")
    first = tiny.prompts(model, "llava", [1])
    other = {**first, "pixel_values": first["pixel_values"].flip(-1)}
    equal = {**first, "pixel_values": first["pixel_values"].clone()}
    cache = ImageCache(model)
    for inputs, encoded in ((first, 1), (equal, 1), (other, 2), (other, 2), (first, 3)):
        with cache.in_use():
            kept = generate(model, inputs, None)
        assert torch.equal(kept.logits[0], generate(model, inputs, None).logits[0])
        assert cache.num_encoded == encoded
    cache.clear()
    with cache.in_use():
        generate(model, first, None)
    assert cache.num_encoded == 4


def test_the_model_is_restored_after_an_error() -> None:
    model = tiny.build("llava")
    before = set(model.base_model.__dict__)
    with pytest.raises(RuntimeError, match="stop"), ImageCache(model).in_use():
        raise RuntimeError("stop")
    assert set(model.base_model.__dict__) == before


ALONE = [name for name in ALL if name not in ("stack", "text-share", "pixelprune")]
# Those that may follow another; these cut before the first layer, as that one does.
FIRST = ("foveacarve", "two-stage", "vscan")
BEHIND = [n for n in ALONE if ALL[n].where == "llm" and n not in ("noop", *FIRST)]


@pytest.mark.parametrize("text", [*ALONE, *(f"visionzip:75%+{name}" for name in BEHIND)])
def test_every_method_on_kept_images(text: str) -> None:
    """Used as a comparison uses it: the images are kept for those that may have them."""
    method = parse_method(text, Budget(keep_ratio=0.25), seed=1)
    model = tiny.build("llava")
    inputs = tiny.prompts(model, "llava", [1, 1])
    cache = ImageCache(model)
    with cache.in_use():
        generate(model, inputs, None)
    with contextlib.nullcontext() if needs_the_tower(method) else cache.in_use():
        kept = generate(model, inputs, method)
    fresh = generate(model, inputs, method)
    for a, b in zip(kept.logits, fresh.logits, strict=True):
        assert torch.equal(a, b), float((a - b).abs().max())
    assert cache.num_encoded == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tokencarve", False),
        ("divprune", False),
        ("random", False),
        ("visionzip", True),  # reads the tower's attention and keys
        ("tome", True),
        ("divprune:50%+tokencarve", False),
        ("visionzip:50%+tokencarve", True),
        ("tome:50%+fastv", True),
    ],
)
def test_who_needs_the_tower(text: str, expected: bool) -> None:
    assert needs_the_tower(parse_method(text, Budget(keep_ratio=0.25))) is expected


def test_unknown_places_run_the_tower() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Elsewhere(UniformGrid):
        where = "pixels"  # type: ignore[misc,assignment]

    assert needs_the_tower(Elsewhere(keep_ratio=0.5))
