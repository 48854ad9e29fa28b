"""Synthetic recall: a value is named once in long prose and asked for by its key."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from foveate.errors import InputError

__all__ = ["KINDS", "KeyValueItem", "make_items"]

Kind = Literal["words", "numbers", "hex"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def _listed(words: str) -> list[str]:
    return words.split("|" if "|" in words else None)


_PEOPLE = _listed(
    "Anna Bruno Clara David Elena Felix Greta Henry Irene Jakob Karin Lukas Maria Niels Olga Peter "
    "Quinn Rosa Simon Tessa Ursula Victor Wanda Xaver Yvonne Zeno"
)
_THINGS = _listed(
    "apple basket candle drawer engine feather garden hammer island jacket kettle ladder mirror "
    "needle orange pencil quilt ribbon saddle teapot umbrella violin window yarn anchor bottle "
    "carpet dagger easel flute goblet helmet inkwell jigsaw lantern magnet notebook oar paddle "
    "rocket shovel trumpet vase whistle"
)
_SUBJECTS = _listed(
    "The baker|A tired clerk|The old ferry|Her neighbour|The museum|A grey cat|The night train|"
    "The gardener|His cousin|The orchestra|A small boat|The librarian"
)
_VERBS = _listed(
    "waited for|walked past|remembered|painted|forgot about|looked after|wrote about|talked about|"
    "kept away from|returned to"
)
_PLACES = _listed(
    "the harbour|the station|a quiet street|the winter market|the stone bridge|the mill|the empty "
    "theatre|the north tower|the orchard|the post office"
)
_TIMES = _listed("in the morning|at noon|before the rain|after lunch|late in May|all week|again")


@dataclass(frozen=True, kw_only=True)
class KeyValueItem:
    """One question.

    Args:
        context: prose with the pairs in it.
        prompt: asks for one value, which is to follow after one space.
        answer: the value.
        kind: of the values.
        depth: where the pair stands, 0 is the start of the context and 1 its end.
        id: unique within the run.
    """

    context: str
    prompt: str
    answer: str
    kind: str
    depth: float
    id: str


def make_items(
    count: int,
    *,
    length: int,
    num_tokens: Callable[[str], int],
    kinds: tuple[Kind, ...] = KINDS,
    depths: tuple[float, ...] = (0.1, 0.5, 0.9),
    pairs: int = 4,
    filler: str | None = None,
    seed: int = 0,
) -> list[KeyValueItem]:
    """`count` items for every kind and depth; the same arguments make the same items.

    Args:
        count: items.
        length: tokens of the context, met to within a sentence from below.
        num_tokens: counts the tokens of a text.
        kinds: of values.
        depths: in [0, 1].
        pairs: pairs in the context, the one asked for included.
        filler: prose to hide them in; None makes some up.
        seed: of all choices.

    Raises:
        InputError: an argument out of range, or filler that is too short.
    """
    if count < 1 or pairs < 1 or pairs > len(_PEOPLE):
        raise InputError(
            f"count={count}, pairs={pairs}; use 1 or more, and at most {len(_PEOPLE)} pairs."
        )
    if not depths or min(depths) < 0 or max(depths) > 1:
        raise InputError(f"depths={depths} are not shares of the context; use 0 to 1.")
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise InputError(f"unknown kinds {', '.join(unknown)}; use {', '.join(KINDS)}.")
    given = None if filler is None else [s.strip() for s in re.split(r"(?<=[.!?])\s+", filler)]
    items = []
    for kind in kinds:
        for depth in depths:
            for number in range(count):
                generator = random.Random(f"{seed} {kind} {depth} {number}")
                name = f"{kind}-{depth:g}-{number}"
                items.append(_item(generator, kind, depth, length, num_tokens, pairs, given, name))
    return items


def _item(
    generator: random.Random,
    kind: Kind,
    depth: float,
    length: int,
    num_tokens: Callable[[str], int],
    pairs: int,
    given: list[str] | None,
    name: str,
) -> KeyValueItem:
    keys = generator.sample(_PEOPLE, pairs)
    values: list[str] = []
    while len(values) < pairs:
        value = _value(generator, kind)
        if value not in values:
            values.append(value)
    said = [f"The code of {key} is {value}." for key, value in zip(keys, values, strict=True)]
    room = length - sum(num_tokens(f" {sentence}") for sentence in said)
    prose = _prose(generator, room, num_tokens, given)
    # The first pair is asked for; the others stand anywhere.
    places = [depth, *(generator.random() for _ in said[1:])]
    order = sorted(range(pairs), key=lambda i: places[i])
    sentences, taken = [], 0
    for i in order:
        stop = round(places[i] * len(prose))
        sentences += [*prose[taken:stop], said[i]]
        taken = stop
    return KeyValueItem(
        context=" ".join([*sentences, *prose[taken:]]),
        prompt=f"The code of {keys[0]} is",
        answer=values[0],
        kind=kind,
        depth=depth,
        id=name,
    )


def _value(generator: random.Random, kind: Kind) -> str:
    if kind == "words":
        return " ".join(generator.sample(_THINGS, 2))
    if kind == "numbers":
        return str(generator.randrange(10_000, 100_000))
    return f"{generator.randrange(16**6):06x}"


def _prose(
    generator: random.Random,
    room: int,
    num_tokens: Callable[[str], int],
    given: list[str] | None,
) -> list[str]:
    """Sentences of at most `room` tokens together."""
    sentences: list[str] = []
    used = 0
    start = generator.randrange(len(given)) if given else 0
    while True:
        if given is None:
            sentence = _sentence(generator)
        elif len(sentences) < len(given):
            sentence = given[(start + len(sentences)) % len(given)]
        else:
            raise InputError(
                f"the filler text has {used} tokens and {room} are needed; give a longer one."
            )
        used += num_tokens(f" {sentence}")
        if used > room:
            break
        sentences.append(sentence)
    if not sentences:
        raise InputError(
            "the context is too short for its pairs; raise --context or lower --pairs."
        )
    return sentences


def _sentence(generator: random.Random) -> str:
    parts = (generator.choice(words) for words in (_SUBJECTS, _VERBS, _PLACES, _TIMES))
    return " ".join(parts) + "."
