"""Train the embedded Vist's index on pictures of segments and questions about them.

    python -m training.vist_index.train --data questions.jsonl --cache cache.safetensors \\
        --mask frequency --out index.safetensors

Loss: InfoNCE of each picture with its own text, half of whose tokens are masked (PVE; see
foveate.vist.train.pve), of each question with the picture it asks for, and with that segment's own
words. Negatives are the other segments of the batch, most of them of the same document. Documents
beyond `--pictured` have no pictures and train the words' side only.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from foveate.assets import text_encoder_path
from foveate.models.smollm2 import smollm2_path
from foveate.models.token_offsets import tokenise
from foveate.text_image.render import Renderer
from foveate.vist.encoder.text_encoder import load_text_encoder
from foveate.vist.fixation.index import patches_of_segments
from foveate.vist.fixation.segments import segment_starts
from foveate.vist.index_file import load_index, save_index
from foveate.vist.latents.index_head import IndexConfig, IndexHead
from foveate.vist.parts import weights_hash
from foveate.vist.train.pve import PveConfig, choose_mask, info_nce

__all__ = ["Cache", "Pairs", "main", "make_cache", "train"]

PAGES_AT_A_TIME = 16


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Flat rows of many groups: group i is rows start[i] to start[i + 1]."""

    rows: Tensor
    start: Tensor

    def of(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of some groups, and the place in `groups` that each belongs to."""
        sizes = self.start[groups + 1] - self.start[groups]
        own = torch.repeat_interleave(torch.arange(len(groups)), sizes)
        first = torch.repeat_interleave(self.start[groups] - sizes.cumsum(0) + sizes, sizes)
        return self.rows[first + torch.arange(len(own))], own


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Everything that training reads, in flat tensors.

    Attributes:
        features: patches of segments, float16; segments of documents without pictures have none.
        words, questions: token ids of segments and of questions.
        target: int64 [Q], the segment that each question asks for.
        documents: int64 [D + 1], first segment of each document.
        asked: int64 [D + 1], first question of each.
        pictured: int64, the documents that have pictures.
    """

    features: Pairs
    words: Pairs
    questions: Pairs
    target: Tensor
    documents: Tensor
    asked: Tensor
    pictured: Tensor


def make_cache(data: Path, file: Path, pictured: int, say: Callable[[str], None] = print) -> None:
    """Draw and encode the first documents, tokenise all."""
    encoder = load_text_encoder(text_encoder_path())
    tokenizer = AutoTokenizer.from_pretrained(smollm2_path())
    renderer = Renderer(encoder.style)
    flat: dict[str, list[Tensor]] = {"features": [], "words": [], "questions": []}
    sizes: dict[str, list[int]] = {"features": [], "words": [], "questions": []}
    target: list[int] = []
    documents, asked = [0], [0]
    began = time.monotonic()
    for number, line in enumerate(data.open(encoding="utf-8")):
        row = json.loads(line)
        ids, offsets = tokenise(tokenizer, row["text"])
        starts = segment_starts(row["text"], offsets)
        stops = np.append(starts, len(ids))[1:]
        if number < pictured:
            strips = renderer.render(row["text"])
            patch, segment = patches_of_segments(strips, offsets, starts)
            seen = torch.cat([
                _encoded(encoder, strips.pixels[i : i + PAGES_AT_A_TIME],
                         strips.patch_mask[i : i + PAGES_AT_A_TIME])
                for i in range(0, len(strips), PAGES_AT_A_TIME)
            ])  # fmt: skip
            flat["features"].append(seen[torch.from_numpy(patch)])
            sizes["features"] += np.bincount(segment, minlength=len(starts)).tolist()
        else:
            sizes["features"] += [0] * len(starts)
        flat["words"].append(torch.from_numpy(ids))
        sizes["words"] += (stops - starts).tolist()
        asks = [q for q in row["questions"] if q["stop"] > q["start"]]
        for said, q in zip(
            tokenizer([q["question"] for q in asks])["input_ids"], asks, strict=True
        ):
            middle = q["start"] + min(q["stop"] - q["start"], 80) // 2
            token = max(0, int(np.searchsorted(offsets[:, 0], middle, side="right")) - 1)
            target.append(documents[-1] + int(np.searchsorted(starts, token, side="right")) - 1)
            flat["questions"].append(torch.tensor(said))
            sizes["questions"].append(len(said))
        documents.append(documents[-1] + len(starts))
        asked.append(len(target))
        if number % 100 == 99:
            say(f"{number + 1} documents, {time.monotonic() - began:.0f} s")
    tensors = {name: torch.cat(parts) for name, parts in flat.items()}
    tensors |= {
        f"{name}.start": torch.tensor([0, *counts]).cumsum(0) for name, counts in sizes.items()
    }
    tensors |= {
        "target": torch.tensor(target),
        "documents": torch.tensor(documents),
        "asked": torch.tensor(asked),
        "pictured": torch.arange(min(pictured, len(documents) - 1)),
    }
    save_file(tensors, str(file))


@torch.no_grad()
def _encoded(encoder: Any, pixels: Any, mask: Any) -> Tensor:
    """Features of pages, [P * L, width] half."""
    with torch.autocast("cpu", torch.bfloat16):
        found: Tensor = encoder(torch.from_numpy(pixels), torch.from_numpy(mask))
    return found.flatten(0, 1).half()


def load_caches(files: Sequence[Path]) -> Cache:
    """What `make_cache` wrote, one after the other."""
    held = [load_file(str(file)) for file in files]
    pairs = {
        name: Pairs(
            rows=torch.cat([one[name] for one in held]),
            start=_joined([one[f"{name}.start"] for one in held]),
        )
        for name in ("features", "words", "questions")
    }
    segments = np.cumsum([0, *(int(one["documents"][-1]) for one in held)]).tolist()
    documents = np.cumsum([0, *(len(one["documents"]) - 1 for one in held)]).tolist()
    return Cache(
        **pairs,
        target=torch.cat([one["target"] + s for one, s in zip(held, segments, strict=False)]),
        documents=_joined([one["documents"] for one in held]),
        asked=_joined([one["asked"] for one in held]),
        pictured=torch.cat([one["pictured"] + d for one, d in zip(held, documents, strict=False)]),
    )


def _joined(starts: Sequence[Tensor]) -> Tensor:
    """Borders of lists that follow each other."""
    return torch.cat([torch.zeros(1, dtype=torch.int64), *(s.diff() for s in starts)]).cumsum(0)


def train(
    head: IndexHead,
    cache: Cache,
    table: Tensor,
    pve: PveConfig,
    *,
    words_steps: int,
    steps: int,
    lr: float = 2e-3,
    batch_segments: int = 256,
    batch_questions: int = 256,
    seed: int = 0,
    check: Callable[[int], str] = lambda step: "",
    say: Callable[[str], None] = print,
) -> None:
    """Train in place: first the words' side alone on all documents, then both on pictured ones.

    Args:
        head: on the CPU.
        cache: see there.
        table: the language model's input embeddings [V, D'].
        pve: mask and temperature.
        words_steps, steps: of the two parts.
        check: called every 100 steps; its text is logged.
    """
    lot = torch.Generator().manual_seed(seed)
    importance = _importance(cache.words, len(table))
    # Pictures have farther to go, from spelling to meaning, and in fewer steps.
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [p for p in pool.parameters() if (p.ndim > 1) == decays],
                "weight_decay": 0.02 * decays,
                "factor": factor,
            }
            for pool, factor in ((head.words, 1.0), (head.pictures, 2.0))
            for decays in (True, False)
        ],
        lr=lr,
        betas=(0.9, 0.98),
    )
    num_documents = len(cache.documents) - 1
    means: dict[str, float] = {}
    began = time.process_time()
    for step in range(words_steps + steps):
        both = step >= words_steps
        part, length = (step - words_steps, steps) if both else (step, words_steps)
        rate = min(1.0, (part + 1) / 20) * 0.5 * (1 + math.cos(math.pi * part / length))
        for group in optimizer.param_groups:
            group["lr"] = (group["factor"] * lr) * max(rate, 0.02)
        order = torch.randperm(len(cache.pictured) if both else num_documents, generator=lot)
        order = cache.pictured[order] if both else order
        segments, questions = _drawn(cache, order, batch_segments, batch_questions, lot)
        place = torch.full((len(cache.words.start) - 1,), -1)
        place[segments] = torch.arange(len(segments))
        own = place[cache.target[questions]]
        asked_ids, asked_text = cache.questions.of(questions)
        ids, text = cache.words.of(segments)
        groups = [(asked_ids, asked_text, len(questions)), (ids, text, len(segments))]
        if both:
            rows = torch.split(importance[ids], torch.bincount(text).tolist())
            kept = ~torch.cat([choose_mask(row, pve, lot) for row in rows])
            groups.append((ids[kept], text[kept], len(segments)))
        losses = {}
        with torch.autocast("cpu", torch.bfloat16):
            asked, whole, *masked = _words(head, table, groups)
        losses["question-words"] = F.cross_entropy(asked @ whole.T / pve.temperature, own)
        if both:
            features, segment = cache.features.of(segments)
            with torch.autocast("cpu", torch.bfloat16):
                seen = head.of_pictures(features.float(), segment, len(segments))
            losses["question-picture"] = F.cross_entropy(asked @ seen.T / pve.temperature, own)
            losses["pve"] = info_nce(seen, masked[0], pve.temperature, symmetric=pve.symmetric)
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        for name, loss in losses.items():
            means[name] = means.get(name, loss.item()) * 0.95 + 0.05 * loss.item()
        if step % 50 == 49 or step + 1 == words_steps + steps:
            shown_losses = ", ".join(f"{k} {v:.3f}" for k, v in means.items())
            noted = check(step + 1) if step % 100 == 99 or (both and part + 1 == length) else ""
            say(f"step {step + 1}: {shown_losses}; {time.process_time() - began:.0f} s {noted}")


