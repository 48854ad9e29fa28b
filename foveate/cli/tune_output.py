"""What tuning prints and writes: the sentence, a table, JSON, the plot, the profile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from foveate.cli.console import results_in, titled_table

if TYPE_CHECKING:
    from foveate.carve.profile import Profile
    from foveate.carve.tune.tune import Tuned
    from foveate.models.vlm import VisionLanguageModel

DONE, PLOT, PROFILE = "tune.json", "tune.png", "profile.toml"


def tune_table(tuned: Tuned) -> Table:
    """Every setting by cost, with what became of it."""
    facts = tuned.manifest
    table = titled_table(
        "{data}: {num_questions} questions on {num_images} images".format(**facts),
        caption=f"loss: points; [..]: {100 * tuned.settings.confidence:.3g} % bounds that hold at "
        "all times, of each setting by itself\n"
        f"{tuned.explored} {tuned.unit} dropped settings, the others proved; "
        f"{tuned.calls:,} model calls, "
        f"{100 * tuned.calls / tuned.grid_calls:.0f} % of asking every setting everything",
        caption_justify="left",
    )
    table.add_column("setting", overflow="fold")
    for name in ("loss", tuned.unit, "FLOPs", "KV"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in tuned.rows:
        loss = row.loss
        table.add_row(
            row.key,
            rf"{100 * loss.value:+.1f} \[{100 * loss.low:+.1f}, {100 * loss.high:+.1f}]",
            str(row.asked),
            f"{row.costs['flops']:.2f}",
            f"{row.costs['kv']:.2f}" if "kv" in row.costs else "",
            row.fate,
            style="bold" if row.fate == "chosen" else None,
        )
    return table


def profile_of(tuned: Tuned, vlm: VisionLanguageModel) -> Profile | None:
    """The chosen setting as a profile; None where nothing is safe."""
    from foveate.carve.profile import ModelId, Profile

    row = tuned.chosen
    if row is None:
        return None
    facts, settings = tuned.manifest, tuned.settings
    return Profile(
        method=row.method,
        model=ModelId(
            name=facts["model"], type=str(vlm.model.config.model_type), weights=vlm.weights
        ),
        evidence={
            "claim": tuned.sentence,
            "max_loss": settings.max_loss,
            "confidence": settings.confidence,
            "by": settings.by,
            "about": settings.claim,
            "data": facts["data"],
            tuned.unit: tuned.num_units,
            "asked": row.asked,
            "loss": row.loss.value,
            "loss_low": row.loss.low,
            "loss_high": row.loss.high,
            **{f"cost_{name}": value for name, value in row.costs.items()},
            **({} if tuned.full_accuracy is None else {"full_accuracy": tuned.full_accuracy}),
            "calls": tuned.calls,
            "max_new_tokens": settings.max_new_tokens,
            "seed": settings.seed,
            "dtype": facts["dtype"],
        },
        versions={name: str(facts[name]) for name in ("foveate", "torch", "transformers")},
    )


def write_tuned(tuned: Tuned, vlm: VisionLanguageModel, folder: Path) -> list[Path]:
    """tune.png, profile.toml where a setting is safe (else an old one goes), last tune.json."""
    from foveate.carve.tune.tune import COSTS
    from foveate.draw.tune_plot import LossPoint, draw_losses

    settings = tuned.settings
    profile = profile_of(tuned, vlm)
    with results_in(folder):
        draw_losses(
            [
                LossPoint(
                    name=row.key,
                    cost=row.costs[settings.cost],
                    fate=row.fate,
                    **row.loss.to_dict(),
                )
                for row in tuned.rows
                if settings.cost in row.costs
            ],
            max_loss=settings.max_loss,
            cost_label=f"{COSTS[settings.cost]}, % of the full model's",
            loss_label=f"loss of {settings.by}, points",
            title=f"{tuned.manifest['model']} on {tuned.manifest['data']}",
            path=folder / PLOT,
        )
        if profile is None:
            (folder / PROFILE).unlink(missing_ok=True)
        else:
            profile.save(folder / PROFILE)
        (folder / DONE).write_text(json.dumps(tuned.to_dict(), indent=2) + "\n")
    names = (PLOT, DONE) if profile is None else (PLOT, DONE, PROFILE)
    return [folder / name for name in names]
