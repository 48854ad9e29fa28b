"""Videos in which a frame matters: a sign that shows another price for one frame, thrice.

A page of the reading world stands still but for camera noise; one of its prices changes for single
frames. Methods are given all frames at once, as the embedded model's tower and projector make them.
That model reads one picture, so it is asked about the picture that a moment still has: at every
place the latest token that was kept up to then.
`python -m benchmarks.video` writes docs/results/video.json and .md.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

import foveate
from benchmarks.results import write_results
from foveate.carve.methods.uniform import spaced
from foveate.carve.spec import parse_method
from foveate.core.budget import Budget
from foveate.core.frames import Frames
from foveate.core.visual import VisualTokens
from foveate.measure.manifest import manifest
from foveate.measure.quality import accuracy, clustered_mean, exact_match, paired_difference
from foveate.models.vlm import VisionLanguageModel
from foveate.tasks.reading import SEEDS, page_at
from foveate.tasks.reading_page import Page, paint

FRAMES, FLASHES = 16, 3
SIDE, PATCH = 14, 16
PER_FRAME = SIDE**2
CAMERA_NOISE = 3.0  # of 255
BUDGETS = (0.25, 0.10)
MAX_DIGITS = 3  # of an answer, its end included
BATCH = 32
RANDOM = "random"
SPECS = (
    RANDOM,
    "random(frames=each)",
    "uniform(frames=each)",
    "evs",
    "dtd",
    "dtd(threshold=0.98)",
    "vidcom2",
    "divprune",
    "divprune(frames=each)",
)


@dataclass(frozen=True)
class Asked:
    """A question about one moment of a video."""

    kind: str
    frame: int
    text: str
    answer: str


@dataclass(frozen=True)
class Video:
    """One video: what it shows, what is asked, and which places the sign has.

    Args:
        name: for intervals.
        pages: one for each frame.
        asked: the questions.
        flashes: frames that show another price.
        signs: of each of these, places of the frame's tokens whose pixels are others by that.
    """

    name: str
    pages: tuple[Page, ...]
    asked: tuple[Asked, ...]
    flashes: tuple[int, ...]
    signs: tuple[tuple[int, ...], ...]


def make_video(number: int) -> Video:
    """A held-out page as a video: seeded, the same on every machine."""
    rng = random.Random(f"video/{number}")
    page = page_at(SEEDS["test"], 50_000 + number)
    items = [cell for cell in page.cells if cell.kind == "item"]
    while len(items) < 2:  # a page of shapes or signs
        page = page_at(SEEDS["test"], rng.randrange(60_000, 10**6))
        items = [cell for cell in page.cells if cell.kind == "item"]
    sign, still = rng.sample(items, 2)
    first, gaps = 2, FRAMES - 2 - 2 * (FLASHES - 1)
    flashes = tuple(
        first + 2 * i + at for i, at in enumerate(sorted(rng.sample(range(gaps), FLASHES)))
    )
    taken = {cell.price for cell in items}
    prices = rng.sample([price for price in range(10, 100) if price not in taken], FLASHES)
    pages, asked = [page] * FRAMES, []
    for frame, price in zip(flashes, prices, strict=True):
        pages[frame] = with_price(page, sign, price)
        question = f"what is the price of {sign.word}?"
        asked.append(Asked("sign", frame, question, str(price)))
    question = f"what is the price of {still.word}?"
    asked.append(Asked("still", flashes[-1], question, str(still.price)))
    signs = tuple(places_that_differ(page, pages[frame]) for frame in flashes)
    return Video(f"video-{number}", tuple(pages), tuple(asked), flashes, signs)


def places_that_differ(page: Page, other: Page) -> tuple[int, ...]:
    """Tokens of which some pixel differs in two pages."""
    pixels = (np.asarray(paint(page)) != np.asarray(paint(other))).any(axis=-1)  # [224, 224]
    patches = pixels.reshape(SIDE, PATCH, SIDE, PATCH).any(axis=(1, 3)).flatten()
    return tuple(patches.nonzero()[0].tolist())


def with_price(page: Page, sign: Any, price: int) -> Page:
    """The page with another price in one cell."""
    changed = replace(sign, price=price)
    return replace(
        page,
        cells=tuple(changed if cell == sign else cell for cell in page.cells),
        ink=tuple(replace(ink, cell=changed) if ink.cell == sign else ink for ink in page.ink),
    )


def pictures(video: Video, seed: int) -> list[Image.Image]:
    """Its frames, with noise of a camera that is new in each."""
    noise = np.random.default_rng(seed)
    found = []
    for page in video.pages:
        pixels = np.asarray(paint(page), dtype=np.float64)
        pixels = pixels + noise.normal(0, CAMERA_NOISE, pixels.shape)
        found.append(Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)))
    return found


def features_of(vlm: VisionLanguageModel, images: Sequence[Image.Image]) -> Tensor:
    """Visual tokens of every frame as they enter the language model. [T, n, D]"""
    pixels = vlm.processor.image_processor(images=list(images), return_tensors="pt")
    with torch.no_grad():
        output = vlm.model.base_model.get_image_features(pixels["pixel_values"])
    return torch.stack([item.float() for item in output.pooler_output])


def frames_first(keep: int) -> Tensor:
    """The control of whole frames, evenly spaced: as many as the budget holds. [K]"""
    chosen = spaced(FRAMES, max(1, keep // PER_FRAME))
    return (chosen[:, None] * PER_FRAME + torch.arange(PER_FRAME)).flatten()


def kept_by(spec: str, budget: Budget, features: Tensor, serial: int) -> Tensor:
    """Places among all tokens of the video. [K]"""
    num_tokens = FRAMES * PER_FRAME
    method = parse_method(spec, budget)
    frames = Frames.equal(FRAMES, num_tokens, (SIDE, SIDE))
    visual = VisualTokens(
        hidden=features.flatten(0, 1)[None],
        grids=(None,),
        frames=frames,
        serials=(serial,),
    )
    keep = method.count(num_tokens, frames)
    if method.counts_itself:
        (step,) = method.steps(1, 0)
        (keep,) = method.adapt(visual, (keep,), step, 1)
    return method.select(visual, keep).keep_idx[0] if keep < num_tokens else torch.arange(keep)


def latest(kept: Tensor, frame: int) -> Tensor:
    """The latest frame up to `frame` in which each place was kept; -1 where none was. [n]"""
    is_kept = torch.zeros(FRAMES * PER_FRAME, dtype=torch.bool)
    is_kept[kept] = True
    seen = is_kept.view(FRAMES, PER_FRAME)[: frame + 1]
    numbers = torch.arange(frame + 1)[:, None].expand_as(seen)
    return torch.where(seen, numbers, -1).max(dim=0).values


@torch.no_grad()
def answers(
    vlm: VisionLanguageModel, questions: Sequence[str], states: Tensor, shown: Tensor
) -> list[str]:
    """Greedy answers about pictures of which some places are seen; positions are the full ones.

    Args:
        states: [B, n, D] features of each picture.
        shown: [B, n] bool, places that are seen.
    """
    model, blank = vlm.model, Image.new("RGB", (224, 224))
    inputs = vlm.inputs(list(questions), [blank] * len(questions))
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    is_visual = ids == model.config.image_token_id
    embeds = model.get_input_embeddings()(ids)
    embeds[is_visual] = states.flatten(0, 1).to(embeds.dtype)
    positions = (mask.long().cumsum(dim=1) - 1).clamp_min(0)
    mask = mask.clone()
    mask[is_visual] = shown.flatten()
    cache, made = None, []
    for _ in range(MAX_DIGITS):
        output = model(
            inputs_embeds=embeds,
            attention_mask=mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        cache, token = output.past_key_values, output.logits[:, -1].argmax(dim=-1)
        made.append(token)
        embeds = model.get_input_embeddings()(token)[:, None]
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        positions = positions[:, -1:] + 1
    rows = torch.stack(made, dim=1).tolist()
    end = vlm.tokenizer.eos_token_id
    texts = [row[: row.index(end)] if end in row else row for row in rows]
    return [str(text) for text in vlm.tokenizer.batch_decode(texts, skip_special_tokens=True)]


@dataclass
class Tally:
    """What one method did at one budget, question by question."""

    spec: str
    budget: float | None
    correct: dict[str, list[bool]]
    of_sign: list[float]  # share of the sign's tokens that were kept, flash by flash
    tokens: list[int]  # kept, video by video


def run(vlm: VisionLanguageModel, videos: Sequence[Video]) -> list[Tally]:
    """Every method on every video."""
    every = torch.arange(FRAMES * PER_FRAME)
    whole: list[tuple[str, float | None, Callable[[Tensor, int], Tensor]]] = [
        ("everything", None, lambda features, serial: every),
        ("first frame", None, lambda features, serial: every[:PER_FRAME]),
    ]
    for ratio in BUDGETS:
        budget = Budget(keep_ratio=ratio)
        keep = budget.count(len(every))
        whole.append(("uniform frames", ratio, lambda f, s, keep=keep: frames_first(keep)))
        for spec in SPECS:
            whole.append((spec, ratio, lambda f, s, spec=spec, b=budget: kept_by(spec, b, f, s)))
    tallies = [Tally(spec, ratio, {"sign": [], "still": []}, [], []) for spec, ratio, _ in whole]
    waiting: list[tuple[Tally, Asked, Tensor, Tensor]] = []
    for number, video in enumerate(track(videos, console=Console(stderr=True))):
        features = features_of(vlm, pictures(video, number))
        for tally, (_, _, choose) in zip(tallies, whole, strict=True):
            kept = choose(features, number)
            tally.tokens.append(len(kept))
            is_kept = torch.zeros(len(every), dtype=torch.bool)
            is_kept[kept] = True
            for frame, places in zip(video.flashes, video.signs, strict=True):
                own = torch.tensor(places) + frame * PER_FRAME
                tally.of_sign.append(float(is_kept[own].float().mean()))
            for asked in video.asked:
                frame_of = latest(kept, asked.frame)
                state = features[frame_of.clamp_min(0), torch.arange(PER_FRAME)]
                waiting.append((tally, asked, state, frame_of >= 0))
        while len(waiting) >= BATCH or (waiting and number == len(videos) - 1):
            batch, waiting = waiting[:BATCH], waiting[BATCH:]
            texts = answers(
                vlm,
                [asked.text for _, asked, _, _ in batch],
                torch.stack([state for _, _, state, _ in batch]),
                torch.stack([shown for _, _, _, shown in batch]),
            )
            for (tally, asked, _, _), text in zip(batch, texts, strict=True):
                tally.correct[asked.kind].append(exact_match(text, [asked.answer]))
    return tallies


def row_of(tally: Tally, reference: Tally, videos: Sequence[Video]) -> dict[str, Any]:
    """One line of the results; differences are to random tokens at the same budget."""
    names = {
        kind: [video.name for video in videos for asked in video.asked if asked.kind == kind]
        for kind in tally.correct
    }
    row: dict[str, Any] = {
        "method": tally.spec,
        "keep_ratio": tally.budget,
        "tokens": sum(tally.tokens) / len(tally.tokens),
        "sign_tokens_kept": clustered_mean(tally.of_sign, names["sign"]).to_dict(),
    }
    for kind, correct in tally.correct.items():
        row[kind] = accuracy(correct, names[kind]).to_dict()
        if tally.budget is not None and tally is not reference:
            gap = paired_difference(correct, reference.correct[kind], names[kind])
            row[f"{kind}_over_random"] = gap.to_dict()
    return row


def table_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    def cell(interval: dict[str, float]) -> str:
        return "{value:.0f} ({low:.0f}-{high:.0f})".format(
            **{name: 100 * value for name, value in interval.items()}
        )

    def gap(row: dict[str, Any]) -> str:
        found = row.get("sign_over_random")
        if found is None:
            return ""
        return "{value:+.0f} ({low:+.0f} to {high:+.0f})".format(
            **{name: 100 * value for name, value in found.items()}
        )

    lines = [
        "| budget | method | tokens | sign's tokens kept, % | sign read, % | over random | still "
        "item read, % |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        budget = "" if row["keep_ratio"] is None else f"{100 * row['keep_ratio']:g} %"
        lines.append(
            f"| {budget} | {row['method']} | {row['tokens']:.0f} | "
            f"{cell(row['sign_tokens_kept'])} | {cell(row['sign'])} | {gap(row)} | "
            f"{cell(row['still'])} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=16)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    vlm = foveate.load_vlm("embedded", device="cpu")
    videos = [make_video(number) for number in range(arguments.videos)]
    tallies = run(vlm, videos)
    randoms = {tally.budget: tally for tally in tallies if tally.spec == RANDOM}
    rows = [row_of(tally, randoms.get(tally.budget, tally), videos) for tally in tallies]
    write_results(
        "video",
        "Videos in which a frame matters",
        f"{len(videos)} videos of {FRAMES} frames of {PER_FRAME} tokens: a held-out page under "
        f"camera noise, one price of which is another for single frames, {FLASHES} times. Methods "
        "see all frames as they leave the projector. The embedded model reads one picture, so it "
        "is shown what a moment still has, at every place the latest token kept up to then, and is "
        "asked for each price that flashes and for one that never changes. That suits methods "
        "which keep what changes; the share of the sign's own tokens that are kept does not depend "
        "on it. Random tokens, random ones of every frame, a grid in every frame and whole frames "
        "are the controls; everything and the first frame alone are the ends of the scale. DTD "
        "counts itself, below the budget; its default threshold is of other towers, in whose "
        "features more moves. 95 % intervals over videos.",
        table_of(rows),
        {"rows": rows, "manifest": manifest(seed=0, videos=len(videos))},
    )


if __name__ == "__main__":
    main()
