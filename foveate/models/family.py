"""What a model family is: where its decoder sits, what is visual in a prompt, what one image is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from foveate.core.frames import Frames
from foveate.models.tower_tokens import TokenRule, patch_tokens

Modality = Literal["image", "video"]
MODALITIES: tuple[Modality, ...] = ("image", "video")

Tiles = Literal["none", "runs", "fenced"]
Cut = Literal["in_llm", "before_llm"]


@dataclass(frozen=True)
class Unit:
    """One image or video.

    Args:
        num_tokens: visual tokens.
        grid: (rows, columns) of an image's token grid, None where it has none.
        frames: of a video; None for a still image.
    """

    num_tokens: int
    grid: tuple[int, int] | None = None
    frames: Frames | None = None


# (config, bound arguments of get_*_features, features per item) -> units in order
UnitRule = Callable[[Any, Mapping[str, Any], Sequence[int]], list[Unit]]
# config -> smallest prune_layer
FirstLayer = Callable[[Any], int]


def first_layer_any(config: Any) -> int:
    """Visual features enter at the embeddings: any layer may be the first short one."""
    return 0


@dataclass(frozen=True, kw_only=True)
class Tower:
    """Where a vision tower keeps its layers, and how its patches become visual tokens.

    Args:
        module: attribute of the base model.
        layers: path from there to the list of layers.
        attention: attribute of a layer.
        to_tokens: what becomes of values of patches where features become visual tokens.
        takes_pixels: it is called with pixel_values [B, 3, H, W], can interpolate its position
            embeddings, and every patch is a token, so that images can be made smaller and tokens
            merged on the way.
        takes_patches: it is called with flattened patches [S, P] and `grid_thw`, all images in one
            sequence, and its layers with `cu_seqlens` and `position_embeddings`.
    """

    module: str
    layers: str
    attention: str = "self_attn"
    to_tokens: TokenRule = patch_tokens
    takes_pixels: bool = False
    takes_patches: bool = False


@dataclass(frozen=True, kw_only=True)
class Host:
    """A model around a language model that reads embeddings, so that its ids show no images.

    The host puts visual features among the embeddings itself and calls its language model, in its
    forward and maybe for `generate` past it. So the hooks lie on the language model's decoder, and
    the host is asked where the visual tokens are.

    Args:
        generates: path from the model to the part whose `generate` decodes; "" if it does itself.
        base: path from the model to the module that reads every prompt.
        mask: argument of `base` that is True at visual tokens, [B, S]; "" where the host's token
            ids tell, by its placeholders.
        features: argument of `base` with the features of images that stand there, [N, tokens, D];
            "" with token ids.
        unit: attribute of the configuration that says how many tokens an image or a video frame
            has; "" where a run of visual tokens is an image.
    """

    generates: str
    base: str
    mask: str = ""
    features: str = ""
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the hooks know of a model's kind.

    Args:
        title: name people know.
        decoder: path from the base model to the module that holds `.layers`; "" if it does itself.
        visual_tokens: modality -> attribute of the config with the placeholder's token id. Two
            modalities may name the same id.
        units: modality -> rule that tells images (videos) apart.
        tiles: how runs of placeholders form an image: "none" (units tell), "runs" (a run is an
            image), "fenced" (tiles of one image are separated by one marker, images by two).
        first_layer: smallest prune_layer the architecture allows.
        tower: of the vision tower, for methods that read or shorten it; None where its tokens are
            no one-to-one image of the visual tokens, or where nobody has written it down.
        cut: "in_llm" if tokens may leave between decoder layers, "before_llm" if only the prompt
            as a whole may be shortened.
        why: with "before_llm", the sentence that says why.
        host: of a model around a language model that reads embeddings; None for others. With one,
            `decoder` is a path from `host.base`.
    """

    title: str
    decoder: str = "language_model"
    visual_tokens: Mapping[Modality, str]
    units: Mapping[Modality, UnitRule]
    tiles: Tiles = "none"
    first_layer: FirstLayer = first_layer_any
    tower: Tower | None = None
    cut: Cut = "in_llm"
    why: str = ""
    host: Host | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is written down of a family because it cannot be read off a model; see `Family`.

    What a row leaves out (None, or a modality that `units` does not name) is derived.
    """

    title: str
    decoder: str | None = None
    visual_tokens: Mapping[Modality, str] | None = None
    units: Mapping[Modality, UnitRule] = field(default_factory=dict)
    tiles: Tiles = "none"
    first_layer: FirstLayer | None = None
    tower: Tower | None = None

    def over(self, derived: Family) -> Family:
        """The family, with what this row says in place of what was derived."""
        return Family(
            title=self.title,
            decoder=derived.decoder if self.decoder is None else self.decoder,
            visual_tokens=self.visual_tokens or derived.visual_tokens,
            units={**derived.units, **self.units},
            tiles=self.tiles,
            first_layer=self.first_layer or derived.first_layer,
            tower=self.tower,
            cut=derived.cut,
            why=derived.why,
            host=derived.host,
        )
