"""Prompts for a twin: any number of images or videos in each row, of pixels where possible."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from foveate.carve.check.pixels import Maker, joined, makers
from foveate.models.anatomy import Anatomy, visual_token_ids
from foveate.models.family import Modality
from foveate.models.twin_rules import (
    END_ID,
    FIRST_SPECIAL_ID,
    IMAGE_ID,
    PAD_ID,
    START_ID,
    VOCAB,
)

GREEDY: dict[str, Any] = {
    "max_new_tokens": 5,
    "do_sample": False,
    "num_beams": 1,
    "return_dict_in_generate": True,
    "output_logits": True,
    # Generated ids stay text: a special one would open an image.
    "suppress_tokens": list(range(FIRST_SPECIAL_ID, VOCAB)),
}
# Where token types do not mean "1 at images": type of the prompt, type of what follows.
_PREFIX_TYPES = {"paligemma": (0, 1)}
_FENCE_ID = 92
# Visual tokens of items that are given as features.
_FEATURES = (9, 6, 4)


class Prompts:
    """Makes prompts of one modality for a twin, and knows how.

    Args:
        anatomy: of the twin.
        modality: what its rows show; a model that knows no images shows videos instead.

    Attributes:
        is_real: whether pixels go through the twin's tower; else features are given.
        why: what was tried in vain, a sentence, where features are given.
    """

    def __init__(self, anatomy: Anatomy, modality: Modality = "image") -> None:
        self.anatomy = anatomy
        known = tuple(anatomy.family.visual_tokens) or (modality,)
        self.modality: Modality = modality if modality in known else known[0]
        self._host = anatomy.family.host
        self.model: Any = anatomy.model
        self.why = ""
        self._maker: Maker | None = None
        self._counts: dict[int, int] = {}
        self._layout = 0
        self._stacked = False
        self._find()

    @property
    def is_real(self) -> bool:
        return self._maker is not None

    def batch(self, items: Sequence[int]) -> dict[str, Any]:
        """A left-padded batch: row i shows items[i] images between text of varying length."""
        rows = self._rows(items)
        longest = max(map(len, rows))
        ids = torch.tensor([[PAD_ID] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        return self._inputs(ids, mask, list(range(sum(items))))

    def alone(self, items: Sequence[int], row: int) -> dict[str, Any]:
        """Row `row` of that batch, without padding."""
        ids = torch.tensor([self._rows(items)[row]])
        first = sum(items[:row])
        shown = list(range(first, first + items[row]))
        return self._inputs(ids, torch.ones_like(ids), shown)

    def longer(self, inputs: dict[str, Any], sequences: Tensor) -> dict[str, Any]:
        """The inputs of a prompt with what was generated appended."""
        grown = sequences.shape[1] - inputs["input_ids"].shape[1]
        ones = torch.ones(sequences.shape[0], grown, dtype=torch.long)
        out = fresh(inputs)
        out["input_ids"] = sequences
        out["attention_mask"] = torch.cat([inputs["attention_mask"], ones], dim=1)
        _, behind = _PREFIX_TYPES.get(self.model.config.model_type, (None, 0))
        for name in ("mm_token_type_ids", "token_type_ids"):
            if name in inputs:
                out[name] = torch.cat([inputs[name], ones * behind], dim=1)
        if self._host is not None and self._host.mask:
            mask = inputs[self._host.mask]
            out[self._host.mask] = torch.cat([mask, torch.zeros_like(ones)], dim=1)
        return out

    def generate(self, inputs: dict[str, Any]) -> Any:
        """Five greedy tokens with their logits."""
        return self.model.generate(**fresh(inputs), **GREEDY)

    # --- how ---

    def _find(self) -> None:
        """Settle on the first way that the plain model takes."""
        failures: list[str] = []
        for maker in makers(self.model, self.modality):
            self._maker = maker
            if self._works(failures):
                return
        self._maker = None
        self.why = failures[0] if failures else "there is no way to make pixels for it."
        for self._stacked in (False, True):
            if self._works(failures):
                return
        raise NoPromptError("; ".join(dict.fromkeys(failures)))

    def _works(self, failures: list[str]) -> bool:
        self._counts.clear()
        for layout in range(len(_LAYOUTS[self.modality])):
            self._layout = layout
            try:
                with torch.no_grad():
                    logits = self.model(**fresh(self.batch((1, 2)))).logits
            except Exception as error:  # a wrong guess can fail anywhere inside transformers
                failures.append(f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")
                continue
            if bool(torch.isfinite(logits[..., :FIRST_SPECIAL_ID]).all()):
                return True
            failures.append("its logits are not finite.")
        return False

    def _rows(self, items: Sequence[int]) -> list[list[int]]:
        token = self._token
        write = _LAYOUTS[self.modality][self._layout]
        rows, item = [], 0
        for number, count in enumerate(items):
            row = [1, *_text(3 + number, number)]
            for _ in range(count):
                shown = write(token, self._count(item), self._frames(item))
                if self.anatomy.family.tiles == "fenced":
                    shown = [_FENCE_ID, *shown[1:-1], _FENCE_ID]
                row += [*shown, *_text(2, 10 + number)]
                item += 1
            rows.append([*row, *_text(max(2, 6 - number), 20 + number)])
        return rows

    @property
    def _token(self) -> int:
        """The placeholder; where a mask tells where images are, any token may stand there."""
        return visual_token_ids(self.anatomy).get(self.modality, IMAGE_ID)

    def _count(self, item: int) -> int:
        """Visual tokens of an item."""
        if self._host is not None:
            made = self._maker(item) if self._maker is not None else {}
            pixels = made.get("pixel_values")
            frames = pixels.shape[1] if pixels is not None and pixels.ndim == 5 else 1
            return int(getattr(self.anatomy.config, self._host.unit)) * frames
        if self._maker is None:
            return _FEATURES[0 if self._stacked else item % len(_FEATURES)]
        if item not in self._counts:
            extract = getattr(self.model.base_model, f"get_{self.modality}_features")
            with torch.no_grad():
                self._counts[item] = _num_tokens(extract(**self._maker(item)))
        return self._counts[item]

    def _frames(self, item: int) -> int:
        if self._maker is None:
            return 1
        grid = self._maker(item).get("video_grid_thw")
        return int(grid[0, 0]) if grid is not None else 1

    def _inputs(self, ids: Tensor, mask: Tensor, shown: list[int]) -> dict[str, Any]:
        out: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if shown and self._maker is not None:
            out.update(joined([self._maker(item) for item in shown]))
        elif shown:
            out["mm_encoder_outputs"] = {self.modality: self._features(shown)}
        if self._host is not None:
            out.update(self._told(ids, shown))
        takes = _parameters(type(self.model.base_model).forward) & (
            _parameters(type(self.model).forward)
            | _parameters(type(self.model).prepare_inputs_for_generation)
        )
        token = self._token
        kind = 2 if self.modality == "video" else 1
        front, _ = _PREFIX_TYPES.get(self.model.config.model_type, (None, 0))
        for name in ("mm_token_type_ids", "token_type_ids"):
            if name in takes:
                types = (ids == token).long() * kind
                out[name] = types if front is None else torch.full_like(ids, front)
        return out

    def _told(self, ids: Tensor, shown: list[int]) -> dict[str, Tensor]:
        """What a host asks for beside pixels, which it wants for prompts without images as well."""
        host, config = self._host, self.anatomy.text_config
        assert host is not None
        if not host.mask:
            return {} if shown or self._maker is None else self._maker(0)
        told = {host.mask: (ids == self._token).long()}
        if not shown:
            told[host.features] = torch.zeros(0, self._count(0), config.hidden_size)
        return told

    def _features(self, shown: list[int]) -> BaseModelOutputWithPooling:
        weight = self.model.get_input_embeddings().weight
        scale = float(weight.detach().float().std())
        items = []
        for item in shown:
            generator = torch.Generator().manual_seed(50 + item)
            shape = (self._count(item), weight.shape[1])
            items.append(torch.randn(*shape, generator=generator) * scale)
        if not self._stacked:
            return BaseModelOutputWithPooling(pooler_output=tuple(items))
        stack = torch.stack(items)
        return BaseModelOutputWithPooling(last_hidden_state=stack, pooler_output=stack)


def _parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


class NoPromptError(Exception):
    """No prompt was found that the plain twin takes; the message says what it said."""


def fresh(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same inputs to be given once more: models write into features that they are given."""
    out = dict(inputs)
    given = out.get("mm_encoder_outputs")
    if given is not None:
        out["mm_encoder_outputs"] = {
            modality: BaseModelOutputWithPooling(**dict(features.items()))
            for modality, features in given.items()
        }
    return out


def _plain(token: int, count: int, frames: int) -> list[int]:
    return [START_ID, *[token] * count, END_ID]


def _frame_by_frame(token: int, count: int, frames: int) -> list[int]:
    """Every frame stands alone, with its time stamp as text before it."""
    frame = [*_text(2, 30), START_ID, *[token] * (count // frames), END_ID]
    return frame * frames


def _spanned(token: int, count: int, frames: int) -> list[int]:
    """Frames as images, in a span that says video."""
    return [97, *_frame_by_frame(token, count, frames), 98]


_LAYOUTS = {"image": (_plain,), "video": (_plain, _frame_by_frame, _spanned)}


def _text(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, FIRST_SPECIAL_ID, (length,), generator=generator).tolist()


def _num_tokens(output: Any) -> int:
    """Visual tokens in what a feature extractor returned."""
    found = getattr(output, "pooler_output", None)
    if found is None and getattr(output, "deepstack_features", None):
        found = output.deepstack_features[0][1]
    if found is None:
        found = getattr(output, "last_hidden_state", output)
    parts = [found] if isinstance(found, Tensor) else list(found)
    return sum(part.numel() // part.shape[-1] for part in parts)
