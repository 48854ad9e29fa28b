"""VllmAnswerer: lines of a batch job answered by vLLM, in this process, with the plugin's images.

The engine gets the conversations of one batch at a time and schedules them itself. Each line is
enqueued alone, so that one that cannot be asked spoils nobody, and so that what the plugin counts
of its images is its own.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from foveate import __version__
from foveate.assets import model_folder
from foveate.errors import ConfigError, FoveateError, InputError, NotFiredError
from foveate.jobs.batch_input import LineFile, LinePlace
from foveate.jobs.batch_settings import BatchSettings
from foveate.jobs.generation_settings import GenerationSettings
from foveate.jobs.line_requests import LineReader, LineRequest
from foveate.jobs.outcome import Outcome
from foveate.models.load import check_safetensors, first_line, weights_of_files
from foveate.models.prompt import Turn, num_images
from foveate.models.vlm import unknown_words
from foveate.vllm.command import check_installed
from foveate.vllm.settings import profile_settings, to_settings

__all__ = ["VllmAnswerer"]

# Options that have their own place, or would load code of a checkpoint.
TAKEN: Mapping[str, str] = {
    "model": "use --model",
    "dtype": "use --dtype",
    "additional_config": "use --method and --keep",
    "trust_remote_code": "code of a checkpoint is never run",
}


class VllmAnswerer:
    """An engine with a method, and the file whose lines it answers.

    Args:
        engine: vLLM's LLM, made by `load`.
        settings: how to answer.
        lines: the input.

    Attributes:
        facts: of the loaded model, JSON-ready.
    """

    def __init__(self, engine: Any, settings: BatchSettings, lines: LineFile) -> None:
        self.engine = engine
        self.settings = settings
        self._reader = LineReader(lines, settings)
        self._tokenizer = engine.get_tokenizer()
        config = engine.model_config
        weights = weights_of_files(model_folder(settings.model), config.hf_config)
        if settings.profile is not None:
            settings.profile.check_model(str(config.hf_config.model_type), weights)
        self.facts = {
            "weights": weights,
            "loaded dtype": str(config.dtype).removeprefix("torch."),
            "foveate": __version__,
            **{name: importlib.metadata.version(name) for name in ("torch", "transformers")},
            "vllm": _version(),
        }

    @classmethod
    def load(cls, settings: BatchSettings, lines: LineFile) -> VllmAnswerer:
        """Start the engine.

        Raises:
            InputError: vLLM is not installed, or cannot start the model.
            ConfigError: an option that is not the engine's to choose.
        """
        check_installed(os.environ)
        for name, fix in TAKEN.items():
            if name in settings.options:
                raise ConfigError(f"--engine-options has {name!r}; leave it out: {fix}.")
        # A scheduler in a process of its own outlives one that is killed, and keeps its memory; in
        # this process it goes with it, and its workers on other devices see that and go too.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        from vllm import LLM
        from vllm.platforms import current_platform

        model = model_folder(settings.model)
        check_safetensors(model)
        options: dict[str, Any] = {"load_format": "safetensors", "dtype": settings.dtype}
        if current_platform.is_cpu():
            if settings.dtype == "auto":  # as in transformers: half precision is slow there
                options["dtype"] = "float32"
            options["enforce_eager"] = True  # compiling costs more than a job on a CPU saves
        if settings.profile is not None:
            entry = profile_settings(settings.profile.method)
        else:
            entry = to_settings(settings.spelled, settings.method.budget)
        try:
            engine = LLM(model=model, additional_config=entry, **{**options, **settings.options})
        except FoveateError:
            raise
        except Exception as error:  # an engine can fail anywhere at start
            raise InputError(
                f"vLLM cannot start {settings.public_model} ({first_line(error)}); its log says "
                "more with VLLM_LOGGING_LEVEL=INFO."
            ) from error
        return cls(engine, settings, lines)

    def answers(self, batches: Iterable[Sequence[LinePlace]]) -> Iterator[list[Outcome]]:
        """What became of each batch, one after another."""
        return map(self.answer, batches)

    def answer(self, batch: Sequence[LinePlace]) -> list[Outcome]:
        """What became of each line, in order.

        Raises:
            NotFiredError: a line has images, and the plugin saw none.
            InputError: the engine ended.
        """
        from vllm import RequestOutput
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError

        ready, outcomes = self._reader.read(batch)
        asked: list[tuple[LineRequest, int, int]] = []
        try:
            for line in ready:
                before, kept = _counted()
                try:
                    self.engine.enqueue_chat(
                        _messages(line.turns),
                        _sampling(self.engine, line.generation),
                        use_tqdm=False,
                    )
                except (VLLMClientError, ValueError, TypeError) as error:  # the plugin's too
                    outcomes.append(Outcome(line=line.line, error=first_line(error)))
                    continue
                now_before, now_kept = _counted()
                if num_images(line.turns) and now_before == before:
                    raise NotFiredError(
                        f"line {line.line} has images, but vLLM runs without foveate's plugin; "
                        "install foveate in vLLM's environment, and unset VLLM_PLUGINS."
                    )
                asked.append((line, now_before - before, now_kept - kept))
            # In the order of asking.
            said = self.engine.wait_for_completion(RequestOutput, use_tqdm=False)
        except EngineDeadError as error:
            raise InputError(
                f"vLLM's engine ended at lines {batch[0].number} to {batch[-1].number} "
                f"({first_line(error)}); run the same again, what is done is kept."
            ) from error
        outcomes += [self._outcome(output, *line) for output, line in zip(said, asked, strict=True)]
        return sorted(outcomes, key=lambda outcome: outcome.line)

    def _outcome(self, output: Any, line: LineRequest, before: int, kept: int) -> Outcome:
        (answer,) = output.outputs
        room = dict(line.generation.arguments)["max_new_tokens"]
        length = len(output.prompt_token_ids)
        if answer.finish_reason == "length" and len(answer.token_ids) < room:
            return Outcome(
                line=line.line,
                error=f"the prompt has {length} tokens and the answer may have {room}, above the "
                f"engine's window of {self.engine.model_config.max_model_len}; ask for less, or "
                "raise max_model_len in --engine-options.",
            )
        return Outcome(
            line=line.line,
            answer=answer.text.strip(),
            before=before,
            kept=kept,
            prompt_tokens=length + before - kept,
            answer_tokens=len(answer.token_ids),
            finish="length" if answer.finish_reason == "length" else "stop",
            unknown=unknown_words(self._tokenizer, line.text),
        )


def _messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Conversations as vLLM takes them."""
    return [
        {
            "role": turn["role"],
            "content": [
                {"type": "image_pil", "image_pil": part["image"]}
                if part["type"] == "image"
                else {"type": "text", "text": part["text"]}
                for part in turn["content"]
            ],
        }
        for turn in turns
    ]


def _sampling(engine: Any, generation: GenerationSettings) -> Any:
    """Greedy; what else the checkpoint's own settings ask for holds in both engines."""
    from vllm import SamplingParams

    return SamplingParams(
        temperature=0.0,
        repetition_penalty=engine.get_default_sampling_params().repetition_penalty,
        max_tokens=dict(generation.arguments)["max_new_tokens"],
        stop=list(generation.until),
    )


def _counted() -> tuple[int, int]:
    """Visual tokens before and behind the plugin, of all requests so far."""
    from prometheus_client import REGISTRY

    names = ("foveate_visual_tokens_total", "foveate_kept_tokens_total")
    before, kept = (int(REGISTRY.get_sample_value(name) or 0) for name in names)
    return before, kept


def _version() -> str:
    """Builds for other hardware have other names."""
    import vllm

    return str(vllm.__version__)
