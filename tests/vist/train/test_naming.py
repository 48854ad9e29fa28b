"""A token in a text must point at its own picture."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from foveate.errors import ConfigError
from foveate.vist.config import GlanceConfig
from foveate.vist.latents.dictionary import TokenPictures
from foveate.vist.latents.glance_resampler import GlanceResampler
from foveate.vist.train.naming import NamingConfig, naming_error

VOCABULARY = 12


def pictures() -> TokenPictures:
    generator = torch.Generator().manual_seed(0)
    return TokenPictures(
        token_ids=torch.arange(VOCABULARY) * 2,
        under=torch.randn(VOCABULARY, 3 * 5, generator=generator).half(),
        start=torch.zeros(VOCABULARY, dtype=torch.long),
        extent=torch.arange(VOCABULARY) % 7,
    )


def resampler() -> GlanceResampler:
    torch.manual_seed(1)
    config = GlanceConfig(input_width=5, width=4, inner=16, heads=2, layers=0, key_width=8,
                          reach=3, steps=4, num_latents=4, pack_width=4)  # fmt: skip
    return GlanceResampler(config)


def keys_of(module: GlanceResampler, rows: torch.Tensor) -> torch.Tensor:
    held = pictures()
    return module.names(held.under[rows].float(), held.start[rows], held.extent[rows])


def test_it_is_the_cross_entropy_over_the_vocabulary() -> None:
    """With so many candidates that every token is among them."""
    module, wanted = resampler(), torch.tensor([3, 7, -1, 3])
    queries = F.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(2)), dim=-1)
    everyone = keys_of(module, torch.arange(VOCABULARY))
    assert module.sharpness is not None
    logits = queries[[0, 1, 3]] @ everyone.T * module.sharpness.exp()
    expected = F.cross_entropy(logits, torch.tensor([3, 7, 3]))
    lot = torch.Generator().manual_seed(3)
    found = naming_error(
        module, queries, wanted, pictures(), NamingConfig(negatives=400, hard=0), lot
    )
    torch.testing.assert_close(found, expected)


def test_hard_candidates_are_the_look_alikes() -> None:
    """Without random ones, only look-alikes and the batch's own tokens count."""
    module = resampler()
    module.learn_vocabulary(pictures(), torch.zeros(2 * VOCABULARY, 4))
    queries = keys_of(module, torch.tensor([5])).detach()
    likeness = queries @ keys_of(module, torch.arange(VOCABULARY)).T
    rows = likeness[0].topk(3).indices.sort().values
    assert 5 in rows
    assert module.sharpness is not None
    logits = likeness[:, rows] * module.sharpness.exp()
    expected = F.cross_entropy(logits, torch.searchsorted(rows, torch.tensor([5])))
    found = naming_error(
        module, queries, torch.tensor([5]), pictures(), NamingConfig(negatives=0, hard=3)
    )
    torch.testing.assert_close(found, expected)


def test_a_few_steps_teach_it_to_name() -> None:
    module, held = resampler(), pictures()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    wanted = torch.arange(VOCABULARY)
    noise = torch.randn(held.under.shape, generator=torch.Generator().manual_seed(4)) * 0.2
    losses = []
    for _ in range(30):
        queries = module.names(held.under.float() + noise, held.start, held.extent)
        loss = naming_error(module, queries, wanted, held, NamingConfig(negatives=4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"negatives": -1}, "negatives=-1; use 0 or more"), ({"refresh": 0}, "refresh=0; use 1 or")],
)
def test_bad_configuration(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NamingConfig(**changes)
