"""The plot of loss against cost."""

from __future__ import annotations

from pathlib import Path

from foveate.draw.tune_plot import STYLES, LossPoint, draw_losses


def test_it_draws_every_fate(tmp_path: Path) -> None:
    points = [
        LossPoint(
            name=f"a {fate}",
            cost=0.1 * (n + 1),
            value=0.01 * n,
            low=0.01 * n - 0.02,
            high=0.01 * n + 0.03,
            fate=fate,
        )
        for n, fate in enumerate(STYLES)
    ]
    draw_losses(
        points,
        max_loss=0.02,
        cost_label="FLOPs",
        loss_label="loss",
        title="t",
        path=tmp_path / "a.svg",
    )
    drawn = (tmp_path / "a.svg").read_text()
    assert all(f"<!-- {fate} -->" in drawn for fate in STYLES)
    assert "<!-- a chosen -->" in drawn
    assert "<!-- a set aside -->" not in drawn  # named are those that were to be proven
    draw_losses(
        [points[-1]],
        max_loss=0.02,
        cost_label="c",
        loss_label="l",
        title="",
        path=tmp_path / "b.png",
    )
