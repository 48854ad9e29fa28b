"""Methods as people type them: a name, its settings in brackets, stages joined by a plus.

`tokencarve`, `tokencarve(attention_weight=0.3)`, `visionzip:50%+tokencarve`; what goes around a
method has it first in its brackets, `text-share(divprune, share=0.3, relevance=similarity)`; a
class without an installed package is `package.module:Class`.
"""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from typing import Any

from foveate.carve.method import METHODS, Method
from foveate.carve.registry import find_method
from foveate.carve.stack import Stack
from foveate.carve.text_share import TextShare
from foveate.core.budget import BUDGET, Budget, parse_budget
from foveate.errors import MethodError

__all__ = ["method_class", "parse_method", "spec_name", "split_outside"]

MOST_CHARS = 2000
_NAME = r"(?P<name>[A-Za-z_][\w.]*:[A-Za-z_][\w.]*|[A-Za-z_][\w-]*)"
_STAGE = re.compile(rf"{_NAME}(?P<first>:[^()]*)?(\((?P<settings>.*)\))?(?P<last>:[^()]*)?")


def parse_method(text: str, budget: Budget, **shared: Any) -> Method:
    """Build the method that `text` describes.

    Args:
        text: `NAME`, `NAME(setting=value, ...)`, or stages of that form joined by `+`, first to
            last. NAME is one that `foveate methods` lists, or `package.module:Class`; text-share
            has the method inside first in its brackets. All stages but the last may have a budget
            of their own, `NAME:50%` or `NAME:64`, of the tokens that the image had at first.
        budget: of the method; in a stack, of the stages without a budget of their own, but for
            those before the last that keep what the picture asks for, whatever the budget.
        shared: settings for every stage that has them and does not set them itself, e.g. a seed.

    Raises:
        MethodError: an unknown method or setting, a bad value, or text of another form.
        BudgetError: an impossible budget of a stage.

    Example:
        >>> str(parse_method("fastv(prune_layer=3)", Budget(keep_ratio=0.5)))
        'fastv(keep=50%, prune_layer=3)'
    """
    if len(text) > MOST_CHARS:
        raise MethodError(
            f"the method has {len(text):,} characters, above the limit of {MOST_CHARS:,}; it "
            f"begins with {text[:40]!r}."
        )
    stages = split_outside(text, "+")
    if len(stages) == 1:
        return _stage(stages[0], budget, shared, alone=True)
    made = tuple(
        _stage(stage, budget, shared, alone=False, is_last=number == len(stages))
        for number, stage in enumerate(stages, start=1)
    )
    stack = Stack(stages=made)  # its budget is the last stage's
    if stack.budget != budget:
        raise MethodError(
            f"{text!r} gives its last stage a budget of its own, which is the stack's; give that "
            "with --keep."
        )
    return stack


def method_class(text: str) -> type[Method] | None:
    """The class, where the text is one name and nothing else; None for settings and stacks.

    Raises:
        MethodError: an unknown name.
    """
    is_name = re.fullmatch(_NAME, text.strip()) is not None
    return find_method(text.strip()) if is_name else None


def spec_name(text: str) -> str:
    """The description without blanks: how tables and plots name the method."""
    return re.sub(r"\s+", "", text)


def split_outside(text: str, separator: str) -> list[str]:
    """Split at a separator, but not inside brackets or quotes; blanks around parts are dropped."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([":
            depth += 1
        elif letter in ")]":
            depth -= 1
        if letter == separator and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _stage(
    text: str, budget: Budget, shared: dict[str, Any], *, alone: bool, is_last: bool = True
) -> Method:
    """One method with its settings and budget."""
    found = _STAGE.fullmatch(text)
    if found is None:
        raise MethodError(
            f"{text!r} does not name a method; write e.g. tokencarve, "
            "tokencarve(attention_weight=0.3) or visionzip:50%+tokencarve."
        )
    name, own = found["name"], found["first"] or found["last"]
    if found["first"] and found["last"]:
        raise MethodError(f"{text!r} gives its budget twice; write it once.")
    cls = _find(name)
    if own:
        if alone:
            raise MethodError(
                f"{text!r} has a budget of its own, which only stages of a stack may have; give it "
                "with --keep."
            )
        budget = parse_budget(own[1:])
    elif cls.counts_itself and not is_last:
        budget = Budget(keep_ratio=1.0)  # the stack's is for those that take one
    rest = found["settings"] or ""
    if issubclass(cls, TextShare):
        inner, rest = _inner(rest, text)
        wrapped = _stage(inner, budget, shared, alone=True)
        return cls.from_dict({"inner": wrapped, **_settings(rest, text)})
    known = {entry.name for entry in fields(cls) if entry.init}
    settings = {key: value for key, value in shared.items() if key in known and value is not None}
    settings |= _settings(rest, text)
    return cls.from_dict({**settings, **{key: getattr(budget, key) for key in BUDGET}})


def _find(name: str) -> type[Method]:
    try:
        return find_method(name)
    except MethodError:
        first, _, rest = name.partition(":")
        if rest and first in METHODS:
            parse_budget(rest)  # "divprune:half": says how a budget is written
        raise


def _inner(text: str, where: str) -> tuple[str, str]:
    """ "divprune(prune_layer=1), share=0.3" -> ("divprune(prune_layer=1)", "share=0.3")."""
    inner, *rest = split_outside(text, ",")
    if len(split_outside(inner, "=")) > 1 or not inner:
        raise MethodError(
            f"{where!r} does not say which method text-share goes around; write it first, e.g. "
            "text-share(divprune, share=0.3, relevance=similarity)."
        )
    if len(split_outside(inner, "+")) > 1:
        raise MethodError(
            f"{where!r} goes around a stack; put text-share around its stages, e.g. "
            "text-share(divprune, relevance=similarity):50%+fastv."
        )
    found = _STAGE.fullmatch(inner)
    if found and (own := found["first"] or found["last"]):
        raise MethodError(
            f"{where!r} has a budget inside its brackets; give it with --keep, or, of a stage of a "
            f"stack, behind them: text-share({inner.replace(own, '')}, ...){own}."
        )
    return inner, ",".join(rest)


def _settings(text: str, where: str) -> dict[str, Any]:
    """ "a=1, b=norm" -> {"a": 1, "b": "norm"}; words need no quotes."""
    settings: dict[str, Any] = {}
    for part in filter(None, split_outside(text, ",")):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key.isidentifier() or not value:
            raise MethodError(f"{where!r}: {part!r} is not setting=value.")
        if key in settings:
            raise MethodError(f"{where!r}: {key} is set twice; set it once.")
        if key in BUDGET:
            raise MethodError(f"{where!r}: the budget is not a setting here; give it with --keep.")
        try:
            settings[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            settings[key] = value
    return settings
