"""`foveate eval vist`: what far context is worth, each evaluation with its controls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foveate.cli.console import err
from foveate.cli.eval_output import finish, progress_of, split_list
from foveate.cli.eval_readers import DEFAULT_HEAD, load_readers, model_facts
from foveate.errors import InputError

if TYPE_CHECKING:
    from foveate.measure.arms import Progress
    from foveate.measure.vist_result import EvalResult

eval_app = typer.Typer(help="Measure a model against its controls.", no_args_is_help=True)
vist = typer.Typer(
    help="Far context as latents, beside no context, raw text and the equal budgets.",
    no_args_is_help=True,
)
eval_app.add_typer(vist, name="vist")

Model = Annotated[
    str | None, typer.Option("--model", help="Folder of a Vist checkpoint; default: embedded.")
]
Base = Annotated[
    str | None, typer.Option("--base", help="Its language model, if it lies elsewhere now.")
]
Cepe = Annotated[
    str | None, typer.Option("--cepe", help="Folder of a CEPE checkpoint; adds the arms cepe*.")
]
Head = Annotated[
    str | None,
    typer.Option(
        "--head", help="Text before everything, special tokens allowed; default: " + DEFAULT_HEAD
    ),
]
Arms = Annotated[
    str, typer.Option("--arms", help="Comma-separated; default: all. `none` always runs.")
]
Output = Annotated[Path, typer.Option("--output", help="Folder for the JSON, the page, the plot.")]
Seed = Annotated[int, typer.Option("--seed", help="Of every random choice.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, mps or auto.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON only.")]


@vist.command()
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
    model: Model = None,
    base: Base = None,
    cepe: Cepe = None,
    head: Head = None,
    arms: Arms = "",
    output: Output = Path("out/eval"),
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Loss of the next tokens of held-out documents."""
    with err.status("Loading the libraries"):
        from foveate.measure.manifest import public_name
        from foveate.measure.vist_perplexity import PerplexitySettings, evaluate_perplexity
        from foveate.tasks.documents import load_documents

    contexts, chosen_window = _protocol(protocol, context, window)
    settings = PerplexitySettings(
        contexts=contexts,
        window=chosen_window,
        score=score,
        windows=windows,
        limit=limit,
        arms=split_list(arms),
        batch_size=batch_size,
        seed=seed,
    )
    named = [_named(text) for text in domain or []]
    documents = load_documents(data or [], domains=named, block_chars=block_chars)
    readers = load_readers(model, base=base, cepe=cepe, head=head, device=device)
    facts = {
        **model_facts(readers, model, cepe),
        "data": [public_name(str(path)) for path in [*(data or []), *(p for _, p in named)]],
        "block_chars": block_chars,
    }

    def work(progress: Progress) -> EvalResult:
        return evaluate_perplexity(documents, readers, settings, facts=facts, progress=progress)

    _run(work, output, as_json)


def _run(work: Any, output: Path, as_json: bool) -> None:
    with progress_of() as progress:
        result = work(progress)
    finish(result, output, as_json=as_json)


def _protocol(name: str | None, context: str, window: int | None) -> tuple[tuple[int, ...], int]:
    """Far lengths and the raw window of a protocol, with what was given instead."""
    presets = {"near": ((512,), 0), "far": ((2048,), 256)}
    if name is not None and name not in presets:
        raise InputError(f"unknown protocol {name!r}; use near or far.")
    lengths, size = presets[name or "near"]
    if context:
        lengths = _numbers(context, "--context")
    return lengths, size if window is None else window


def _numbers(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in split_list(text))
    except ValueError as error:
        raise InputError(f"{option} {text!r} is not a list of whole numbers.") from error


def _named(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not separator or not name or not path:
        raise InputError(f"--domain {text!r} is not NAME=PATH, e.g. --domain wiki=wiki.txt.")
    return name, Path(path)
