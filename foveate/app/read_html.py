"""What the Read tab shows, as HTML: the strips, both parts of the text, counts, three answers."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from foveate.app.carve_html import megabytes
from foveate.app.read import Said, TextReading
from foveate.text_image.strips import Strips

__all__ = ["reading_answers_html", "reading_counts_html", "strips_html", "text_parts_html"]

PIECES = 7  # a strip is cut into so many lines, so that it fits a page
SHOWN = 24  # strips at most
SHOWN_LOST = 8
WAYS = (
    ("compressed", "Far part as pictures"),
    ("absent", "Far part not read"),
    ("full", "Far part as text"),
)


def reading_counts_html(state: TextReading) -> str:
    """Tokens and memory before and after."""
    reading, strips = state.reading, state.strips
    looked = state.look.num_raw if state.look is not None else 0
    raw = state.tokens_after - state.latents - looked
    pictures = len(strips) if strips is not None else 0
    far_tokens = state.tokens_before - raw
    share = state.tokens_after / state.tokens_before
    kv = f"{megabytes(state.kv_bytes_before)} to {megabytes(state.kv_bytes_after)}"
    rows = [
        ("tokens before", f"{state.tokens_before:,}"),
        ("after", f"{state.tokens_after:,} ({100 * share:.0f} %)"),
        ("read as pictures", f"{far_tokens:,} tokens in {pictures} pictures"),
        ("which become", _become(state)),
        ("read as text", f"{raw:,} tokens, {len(reading.recent_ids):,} of them the text's end"),
        ("KV cache", kv),
        ("reading took", f"{state.seconds_read:.1f} s, once for any number of questions"),
    ]
    told = "".join(f"<dt>{a}</dt><dd>{escape(b)}</dd>" for a, b in rows)
    return f'{_lost_html(state)}<dl class="counts">{told}</dl>'


def _lost_html(state: TextReading) -> str:
    """What the answers know nothing of."""
    if not state.lost:
        return ""
    count = state.lost.total()
    share = 100 * count / len(state.reading.far)
    shown = ", ".join(f"U+{ord(char):04X} {char}" for char in list(state.lost)[:SHOWN_LOST])
    return (
        f'<p class="note">{count:,} characters ({share:.2g} %) of the pictures cannot be shown to '
        f"this model ({escape(shown)}), so it knows nothing of them.</p>"
    )


def _become(state: TextReading) -> str:
    if state.look is None:
        return f"{state.latents:,} latents"
    look = state.look
    again = f" ({look.num_again:,} of them a second time)" if look.num_again else ""
    return (
        f"{look.num_raw:,} tokens looked at{again} in {len(look.places)} places and "
        f"{state.latents:,} latents"
    )


def reading_answers_html(state: TextReading) -> str:
    """The answer, or the continuation, in the three ways."""
    kind = "Continuation" if state.question is None else "Answer"
    cards = "".join(_card(kind, title, getattr(state, name)) for name, title in WAYS)
    return f'<div class="cards three">{cards}</div>'


def strips_html(strips: Strips | None) -> str:
    """The pictures that the encoder reads, each cut into lines that fit a screen."""
    if strips is None or not len(strips):
        return "<p>Nothing is read as pictures.</p>"
    shown = [_strip(strips, page) for page in range(min(len(strips), SHOWN))]
    more = ""
    if len(strips) > SHOWN:
        more = f"<p>The first {SHOWN} of {len(strips):,} pictures.</p>"
    return (
        "<h3>What the encoder sees</h3>"
        f'<div class="scroll strips" tabindex="0" role="region" '
        f'aria-label="{len(strips)} pictures of the far text">{"".join(shown)}</div>{more}'
    )


def text_parts_html(state: TextReading) -> str:
    """The text with its parts told apart by colour and by name, and where the question looked."""
    reading = state.reading
    start = f'<span class="raw">{escape(reading.opening)}</span>' if reading.opening else ""
    legend = [("merged", "read as pictures"), ("kept", "read as text")]
    if state.look is not None:
        legend.append(("kept", "in a box: looked at again, as text"))
    swatches = "".join(
        f'<span><span class="swatch {kind}"></span> {name}</span>' for kind, name in legend
    )
    recent = ""
    if reading.recent:
        recent = f'<span class="raw" aria-label="read as text">{escape(reading.recent)}</span>'
    return (
        f'<h3>The text</h3><p class="legend">{swatches}</p>'
        '<div class="scroll parts" tabindex="0" role="region" aria-label="The text in its parts">'
        f"{start}{_far_html(state)}{recent}</div>"
    )


def _far_html(state: TextReading) -> str:
    """The far part, places that were looked at in boxes that say why."""
    far = state.reading.far
    pieces, at = [], 0
    places = state.look.places if state.look is not None else ()
    for place, (start, stop) in zip(places, state.looked, strict=True):
        pieces.append(_skimmed(far[at:start]))
        why = ", ".join(f"{name} {value:.2f}" for name, value in place.parts.items())
        label = f"looked at, place {place.rank}: {why}"
        pieces.append(
            f'<mark class="raw looked" title="{escape(label)}" aria-label="{escape(label)}">'
            f"{escape(far[start:stop])}</mark>"
        )
        at = stop
    return "".join([*pieces, _skimmed(far[at:])])


def _skimmed(text: str) -> str:
    if not text:
        return ""
    return f'<span class="far" aria-label="read as pictures">{escape(text)}</span>'


def _card(kind: str, title: str, said: Said | None) -> str:
    if said is None:
        body = '<p class="waiting">being written ...</p>'
    elif said.note:
        body = f'<p class="note">{escape(said.note)}</p>'
    else:
        body = (
            f'<p class="answer long">{escape(said.text) or "(nothing)"}</p>'
            f"<dl><dt>time</dt><dd>{said.seconds:.1f} s</dd></dl>"
        )
    return f'<section class="card" aria-label="{kind}: {title}"><h3>{title}</h3>{body}</section>'


def _strip(strips: Strips, page: int) -> str:
    """One picture as a few lines, told to screen readers by number and size."""
    used = int(strips.patch_mask[page].sum())
    picture = f"data:image/png;base64,{_png(_lines(strips.pixels[page]))}"
    height, width = strips.pixels[page].shape
    label = f"Picture {page + 1}: {width} by {height} pixels, {used} patches with text"
    return (
        f'<figure><img src="{picture}" alt="{label}"><figcaption>{page + 1}</figcaption></figure>'
    )


def _lines(strip: np.ndarray) -> Sequence[np.ndarray]:
    return np.split(strip, PIECES, axis=1) if strip.shape[1] % PIECES == 0 else [strip]


def _png(lines: Sequence[np.ndarray]) -> str:
    gap = np.full((3, lines[0].shape[1]), 255, np.uint8)
    stacked = np.concatenate([piece for line in lines for piece in (line, gap)][:-1])
    file = io.BytesIO()
    Image.fromarray(stacked).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
