"""Load a vision-language model and its processor: safetensors only, no remote code."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForImageTextToText

from foveate.assets import EMBEDDED, EMBEDDED_MODEL, model_folder
from foveate.errors import FoveateError, InputError, UnsupportedModelError
from foveate.files import is_file, is_folder, is_there, why_not_there
from foveate.models.derive import derive
from foveate.models.families import FAMILIES
from foveate.models.processor import load_processor
from foveate.models.vlm import VisionLanguageModel

logger = logging.getLogger(__name__)

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
ENDS = 4 << 20  # bytes at each end of a weight file that identify it
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_vlm(
    name: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    attention: str | None = None,
) -> VisionLanguageModel:
    """Load what `AutoModelForImageTextToText` and `AutoProcessor` load: safetensors only.

    Args:
        name: a local folder, a hub id such as "llava-hf/llava-1.5-7b-hf", or "embedded" for the
            tiny model that ships with foveate. That one reads pages of facts only, such as those of
            `foveate.example_page`.
        device: "cpu", "cuda", "cuda:1", "mps"; "auto" takes CUDA if there is one, else the CPU.
        dtype: "float32", "float16", "bfloat16"; "auto" is float32 on a CPU (half precision is slow
            there and rounds scores) and the checkpoint's own type elsewhere.
        attention: attention kernel as transformers names it; None takes its default (sdpa).

    Raises:
        InputError: the checkpoint is missing, broken, incomplete or not in safetensors.
        UnsupportedModelError: the model has no visual tokens, or its family is not in the table.

    Example:
        vlm = foveate.load_vlm("embedded")
        image, question, answer = foveate.example_page()
        print(vlm.answer(vlm.inputs(question, image)), answer)
    """
    title = EMBEDDED_MODEL if name == EMBEDDED else str(name)
    name = model_folder(name)
    place = pick_device(device)
    config = load_config(name)
    _check_family(name, config)
    check_safetensors(name)
    check_kernel(name, config)
    # The processor is read first: it is small, so a broken one is found before the weights load.
    processor = load_processor(name, config.model_type)
    try:
        model, info = AutoModelForImageTextToText.from_pretrained(
            name,
            dtype=_dtype(dtype, place),
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation=attention,
            output_loading_info=True,
        )
    except Exception as error:  # a damaged checkpoint can fail anywhere inside transformers
        raise _weights_error(name, error) from error
    missing = sorted(info.get("missing_keys") or ())
    if missing:
        raise InputError(
            f"checkpoint {name!r} lacks {len(missing)} weights of {type(model).__name__} (first: "
            f"{missing[0]}), which would stay random; use a complete checkpoint."
        )
    logger.info("loaded %s on %s", title, place)
    return VisionLanguageModel(
        name=title,
        model=model.to(place).eval(),
        processor=processor,
        weights=weights_of_files(name, config),
    )


def pick_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        if place.type == "meta":
            raise RuntimeError("it computes nothing")
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        if reason.startswith("Expected one of"):
            reason = "there is no such device"
        raise InputError(
            f"device {device!r} cannot be used here ({reason}); use cpu or auto."
        ) from error
    return place


def _dtype(dtype: str, place: torch.device) -> torch.dtype | str:
    if dtype == "auto":
        return torch.float32 if place.type == "cpu" else "auto"
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown; use auto, {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def load_config(name: str) -> Any:
    """The configuration of a folder or a hub id; no weights are needed, no remote code is run.

    Raises:
        InputError: it is missing or broken.
    """
    path = Path(name)
    if is_file(path):
        what = "a pickle file; only safetensors is loaded" if _is_pickle(path) else "a file"
        raise InputError(f"model {name!r} is {what}; give the folder of a safetensors checkpoint.")
    if is_folder(path) and not (path / "config.json").exists():
        raise InputError(
            f"folder {name!r} has no config.json; give a folder written by save_pretrained."
        )
    if not is_there(path) and looks_like_path(name):
        raise InputError(f"model folder {name!r} {why_not_there(name)}; check the path.")
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # JSON, type and value errors of any config class
        if is_folder(path):
            raise InputError(
                f"config.json of {name!r} cannot be used ({first_line(error)}); repair it or "
                "download the checkpoint again."
            ) from error
        raise InputError(
            f"model {name!r} is neither a local folder nor found on the Hugging Face hub "
            f"({first_line(error)}); check the name and the connection, or give a local folder."
        ) from error


def _check_family(name: str, config: Any) -> None:
    """Refuse before the weights are read."""
    if config.model_type in FAMILIES:
        return
    if type(config) not in AutoModelForImageTextToText._model_mapping:
        raise UnsupportedModelError(
            f"model {name!r} is of type {config.model_type!r}, which has no visual tokens to "
            "compress; use a vision-language model (`foveate models` lists them)."
        )
    derive(skeleton(config))


def skeleton(config: Any) -> Any:
    """The model of a vision-language configuration with nothing in its weights, on no device.

    Raises:
        InputError: transformers cannot build it.
    """
    try:
        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    except Exception as error:  # a configuration can fail anywhere inside transformers
        raise InputError(
            f"no {config.model_type} can be built from its configuration "
            f"({type(error).__name__}: {first_line(error)})."
        ) from error


def check_kernel(name: str, config: Any) -> None:
    """Refuse a config.json that names an attention kernel of the hub, which would run its code."""
    kernel = str(getattr(config, "_attn_implementation", None) or "")
    if "/" in kernel:
        raise InputError(
            f"config.json of {name!r} asks for the attention kernel {kernel!r}, code that would be "
            "fetched from the hub and run; remove that entry."
        )


def check_safetensors(name: str) -> None:
    """Refuse a local folder that holds its weights in anything but safetensors."""
    folder = Path(name)
    if not is_folder(folder) or any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for path in folder.iterdir() if _is_pickle(path))
    if pickles:
        raise InputError(_only_safetensors(name, f"holds {pickles[0]}"))
    raise InputError(f"folder {name!r} has no *.safetensors file, so no weights; check the folder.")


def _weights_error(name: str, error: Exception) -> FoveateError:
    text = str(error)
    if "safetensors" in text and ("not appear to have" in text or "found in directory" in text):
        return InputError(_only_safetensors(name, "offers no safetensors"))
    if "ignore_mismatched_sizes" in text:
        return InputError(
            f"weights of {name!r} do not have the shapes that its config.json asks for; use files "
            "of one checkpoint."
        )
    return InputError(
        f"weights of {name!r} cannot be loaded ({type(error).__name__}: {first_line(error)}); "
        "download or save the checkpoint again."
    )


def _fingerprint(name: str) -> str:
    """Hash of the ends of all local weight files: cheap for any size, and training changes both."""
    digest = hashlib.sha256()
    files = sorted(Path(name).glob("*.safetensors")) if is_folder(name) else []
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            digest.update(file.read(ENDS))
            file.seek(max(0, size - ENDS))
            digest.update(file.read(ENDS))
    return digest.hexdigest()[:16] if files else ""


def weights_of(model: Any) -> str:
    """What tells a loaded model's checkpoint apart, as VisionLanguageModel.weights; "" if unknown.

    The files it was loaded from are looked at, not its parameters: training in memory goes unseen.
    """
    return weights_of_files(str(getattr(model.config, "_name_or_path", "")), model.config)


def weights_of_files(name: str, config: Any) -> str:
    """The same of what `name`, a folder or a hub id, would be loaded from.

    Args:
        config: that `load_config` read there.
    """
    return _fingerprint(name) or str(getattr(config, "_commit_hash", None) or "")


def _only_safetensors(name: str, got: str) -> str:
    return (
        f"model {name!r} {got}, but only safetensors is loaded (a pickle file can run any code); "
        "convert it with save_pretrained where you trust it."
    )


def _is_pickle(path: Path) -> bool:
    return path.suffix in PICKLE_SUFFIXES


def looks_like_path(name: str) -> bool:
    """A hub id is `name` or `owner/name`; everything else can only be meant as a path."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # "Validation error for field ...:" says nothing without the next line.
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return text.rstrip(".")


def quiet_transformers() -> None:
    """Keep the progress bars and advice of transformers off the terminal; for programs only."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
