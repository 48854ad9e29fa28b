"""Which tokens the frozen reader names right, on six kinds of text it was not trained on.

    python -m benchmarks.reader_tokens --prose wikitext-2.valid.txt --icl icl \\
        --manuals debian-handbook.en.txt --tables docs/results/*.md

Code is this Python's own standard library, logs are made up; the other kinds are the user's files.
Excerpts are drawn as strips, read where the tokens stand, and held against the source's tokens.
The control reads the same places of the strips of another excerpt of the kind.
"""

from __future__ import annotations

import argparse
import random
import re
import sysconfig
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.results import write_results
from foveate.assets import text_encoder_path
from foveate.measure.manifest import manifest
from foveate.measure.quality import middle_95, resampled_ratios
from foveate.models.llm_vocabulary import load_llm_vocabulary
from foveate.models.smollm2 import smollm2_path
from foveate.models.token_offsets import tokenise
from foveate.tasks.icl import load_icl_sets
from foveate.text_image.render import Renderer
from foveate.vist.encoder.characters import read_characters
from foveate.vist.encoder.text_encoder import TextEncoder, load_text_encoder
from foveate.vist.encoder.token_reader import TokenReader

EXCERPT = 2000  # characters; the unit of the bootstrap
LAYOUT = re.compile(r"\n|\t|  ")  # line ends, tabs and runs of blanks
NAME = "reader-tokens"


def excerpts(texts: Sequence[str], count: int, lot: random.Random) -> list[str]:
    """Places spread over all texts, each text as often as it is long."""
    long = [text for text in texts if text.strip()]
    chosen = lot.choices(long, weights=[len(text) for text in long], k=count)
    return [text[at : at + EXCERPT] for text in chosen
            for at in [lot.randrange(max(1, len(text) - EXCERPT))]]  # fmt: skip


def log_text(lot: random.Random) -> str:
    """Lines of a made-up server's log."""
    lines: list[str] = []
    while sum(map(len, lines)) < EXCERPT:
        day = f"2026-{lot.randint(1, 12):02}-{lot.randint(1, 28):02}"
        time = ":".join(f"{lot.randrange(60):02}" for _ in range(3))
        level = lot.choice(("INFO ", "WARN ", "ERROR"))
        what = lot.choice((_request, _connection, _traceback))(lot)
        worker = lot.randint(1, 32)
        lines.append(f"{day}T{time}.{lot.randrange(1000):03}Z {level} [worker-{worker}] {what}\n")
    return "".join(lines)


def _request(lot: random.Random) -> str:
    path = f"/api/v{lot.randint(1, 3)}/items/{lot.getrandbits(32):08x}"
    return f"GET {path} {lot.choice((200, 404, 503))} {lot.randint(1, 9999)}ms"


def _connection(lot: random.Random) -> str:
    host = f"{lot.randint(1, 255)}.{lot.randrange(256)}.0.{lot.randrange(256)}"
    return f"connection from {host}:{lot.randrange(65536)} closed (timeout={lot.randint(1, 60)}s)"


def _traceback(lot: random.Random) -> str:
    place = f'  File "/srv/app/{lot.choice(("db", "io"))}.py", line {lot.randint(1, 900)}, in run'
    error = f'\traise ValueError("bad key 0x{lot.getrandbits(24):06x}")'
    return f"Traceback (most recent call last):\n{place}\n{error}"


def indented(text: str, lot: random.Random) -> str:
    """A quarter of the code with tabs."""
    return text.replace(" " * 4, "\t") if lot.random() < 0.25 else text


@torch.no_grad()
def read(
    encoder: TextEncoder, reader: TokenReader, texts: Sequence[str]
) -> tuple[list[Counter[str]], Counter[str]]:
    """Counts of each excerpt, and what was misread as what."""
    counts, missed = [], Counter[str]()
    renderer = Renderer(encoder.style)
    drawn = [renderer.render(text) for text in texts]
    features = []
    for strips in drawn:
        mask = torch.from_numpy(strips.patch_mask)
        features.append(encoder(torch.from_numpy(strips.pixels), mask))
    for number, (text, strips) in enumerate(zip(texts, drawn, strict=True)):
        ids, offsets = tokenise(reader.tokenizer, text)
        characters = read_characters(encoder, features[number], strips)
        found = reader.read(characters, offsets)
        right = found.ids == ids
        layout = np.array([bool(LAYOUT.search(text[a:b])) for a, b in offsets.tolist()])
        other = features[(number + 1) % len(texts)]
        short = min(len(other), len(strips))
        swapped = torch.cat([other[:short], features[number][short:] * 0])
        blind = reader.read(read_characters(encoder, swapped, strips), offsets)
        counts.append(Counter(
            tokens=len(ids), right=int(right.sum()),
            layout=int(layout.sum()), layout_right=int((layout & right).sum()),
            characters=len(text),
            characters_right=sum(a == b for a, b in zip(characters.text, text, strict=True)),
            unreadable=int(characters.unreadable.sum()), control=int((blind.ids == ids).sum()),
        ))  # fmt: skip
        for at in np.flatnonzero(~right)[:50]:
            a, b = offsets[at].tolist()
            missed[f"{text[a:b]!r} as {found.text[a:b]!r}"] += 1
    return counts, missed


