"""A vLLM engine in this process, asked as the server is: one start a model, and no server."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from PIL import Image

from tests.vllm.engine.server import ENVIRONMENT, Answer

HERE = {**ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


@dataclass
class Engine:
    """A running engine.

    Args:
        llm: vLLM's.
        cached: prompt tokens of the last answer that came out of the prefix cache.
    """

    llm: Any
    cached: int = 0

    def ask(
        self,
        images: Sequence[Image.Image],
        question: str,
        *,
        max_tokens: int = 8,
        budget: Any = None,
    ) -> Answer:
        """As `Server.ask`."""
        content: list[dict[str, Any]] = [{"type": "image_pil", "image_pil": im} for im in images]
        content.append({"type": "text", "text": question})
        return self.chat([{"role": "user", "content": content}], max_tokens, budget)

    def chat(self, messages: Any, max_tokens: int = 8, budget: Any = None) -> Answer:
        """The answer to a conversation."""
        return self.chats([messages], max_tokens, budget)[0]

    def chats(self, many: Sequence[Any], max_tokens: int = 8, budget: Any = None) -> list[Answer]:
        """Answers to conversations that come together."""
        from vllm import SamplingParams

        made = self.llm.chat(
            list(many),
            SamplingParams(temperature=0, max_tokens=max_tokens, logprobs=0),
            use_tqdm=False,
            mm_processor_kwargs=None if budget is None else {"foveate": budget},
        )
        answers = []
        for one in made:
            self.cached = one.num_cached_tokens
            (answer,) = one.outputs
            answers.append(
                Answer(
                    text=answer.text.strip(),
                    prompt_tokens=len(one.prompt_token_ids),
                    logprobs=tuple(
                        step[token].logprob
                        for step, token in zip(answer.logprobs, answer.token_ids, strict=True)
                    ),
                )
            )
        return answers


@contextmanager
def engine(folder: Path, entry: Mapping[str, Any] | None, **options: Any) -> Iterator[Engine]:
    """An engine while the block runs.

    Args:
        entry: of the plugin, or None.
        options: more of vLLM's.
    """
    with mock.patch.dict(os.environ, HERE):
        from vllm import LLM
        from vllm.distributed import cleanup_dist_env_and_memory

        settings: dict[str, Any] = {"max_model_len": 1024, "max_num_batched_tokens": 32} | options
        llm = LLM(
            model=str(folder),
            dtype="float32",
            enforce_eager=True,
            max_num_seqs=8,
            additional_config={} if entry is None else {"foveate": entry},
            **settings,
        )
        try:
            yield Engine(llm)
        finally:
            llm.llm_engine.engine_core.shutdown()
            del llm
            cleanup_dist_env_and_memory()
