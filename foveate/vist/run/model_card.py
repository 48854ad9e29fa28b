"""A checkpoint's model card: what the hub's search reads, what it is, how it is loaded."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCardData

from foveate.models.load import looks_like_path
from foveate.models.smollm2 import EMBEDDED_LLM, HUB_ID
from foveate.version import __version__
from foveate.vist.checkpoint import Checkpoint, Reference

TAGS = ["vist", "long-context", "context-compression"]


def model_card(
    about: Checkpoint,
    *,
    loader: type,
    name: str,
    num_weights: int,
    license: str | None = None,
) -> str:
    """README.md of a checkpoint.

    Args:
        about: its vist.json.
        loader: class that loads it.
        name: hub id or folder that the example loads.
        num_weights: trained numbers.
        license: of the trained parts, as the hub spells it ("apache-2.0").
    """
    base = hub_id(about.base)
    relation = {"base_model": base, "base_model_relation": "adapter"} if base else {}
    header = ModelCardData(library_name="foveate", license=license, tags=TAGS, **relation).to_yaml()
    given = ["base=model, tokenizer=tokenizer"] if not about.base.name else []
    given += ["encoder=encoder"] if not about.encoder.kind else []
    module = "foveate" if loader.__name__ == "Vist" else loader.__module__
    resampler = about.config.resampler
    return f"""---
{header.strip()}
---

# {loader.__name__} for {_shown(about.base)}

Trained parts ({num_weights:,} numbers in float16) that let a frozen language model read far text as
latents, in front of its raw recent text. The language model and the encoder are not in here:
`vist.json` names them and binds both by hash.

```python
from {module} import {loader.__name__}

vist = {loader.__name__}.from_pretrained({", ".join([f'"{name}"', *given])})
memory = vist.read(document)  # once, for any number of questions
```

| | |
|---|---|
| language model | {_shown(about.base)}, sha256 {about.base.sha256[:12]} |
| encoder | {_shown(about.encoder)}, sha256 {about.encoder.sha256[:12] or "none"} |
| latents | {resampler.num_latents} a strip, width {resampler.width} |
| fusion | {about.config.fusion.form} |
| written by | foveate {__version__} |
"""


def hub_id(base: Reference) -> str | None:
    """The hub id of a language model, where its name is one."""
    if base.name == EMBEDDED_LLM:
        return HUB_ID
    is_id = base.name.count("/") == 1 and not looks_like_path(base.name)
    return base.name if is_id and not Path(base.name).exists() else None


def _shown(model: Reference) -> str:
    """Without the folders it lies in on this machine."""
    return hub_id(model) or Path(model.name).name or "of the user's own"
