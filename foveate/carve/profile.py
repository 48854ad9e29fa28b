"""Profiles: a method with its settings, the model it was proven on, and the evidence, as TOML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foveate.carve.method import METHODS, Method
from foveate.carve.registry import find_method, method
from foveate.errors import FoveateError, InputError, MethodError
from foveate.files import replacing
from foveate.toml_file import read_toml, toml_lines

__all__ = ["ModelId", "Profile", "load_profile"]

FORMAT = 1
# TOML has no null: settings that are None are listed under this key.
NONE = "unset"
_ADDRESS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]")
Plain = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class ModelId:
    """What tells models apart.

    Args:
        name: as people call it; only for people.
        type: of its configuration, e.g. "llava".
        weights: the hub's commit, or a hash of local files, see VisionLanguageModel.
    """

    name: str
    type: str
    weights: str


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A setting that was proven on a model.

    Args:
        method: what to keep, with its budget.
        model: that it was proven on.
        evidence: what was proven and on what, plain values by name.
        versions: of foveate and what it runs on, when it was.
    """

    method: Method
    model: ModelId
    evidence: Mapping[str, Plain] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def check_model(self, type: str, weights: str) -> None:
        """Refuse a model that the setting was not proven on.

        Args:
            type: of its configuration.
            weights: what tells its checkpoint apart; "" if unknown, which no profile is for.

        Raises:
            InputError: it is another one.
        """
        mine = self.model
        if type != mine.type:
            raise InputError(
                f"the profile is of {mine.name!r}, a model of type {mine.type!r}, and this one is "
                f"of type {type!r}; use it with that model, or tune for this one: foveate tune."
            )
        if not weights or weights != mine.weights:
            got = f"weights {weights!r}" if weights else "weights of unknown origin"
            raise InputError(
                f"the profile is of {mine.name!r} with the weights {mine.weights!r}, and this "
                f"model has {got}; load the model as it was tuned, or tune for this one: "
                "foveate tune."
            )

    def save(self, path: str | Path) -> None:
        """Write it as TOML.

        Raises:
            MethodError: a method that only its address names, so that no one else could load it.
            InputError: the file cannot be written.
        """
        tables = {
            "format": FORMAT,
            "method": _portable(self.method.to_dict()),
            "model": {"name": self.model.name, "type": self.model.type,
                      "weights": self.model.weights},
            "evidence": dict(self.evidence),
            "versions": dict(self.versions),
        }  # fmt: skip
        lines = ["# A setting of foveate, see docs/tune.md.", *toml_lines(tables)]
        try:
            with replacing(Path(path)) as draft:
                draft.write(("\n".join(lines) + "\n").encode())
        except OSError as error:
            raise InputError(
                f"{path} cannot be written ({error}); choose another place."
            ) from error


def load_profile(path: str | Path) -> Profile:
    """Read a profile that `foveate tune` wrote, or that a stranger sent: nothing in it is run.

    Args:
        path: of the TOML file.

    Returns:
        The profile; `foveate.attach(model, profile)` puts its method on the model it is of.

    Raises:
        InputError: no such file, or it is no profile, too large or nested too deeply.
        MethodError, BudgetError: its method is unknown here, or its settings cannot be.

    Example:
        profile = foveate.load_profile("out/tune/profile.toml")
        with foveate.attach(model, profile):
            out = model.generate(**inputs)
    """
    where = f"profile {str(path)!r}"
    values = read_toml(Path(path), what="profile")
    known = {"format", "method", "model", "evidence", "versions"}
    odd = sorted(set(values) - known) + sorted(known - set(values))
    if odd:
        raise InputError(
            f"{where} lacks or misnames {', '.join(odd)[:200]}; it has {', '.join(sorted(known))}."
        )
    if values["format"] != FORMAT or isinstance(values["format"], bool):
        raise InputError(
            f"{where} has the format {str(values['format'])[:50]}, and this version of foveate "
            f"reads {FORMAT}; use the foveate that wrote it."
        )
    tables = {name: _table(values[name], f"{where}: {name}") for name in known - {"format"}}
    model = tables["model"]
    if set(model) != {"name", "type", "weights"} or not all(
        isinstance(value, str) for value in model.values()
    ):
        raise InputError(f"{where}: model takes the texts name, type and weights, and no others.")
    for name in ("evidence", "versions"):
        kinds = (str, int, float, bool) if name == "evidence" else str
        if not all(isinstance(value, kinds) for value in tables[name].values()):
            raise InputError(f"{where}: {name} holds something that is no plain value; remove it.")
    try:
        built = method(**_settings(tables["method"], where))
    except FoveateError as error:
        raise type(error)(f"{where}: {error}") from error
    except TypeError as error:
        raise InputError(f"{where}: its method cannot be built ({error}).") from error
    return Profile(
        method=built,
        model=ModelId(**model),
        evidence=tables["evidence"],
        versions=tables["versions"],
    )


def _portable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`to_dict` of a method with names instead of addresses, and None listed under NONE."""
    found: dict[str, Any] = {}
    nothing = [key for key, value in settings.items() if value is None]
    for key, value in settings.items():
        if key == "name" and ":" in value:
            cls = find_method(value)
            if METHODS.get(cls.name) is not cls:
                raise MethodError(f"{value!r} has no name of its own, so no profile can name it.")
            found[key] = cls.name
        elif value is not None:
            found[key] = _portable_value(value)
    return {**found, **({NONE: nothing} if nothing else {})}


def _portable_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _portable(value)
    if isinstance(value, str) and _ADDRESS.search(value):
        raise MethodError(
            f"{value!r} names code by its address, which no profile does; give the method a name "
            "of an installed package."
        )
    return [_portable_value(item) for item in value] if isinstance(value, (list, tuple)) else value


def _settings(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The inverse of `_portable`; whatever would make Python import something is refused."""
    nothing = table.get(NONE, [])
    if not isinstance(nothing, list) or not all(isinstance(key, str) for key in nothing):
        raise InputError(f"{where}: {NONE} is no list of names of settings.")
    if not isinstance(table.get("name"), str):
        raise InputError(f"{where}: a method has no name; write e.g. name = 'tokencarve'.")
    found = {key: _setting(value, where) for key, value in table.items() if key != NONE}
    return {**found, **dict.fromkeys(nothing)}


def _setting(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        return _settings(value, where)
    if isinstance(value, list):
        return [_setting(item, where) for item in value]
    if isinstance(value, str) and _ADDRESS.search(value):
        raise InputError(
            f"{where} names {value[:80]!r}, code that Python would import; a profile names methods "
            "by their name alone: import the module that defines the method first."
        )
    return value


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where} is no table; write [{where.split(': ')[-1]}].")
    return value
