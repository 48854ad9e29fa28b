"""The training loop on accelerate: the same losses on one process or many, resumed exactly."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from torch import Tensor
from torch.distributed.tensor import DTensor

from foveate.errors import ConfigError, InputError, TrainingError
from foveate.models.token_offsets import tokenise
from foveate.text_image.render import Renderer
from foveate.vist.parts import VistParts
from foveate.vist.run.vist import Vist
from foveate.vist.train.batches import SampleMaker, TrainBatch, collate
from foveate.vist.train.checkpoint import (
    Snapshot,
    latest,
    load_optimizer,
    load_weights,
    optimizer_tensors,
    read_snapshot,
    restore_rng,
    rng_state,
    weight_tensors,
    write_snapshot,
)
from foveate.vist.train.data import DocumentSource
from foveate.vist.train.frozen import Frozen
from foveate.vist.train.history import History
from foveate.vist.train.optim import build_optimizer, check_part, lr_scale, matching, set_lr
from foveate.vist.train.recipe import Recipe
from foveate.vist.train.settings import differences, lasting_settings
from foveate.vist.train.token_counts import TokenCounts
from foveate.vist.train.trainee import VistTrainee
from foveate.vist.train.windows import WindowConfig, WindowStream

__all__ = ["CHECKPOINTS", "EXPORT", "Trainer", "make_accelerator"]

logger = logging.getLogger(__name__)

CHECKPOINTS, EXPORT = "checkpoints", "vist"


def make_accelerator(recipe: Recipe, *, cpu: bool = False) -> Accelerator:
    """An Accelerator as the recipe wants it; `accelerate launch` decides on processes and FSDP.

    Raises:
        ConfigError: run.batch is no multiple of micro_batch times the processes.
    """
    run = recipe.run
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision=run.mixed_precision,
        # Stages leave some parts alone.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    together = run.micro_batch * accelerator.num_processes
    if run.batch % together:
        raise ConfigError(
            f"run.batch={run.batch} is no multiple of run.micro_batch={run.micro_batch} times "
            f"{accelerator.num_processes} processes; change either."
        )
    accelerator.gradient_accumulation_steps = run.batch // together
    return accelerator


@dataclass(frozen=True, kw_only=True)
class _Progress:
    step: int
    tokens: int


class Trainer:
    """Trains a Vist by a recipe.

    Args:
        recipe: what to do.
        vist: frozen models and fresh parts.
        source: documents.
        folder: for checkpoints, history, picture and the finished Vist.
        accelerator: made by `make_accelerator`; None makes one.

    Raises:
        ConfigError: a stage names parts that do not exist, or the window is too long for a teacher.
    """

    def __init__(
        self,
        recipe: Recipe,
        vist: Vist,
        source: DocumentSource,
        folder: str | Path,
        *,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.recipe, self.vist, self.source = recipe, vist, source
        self.folder = Path(folder)
        self.accelerator = accelerator or make_accelerator(recipe)
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        self._check_window()
        vist.model.to(self.accelerator.device)
        vist.parts.to(self.accelerator.device)
        if isinstance(vist.encoder, torch.nn.Module):
            vist.encoder.to(self.accelerator.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.run.seed)
            self.trainee = VistTrainee(
                vist,
                recipe,
                gather=self.accelerator.gather if processes > 1 else None,
                rank=rank,
                num_processes=processes,
            )
        self._counts_online = not recipe.objectives.counts
        if recipe.objectives.counts:
            online = self.trainee.counts
            self.trainee.counts = TokenCounts.load(recipe.objectives.counts)
            if len(self.trainee.counts.counts) != len(online.counts):
                raise InputError(
                    f"{recipe.objectives.counts} counts {len(self.trainee.counts.counts)} tokens "
                    f"and the language model has {len(online.counts)}; count with its tokenizer."
                )
        names = [name for name, _ in self.trainee.named_parameters()]
        for stage in recipe.stages:
            for part in stage.trainable:
                check_part(names, _full(part), f"stage {stage.name!r}")
        factors = [{_full(k): v for k, v in s.lr_factors.items()} for s in recipe.stages]
        optimizer = build_optimizer(self.trainee, recipe.optim, factors)
        self.model, self.optimizer = self.accelerator.prepare(self.trainee, optimizer)
        self.frozen = Frozen(vist, recipe, writer=rank)
        self._make = SampleMaker(
            Renderer(vist.encoder.style),
            vist.parts,
            max_pages=recipe.vist.max_pages,
            targets=recipe.objectives.targets,
            counts=self.trainee.counts,
        )
        self.streams = self._streams(rank)
        self.progress = _Progress(step=0, tokens=0)

    # --- what it is made of ---

    def _check_window(self) -> None:
        data = self.recipe.data
        length = 1 + data.context + data.tail
        taught = [stage.name for stage in self.recipe.stages if stage.needs("teacher")]
        if taught and length > self.vist.window:
            raise ConfigError(
                f"stage {taught[0]!r} has the LLM read the raw text as its own teacher, but "
                f"1 + context + tail = {length} tokens exceed its window of {self.vist.window}; "
                "shorten data.context, or train without distil and tail_kl."
            )

    def _streams(self, rank: int) -> list[WindowStream]:
        data, run = self.recipe.data, self.recipe.run
        config = WindowConfig(
            context=data.context,
            tail=data.tail,
            join=data.join,
            per_document=data.per_document,
            shuffle=data.shuffle,
            split=data.split_by,
            seed=run.seed,
        )
        # One stream for each row of a global micro-batch, whoever computes it.
        total = run.micro_batch * self.accelerator.num_processes
        shared: dict[int, Any] = {}
        read = functools.partial(tokenise, self.vist.tokenizer)
        return [
            WindowStream(self.source, read, config, stream=s, num_streams=total, tokenised=shared)
            for s in range(rank * run.micro_batch, (rank + 1) * run.micro_batch)
        ]

    # --- the run ---

    def run(
        self,
        *,
        resume: bool = False,
        stop_after: int | None = None,
        on_step: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> list[dict[str, Any]]:
        """Train to the last step, and write the finished Vist to `folder`/vist.

        Args:
            resume: continue from the newest checkpoint, if there is one.
            stop_after: leave (with a checkpoint, without the finished Vist) after this many steps
                of the run.
            on_step: called with each record.

        Returns:
            the records of all steps; on other processes than the main one only those of this call.

        Raises:
            InputError: the folder holds a run and `resume` is not set, or it is of another recipe.
            TrainingError: a loss is not finite.
        """
        main = self.accelerator.is_main_process
        newest = latest(self.folder / CHECKPOINTS)
        if newest is not None and not resume:
            raise InputError(
                f"{self.folder} holds a run already ({newest.name}); resume it with --resume, or "
                "choose another folder."
            )
        if newest is not None:
            self._restore(read_snapshot(newest))
        self.folder.mkdir(parents=True, exist_ok=True)
        history = None
        if main:
            history = History(
                self.folder,
                title=self.recipe.name,
                first_step=self.progress.step,
                plot_every=self.recipe.run.plot_every,
                tensorboard=self.recipe.run.tensorboard,
            )
        records = history.records if history is not None else []
        stop = min(self.recipe.num_steps, stop_after or self.recipe.num_steps)
        begun = time.monotonic()
        self.model.train()
        while self.progress.step < stop:
            record = self._step()
            record["seconds"] = round(time.monotonic() - begun, 3)
            if history is not None:
                history.add(record)
            else:
                records.append(record)
            if on_step is not None:
                on_step(record)
            if self.progress.step % self.recipe.run.save_every == 0 or self.progress.step == stop:
                self._save()
        self.frozen.flush()
        if history is not None:
            history.close()
        if self.progress.step == self.recipe.num_steps:
            self._export()
        self.accelerator.wait_for_everyone()
        return records

    def _step(self) -> dict[str, Any]:
        """One optimiser step."""
        recipe, accelerator = self.recipe, self.accelerator
        index, local = recipe.stage_at(self.progress.step)
        stage = recipe.stages[index]
        if local == 0:
            self.optimizer.optimizer.state.clear()
        self._choose_parts(index)
        lr = stage.lr * lr_scale(local, stage.steps, recipe.optim)
        set_lr(self.optimizer, lr, index)
        rounds = accelerator.gradient_accumulation_steps
        total: dict[str, Tensor] = {}
        for number in range(rounds):
            batch = self._batch()
            frozen = self.frozen.inputs(
                batch,
                states="distil" in stage.objectives,
                score_last=(stage.score_last or recipe.data.tail)
                if "tail_kl" in stage.objectives
                else 0,
                features=not self.vist.parts.is_pointed or "pve" in stage.objectives,
            )
            is_last = number == rounds - 1
            with nullcontext() if is_last else accelerator.no_sync(self.model):
                losses = self.model(batch, frozen, stage, self.progress.step)
                accelerator.backward(losses["loss"])
            for name, value in losses.items():
                total[name] = total.get(name, 0) + value.detach().float() / rounds
        names = sorted(total)
        means = accelerator.reduce(torch.stack([total[name] for name in names]), "mean").tolist()
        if not all(map(math.isfinite, means)):
            raise TrainingError(
                f"step {self.progress.step + 1} of stage {stage.name!r} has losses "
                f"{dict(zip(names, means, strict=True))}; lower lr or raise optim.warmup, and "
                "resume from the last checkpoint."
            )
        clip = recipe.optim.clip or math.inf
        norm = accelerator.clip_grad_norm_(self.model.parameters(), clip)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        tokens = recipe.run.batch * (1 + recipe.data.context + recipe.data.tail)
        self.progress = _Progress(step=self.progress.step + 1, tokens=self.progress.tokens + tokens)
        return {
            "step": self.progress.step,
            "stage": stage.name,
            "lr": lr,
            **dict(zip(names, means, strict=True)),
            "grad_norm": float(norm) if norm is not None else 0.0,
            "tokens": self.progress.tokens,
        }

    def _choose_parts(self, index: int) -> None:
        """Let only the stage's parts learn."""
        stage = self.recipe.stages[index]
        for name, parameter in self.trainee.named_parameters():
            if name.startswith("heads."):
                wanted = name.split(".")[1] in stage.objectives
            else:
                parts = [_full(part) for part in stage.trainable]
                wanted = not parts or any(matching([name], part) for part in parts)
            parameter.requires_grad_(wanted)

    def _batch(self) -> TrainBatch:
        """The next micro-batch of this process, on its device."""
        samples = [self._make(next(stream)) for stream in self.streams]
        batch = collate(
            samples,
            context=self.recipe.data.context,
            num_latents=self.recipe.vist.resampler.num_latents,
        ).to(self.accelerator.device)
        if self._counts_online:
            self.trainee.counts.add(self.accelerator.gather(batch.ids))
        return batch

    # --- checkpoints ---

    def _about(self) -> dict[str, Any]:
        """What must not change between a run and its continuation."""
        return {
            "recipe": lasting_settings(self.recipe),
            "data": self.source.identity(),
            "streams": self._num_streams,
        }

    @property
    def _num_streams(self) -> int:
        return self.recipe.run.micro_batch * self.accelerator.num_processes

    def _save(self) -> None:
        """Write a checkpoint; all processes take part."""
        self.frozen.flush()
        weights = weight_tensors(self.trainee)
        optimizer = optimizer_tensors(self.trainee, self.optimizer.optimizer)
        mine = {
            "positions": {str(s.stream): s.state() for s in self.streams},
            "rng": rng_state(),
        }
        everyone = gather_object([mine]) if self.accelerator.num_processes > 1 else [mine]
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            state = {
                "step": self.progress.step,
                "tokens": self.progress.tokens,
                "positions": {k: v for one in everyone for k, v in one["positions"].items()},
                "rng": [one["rng"] for one in everyone],
                "scaler": scaler.state_dict() if scaler is not None else None,
                **self._about(),
            }
            write_snapshot(
                self.folder / CHECKPOINTS,
                Snapshot(
                    state=state,
                    weights=weights,
                    optimizer=optimizer,
                    counts=self.trainee.counts.state(),
                ),
                self.recipe.run.keep_last,
            )
        self.accelerator.wait_for_everyone()

    def _restore(self, snapshot: Snapshot) -> None:
        state = snapshot.state
        odd = differences(state, self._about())
        if odd:
            raise InputError(
                f"the run in {self.folder} was started with other settings ({'; '.join(odd[:3])}); "
                "restore them, or choose another folder."
            )
        load_weights(self.trainee, snapshot.weights)
        load_optimizer(self.trainee, self.optimizer.optimizer, snapshot.optimizer)
        self.trainee.counts.load_state(dict(snapshot.counts))
        for stream in self.streams:
            stream.load_state(state["positions"][str(stream.stream)])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        restore_rng(state["rng"][self.accelerator.process_index % len(state["rng"])])
        self.progress = _Progress(step=state["step"], tokens=state["tokens"])
        logger.info("resumed at step %d", self.progress.step)

    def _export(self) -> None:
        """Write the finished Vist, in fp16, with references to the frozen models."""
        weights = weight_tensors(self.trainee)
        if not self.accelerator.is_main_process:
            return
        parts = VistParts(self.vist.config, self.vist.parts.shape, self.vist.anatomy.layers)
        load_weights(parts.cpu(), {n[6:]: t for n, t in weights.items() if n.startswith("parts.")})
        whole = Vist(
            self.vist.model, self.vist.tokenizer, self.vist.encoder, self.vist.config, parts
        )
        whole.save_pretrained(
            self.folder / EXPORT,
            base=self.recipe.model.llm,
            training={
                "recipe": lasting_settings(self.recipe),
                "data": self.source.identity(),
                "steps": self.progress.step,
                "tokens": self.progress.tokens,
            },
        )


def _full(part: str) -> str:
    """`resampler` -> `parts.resampler`."""
    return part if part.startswith("parts.") else f"parts.{part}"
