"""`foveate eval vist`: what far context is worth, each evaluation with its controls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foveate.cli.console import err
from foveate.cli.eval_output import finish, progress_of, split_list
from foveate.cli.eval_readers import DEFAULT_HEAD, load_readers, model_facts, with_latents
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
    """Loss of the next tokens of held-out documents.

    Without --head, the token before the far context is every row's head, as in training.
    """
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
        own_head=head is None,
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


@vist.command()
def icl(
    data: Annotated[Path, typer.Option(help="Folder with one folder a data set.")],
    sets: Annotated[str, typer.Option(help="Comma-separated names; default: all.")] = "",
    raw: Annotated[int, typer.Option(help="Demonstrations in the prompt.")] = 2,
    far: Annotated[int, typer.Option(help="Demonstrations that are read far.")] = 18,
    limit: Annotated[int, typer.Option(help="Test items for each set and seed.")] = 250,
    seeds: Annotated[str, typer.Option(help="Of demonstrations and items.")] = "42,43,44",
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
    as_json: AsJson = False,
) -> None:
    """In-context learning: a few demonstrations raw, the others far."""
    with err.status("Loading the libraries"):
        from foveate.measure.vist_icl import IclSettings, evaluate_icl
        from foveate.tasks.icl import load_icl_sets

    rule: Any = length_rule
    settings = IclSettings(
        raw=raw,
        far=far,
        items=limit,
        seeds=_numbers(seeds, "--seeds"),
        rule=rule,
        arms=split_list(arms),
        seed=seed,
    )
    found = load_icl_sets(data, split_list(sets))
    readers = load_readers(model, base=base, cepe=cepe, head=head, device=device)
    facts = model_facts(readers, model, cepe)
    _run(
        lambda progress: evaluate_icl(found, readers, settings, facts=facts, progress=progress),
        output,
        as_json,
    )


@vist.command()
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
    as_json: AsJson = False,
) -> None:
    """Open-domain questions with passages: the best raw, the next far."""
    with err.status("Loading the libraries"):
        from foveate.measure.manifest import public_name
        from foveate.measure.vist_qa import QaSettings, evaluate_qa
        from foveate.tasks.open_qa import load_open_qa

    settings = QaSettings(
        raw=raw,
        far=far,
        limit=limit,
        max_new_tokens=max_new_tokens,
        arms=split_list(arms),
        seed=seed,
    )
    questions = load_open_qa(data, need_passages=raw + far)
    readers = load_readers(model, base=base, cepe=cepe, head=head, device=device)
    facts = {**model_facts(readers, model, cepe), "data": public_name(str(data))}
    _run(
        lambda progress: evaluate_qa(questions, readers, settings, facts=facts, progress=progress),
        output,
        as_json,
    )


@vist.command()
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
    as_json: AsJson = False,
) -> None:
    """Synthetic key-value recall over the compression ratio."""
    with err.status("Loading the libraries"):
        from foveate.measure.vist_recall import RecallSettings, evaluate_recall

    chosen: Any = split_list(kinds)
    settings = RecallSettings(
        contexts=_numbers(context, "--context"),
        latents=_numbers(latents, "--latents"),
        depths=_shares(depths, "--depths"),
        kinds=chosen,
        count=limit,
        pairs=pairs,
        filler=_text(filler) if filler is not None else None,
        arms=split_list(arms),
        seed=seed,
    )
    readers = load_readers(model, base=base, cepe=cepe, head=head, device=device)
    made = {count: with_latents(readers, count) for count in settings.latents}
    facts = model_facts(readers, model, cepe)
    _run(
        lambda progress: evaluate_recall(
            made.__getitem__, settings, facts=facts, progress=progress
        ),
        output,
        as_json,
    )


@vist.command()
def cost(
    tokens: Annotated[str, typer.Option(help="Tokens of text.")] = "1024,2048,4096,8192,16384",
    tokens_per_image: Annotated[
        str, typer.Option(help="That one strip holds: the paper's, and ours.")
    ] = "146,187",
    arms: Annotated[
        str, typer.Option(help="raw, cepe, cepe-resampled, vist, vist-reader; default: all.")
    ] = "",
    count: Annotated[bool, typer.Option(help="Count FLOPs on the meta device too.")] = True,
    measure: Annotated[
        str, typer.Option(help="Tokens to really run at a reduced scale; '' runs nothing.")
    ] = "1024,4096",
    new_tokens: Annotated[int, typer.Option(help="Decoded in a real run.")] = 32,
    rounds: Annotated[int, typer.Option(help="Timing rounds of the real runs.")] = 3,
    output: Output = Path("out/eval"),
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """FLOPs, memory and throughput in the paper's shape, against CEPE and raw text."""
    with err.status("Loading the libraries"):
        from foveate.hf.cost_models import count_flops
        from foveate.hf.cost_probe import ProbeArms
        from foveate.hf.load import quiet_transformers
        from foveate.measure.vist_cost_table import CostSettings, evaluate_cost

        quiet_transformers()
    settings = CostSettings(
        totals=_numbers(tokens, "--tokens"),
        tokens_per_image=_shares(tokens_per_image, "--tokens-per-image"),
        arms=split_list(arms),
        count=count,
        measured=_numbers(measure, "--measure"),
        new_tokens=new_tokens,
        rounds=rounds,
    )
    probe = ProbeArms(seed) if settings.measured else None
    _run(
        lambda progress: evaluate_cost(
            settings, count=count_flops, probe=probe, seed=seed, progress=progress
        ),
        output,
        as_json,
    )


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


def _shares(text: str, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in split_list(text))
    except ValueError as error:
        raise InputError(f"{option} {text!r} is not a list of numbers.") from error


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{str(file)!r} cannot be read as UTF-8 text: {error}.") from error


def _named(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not separator or not name or not path:
        raise InputError(f"--domain {text!r} is not NAME=PATH, e.g. --domain wiki=wiki.txt.")
    return name, Path(path)
