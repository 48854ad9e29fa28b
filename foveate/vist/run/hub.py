"""The Hugging Face hub: what is fetched of a Vist and what is pushed, by name, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download

from foveate.errors import InputError
from foveate.files import is_folder, is_there
from foveate.models.load import first_line, looks_like_path
from foveate.models.smollm2 import EMBEDDED_LLM
from foveate.vist.checkpoint import ABOUT, WEIGHTS, Checkpoint
from foveate.vist.index_file import INDEX

CARD = "README.md"
FILES = (ABOUT, WEIGHTS, INDEX, CARD)  # the index where there is one


def fetch(
    name: str | Path, *, revision: str | None, force: bool, access: Mapping[str, Any]
) -> Path:
    """The folder of a checkpoint: itself, or the hub's copy of it in the cache.

    Args:
        name: a folder or a hub id, owner/name.
        revision: branch, tag or commit on the hub.
        force: download again what is cached.
        access: cache_dir, token, local_files_only, as `snapshot_download` takes them.

    Raises:
        InputError: there is no such folder or hub id, or no connection.
    """
    if not isinstance(name, (str, Path)) or not str(name):
        raise InputError(f"got {name!r} as a Vist; give a folder, or a hub id (owner/name).")
    path, name = Path(name), str(name)
    if is_folder(path):
        return path
    if is_there(path) or looks_like_path(name) or "/" not in name:
        raise InputError(
            f"there is no folder {name!r}; give one written by save_pretrained, or a hub id "
            "(owner/name)."
        )
    try:
        folder = snapshot_download(
            name, revision=revision, force_download=force, allow_patterns=list(FILES), **access
        )
    except Exception as error:  # no such id, no access, no connection: each in ways of its own
        raise InputError(
            f"{name!r} is neither a folder nor found on the Hugging Face hub "
            f"({type(error).__name__}: {first_line(error)}); check the name, the revision and the "
            "connection (a private one needs token=), or give a folder."
        ) from error
    if not (Path(folder) / ABOUT).exists():
        raise InputError(
            f"{name!r} on the Hugging Face hub has no {ABOUT}, so it is no Vist; give the id of "
            "one that push_to_hub wrote."
        )
    return Path(folder)


def check_public(about: Checkpoint) -> None:
    """Raise InputError if others could not load this: it names a folder of this machine."""
    named = {"language model": about.base.name, "encoder": about.encoder.name}
    if about.base.name == EMBEDDED_LLM:
        del named["language model"]
    if about.encoder.kind != "vision_tower":
        del named["encoder"]
    for what, name in named.items():
        if name and (looks_like_path(name) or is_there(name)):
            raise InputError(
                f"the {what} was loaded from {name!r}, a folder that only this machine has; name "
                "the language model with base=OWNER/NAME, and load a vision tower by its hub id."
            )


def push(
    folder: Path,
    repo_id: str,
    *,
    overwrite_card: bool,
    private: bool | None,
    token: str | bool | None,
    commit_message: str,
    branch: str | None,
    create_pr: bool | None,
) -> str:
    """Upload a checkpoint's files in one commit; returns its URL.

    Raises:
        InputError: the hub refuses, or cannot be reached.
    """
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        files = list(FILES)
        if not overwrite_card and api.file_exists(repo_id, CARD, revision=branch):
            files.remove(CARD)
        done = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            allow_patterns=files,
            # An index of what was there before would be loaded with this.
            delete_patterns=None if (folder / INDEX).exists() else [INDEX],
            commit_message=commit_message,
            revision=branch,
            create_pr=create_pr,
        )
    except Exception as error:  # a bad id, no token, no connection: each in ways of its own
        raise InputError(
            f"{repo_id!r} cannot be pushed to ({type(error).__name__}: {first_line(error)}); check "
            "the id (owner/name), the token (hf auth login, or token=) and the connection."
        ) from error
    return str(done)
