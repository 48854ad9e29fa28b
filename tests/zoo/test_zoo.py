"""Every image-text-to-text type of the installed transformers: as the shipped results say, or new.

Not part of the test suite, because it takes minutes: `make test-zoo`.
"""

from __future__ import annotations

import pytest
import transformers

from foveate.carve.check.known import known_results, zoo_types
from foveate.carve.check.zoo import check_type

KNOWN = known_results()


@pytest.mark.parametrize("model_type", zoo_types())
def test_type(model_type: str) -> None:
    found = check_type(model_type)
    assert found.in_llm or found.refusal, "neither carved nor refused"
    if not found.in_llm:
        assert found.refusal.rstrip().endswith("."), "a refusal is a sentence"
    before = KNOWN.get(model_type)
    if before is None:
        pytest.skip(f"a type that no result knows: {found.summary}")
    assert found.in_llm >= before.in_llm, (
        f"carved with transformers {before.transformers}, not with {transformers.__version__}: "
        f"{found.refusal}"
    )
    assert bool(found.before_llm) >= bool(before.before_llm)
    assert bool(found.video) >= bool(before.video)
    assert found.batches >= before.batches
