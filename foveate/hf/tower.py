"""The vision tower: what its last layer attends to, and fewer tokens inside it.

A family's Tower row says where its layers are. What is read or shortened here ends, token by token,
at the placeholders of the prompt, so that the language model's side needs no second set of rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foveate.core.layout import ImageSpan
from foveate.errors import UnsupportedModeError, UnsupportedModelError
from foveate.hf.anatomy import Anatomy, Modality, Tower, Unit
from foveate.hf.attention import Probe

_CHUNK = 256  # queries at a time: no N x N map of a whole image is ever held


@dataclass(frozen=True)
class TowerPiece:
    """What is known of one image, in the order of its visual tokens; see VisualTokens."""

    vision_attention: Tensor | None = None
    vision_keys: Tensor | None = None
    owners: Tensor | None = None


def tower_layers(anatomy: Anatomy) -> tuple[nn.Module, nn.ModuleList, Tower]:
    """The vision tower, its layers and its table row.

    Raises:
        UnsupportedModelError: nothing is known of this family's tower.
    """
    row = anatomy.family.tower
    tower = getattr(anatomy.base, row.module, None) if row is not None else None
    found: Any = tower
    for name in row.layers.split(".") if row is not None else ():
        found = getattr(found, name, None)
    if row is None or tower is None or found is None:
        raise UnsupportedModelError(
            f"{anatomy.family.title} ({type(tower).__name__}) has a vision tower whose tokens "
            "cannot be told apart from outside; use a method that acts in the language model "
            "(`foveate methods`), or a model of LLaVA-1.5's, PaliGemma's or Qwen-VL's kind."
        )
    return tower, found, row


def last_used_layer(anatomy: Anatomy, num_layers: int) -> int:
    """The tower layer whose output the projector takes."""
    chosen = getattr(anatomy.config, "vision_feature_layer", None)
    if chosen is None:
        return num_layers - 1
    chosen = chosen[-1] if isinstance(chosen, (list, tuple)) else int(chosen)
    # hidden_states[0] is the embeddings, hidden_states[i] the output of layer i - 1.
    return max(0, num_layers + chosen if chosen < 0 else chosen - 1)


class _TowerProbe(Probe):
    """Reads received attention and keys of one tower layer, image by image."""

    def __init__(self, module: nn.Module, *, with_attention: bool) -> None:
        super().__init__(module)
        self.with_attention = with_attention
        self.found: list[tuple[Tensor | None, Tensor]] = []  # ([S], [S, H * D]) for each sequence

    def read(self, query: Tensor, key: Tensor, mask: Any, **settings: Any) -> None:
        lengths = settings.get("cu_seq_lens_k")
        if lengths is not None:  # flash: all images in one sequence
            sizes = (lengths[1:] - lengths[:-1]).tolist()
            pieces = zip(query[0].split(sizes, 1), key[0].split(sizes, 1), strict=True)
        else:
            pieces = zip(query, key, strict=True)
        for q, k in pieces:  # [H, S, D]
            attention = None
            if self.with_attention:
                attention = received_attention(q, k, settings.get("scaling"), self.has_cls)
            self.found.append((attention, k.transpose(0, 1).flatten(1).float()))

    has_cls = False


def received_attention(query: Tensor, key: Tensor, scaling: float | None, has_cls: bool) -> Tensor:
    """Attention each token gets, mean over heads: of the first token, or the mean over all tokens.

    Args:
        query, key: [H, S, D].
        scaling: factor on the logits, default D ** -0.5.
        has_cls: the first token is a CLS token.

    Returns:
        [S] float32.
    """
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    queries = query[:, :1] if has_cls else query
    total = torch.zeros(key.shape[1], device=key.device)
    for part in queries.float().split(_CHUNK, dim=1):
        logits = part @ key.float().transpose(-1, -2) * scale
        total = total + logits.softmax(dim=-1).mean(dim=0).sum(dim=0)
    return total / queries.shape[1]


class TowerRecorder:
    """Attention and keys of the tower's last used layer, for every image that runs through it.

    Args:
        anatomy: of the model.
        with_attention: also read received attention, not keys alone.

    Raises:
        UnsupportedModelError: nothing is known of this family's tower.
    """

    def __init__(self, anatomy: Anatomy, *, with_attention: bool) -> None:
        self._tower, layers, self._row = tower_layers(anatomy)
        self._config = anatomy.config
        layer: Any = layers[last_used_layer(anatomy, len(layers))]
        self._probe = _TowerProbe(
            getattr(layer, self._row.attention), with_attention=with_attention
        )
        self._grids: Any = None
        self._handle = self._tower.register_forward_pre_hook(self._begin, with_kwargs=True)
        self._pieces: dict[Modality, list[TowerPiece]] = {}

    def remove(self) -> None:
        self._handle.remove()
        self._probe.remove()

    def _begin(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        self._probe.found = []
        self._probe.has_cls = hasattr(getattr(module, "embeddings", None), "class_embedding")
        self._grids = kwargs.get("grid_thw")

    def collect(self, modality: Modality, units: Sequence[Unit]) -> None:
        """Called when the features of a batch of images are complete."""
        found, self._probe.found = self._probe.found, []
        if not found:
            self._pieces.pop(modality, None)
            return
        skip = int(self._probe.has_cls)
        keys = torch.cat([k[skip:] for _, k in found])
        attention = None
        if self._probe.with_attention:
            attention = torch.cat([a[skip:] for a, _ in found if a is not None])
        group = self._row.patches_per_token(self._config)
        order = self._row.order(self._tower, self._grids)
        lengths = [unit.num_tokens for unit in units]
        if keys.shape[0] != group * sum(lengths):
            raise UnsupportedModelError(
                f"the vision tower ran on {keys.shape[0]} patches for {sum(lengths)} visual "
                f"tokens, not {group} each; this model's features are cut or padded afterwards, "
                "use a method that acts in the language model."
            )

        def per_token(values: Tensor) -> list[Tensor]:
            values = values.unflatten(0, (-1, group)).mean(dim=1)
            return list((values if order is None else values[order]).split(lengths))

        attentions = per_token(attention) if attention is not None else [None] * len(lengths)
        self._pieces[modality] = [
            TowerPiece(vision_attention=a, vision_keys=k)
            for a, k in zip(attentions, per_token(keys), strict=True)
        ]

    def of(self, span: ImageSpan) -> TowerPiece:
        """What was read of one image.

        Raises:
            UnsupportedModeError: its features were computed before attaching.
        """
        pieces = self._pieces.get(span.kind)  # type: ignore[call-overload]
        if span.unit is None or pieces is None or span.unit >= len(pieces):
            raise UnsupportedModeError(
                "this method reads the vision tower, which did not run while it was attached "
                "(features were given, or computed before); pass pixel_values, or use a method "
                "that acts in the language model."
            )
        return pieces[span.unit]
