"""Which placeholder belongs to which image: image spans from token ids and recorded features."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foveate.carve.engine.feature_lengths import feature_lengths, is_flat
from foveate.core.frames import Frames
from foveate.core.layout import ImageSpan, runs, split_by_lengths
from foveate.models.anatomy import MODALITIES, Anatomy, Modality, Unit, visual_token_ids
from foveate.models.hook import WrappedMethod

# (modality, arguments of get_*_features, visual tokens of all items)
Listener = Callable[[Modality, Mapping[str, Any], int], None]


class _Features(threading.local):
    """What a thread's extractors returned.

    Attributes:
        units: of the last features of each modality.
        fresh: modalities whose features were made for the call that comes or runs.
        is_inside: an extractor is running.
    """

    def __init__(self) -> None:
        self.units: dict[Modality, list[Unit]] = {}
        self.fresh: set[Modality] = set()
        self.is_inside = False


class FeatureRecorder:
    """Remembers what the model's own feature extractors last returned: how many tokens per image.

    Wraps `get_image_features` and `get_video_features`, because `generate` calls them before the
    forward pass and drops the pixel inputs afterwards. Each thread has its own last call.

    Args:
        anatomy: of the model.
        listeners: told of the images whenever features are complete.
    """

    def __init__(self, anatomy: Anatomy, listeners: Sequence[Listener] = ()) -> None:
        self._anatomy = anatomy
        self._listeners = tuple(listeners)
        self._here = _Features()
        self._wrapped: list[WrappedMethod] = []
        for modality in MODALITIES:
            name = f"get_{modality}_features"
            if modality in anatomy.family.units and hasattr(anatomy.extractor, name):
                make = functools.partial(self._recording, modality)
                self._wrapped.append(WrappedMethod(anatomy.extractor, name, make))

    def remove(self) -> None:
        while self._wrapped:
            self._wrapped.pop().remove()

    @property
    def fresh(self) -> set[Modality]:
        """Modalities whose features were made since this thread last said `expect`."""
        return self._here.fresh

    def expect(self) -> None:
        """A call begins or is over: features made from now on are the next one's."""
        self._here.fresh.clear()

    def _recording(self, modality: Modality, original: Callable[..., Any]) -> Callable[..., Any]:
        by_place = tuple(inspect.signature(original).parameters)
        rule = self._anatomy.family.units[modality]

        def record(*args: Any, **kwargs: Any) -> Any:
            here = self._here
            if here.is_inside:  # Qwen3-VL's videos are made as images
                return original(*args, **kwargs)
            here.is_inside = True
            try:
                output = original(*args, **kwargs)
            finally:
                here.is_inside = False
            inputs = {**dict(zip(by_place, args, strict=False)), **kwargs}
            lengths = feature_lengths(output)
            units = rule(self._anatomy.config, inputs, lengths)
            here.units[modality] = [] if _is_unknown(units, output, inputs) else units
            here.fresh.add(modality)
            for listener in self._listeners:
                listener(modality, inputs, sum(lengths))
            return output

        return record

    def units(self, modality: Modality, num_tokens: int) -> tuple[list[Unit], int] | None:
        """Units of the last features, and how often each sample was expanded (beams).

        None if nothing recorded explains `num_tokens` placeholders in the batch.
        """
        units = self._here.units.get(modality)
        total = sum(unit.num_tokens for unit in units) if units else 0
        if not units or total == 0 or num_tokens % total:
            return None
        return units, num_tokens // total


def _is_unknown(units: Sequence[Unit], output: Any, inputs: Mapping[str, Any]) -> bool:
    """Whether units say no more than how many tokens all images have together."""
    has_grids = any(name.endswith("_grid_thw") and inputs[name] is not None for name in inputs)
    return len(units) == 1 and is_flat(output) and not has_grids


def image_spans(
    anatomy: Anatomy,
    recorder: FeatureRecorder,
    input_ids: Tensor | None,
    visual_mask: Tensor,
    encoder_outputs: Mapping[str, Any],
) -> list[ImageSpan]:
    """All images of the batch, sample by sample, in order of appearance.

    Args:
        input_ids: [B, S] on the host, None when the caller gave `visual_mask` explicitly.
        visual_mask: [B, S] bool on the host, True at visual tokens.
        encoder_outputs: modality -> pre-computed features given to this forward pass, if any.
    """
    if anatomy.family.host is not None:
        return _spans_of_host(anatomy, visual_mask)
    spans: list[ImageSpan] = []
    if input_ids is None or anatomy.family.tiles != "none":
        starts = _starts_of_rows(recorder, visual_mask)
        for sample, mask in enumerate(visual_mask):
            groups = runs(mask)
            if anatomy.family.tiles == "fenced" and input_ids is not None:
                groups = _join_fenced(groups, input_ids[sample])
            start = starts[sample]
            for i, tokens in enumerate(groups):
                spans.append(ImageSpan(sample=sample, image=i, tokens=tokens, start=start))
                start = start + tokens.numel() if start is not None else None
        return spans

    for token_id, modalities in _by_placeholder(anatomy).items():
        mask = visual_mask & (input_ids == token_id)
        num_tokens = int(np.count_nonzero(mask.numpy()))
        if num_tokens == 0:
            continue
        modality, found = _explained(recorder, modalities, num_tokens, encoder_outputs)
        spans += _spans_of_units(mask, found, modality)
    spans.sort(key=lambda span: (span.sample, span.first))
    numbers: dict[int, int] = {}
    numbered = []
    for span in spans:
        number = numbers.get(span.sample, 0)
        numbers[span.sample] = number + 1
        numbered.append(replace(span, image=number))
    return numbered


