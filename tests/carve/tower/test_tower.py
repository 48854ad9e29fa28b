"""The vision tower: what is read of it, and fewer tokens inside it, against plain transformers."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl

import foveate
from foveate.errors import MethodError, UnsupportedModeError
from foveate.models.anatomy import anatomy_of
from foveate.models.families import FAMILIES
from foveate.models.tower_tokens import out_of_windows
from tests import tiny_vlm as tiny

VISION_SIDE = tiny.VISION["image_size"] // tiny.VISION["patch_size"]


def read_tower(
    model: Any, inputs: dict[str, Any], name: str = "visionzip", **settings: Any
) -> list[Any]:
    """What a method was shown of every image."""
    seen = []
    method = foveate.method(name, keep_ratio=0.4, **settings)
    kind: Any = type(method)
    plan = kind.plan

    def spy(self: Any, visual: Any, keep: int) -> Any:
        seen.append(visual)
        return plan(self, visual, keep)

    kind.plan = spy
    try:
        with foveate.attach(model, method), torch.no_grad():
            model(**inputs)
    finally:
        kind.plan = plan
    return seen


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_cls_row_equals_the_eager_map(kernel: str) -> None:
    model = tiny.build("llava", kernel)
    inputs = tiny.prompts(model, "llava", (1, 2))
    visual = read_tower(model, inputs)[0]
    eager = tiny.build("llava", "eager")
    with torch.no_grad():
        maps = eager.base_model.vision_tower(
            inputs["pixel_values"], output_attentions=True
        ).attentions[-1]  # vision_feature_layer is -1
    row = maps.mean(dim=1)[:, 0, 1:]  # [B, N]
    torch.testing.assert_close(visual.vision_attention, row)
    assert visual.vision_attention.std() > 0


def test_received_attention_without_cls_equals_the_eager_map() -> None:
    model = tiny.build("paligemma", "sdpa")
    inputs = tiny.prompts(model, "paligemma", (1, 1))
    visual = read_tower(model, inputs)[0]
    eager = tiny.build("paligemma", "eager")
    with torch.no_grad():
        maps = eager.base_model.vision_tower(
            inputs["pixel_values"], output_attentions=True
        ).attentions[-1]
    torch.testing.assert_close(visual.vision_attention, maps.mean(dim=(1, 2)))


def towers_own(inputs: dict[str, Any], family: str) -> Any:
    """What the tower itself says: attention maps and states of all layers."""
    eager = tiny.build(family, "eager")
    with torch.no_grad():
        return eager.base_model.vision_tower(
            inputs["pixel_values"], output_attentions=True, output_hidden_states=True
        )


@pytest.mark.parametrize("family", ["llava", "paligemma"])
def test_an_earlier_layer_and_what_is_received_from_all(family: str) -> None:
    model = tiny.build(family, "sdpa")
    inputs = tiny.prompts(model, family, (1, 2))
    own, skip = towers_own(inputs, family), int(family == "llava")
    assert len(own.attentions) > 1
    received = [maps.mean(dim=(1, 2))[:, skip:] for maps in own.attentions]
    rows = [maps.mean(dim=1)[:, 0, 1:] for maps in own.attentions] if skip else received

    visual = read_tower(model, inputs, "hiprune", object_layer=0)[0]
    torch.testing.assert_close(visual.vision_received_early, received[0])
    torch.testing.assert_close(visual.vision_received, received[-1])
    assert visual.vision_attention is None

    visual = read_tower(model, inputs, "vscan", shallow_layer=0)[0]
    torch.testing.assert_close(visual.vision_attention_early, rows[0])
    torch.testing.assert_close(visual.vision_attention, rows[-1])


@pytest.mark.parametrize("family", ["llava", "paligemma"])
def test_features_are_what_the_last_used_layer_gives(family: str) -> None:
    model = tiny.build(family, "sdpa")
    inputs = tiny.prompts(model, family, (1, 2))
    skip = int(family == "llava")
    states = towers_own(inputs, family).hidden_states[-1]
    visual = read_tower(model, inputs, "scope")[0]
    # Kernels differ in rounding.
    torch.testing.assert_close(visual.vision_features, states[:, skip:], atol=1e-4, rtol=1e-4)


def test_a_layer_that_the_tower_has_not() -> None:
    model = tiny.build("llava", "sdpa")
    for method, setting in (("hiprune", "object_layer"), ("vscan", "shallow_layer")):
        made = foveate.method(method, keep_ratio=0.4, **{setting: 40})
        with pytest.raises(MethodError, match=f"{setting}=40 is outside the . layers"):
            foveate.attach(model, made).__enter__()


def test_feature_layer_before_the_last_is_the_one_read() -> None:
    model = tiny.build("llava", "sdpa")
    inputs = tiny.prompts(model, "llava", (1,))
    last = read_tower(model, inputs)[0].vision_attention
    model.config.vision_feature_layer = model.base_model.config.vision_feature_layer = -2
    before = read_tower(model, inputs)[0].vision_attention
    with torch.no_grad():
        maps = (
            tiny.build("llava", "eager")
            .base_model.vision_tower(inputs["pixel_values"], output_attentions=True)
            .attentions
        )
    torch.testing.assert_close(before, maps[-2].mean(dim=1)[:, 0, 1:])
    torch.testing.assert_close(last, maps[-1].mean(dim=1)[:, 0, 1:])


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_merged_patches_are_read_in_the_order_of_their_tokens(family: str) -> None:
    """Keys of a token are the mean of its patches' keys; alone or with others, the same."""
    model = tiny.build(family, "sdpa")
    inputs = tiny.prompts(model, family, (1, 2))
    together = read_tower(model, inputs)
    by_serial = {s: v.take([i]) for v in together for i, s in enumerate(v.serials)}
    assert sorted(by_serial) == [0, 1, 2]
    first = read_tower(model, tiny.row_of(inputs, model, family, 0, (1, 2)))[0]
    torch.testing.assert_close(by_serial[0].vision_attention, first.vision_attention)
    torch.testing.assert_close(by_serial[0].vision_keys, first.vision_keys)


