"""Hosts: models that feed embeddings, images among them, to a language model of their own."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, LlamaConfig, OPTConfig, PretrainedConfig, T5Config

import foveate
from foveate.carve.check import findings
from foveate.carve.check.check import check
from foveate.carve.check.masked import masked_logits
from foveate.carve.check.prompts import GREEDY, Prompts, fresh
from foveate.carve.engine.run import Run
from foveate.core.frames import Frames
from foveate.errors import MethodError, UnsupportedModeError, UnsupportedModelError
from foveate.models import anatomy
from foveate.models.anatomy import anatomy_of
from foveate.models.derive import derive
from foveate.models.families import FAMILIES
from foveate.models.family import Host, Row
from foveate.models.twin import build_twin, typical_config
from foveate.models.twin_rules import FIRST_SPECIAL_ID, IMAGE_ID

BLIP = ["blip-2", "instructblip", "instructblipvideo"]
KOSMOS = ["kosmos-2", "kosmos-2.5"]
HOSTS = BLIP + KOSMOS
TEXTS = {"llama": LlamaConfig, "opt": OPTConfig}


def config_of(kind: str) -> PretrainedConfig:
    """Of a type, or of "type/language model inside it"."""
    name, _, text = kind.partition("/")
    config = typical_config(name)
    if text:
        config = type(config)(text_config=TEXTS[text]().to_dict())
    return config


def prompts_of(kind: str, kernel: str = "sdpa") -> Prompts:
    return Prompts(anatomy_of(build_twin(config_of(kind), kernel), with_explicit_mask=False))


@pytest.fixture(scope="module")
def made() -> dict[str, Prompts]:
    return {}


@pytest.fixture
def prompts(request: pytest.FixtureRequest, made: dict[str, Prompts]) -> Prompts:
    """Of the type that the test is parametrised with, built once."""
    kind = request.param
    if kind not in made:
        made[kind] = prompts_of(kind)
    return made[kind]


every_host = pytest.mark.parametrize("prompts", HOSTS, indirect=True)


def kept(run: Run) -> list[list[int]]:
    return [plan.plan.keep_idx[0].tolist() for plan in run.plans if plan.plan is not None]


def prompts_dropped(run: Run, length: int) -> torch.Tensor:
    """Columns of the first row that were dropped, [length] bool."""
    gone = torch.zeros(length, dtype=torch.bool)
    for _, tokens, stays, _, _ in findings._images(run):
        gone[tokens] = True
        gone[tokens[stays]] = False
    return gone


def logits(out: Any) -> torch.Tensor:
    return torch.stack(out.logits, dim=1)[..., :FIRST_SPECIAL_ID]


def told(prompts: Prompts, inputs: dict[str, Any]) -> dict[str, Any]:
    """What the language model inside is to be given for a prompt of text alone."""
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


def inner(prompts: Prompts) -> Any:
    model = prompts.model
    return getattr(model, "language_model", None) or model.text_model


# --- the slow path ---


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", [*HOSTS, "blip-2/llama", "instructblip/llama"])
def test_equals_the_slow_path(kind: str, kernel: str) -> None:
    """One row and a ragged batch, five tokens each, a shorter cache; the untouched model differs
    by more than the tolerance, which `equals_slow_path` sees to."""
    prompts = prompts_of(kind, kernel)
    assert prompts.is_real
    findings.equals_slow_path(prompts, (1,))
    findings.equals_slow_path(prompts, findings.RAGGED)
    findings.rows_are_their_own_runs(prompts)
    findings.keeping_all_is_bitwise(prompts)
    findings.text_only_is_bitwise(prompts)
    findings.before_layer_zero(prompts)


@every_host
def test_the_slow_path_can_fail(prompts: Prompts, monkeypatch: pytest.MonkeyPatch) -> None:
    images = findings._images

    def one_less(run: Run) -> list[findings.Image]:
        return [(row, tokens, kept[:-1], src, dst) for row, tokens, kept, src, dst in images(run)]

    monkeypatch.setattr(findings, "_images", one_less)
    with pytest.raises(findings.BrokenError, match="differ from the slow path"):
        findings.equals_slow_path(prompts, (1,))


@every_host
def test_a_plain_forward_pass_equals_the_slow_path(prompts: Prompts) -> None:
    inputs = prompts.batch((1, 2))
    length = inputs["input_ids"].shape[1]
    model = prompts.model
    with Run(model, foveate.TokenCarve(keep_ratio=0.4)) as run, torch.no_grad():
        carved = model(**fresh(inputs)).logits[:, -1]
    images = findings._images(run)
    slow = masked_logits(
        model,
        prompts.anatomy.decoder,
        fresh(inputs),
        images,
        run.prune_layer,
        length,
    )[:, -1]
    torch.testing.assert_close(carved, slow, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        assert not torch.allclose(carved, model(**fresh(inputs)).logits[:, -1], atol=1e-3)


@every_host
def test_a_loss_is_the_slow_path_s(prompts: Prompts) -> None:
    """Over the text that is left; the row before a dropped one predicts nothing."""
    inputs = prompts.batch((1,))
    model, length = prompts.model, inputs["input_ids"].shape[1]
    labels = inputs["input_ids"].clone()
    labels[:, : length // 2] = -100
    host = prompts.anatomy.family.host
    assert host is not None
    labels[labels == prompts._token] = -100
    given = labels.clone()
    with Run(model, foveate.TokenCarve(keep_ratio=0.4)) as run, torch.no_grad():
        loss = model(**fresh(inputs), labels=labels).loss
    assert torch.equal(labels, given), "the caller's labels are the caller's"
    with torch.no_grad():
        plain = model(**fresh(inputs), labels=labels).loss
    images = findings._images(run)
    slow = masked_logits(
        model,
        prompts.anatomy.decoder,
        fresh(inputs),
        images,
        run.prune_layer,
        length,
    )
    asked = labels[0, 1:].clone()
    gone = prompts_dropped(run, length)[:-1]
    asked[gone] = -100
    wanted = torch.nn.functional.cross_entropy(slow[0, :-1], asked, ignore_index=-100)
    assert float(loss) == pytest.approx(float(wanted), abs=1e-5)
    assert float(loss) != pytest.approx(float(plain), abs=1e-5)


# --- kinds of generation ---


@every_host
@pytest.mark.parametrize(
    "settings",
    [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}],
    ids=["beams", "returned"],
)
def test_beams_share_their_prompt_s_images(prompts: Prompts, settings: dict[str, Any]) -> None:
    """Beams of a row see what greedy search sees, and count as one image."""
    inputs = prompts.batch((1, 1))
    greedy = {**GREEDY, "max_new_tokens": 3}
    with Run(prompts.model, foveate.DivPrune(keep_ratio=0.4)) as run:
        prompts.model.generate(**fresh(inputs), **greedy)
        alone, count = kept(run), len(run.plans)
        prompts.model.generate(**fresh(inputs), **{**greedy, **settings})
        assert kept(run) == alone
        assert len(run.plans) == count > 0


@pytest.mark.parametrize("prompts", BLIP, indirect=True)
def test_embeddings_that_come_again_without_a_cache_are_refused(prompts: Prompts) -> None:
    inputs, model = prompts.batch((1,)), prompts.model
    with Run(model, foveate.TokenCarve(keep_ratio=0.4)) as run:
        # transformers uses one all the same where it is given ids as well as embeddings.
        cached = prompts.generate(inputs)
        other = model.generate(**fresh(inputs), **{**GREEDY, "use_cache": False})
        torch.testing.assert_close(logits(cached), logits(other), atol=1e-4, rtol=1e-4)
        with run.one_prompt(), torch.no_grad():
            model(**fresh(inputs), use_cache=False)
            with pytest.raises(UnsupportedModeError, match="leave use_cache unset"):
                model(**fresh(inputs), use_cache=False)
        with torch.no_grad():  # prompts of their own
            first = model(**fresh(inputs), use_cache=False).logits
            assert torch.equal(model(**fresh(inputs), use_cache=False).logits, first)


@pytest.mark.parametrize("prompts", KOSMOS, indirect=True)
def test_without_a_cache_decisions_are_applied_again(prompts: Prompts) -> None:
    inputs = prompts.batch((1,))
    with Run(prompts.model, foveate.TokenCarve(keep_ratio=0.4)) as run:
        cached = prompts.generate(inputs)
        fed_again = prompts.model.generate(**fresh(inputs), **{**GREEDY, "use_cache": False})
        assert run.report is not None
        assert run.report.fired
    torch.testing.assert_close(logits(cached), logits(fed_again), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prompts", BLIP, indirect=True)
def test_a_prompt_that_the_host_writes_itself(prompts: Prompts) -> None:
    """Without input_ids `generate` writes one image's placeholders and a start token."""
    inputs = prompts.batch((1,))
    del inputs["input_ids"], inputs["attention_mask"]
    with Run(prompts.model, foveate.DivPrune(keep_tokens=3)) as run:
        prompts.generate(inputs)
        assert run.report is not None
        assert run.report.fired
        assert {len(image) for image in kept(run)} == {3}