def _words(
    head: IndexHead, table: Tensor, groups: list[tuple[Tensor, Tensor, int]]
) -> list[Tensor]:
    """Entries of several lists of texts (token ids, whose each is, how many) in one pass."""
    ids, take = torch.unique(torch.cat([group[0] for group in groups]), return_inverse=True)
    first, texts = 0, []
    for _, text, count in groups:
        texts.append(text + first)
        first += count
    entries = head.of_words(table[ids], torch.cat(texts), first, take)
    return list(torch.split(entries, [group[2] for group in groups]))


def _drawn(
    cache: Cache, order: Tensor, most: int, most_questions: int, lot: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Segments of whole documents in that order, and questions about them."""
    segments: list[Tensor] = []
    questions: list[Tensor] = []
    count = 0
    for document in order.tolist():
        first, stop = cache.documents[document : document + 2].tolist()
        if count + stop - first > most and segments:
            break
        segments.append(torch.arange(first, stop)[:most])
        count += len(segments[-1])
        asked = torch.arange(*cache.asked[document : document + 2].tolist())
        questions.append(asked[cache.target[asked] < first + most])
    asked = torch.cat(questions)
    return torch.cat(segments), asked[torch.randperm(len(asked), generator=lot)[:most_questions]]


def _importance(words: Pairs, vocabulary: int) -> Tensor:
    """s_w = log(|S| / (1 + count(w))), counted in segments, [V]."""
    num = len(words.start) - 1
    segment = torch.repeat_interleave(torch.arange(num), words.start.diff())
    once = torch.unique(segment * vocabulary + words.rows) % vocabulary
    return torch.log(num / (1 + torch.bincount(once, minlength=vocabulary).float()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--cache", type=Path, nargs="+", required=True, help="one for each data")
    parser.add_argument("--pictured", type=int, default=900, help="documents with pictures")
    parser.add_argument("--mask", default="frequency", choices=("frequency", "random", "none"))
    parser.add_argument("--temperature", type=float, default=0.05)
    parser.add_argument("--words-steps", type=int, default=300)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="a head with the words' side to go on with")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for data, file in zip(options.data, options.cache, strict=True):
        if not file.exists():
            make_cache(data, file, options.pictured)
    if options.out is None:
        return
    cache = load_caches(options.cache)
    model = AutoModelForCausalLM.from_pretrained(smollm2_path(), dtype=torch.float32)
    table, base = model.get_input_embeddings().weight.detach().clone(), weights_hash(model)
    del model
    torch.manual_seed(options.seed)
    head = IndexHead(
        IndexConfig(
            input_width=cache.features.rows.shape[1],
            embedding_width=table.shape[1],
            temperature=options.temperature,
        )
    )
    if options.start is not None:
        head.words.load_state_dict(load_index(options.start).words.state_dict())
    pve = PveConfig(mask=options.mask, temperature=options.temperature, symmetric=True)
    train(head, cache, table, pve, words_steps=options.words_steps, steps=options.steps,
          seed=options.seed)  # fmt: skip
    save_index(
        head,
        options.out,
        encoder=weights_hash(load_text_encoder(text_encoder_path())),
        base=base,
    )


if __name__ == "__main__":
    main()