def test_the_way_out_of_windows_is_the_models_own() -> None:
    model = tiny.build("qwen2_5_vl", "sdpa")
    inputs = tiny.prompts(model, "qwen2_5_vl", (1, 1))
    tower: modeling_qwen2_5_vl.Qwen2_5_VisionTransformerPretrainedModel = model.base_model.visual
    with torch.no_grad():
        out = tower(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
        inside = tower.merger(out.last_hidden_state)
    order = out_of_windows(tower, inputs["image_grid_thw"])
    torch.testing.assert_close(inside[order], out.pooler_output)


@pytest.mark.parametrize(
    ("name", "video"),
    [("llava_next", False), ("llava_onevision", False), ("llava_onevision", True)],
)
def test_tiles_become_tokens_as_their_features_do(name: str, video: bool) -> None:
    """The projector's output, tile by tile, through the rule: the model's own features."""
    model = tiny.build(name, "sdpa")
    base = anatomy_of(model, with_explicit_mask=False).base
    inputs = tiny.prompts(model, name, (1, 2), video=video)
    projected: list[Tensor] = []
    handle = base.multi_modal_projector.register_forward_hook(
        lambda module, args, out: projected.append(out)
    )
    if video:
        arguments = {"pixel_values_videos": inputs["pixel_values_videos"]}
    else:
        arguments = {k: inputs[k] for k in ("pixel_values", "image_sizes")}
    with torch.no_grad():
        extract = base.get_video_features if video else base.get_image_features
        features = extract(**arguments).pooler_output
    handle.remove()
    flat = features.flatten(0, 1) if isinstance(features, Tensor) else torch.cat(list(features))
    tower = FAMILIES[name].tower
    assert tower is not None
    got = tower.to_tokens(base, arguments, list(projected[0]))
    assert got.shape == flat.shape
    is_newline = (got == 0).all(dim=1)
    torch.testing.assert_close(got[~is_newline], flat[~is_newline])
    torch.testing.assert_close(
        flat[is_newline], base.image_newline.expand(int(is_newline.sum()), -1)
    )
    assert is_newline.any()


@pytest.mark.parametrize("name", ["smolvlm", "idefics3", "internvl", "gemma3"])
def test_squares_of_patches_become_tokens_in_reading_order(name: str) -> None:
    """Patches that carry their own place: a token gets the middle of its square."""
    model = tiny.build(name, "sdpa")
    base = anatomy_of(model, with_explicit_mask=False).base
    side = VISION_SIDE
    place = torch.arange(side * side)
    coordinates = torch.stack([place // side, place % side], dim=1).float()
    tower = FAMILIES[name].tower
    assert tower is not None
    got = tower.to_tokens(base, {}, [coordinates, coordinates + 100])
    small = round((len(got) // 2) ** 0.5)
    square = side // small
    middle = torch.arange(small) * square + (square - 1) / 2
    expected = torch.cartesian_prod(middle, middle)
    assert square > 1
    torch.testing.assert_close(got, torch.cat([expected, expected + 100]))


# Qwen3-VL lets nobody cut before its third layer; visionzip does by default.
READABLE = [n for n, f in FAMILIES.items() if f.tower is not None and n != "qwen3_vl"]


@pytest.mark.parametrize("name", READABLE)
def test_every_known_tower_is_read_alike_alone_and_in_a_batch(name: str) -> None:
    """Row by row, images in order; beams repeat rows and read the same."""
    model = tiny.build(name, "sdpa")
    num_images = (1, 2, 0)
    inputs = tiny.prompts(model, name, num_images)
    method = foveate.VisionZip(keep_ratio=0.4)
    with foveate.attach(model, method) as run:
        model.generate(**inputs, max_new_tokens=1)
        plans = run.plans
        for sample in (0, 1):
            alone_inputs = tiny.row_of(inputs, model, name, sample, num_images)
            for beams in (1, 2):
                model.generate(**alone_inputs, max_new_tokens=2, num_beams=beams)
                alone = [p.plan.keep_idx.tolist() for p in run.plans if p.plan]
                own = [
                    p.plan.keep_idx.tolist() for p in plans if p.span.sample == sample and p.plan
                ]
                assert own
                assert alone == own, "beams are no images of their own"


def slow_tower(tower: Any, pixels: Tensor, counts: tuple[int, ...], match: Any) -> Any:
    """One image through a CLIP tower with merging, token by token, and nothing of foveate's hooks.

    Returns (states of the slots at the end, members of each slot).
    """
    x = tower.pre_layrnorm(tower.embeddings(pixels))[0]  # [1 + N, D]
    members = [[i] for i in range(len(x) - 1)]
    for index, layer in enumerate(tower.encoder.layers):
        attention = layer.self_attn
        heads, dim = attention.num_heads, attention.head_dim
        normed = layer.layer_norm1(x)
        q, k, v = (
            getattr(attention, name)(normed).view(len(x), heads, dim).transpose(0, 1)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        sizes = torch.tensor([1.0, *map(float, map(len, members))])
        plain = (q @ k.transpose(1, 2)) * dim**-0.5
        weights = (plain + sizes.log()).softmax(-1)
        mixed = (weights @ v).transpose(0, 1).reshape(len(x), -1)
        x = x + attention.out_proj(mixed)
        x = x + layer.mlp(layer.layer_norm2(x))
        keys = k.mean(dim=0)[1:]
        importance = plain.softmax(-1).mean(dim=0)[0, 1:]
        left = counts[index] if index < len(counts) else 0
        while left:
            now = min(left, len(keys) // 2)
            src, dst = (t[0].tolist() for t in match(keys[None], importance[None], now))
            groups: dict[int, list[int]] = {i: [i] for i in range(len(keys)) if i not in src}
            for s, d in zip(src, dst, strict=True):
                groups[d].append(s)

            lengths = torch.tensor([float(len(group)) for group in members])

            def mean(values: Tensor, group: list[int], lengths: Tensor = lengths) -> Tensor:
                weight = lengths[group]
                shape = (-1, *(1,) * (values.ndim - 1))
                return (values[group] * weight.view(shape)).sum(0) / weight.sum()

            body = torch.stack([mean(x[1:], g) for g in groups.values()])
            keys, importance = (
                torch.stack([mean(values, g) for g in groups.values()])
                for values in (keys, importance)
            )
            x = torch.cat([x[:1], body])
            members = [list(chain(*(members[i] for i in g))) for g in groups.values()]
            left -= now
    return x[1:], members


@pytest.mark.parametrize("keep", [30, 12, 3])
@pytest.mark.parametrize("name", ["tome", "prune-and-merge"])
def test_merging_equals_the_slow_tower(name: str, keep: int) -> None:
    model = tiny.build("llava", "sdpa")
    inputs = tiny.prompts(model, "llava", (1, 1))
    method: Any = foveate.method(name, keep_tokens=keep)
    tower = model.base_model.vision_tower
    got: list[Any] = []
    handle = tower.register_forward_hook(lambda m, a, out: got.append(out.hidden_states[-1]))
    with foveate.attach(model, method) as run, torch.no_grad():
        # Added after foveate's own hook, so it sees what the projector sees.
        after = tower.register_forward_hook(lambda m, a, out: got.append(out.hidden_states[-1]))
        model(**inputs)
        after.remove()
    handle.remove()
    spread = got[-1]
    counts = method.merges(36, keep, len(tower.encoder.layers) - 1)
    for image in range(2):
        with torch.no_grad():
            states, members = slow_tower(
                tower, inputs["pixel_values"][image : image + 1], counts, method.match
            )
        assert len(members) == keep
        for state, group in zip(states, members, strict=True):
            for token in group:
                torch.testing.assert_close(spread[image, 1 + token], state, rtol=1e-4, atol=1e-5)
        plan = run.plans[image].plan
        assert plan is not None
        plan.check(keep)
        owners = dict(zip(plan.merge_src[0].tolist(), plan.merge_dst[0].tolist(), strict=True))
        owners |= {token: token for token in plan.keep_idx[0].tolist()}
        for group in members:
            assert len({owners[token] for token in group}) == 1


def test_resize_runs_the_tower_on_the_small_image() -> None:
    model = tiny.build("llava", "sdpa")
    inputs = tiny.prompts(model, "llava", (1, 1))
    tower = model.base_model.vision_tower
    small = torch.nn.functional.interpolate(
        inputs["pixel_values"], (12, 12), mode="bicubic", antialias=True
    )
    with torch.no_grad():
        expected = tower(small, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
    got: list[Tensor] = []
    with foveate.attach(model, foveate.ResizeFirst(keep_tokens=10)) as run, torch.no_grad():
        handle = tower.register_forward_hook(lambda m, a, out: got.append(out.last_hidden_state))
        model(**inputs)
        handle.remove()
    assert run.report is not None
    assert run.report.kept == 2 * 9, "a 3 x 3 grid is the largest square within ten"
    spread = got[0][:, 1:].view(2, 6, 6, -1)
    torch.testing.assert_close(spread[:, ::2, ::2], expected.view(2, 3, 3, -1))
    torch.testing.assert_close(spread[:, 1::2, 1::2], expected.view(2, 3, 3, -1))
    for entry in run.plans:
        assert entry.plan is not None
        kept = entry.plan.keep_idx[0]
        cells = sorted((int(i) // 6 // 2, int(i) % 6 // 2) for i in kept)
        assert cells == [(r, c) for r in range(3) for c in range(3)], "one token of each cell"


@pytest.mark.parametrize("name", ["visionzip", "tome", "resize"])
def test_features_computed_before_are_refused(name: str) -> None:
    model = tiny.build("llava", "sdpa")
    inputs = tiny.prompts(model, "llava", (1,))
    with torch.no_grad():
        features = model.get_image_features(inputs["pixel_values"])
    given = {k: v for k, v in inputs.items() if k != "pixel_values"}
    method = foveate.method(name, keep_ratio=0.4)
    with (
        foveate.attach(model, method),
        torch.no_grad(),
        pytest.raises(UnsupportedModeError, match="pass pixel_values"),
    ):
        model(**given, mm_encoder_outputs={"image": features})
    with torch.no_grad():
        model(**inputs)  # detached without a trace


@pytest.mark.parametrize("name", ["visionzip", "tome", "prune-and-merge", "resize"])
def test_tower_is_restored(name: str) -> None:
    model = tiny.build("llava", "sdpa")
    inputs = tiny.prompts(model, "llava", (1, 2))
    with torch.no_grad():
        plain = model(**inputs).logits
        with foveate.attach(model, foveate.method(name, keep_ratio=0.4)):
            carved = model(**inputs).logits
        assert torch.equal(model(**inputs).logits, plain)
    assert carved.shape[1] < plain.shape[1]
