"""The plot of a comparison: a panel for each cost that is known, methods told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.figure
import pytest
from PIL import Image

from foveate.draw.accuracy_plot import Point, _style, draw_accuracy

NAMES = [f"method-{i}" for i in range(12)] + ["random", "uniform"]


def point(name: str, share: float, value: float, **costs: Any) -> Point:
    low, high = max(0, value - 0.02), min(1, value + 0.02)
    return Point(method=name, kept_share=share, value=value, low=low, high=high, **costs)


def points(**costs: Any) -> list[Point]:
    return [
        point(name, share, 0.9 - 0.03 * i - 0.3 * (0.5 - share),
              **{key: value + share / 2 + i / 100 for key, value in costs.items()})
        for i, name in enumerate(NAMES)
        for share in (0.5, 0.25, 0.125)
    ]  # fmt: skip


@pytest.fixture
def panels(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figure's parts as they are saved."""
    seen: list[Any] = []
    save = matplotlib.figure.Figure.savefig

    def look(figure: Any, path: Any, **more: Any) -> None:
        seen.append(figure)
        save(figure, path, **more)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", look)
    return seen


def draw(drawn: list[Point], path: Path) -> None:
    draw_accuracy(
        drawn, full=point("full", 1, 0.95), blind=point("blind", 0, 0.1), title="t", path=path
    )


@pytest.mark.parametrize(
    ("costs", "labels"),
    [
        ({"flops": 0.3, "prefill": 0.4}, ["kept", "FLOPs", "time"]),
        ({"flops": 0.3}, ["kept", "FLOPs"]),
        ({}, ["kept"]),
    ],
)
def test_a_panel_for_each_known_cost(
    costs: dict[str, float], labels: list[str], panels: list[Any], tmp_path: Path
) -> None:
    draw(points(**costs), tmp_path / "plot.png")
    (figure,) = panels
    assert len(figure.axes) == len(labels)
    for axes, word in zip(figure.axes, labels, strict=True):
        assert word in axes.get_xlabel()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["all tokens", "no image", *NAMES]
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.width > 500 * len(labels)


def test_fourteen_methods_look_different() -> None:
    looks = {tuple(map(str, _style(name, NAMES).values())) for name in NAMES}
    assert len(looks) == len(NAMES)
    many = [f"method-{i}" for i in range(80)]
    assert len({tuple(map(str, _style(name, many).values())) for name in many}) == 80


def test_methods_of_a_single_budget(panels: list[Any], tmp_path: Path) -> None:
    draw([point("a", 0.25, 0.5, flops=0.4)], tmp_path / "plot.png")
    assert len(panels[0].axes) == 2


def test_points_of_a_measured_cost_stand_where_it_is(panels: list[Any], tmp_path: Path) -> None:
    draw(points(flops=0.3), tmp_path / "plot.png")
    shared, flops = panels[0].axes
    for axes, wanted in ((shared, None), (flops, [36.25 + 1, 42.5 + 1, 55 + 1])):
        (line,) = [c.lines[0] for c in axes.containers if c.get_label() == "method-1"]
        if wanted is None:
            assert line.get_xdata() == pytest.approx([12.5, 25, 50], rel=0.05)
        else:
            assert line.get_xdata() == pytest.approx(wanted)
    assert [round(x, 2) for x in shared.get_xticks()] == [12.5, 25, 50]
    assert list(flops.get_xticks()) == [30, 40, 60, 80]