@pytest.mark.parametrize(
    "settings", [{"positions": "renumbered"}, {"early_cache": "full"}], ids=["renumbered", "early"]
)
def test_other_settings_of_a_rotary_language_model(settings: dict[str, Any]) -> None:
    """They change the answer, and a batch's rows are their own runs."""
    prompts = prompts_of("instructblip/llama")
    found = []
    for more in ({}, settings):
        with Run(prompts.model, foveate.DivPrune(keep_ratio=0.4, prune_layer=2, **more)):
            together = logits(prompts.generate(prompts.batch((1, 2))))
            alone = [logits(prompts.generate(prompts.alone((1, 2), row))) for row in range(2)]
        torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)
        found.append(together[:, 1:] if settings == {"early_cache": "full"} else together)
    assert not torch.allclose(*found, atol=1e-4)


@every_host
def test_learned_positions_cannot_be_renumbered(prompts: Prompts) -> None:
    with pytest.raises(MethodError, match="one-dimensional rotary"):
        Run(prompts.model, foveate.DivPrune(keep_ratio=0.4, positions="renumbered"))


@every_host
def test_prompt_lookup_gives_what_greedy_search_gives(prompts: Prompts) -> None:
    inputs = prompts.batch((1,))
    with Run(prompts.model, foveate.DivPrune(keep_ratio=0.4)) as run:
        greedy = prompts.generate(inputs).sequences
        looked_up = prompts.model.generate(
            **fresh(inputs), **{**GREEDY, "prompt_lookup_num_tokens": 3}
        )
        assert run.report is not None
        assert run.report.fired
    assert torch.equal(looked_up.sequences, greedy)


