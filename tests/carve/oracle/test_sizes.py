"""sizes="log": a merged token counts as often as it was made of tokens.

Held to an explicit bias in full-length attention, and to what it means: copies of a token, merged,
are worth as much as the copies themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor

import foveate
from foveate.carve.engine.run import Run
from foveate.core.plan import KeepPlan, merge_to_owners
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError, UnsupportedModelError
from tests import tiny_kinds as kinds
from tests import tiny_vlm as tiny
from tests.carve.oracle.masked import masked_steps
from tests.carve.oracle.test_pruned_equals_masked import GREEDY, assert_close, extended
from tests.carve.oracle.test_steps_equal_masked import VISUAL, steps_of

RAGGED = (1, 2, 0)


def check(
    model: Any,
    inputs: dict[str, Any],
    method: foveate.Method,
    *,
    compact: bool = True,
    **settings: Any,
) -> None:
    """Prefill and decoding equal the explicit bias, and differ without it."""
    length = inputs["input_ids"].shape[1]
    with foveate.attach(model, method) as run:
        # A random model may say the image token, which the slow path would take for an image.
        out = model.generate(**inputs, **GREEDY, suppress_tokens=VISUAL, **settings)
    assert run.report is not None
    assert run.report.merged
    grown = extended(inputs, out.sequences[:, :-1])
    if getattr(model.config, "model_type", "") == "paligemma":
        grown["token_type_ids"][:, length:] = 1  # generated tokens are causal
    counted, plain = (
        masked_steps(model, grown, steps_of(run), length, compact=compact, counted=is_counted)
        for is_counted in (True, False)
    )
    carved = torch.stack(out.logits, dim=1)
    assert_close(carved, counted[:, length - 1 :])
    assert (counted - plain)[0, length - 1 :].abs().max() > 1e-3, "the oracle cannot tell"
    assert (counted - plain)[0, length:].abs().max() > 1e-3, "nor in decoding"


@pytest.mark.parametrize("num_images", [(1,), RAGGED], ids=["single", "ragged"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_explicit_bias(name: str, attention: str, num_images: tuple[int, ...]) -> None:
    model = tiny.build(name, attention)
    check(
        model,
        tiny.prompts(model, name, num_images),
        foveate.TokenCarve(keep_ratio=0.4, sizes="log"),
    )


SPARSE = foveate.SparseVlm(keep_ratio=0.5, recycled=1.0, cluster_fraction=0.5, sizes="log")
TWICE = foveate.Stack(
    stages=(
        foveate.AveragePooling(keep_ratio=0.6, prune_layer=1, sizes="log"),
        foveate.TokenCarve(keep_ratio=0.3, prune_layer=3, sizes="log"),
    )
)


@pytest.mark.parametrize("method", [SPARSE, TWICE], ids=["sparsevlm", "twice"])
@pytest.mark.parametrize(
    ("name", "use_cache"),
    [("llava", True), ("llava", False), ("gemma3", True), ("smolvlm", True)],
)
def test_sizes_add_up_over_steps(name: str, method: foveate.Method, use_cache: bool) -> None:
    model = tiny.build(name)
    inputs = tiny.prompts(model, name, RAGGED)
    check(model, inputs, method, compact=method is TWICE, use_cache=use_cache)


def test_soft_cap_is_before_the_bias() -> None:
    """Gemma 2: logits are capped, then masked; every second layer slides."""
    torch.manual_seed(0)
    text = tf.Gemma2Config(
        **tiny.TEXT, attn_logit_softcapping=2.0, sliding_window=16, query_pre_attn_scalar=12
    )
    config = tiny.llava_config()
    config = tf.LlavaConfig(**{**config.to_dict(), "text_config": text.to_dict()})
    model = tf.AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                weight.mul_(12)
    inputs = tiny.prompts(model, "llava", RAGGED)
    check(model, inputs, foveate.TokenCarve(keep_ratio=0.4, sizes="log"))


def test_batch_row_equals_single_run_and_beams_carry_sizes() -> None:
    model = tiny.build("llava")
    inputs = tiny.prompts(model, "llava", RAGGED)
    settings = {"max_new_tokens": 5, "do_sample": False, "num_beams": 3}
    method = foveate.TokenCarve(keep_ratio=0.4, sizes="log")
    with foveate.attach(model, method):
        batch = model.generate(**inputs, **settings)
        again = model.generate(**inputs, **settings, use_cache=False)
        assert batch.tolist() == again.tolist()
        for sample in range(len(RAGGED)):
            row = tiny.row_of(inputs, model, "llava", sample, RAGGED)
            alone = model.generate(**row, **settings)[0]
            new = alone[row["input_ids"].shape[1] :].tolist()
            found = batch[sample, inputs["input_ids"].shape[1] :].tolist()
            assert found[: len(new)] == new


def test_a_later_turn_in_one_call_or_token_by_token() -> None:
    model = tiny.build("llava")
    inputs = tiny.prompts(model, "llava", RAGGED)
    text = torch.randint(3, 80, (len(RAGGED), 4), generator=torch.Generator().manual_seed(1))
    logits = []
    with foveate.attach(model, foveate.TokenCarve(keep_ratio=0.4, sizes="log")), torch.no_grad():
        for parts in ((text,), text.split(1, dim=1)):
            cache, mask = model(**inputs).past_key_values, inputs["attention_mask"]
            found = []
            for part in parts:
                mask = torch.cat([mask, torch.ones_like(part)], dim=1)
                out = model(input_ids=part, attention_mask=mask, past_key_values=cache)
                found.append(out.logits)
            logits.append(torch.cat(found, dim=1))
    assert_close(logits[0], logits[1])


@pytest.mark.parametrize("how", ["half", "autocast"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_other_precisions(attention: str, how: str) -> None:
    """The mask comes in a precision that the kernel takes; logits are those of float32."""
    logits = []
    for is_low in (False, True):
        model = tiny.build("llava", attention)
        inputs = tiny.prompts(model, "llava", RAGGED)
        if is_low and how == "half":
            model = model.to(torch.bfloat16)
            inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
        cast = torch.autocast("cpu", torch.bfloat16, enabled=is_low and how == "autocast")
        method = foveate.AveragePooling(keep_ratio=0.4, sizes="log")  # the same plan in both
        with foveate.attach(model, method), torch.no_grad(), cast:
            cache = model(**inputs).past_key_values
            more = torch.full((len(RAGGED), 1), 5)
            mask = torch.cat([inputs["attention_mask"], torch.ones_like(more)], dim=1)
            out = model(input_ids=more, attention_mask=mask, past_key_values=cache)
        logits.append(out.logits.float())
    assert_close(logits[1], logits[0], 5e-2)


@pytest.mark.parametrize("ranking", ["ahead", "before"])
def test_attention_that_is_read_counts_sizes(ranking: Any) -> None:
    """What a later step ranks by is the attention that the model would have."""
    model = tiny.build("llava", "eager")
    inputs = tiny.prompts(model, "llava", (1,))
    pooling = foveate.AveragePooling(keep_ratio=0.6, prune_layer=1, sizes="log")
    later = foveate.PyramidDrop(keep_ratio=0.3, prune_layer=3, stages=1, ranks_by=ranking)
    with foveate.attach(model, pooling) as run, torch.no_grad():
        maps = model(**inputs, output_attentions=True).attentions
    (left,) = run.plans
    with foveate.attach(model, foveate.Stack(stages=(pooling, later))) as run, torch.no_grad():
        model(**inputs)
    found = run.plans[0].steps[1].scores["attention"]
    first = left.span.first
    row = maps[3 if ranking == "ahead" else 2][0, :, -1].mean(dim=0)
    assert_close(found[0], row[first : first + left.num_kept])


def test_before_a_decoder_that_makes_its_own_masks() -> None:
    model = tiny.build("llava")
    with pytest.raises(UnsupportedModelError, match="before its decoder, which makes its own"):
        Run(model, foveate.VisionZip(keep_ratio=0.4, sizes="log"), cut="before_llm")


@pytest.mark.parametrize("name", ["gemma3n", "gemma4", "mistral_large4"])
def test_layers_where_it_cannot_be_refuse(name: str) -> None:
    model = kinds.build(name)
    with pytest.raises(UnsupportedModelError, match=r"reuse keys of layers|by an indexer"):
        foveate.attach(model, foveate.TokenCarve(keep_ratio=0.4, prune_layer=2, sizes="log"))


@pytest.mark.parametrize("name", ["qwen3_5", "lfm2_vl"])
def test_states_refuse_behind_the_cut_only(name: str) -> None:
    model = kinds.build(name)
    with pytest.raises(UnsupportedModelError, match="keeps a state instead of keys"):
        foveate.attach(model, foveate.TokenCarve(keep_ratio=0.4, prune_layer=1, sizes="log"))


@pytest.mark.parametrize("name", ["fastv", "divprune", "pixelprune", "random"])
def test_methods_that_merge_nothing_refuse(name: str) -> None:
    with pytest.raises(MethodError, match=f"{name} merges no tokens"):
        foveate.method(name, sizes="log", **({} if name == "pixelprune" else {"keep_tokens": 3}))


# --- copies ---


@pytest.fixture
def merging() -> Iterator[type[foveate.Method]]:
    """A method that merges every image into given owners."""

    @dataclass(frozen=True, kw_only=True)
    class Given(foveate.Method):
        """Token i of what is left goes into token owners[i]."""

        name = "given_owners"
        merges_tokens = True

        owners: tuple[int, ...] = ()

        def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
            owners = torch.tensor(self.owners).expand(visual.num_images, -1)
            return merge_to_owners(owners, keep)

    yield Given
    foveate.METHODS.pop("given_owners")


def decoder(attention: str, **settings: Any) -> Any:
    torch.manual_seed(3)
    config = tf.LlamaConfig(**tiny.TEXT, **settings)
    model = tf.AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                weight.mul_(12)
    return model


def copies_prompt(counts: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embeddings, positions, mask and visual mask of a prompt with `counts` copies of each token.

    Copies stand at the same position and see each other, so that they stay copies.
    """
    generator = torch.Generator().manual_seed(5)
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    distinct = torch.randn(len(counts), tiny.TEXT["hidden_size"], generator=generator)
    before, behind = (torch.randn(n, tiny.TEXT["hidden_size"], generator=generator) for n in (3, 4))
    embeds = torch.cat([before, distinct[owner], behind])[None]
    positions = torch.cat(
        [torch.arange(3), 3 + owner, 3 + len(counts) + torch.arange(len(behind))]
    )[None]
    unseen = (positions[0][None, :] > positions[0][:, None])[None, None]
    mask = torch.zeros(unseen.shape).masked_fill(unseen, torch.finfo(torch.float32).min)
    visual = torch.zeros(1, embeds.shape[1], dtype=torch.bool)
    visual[:, 3 : 3 + len(owner)] = True
    return embeds, positions, mask, visual


