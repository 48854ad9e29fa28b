"""The index's pools: groups are sets of rows, weighed by their own attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from foveate.errors import ConfigError
from foveate.vist.latents.index_head import AttentionPool, IndexConfig, IndexHead


@pytest.fixture
def pool() -> AttentionPool:
    torch.manual_seed(0)
    return AttentionPool(5, inner=12, heads=3, width=7)


def test_a_group_is_pooled_as_if_it_were_alone(pool: AttentionPool) -> None:
    rows = torch.randn(9, 5)
    group = torch.tensor([1, 0, 1, 3, 1, 0, 3, 3, 3])
    together = pool(rows, group, 4)
    for number in (0, 1, 3):
        own = rows[group == number]
        alone = pool(own, torch.zeros(len(own), dtype=torch.int64), 1)[0]
        torch.testing.assert_close(together[number], alone)
        assert float(alone.norm()) == pytest.approx(1.0, abs=1e-5)
    assert not together[2].any()  # nobody is in it


def test_the_mean_is_weighed_by_a_softmax_of_each_head(pool: AttentionPool) -> None:
    rows = torch.randn(4, 5)
    hidden = torch.nn.functional.gelu(pool.up(pool.norm(rows)))
    weight = pool.query(hidden).softmax(dim=0)  # [4, H]
    mean = (hidden.view(4, 3, 4) * weight.unsqueeze(2)).sum(dim=0).flatten()
    want = torch.nn.functional.normalize(pool.out(mean), dim=0)
    torch.testing.assert_close(pool(rows, torch.zeros(4, dtype=torch.int64), 1)[0], want)
    even = torch.nn.functional.normalize(pool.out(hidden.mean(dim=0)), dim=0)
    assert not torch.allclose(want, even, atol=1e-3)  # the weights matter


def test_rows_that_occur_often_are_mapped_once(pool: AttentionPool) -> None:
    rows, take = torch.randn(3, 5), torch.tensor([2, 0, 2, 1])
    group = torch.tensor([0, 0, 1, 1])
    torch.testing.assert_close(pool(rows, group, 2, take), pool(rows[take], group, 2))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"width": 0}, "width=0"),
        ({"inner": 10}, "inner=10 for heads=8"),
        ({"picture_inner": True}, "picture_inner=True"),
        ({"temperature": 0.0}, "temperature=0.0"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        IndexConfig(**{"input_width": 4, "embedding_width": 6, **changes})


def test_both_sides_end_in_one_space() -> None:
    head = IndexHead(IndexConfig(input_width=4, embedding_width=6, inner=8, width=3))
    own = torch.zeros(2, dtype=torch.int64)
    assert head.of_pictures(torch.randn(2, 4), own, 1).shape == (1, 3)
    assert head.of_words(torch.randn(2, 6), own, 1).shape == (1, 3)