# --- whose prompt it was ---


@every_host
def test_a_later_text_prompt_of_that_length_is_not_carved(prompts: Prompts) -> None:
    """Also one whose tokens are placeholders: no image comes with it."""
    inputs = prompts.batch((1,))
    text = told(prompts, inputs)
    model = inner(prompts)
    plain = model.generate(**text, **GREEDY)
    with Run(prompts.model, foveate.TokenCarve(keep_ratio=0.4)) as run:
        prompts.generate(inputs)
        assert run.report is not None
        assert run.report.fired
        after = model.generate(**text, **GREEDY)
        assert not run.report.fired
    assert torch.equal(logits(plain), logits(after))


@pytest.mark.parametrize("prompts", BLIP, indirect=True)
def test_a_prompt_that_failed_leaves_nothing_behind(prompts: Prompts) -> None:
    inputs = prompts.batch((1,))
    model = prompts.model
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    with Run(model, foveate.TokenCarve(keep_ratio=0.4)):
        with pytest.raises(ValueError, match="values to unpack"):
            model(**{**fresh(inputs), "pixel_values": torch.zeros(1, 1, 1)})
        with pytest.raises(UnsupportedModeError, match="does not say which tokens are visual"):
            inner(prompts)(inputs_embeds=embeds)


@pytest.mark.parametrize("prompts", BLIP, indirect=True)
def test_embeddings_of_another_prompt_are_refused(prompts: Prompts) -> None:
    ids = prompts.batch((1,))["input_ids"]
    embeds = prompts.model.get_input_embeddings()(ids)
    with (
        Run(prompts.model, foveate.TokenCarve(keep_ratio=0.4)),
        pytest.raises(UnsupportedModeError, match="host's prompt has 1 of"),
    ):
        inner(prompts).generate(input_ids=ids[:, 1:], inputs_embeds=embeds, **GREEDY)


