"""The --model and --cepe options of evaluations: one language model, read in every way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from foveate.assets import EMBEDDED_MODEL
from foveate.cli.console import err
from foveate.errors import InputError

if TYPE_CHECKING:
    from foveate.vist.eval.arms import Subjects

DTYPES = ("auto", "float32", "bfloat16", "float16")
DEFAULT_HEAD = "the tokenizer's beginning of text"


def load_subjects(
    model: str | None,
    *,
    base: str | None = None,
    cepe: str | None = None,
    head: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> Subjects:
    """Subjects of raw text and of memories around one language model."""
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; use one of {', '.join(DTYPES)}.")
    with err.status("Loading the libraries"):
        from foveate.models.load import quiet_transformers
        from foveate.vist.eval.arms import Subjects
        from foveate.vist.eval.fixation_subject import looking_readers
        from foveate.vist.eval.form_subject import form_readers
        from foveate.vist.eval.subjects import RawSubject, VistSubject

        quiet_transformers()
    with err.status(f"Loading {model or 'the embedded model'}"):
        vist = load_vist(model, base, device)
        text_encoder = None
        if cepe is not None:
            from foveate.vist.cepe.cepe import Cepe

            text_encoder = Cepe.from_pretrained(cepe, base=vist.model, tokenizer=vist.tokenizer)
        if dtype != "auto":  # last: checkpoints name their base by a hash of its weights
            import torch

            vist.model.to(getattr(torch, dtype))
    return Subjects(
        raw=RawSubject(vist.model, vist.tokenizer, head),
        vist=(skimmer := VistSubject(vist, head)),
        cepe=VistSubject(text_encoder, head) if text_encoder is not None else None,
        **looking_readers(skimmer),
        forms=form_readers(skimmer),
    )


def with_latents(subjects: Subjects, num_latents: int) -> Subjects:
    """The same models with another number of latents per strip; raw text is read as before."""
    from foveate.vist.eval.fixation_subject import looking_readers
    from foveate.vist.eval.form_subject import form_readers

    skimmer = _other_latents(subjects.vist, num_latents)
    return replace(
        subjects,
        vist=skimmer,
        cepe=_other_latents(subjects.cepe, num_latents) if subjects.cepe is not None else None,
        **looking_readers(skimmer),
        forms=form_readers(skimmer),
    )


def _other_latents(subject: Any, num_latents: int) -> Any:
    from foveate.vist.eval.subjects import VistSubject

    made = VistSubject(subject.vist, num_latents=num_latents)
    made.head_ids = subject.head_ids
    return made


def load_vist(model: str | None, base: str | None, device: str) -> Any:
    """A Vist from its folder or hub id; None is the embedded one."""
    from foveate.models.load import pick_device
    from foveate.vist.run.vist import Vist

    folder = model or embedded_vist()
    return Vist.from_pretrained(folder, base=base, device=pick_device(device))


def embedded_vist() -> str:
    """Folder of the embedded Vist."""
    from foveate import assets as embedded

    path = getattr(embedded, "vist_path", lambda: None)()
    if path is None or not (path / "vist.json").exists():
        raise InputError(
            "this installation has no embedded Vist; name one with --model (a folder or a hub id)."
        )
    return str(path)


def model_facts(subjects: Subjects, model: str | None, cepe: str | None) -> dict[str, Any]:
    """What a manifest says about the models."""
    from foveate.measure.manifest import public_name
    from foveate.vist.eval.fixation_subject import looking_facts
    from foveate.vist.eval.form_subject import form_facts
    from foveate.vist.parts import weights_hash

    vist: Any = subjects.vist
    config = vist.vist.config
    return {
        "model": public_name(model) if model else EMBEDDED_MODEL,
        "parts_sha256": weights_hash(vist.vist.parts),
        "cepe": public_name(cepe) if cepe else None,
        "dtype": str(next(vist.vist.model.parameters()).dtype).removeprefix("torch."),
        "head_tokens": len(vist.head_ids),
        "form": config.fusion.form,
        "source": config.fusion.source,
        "fixation": looking_facts() if subjects.looking is not None else None,
        "forms": form_facts(vist.vist) if subjects.forms else None,
        "latents_per_strip": vist.num_latents or config.resampler.num_latents,
    }
