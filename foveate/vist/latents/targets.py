"""Which tokens each latent stands for: distillation, reading and positions share the choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foveate.errors import ConfigError, InputError

__all__ = ["CHOICES", "GROUPINGS", "LatentTargets", "TargetConfig", "choose_targets"]

CHOICES = ("runs", "pooled", "random", "rare", "all")
GROUPINGS = ("patches", "tokens")


@dataclass(frozen=True, kw_only=True)
class TargetConfig:
    """How the tokens of a page are shared out among its latents.

    A page is cut into groups, and each group has `run` latents. The paper trains with the
    next-token loss alone and gives its latents no targets; all of this is ours.

    Args:
        choice: "runs": the last `run` tokens of each group, neighbours that the LLM can copy from.
            "random": `run` tokens of each group by lot. "rare": its `run` rarest. "all": every
            token of the page, one each. "pooled": one latent a group, the mean of its tokens.
        run: latents a group; must divide the latents of a page. "pooled" and "all" ignore it.
        packed: most tokens that were not chosen and that a latent carries beside its own.
        grouping: "patches" cuts the page's patches evenly, which fits latents that look at their
            own place in the strip. "tokens" cuts its tokens evenly; a page that is not full has as
            many fewer groups. Either way a page's latents are in proportion to the text on it.
        group_tokens: grouping="tokens": about so many tokens a group, as long as that needs no more
            latents than a page has; 0 takes all latents of a full page. It makes the share of
            latents to tokens the same for every text, however wide its letters.
        seed: of "random".

    Raises:
        ConfigError: a value is impossible.
    """

    choice: Literal["runs", "pooled", "random", "rare", "all"] = "runs"
    run: int = 4
    packed: int = 3
    grouping: Literal["patches", "tokens"] = "patches"
    group_tokens: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, known in (
            ("choice", self.choice, CHOICES),
            ("grouping", self.grouping, GROUPINGS),
        ):
            if value not in known:
                raise ConfigError(
                    f"TargetConfig got {name}={value!r}; use one of {', '.join(known)}."
                )
        if self.run < 1 or self.packed < 0 or self.group_tokens < 0:
            raise ConfigError(
                f"TargetConfig got run={self.run}, packed={self.packed} and "
                f"group_tokens={self.group_tokens}; use run of at least 1, the others of at least "
                "0."
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class LatentTargets:
    """What the latents of a text's pages stand for.

    Attributes:
        members: int64 [P, N, K], tokens of the text whose states are averaged; -1 = none. K is 1
            where tokens are chosen.
        packed: int64 [P, N, Q], further tokens that a latent carries; -1 = none.
        positions: float32 [P, N], mean index of the members; 0 where there is none.
    """

    members: NDArray[np.int64]
    packed: NDArray[np.int64]
    positions: NDArray[np.float32]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Latents that stand for something, [P, N]."""
        return self.members[..., 0] >= 0


