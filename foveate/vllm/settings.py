"""The "foveate" entry of vLLM's --additional-config, and the methods that can act in vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from foveate.carve.composed import Composed
from foveate.carve.method import Method
from foveate.carve.needs import Need
from foveate.carve.registry import all_methods
from foveate.carve.registry import method as build
from foveate.carve.spec import parse_method
from foveate.core.budget import BUDGET, Budget
from foveate.core.settings import plain_setting
from foveate.errors import BudgetError, ConfigError, MethodError
from foveate.vllm.budgets import Ages, read_ages, with_budget

__all__ = [
    "KEY",
    "Served",
    "check_method",
    "method_of",
    "profile_settings",
    "servable_methods",
    "served_of",
    "to_settings",
]

KEY = "foveate"
DEFAULT_METHOD = "tokencarve"
# The vision tower is all that has run when vLLM's plugin decides.
OF_THE_TOWER: frozenset[Need] = frozenset(
    {
        "vision_attention",
        "vision_attention_early",
        "vision_features",
        "vision_keys",
        "vision_received",
        "vision_received_early",
    }
)
_WORDS: Mapping[Need, str] = {
    "attention": "the attention of a decoder layer",
    "attention_ahead": "the attention of a decoder layer",
    "attention_output": "the attention output of a decoder layer",
    "entering": "the text of the prompt",
    "foresight": "what the question sees ahead",
    "keys": "the keys of a decoder layer",
    "normed": "states behind the decoder's final norm",
    "layer_update": "what a decoder layer adds",
    "text": "the text of the prompt",
    "text_attention": "the attention of the text in a decoder layer",
}


@dataclass(frozen=True)
class Served:
    """What an engine is asked to do with images.

    Args:
        method: with the largest budget that an image gets without a request's own.
        ages: what images keep by their age; None where all keep the same.
        alone: every image runs through the tower by itself, so that what is kept of it does not
            depend on its company in the last bit either.
    """

    method: Method
    ages: Ages | None = None
    alone: bool = False


def method_of(additional_config: Any) -> Method | None:
    """The method that the engine's configuration asks for; None where it asks for none.

    Args, Raises: see `served_of`.

    Example:
        >>> print(method_of({"foveate": {"keep_ratio": 0.25}}))
        tokencarve(keep=25%, prune_layer=0, where='encoder')
    """
    served = served_of(additional_config)
    return None if served is None else served.method


def served_of(additional_config: Any) -> Served | None:
    """What the engine's configuration asks for; None where it asks for nothing.

    Args:
        additional_config: vLLM's, e.g. `{"foveate": {"method": "tokencarve", "keep_ratio": 0.25}}`.
            "method" is written as for `foveate run --method`, settings in brackets, and may be left
            out; exactly one of "keep_ratio", "keep_tokens" and "ages" (with "age_step") is needed;
            "alone" see `Served`.

    Raises:
        ConfigError: the entry has another form.
        MethodError: an unknown method, or one that cannot act before the language model.
        BudgetError: an impossible budget.
    """
    if not isinstance(additional_config, Mapping) or KEY not in additional_config:
        return None
    entry = additional_config[KEY]
    known = ("method", "keep_ratio", "keep_tokens", "ages", "age_step", "alone")
    if not isinstance(entry, Mapping):
        raise ConfigError(
            f'"{KEY}": {entry!r} in --additional-config is no object; write '
            f'{{"{KEY}": {{"method": "{DEFAULT_METHOD}", "keep_ratio": 0.25}}}}.'
        )
    for key in entry:
        if key not in known and key not in BUDGET:
            raise ConfigError(
                f'"{KEY}" in --additional-config has no setting {key!r}; it has '
                f"{', '.join(known)}. Settings of a method go in brackets behind its name, e.g. "
                f'"method": "tokencarve(attention_weight=0.3)".'
            )
    name = entry.get("method", DEFAULT_METHOD)
    if isinstance(name, Mapping):
        return Served(_tuned(name, entry))
    if not isinstance(name, str):
        raise ConfigError(f'"method": {name!r} is no text; write e.g. "{DEFAULT_METHOD}".')
    given = {key: entry.get(key) for key in BUDGET}
    ages = read_ages(entry)
    if ages is not None:
        other = [key for key, value in given.items() if value is not None]
        if other:
            raise BudgetError(
                f'"{KEY}" in --additional-config has ages and {" and ".join(other)}; give one of '
                "them. The first of ages is the budget of new images."
            )
        given["keep_ratio"] = ages.shares[0]
    if all(value is None for value in given.values()):
        raise BudgetError(
            f'"{KEY}" in --additional-config has no budget; give keep_ratio or keep_tokens, e.g. '
            f'{{"{KEY}": {{"method": "{name}", "keep_ratio": 0.25}}}}.'
        )
    method = check_method(parse_method(name, Budget(**given), where="encoder"))
    for share in () if ages is None else ages.shares:
        with_budget(method, Budget(keep_ratio=share))
    alone = plain_setting("alone", entry.get("alone", False), bool, ConfigError)
    return Served(method, ages, alone)


def to_settings(method: str, budget: Budget, ages: Ages | None = None) -> dict[str, Any]:
    """The entry that `served_of` reads.

    Args:
        ages: in place of the budget.
    """
    if ages is not None:
        return {KEY: {"method": method, "ages": list(ages.shares), "age_step": ages.step}}
    given = {key: value for key, value in asdict(budget).items() if value is not None}
    return {KEY: {"method": method, **given}}


def profile_settings(method: Method) -> dict[str, Any]:
    """The entry that `method_of` reads, of a method as a profile has it.

    Raises:
        MethodError, BudgetError: it cannot act in vLLM as it was tuned.
    """
    settings = {KEY: {"method": method.to_dict()}}
    method_of(settings)
    return settings


def _tuned(settings: Mapping[str, Any], entry: Mapping[str, Any]) -> Method:
    """A method that was tuned, which has to act as it did then."""
    if set(entry) != {"method"}:
        raise ConfigError(
            f'"{KEY}" in --additional-config has a method with settings, which say the budget too; '
            "leave out the rest."
        )
    tuned = build(**settings)
    if tuned.layers(_DEEP, 0) != (0,):
        raise MethodError(
            f"{tuned} cuts behind decoder layer 0, and in vLLM it would cut before it, which is "
            "not what was tuned; tune methods that cut there, e.g. --methods divprune "
            "'tokencarve(where=encoder)', or use this one in transformers (`foveate run`)."
        )
    return check_method(tuned)


def check_method(method: Method) -> Method:
    """The method as it acts in vLLM: before the first decoder layer.

    Raises:
        MethodError: it cannot.
        BudgetError: how many tokens stay of an image would be known too late.
    """
    if method.budget.needs_states:
        raise BudgetError(
            f"the budget {method.budget} depends on what is in an image, and vLLM reserves a place "
            "for each token of it before the image is looked at; use keep_ratio or keep_tokens, or "
            "this budget in transformers (`foveate run`)."
        )
    if method.sizes == "log":
        raise MethodError(
            f"{method.name}: sizes='log' adds log(size) to attention logits, which vLLM's kernels "
            "cannot; use sizes='ignore', or this method in transformers (`foveate run`)."
        )
    reason = _obstacle(method)
    if reason is not None:
        raise MethodError(
            f"{method.name} {reason}; use one of {', '.join(servable_methods())}, or this method "
            "in transformers (`foveate run`)."
        )
    return replace(method, prune_layer=0)


def servable_methods() -> list[str]:
    """Names of the methods that can act in vLLM, as `method_of` builds them."""
    budget = Budget(keep_ratio=0.5)
    found = []
    for name in all_methods():
        with suppress(MethodError):  # a stack needs stages, a package's method maybe settings
            if _obstacle(parse_method(name, budget, where="encoder")) is None:
                found.append(name)
    return found


_DEEP = 64  # decoder layers, enough for the steps of every method to be apart


def _obstacle(method: Method) -> str | None:
    """Why it cannot act there, as the rest of a sentence."""
    if method.name == "stack":
        return "cuts in several places, and vLLM lets a plugin cut in one"
    if isinstance(method, Composed):
        return "reads the text of the prompt, and in vLLM it decides before there is any"
    if method.where == "vision_tower":
        return "acts inside the vision tower, which is vLLM's own"
    if len(method.layers(_DEEP, 0)) > 1:
        return "cuts between decoder layers, and vLLM's KV cache has one length for all of them"
    beyond = method.needs - OF_THE_TOWER - {"serials"}
    if beyond:
        words = " and ".join(sorted(_WORDS[need] for need in beyond))
        return f"reads {words}, and in vLLM it decides before there is any"
    if not method.exact_budget:
        return "may keep fewer tokens than its budget, and vLLM reserves a place for each of them"
    if method.prune_layer:
        return (
            f"is to cut before decoder layer {method.prune_layer}, and vLLM's KV cache has one "
            "length for all layers"
        )
    return None
