"""`foveate train`: train Vist by a recipe, on one process or under `accelerate launch`."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foveate.cli.console import err, out, progress_bar
from foveate.errors import InputError

if TYPE_CHECKING:
    from foveate.vist.train.loop import Trainer
    from foveate.vist.train.recipe import Recipe

DRY_STEPS = 2


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe of foveate by name, or a TOML file.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a field, e.g. run.batch=4."),
    ] = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(help="Run only this stage (repeat for several), e.g. beside another one."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the run; default out/train-NAME.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue from the newest checkpoint.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option(help="A few steps on tiny random models of the same classes, made-up text."),
    ] = False,
    stop_after: Annotated[
        int | None, typer.Option(help="Leave with a checkpoint after this step of the run.", min=1)
    ] = None,
    cepe: Annotated[
        bool,
        typer.Option(
            "--cepe",
            help="Train the rival of the same recipe: a text encoder in place of the pictures, "
            "all else equal.",
        ),
    ] = False,
    cpu: Annotated[bool, typer.Option(help="Leave GPUs alone.")] = False,
) -> None:
    """Train Vist: text as pictures that a language model reads."""
    with err.status("Loading the libraries"):
        _check_packages()
        from foveate.models.load import quiet_transformers
        from foveate.vist.train.build import tiny_recipe
        from foveate.vist.train.recipe import load_recipe

        quiet_transformers()
    wanted = load_recipe(recipe, set_ or ())
    if stage:
        wanted = wanted.only(stage)
    options: dict[str, Any] = {"stop_after": stop_after, "cpu": cpu, "cepe": cepe}
    if not dry_run:
        folder = output or Path("out") / f"train-{wanted.name}{'-cepe' if cepe else ''}"
        _run(wanted, folder, resume=resume, tiny=False, **options)
        return
    wanted = tiny_recipe(wanted, steps=DRY_STEPS)
    if output is not None:
        _run(wanted, output, resume=resume, tiny=True, **options)
        return
    with tempfile.TemporaryDirectory(prefix="foveate-dry-run-") as folder:
        _run(wanted, Path(folder), resume=False, tiny=True, **options)


def _check_packages() -> None:
    for name in ("accelerate", "pydantic"):
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"training needs the package {name}; install it with pip install 'foveate[train]'."
            )


def _run(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool,
    stop_after: int | None,
    cpu: bool,
    cepe: bool,
    tiny: bool,
) -> None:
    from foveate.vist.train.build import MadeUpText, build_source, build_vist, tiny_vist
    from foveate.vist.train.loop import EXPORT, Trainer, make_accelerator

    accelerator = make_accelerator(recipe, cpu=cpu)
    is_main = accelerator.is_main_process
    if tiny:
        source: Any = MadeUpText()
        vist = tiny_vist(recipe, source)
    else:
        source = build_source(recipe)
        vist = build_vist(recipe, device=accelerator.device)
    kind: Any = Trainer
    if cepe:
        recipe, vist, kind = _rival(recipe, vist, tiny)
    trainer = kind(recipe, vist, source, folder, accelerator=accelerator)
    if is_main:
        _introduce(trainer, tiny)
    with progress_bar() as bar:
        task = bar.add_task(recipe.name, total=recipe.num_steps)

        def show(record: Mapping[str, Any]) -> None:
            bar.update(
                task,
                completed=record["step"],
                description=f"{record['stage']}  loss {record['loss']:.4f}",
            )

        records = trainer.run(
            resume=resume, stop_after=stop_after, on_step=show if is_main else None
        )
    if not is_main:
        return
    for stage in recipe.stages:
        _summarise(stage.name, [r for r in records if r["stage"] == stage.name])
    if tiny:
        out.print(
            f"dry run done: {len(records)} steps, a checkpoint and a Vist were written"
            if records and records[-1]["step"] == recipe.num_steps
            else f"dry run left after {len(records)} steps",
            soft_wrap=True,
        )
        return
    out.print(f"history   {folder / 'history.jsonl'}", markup=False, soft_wrap=True)
    out.print(f"losses    {folder / 'loss.png'}", markup=False, soft_wrap=True)
    if records and records[-1]["step"] == recipe.num_steps:
        out.print(f"Vist      {folder / EXPORT}", markup=False, soft_wrap=True)
    else:
        out.print("continue with --resume", markup=False, soft_wrap=True)


def _rival(recipe: Recipe, vist: Any, tiny: bool) -> tuple[Recipe, Any, Any]:
    """The CEPE of a recipe around the same language model: its recipe, itself, its trainer."""
    from foveate.vist.cepe.encoder import ChunkEncoderConfig
    from foveate.vist.cepe.train import CepeTrainer, build_cepe, cepe_recipe

    shape = ChunkEncoderConfig(width=16, layers=1, heads=2, chunk=64) if tiny else None
    recipe = cepe_recipe(recipe, shape, resample=True)
    return recipe, build_cepe(recipe, vist.model, vist.tokenizer), CepeTrainer


def _introduce(trainer: Trainer, tiny: bool) -> None:
    recipe, accelerator = trainer.recipe, trainer.accelerator
    learned = sum(p.numel() for p in trainer.vist.parts.parameters()) / 1e6
    frozen = sum(p.numel() for p in trainer.vist.model.parameters()) / 1e6
    models = "tiny random models" if tiny else f"{recipe.model.llm}, {recipe.model.encoder}"
    err.print(
        f"{recipe.name}: {models}; {learned:.2f} M parameters learn beside {frozen:.1f} M frozen "
        f"ones; {recipe.num_steps} steps of {recipe.run.batch} x "
        f"{1 + recipe.data.context + recipe.data.tail} tokens on {accelerator.num_processes} "
        f"process(es), {accelerator.device.type}",
        markup=False,
        soft_wrap=True,
    )


def _summarise(stage: str, records: list[dict[str, Any]]) -> None:
    """First and last losses of a stage, the means of a tenth of it each."""
    if not records:
        return
    share = max(1, len(records) // 10)
    dull = ("step", "stage", "lr", "grad_norm", "seconds", "tokens")
    parts = [
        f"{name} {_mean(records[:share], name):.4f} -> {_mean(records[-share:], name):.4f}"
        for name in records[0]
        if name not in dull
    ]
    out.print(f"{stage}: {', '.join(parts)}", markup=False, soft_wrap=True)


def _mean(records: list[dict[str, Any]], name: str) -> float:
    return sum(record[name] for record in records) / len(records)
