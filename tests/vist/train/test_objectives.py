"""Objectives against worked examples and direct computations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from foveate.errors import ConfigError, InputError
from foveate.vist.train.distillation import (
    DistillationConfig,
    gather_states,
    pair_error,
    tail_divergence,
)
from foveate.vist.train.latent_reading import LatentReader, ReadingConfig, reading_error
from foveate.vist.train.objectives import check_weights, next_token_loss
from foveate.vist.train.pve import PveConfig, PveHead, choose_mask, info_nce, unmasked_mean
from foveate.vist.train.token_counts import TokenCounts


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed))


# --- next token ---


def test_next_token_loss_is_the_mean_of_a_row() -> None:
    nll = torch.tensor([[1.0, 3.0], [0.5, 0.0]])
    assert next_token_loss(nll).tolist() == [2.0, 0.25]


# --- PVE ---


@pytest.mark.parametrize("symmetric", [False, True])
def test_info_nce_equals_the_sum_written_out(symmetric: bool) -> None:
    image, text, tau = randn(4, 6), randn(4, 6, seed=1), 0.07

    def direct(left: torch.Tensor, right: torch.Tensor) -> float:
        total = 0.0
        for i in range(4):
            cosines = [
                float(left[i] @ right[j] / (left[i].norm() * right[j].norm())) for j in range(4)
            ]
            total -= math.log(math.exp(cosines[i] / tau) / sum(math.exp(c / tau) for c in cosines))
        return total / 4

    want = direct(image, text)
    if symmetric:
        want = (want + direct(text, image)) / 2
    assert info_nce(image, text, tau, symmetric=symmetric).item() == pytest.approx(want, rel=1e-5)


def test_info_nce_by_hand() -> None:
    # Cosines are 1 on the diagonal and 0 beside it.
    eye = torch.eye(3)
    assert info_nce(eye, 5 * eye, 1.0).item() == pytest.approx(math.log(1 + 2 / math.e))
    same = torch.ones(3, 2)
    assert info_nce(same, same, 0.07).item() == pytest.approx(math.log(3))


def test_pve_head_averages_the_pages_of_each_document() -> None:
    head = PveHead(2, 2)
    with torch.no_grad():
        head.project.weight.copy_(torch.eye(2))
    cls = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 5.0]])
    assert head(cls, torch.tensor([2, 1])).tolist() == [[2.0, 1.0], [5.0, 5.0]]


def test_importance_by_hand() -> None:
    counts = TokenCounts(4)
    counts.add(torch.tensor([[0, 0, 1], [0, 1, 2]]))
    assert counts.counts.tolist() == [2, 2, 1, 0]
    want = [math.log(2 / 3), math.log(2 / 3), math.log(2 / 2), math.log(2 / 1)]
    assert counts.importance(torch.arange(4)).tolist() == pytest.approx(want)


def test_occurrences_count_every_one() -> None:
    counts = TokenCounts(4, unit="occurrences")
    counts.add(torch.tensor([[0, 0, 1], [0, 1, 2]]))
    assert counts.counts.tolist() == [3, 2, 1, 0]


def test_counts_of_two_processes_merge_to_those_of_one() -> None:
    ids = torch.randint(0, 50, (6, 20), generator=generator(0))
    one, left, right = TokenCounts(50), TokenCounts(50), TokenCounts(50)
    one.add(ids)
    left.add(ids[:3])
    right.add(ids[3:])
    left.merge(right)
    assert left.counts.equal(one.counts)
    assert left.num_samples == one.num_samples == 6
    saved = TokenCounts(50)
    saved.load_state(one.state())
    assert saved.importance(ids).equal(one.importance(ids))


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: TokenCounts(4).add(torch.tensor([[4]])), "token 4 is outside"),
        (lambda: TokenCounts(4).merge(TokenCounts(5)), "cannot merge counts of 5 tokens"),
        (lambda: TokenCounts(4).load_state(TokenCounts(5).state()), "another tokenizer"),
    ],
)
def test_counts_that_do_not_fit_are_refused(act: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        act()


@pytest.mark.parametrize("mask", ["frequency", "random"])
@pytest.mark.parametrize("length", [1, 2, 7, 200])
def test_exactly_half_is_masked(mask: Any, length: int) -> None:
    masked = choose_mask(randn(length), PveConfig(mask=mask), generator(1))
    assert int(masked.sum()) == length // 2


def test_no_mask_masks_nothing() -> None:
    assert not choose_mask(randn(9), PveConfig(mask="none"), generator(1)).any()


def kept_share(config: PveConfig, importance: torch.Tensor) -> np.ndarray[Any, Any]:
    kept = np.zeros(len(importance))
    source = generator(5)
    for _ in range(600):
        kept += (~choose_mask(importance, config, source)).numpy()
    return kept / 600


def test_rarer_words_are_kept_more_often() -> None:
    importance = torch.linspace(0.0, 4.0, 20)  # the last is the rarest
    by_frequency = kept_share(PveConfig(), importance)
    # 600 draws: a share has a standard error of at most 0.021.
    thirds = [by_frequency[part].mean() for part in (slice(0, 7), slice(7, 13), slice(13, 20))]
    assert thirds[0] + 0.2 < thirds[1]
    assert thirds[1] + 0.2 < thirds[2]
    at_random = kept_share(PveConfig(mask="random"), importance)
    assert np.abs(at_random - 0.5).max() < 5 * 0.021


def test_a_cold_mask_takes_the_most_frequent() -> None:
    importance = torch.tensor([3.0, 1.0, 2.0, 0.0])
    masked = choose_mask(importance, PveConfig(mask_temperature=1e-4), generator(0))
    assert masked.tolist() == [False, True, False, True]


def test_the_first_draw_follows_the_frequencies() -> None:
    """One of two masked: with counts 1 and 3 the second goes three times out of four."""
    importance = -torch.tensor([1.0, 3.0]).log()
    share = kept_share(PveConfig(), importance)
    assert share[0] == pytest.approx(0.75, abs=0.08)


def test_unmasked_mean_leaves_masked_tokens_out() -> None:
    embeddings = torch.tensor([[[1.0, 1.0], [3.0, 5.0], [9.0, 9.0]]])
    masked = torch.tensor([[False, False, True]])
    assert unmasked_mean(embeddings, masked).tolist() == [[2.0, 3.0]]


# --- distillation ---


def test_gather_states_picks_and_averages() -> None:
    states = torch.arange(8.0).view(1, 4, 2)
    members = torch.tensor([[[1, -1], [0, 3], [-1, -1]]])
    assert gather_states(states, members)[0].tolist() == [[2.0, 3.0], [3.0, 4.0], [0.0, 0.0]]


def test_pair_error_is_one_for_the_mean_and_zero_for_the_truth() -> None:
    teacher = randn(2, 50, 3, 4)
    mask = torch.ones(2, 50, dtype=torch.bool)
    mean = teacher.mean(dim=1, keepdim=True).expand_as(teacher)
    assert pair_error([(mean,)], [(teacher,)], mask).tolist() == pytest.approx([1.0, 1.0])
    assert pair_error([(teacher,)], [(teacher,)], mask).tolist() == [0.0, 0.0]


def test_pair_error_by_hand() -> None:
    teacher = torch.tensor([[[0.0], [2.0]]])  # variance 1
    student = torch.tensor([[[1.0], [2.0]]])  # squared error 1 and 0
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert pair_error([(student,)], [(teacher,)], mask).tolist() == [0.5]


def test_padding_does_not_enter_the_error() -> None:
    teacher, student = randn(1, 5, 3), randn(1, 5, 3, seed=1)
    mask = torch.tensor([[True, True, True, False, False]])
    short = pair_error([(student[:, :3],)], [(teacher[:, :3],)], mask[:, :3])
    assert pair_error([(student,)], [(teacher,)], mask).allclose(short)


def test_tail_divergence_by_hand() -> None:
    teacher = torch.tensor([[[0.0, 0.0]]])
    student = torch.tensor([[[math.log(3.0), 0.0]]])  # 3/4 and 1/4
    want = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert tail_divergence(student, teacher).tolist() == pytest.approx([want])
    assert tail_divergence(teacher, teacher).tolist() == [0.0]


# --- reading ---


def test_reading_error_is_the_full_cross_entropy_and_the_scaled_distance() -> None:
    embeddings = randn(30, 8)
    targets = torch.tensor([[4, 7], [9, -1]])
    predicted = randn(2, 2, 8, seed=1)
    config = ReadingConfig(packed_weight=0.5)
    table = embeddings - embeddings.mean(0)
    table = table / table.norm(dim=-1, keepdim=True)
    variance = embeddings.var(dim=0).mean()

    def one(vector: torch.Tensor, token: int) -> torch.Tensor:
        logits = 20 * (vector / vector.norm()) @ table.T
        distance = (vector - embeddings[token]).square().mean() / variance
        return -logits.log_softmax(-1)[token] + distance

    own = (one(predicted[0, 0], 4) + one(predicted[1, 0], 9)) / 2
    want = (own + 0.5 * one(predicted[0, 1], 7)) / 1.5
    got = reading_error(predicted, targets, embeddings, config)
    assert got.item() == pytest.approx(want.item(), rel=1e-5)


def test_a_latent_that_is_its_embedding_reads_best() -> None:
    embeddings = randn(30, 8)
    targets = torch.tensor([[4], [9]])
    config = ReadingConfig(negatives=16)
    right = reading_error(embeddings[targets], targets, embeddings, config, generator(0))
    wrong = reading_error(embeddings[targets.flip(0)], targets, embeddings, config, generator(0))
    assert right < wrong


def test_latent_reader_uses_the_projection_where_there_is_one() -> None:
    latents, projected = randn(3, 4), randn(3, 6, seed=1)
    reader = LatentReader(4, 6, packed=2, own=False)
    assert reader(latents, projected)[:, 0].equal(projected)
    assert reader(latents, projected).shape == (3, 3, 6)
    assert LatentReader(4, 6, packed=0, own=True)(latents, None).shape == (3, 1, 6)
    with pytest.raises(ConfigError, match="own=True"):
        reader(latents, None)


# --- configuration ---


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: PveConfig(mask="rare"), "mask='rare'; use one of frequency"),  # type: ignore[arg-type]
        (lambda: PveConfig(mask_share=1.0), "mask_share=1.0"),
        (lambda: PveConfig(temperature=0.0), "temperature=0.0"),
        (lambda: DistillationConfig(space="x"), "space='x'"),  # type: ignore[arg-type]
        (lambda: ReadingConfig(negatives=-1), "negatives=-1"),
        (lambda: check_weights({"ntp": 1.0}, "stage 'a'"), "stage 'a' names unknown .* ntp"),
        (lambda: check_weights({"pve": 0.0}, "stage 'a'"), "weight above 0"),
        (lambda: check_weights({}, "stage 'a'"), "at least one objective"),
    ],
)
def test_impossible_settings_are_refused(act: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        act()