def score(
    encoder: TextEncoder, reader: TokenReader, kinds: Mapping[str, Sequence[str]], seed: int
) -> list[dict[str, Any]]:
    """A row for each kind of text."""
    rows = []
    for kind, texts in kinds.items():
        counts, missed = read(encoder, reader, texts)
        total = sum(counts, Counter[str]())
        whole = np.array([[c["right"], c["tokens"]] for c in counts], dtype=np.float64)
        low, high = middle_95(resampled_ratios(*whole.T, seed=seed))
        rows.append({
            "kind": kind, "excerpts": len(texts), **{k: total[k] for k in (
                "tokens", "right", "layout", "layout_right", "characters", "characters_right",
                "unreadable", "control")},
            "share": total["right"] / total["tokens"], "low": low, "high": high,
            "most_missed": dict(missed.most_common(8)),
        })  # fmt: skip
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown."""
    lines = [
        "| text | tokens | right, % | line ends, tabs, runs of blanks | characters, % | said to be "
        "unreadable | control, % | most missed |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        missed = ", ".join(f"{name} ({n})" for name, n in list(row["most_missed"].items())[:3])
        layout = f"{100 * row['layout_right'] / row['layout']:.2f}" if row["layout"] else "-"
        lines.append(
            f"| {row['kind']} | {row['tokens']:,} | {100 * row['share']:.2f} "
            f"({100 * row['low']:.2f}-{100 * row['high']:.2f}) | {layout} of {row['layout']:,} | "
            f"{100 * row['characters_right'] / row['characters']:.2f} | {row['unreadable']} | "
            f"{100 * row['control'] / row['tokens']:.1f} | {missed.replace('|', '&#124;')} |"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, score, write docs/results/reader-tokens."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME.replace('-', '_')}")
    for kind in ("prose", "manuals", "tables"):
        parser.add_argument(f"--{kind}", type=Path, nargs="+", required=True, help="text files")
    parser.add_argument("--icl", type=Path, required=True, help="folder of labelled sets")
    parser.add_argument("--encoder", type=Path, default=text_encoder_path())
    parser.add_argument("--excerpts", type=int, default=25, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    lot = random.Random(options.seed)
    count = options.excerpts
    kinds = {
        kind: excerpts([p.read_text(encoding="utf-8") for p in getattr(options, kind)], count, lot)
        for kind in ("prose", "manuals", "tables")
    }
    library = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    code = excerpts([p.read_text(encoding="utf-8") for p in library], count, lot)
    kinds["code"] = [indented(text, lot) for text in code]
    kinds["logs"] = [log_text(lot) for _ in range(count)]
    kinds["demonstrations"] = []
    for data in load_icl_sets(options.icl):
        shown = data.demonstrations(18, options.seed)
        kinds["demonstrations"].append("".join(f"{data.shown(one)}\n\n" for one in shown))
    reader = TokenReader(load_llm_vocabulary(smollm2_path()).tokenizer)
    rows = score(load_text_encoder(options.encoder), reader, kinds, options.seed)
    write_results(
        NAME,
        "Tokens that the embedded reader names right",
        "Excerpts of held-out text, drawn as strips, read by the frozen encoder's character slots "
        "where the tokens stand; a token is right when its id is the source's. 95 % intervals over "
        "excerpts. Control: features of another excerpt's strips. A quarter of the code is "
        f"indented by tabs. {count} excerpts of {EXCERPT:,} characters of each kind, 18 "
        "demonstrations of each of the labelled sets.",
        table(rows),
        {"manifest": manifest(seed=options.seed), "rows": rows},
    )


if __name__ == "__main__":
    main()
