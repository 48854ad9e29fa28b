"""attach: the front door of carving."""

from __future__ import annotations

from torch import Tensor, nn

from foveate.carve.check.gate import check_trust
from foveate.carve.engine.run import Run
from foveate.carve.method import Method
from foveate.carve.profile import Profile
from foveate.carve.spec import parse_method
from foveate.core.budget import parse_budget
from foveate.errors import BudgetError, MethodError
from foveate.models.anatomy import anatomy_of
from foveate.models.load import weights_of

__all__ = ["attach"]


def attach(
    model: nn.Module,
    method: Method | Profile | str,
    *,
    keep: str | int | float | None = None,
    visual_mask: Tensor | None = None,
) -> Run:
    """Compress the visual tokens of every prompt that `model` sees, until detached.

    The model is not modified: hooks are added, and removed by `run.detach()` or at the end of a
    `with` block, also after an exception. Any number of threads may call it meanwhile.

    Args:
        model: a transformers vision-language model (`foveate models` lists the types), or a plain
            text decoder together with `visual_mask`. Before the first use of a type that no test
            covers, a tiny twin of it is checked, about a second. Where a decoder cannot lose tokens
            between its layers, the prompt itself is shortened before it, by methods whose steps are
            all at layer 0.
        method: what to keep, e.g. `foveate.TokenCarve(keep_tokens=128)`, or as the command line's
            --method writes it: "tokencarve", "fastv(prune_layer=3)", "divprune:50%+tokencarve",
            "package.module:Class". Or a profile, see `foveate.load_profile`, of this very model.
        keep: budget of a method given as text: "25%" or 0.25 of the visual tokens, "128" or 128 of
            them, "information=95%" of what they hold. A method object has its own.
        visual_mask: [B, S] bool, True at visual tokens, for callers who pass `inputs_embeds` (token
            ids then do not say where images are). It applies to prompts of that length; rows whose
            marked places hold embeddings of the vocabulary are text. Token ids of a plain decoder
            do not say, so there it is for the first prompt, and others of its length are refused
            until `run.visual_mask` is assigned. Each contiguous run counts as one image.

    Returns:
        A Run: a context manager that holds the report and the plans of the last prefill.

    Raises:
        UnsupportedModelError: the model has no visual tokens that could be dropped, its twin does
            not hold, or the method acts where this model's tokens cannot leave.
        MethodError: prune_layer does not fit the model, the text names no method, or a method
            object comes with `keep`.
        BudgetError: an impossible budget, or none.
        InputError: a profile of another model.
        AttachError: the model has a run attached already.

    Example:
        with foveate.attach(model, foveate.TokenCarve(keep_tokens=128)) as run:
            out = model.generate(**inputs, max_new_tokens=64)
        print(run.report)
    """
    if isinstance(method, Profile):
        method.check_model(str(getattr(model.config, "model_type", "")), weights_of(model))
        method = method.method
    method = _with_budget(method, keep)
    check_trust(anatomy_of(model, with_explicit_mask=visual_mask is not None))
    run = Run(model, method, visual_mask=visual_mask)
    run.attach()
    return run


def _with_budget(method: Method | str, keep: str | int | float | None) -> Method:
    if isinstance(method, str):
        if keep is None:
            raise BudgetError(f"{method!r} comes without a budget; give one, e.g. keep='25%'.")
        return parse_method(method, parse_budget(keep))
    if keep is not None and isinstance(method, Method):
        raise MethodError(
            f"got keep={keep!r} beside the method {method}, which has a budget of its own; give "
            "one of them."
        )
    return method
