"""Command lines: each command's own options, read off it, with values that fit or do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import typer
from hypothesis import strategies as st

from foveate.cli.main import app
from tests.fuzz import content

ROWS = ("image", "question", "answers", "passage", "passages", "title", "text", "id")
PICTURES = (
    "out.png",
    "old.png",
    "new/deep.png",
    "out",
    "image.png/x.png",
    "/dev/full",
    ".",
    "a\0b",
)
# What is there to be named. "old.*" hold what a failed command has to leave alone.
INPUTS = (
    "image.png", "text.txt", "rows.jsonl", "recipe.toml", "font.ttf", "broken", "MODEL", "VIST",
    "nowhere", ".", "/dev/null", "pipe", "", "loop", "x" * 300, "a\0b", "owner/name", "-",
)  # fmt: skip
METHODS = (
    "tokencarve", "fastv", "divprune", "random", "noop", "magic", "divprune:50%+tokencarve",
    "two-stage(first=divprune)", "fastv(prune_layer=99)", "tokencarve(", "os:system", "+", "a:b:c",
    "text-share(divprune, share=0.3)", "tokencarve(attention_weight=nan)", "fastv:0%",
)  # fmt: skip
KEEPS = ("25%", "1", "4", "16", "17", "0", "200%", "information=95%", "information=1:2..3", "x", "")

# Values that would do what they say for hours, or open a port, are not among them.
OWN_VALUES: Mapping[str, tuple[str, ...]] = {
    "--method": METHODS, "--methods": METHODS, "--against": METHODS, "--keep": KEEPS,
    "--max-new-tokens": ("1", "3", "0", "-1", "", "9" * 30, "x"),
    "--model": ("MODEL", "VIST", "embedded", "nowhere", "broken", "image.png", "", "a\0b", "a/b/c"),
    "--base": ("MODEL", "nowhere", "", "broken"), "--vist": ("VIST", "nowhere", "broken"),
    "--cepe": ("VIST", "nowhere"), "--device": ("cpu", "auto", "meta", "abacus", "cuda:99", ""),
    "--data": (*INPUTS, "hub:", "hub:a/b:c:d:e", "easy-vqa"),
    "--limit": ("1", "2", "0", "-1", "x", "9" * 30),
    "--overlay": PICTURES, "--output": (*PICTURES, "out.jsonl", "old.jsonl"), "-o": PICTURES,
    "--save-pages": PICTURES, "--errors": ("err.jsonl", "out.jsonl", "/dev/full", "rows.jsonl"),
    "--input": (*INPUTS, "/dev/stdin"),
    "--encoding": ("utf-8", "utf-16", "zip", "cp1252", "x", "", "idna", "a\0b"),
    "--rounds": ("0", "1", "-1", "x"), "--batch-size": ("1", "2", "0", "-3", "9" * 30),
    "--workers": ("1", "2", "0"), "--backend": ("transformers", "x"), "--font": INPUTS,
    "--font-px": ("10", "0", "-1", "7", "200", "100000", "9" * 30, "x"),
    "--width": ("224", "0", "-14", "15", "3584", "100000000", "9" * 30),
    "--height": ("14", "224", "0", "15", "100000000", "9" * 30),
    "--patch": ("14", "0", "-1", "7", "100000", "9" * 30),
    "--page": ("224x224", "0x0", "99999x99999", "x", "448", "1x1", "٣٣٣"),
    "--share": ("0/1", "0/2", "1/2", "2/2", "x", "1/0", "-1/2", "0.1", "²/3"),
    "--set": ("run.batch=4", "a", "=", "run.seed=1e999", "stages.0.lr=x", "stages.9.lr=1", "a.b=1",
              "data.files=[[[", ".".join("a" * 3000), "name='../x'", "run.batch=" + "9" * 30,
              "vist.resampler.width=999999999999"),
    "--host": ("127.0.0.1", "::1", "localhost", "x", "", "999.1.1.1", "0.0.0.0"),
    "--port": ("0", "7860", "-1", "65536", "x", "9" * 30),
    "--max-upload": ("1", "0", "-1", "nan", "inf", "1e400", "x"),
    "--max-pixels": ("1", "0", "-1", "nan", "inf", "1e-9"),
}  # fmt: skip
FIRST: Mapping[str, tuple[str, ...]] = {  # positional arguments
    "file": (*INPUTS, "text.txt", "text.txt"), "recipe": ("vist-smollm2-cpu", *INPUTS),
    "model": ("MODEL", "broken", "llava", "embedded", "nowhere", "", "a\0b"),
}  # fmt: skip
LIKELY = {"--data": 0.95, "--input": 0.9, "--output": 0.7, "--ask": 0.9, "--model": 0.5}
# Without these a command would work on more than a test has time for.
ALWAYS = {"compare": ("--data", "--limit", "--rounds"), "knockout": ("--data", "--limit"),
          "run": ("--input", "--output")}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run: what is typed, what the files hold, and what it is shown on."""

    arguments: tuple[str, ...]
    files: Mapping[str, bytes]
    stdin: bytes
    columns: int
    charset: str


