"""Train the text encoder: ``python -m training.text_encoder.train --data FILE... --llm DIR``.

Two losses: the characters in the slots of every patch (and, early on, of the stem's columns),
and the LLM's input embeddings of the tokens that end in a patch. Batches are drawn by number, so
a resumed run continues exactly; the step sizes warm up, stay, and fall to zero over the last steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from foveate.vist.encoder.labels import edit_distance, text_of
from foveate.vist.encoder.text_encoder import TextEncoder, TextEncoderConfig, save_text_encoder
from foveate.vist.train.reading_loss import character_loss, token_loss, token_table, token_top1
from training.run import Run
from training.text_encoder.data import Document, ReaderBatch, ReaderData, read_documents, stack

__all__ = ["Recipe", "Trainee", "held_out_scores", "held_out_strips", "train_reader"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    Args:
        steps: length of the whole run; step sizes fall linearly over the last decay_steps.
        batch: strips per step.
        muon_lr, adam_lr: see `training.run.Run`.
        warmup: steps over which step sizes rise.
        token_weight, token_weight_end: weight of the token loss before step ramp[0] and after
            step ramp[1]; linear between.
        column_steps: steps with a character loss on the stem's columns too.
        chosen, negatives: tokens per step that the token loss looks at, and random others.
        seed: of weights and data.
    """

    steps: int = 3000
    decay_steps: int = 1000
    batch: int = 8
    muon_lr: float = 0.012
    adam_lr: float = 0.002
    warmup: int = 30
    token_weight: float = 0.1
    token_weight_end: float = 0.5
    ramp: tuple[int, int] = (300, 900)
    column_steps: int = 500
    chosen: int = 1024
    negatives: int = 2048
    seed: int = 0

    def token_weight_at(self, step: int) -> float:
        """Weight of the token loss at a step."""
        start, stop = self.ramp
        share = min(1.0, max(0.0, (step - start) / max(1, stop - start)))
        return self.token_weight + share * (self.token_weight_end - self.token_weight)

    def scale_at(self, step: int) -> float:
        """Factor on the step sizes at a step."""
        left = (self.steps - step) / max(1, self.decay_steps)
        return min(1.0, (step + 1) / max(1, self.warmup), left)


