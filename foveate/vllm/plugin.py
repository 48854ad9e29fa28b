"""The entry point `vllm.general_plugins`: vLLM calls `register` in every process it starts."""

from __future__ import annotations

import functools
import sys
from typing import Any

from foveate.errors import FoveateError

__all__ = ["register"]

_MARK = "_foveate_configures"


def register() -> None:
    """Put the compressing model classes in place of vLLM's own. Calling it again does nothing.

    Without a "foveate" entry in --additional-config these classes do what vLLM's do. The check of
    that entry is hung on VllmConfig's own step for models, the one place that sees the entry and
    the model of every engine, supported or not, before anything is loaded.
    """
    from vllm import ModelRegistry
    from vllm.config import VllmConfig

    if hasattr(VllmConfig, _MARK):
        return
    setattr(VllmConfig, _MARK, True)

    from foveate.vllm.config_hook import FAMILIES, configure

    for architecture, family in FAMILIES.items():
        ModelRegistry.register_model(architecture, family.home)
    update = VllmConfig.try_verify_and_update_config

    @functools.wraps(update)
    def update_and_configure(self: Any) -> None:
        # vLLM makes partial views of a configuration: of its language model, of a draft model.
        is_view = self.model_config is None or getattr(self.model_config, "config_updated", False)
        update(self)
        draft = getattr(self.speculative_config, "draft_model_config", None)
        if not is_view and self.model_config is not draft:
            configure(self)

    VllmConfig.try_verify_and_update_config = update_and_configure
    _count_accepted()
    _mend_cpu_runner()
    _say_refusals()


def _say_refusals() -> None:
    """What foveate refuses ends the process with a sentence; other errors keep their traceback."""
    show = sys.excepthook

    def say_or_show(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
        refusal = _refusal_in(error)
        if refusal is None:
            show(kind, error, traceback)
        else:
            sys.stderr.write(f"foveate: {refusal}\n")

    sys.excepthook = say_or_show


def _refusal_in(error: BaseException) -> FoveateError | None:
    """The error of ours behind one that vLLM ends with; its configuration wraps what is raised."""
    seen: set[int] = set()
    left: list[Any] = [error]
    while left:
        found = left.pop()
        if isinstance(found, FoveateError):
            return found
        if not isinstance(found, BaseException) or id(found) in seen:
            continue
        seen.add(id(found))
        left += [found.__cause__, found.__context__]
        errors = getattr(found, "errors", None)  # of pydantic, which keeps what validators raise
        if callable(errors):
            left += [(one.get("ctx") or {}).get("error") for one in errors()]
    return None


def _count_accepted() -> None:
    """Count the images of requests where vLLM accepts them: others are tokenized and no more."""
    from vllm.v1.engine.input_processor import InputProcessor

    from foveate.vllm.metrics import COUNTS, count_image

    process = InputProcessor.process_inputs

    @functools.wraps(process)
    def process_and_count(
        self: Any, request_id: str, prompt: Any, *args: Any, **kwargs: Any
    ) -> Any:
        made = process(self, request_id, prompt, *args, **kwargs)
        for num_tokens, num_kept in prompt.pop(COUNTS, ()) if isinstance(prompt, dict) else ():
            count_image(num_tokens, num_kept)
        return made

    InputProcessor.process_inputs = process_and_count


def _mend_cpu_runner() -> None:
    """vLLM 0.32 loads models on a CPU by code of its own, which forgets to ask about pruning."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    from foveate.vllm.pruning_config import ImagePruningConfig

    load = CPUModelRunner.load_model

    @functools.wraps(load)
    def load_and_ask(self: Any, *args: Any, **kwargs: Any) -> None:
        load(self, *args, **kwargs)
        if isinstance(self.model_config.multimodal_config, ImagePruningConfig):
            self.is_multimodal_pruning_enabled = True

    CPUModelRunner.load_model = load_and_ask
