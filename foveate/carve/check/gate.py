"""The gate: a family that no test covers is checked on its twin before its first use.

Families with a row are held to the slow path by the tests of every version, on the transformers
that the shipped results name. Everything else is derived, and what is derived may be wrong: so the
twin of the model's own configuration is checked, about a second, once for each configuration,
version of transformers and version of foveate. What was found is remembered in the process and in a
JSON file in the user's cache folder; where that cannot be written it is found again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import transformers

from foveate.carve.check.check import KERNELS, check
from foveate.carve.check.known import known_results
from foveate.carve.check.result import Checked
from foveate.errors import FoveateError, UnsupportedModelError
from foveate.files import replacing
from foveate.models.anatomy import Anatomy
from foveate.models.families import FAMILIES, TEXT_DECODER
from foveate.models.family import Family
from foveate.version import __version__

logger = logging.getLogger(__name__)

# Key of a configuration -> "" where its twin holds, else the sentence why not.
_known: dict[str, str] = {}
_MOST_KNOWN = 1000
# The rows as they are shipped: one that was changed at run time is checked like a derived family.
_SHIPPED = dict(FAMILIES)


def check_trust(anatomy: Anatomy) -> None:
    """Let a model pass whose family is covered by tests, or whose twin holds.

    Args:
        anatomy: of the model that something is about to be attached to.

    Raises:
        UnsupportedModelError: its twin does not hold; says what broke.
    """
    family = anatomy.family
    if family is TEXT_DECODER or _is_covered(anatomy):
        return
    key = _key(anatomy)
    if key not in _known:
        _known.update(_read())
    if key not in _known:
        logger.info("checking a tiny twin of %s before its first use", family.title)
        kernel = str(anatomy.config._attn_implementation)
        kernels = (kernel,) if kernel in KERNELS else KERNELS[:1]
        found = check(anatomy.config, kernels=kernels, thorough=False)
        before = family.cut == "before_llm"
        _known[key] = (_broken_before(found) if before else found.refusal) or _broken_video(found)
        _write()
    if _known[key]:
        raise UnsupportedModelError(
            f"{family.title} ({anatomy.config.model_type}) was never tested with this version, and "
            f"{_known[key]} `foveate check` shows all of it."
        )


def _broken_before(found: Checked) -> str:
    """Why a family whose prompts are shortened before the decoder does not hold; "" if it does."""
    if found.before_llm:
        return ""
    broken = {name: why for name, why in found.findings.items() if why}
    name = next((name for name in broken if not name.startswith("built")), "")
    return f"its twin fails the check {name!r}: {broken[name]}" if name else found.refusal


def _broken_video(found: Checked) -> str:
    """Videos come through the same door as images, so a wrong one closes it."""
    why = found.findings.get("video", "")
    return f"its twin fails the check 'video': {why}" if why else ""


def _is_covered(anatomy: Anatomy) -> bool:
    """Whether tests hold models of this type, with the row and the transformers that are here."""
    kind = anatomy.config.model_type
    if kind not in _SHIPPED or FAMILIES.get(kind) is not _SHIPPED[kind]:
        return False
    known = _results().get(kind)
    return known is not None and known.in_llm and known.transformers == transformers.__version__


@functools.cache
def _results() -> dict[str, Checked]:
    return known_results()


def _key(anatomy: Anatomy) -> str:
    """Names a kind of model: its configuration without what only says where it came from."""
    facts = anatomy.config.to_dict()
    for name in ("_name_or_path", "transformers_version", "torch_dtype", "dtype"):
        facts.pop(name, None)
    text = json.dumps(
        [
            facts,
            str(anatomy.config._attn_implementation),
            _as_text(anatomy.family),
            anatomy.family.first_layer(anatomy.config),
            transformers.__version__,
            __version__,
        ],
        sort_keys=True,
        default=str,
    )
    return f"{anatomy.config.model_type}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"


def _as_text(family: Family) -> list[Any]:
    rules = {m: getattr(rule, "__name__", str(rule)) for m, rule in family.units.items()}
    return [
        family.decoder,
        dict(family.visual_tokens),
        rules,
        family.tiles,
        family.cut,
        str(family.host),
    ]


def cache_file() -> Path:
    """Where results of twins are kept: in the user's cache folder."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "foveate" / "twins.json"


def _read() -> dict[str, str]:
    try:
        found = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, RuntimeError, ValueError):  # no folder, no home, no JSON
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: why for key, why in found.items() if isinstance(why, str)}


def _write() -> None:
    """Only what holds is kept: what breaks is found again, maybe after something was mended."""
    try:
        file = cache_file()
        held = {key: why for key, why in {**_read(), **_known}.items() if not why}
        kept = dict(list(held.items())[-_MOST_KNOWN:])
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file, mark=f".{os.getpid()}") as draft:  # other processes read it
            draft.write(json.dumps(kept, indent=1).encode())
    except (OSError, RuntimeError, FoveateError) as error:
        logger.debug("results of twins are not kept: %s", error)
