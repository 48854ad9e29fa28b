"""Train the character head alone: ``python -m training.text_encoder.train_head --data FILE...``.

The encoder below the head stays as it is to the last bit, so that whatever was trained on its
features holds. Features of the strips are computed once; a step is a batch of their patches.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812

from foveate.assets import text_encoder_path
from foveate.vist.encoder.text_encoder import TextEncoder, load_text_encoder, save_text_encoder
from training.text_encoder.data import ReaderData, read_documents

__all__ = ["HeadRecipe", "train_head"]

HEAD = ("slot_head", "classes", "class_bias")


@dataclass(frozen=True, kw_only=True)
class HeadRecipe:
    """How to train.

    Args:
        strips: drawn once.
        exact_share, typeset_share, tab_share: of the strips, see ReaderData.
        steps, batch: of patches.
        lr: of AdamW, falling linearly to zero.
        seed: of all that is drawn.
    """

    strips: int = 1600
    exact_share: float = 0.25
    typeset_share: float = 0.2
    tab_share: float = 0.2
    steps: int = 2000
    batch: int = 2048
    lr: float = 3e-4
    seed: int = 0


def train_head(encoder: TextEncoder, data: ReaderData, recipe: HeadRecipe) -> list[float]:
    """Train `HEAD` in place; returns the loss of every hundredth step, nats per slot."""
    features, wanted = _patches(encoder, data, recipe.strips)
    learns = [p for name, p in encoder.named_parameters() if name.startswith(HEAD)]
    for weight in learns:
        weight.requires_grad_(True)
    optimiser = torch.optim.AdamW(learns, lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.0)
    generator = torch.Generator().manual_seed(recipe.seed)
    losses = []
    for step in range(recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr * min(1.0, (step + 1) / 50) * (1 - step / recipe.steps)
        rows = torch.randint(len(features), (recipe.batch,), generator=generator)
        slots, targets = encoder.slot_logits(features[rows].float()), wanted[rows].long()
        # Every slot counts alike: with less for blanks the head saw signs where there were none.
        loss = F.cross_entropy(slots.flatten(0, 1), targets.flatten())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step % 100 == 0 or step + 1 == recipe.steps:
            losses.append(round(loss.item(), 5))
            print(json.dumps({"step": step, "loss": losses[-1]}), flush=True)
    encoder.requires_grad_(False)
    return losses


@torch.no_grad()
def _patches(
    encoder: TextEncoder, data: ReaderData, strips: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features float16 [R, width] and classes uint8 [R, slots] of all patches with text."""
    features, wanted = [], []
    for number in range(strips):
        batch = data.batch(number, 1)
        features.append(encoder(batch.pixels, batch.patch_mask)[batch.patch_mask].half())
        wanted.append(batch.characters[batch.patch_mask].to(torch.uint8))
    return torch.cat(features), torch.cat(wanted)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, train, and export the encoder."""
    parser = argparse.ArgumentParser(prog="python -m training.text_encoder.train_head")
    parser.add_argument("--encoder", type=Path, default=text_encoder_path())
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="JSONL or plain text")
    parser.add_argument("--llm", type=Path, required=True, help="folder of the language model")
    parser.add_argument("--strips", type=int, default=HeadRecipe.strips)
    parser.add_argument("--steps", type=int, default=HeadRecipe.steps)
    parser.add_argument("--seed", type=int, default=HeadRecipe.seed)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="folder of the encoder")
    options = parser.parse_args(arguments)
    from foveate.models.llm_vocabulary import load_llm_vocabulary

    torch.set_num_threads(options.threads)
    recipe = HeadRecipe(strips=options.strips, steps=options.steps, seed=options.seed)
    encoder = load_text_encoder(options.encoder)
    data = ReaderData(
        read_documents(options.data),
        load_llm_vocabulary(options.llm).tokens_of,
        seed=recipe.seed,
        slots=encoder.config.slots,
        exact_share=recipe.exact_share,
        typeset_share=recipe.typeset_share,
        tab_share=recipe.tab_share,
    )
    train_head(encoder, data, recipe)
    save_text_encoder(encoder, options.out)


if __name__ == "__main__":
    main()