@pytest.mark.parametrize("prompts", HOSTS, indirect=True)
def test_embeddings_past_the_host_are_refused_unless_they_are_text(prompts: Prompts) -> None:
    """Kosmos tells by a mask where images are; without one they would run uncompressed."""
    language_model = inner(prompts)
    text = prompts.alone((1, 0), 1)["input_ids"]
    embeds = prompts.anatomy.base.get_input_embeddings()(text).detach()
    strange = embeds.clone()
    strange[:, 2:6] += 1.0
    with Run(prompts.model, foveate.TokenCarve(keep_ratio=0.4)) as run, torch.no_grad():
        with pytest.raises(UnsupportedModeError, match="does not say which tokens are visual"):
            language_model(inputs_embeds=strange)
        if prompts.anatomy.family.host.mask:  # type: ignore[union-attr]
            language_model(inputs_embeds=embeds)
            assert run.report is not None
            assert not run.report.fired


@pytest.mark.parametrize("prompts", ["kosmos-2.5"], indirect=True)
def test_images_behind_a_cache_are_refused(prompts: Prompts) -> None:
    inputs = prompts.batch((1,))
    with Run(prompts.model, foveate.TokenCarve(keep_ratio=0.4)), torch.no_grad():
        cache = prompts.model(**fresh(inputs), use_cache=True).past_key_values
        more = {**fresh(inputs), "past_key_values": cache}
        del more["attention_mask"]
        with pytest.raises(UnsupportedModeError, match="come behind"):
            prompts.model(**more)


@every_host
def test_random_choices_follow_a_row_s_own_prompt(prompts: Prompts) -> None:
    with Run(prompts.model, foveate.method("random", keep_ratio=0.4)) as run:
        prompts.generate(prompts.batch((1, 2)))
        together = kept(run)
        alone = []
        for row in range(2):
            prompts.generate(prompts.alone((1, 2), row))
            alone += kept(run)
    assert together == alone
    assert len({str(image) for image in together}) > 1


@pytest.mark.parametrize("prompts", ["blip-2"], indirect=True)
def test_images_side_by_side_are_two(prompts: Prompts) -> None:
    size = prompts._count(0)
    ids = torch.tensor([[1, *[IMAGE_ID] * 2 * size, 5, 6]])
    pixels = torch.cat([prompts.batch((1,))["pixel_values"]] * 2)
    with Run(prompts.model, foveate.DivPrune(keep_ratio=0.5)) as run:
        prompts.model.generate(input_ids=ids, pixel_values=pixels, **GREEDY)
    assert [plan.span.num_tokens for plan in run.plans] == [size, size]


def test_a_video_has_its_frames() -> None:
    prompts = prompts_of("instructblipvideo")
    with Run(prompts.model, foveate.DivPrune(keep_ratio=0.5)) as run:
        prompts.generate(prompts.batch((1,)))
    size = prompts.anatomy.config.num_query_tokens
    (plan,) = run.plans
    assert (plan.span.kind, plan.span.num_tokens) == ("video", 4 * size)
    assert plan.span.frames == Frames((size,) * 4)


# --- threads and copies ---


@pytest.fixture
def _switch_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@every_host
@pytest.mark.usefixtures("_switch_often")
def test_eight_threads_get_the_answers_of_one(prompts: Prompts) -> None:
    model = prompts.model
    asked = [prompts.batch(items) for items in ((1,), (2,), (1, 2, 0), (0,), (1, 1))]
    asked.append({**prompts.batch((1,)), "num_beams": 2})

    def answer(i: int) -> tuple[Any, ...]:
        tokens = model.generate(**fresh(asked[i]), max_new_tokens=3, do_sample=False)
        assert run.report is not None
        return tokens.tolist(), kept(run) if run.report.fired else [], run.report.fired

    with Run(model, foveate.TokenCarve(keep_ratio=0.4)) as run:
        alone = [answer(i) for i in range(len(asked))]
        order = [i % len(asked) for i in range(40)]
        random.Random(5).shuffle(order)
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(answer, order))
    assert [alone[i] for i in order] == together
    assert len({str(one[1]) for one in alone}) > 3, "requests that are all alike show nothing"


@pytest.mark.parametrize("kind", ["blip-2", "kosmos-2"])
def test_detached_and_copied_models_are_plain(kind: str) -> None:
    prompts = prompts_of(kind)
    model, inputs = prompts.model, prompts.batch((1,))
    plain = prompts.generate(inputs)
    with Run(model, foveate.TokenCarve(keep_ratio=0.4)):
        twin = copy.deepcopy(model)
        carved = prompts.generate(inputs)
    for other in (twin, model):
        assert torch.equal(logits(other.generate(**fresh(inputs), **GREEDY)), logits(plain))
    assert not torch.allclose(logits(plain), logits(carved), atol=1e-3)


