"""lmms-eval plugin: the model `foveate_hf`, found through the entry point group `lmms_eval.models`.

Only this file knows lmms-eval; the work is done by CarvedAnswerer. docs/reproduce.md has commands.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.models.registry_v2 import ModelManifest
from lmms_eval.utils import simple_parse_args_string
from loguru import logger
from tqdm import tqdm

from foveate.errors import UnsupportedModeError
from foveate.jobs.answerer import CarvedAnswerer, Request
from foveate.jobs.answerer_settings import AnswererSettings
from foveate.jobs.generation_settings import GenerationSettings
from foveate.jobs.harness_turns import question_turns, turns_of_messages
from foveate.models.prompt import Turn

__all__ = ["FoveateHf", "FoveateHfChat", "manifest"]

NAME = "foveate_hf"


def manifest() -> ModelManifest:
    """What lmms-eval registers: one model in its two interfaces."""
    return ModelManifest(
        model_id=NAME,
        simple_class_path=f"{__name__}.FoveateHf",
        chat_class_path=f"{__name__}.FoveateHfChat",
    )


class FoveateHf(lmms):  # type: ignore[misc]
    """The interface of tasks that score answer options (`--force_simple`).

    Args:
        settings: see AnswererSettings.
    """

    is_simple = True

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.accelerator = Accelerator()
        self._rank = self.accelerator.process_index
        self._world_size = self.accelerator.num_processes
        if self._world_size > 1 and settings.get("device", "auto") in ("auto", "cuda"):
            settings["device"] = str(self.accelerator.device)
        prompt = str(settings.get("system_prompt", ""))
        if prompt and Path(prompt).is_file():
            settings["system_prompt"] = Path(prompt).read_text(encoding="utf-8").strip()
        self.settings = AnswererSettings.of(settings)
        self.answerer: CarvedAnswerer | None = CarvedAnswerer.load(self.settings)
        self.device = self.answerer.vlm.device
        self._generation: dict[str, GenerationSettings] = {}

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> FoveateHf:
        """As lmms-eval's own, but a setting in --model_args wins over an option of that name.

        lmms-eval always passes --batch_size, so that its own version fails for
        --model_args batch_size=8.
        """
        options = {k: v for k, v in (additional_config or {}).items() if v is not None}
        return cls(**{**options, **simple_parse_args_string(arg_string)})

    @property
    def batch_size(self) -> int:
        return self.settings.batch_size

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Answers in the order of the requests."""
        answerer = self._answerer()
        with self._progress(requests) as bar:
            answers = answerer.answer([self._question(r) for r in requests], bar.update)
        self._log(len(requests))
        return [
            GenerationResult(
                text=answer.text, token_counts=TokenCounts(output_tokens=answer.num_tokens)
            )
            for answer in answers
        ]

    def loglikelihood(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """(mean negative log-likelihood of a token, greedy?) in the order of the requests.

        lmms-eval's interface speaks of a log probability, but its scoring takes the option with
        the *smallest* value, because its wrappers return losses; so does this one.
        """
        answerer = self._answerer()
        with self._progress(requests) as bar:
            scores = answerer.score([self._option(r) for r in requests], bar.update)
        self._log(len(requests))
        # A bare pair would be turned into a text by the evaluator of lmms-eval 0.7.3.
        return [GenerationResult(text=(score.loss, score.is_greedy)) for score in scores]

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        raise UnsupportedModeError(
            f"{NAME} got a task of several rounds (generate_until_multi_round), which it cannot "
            "run; choose tasks of type generate_until, or multiple_choice with --force_simple."
        )

    def clean(self) -> None:
        """Called once all requests are done: release the model."""
        self.answerer = None
        super().clean()

    # --- requests of lmms-eval as requests of the answerer ---

    def _question(self, request: Instance) -> Request:
        context, settings, to_visual, doc_id, task, split = request.args

        def turns() -> list[Turn]:
            visuals = to_visual(self.task_dict[task][split][doc_id]) if to_visual else None
            return question_turns(context, visuals, label)

        label = f"{task}/{doc_id}"
        return Request(label=label, turns=turns, settings=self._settings_of(settings))

    def _option(self, request: Instance) -> Request:
        if len(request.args) == 2:  # an option without its question, for mutual information
            context, option = request.args
            label = f"{request.task_name}/{request.doc_id}"
            return Request(
                label=label,
                turns=lambda: question_turns(context, None, label),
                continuation=lambda: str(option),
            )
        context, target, to_visual, doc_id, task, split = request.args

        def continuation() -> str:
            return str(target(self.task_dict[task][split][doc_id]) if callable(target) else target)

        def turns() -> list[Turn]:
            visuals = to_visual(self.task_dict[task][split][doc_id]) if to_visual else None
            return question_turns(context, visuals, label)

        label = f"{task}/{doc_id}"
        return Request(label=label, turns=turns, continuation=continuation)

    def _settings_of(self, settings: dict[str, Any]) -> GenerationSettings:
        """Read once for all requests of a task, so that what it says is said once."""
        key = repr(sorted(settings.items()))
        if key not in self._generation:
            self._generation[key] = GenerationSettings.of(settings)
        return self._generation[key]

    # --- around a run ---

    def _answerer(self) -> CarvedAnswerer:
        if self.answerer is None:
            raise UnsupportedModeError(
                "the model was released by clean(), as lmms-eval does after a run; make a new "
                f"{NAME} for another run."
            )
        self.answerer.start_tally()
        return self.answerer

    def _progress(self, requests: Sequence[Instance]) -> tqdm[Any]:
        return tqdm(total=len(requests), disable=self.rank != 0, desc="Model Responding")

    def _log(self, num_requests: int) -> None:
        """What really happened, on the log and in the results file (under `throughput`)."""
        assert self.answerer is not None
        answerer = self.answerer
        logger.info("rank {}: {}", self.rank, answerer.tally)
        log_metrics(
            total_elapsed_time=answerer.seconds,
            total_gen_tokens=answerer.num_tokens,
            avg_speed=answerer.num_tokens / answerer.seconds if answerer.seconds else 0.0,
            additional_metrics={"total_requests": num_requests, **answerer.tally.metrics()},
        )


class FoveateHfChat(FoveateHf):
    """The interface that lmms-eval prefers: whole conversations, images where the task puts them.

    lmms-eval has no way to score answer options in it.
    """

    is_simple = False

    def loglikelihood(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        raise UnsupportedModeError(
            "answer options were to be scored through the chat interface, which lmms-eval does "
            "not define; add --force_simple."
        )

    def _question(self, request: Instance) -> Request:
        _, to_messages, settings, doc_id, task, split = request.args

        def turns() -> list[Turn]:
            return turns_of_messages(to_messages(self.task_dict[task][split][doc_id]), label)

        label = f"{task}/{doc_id}"
        return Request(label=label, turns=turns, settings=self._settings_of(settings))
