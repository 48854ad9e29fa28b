"""One thing runs on a model at a time, whatever its kind, and it goes without a trace."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import foveate
from foveate.errors import AttachError, UnsupportedModeError
from foveate.models.anatomy import anatomy_of
from foveate.models.attachment import Attachment, attached_to, bound_arguments
from tests import tiny_vlm
from tests.vist import tiny_vist
from tests.vist.tiny_vist import ids, memory

CARVE = foveate.DivPrune(keep_tokens=3, prune_layer=2)
PROMPT = ids(12, 1)[None]
IS_VISUAL = torch.zeros(1, 12, dtype=torch.bool)
IS_VISUAL[:, 2:9] = True


@pytest.fixture(scope="module")
def llm() -> Any:
    return tiny_vist.model()


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def traces(model: Any) -> list[Any]:
    """Everything a run could leave behind."""
    return [
        (name, len(m._forward_pre_hooks), len(m._forward_hooks), sorted(m.__dict__))
        for name, m in model.named_modules()
    ]


def carving(model: Any) -> foveate.Run:
    return foveate.Run(model, CARVE, visual_mask=IS_VISUAL)


def reading(model: Any) -> Any:
    """A VistRun that is not attached."""
    run = tiny_vist.vist(model).attach(memory(9, 50))
    run.detach()
    return run


KINDS = {"carving": carving, "reading": reading}
Make = Callable[[Any], Any]
make_each = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


class Counter(Attachment[int]):
    """Counts calls of the base model, or fails to be put on."""

    def __init__(self, model: Any, fails: type[BaseException] | None = None) -> None:
        super().__init__(anatomy_of(model, with_explicit_mask=True))
        self.fails = fails
        self.forgot = 0

    @property
    def label(self) -> str:
        return "a counter"

    def _install(self) -> None:
        base, host = self._anatomy.base, self._anatomy.model
        self._put_on(base.register_forward_hook(lambda *_: self.reports.append(len(self.reports))))
        self._wrap(host, "generate", lambda generate: lambda *a, **kw: generate(*a, **kw))
        if self.fails is not None:
            raise self.fails("in the middle")

    def _forget(self) -> None:
        self.forgot += 1


# --- one at a time ---


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (carving, carving, "divprune(keep=3 tokens, prune_layer=2)"),
        (carving, reading, "divprune(keep=3 tokens, prune_layer=2)"),
        (reading, carving, "Vist(kv_prefix)"),
        (reading, reading, "Vist(kv_prefix)"),
        (Counter, carving, "a counter"),
        (carving, Counter, "divprune(keep=3 tokens, prune_layer=2)"),
    ],
)
def test_one_registry_for_every_kind(llm: Any, first: Make, second: Make, words: str) -> None:
    one, other = first(llm), second(llm)
    with one:
        assert attached_to(llm.base_model) is one
        before = traces(llm)
        with pytest.raises(AttachError) as error:
            other.attach()
        assert str(error.value) == f"the model already runs {words}; detach that run first."
        assert traces(llm) == before
        assert one.attached
        assert not other.attached
    assert attached_to(llm.base_model) is None
    with other:
        assert attached_to(llm.base_model) is other


@make_each
def test_an_attached_run_is_refused_twice(llm: Any, make: Make) -> None:
    run = make(llm)
    with run, pytest.raises(AttachError, match="already runs"):
        run.attach()


@make_each
def test_with_takes_an_attached_run_and_a_detached_one(llm: Any, make: Make) -> None:
    run, before = make(llm), traces(llm)
    for _ in range(2):
        with run as entered:
            assert entered is run
            assert run.attached
        assert traces(llm) == before
    run.attach()
    with run:
        llm(PROMPT)
    assert not run.attached
    assert run.report is run.reports[-1]
    assert traces(llm) == before
    run.detach()
    assert traces(llm) == before


@make_each
def test_detaching_what_is_not_attached_leaves_what_is(llm: Any, make: Make) -> None:
    run, other = carving(llm), make(llm)
    with run:
        before = traces(llm)
        other.detach()
        assert traces(llm) == before
        llm.generate(PROMPT, max_new_tokens=2)
    assert run.report is not None


# --- without a trace ---


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_a_failed_installation_leaves_nothing(llm: Any, kind: type[BaseException]) -> None:
    before, run = traces(llm), Counter(llm, kind)
    with pytest.raises(kind, match="in the middle"):
        run.attach()
    assert traces(llm) == before
    assert attached_to(llm.base_model) is None
    assert run.forgot == 1
    run.fails = None
    with run:
        llm(PROMPT)
    assert run.reports == [0]
    assert run.report == 0
    assert traces(llm) == before


def test_a_kernel_that_is_refused_leaves_nothing(llm: Any) -> None:
    run, before = reading(llm), traces(llm)
    kernel = llm.config._attn_implementation
    llm.config._attn_implementation_internal = "flash_attention_2"
    try:
        with pytest.raises(UnsupportedModeError, match="cannot hide a memory"):
            run.attach()
    finally:
        llm.config._attn_implementation_internal = kernel
    assert traces(llm) == before
    assert attached_to(llm.base_model) is None


@make_each
def test_an_exception_in_the_block_detaches(llm: Any, make: Make) -> None:
    before = traces(llm)
    with pytest.raises(ZeroDivisionError), make(llm):
        raise ZeroDivisionError
    assert traces(llm) == before


@make_each
def test_generate_is_the_class_s_own_again(llm: Any, make: Make) -> None:
    with make(llm):
        assert "generate" in llm.__dict__
        assert llm.generate.__doc__ == type(llm).generate.__doc__
    assert "generate" not in llm.__dict__


@make_each
def test_generate_of_somebody_else_is_put_back(llm: Any, make: Make) -> None:
    calls = []

    def own(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return type(llm).generate(llm, *args, **kwargs)

    llm.generate = own
    try:
        with make(llm):
            llm.generate(PROMPT, max_new_tokens=2)
        assert calls == [1]
        assert llm.__dict__["generate"] is own
    finally:
        del llm.generate


# --- freed ---


@pytest.mark.parametrize("is_detached", [False, True], ids=["attached", "detached"])
@make_each
def test_a_model_is_freed_with_what_is_attached(make: Make, is_detached: bool) -> None:
    model = tiny_vist.model()
    run = make(model).attach()
    model.generate(PROMPT, max_new_tokens=2)
    gone = weakref.ref(model)
    if is_detached:
        run.detach()
    del model, run
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("method", ["tokencarve", "visionzip", "sparsevlm"])
def test_a_model_is_freed_with_its_recorders(method: str) -> None:
    model = tiny_vlm.build("llava")
    foveate.attach(model, foveate.method(method, keep_ratio=0.4))
    model(**tiny_vlm.prompts(model, "llava", (1,)))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


# --- arguments ---


class Takes(nn.Module):
    def forward(self, x: int, y: int = 0, **kwargs: Any) -> None: ...


def test_arguments_by_name() -> None:
    module = Takes()
    found = bound_arguments(module, (1,), {"y": 2, "z": 3})
    assert found == {"x": 1, "y": 2, "z": 3}
    assert bound_arguments(module, (), {"x": 1}) == {"x": 1}
