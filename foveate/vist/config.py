"""Configuration of Vist's trained parts: frozen, validated on construction, JSON-ready."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar

from foveate.errors import ConfigError
from foveate.vist.sizes import check_size, most_of

FORMS = ("kv_prefix", "cross_attention")
SOURCES = ("embeddings", "states")
BIASES = ("none", "window")
MOST_SCALE = 1000
_Config = TypeVar("_Config", bound="_Dictable")


class _Dictable:
    """to_dict / from_dict for flat dataclasses."""

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls: type[_Config], values: Mapping[str, Any]) -> _Config:
        """The inverse of `to_dict`. Raises ConfigError on unknown or missing fields."""
        known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ConfigError(
                f"{cls.__name__} got unknown fields {', '.join(unknown)}; it knows "
                f"{', '.join(known)}. Was the file written by a newer version?"
            )
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"{cls.__name__} cannot be made from the file: {error}.") from error


@dataclass(frozen=True, kw_only=True)
class ResamplerConfig(_Dictable):
    """Shape of the Perceiver Resampler.

    Args:
        input_width: width of the encoder's features.
        width: width D of the latents.
        num_latents: learned latents a page (N); another N may be asked for at any time.
        layers, heads, head_dim, ff_mult: depth and sizes. The paper names none but the design;
            heads, head_dim and ff_mult default to Flamingo's, layers to fewer.
        local_bias: "none": every latent looks at the whole page, as in the paper. "window": latent
            n of N looks at the patches around its own place n L / N only.
        window: reach of a latent beyond its own patches to either side, in patches.
    """

    input_width: int
    width: int
    num_latents: int = 64
    layers: int = 2
    heads: int = 8
    head_dim: int = 64
    ff_mult: int = 4
    local_bias: Literal["none", "window"] = "none"
    window: int = 8

    def __post_init__(self) -> None:
        for name in ("input_width", "width", "num_latents", "layers", "heads", "head_dim"):
            check_size("ResamplerConfig", name, getattr(self, name))
        check_size("ResamplerConfig", "ff_mult", self.ff_mult)
        _check_choice("ResamplerConfig", "local_bias", self.local_bias, BIASES)
        if self.local_bias == "window":
            check_size("ResamplerConfig", "window", self.window)


@dataclass(frozen=True, kw_only=True)
class GlanceConfig(_Dictable):
    """Shape of the GlanceResampler, whose latents are pointed at tokens.

    Args:
        input_width: width of the encoder's features.
        width: D of the latents: that of the LLM's input embeddings, of which they are made.
        num_latents: a strip (N); another N may be asked for at any time.
        inner, heads: of the attention that pools a strip's features into its CLS.
        packed: most tokens a latent takes in beside its own.
        pack_width: hidden width of the network that folds them in.
        choice, run, group_tokens: which tokens latents stand for, see
            `foveate.vist.latents.targets.TargetConfig`.
    """

    input_width: int
    width: int
    num_latents: int = 64
    inner: int = 512
    heads: int = 8
    packed: int = 3
    pack_width: int = 768
    choice: Literal["runs", "random", "rare", "all"] = "runs"
    run: int = 4
    group_tokens: int = 0

    def __post_init__(self) -> None:
        for name in ("input_width", "width", "num_latents", "inner", "heads", "pack_width", "run"):
            check_size("GlanceConfig", name, getattr(self, name))
        for name in ("packed", "group_tokens"):
            check_size("GlanceConfig", name, getattr(self, name), least=0)
        _check_choice("GlanceConfig", "choice", self.choice, ("runs", "random", "rare", "all"))
        if self.inner % self.heads:
            raise ConfigError(
                f"GlanceConfig got inner={self.inner} for heads={self.heads}; use a multiple."
            )
        if self.num_latents % self.run:
            raise ConfigError(
                f"GlanceConfig got num_latents={self.num_latents} with run={self.run}; use a "
                "multiple of run."
            )


@dataclass(frozen=True, kw_only=True)
class FusionConfig(_Dictable):
    """How the latents enter the language model.

    Args:
        form: "cross_attention": new modules between self-attention and feed-forward (the paper's).
            "kv_prefix": the latents become keys and values of the LLM's own self-attention.
        layers: cross_attention: decoder layers that get a module, negative counts from the end;
            None is every layer, as in the paper. Not for kv_prefix, which is in all layers.
        source: kv_prefix: "embeddings": latents are projected to input embeddings and run through
            the LLM; "states": one linear map a layer predicts that layer's normed input states.
        lora_rank: source="embeddings": rank of a LoRA on all linear maps of all layers that acts on
            latent rows only; 0 is none.
        lora_scale: factor on the LoRA's output.
        projection: source="embeddings": "linear" maps latents to input embeddings; "none" takes
            them as they are, for latents made in that space (GlanceResampler).
        rotary: cross_attention: rotate queries and keys by their positions, as the self-attention
            they are copied from does. The paper does not say.
    """

    form: Literal["kv_prefix", "cross_attention"] = "kv_prefix"
    layers: tuple[int, ...] | None = None
    source: Literal["embeddings", "states"] = "embeddings"
    lora_rank: int = 0
    lora_scale: float = 1.0
    projection: Literal["linear", "none"] = "linear"
    rotary: bool = True

    def __post_init__(self) -> None:
        _check_choice("FusionConfig", "form", self.form, FORMS)
        _check_choice("FusionConfig", "source", self.source, SOURCES)
        _check_choice("FusionConfig", "projection", self.projection, ("linear", "none"))
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(self.layers))
            for layer in self.layers:
                check_size("FusionConfig", "layers", layer, least=-most_of("layers"))
            if self.form == "kv_prefix":
                raise ConfigError(
                    f"FusionConfig got layers={self.layers} with form='kv_prefix', which acts in "
                    "every layer; leave layers unset or use form='cross_attention'."
                )
            if not self.layers or len(set(self.layers)) != len(self.layers):
                raise ConfigError(
                    f"FusionConfig got layers={self.layers}; name each layer once, and at least "
                    "one (None is every layer)."
                )
        check_size("FusionConfig", "lora_rank", self.lora_rank, least=0)
        scale = self.lora_scale
        is_number = isinstance(scale, (int, float)) and not isinstance(scale, bool)
        if not is_number or not 0 < scale <= MOST_SCALE:
            raise ConfigError(
                f"FusionConfig got lora_scale={repr(scale)[:40]}; use a number above 0 and at most "
                f"{MOST_SCALE:,}."
            )
        if not isinstance(self.rotary, bool):
            raise ConfigError(f"FusionConfig got rotary={self.rotary!r}; use true or false.")
        if self.lora_rank and (self.form, self.source) != ("kv_prefix", "embeddings"):
            raise ConfigError(
                f"FusionConfig got lora_rank={self.lora_rank} with form={self.form!r}, "
                f"source={self.source!r}; only kv_prefix from embeddings runs latents through the "
                "LLM, so only there a LoRA can act; use lora_rank=0."
            )


@dataclass(frozen=True, kw_only=True)
class CarvedConfig(_Dictable):
    """A LoRA for memories of form "carved", see foveate.vist.forms.carved.

    Args:
        layer: the first decoder layer that a share of the tokens enters; all go through those
            before it.
        share: of the tokens, that it was trained for.
        lora_rank, lora_scale: of the LoRA, which is on all linear maps from that layer on; 0 is
            none.
    """

    layer: int
    share: float = 1 / 3
    lora_rank: int = 16
    lora_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("layer", "lora_rank"):
            check_size("CarvedConfig", name, getattr(self, name), least=0)
        for name, most in (("share", 1), ("lora_scale", MOST_SCALE)):
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not 0 < value <= most:
                raise ConfigError(
                    f"CarvedConfig got {name}={repr(value)[:40]}; use a number above 0 and at most "
                    f"{most:,}."
                )


@dataclass(frozen=True, kw_only=True)
class VistConfig(_Dictable):
    """The trained parts of one Vist.

    Args:
        resampler: the Perceiver Resampler of the paper, or our variant that is pointed at tokens.
        fusion: see there.
        carved: what memories of that form need; None where there is nothing trained for them.
        max_pages: most strips a document may fill.
    """

    resampler: ResamplerConfig | GlanceConfig
    fusion: FusionConfig = field(default_factory=FusionConfig)
    carved: CarvedConfig | None = None
    max_pages: int = 4096

    def __post_init__(self) -> None:
        check_size("VistConfig", "max_pages", self.max_pages)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VistConfig:
        """The inverse of `to_dict`."""
        parts = dict(values)
        if "resampler" in parts:
            # Only a GlanceConfig has an inner width.
            kind = GlanceConfig if "inner" in parts["resampler"] else ResamplerConfig
            parts["resampler"] = kind.from_dict(parts["resampler"])
        if "fusion" in parts:
            parts["fusion"] = FusionConfig.from_dict(parts["fusion"])
        if parts.get("carved") is not None:
            parts["carved"] = CarvedConfig.from_dict(parts["carved"])
        return super().from_dict(parts)


def _check_choice(owner: str, name: str, value: Any, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(f"{owner} got {name}={value!r}; use one of {', '.join(choices)}.")