def command_names() -> list[str]:
    """All commands, those of a group with its name before them."""
    return [" ".join(words) for words in _commands()]


def _commands() -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    open_ = [((), typer.main.get_command(app))]
    while open_:
        words, command = open_.pop()
        if hasattr(command, "commands"):
            open_ += [((*words, name), inner) for name, inner in command.commands.items()]
        else:
            found[words] = command
    return dict(sorted(found.items()))


@st.composite
def cases(draw: Any, name: str) -> Case:
    """A run of one command."""
    words = tuple(name.split())
    arguments: list[str] = []
    for option in _commands()[words].params:
        arguments += draw(_given(option, words[-1]))
    if draw(st.integers(0, 19)) == 0:
        arguments.insert(draw(st.integers(0, len(arguments))), draw(content.weird_text))
    return Case(
        arguments=(*words, *arguments),
        files={
            "image.png": draw(content.images()),
            "text.txt": draw(content.texts()),
            "rows.jsonl": draw(content.json_lines(ROWS)),
            "recipe.toml": draw(content.recipes()) if words[-1] == "train" else b"",
            "font.ttf": draw(content.fonts()) if words[-1] in ("render", "pages") else b"",
            "broken/config.json": draw(content.configs()),
            "broken/vist.json": draw(content.configs()),
        },
        stdin=draw(st.one_of(st.just(b""), content.texts())),
        columns=draw(st.sampled_from([80, 40, 10, 1, 200])),
        charset=draw(st.sampled_from(["utf-8", "ascii", "latin-1"])),
    )


def _given(option: Any, command: str) -> st.SearchStrategy[list[str]]:
    """An option (or argument) as it is typed; [] is left out."""
    if option.param_type_name == "argument":
        values = st.sampled_from(FIRST.get(option.name, ("image.png",)))
        if option.name == "items":
            values = st.one_of(st.just("image.png"), st.sampled_from(INPUTS))
            many = st.lists(values, min_size=1, max_size=3)
            return st.builds(lambda a, q: [*a, q], many, content.weird_text)
        return values.map(lambda value: [value])
    name = max(option.opts, key=len)
    chance = 1.0 if name in ALWAYS.get(command, ()) else LIKELY.get(name, 0.15)
    if getattr(option, "is_flag", False):
        typed = st.just([name])
    else:
        own = OWN_VALUES.get(name)
        anything = st.one_of(st.sampled_from(content.WEIRD_NUMBERS), content.weird_text)
        values = st.sampled_from(own) if own else anything
        typed = values.map(lambda value: [name, value])
    left_out: st.SearchStrategy[list[str]] = st.just([])
    if name == "--help":
        chance = 0.01
    return st.floats(0, 1).flatmap(lambda x: typed if x < chance else left_out)
