"""Which tokens latents stand for, on pages small enough to check by eye."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from foveate.errors import ConfigError, InputError
from foveate.vist.latents.targets import CHOICES, LatentTargets, TargetConfig, choose_targets

# Two pages of 8 patches: 12 tokens on the first, 5 on the second, which is half empty.
PAGE = np.array([0] * 12 + [1] * 5)
PATCH = np.array([0, 0, 1, 1, 2, 3, 4, 4, 5, 6, 6, 7, 0, 1, 2, 2, 3])


def targets(num_latents: int = 4, **fields: Any) -> LatentTargets:
    rarity = fields.pop("rarity", np.arange(17) % 3)
    return choose_targets(
        PAGE,
        PATCH,
        num_pages=2,
        num_patches=8,
        num_latents=num_latents,
        config=TargetConfig(**fields),
        rarity=rarity,
    )


def test_runs_take_the_end_of_each_group_and_pack_the_rest() -> None:
    found = targets(run=2, packed=2)
    # First page: patches 0-3 hold tokens 0-5, patches 4-7 tokens 6-11. Second: 12-16, then none.
    assert found.members[..., 0].tolist() == [[4, 5, 10, 11], [15, 16, -1, -1]]
    assert found.packed.tolist() == [
        [[0, 1], [2, 3], [6, 7], [8, 9]],
        [[12, -1], [13, 14], [-1, -1], [-1, -1]],
    ]
    assert found.positions.tolist() == [[4, 5, 10, 11], [15, 16, 0, 0]]
    assert found.mask.tolist() == [[True] * 4, [True, True, False, False]]


def test_grouping_by_tokens_gives_half_empty_pages_fewer_latents() -> None:
    found = targets(run=2, packed=0, grouping="tokens")
    assert found.members[..., 0].tolist() == [[4, 5, 10, 11], [15, 16, -1, -1]]


def test_groups_of_a_size_make_latents_follow_the_tokens() -> None:
    """A page of 12 tokens and one of 5, in groups of about 6."""
    found = targets(run=2, packed=0, grouping="tokens", group_tokens=6)
    counts = (found.members[..., 0] >= 0).sum(axis=1)
    tokens = [12, 5]
    assert counts.tolist() == [2 * max(1, min(2, round(n / 6))) for n in tokens]


def test_a_short_group_ends_in_the_last_latent() -> None:
    found = choose_targets(
        np.array([0]), np.array([0]), num_pages=1, num_patches=8, num_latents=4,
        config=TargetConfig(run=4),
    )  # fmt: skip
    assert found.members[0, :, 0].tolist() == [-1, -1, -1, 0]


def test_pooled_shares_out_every_token_once() -> None:
    found = targets(choice="pooled")
    held = found.members[found.members >= 0]
    assert sorted(held.tolist()) == list(range(17))
    assert found.members[0, 0].tolist()[:4] == [0, 1, 2, 3]
    assert found.positions[0, 0] == 1.5


def test_rare_takes_the_rarest_and_ties_go_to_the_earlier() -> None:
    found = targets(choice="rare", run=2)
    assert found.members[0, :, 0].tolist() == [2, 5, 8, 11]
    assert targets(choice="rare", run=2, rarity=np.zeros(17)).members[0, :, 0].tolist() == [
        0, 1, 6, 7,
    ]  # fmt: skip


def test_random_is_drawn_once_and_for_all() -> None:
    first, again = targets(choice="random", run=2), targets(choice="random", run=2)
    assert np.array_equal(first.members, again.members)
    other = [targets(choice="random", run=2, seed=seed).members for seed in range(5)]
    assert any(not np.array_equal(first.members, members) for members in other)


def test_all_gives_each_token_its_latent() -> None:
    found = targets(num_latents=12, choice="all")
    assert found.members[0, :, 0].tolist() == list(range(12))
    assert found.members[1, :, 0].tolist() == [12, 13, 14, 15, 16] + [-1] * 7


@pytest.mark.parametrize("choice", [c for c in CHOICES if c not in ("all", "pooled")])
def test_chosen_and_packed_never_overlap(choice: Any) -> None:
    found = targets(choice=choice, run=2, packed=8)
    everything = np.concatenate([found.members.ravel(), found.packed.ravel()])
    held = everything[everything >= 0]
    assert sorted(held.tolist()) == list(range(17))


@pytest.mark.parametrize("choice", CHOICES)
def test_no_tokens_no_targets(choice: Any) -> None:
    empty = np.zeros(0, dtype=np.int64)
    found = choose_targets(
        empty, empty, num_pages=1, num_patches=8, num_latents=4,
        config=TargetConfig(choice=choice), rarity=empty,
    )  # fmt: skip
    assert not found.mask.any()


def test_impossible_choices_are_refused() -> None:
    with pytest.raises(ConfigError, match="run=3 does not divide the 4 latents"):
        targets(run=3)
    with pytest.raises(ConfigError, match="a page holds 12 tokens and has 4 latents"):
        targets(choice="all")
    with pytest.raises(InputError, match="no rarity"):
        targets(choice="rare", rarity=None)
    with pytest.raises(ConfigError, match="choice='best'"):
        TargetConfig(choice="best")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="run=0"):
        TargetConfig(run=0)
