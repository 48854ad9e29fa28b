"""check(config): the twin of a model is built and held to the slow path, in seconds."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig

from foveate.carve.check import findings as f
from foveate.carve.check.prompts import NoPromptError, Prompts
from foveate.carve.check.result import Checked
from foveate.carve.check.way import BEFORE_LLM, IN_LLM, Way
from foveate.errors import FoveateError, InputError, UnsupportedModelError
from foveate.models.anatomy import Anatomy, anatomy_of
from foveate.models.cache_kinds import cache_kinds
from foveate.models.derive import derive, title_of
from foveate.models.families import FAMILIES
from foveate.models.load import skeleton
from foveate.models.twin import build_twin

KERNELS = ("sdpa", "eager")
# Without these nothing is promised at all, with any attention kernel.
_NEEDED = ("injected features", "one row", "keep all", "text only")
_BATCHES = "rows"
_FOR_BATCHES = ("ragged batch", _BATCHES)


def check(
    config: PretrainedConfig, *, kernels: Sequence[str] = KERNELS, thorough: bool = True
) -> Checked:
    """What foveate guarantees of the models that `config` describes.

    Args:
        config: of a vision-language model; nothing is loaded but its code in transformers.
        kernels: attention kernels to check.
        thorough: False leaves out what only a listing needs: rows of batches, layer 0, and the cut
            before the language model where there is one inside it.

    Returns:
        What was found; a refusal is a result as well, never an exception.
    """
    with _quietly(), torch.device("cpu"), torch.autocast("cpu", enabled=False):
        return _check(config, tuple(kernels), thorough)


def _check(config: PretrainedConfig, kernels: tuple[str, ...], thorough: bool) -> Checked:
    facts: dict[str, Any] = {
        "model_type": config.model_type,
        "title": _title(config.model_type),
        "transformers": transformers.__version__,
    }
    try:
        anatomies, cannot = _twins(config, kernels)
    except UnsupportedModelError as error:
        return Checked(**facts, refusal=_better_reason(config) or str(error))
    anatomy = anatomies[next(iter(anatomies))]
    family = anatomy.family
    facts["title"] = family.title
    facts["first_layer"] = family.first_layer(anatomy.config)
    if family.cut == "before_llm":
        return _before(facts, anatomies, cannot)
    facts["cache_kinds"] = cache_kinds(anatomy.config)
    facts["oracle"] = f.oracle_of(anatomy)
    found: dict[str, str] = {f"built ({kernel})": why for kernel, why in cannot.items()}
    held: list[str] = []
    batched: list[str] = []
    for kernel, one in anatomies.items():
        try:
            prompts = Prompts(one)
        except NoPromptError as error:
            found[f"prompt ({kernel})"] = f"the plain twin takes no prompt: {error}."
            continue
        facts["given_features"] = prompts.why if not prompts.is_real else ""
        checks = _checks(prompts, thorough and kernel == next(iter(anatomies)))
        results = {name: _sentence(run) for name, run in checks.items()}
        found.update({f"{name} ({kernel})": sentence for name, sentence in results.items()})
        if not any(results[name] for name in _NEEDED):
            held.append(kernel)
        if not any(results.get(name) for name in _FOR_BATCHES):
            batched.append(kernel)
    video = None
    if held and "video" in family.visual_tokens:
        video = _video(anatomies[held[0]], found)
    refusal = ""
    if len(held) < len(anatomies) or not held:
        broken = next(name for name, why in found.items() if why and not name.startswith("built"))
        refusal = f"its twin fails the check {broken!r}: {found[broken]}"
    before = None
    if thorough:
        before = _holds_before(anatomy, found)
    return Checked(
        **facts,
        in_llm=not refusal,
        before_llm=before,
        batches=not refusal and batched == held,
        video=video,
        kernels=tuple(held),
        findings=found,
        refusal=refusal,
    )


def _before(
    facts: dict[str, Any], anatomies: dict[str, Anatomy], cannot: dict[str, str]
) -> Checked:
    """What holds of a family whose prompts are shortened before the decoder alone."""
    anatomy = anatomies[next(iter(anatomies))]
    with suppress(KeyError, AttributeError, TypeError, ValueError):  # `why` says that then
        facts["cache_kinds"] = cache_kinds(anatomy.config)
    facts["oracle"] = "before"
    found: dict[str, str] = {f"built ({kernel})": why for kernel, why in cannot.items()}
    held = [kernel for kernel, one in anatomies.items() if _holds_before(one, found, kernel)]
    video = None
    if held and "video" in anatomy.family.visual_tokens:
        video = _video(anatomies[held[0]], found, BEFORE_LLM)
    return Checked(
        **facts,
        before_llm=held == list(anatomies),
        batches=not any(why for name, why in found.items() if _BATCHES in name),
        video=video,
        kernels=tuple(held),
        findings=found,
        refusal=anatomy.family.why,
    )


def _holds_before(anatomy: Anatomy, found: dict[str, str], kernel: str = "") -> bool:
    """Whether a prompt that is shortened before the decoder gives the slow path's answers.

    Args:
        found: findings, what is found is added.
        kernel: named in them.
    """
    ending = f" ({kernel})" if kernel else ""
    try:
        prompts = Prompts(anatomy)
    except NoPromptError as error:
        found[f"before the LLM: prompt{ending}"] = f"the plain twin takes no prompt: {error}."
        return False
    checks: dict[str, Callable[[], None]] = {
        "one row": functools.partial(f.equals_slow_path, prompts, (1,), way=BEFORE_LLM),
        "two images": functools.partial(f.equals_slow_path, prompts, (2,), way=BEFORE_LLM),
        "keep all": functools.partial(f.keeping_all_is_bitwise, prompts, BEFORE_LLM),
        "text only": functools.partial(f.text_only_is_bitwise, prompts, BEFORE_LLM),
        _BATCHES: functools.partial(f.rows_are_their_own_runs, prompts, BEFORE_LLM),
    }
    results = {name: _sentence(run) for name, run in checks.items()}
    found.update({f"before the LLM: {name}{ending}": why for name, why in results.items()})
    return not any(why for name, why in results.items() if name != _BATCHES)


def _twins(
    config: PretrainedConfig, kernels: Sequence[str]
) -> tuple[dict[str, Anatomy], dict[str, str]]:
    """Kernel -> parts of the twin that runs it, kernel -> why there is none.

    Raises:
        UnsupportedModelError: there is none at all, or it has nothing to carve.
    """
    built: dict[str, Anatomy] = {}
    cannot: dict[str, str] = {}
    for kernel in kernels:
        try:
            twin = build_twin(config, kernel)
        except UnsupportedModelError as error:
            cannot[kernel] = str(error)
            continue
        built[kernel] = anatomy_of(twin, with_explicit_mask=False)
    if not built:
        raise UnsupportedModelError(cannot[kernels[0]])
    return built, cannot


def _better_reason(config: PretrainedConfig) -> str:
    """Why the model itself could not be carved, if that shows without a twin; else ""."""
    try:
        derive(skeleton(config))
    except UnsupportedModelError as error:
        return str(error)
    except InputError:
        return ""
    return ""


def _checks(prompts: Prompts, thorough: bool) -> dict[str, Callable[[], None]]:
    chosen: dict[str, Callable[[], None]] = {
        "injected features": functools.partial(f.features_enter_early_enough, prompts),
        "one row": functools.partial(f.equals_slow_path, prompts, (1,)),
        "keep all": functools.partial(f.keeping_all_is_bitwise, prompts),
        "text only": functools.partial(f.text_only_is_bitwise, prompts),
    }
    # The short path takes one row: there, batches are held to their rows' own runs alone.
    is_masked = f.oracle_of(prompts.anatomy) == "masked"
    if is_masked:
        chosen["ragged batch"] = functools.partial(f.equals_slow_path, prompts, f.RAGGED)
    if thorough or not is_masked:
        chosen["rows"] = functools.partial(f.rows_are_their_own_runs, prompts)
    if thorough:
        chosen["first layer"] = functools.partial(f.before_layer_zero, prompts)
    return chosen


def _video(anatomy: Anatomy, found: dict[str, str], way: Way = IN_LLM) -> bool:
    try:
        prompts = Prompts(anatomy, "video")
    except NoPromptError as error:
        found["built (video)"] = f"the plain twin takes no prompt with a video: {error}."
        return False
    if not prompts.is_real:
        found["built (video)"] = f"no pixels could be made for its tower: {prompts.why}"
        return False
    found["video"] = _sentence(functools.partial(f.equals_slow_path, prompts, (1,), way=way))
    return not found["video"]


def _sentence(run: Callable[[], None]) -> str:
    try:
        run()
    except (f.BrokenError, FoveateError) as error:
        return str(error)
    except Exception as error:  # what breaks inside transformers is a finding
        said = " ".join(str(error).split())[:200].rstrip(".")
        return f"{type(error).__name__}: {said}."
    return ""


def _title(model_type: str) -> str:
    return FAMILIES[model_type].title if model_type in FAMILIES else title_of(model_type)


@contextmanager
def _quietly() -> Iterator[None]:
    """Twins have odd configurations, about which transformers warns in its log."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
