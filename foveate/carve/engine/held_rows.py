"""Which tokens some layers of a KV cache hold: one object for all layers that hold the same.

A mask, an index of keys or a new order of beams is then made once for all of them, not once for
each layer. Layers are changed one after the other by the same cause; what the first one makes of
the object, the others are handed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from foveate.core.layout import PAD, kept_rows


class HeldRows:
    """Original positions of the tokens of some layers. Never changed: a change makes another one.

    Args:
        index: [B, L] int64, original position of each slot, PAD where a row has no token.
        has_empty: whether PAD may occur, so that nobody has to look.
        pieces: ((slots, end), ...) from the left: that many slots, all before position `end`, each
            row's tokens ascending and its PADs first. What the host knows without looking.
        log_sizes: [B, L] float32, log of how many tokens the one in each slot was made of; None
            where all count once.
    """

    def __init__(
        self,
        index: Tensor,
        has_empty: bool,
        pieces: tuple[tuple[int, int], ...],
        log_sizes: Tensor | None = None,
    ) -> None:
        self.index = index
        self.log_sizes = log_sizes
        self.has_empty = has_empty
        self.pieces = pieces
        self._next: tuple[object, HeldRows] | None = None
        self._before: tuple[int, Tensor, bool] | None = None

    @classmethod
    def last_of(cls, seen: int, held: int, batch: int, device: torch.device) -> HeldRows:
        """The last `held` of `seen` tokens of each row."""
        index = torch.arange(seen - held, seen, device=device).expand(batch, -1)
        return cls(index, False, ((held, seen),))

    @property
    def is_whole(self) -> bool:
        """Whether slots are positions: every token so far is held."""
        length = self.index.shape[1]
        return not self.has_empty and self.pieces == ((length, length),)

    def after(self, cause: object, make: Callable[[], HeldRows]) -> HeldRows:
        """What a change makes of it; made once for layers that are changed by the same `cause`.

        Args:
            cause: compared by identity, tuples of names and numbers by value.
            make: the change.
        """
        if self._next is not None:
            known, made = self._next
            if known is cause:
                return made
            if isinstance(cause, tuple) and isinstance(known, tuple) and known == cause:
                return made
        made = make()
        self._next = (cause, made)
        return made

    def grown(
        self,
        index: Tensor,
        num_new: int,
        seen: int,
        has_empty: bool,
        log_sizes: Tensor | None = None,
    ) -> HeldRows:
        """With slots behind it.

        Args:
            index: [B, L + Q], of all slots.
            num_new: Q.
            seen: positions end here.
            has_empty: whether PAD may occur among the new ones.
            log_sizes: [B, L + Q], of all slots.
        """

        def make() -> HeldRows:
            pieces = tuple(piece for piece in self.pieces if piece[0])
            if pieces and pieces[-1][1] + num_new == seen:  # none is missing in between
                pieces = (*pieces[:-1], (pieces[-1][0] + num_new, seen))
            else:
                pieces = (*pieces, (num_new, seen))
            return HeldRows(index, self.has_empty or has_empty, pieces, log_sizes)

        return self.after(index, make)

    def retained(
        self, slots: Tensor, has_empty: bool, seen: int, index: Tensor | None = None
    ) -> HeldRows:
        """With `slots` [B, L'] of each row, ascending; PADs first, if `has_empty`.

        Args:
            slots: to keep.
            has_empty: whether PAD may occur in them.
            seen: tokens so far.
            index: [B, L'] their positions, where these are known already.
        """

        def make() -> HeldRows:
            found = index
            if found is None:
                found = self.index.gather(1, slots.clamp_min(0)).masked_fill(slots == PAD, PAD)
            sizes = self.log_sizes
            if sizes is not None:
                sizes = sizes.to(slots.device).gather(1, slots.clamp_min(0))
                sizes = sizes.masked_fill(slots == PAD, 0.0)
            pieces = ((slots.shape[1], seen),)
            return HeldRows(found, has_empty or self.has_empty, pieces, sizes)

        return self.after(slots, make)

    def slots_before(self, position: int) -> tuple[Tensor, bool]:
        """[B, L'] slots of tokens before a position, and whether PAD is among them.

        Read off the device, once for all layers.
        """
        if self._before is None or self._before[0] != position:
            stays = (self.index != PAD) & (self.index < position)
            counts = stays.sum(dim=1).tolist()
            slots = kept_rows(stays, max(counts))
            self._before = (position, slots, min(counts) != max(counts))
        return self._before[1:]

    def without_first(self, count: int) -> HeldRows:
        """Without the first `count` slots."""

        def make() -> HeldRows:
            pieces, left = [], count
            for slots, end in self.pieces:
                gone = min(left, slots)
                left -= gone
                if slots > gone:
                    pieces.append((slots - gone, end))
            sizes = None if self.log_sizes is None else self.log_sizes[:, count:]
            return HeldRows(self.index[:, count:], self.has_empty, tuple(pieces), sizes)

        return self.after(("without first", count), make)

    def reordered(self, cause: object, change: Callable[[Tensor], Tensor]) -> HeldRows:
        """With its rows in another order, or repeated."""

        def make() -> HeldRows:
            sizes = None if self.log_sizes is None else change(self.log_sizes)
            return HeldRows(change(self.index), self.has_empty, self.pieces, sizes)

        return self.after(cause, make)

    def num_before(self, position: int) -> int:
        """How many of the first slots surely hold no token from `position` on.

        By counting: where d tokens follow a token in its piece, it stands at least d before the
        piece's last position. So it may be fewer than really do, never more.
        """
        found = 0
        for slots, end in self.pieces:
            old = min(slots, max(0, position - (end - slots)))
            found += old
            if old < slots:
                break
        return found
