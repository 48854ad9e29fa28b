"""The embedded vision-language model and its examples, loaded once."""

from __future__ import annotations

import pytest

from foveate.app.carve import Carver
from foveate.app.examples import ImageExample, image_examples
from foveate.models.load import load_vlm


@pytest.fixture(scope="session")
def carver() -> Carver:
    return Carver(load_vlm("embedded"))


@pytest.fixture(scope="session")
def example() -> ImageExample:
    return image_examples()[2]
