"""Options that several commands share, each with one wording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foveate.errors import InputError, check_unicode

MOST_NEW_TOKENS = 1_000_000
MOST_SEED = 2**31


def new_tokens(count: int) -> int:
    """The longest answer. Raises InputError, before anything is loaded, where it cannot be."""
    if count < 1:
        raise InputError(f"max_new_tokens={count} is below 1; ask for at least one.")
    if count > MOST_NEW_TOKENS:
        raise InputError(
            f"max_new_tokens={count} is above the limit of {MOST_NEW_TOKENS:,}; lower it."
        )
    return count


def random_seed(seed: int) -> int:
    """A seed that every generator takes. Raises InputError for others."""
    if not 0 <= seed < MOST_SEED:
        raise InputError(f"--seed {seed} is outside 0 to {MOST_SEED - 1:,}; choose another.")
    return seed


def as_share(text: str) -> float:
    """ "10%" and "0.1" as 0.1. Raises ValueError for what is no number."""
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


def asked(question: str) -> str:
    """A question without blanks around it.

    Raises:
        InputError: it is blank, or holds bytes that are no text.
    """
    check_unicode("the question", question)
    if not question.strip():
        raise InputError("the question is empty; ask something.")
    return question.strip()


TextFile = Annotated[str, typer.Argument(metavar="FILE", help="Text file, or - for stdin.")]
Encoding = Annotated[str, typer.Option("--encoding", help="Encoding of the text.")]
Model = Annotated[
    str | None,
    typer.Option("--model", help="Local folder or hub id; default: the embedded model."),
]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        help="See `foveate methods`, or package.module:Class; settings in brackets, stages "
        "joined by +.",
    ),
]
Keep = Annotated[
    str,
    typer.Option(
        "--keep",
        help="Visual tokens to keep of each image: 64, 25% or 0.25; or as many as hold a share of "
        "its information: information=95%, information=95%:16..50%.",
    ),
]
PruneLayer = Annotated[
    int | None,
    typer.Option(
        "--prune-layer", help="First decoder layer that runs short; default: the method's."
    ),
]
Profile = Annotated[
    Path | None,
    typer.Option(
        "--profile", help="A setting that `foveate tune` wrote, instead of --method and --keep."
    ),
]
MaxNewTokens = Annotated[
    int, typer.Option("--max-new-tokens", help="Longest answer.", callback=new_tokens)
]
NoCompare = Annotated[bool, typer.Option("--no-compare", help="Do not also run the text as text.")]
Fonts = Annotated[
    list[str] | None,
    typer.Option("--font", help="Font file for characters that Noto Sans lacks; may be repeated."),
]
InstalledFonts = Annotated[
    bool, typer.Option("--installed-fonts", help="Then also look in the installed fonts.")
]
Share = Annotated[
    str,
    typer.Option("--share", help="0/2: do half of it, for --resume later; run 1/2 beside it."),
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, mps or auto.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON only.")]