def choose_targets(
    token_page: NDArray[np.integer],
    token_patch: NDArray[np.integer],
    *,
    num_pages: int,
    num_patches: int,
    num_latents: int,
    config: TargetConfig,
    rarity: NDArray[np.floating] | None = None,
) -> LatentTargets:
    """Share out tokens among latents.

    Args:
        token_page, token_patch: [T], where each token ends (its last character's centre), in
            reading order.
        num_pages, num_patches: P pages of L patches.
        num_latents: N of a page.
        config: the rule.
        rarity: [T], higher = rarer; "rare" needs it.

    Raises:
        ConfigError: `run` does not divide N, or "all" has fewer latents than a page has tokens.
        InputError: "rare" without `rarity`.

    Example:
        >>> page, patch = np.zeros(6, int), np.array([0, 0, 1, 2, 2, 3])
        >>> found = choose_targets(page, patch, num_pages=1, num_patches=4, num_latents=2,
        ...                        config=TargetConfig(run=1, packed=1))
        >>> found.members[0, :, 0].tolist(), found.packed[0, :, 0].tolist()
        ([2, 5], [0, 3])
    """
    if config.choice == "rare" and rarity is None:
        raise InputError("choice='rare' got no rarity of the tokens; pass it, or choose 'runs'.")
    page = np.asarray(token_page, dtype=np.int64)
    starts = np.searchsorted(page, np.arange(num_pages + 1))
    within = np.arange(len(page)) - starts[page]
    counts = np.diff(starts)
    if config.choice == "all":
        return _every_token(page, within, counts, num_latents, config.packed)
    run = 1 if config.choice == "pooled" else config.run
    if num_latents % run:
        raise ConfigError(
            f"run={run} does not divide the {num_latents} latents of a page; choose a divisor."
        )
    groups = num_latents // run
    if config.grouping == "patches":
        group = np.asarray(token_patch, dtype=np.int64) * groups // num_patches
    else:
        filled = np.zeros(num_pages, dtype=np.int64)
        np.maximum.at(filled, page, np.asarray(token_patch, dtype=np.int64) + 1)
        own_groups = np.maximum(1, -(-filled * groups // num_patches))
        if config.group_tokens:
            fair = np.rint(counts / config.group_tokens).astype(np.int64)
            own_groups = np.clip(fair, 1, groups)
        group = within * own_groups[page] // np.maximum(counts, 1)[page]
    cell = page * groups + group
    begins = np.flatnonzero(np.diff(cell, prepend=-1))
    ends = np.append(begins, len(cell))[1:]
    longest = int((ends - begins).max(initial=1)) if config.choice == "pooled" else 1
    members = np.full((num_pages * num_latents, longest), -1, dtype=np.int64)
    packed = np.full((num_pages * num_latents, config.packed), -1, dtype=np.int64)
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        if config.choice == "pooled":
            members[cell[begin], : end - begin] = np.arange(begin, end)
            continue
        chosen = _chosen(begin, end, int(cell[begin]), config, rarity)
        skipped = np.setdiff1d(np.arange(begin, end), chosen)
        # The last token of a group is always the last latent's.
        first = int(cell[begin]) * run + run - len(chosen)
        members[first : first + len(chosen), 0] = chosen
        for i in range(len(chosen)):
            part = skipped[len(skipped) * i // len(chosen) : len(skipped) * (i + 1) // len(chosen)][
                : config.packed
            ]
            packed[first + i, : len(part)] = part
    return _made(members, packed, (num_pages, num_latents))


def _chosen(
    begin: int, end: int, cell: int, config: TargetConfig, rarity: NDArray[np.floating] | None
) -> NDArray[np.int64]:
    """Up to `run` tokens of begin..end-1, ascending."""
    count = min(config.run, end - begin)
    if config.choice == "runs":
        return np.arange(end - count, end)
    if config.choice == "random":
        lot = np.random.default_rng((config.seed, cell, end - begin)).permutation(end - begin)
        return np.sort(begin + lot[:count])
    assert rarity is not None
    # Ties go to the earlier token.
    order = np.argsort(-np.asarray(rarity[begin:end]), kind="stable")
    return np.sort(begin + order[:count])


def _every_token(
    page: NDArray[np.int64],
    within: NDArray[np.int64],
    counts: NDArray[np.int64],
    num_latents: int,
    num_packed: int,
) -> LatentTargets:
    if counts.max(initial=0) > num_latents:
        raise ConfigError(
            f"choice='all' needs a latent for each token, but a page holds {counts.max()} tokens "
            f"and has {num_latents} latents; raise num_latents, or choose 'runs'."
        )
    members = np.full((len(counts) * num_latents, 1), -1, dtype=np.int64)
    members[page * num_latents + within, 0] = np.arange(len(page))
    packed = np.full((len(members), num_packed), -1, dtype=np.int64)
    return _made(members, packed, (len(counts), num_latents))


def _made(
    members: NDArray[np.int64], packed: NDArray[np.int64], shape: tuple[int, int]
) -> LatentTargets:
    held = members >= 0
    count = held.sum(axis=1)
    total = np.where(held, members, 0).sum(axis=1)
    positions = (total / np.maximum(count, 1)).astype(np.float32)
    return LatentTargets(
        members=members.reshape(*shape, -1),
        packed=packed.reshape(*shape, packed.shape[1]),
        positions=positions.reshape(shape),
    )
