"""Rows of cache layers: shared by layers that hold the same, and what the host knows of them."""

from __future__ import annotations

import copy

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from foveate.carve.engine.held_rows import HeldRows
from foveate.core.layout import PAD, kept_rows, longest_row

MASKS = st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=1, max_size=3)


def whole(seen: int, batch: int) -> HeldRows:
    return HeldRows.last_of(seen, seen, batch, torch.device("cpu"))


def cut(rows: HeldRows, mask: Tensor, seen: int) -> HeldRows:
    slots = kept_rows(mask, longest_row(mask))
    return rows.retained(slots, bool((slots == PAD).any()), seen)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(masks=MASKS, second=MASKS, position=st.integers(0, 22), drop=st.integers(0, 3))
def test_no_slot_is_counted_that_may_still_be_seen(
    masks: list[list[bool]], second: list[list[bool]], position: int, drop: int
) -> None:
    """A carved prompt, two decoded tokens, a carved second turn: never more than there are."""
    mask = torch.tensor(masks)
    rows = cut(whole(9, len(masks)), mask, 9)
    new = torch.tensor([[9, 10]]).expand(len(masks), -1)
    rows = rows.grown(torch.cat([rows.index, new], dim=1), 2, 11, False)
    rows = rows.without_first(min(drop, rows.index.shape[1]))
    later = torch.tensor((second * 3)[: len(masks)])
    turn = kept_rows(later, longest_row(later))
    turn = torch.where(turn == PAD, PAD, turn + 11)
    rows = rows.grown(torch.cat([rows.index, turn], dim=1), turn.shape[1], 20, True)
    assert sum(slots for slots, _ in rows.pieces) == rows.index.shape[1]
    found = rows.num_before(position)
    assert bool((rows.index[:, :found] < position).all())


def test_of_whole_rows_every_old_slot_is_counted() -> None:
    rows = whole(9, 2)
    assert [rows.num_before(position) for position in (0, 4, 9, 30)] == [0, 4, 9, 9]


def test_one_cause_changes_all_layers_to_one_object() -> None:
    rows, mask = whole(9, 1), torch.tensor([[True, False, True] * 3])
    slots = kept_rows(mask, 6)
    first = rows.retained(slots, False, 9)
    assert rows.retained(slots, False, 9) is first
    assert rows.retained(slots.clone(), False, 9) is not first
    index = torch.cat([first.index, torch.tensor([[9]])], dim=1)
    assert first.grown(index, 1, 10, False) is first.grown(index, 1, 10, False)
    assert first.without_first(2) is first.without_first(2)
    assert first.without_first(2) is not first.without_first(1)


def test_causes_of_the_same_number_are_not_confused() -> None:
    """Sliding layers forget two slots, and then every layer's rows are repeated twice."""
    rows = whole(5, 1)
    short = rows.without_first(2)
    twice = rows.reordered(("repeated", 2), lambda index: index.repeat_interleave(2, dim=0))
    assert short.index.tolist() == [[2, 3, 4]]
    assert twice.index.tolist() == [[0, 1, 2, 3, 4]] * 2


def test_a_copy_shares_among_its_own() -> None:
    layers = [whole(5, 1)] * 3
    copied = copy.deepcopy(layers)
    assert copied[0] is copied[2]
    assert copied[0] is not layers[0]
