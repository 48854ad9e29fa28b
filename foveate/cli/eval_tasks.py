"""`foveate eval vist icl`, `qa` and `recall`: answers that hang on far context."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foveate.cli.console import err
from foveate.cli.eval_options import (
    Arms,
    AsJson,
    Base,
    Cepe,
    Device,
    Dtype,
    Head,
    Model,
    Output,
    Seed,
    numbers,
    run_and_write,
    share_of,
    shares,
    text_of,
)
from foveate.cli.eval_output import split_list
from foveate.cli.eval_readers import load_readers, model_facts, with_latents


def icl(
    data: Annotated[Path, typer.Option(help="Folder with one folder a data set.")],
    sets: Annotated[str, typer.Option(help="Comma-separated names; default: all.")] = "",
    raw: Annotated[int, typer.Option(help="Demonstrations in the prompt.")] = 2,
    far: Annotated[int, typer.Option(help="Demonstrations that are read far.")] = 18,
    limit: Annotated[int, typer.Option(help="Test items for each set and seed.")] = 250,
    seeds: Annotated[str, typer.Option(help="Of demonstrations and items.")] = "42,43,44",
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Keep each set and seed in OUTPUT/icl-parts, and go on there."
        ),
    ] = False,
    share: Annotated[
        str,
        typer.Option(help="0/2: do half of it, for --resume later; run 1/2 beside it."),
    ] = "0/1",
    length_rule: Annotated[
        str, typer.Option(help="Compare labels by mean or sum of token log-likelihoods.")
    ] = "mean",
    model: Model = None,
    base: Base = None,
    cepe: Cepe = None,
    head: Head = None,
    arms: Arms = "",
    output: Output = Path("out/eval"),
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """In-context learning: a few demonstrations raw, the others far."""
    with err.status("Loading the libraries"):
        from foveate.measure.parts import Parts
        from foveate.tasks.icl import load_icl_sets
        from foveate.vist.eval.icl import IclSettings, evaluate_icl

    rule: Any = length_rule
    settings = IclSettings(
        raw=raw,
        far=far,
        items=limit,
        seeds=numbers(seeds, "--seeds"),
        rule=rule,
        arms=split_list(arms),
        seed=seed,
    )
    found = load_icl_sets(data, split_list(sets))
    index, count = share_of(share)
    parts = Parts(folder=output / "icl-parts" if resume or count > 1 else None,
                  index=index, count=count)  # fmt: skip
    readers = load_readers(model, base=base, cepe=cepe, head=head, device=device, dtype=dtype)
    facts = model_facts(readers, model, cepe)
    run_and_write(
        lambda progress: evaluate_icl(
            found, readers, settings, facts=facts, progress=progress, parts=parts
        ),
        output,
        as_json,
    )


def qa(
    data: Annotated[Path, typer.Option(help="JSONL: question, answers, passages.")],
    raw: Annotated[int, typer.Option(help="Best passages, raw in the prompt.")] = 5,
    far: Annotated[int, typer.Option(help="Next passages, read far.")] = 10,
    limit: Annotated[int | None, typer.Option(help="Questions to ask.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 16,
    model: Model = None,
    base: Base = None,
    cepe: Cepe = None,
    head: Head = None,
    arms: Arms = "",
    output: Output = Path("out/eval"),
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Open-domain questions with passages: the best raw, the next far."""
    with err.status("Loading the libraries"):
        from foveate.measure.manifest import public_name
        from foveate.tasks.open_qa import load_open_qa
        from foveate.vist.eval.qa import QaSettings, evaluate_qa

    settings = QaSettings(
        raw=raw,
        far=far,
        limit=limit,
        max_new_tokens=max_new_tokens,
        arms=split_list(arms),
        seed=seed,
    )
    questions = load_open_qa(data, need_passages=raw + far)
    readers = load_readers(model, base=base, cepe=cepe, head=head, device=device, dtype=dtype)
    facts = {**model_facts(readers, model, cepe), "data": public_name(str(data))}
    run_and_write(
        lambda progress: evaluate_qa(questions, readers, settings, facts=facts, progress=progress),
        output,
        as_json,
    )


def recall(
    context: Annotated[str, typer.Option(help="Tokens of prose, e.g. 512,1024.")] = "512",
    latents: Annotated[str, typer.Option(help="Latents per strip.")] = "32,64,128",
    depths: Annotated[str, typer.Option(help="Places of the pair, 0 to 1.")] = "0.1,0.5,0.9",
    kinds: Annotated[str, typer.Option(help="Of values.")] = "words,numbers,hex",
    limit: Annotated[int, typer.Option(help="Items for each kind and depth.")] = 10,
    pairs: Annotated[int, typer.Option(help="Pairs in a text.")] = 4,
    filler: Annotated[
        Path | None, typer.Option(help="Text to hide them in; default: made up.")
    ] = None,
    model: Model = None,
    base: Base = None,
    cepe: Cepe = None,
    head: Head = None,
    arms: Arms = "",
    output: Output = Path("out/eval"),
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Synthetic key-value recall over the compression ratio."""
    with err.status("Loading the libraries"):
        from foveate.vist.eval.recall import RecallSettings, evaluate_recall

    chosen: Any = split_list(kinds)
    settings = RecallSettings(
        contexts=numbers(context, "--context"),
        latents=numbers(latents, "--latents"),
        depths=shares(depths, "--depths"),
        kinds=chosen,
        count=limit,
        pairs=pairs,
        filler=text_of(filler) if filler is not None else None,
        arms=split_list(arms),
        seed=seed,
    )
    readers = load_readers(model, base=base, cepe=cepe, head=head, device=device, dtype=dtype)
    made = {count: with_latents(readers, count) for count in settings.latents}
    facts = model_facts(readers, model, cepe)
    run_and_write(
        lambda progress: evaluate_recall(
            made.__getitem__, settings, facts=facts, progress=progress
        ),
        output,
        as_json,
    )
