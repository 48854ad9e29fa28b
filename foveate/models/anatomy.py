"""The parts of one model: found by its row where one is written, and by derivation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from foveate.errors import UnsupportedModelError
from foveate.models.derive import derive
from foveate.models.families import FAMILIES, TEXT_DECODER, TEXT_DECODERS
from foveate.models.family import MODALITIES, Family, Modality, Tower, Unit
from foveate.models.layer_kinds import (
    attention_before,
    attention_of_layer,
    final_norm,
    is_stateful,
    kind_of_layer,
)

__all__ = ["MODALITIES", "Anatomy", "Modality", "Tower", "Unit", "anatomy_of", "visual_token_ids"]


@dataclass(frozen=True)
class Anatomy:
    """The parts of one model that the hooks need.

    Args:
        family: what is known of its kind.
        config: of the model.
        model: the model itself.
        base: the module that reads every prompt, on which a run's passes begin and end.
        decoder: the module that holds `.layers`.
    """

    family: Family
    config: Any
    model: nn.Module
    base: nn.Module
    decoder: nn.Module

    @property
    def generator(self) -> nn.Module:
        """The module whose `generate` decodes: the model, or the language model inside a host."""
        host = self.family.host
        return self.model if host is None else self.model.get_submodule(host.generates)

    @property
    def extractor(self) -> nn.Module:
        """The module that makes features of images."""
        return self.base if self.family.host is None else self.model

    @property
    def layers(self) -> nn.ModuleList:
        return self.decoder.layers

    def kind_of(self, index: int) -> str:
        """What a decoder layer does with other tokens, see `layer_kinds.kind_of_layer`."""
        return kind_of_layer(self.decoder, index)

    def attention_of(self, index: int) -> nn.Module | None:
        """The attention module of a decoder layer; None where it has none."""
        return attention_of_layer(self.decoder, index)

    def attention_before(self, index: int) -> int:
        """The last decoder layer before `index` that attends; UnsupportedModelError if none."""
        return attention_before(self.decoder, index)

    @property
    def final_norm(self) -> nn.Module:
        """The norm behind the last decoder layer; UnsupportedModelError if none is found."""
        return final_norm(self.decoder)

    def is_stateful(self, index: int) -> bool:
        """Whether a decoder layer keeps a state instead of keys and values."""
        return is_stateful(self.decoder, index)

    @property
    def text_config(self) -> Any:
        return self.decoder.config

    @property
    def feature_layer(self) -> Any:
        """Which tower layers the projector takes; None where the configuration is silent."""
        return getattr(self.config, "vision_feature_layer", None)


def anatomy_of(model: nn.Module, *, with_explicit_mask: bool) -> Anatomy:
    """Find the parts of `model`.

    Args:
        model: a transformers model (a PEFT wrapper is looked through).
        with_explicit_mask: the caller marks visual tokens, so plain text decoders are welcome.

    Raises:
        UnsupportedModelError: no visual tokens can be found in it; says why.
    """
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    config = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    if config is None or model_type is None:
        raise UnsupportedModelError(
            f"{type(model).__name__} is not a transformers model (no config.model_type); "
            "pass the model itself, not a wrapper or a pipeline."
        )
    family = _family_of(model, model_type, with_explicit_mask)
    base = getattr(model, "base_model", model)
    if family.host is not None:
        base = model.get_submodule(family.host.base)
    try:
        decoder = base.get_submodule(family.decoder)
    except AttributeError as error:
        raise UnsupportedModelError(
            f"{type(base).__name__} ({model_type}) has no {family.decoder!r}, where the row of "
            f"{family.title} has its decoder; the row is wrong for this version of transformers."
        ) from error
    if not isinstance(getattr(decoder, "layers", None), nn.ModuleList):
        raise UnsupportedModelError(
            f"{family.decoder!r} of {type(base).__name__} ({model_type}) has no list of layers, so "
            "it is no decoder; correct the row."
        )
    return Anatomy(family, config, model, base, decoder)


def _family_of(model: nn.Module, model_type: str, with_explicit_mask: bool) -> Family:
    if model_type in TEXT_DECODERS:
        if not with_explicit_mask:
            raise UnsupportedModelError(
                f"{type(model).__name__} ({model_type}) has no visual tokens of its own; if you "
                "feed visual embeddings through inputs_embeds, mark them with visual_mask=."
            )
        return TEXT_DECODER
    derived = derive(model)
    if model_type not in FAMILIES:
        return derived
    family = FAMILIES[model_type].over(derived)
    _check_row(model, family, derived)
    return family


def _check_row(model: nn.Module, family: Family, derived: Family) -> None:
    """A row fills in what cannot be read off a model; it does not contradict what can.

    Raises:
        UnsupportedModelError: it names another placeholder than the model's own code looks for, or
            no rule for what an image is.
    """
    config: Any = model.config
    for modality, attribute in family.visual_tokens.items():
        own = derived.visual_tokens.get(modality, attribute)
        named, read = getattr(config, attribute, None), getattr(config, own, None)
        if named != read:
            raise UnsupportedModelError(
                f"the row of {family.title} puts {modality}s at config.{attribute} ({named}), and "
                f"{type(model).__name__} looks for config.{own} ({read}); correct the row."
            )
        if modality not in family.units:
            raise UnsupportedModelError(
                f"the row of {family.title} does not say what one {modality} is (units), so that "
                "several would be taken for one; add a rule."
            )


def visual_token_ids(anatomy: Anatomy) -> dict[Modality, int]:
    """Placeholder token id of each modality that this model's config defines."""
    ids: dict[Modality, int] = {}
    for modality, attribute in anatomy.family.visual_tokens.items():
        token_id = getattr(anatomy.config, attribute, None)
        if token_id is not None:
            ids[modality] = token_id
    return ids
