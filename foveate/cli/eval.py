"""`foveate eval vist`: what far context is worth; each evaluation with its controls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foveate.cli.console import err
from foveate.cli.eval_options import Evaluation, evaluation, numbers
from foveate.cli.eval_tasks import icl, qa, recall, retrieval
from foveate.errors import InputError

eval_app = typer.Typer(help="Measure a model against its controls.", no_args_is_help=True)
vist = typer.Typer(
    help="Far context as latents, beside no context, raw text and the equal budgets.",
    no_args_is_help=True,
)
eval_app.add_typer(vist, name="vist")


def perplexity(
    data: Annotated[
        list[Path] | None, typer.Option(help="Documents: .txt, .jsonl, or folders of them.")
    ] = None,
    domain: Annotated[
        list[str] | None, typer.Option(help="NAME=PATH: documents of a named domain.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="near: 512 far tokens, no window. far: 2,048 before a raw window of 256."
        ),
    ] = None,
    context: Annotated[str, typer.Option(help="Far tokens, e.g. 512,1024,2048,4096.")] = "",
    window: Annotated[int | None, typer.Option(help="Raw tokens before the target.")] = None,
    score: Annotated[int, typer.Option(help="Target tokens.")] = 96,
    windows: Annotated[int, typer.Option(help="Targets in a document at most.")] = 4,
    block_chars: Annotated[
        int, typer.Option(help="Characters of a document, where a text file has no articles.")
    ] = 24_000,
    limit: Annotated[int | None, typer.Option(help="Targets in a domain at most.")] = None,
    batch_size: Annotated[int, typer.Option(help="Rows at a time.")] = 4,
    *,
    common: Evaluation,
) -> None:
    """Loss of the next tokens of held-out documents.

    Without --head, the token before the far context is every row's head, as in training.
    """
    with err.status("Loading the libraries"):
        from foveate.measure.manifest import public_name
        from foveate.tasks.documents import load_documents
        from foveate.vist.eval.perplexity import evaluate_perplexity
        from foveate.vist.eval.perplexity_targets import PerplexitySettings

    contexts, chosen_window = _protocol(protocol, context, window)
    settings = PerplexitySettings(
        contexts=contexts,
        window=chosen_window,
        score=score,
        windows=windows,
        limit=limit,
        own_head=common.head is None,
        batch_size=batch_size,
        **common.chosen,
    )
    named = [_named(text) for text in domain or []]
    documents = load_documents(data or [], domains=named, block_chars=block_chars)
    subjects, facts = common.load()
    facts = {
        **facts,
        "data": [public_name(str(path)) for path in [*(data or []), *(p for _, p in named)]],
        "block_chars": block_chars,
    }
    common.run(
        lambda progress: evaluate_perplexity(
            documents, subjects, settings, facts=facts, progress=progress
        )
    )


def _protocol(name: str | None, context: str, window: int | None) -> tuple[tuple[int, ...], int]:
    """Far lengths and the raw window of a protocol, with what was given instead."""
    presets = {"near": ((512,), 0), "far": ((2048,), 256)}
    if name is not None and name not in presets:
        raise InputError(f"unknown protocol {name!r}; use near or far.")
    lengths, size = presets[name or "near"]
    if context:
        lengths = numbers(context, "--context")
    return lengths, size if window is None else window


def _named(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not separator or not name or not path:
        raise InputError(f"--domain {text!r} is not NAME=PATH, e.g. --domain wiki=wiki.txt.")
    return name, Path(path)


for command in (perplexity, icl, qa, recall, retrieval):
    vist.command()(evaluation(command))
