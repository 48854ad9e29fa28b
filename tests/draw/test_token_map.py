"""The SVG of a plan: every token where it belongs, named, with nothing loaded from elsewhere."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from foveate.core.plan import KeepPlan
from foveate.draw.agreement_plot import BudgetPoint, agreement_plot
from foveate.draw.token_map import fates_of, token_map

SPACE = "{http://www.w3.org/2000/svg}"
PLAN = KeepPlan(
    num_tokens=8,
    keep_idx=torch.tensor([[0, 5, 6]]),
    merge_src=torch.tensor([[2, 7]]),
    merge_dst=torch.tensor([[5, 0]]),
)
PICTURE = Image.new("RGB", (160, 80), "red")


def test_fates() -> None:
    assert fates_of(PLAN, 8) == [
        ("kept", None), ("dropped", None), ("merged", 5), ("dropped", None), ("dropped", None),
        ("kept", None), ("kept", None), ("merged", 0),
    ]  # fmt: skip
    assert fates_of(None, 2) == [("kept", None)] * 2


def test_tokens_lie_on_the_image() -> None:
    drawn = token_map(PICTURE, PLAN, num_tokens=8, grid=(2, 4))
    svg = ElementTree.fromstring(drawn)
    assert svg.get("viewBox") == "0 0 640.0 320.0"
    assert svg.get("aria-label") == ("8 visual tokens: 3 kept, 2 merged into kept ones, 3 dropped")
    rects = list(svg.iter(f"{SPACE}rect"))
    places = [(float(r.get("x", 0)) // 160, float(r.get("y", 0)) // 160) for r in rects]
    assert places == [(column, row) for row in range(2) for column in range(4)]
    links = [(g.get("data-from"), g.get("data-to")) for g in svg.iter(f"{SPACE}g")]
    assert links == [("2", "5"), ("7", "0")]
    assert re.findall(r'href="(?!data:)', drawn) == []


def test_titles_are_escaped() -> None:
    drawn = token_map(PICTURE, PLAN, num_tokens=8, grid=(2, 4), titles=["<&>"] * 8)
    assert drawn.count("<title>&lt;&amp;&gt;</title>") == 8


def test_without_a_grid_tokens_stand_beside_the_image() -> None:
    svg = ElementTree.fromstring(token_map(PICTURE, PLAN, num_tokens=8, grid=None))
    assert all(float(r.get("x", 0)) > 640 for r in svg.iter(f"{SPACE}rect"))


def test_what_the_model_does_not_see_is_veiled() -> None:
    drawn = token_map(PICTURE, PLAN, num_tokens=8, grid=(2, 4), seen=(40, 0, 120, 80))
    assert "the model sees the centre crop only" in drawn
    svg = ElementTree.fromstring(drawn)
    assert min(float(r.get("x", 0)) for r in svg.iter(f"{SPACE}rect")) >= 160
    whole = token_map(PICTURE, PLAN, num_tokens=8, grid=(2, 4), seen=(0, 0, 160, 80))
    assert "centre crop" not in whole


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="grid 3 x 3 does not hold 8 tokens"):
        token_map(PICTURE, PLAN, num_tokens=8, grid=(3, 3))
    with pytest.raises(ValueError, match="expected one image with 9"):
        token_map(PICTURE, PLAN, num_tokens=9, grid=(3, 3))
    with pytest.raises(ValueError, match="1 titles for 8 tokens"):
        token_map(PICTURE, PLAN, num_tokens=8, grid=(2, 4), titles=["one"])


def test_the_agreement_plot_tells_its_points() -> None:
    points = [
        BudgetPoint(keep_ratio=0.5, probability=0.9, is_same=True),
        BudgetPoint(keep_ratio=0.1, probability=0.2, is_same=False),
    ]
    drawn = agreement_plot(points, chosen=0.25)
    svg = ElementTree.fromstring(drawn)
    assert "at 2 budgets from 10 % to 50 %" in str(svg.get("aria-label"))
    dots = list(svg.iter(f"{SPACE}circle"))
    assert [dot.get("fill") for dot in dots] == ["#fff", "#0072b2"]
    assert float(dots[0].get("cx", 0)) < float(dots[1].get("cx", 0))
    assert float(dots[0].get("cy", 0)) > float(dots[1].get("cy", 0))
    assert "50 %: same answer, probability 90 %" in drawn
    assert "the budget chosen" in drawn
    assert "no budget measured yet" in agreement_plot([])