def outputs(model: Any, prompt: tuple[Tensor, ...], steps: int = 3) -> Tensor:
    """Logits of the last prompt token and of tokens decoded behind it."""
    embeds, positions, mask, _ = prompt
    cache = tf.DynamicCache(config=model.config)
    found = []
    length, place = embeds.shape[1], int(positions.max()) + 1
    with torch.no_grad():
        out = model(
            inputs_embeds=embeds,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
        )
        found.append(out.logits[:, -1])
        for step in range(steps):
            out = model(
                inputs_embeds=embeds[:, step : step + 1] * 0.5,
                position_ids=torch.tensor([[place + step]]),
                attention_mask=torch.zeros(1, 1, 1, length + step + 1),
                past_key_values=cache,
            )
            found.append(out.logits[:, -1])
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("layers", [(0,), (2,), (1, 3)], ids=str)
def test_merged_copies_are_worth_the_copies(
    merging: Any, attention: str, layers: tuple[int, ...]
) -> None:
    counts = (1, 4, 2, 1, 3)
    prompt = copies_prompt(counts)
    model = decoder(attention)
    copies = outputs(model, prompt)

    def merged(sizes: str) -> Tensor:
        first = (0, 1, 1, 1, 1, 5, 5, 7, 8, 8, 8)
        if len(layers) == 1:
            plans = [(first, len(counts))]
        else:  # 1 + 3 and 2 + 1 copies first, the rest later, where sizes must add up
            plans = [((0, 1, 2, 2, 2, 5, 5, 7, 8, 8, 10), 7), ((0, 1, 1, 3, 4, 5, 5), 5)]
        made = [
            merging(
                keep_tokens=keep,
                prune_layer=layer,
                owners=owners,
                sizes=sizes,
                early_cache="full",  # there the copies are, and decoded tokens see them
            )
            for layer, (owners, keep) in zip(layers, plans, strict=True)
        ]
        method = made[0] if len(made) == 1 else foveate.Stack(stages=tuple(made))
        with foveate.attach(model, method, visual_mask=prompt[3]) as run:
            found = outputs(model, prompt)
        assert run.report is not None
        assert run.report.images[0].kept == len(counts)
        return found

    assert_close(merged("log"), copies, 2e-5)
    assert (merged("ignore") - copies).abs().max() > 1e-3, "copies make no difference here"
