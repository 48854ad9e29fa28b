"""Score a text encoder: ``python -m training.text_encoder.score --data FILES --llm DIR --out F``.

What it reads on held-out text, per domain, and on exact strings that no language model could
guess; and how often the LLM's token that ends in a patch is the nearest of the whole vocabulary to
what the features of that patch alone say.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foveate.assets import text_encoder_path
from foveate.measure.manifest import manifest
from foveate.measure.quality import middle_95, resampled_ratios
from foveate.vist.encoder.labels import BLANK, edit_distance, text_of
from foveate.vist.encoder.text_encoder import TextEncoder, load_text_encoder
from foveate.vist.train.reading_loss import token_table, token_top1
from training.text_encoder.data import Document, ReaderBatch, ReaderData, read_documents
from training.text_encoder.exact_strings import exact_strings

__all__ = ["Tally", "exact_documents", "main", "markdown", "score_reader"]

_EXCERPT = 20_000  # characters; the unit of the bootstrap where a domain has few documents
_FEW = 5
_MEASURES = (
    "character_accuracy",
    "slot_accuracy",
    "whole_words",
    "token_top1",
    "token_before_top1",
)


@dataclass
class Tally:
    """Right and total of each measure in one unit (document or excerpt) of a domain."""

    right: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    total: Counter[str] = field(default_factory=Counter)

    def add(self, measure: str, right: float, total: int) -> None:
        """Count `right` of `total` more."""
        self.right[measure] += right
        self.total[measure] += total


def exact_documents(seed: int, count: int = 12, words: int = 60) -> list[Document]:
    """Documents of exact strings: hex of 16, numbers of 8 digits, and training's mixture anew."""
    documents = []
    for number in range(count):
        rng = random.Random(f"score/{seed}/{number}")
        hexes = " ".join(f"{rng.getrandbits(64):016x}" for _ in range(words))
        numbers = " ".join(f"{rng.randrange(10**8):08d}" for _ in range(2 * words))
        documents += [
            Document(hexes, "hex strings of 16"),
            Document(numbers, "numbers of 8 digits"),
            Document(exact_strings(rng, 2000), "exact strings, mixed"),
        ]
    return documents


def score_reader(
    encoder: TextEncoder,
    data: ReaderData,
    documents: Sequence[Document],
    table: torch.Tensor,
    *,
    strips: int = 200,
    tokens_per_strip: int = 64,
    seed: int = 0,
) -> dict[str, Any]:
    """Return scores per domain, with 95 % bootstrap intervals over documents or excerpts.

    Args:
        encoder: the reader.
        data: renders and tokenises (its corpus is not used).
        documents: what to read.
        table: token directions, [V, D].
        strips: most strips per domain, drawn over all its excerpts.
        tokens_per_strip: most tokens per strip that are looked up in the whole vocabulary.
        seed: of the draws.
    """
    report = {}
    for domain in dict.fromkeys(document.domain for document in documents):
        own = [document.text for document in documents if document.domain == domain]
        tallies: dict[int, Tally] = defaultdict(Tally)
        missed: Counter[str] = Counter()
        for unit, text in _draw(own, strips, random.Random(f"{seed}/{domain}")):
            batch = data.first_strip(text)
            _score_strip(encoder, batch, table, tallies[unit], missed, tokens_per_strip)
        report[domain] = {
            "documents": len(own),
            "units": len(tallies),
            "unit": "document" if len(own) >= _FEW else f"excerpt of {_EXCERPT} characters",
            "characters": sum(t.total["character_accuracy"] for t in tallies.values()),
            **{name: _interval(list(tallies.values()), name, seed) for name in _MEASURES},
            "most_missed": dict(missed.most_common(12)),
        }
    return report


def _draw(texts: list[str], strips: int, rng: random.Random) -> Iterator[tuple[int, str]]:
    """(unit, text of at least a strip where there is so much) of places spread over all texts."""
    if len(texts) >= _FEW:
        units = list(enumerate(texts))
    else:
        parts = [t[at : at + _EXCERPT] for t in texts for at in range(0, len(t), _EXCERPT)]
        units = list(enumerate(parts))
    rng.shuffle(units)
    for turn in range(strips):
        unit, text = units[turn % len(units)]
        # A unit's first strip starts at its beginning; the others at any of its characters.
        start = 0 if turn < len(units) else rng.randrange(max(1, len(text) - 800))
        yield unit, text[start : start + 1200]