class Trainee(nn.Module):
    """The encoder, and a character head on the stem's columns that only training needs."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.encoder = TextEncoder(config)
        self.column_classes = nn.Parameter(
            torch.randn(config.num_classes, config.stem_width) * config.stem_width**-0.5
        )

    def forward(
        self,
        batch: ReaderBatch,
        table: torch.Tensor,
        recipe: Recipe,
        step: int,
    ) -> dict[str, torch.Tensor]:
        """The losses of a batch by name; "total" is their weighted sum."""
        encoder = self.encoder
        features, columns = encoder.features(batch.pixels, batch.patch_mask)
        slots = encoder.slot_logits(features)
        losses = {"characters": character_loss(slots, batch.characters, batch.patch_mask)}
        total = losses["characters"]
        if step < recipe.column_steps:
            logits = F.linear(columns, self.column_classes).view(slots.shape)
            losses["columns"] = character_loss(logits, batch.characters, batch.patch_mask)
            total = total + losses["columns"]
        weight, places = recipe.token_weight_at(step), torch.nonzero(batch.tokens >= 0)
        if weight and len(places):
            generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
            order = torch.randperm(len(places), generator=generator)[: recipe.chosen]
            page, patch, which = places[order].unbind(1)
            vectors = encoder.token_vectors(features[page, patch])
            vectors = vectors[torch.arange(len(which)), which]
            others = torch.randint(len(table), (recipe.negatives,), generator=generator)
            targets = batch.tokens[page, patch, which]
            losses["tokens"] = token_loss(vectors, targets, table, others)
            total = total + weight * losses["tokens"]
        return {**losses, "total": total}


def held_out_strips(
    documents: Sequence[Document], data: ReaderData, count: int, seed: int = 1
) -> ReaderBatch:
    """Return `count` strips of held-out documents for the log, always the same ones."""
    fixed = ReaderData(
        documents,
        data.tokenise,
        seed=seed,
        slots=data.slots,
        exact_share=0.0,
        typeset_share=0.0,
        short_share=0.0,
        style=data.renderer.style,
    )
    return stack([fixed.batch(number, 1) for number in range(count)])


@torch.no_grad()
def held_out_scores(
    encoder: TextEncoder, batch: ReaderBatch, table: torch.Tensor, most_tokens: int = 768
) -> dict[str, float]:
    """Character, slot and token accuracy on a batch."""
    features = encoder(batch.pixels, batch.patch_mask)
    best = encoder.slot_logits(features).argmax(-1)
    wrong = 0
    for row, mask, text in zip(best, batch.patch_mask, batch.texts, strict=True):
        wrong += edit_distance(text_of(row[mask].numpy()), text)
    scores = {
        "character_accuracy": 1 - wrong / sum(len(text) for text in batch.texts),
        "slot_accuracy": (best == batch.characters)[batch.patch_mask].float().mean().item(),
    }
    if encoder.token_head is not None:
        for which, name in enumerate(("token_top1", "token_before_top1")):
            page, patch = torch.nonzero(batch.tokens[..., which] >= 0)[:most_tokens].unbind(1)
            if not len(page):
                continue
            vectors = encoder.token_vectors(features[page, patch])[:, which]
            hits = token_top1(vectors, table) == batch.tokens[page, patch, which]
            scores[name] = hits.float().mean().item()
    return scores


def train_reader(
    folder: Path,
    data: ReaderData,
    table: torch.Tensor,
    recipe: Recipe,
    config: TextEncoderConfig,
    *,
    held_out: ReaderBatch | None = None,
    minutes: float = float("inf"),
    report_every: int = 50,
    save_every: float = 300.0,
) -> Trainee:
    """Train to the recipe's last step, or for `minutes` of this call; resume from `folder`.

    Writes `folder`/reader/step-N (weights, optimiser) and `folder`/reader.log (JSON lines). A run
    cut into several calls gives the same weights as one, bit by bit, on one machine.
    """
    torch.manual_seed(recipe.seed)
    trainee = Trainee(config)
    run = Run(
        folder,
        "reader",
        trainee,
        trainee,
        muon_lr=recipe.muon_lr,
        adam_lr=recipe.adam_lr,
        clip=2.0,
        minutes=minutes,
        max_steps=recipe.steps,
        save_every=save_every,
    )
    while run.goes_on():
        losses = run.model(data.batch(run.draw, recipe.batch), table, recipe, run.step)
        run.learn(losses["total"], recipe.scale_at(run.step))
        for name, value in losses.items():
            run.note(name, value.item())
        if run.step % report_every == 0:
            run.log(**held_out_scores(trainee.encoder, held_out, table) if held_out else {})
        run.keep()
    run.close()
    return trainee


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, train, and export the encoder."""
    parser = argparse.ArgumentParser(prog="python -m training.text_encoder.train")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="JSONL or plain text")
    parser.add_argument("--held-out", type=Path, nargs="*", default=[], help="for the log only")
    parser.add_argument("--llm", type=Path, required=True, help="folder of the language model")
    parser.add_argument("--folder", type=Path, required=True, help="checkpoints and log")
    parser.add_argument("--out", type=Path, help="export the encoder here at the end")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--threads", type=int, default=1)
    for name, value in asdict(Recipe()).items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, tuple):
            parser.add_argument(flag, type=int, nargs=len(value), default=value)
        else:
            parser.add_argument(flag, type=type(value), default=value)
    options = vars(parser.parse_args(arguments))
    from foveate.models.llm_vocabulary import load_llm_vocabulary

    torch.set_num_threads(options["threads"])
    recipe = Recipe(**{name: options[name] for name in asdict(Recipe())})
    vocabulary = load_llm_vocabulary(options["llm"])
    table = token_table(vocabulary.embeddings)
    data = ReaderData(read_documents(options["data"]), vocabulary.tokens_of, seed=recipe.seed)
    held_out = None
    if options["held_out"]:
        held_out = held_out_strips(read_documents(options["held_out"]), data, 16)
    config = TextEncoderConfig(token_width=table.shape[1])
    trainee = train_reader(
        options["folder"],
        data,
        table,
        recipe,
        config,
        held_out=held_out,
        minutes=options["minutes"],
    )
    if options["out"]:
        save_text_encoder(trainee.encoder, options["out"])


if __name__ == "__main__":
    main()
