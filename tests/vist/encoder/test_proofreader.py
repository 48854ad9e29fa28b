"""The embedded encoder as a proofreader of pages."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foveate.assets import text_encoder_path
from foveate.errors import InputError
from foveate.text_image.render import Renderer
from foveate.text_image.strip_style import StripStyle
from foveate.vist.encoder.proofreader import PageProofreader
from foveate.vist.encoder.text_encoder import load_text_encoder

TEXT = (
    "The keeper of the lamp was Clara Mill.\nIn 1847 she wrote: 52 boats, 0x3fa9; two of Bergen.\n"
    "\n    Nobody answered; the harbour was empty and the light went out.\n" * 4
)
PAGE = StripStyle(height=112, width=336, line_height=14, wrap=1.0, newline="break")


@pytest.fixture(scope="module")
def reader() -> PageProofreader:
    torch.set_num_threads(1)
    return PageProofreader(load_text_encoder(text_encoder_path()))


def test_plain_pages_are_read_right(reader: PageProofreader) -> None:
    strips = Renderer(PAGE).render(TEXT)
    right = reader.is_right(strips, TEXT)
    assert len(strips) > 1
    assert right.shape == (len(TEXT),)
    assert right.mean() > 0.995


def test_another_text_than_is_drawn_is_not(reader: PageProofreader) -> None:
    """The control: it looks at the pages, not at the text it is told."""
    strips = Renderer(PAGE).render(TEXT)
    told = TEXT.replace("lamp", "ramp").replace("1847", "1841")
    right = reader.is_right(strips, told)
    changed = np.array([a != b for a, b in zip(TEXT, told, strict=True)])
    assert changed.sum() == 8
    assert not right[changed].any()
    assert right[~changed].mean() > 0.995


def test_lines_of_blank_paper_and_no_lines(reader: PageProofreader) -> None:
    assert reader.is_right(Renderer(PAGE).render("\n\n\n"), "\n\n\n").all()
    assert len(reader.is_right(Renderer(PAGE).render(""), "")) == 0


def test_other_sizes_are_not_judged(reader: PageProofreader) -> None:
    assert reader.why_not(PAGE) == ""
    small = StripStyle(height=112, width=336, patch=8, font_px=8, line_height=12, wrap=1.0)
    assert reader.why_not(small) == (
        "the proofreader reads letters of 10 px in lines of 14 px, and the pages have 8 px in "
        "lines of 12 px"
    )
    wide = StripStyle(height=112, width=4200, line_height=14)
    assert "4200 px wide" in reader.why_not(wide)


def test_an_encoder_that_reads_nothing_is_no_proofreader() -> None:
    with pytest.raises(InputError, match="reads no characters"):
        PageProofreader(torch.nn.Identity())
