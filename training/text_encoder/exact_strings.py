"""Random exact strings: what no language model could guess, so that a reader must look."""

from __future__ import annotations

import random
import string

from foveate.vist.encoder.labels import ALPHABET

__all__ = ["exact_strings"]

_LETTERS = string.ascii_letters
_DIGITS = string.digits
_SIGNS = string.punctuation
_CODE = "(){}[]<>=+-*/%&|^~!?:;,.@#$_\\\"'`"
_HOSTS = ("com", "org", "net", "io", "de", "co.uk", "edu", "info")


def exact_strings(rng: random.Random, length: int) -> str:
    """Return `length` characters of numbers, hex, names, addresses, code and noise."""
    parts: list[str] = []
    size = 0
    while size < length:
        kind = rng.choice(_KINDS)
        repeat = rng.randint(1, 8)
        for _ in range(repeat):
            parts.append(kind(rng) + _gap(rng))
            size += len(parts[-1])
    return "".join(parts)[:length]


def _gap(rng: random.Random) -> str:
    if rng.random() < 0.8:
        return " "
    return rng.choice(
        ("\n", ", ", "; ", " - ", "\n\n", "", "  ", "\n    ", "\n        ", "\t", " | ")
    )


def _some(rng: random.Random, characters: str, least: int, most: int) -> str:
    return "".join(rng.choices(characters, k=rng.randint(least, most)))


def _word(rng: random.Random) -> str:
    return _some(rng, string.ascii_lowercase, 1, 9)


def _integer(rng: random.Random) -> str:
    return str(rng.randrange(10 ** rng.randint(1, 12)))


def _decimal(rng: random.Random) -> str:
    value = rng.uniform(-1, 1) * 10 ** rng.randint(0, 7)
    return f"{value:,.{rng.randint(1, 5)}f}" if rng.random() < 0.5 else f"{value:.4g}"


def _date(rng: random.Random) -> str:
    year, month, day = rng.randint(1000, 2100), rng.randint(1, 12), rng.randint(1, 31)
    form = rng.choice(("{0}-{1:02}-{2:02}", "{2}.{1}.{0}", "{1}/{2}/{0}", "{2:02}:{1:02}:{0}"))
    return form.format(year, month, day)


def _hex(rng: random.Random) -> str:
    digits = "0123456789abcdef" if rng.random() < 0.7 else "0123456789ABCDEF"
    return rng.choice(("", "0x", "#")) + _some(rng, digits, 2, 40)


def _uuid(rng: random.Random) -> str:
    text = f"{rng.getrandbits(128):032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _name(rng: random.Random) -> str:
    words = [_word(rng) for _ in range(rng.randint(1, 4))]
    form = rng.randrange(4)
    if form == 0:
        return "_".join(words)
    if form == 1:
        return "_".join(words).upper()
    joined = "".join(word.capitalize() for word in words)
    return joined if form == 2 else words[0] + joined


def _address(rng: random.Random) -> str:
    host = f"{_word(rng)}.{rng.choice(_HOSTS)}"
    form = rng.randrange(4)
    if form == 0:
        return f"{_word(rng)}.{_word(rng)}{rng.randrange(100)}@{host}"
    if form == 1:
        return f"https://www.{host}/{_word(rng)}/{_word(rng)}?{_word(rng)}={_integer(rng)}"
    if form == 2:
        return ".".join(str(rng.randrange(256)) for _ in range(4)) + f":{rng.randrange(65536)}"
    return f"/{_word(rng)}/{_word(rng)}/{_word(rng)}.{_some(rng, string.ascii_lowercase, 1, 4)}"


def _code(rng: random.Random) -> str:
    signs = [rng.choice(_CODE) for _ in range(rng.randint(2, 6))]
    return "".join(sign + rng.choice((_word(rng), "", _integer(rng)[:3])) for sign in signs)


def _letters(rng: random.Random) -> str:
    return _some(rng, _LETTERS, 1, 16)


def _capitals(rng: random.Random) -> str:
    return _some(rng, string.ascii_uppercase, 1, 14)


def _narrow(rng: random.Random) -> str:
    return _some(rng, "ilI1|!.,:;'`jt[]()fr-", 2, 14)


def _noise(rng: random.Random) -> str:
    return _some(rng, _LETTERS + _DIGITS + _SIGNS, 4, 24)


def _signs(rng: random.Random) -> str:
    return _some(rng, _SIGNS, 1, 8)


def _dashes(rng: random.Random) -> str:
    marks = "---\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}\N{HORIZONTAL ELLIPSIS}.:;"
    return "".join(_word(rng) + rng.choice(marks) * rng.choice((1, 1, 1, 2, 3)) for _ in range(3))


def _run(rng: random.Random) -> str:
    return rng.choice(_SIGNS + "  01xX") * rng.randint(2, 30)


def _whole_alphabet(rng: random.Random) -> str:
    return _some(rng, ALPHABET[2:], 3, 14)


def _accents(rng: random.Random) -> str:
    return _some(rng, ALPHABET[97:] + _LETTERS, 3, 12)


# Of none of the alphabet's shapes: a reader must say that it does not know them.
_FOREIGN = (
    "ΓΔΘΛΞΠΣΦΨΩαβγδεζηθλξπστφψω" "БГДЖЗИЙЛПФЦЧШЩЪЫЬЭЮЯбвгджзийклмнптфцчшщъыьэюя" "ˈəɪʊɛɔŋʃʒθ"
    "∞∑∫√∂∈∪∩⊂∀∃≈≡" "│─┌┐└┘├┤█░" "漢字日本語中文한국어" "אבגדה" "تثجحخ"
    "ĄąĘęŻżŹźŐőŰűĎďŤťŇňŮů" "✓✗★☞😀"
)  # fmt: skip


def _foreign(rng: random.Random) -> str:
    return _some(rng, _FOREIGN, 1, 8)


def _accented_word(rng: random.Random) -> str:
    letters = list(_some(rng, string.ascii_lowercase, 3, 10))
    letters[rng.randrange(len(letters))] = rng.choice(_ACCENTED)
    return "".join(letters)


_ACCENTED = "".join(sign for sign in ALPHABET[97:] if sign.isalpha())


def _quoted(rng: random.Random) -> str:
    mark = rng.choice(_QUOTES)
    return mark + " ".join(_word(rng) for _ in range(rng.randint(1, 3))) + rng.choice(_QUOTES)


_QUOTES = (
    "'",
    '"',
    "''",
    "``",
    "`",
    "\u2018",
    "\u2019",
    "\u201c",
    "\u201d",
    "\u201e",
    "'\"",
    "\u00b4",
)


def _indented(rng: random.Random) -> str:
    blank = rng.choice(("\t", "\t\t", "  ", "    ", "\t ", " \t", "\n\t", "\n\n\t", "\t\n"))
    return blank + _word(rng) + rng.choice(("", "\t", ":", "\t\t", " \n"))


_KINDS = (
    _integer,
    _integer,
    _decimal,
    _date,
    _hex,
    _hex,
    _uuid,
    _name,
    _name,
    _address,
    _code,
    _letters,
    _capitals,
    _narrow,
    _noise,
    _noise,
    _signs,
    _dashes,
    _run,
    _whole_alphabet,
    _accents,
    _foreign,
    _accented_word,
    _quoted,
    _indented,
)