@torch.no_grad()
def _score_strip(
    encoder: TextEncoder,
    batch: ReaderBatch,
    table: torch.Tensor,
    tally: Tally,
    missed: Counter[str],
    tokens_per_strip: int,
) -> None:
    features = encoder(batch.pixels, batch.patch_mask)
    mask, text = batch.patch_mask, batch.texts[0]
    best, wanted = encoder.slot_logits(features).argmax(-1)[mask], batch.characters[mask]
    read = text_of(best.numpy())
    tally.add("character_accuracy", len(text) - edit_distance(read, text), len(text))
    tally.add("slot_accuracy", float((best == wanted).sum()), wanted.numel())
    for got, want in zip(best[best != wanted].numpy(), wanted[best != wanted].numpy(), strict=True):
        missed[f"{text_of(np.array([want]))!r} read as {text_of(np.array([got]))!r}"] += 1
    words = _whole_words(best.flatten().numpy(), wanted.flatten().numpy(), text)
    tally.add("whole_words", sum(words), len(words))
    for which, name in enumerate(("token_top1", "token_before_top1")):
        page, patch = torch.nonzero(batch.tokens[..., which] >= 0)[:tokens_per_strip].unbind(1)
        vectors = encoder.token_vectors(features[page, patch])[:, which]
        hits = token_top1(vectors, table) == batch.tokens[page, patch, which]
        tally.add(name, float(hits.sum()), len(hits))


def _whole_words(best: np.ndarray, wanted: np.ndarray, text: str) -> list[bool]:
    """For each word between blanks, whether every slot from its first to its last character fits.

    Empty when some characters of the strip have no slot of their own.
    """
    slots = np.flatnonzero(wanted != BLANK)
    if len(slots) != len(text):
        return []
    right = best == wanted
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    return [bool(right[slots[start] : slots[stop - 1] + 1].all()) for start, stop in spans]


def _interval(tallies: list[Tally], measure: str, seed: int) -> dict[str, float] | None:
    """Ratio of sums over units, with the percentiles of resampled units."""
    sums = np.array([(t.right[measure], t.total[measure]) for t in tallies], dtype=np.float64)
    if not sums[:, 1].sum():
        return None
    low, high = middle_95(resampled_ratios(*sums.T, seed=seed))
    return {"value": float(sums[:, 0].sum() / sums[:, 1].sum()), "low": low, "high": high}


def markdown(report: dict[str, Any]) -> str:
    """The report as a Markdown document."""
    facts = report["manifest"]
    lines = [
        "# Reading of the embedded text encoder",
        "",
        "Per cent, with 95 % bootstrap intervals over documents (over excerpts of "
        f"{_EXCERPT} characters where a domain has fewer than {_FEW} documents). Characters: 1 - "
        "edit distance / length, strip by strip. Slots: places of 2 px that are right, empty too. "
        "Whole words: between blanks, all slots from the first to the last character right. "
        "Tokens: the last (and second-last) token that ends in a patch is the nearest of the whole "
        f"vocabulary ({facts['vocabulary']} tokens) to what that patch's features say.",
        "",
        "| text | documents | characters | character accuracy | slot accuracy | whole words | "
        "token, top 1 | token before it |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for domain, row in report["scores"].items():
        cells = [_cell(row[name]) for name in _MEASURES]
        head = f"| {domain} | {row['documents']} | {row['characters']} | "
        lines.append(head + " | ".join(cells) + " |")
    lines += [
        "",
        f"Made by `{report['command']}`: foveate {facts['foveate']} at commit {facts['commit']}, "
        f"torch {facts['torch']}, {facts['hardware']['cpu']}, {facts['hardware']['threads']} "
        f"thread(s), seed {facts['seed']}.",
    ]
    return "\n".join(lines) + "\n"


def _cell(interval: dict[str, float] | None) -> str:
    if interval is None:
        return "-"
    value, low, high = (100 * interval[name] for name in ("value", "low", "high"))
    return f"{value:.2f} ({low:.2f}-{high:.2f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, score, write ``OUT.json`` and ``OUT.md``."""
    parser = argparse.ArgumentParser(prog="python -m training.text_encoder.score")
    parser.add_argument("--encoder", type=Path, default=text_encoder_path())
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="JSONL or plain text")
    parser.add_argument("--llm", type=Path, required=True, help="folder of the language model")
    parser.add_argument("--strips", type=int, default=200, help="most strips per domain")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    options = parser.parse_args(arguments)
    from foveate.models.llm_vocabulary import load_llm_vocabulary

    torch.set_num_threads(options.threads)
    vocabulary = load_llm_vocabulary(options.llm)
    encoder = load_text_encoder(options.encoder)
    documents = [*read_documents(options.data), *exact_documents(options.seed)]
    data = ReaderData(documents, vocabulary.tokens_of, slots=encoder.config.slots)
    table = token_table(vocabulary.embeddings)
    scores = score_reader(encoder, data, documents, table, strips=options.strips, seed=options.seed)
    names = " ".join(file.name for file in options.data)
    report = {
        "command": f"python -m training.text_encoder.score --data {names} "
        f"--llm {options.llm.name} --strips {options.strips} --out docs/results/{options.out.name}",
        "manifest": manifest(seed=options.seed, vocabulary=len(table)),
        "scores": scores,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".json").write_text(
        json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    options.out.with_suffix(".md").write_text(markdown(report), encoding="utf-8")


if __name__ == "__main__":
    main()
