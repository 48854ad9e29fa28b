"""Methods by name: the built-in ones, those of installed packages, and any class by its address.

A package names its methods in the entry-point group `foveate.methods`. They are imported once, when
a name is asked for that nobody has yet, or when methods are listed.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from foveate.carve.definition import is_abstract
from foveate.carve.method import METHODS, Method
from foveate.errors import MethodError

__all__ = ["all_methods", "broken_packages", "find_method", "method", "origin"]

GROUP = "foveate.methods"


def method(name: str, **settings: Any) -> Method:
    """Build a method by name, e.g. method("fastv", keep_ratio=0.25), or from `to_dict` output.

    Raises:
        MethodError: for an unknown name, or a setting the method does not have or cannot have.
        BudgetError: an impossible budget.
    """
    return find_method(name).from_dict(settings)


def find_method(name: str) -> type[Method]:
    """The class of a method.

    Args:
        name: of a built-in method or one of an installed package, or "package.module:Class".

    Raises:
        MethodError: nobody has the name, or there is no method at the address.
    """
    if not isinstance(name, str):
        raise MethodError(f"got {name!r} as a method's name; write e.g. 'tokencarve'.")
    if ":" in name:
        return _at(name)
    if name not in METHODS:
        _load_packages()
    if name not in METHODS:
        raise MethodError(
            " ".join(
                [
                    f"unknown method {name!r}; choose one of {', '.join(sorted(METHODS))}, or "
                    "write package.module:Class.",
                    *broken_packages(),
                ]
            )
        )
    return METHODS[name]


def all_methods() -> dict[str, type[Method]]:
    """Name -> class of every method there is, by name; those of installed packages too."""
    _load_packages()
    return dict(sorted(METHODS.items()))


def broken_packages() -> tuple[str, ...]:
    """A sentence for each method of an installed package that cannot be used."""
    return _load_packages()[1]


def origin(cls: type[Method]) -> str:
    """Where a method comes from: "foveate", "PACKAGE VERSION", or "module:Class"."""
    if cls.reference() == cls.name:
        return "foveate"
    return _load_packages()[0].get(cls, cls.reference())


@functools.cache
def _load_packages() -> tuple[dict[type[Method], str], tuple[str, ...]]:
    """Classes and packages of the entry points, and what is wrong with the others."""
    packages: dict[type[Method], str] = {}
    broken = []
    for entry in entry_points(group=GROUP):
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        try:
            packages[_class_of(entry)] = package
        except MethodError as error:
            broken.append(
                f"The method {entry.name!r} of the package {package} cannot be used: {error}"
            )
    return packages, tuple(broken)


def _class_of(entry: EntryPoint) -> type[Method]:
    address = f"{entry.module}:{entry.attr}"
    found = _at(address)
    if found.name != entry.name:
        raise MethodError(
            f"{address!r} has the name {found.name!r}; its entry point has to have the same."
        )
    return found


def _at(address: str) -> type[Method]:
    """The class at "package.module:Class"."""
    module, _, path = address.partition(":")
    try:
        with _all_or_nothing():
            found: Any = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever a stranger's module raises
        raise MethodError(
            f"{address!r}: the module {module!r} cannot be imported ({type(error).__name__}: "
            f"{error}); install its package, or put its folder on PYTHONPATH."
        ) from error
    for part in path.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type) or not issubclass(found, Method):
        what = "nothing" if found is None else f"{found!r}, not a subclass of foveate.Method"
        raise MethodError(f"{address!r} is {what}; write package.module:Class.")
    if is_abstract(found) or "name" not in vars(found):
        missing = "a plan" if is_abstract(found) else "a name"
        raise MethodError(f"{address!r} has not {missing} of its own; give it one.")
    return found


@contextmanager
def _all_or_nothing() -> Iterator[None]:
    """A module that fails halfway leaves none of its methods behind."""
    before = set(METHODS)
    try:
        yield
    except BaseException:
        for name in set(METHODS) - before:
            if METHODS[name].__module__ not in sys.modules:
                del METHODS[name]
        raise
