"""`from_pretrained`, `save_pretrained` and `push_to_hub`, as huggingface_hub has them.

The signatures are those of `huggingface_hub.ModelHubMixin`. The mixin itself does not fit: it asks
for a config.json, warns where a folder has none, and writes one, where a Vist has its vist.json.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from typing_extensions import Self

from foveate.files import write_text
from foveate.models.anatomy import Anatomy
from foveate.vist.checkpoint import Checkpoint, Reference, save_checkpoint
from foveate.vist.config import VistConfig
from foveate.vist.index_file import INDEX, save_index
from foveate.vist.parts import VistParts
from foveate.vist.run.hub import CARD, check_public, fetch, push
from foveate.vist.run.load import base_reference, encoder_reference
from foveate.vist.run.model_card import model_card


class Pretrained:
    """What a Vist has to do with folders and the hub.

    Attributes:
        about: the vist.json it was loaded from, None if it was made here.
    """

    anatomy: Anatomy
    tokenizer: Any
    encoder: Any
    config: VistConfig
    parts: VistParts
    about: Checkpoint | None = None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        base: Any = None,
        tokenizer: Any = None,
        encoder: Any = None,
        device: str | torch.device | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> Self:
        """Load what `save_pretrained` or `push_to_hub` wrote.

        Only vist.json, vist.safetensors, index.safetensors and README.md are fetched; nothing
        pickled is read.

        Args:
            pretrained_model_name_or_path: a folder, or a hub id (owner/name).
            base: the language model, or a folder or hub id of it; None is where the checkpoint says
                it was.
            tokenizer: its tokenizer; None loads it from the base.
            encoder: the encoder; None finds the one the checkpoint names.
            device: of a base that is loaded here, default the CPU.
            revision: branch, tag or commit of the checkpoint on the hub.
            cache_dir, token, local_files_only: for the hub, as in huggingface_hub; they hold for
                the base and the encoder too.
            force_download: fetch the checkpoint again although it is cached.

        Raises:
            InputError: something is missing or broken, or the base or the encoder has other weights
                than the ones trained with.
        """
        access = {"cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
        folder = fetch(
            pretrained_model_name_or_path, revision=revision, force=force_download, access=access
        )
        return cls._load(folder, base, tokenizer, encoder, device, access)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        base: str | None = None,
        training: Mapping[str, Any] | None = None,
        license: str | None = None,
        overwrite_card: bool = False,
        eight_bit: bool = False,
    ) -> Path:
        """Write the trained parts (fp16), references to the base and the encoder, and a model card.

        An index (`parts.index`) is a file of its own, in eight bits.

        Args:
            save_directory: a folder, made if needed.
            base: name of the base to write down; None is where it was loaded from.
            training: notes to keep in vist.json; None keeps those it was loaded with.
            license: of the trained parts, for the card, e.g. "apache-2.0".
            overwrite_card: write the card also where the folder has a README.md.
            eight_bit: large matrices as whole numbers of eight bits with a scale for each row: a
                file of half the size, from which weights come back with about one part in a
                hundred of noise. Computing is in float32 either way.

        Returns:
            the folder.

        Raises:
            InputError: a weight is not finite, or too large for fp16.
        """
        folder = Path(save_directory)
        about = self._describe(base, training)
        return self._write(folder, about, folder.name, license, overwrite_card, eight_bit)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        base: str | None = None,
        training: Mapping[str, Any] | None = None,
        license: str | None = None,
        overwrite_card: bool = False,
        commit_message: str = "Push trained parts with foveate",
        private: bool | None = None,
        token: str | bool | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes, no other files, to the Hugging Face hub.

        Args:
            repo_id: owner/name; made if needed.
            base, training, license: as in `save_pretrained`.
            overwrite_card: replace the card of a repository that has one.
            commit_message, private, token, branch, create_pr: as in huggingface_hub.

        Returns:
            URL of the commit.

        Raises:
            InputError: the base or the encoder is named by a folder of this machine, a weight does
                not fit fp16, or the hub refuses or cannot be reached.
        """
        about = self._describe(base, training)
        check_public(about)
        with tempfile.TemporaryDirectory() as folder:
            return push(
                self._write(Path(folder), about, repo_id, license, overwrite_card),
                repo_id,
                overwrite_card=overwrite_card,
                private=private,
                token=token,
                commit_message=commit_message,
                branch=branch,
                create_pr=create_pr,
            )

    @classmethod
    def _load(
        cls,
        folder: Path,
        base: Any,
        tokenizer: Any,
        encoder: Any,
        device: str | torch.device | None,
        access: Mapping[str, Any],
    ) -> Self:
        """One from a folder; `access` is for what else has to be fetched."""
        raise NotImplementedError

    def _encoder_reference(self) -> Reference:
        return encoder_reference(self.encoder, self.about and self.about.encoder)

    def _describe(self, base: str | None, training: Mapping[str, Any] | None) -> Checkpoint:
        known = self.about
        if training is None:
            training = known.training if known is not None else {}
        return Checkpoint(
            config=self.config,
            shape=self.parts.shape,
            base=base_reference(self.anatomy.model, self.tokenizer, base, known and known.base),
            encoder=self._encoder_reference(),
            training=training,
        )

    def _write(
        self,
        folder: Path,
        about: Checkpoint,
        name: str,
        license: str | None,
        overwrite_card: bool,
        eight_bit: bool = False,
    ) -> Path:
        save_checkpoint(folder, self.parts, about, eight_bit=eight_bit)
        (folder / INDEX).unlink(missing_ok=True)
        if self.parts.index is not None:
            save_index(self.parts.index, folder / INDEX,
                       encoder=about.encoder.sha256, base=about.base.sha256)  # fmt: skip
        if overwrite_card or not (folder / CARD).exists():
            text = model_card(
                about,
                loader=type(self),
                name=name,
                num_weights=sum(p.numel() for p in self.parts.parameters()),
                license=license,
            )
            write_text(folder / CARD, text)
        return folder