# --- what is derived, and what is refused ---


def test_what_is_derived() -> None:
    assert derive(build_twin(config_of("blip-2"))).host == Host(
        generates="language_model", base="language_model.model.decoder", unit="num_query_tokens"
    )
    assert derive(build_twin(config_of("instructblip/llama"))).host == Host(
        generates="language_model", base="language_model.model", unit="num_query_tokens"
    )
    by_mask = Host(
        generates="text_model",
        base="text_model.model",
        mask="image_embeds_position_mask",
        features="image_embeds",
        unit="latent_query_num",
    )
    assert derive(build_twin(config_of("kosmos-2"))).host == by_mask
    assert derive(build_twin(config_of("kosmos-2.5"))).host == replace(by_mask, generates="")
    assert derive(build_twin(config_of("llava"))).host is None


def test_attach_checks_the_twin_and_lets_it_pass() -> None:
    prompts = prompts_of("blip-2")
    with foveate.attach(prompts.model, foveate.DivPrune(keep_ratio=0.4)) as run:
        prompts.generate(prompts.batch((1,)))
        assert run.report is not None
        assert run.report.fired


@pytest.mark.parametrize("name", ["blip-2", "instructblip", "instructblipvideo"])
@pytest.mark.parametrize(
    ("text", "why"),
    [
        (T5Config(vocab_size=100).to_dict(), "encoder with a decoder"),
        (AutoConfig.for_model("bloom", vocab_size=100, n_layer=2).to_dict(), "list of layers"),
        (AutoConfig.for_model("mpt", vocab_size=100, n_layers=2).to_dict(), "list of layers"),
    ],
    ids=["encoder-decoder", "bloom", "mpt"],
)
def test_language_models_that_are_refused(name: str, text: dict[str, Any], why: str) -> None:
    config = type(typical_config(name))(text_config=text)
    found = check(config, kernels=("sdpa",), thorough=False)
    assert not found.in_llm
    assert why in found.refusal


def test_cross_attention_in_the_language_model_is_refused() -> None:
    config = typical_config("kosmos-2")
    config.text_config.add_cross_attention = True
    found = check(config, kernels=("sdpa",), thorough=False)
    assert "cross-attention" in found.refusal


@pytest.mark.parametrize("name", BLIP)
def test_a_wrong_placeholder_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = prompts_of(name)
    inputs, model = right.batch((1,)), right.model
    row = Row(title="wrong", visual_tokens={right.modality: "num_query_tokens"})
    monkeypatch.setitem(FAMILIES, name, row)
    found = check(typical_config(name), kernels=("sdpa",), thorough=False)
    assert not found.in_llm
    monkeypatch.setattr(anatomy, "_check_row", lambda *parts: None)  # it would be refused before
    with Run(model, foveate.TokenCarve(keep_ratio=0.4)):
        with pytest.raises(UnsupportedModelError, match="none of the vocabulary's"):
            model.generate(**fresh(inputs), **GREEDY)
        with pytest.raises(UnsupportedModelError, match="none of the vocabulary's"):
            model(**fresh(inputs))


def test_features_in_front_of_the_text_are_refused() -> None:
    found = check(typical_config("git"))
    assert not found.in_llm
    assert "in front of its text" in found.refusal


@every_host
def test_methods_that_read_the_tower_are_refused(prompts: Prompts) -> None:
    with pytest.raises(UnsupportedModelError, match="method that acts in the language model"):
        Run(prompts.model, foveate.method("visionzip", keep_ratio=0.4)).attach()


@pytest.mark.parametrize("prompts", [*BLIP, "kosmos-2"], indirect=True)
def test_a_compiled_language_model_is_refused(prompts: Prompts) -> None:
    part = inner(prompts)
    part._compiled_call_impl = lambda *args, **kwargs: None
    try:
        with pytest.raises(UnsupportedModeError, match="is compiled"):
            Run(prompts.model, foveate.TokenCarve(keep_ratio=0.4)).attach()
    finally:
        part._compiled_call_impl = None