def _spans_of_host(anatomy: Anatomy, visual_mask: Tensor) -> list[ImageSpan]:
    """Runs of visual tokens, cut into images that all have as many tokens as the model gives one.

    What its extractors return says no more: `generate` of some hosts does not call them. A run of a
    model that shows videos is one video, and what it gives one is a frame.
    """
    host = anatomy.family.host
    assert host is not None
    size = getattr(anatomy.config, host.unit) if host.unit else 0
    kind: Modality = next(iter(anatomy.family.visual_tokens), "image")
    spans: list[ImageSpan] = []
    for sample, mask in enumerate(visual_mask):
        pieces: list[Tensor] = []
        for run in runs(mask):
            is_cut = kind == "image" and size and run.numel() % size == 0
            pieces += run.split(size) if is_cut else [run]
        for image, tokens in enumerate(pieces):
            count, more = divmod(tokens.numel(), size) if size else (0, 1)
            frames = None if kind == "image" else Frames()
            if frames is not None and not more:
                frames = Frames.equal(count, tokens.numel())
            spans.append(
                ImageSpan(sample=sample, image=image, tokens=tokens, kind=kind, frames=frames)
            )
    return spans


def _by_placeholder(anatomy: Anatomy) -> dict[int, list[Modality]]:
    """Placeholder id -> the modalities it may stand for: GLM shows videos as images."""
    by_id: dict[int, list[Modality]] = {}
    for modality, token_id in visual_token_ids(anatomy).items():
        by_id.setdefault(token_id, []).append(modality)
    return by_id


def _explained(
    recorder: FeatureRecorder,
    modalities: Sequence[Modality],
    num_tokens: int,
    encoder_outputs: Mapping[str, Any],
) -> tuple[Modality, tuple[list[Unit], int] | None]:
    """The modality whose features explain the placeholders of one id, and its units.

    No units where none does, or more than one of this call: they cannot be told apart.
    """
    shown = [m for m in modalities if m in recorder.fresh or encoder_outputs.get(m) is not None]
    fitting: list[tuple[Modality, tuple[list[Unit], int]]] = []
    for modality in shown or modalities:
        found = recorder.units(modality, num_tokens)
        features = encoder_outputs.get(modality)
        if found is None and features is not None and not is_flat(features):
            # Features computed before attaching: lengths are known, grids and frames are not.
            lengths = feature_lengths(features)
            units = [Unit(n, frames=_unknown_frames(modality)) for n in lengths]
            found = (units, 1) if sum(lengths) == num_tokens else None
        if found is not None:
            fitting.append((modality, found))
    return fitting[0] if len(fitting) == 1 else ((shown or modalities)[0], None)


def _unknown_frames(modality: Modality) -> Frames | None:
    """Of a video whose frames nobody told."""
    return Frames() if modality == "video" else None


def _starts_of_rows(recorder: FeatureRecorder, visual_mask: Tensor) -> list[int | None]:
    """Where each row's visual tokens begin among the features of all images, in reading order."""
    counts = visual_mask.sum(dim=1).tolist()
    found = recorder.units("image", sum(counts))
    if found is None:
        return [None] * len(counts)
    expansion = found[1]
    starts, start = [], 0
    for row, count in enumerate(counts):
        starts.append(start)
        if row % expansion == expansion - 1:  # rows of one sample are repeated for beams
            start += count
    return starts


def _spans_of_units(
    mask: Tensor, found: tuple[list[Unit], int] | None, modality: Modality
) -> list[ImageSpan]:
    """Cut the placeholders of each sample into its units, consumed in batch order."""
    spans: list[ImageSpan] = []
    units, expansion = found if found is not None else ([], 1)
    start = 0  # of the next sample's images among the units
    for sample, row in enumerate(mask):
        count = int(np.count_nonzero(row.numpy()))
        if count == 0:
            continue
        place: int | None = sum(unit.num_tokens for unit in units[:start])
        taken: list[Unit] = []
        while sum(unit.num_tokens for unit in taken) < count and start + len(taken) < len(units):
            taken.append(units[start + len(taken)])
        if sum(unit.num_tokens for unit in taken) != count:
            # Nothing recorded explains this row: every contiguous run counts as one image.
            pieces = runs(row)
            taken = [Unit(piece.numel(), frames=_unknown_frames(modality)) for piece in pieces]
            place = None
        else:
            pieces = split_by_lengths(row, [unit.num_tokens for unit in taken])
            if sample % expansion == expansion - 1:  # rows of one sample are repeated for beams
                start += len(taken)
        for tokens, unit in zip(pieces, taken, strict=True):
            spans.append(
                ImageSpan(
                    sample=sample,
                    image=0,
                    tokens=tokens,
                    grid=unit.grid,
                    kind=modality,
                    start=place,
                    frames=unit.frames,
                )
            )
            place = place + unit.num_tokens if place is not None else None
    return spans


def _join_fenced(groups: list[Tensor], ids: Tensor) -> list[Tensor]:
    """Join tiles into images: the marker after a tile stands once between tiles, twice between
    images.

    SmolVLM and Idefics3 write `<fake>tag tile <fake>tag tile ... <fake>`; two images in a row have
    a closing and an opening marker between them. The marker's id is read off the sequence itself.
    """
    if not groups:
        return []
    joined = [groups[0]]
    for group in groups[1:]:
        last = int(joined[-1][-1])
        between = ids[last + 1 : int(group[0])]
        is_same_image = int((between == ids[last + 1]).sum()) == 1
        if is_same_image:
            joined[-1] = torch.cat([joined[-1], group])
        else:
            joined.append(group)
    return joined
