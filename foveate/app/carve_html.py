"""What the Carve tab shows, as HTML: answers by token, the token map, the table, the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from foveate.app.carve import Carving
from foveate.carve.compare.agreement import BUDGETS, Agreement
from foveate.draw.agreement_plot import BudgetPoint, agreement_plot
from foveate.draw.token_map import Fate, fates_of, token_map
from foveate.models.generation import Answer, AnswerToken

__all__ = [
    "agreement_html",
    "answers_html",
    "error_html",
    "map_html",
    "megabytes",
    "token_texts",
]

LEGEND = (
    '<p class="legend"><span><span class="swatch kept"></span> kept: {kept}</span>'
    '<span><span class="swatch merged"></span> merged into a kept one: {merged} '
    "(pointing at one draws its line)</span>"
    '<span><span class="swatch dropped"></span> dropped: {dropped}</span></p>'
)


def error_html(sentence: str) -> str:
    """A sentence that screen readers say at once."""
    return f'<p class="error" role="alert">{escape(sentence)}</p>' if sentence else ""


def answers_html(carving: Carving) -> str:
    """Both answers side by side, and whether they agree."""
    report, before = carving.report, carving.span.num_tokens
    kept = report.kept if report.fired else before
    if carving.is_same and carving.doubt:
        verdict = (
            f"Both answers are the same from {kept} of {before} visual tokens, which says little: "
            f"{escape(carving.doubt)}"
        )
    elif carving.is_same:
        verdict = f"<strong>The same answer</strong> from {kept} of {before} visual tokens."
    else:
        verdict = f"<strong>Another answer</strong> from {kept} of {before} visual tokens."
    if not report.fired:
        verdict += f" Nothing was compressed: {escape(report.reason)}"
    notes = f'<p class="note">{escape(carving.caution)}</p>' if carving.caution else ""
    if carving.unknown:
        words = escape(", ".join(carving.unknown))
        notes += (
            f'<p class="note">The model does not know: {words}; its answer may be meaningless.</p>'
        )
    cards = _card(
        "All visual tokens",
        carving.full,
        [("visual tokens", f"{before}"), ("KV cache", megabytes(carving.full_kv_bytes))],
    ) + _card(
        str(carving.method),
        carving.carved,
        [
            ("visual tokens", f"{kept}, on average {report.average_tokens:.0f} a layer"),
            ("KV cache", _against(carving.kv_bytes, carving.full_kv_bytes)),
        ],
    )
    return f'{notes}<p class="verdict">{verdict}</p><div class="cards">{cards}</div>'


def map_html(carving: Carving) -> str:
    """The image with its tokens, a line that reads out the token under pointer or arrow keys."""
    num_tokens, grid = carving.span.num_tokens, carving.span.grid
    fates = fates_of(carving.plan, num_tokens)
    texts = token_texts(carving)
    svg = token_map(
        carving.image,
        carving.plan,
        num_tokens=num_tokens,
        grid=grid,
        seen=carving.seen,
        titles=texts,
    )
    counts = {kind: sum(f == kind for f, _ in fates) for kind in ("kept", "merged", "dropped")}
    columns = grid[1] if grid is not None else 1
    hint = "Point at a token or tap it, or focus the picture and use the arrow keys."
    note = ""
    if grid is None:
        note = (
            '<p class="note">This model cuts images into tiles, so its tokens form no single grid; '
            "they are drawn beside the image in reading order.</p>"
        )
    return (
        "<h3>What became of each visual token</h3>"
        f'<div class="map" tabindex="0" role="application" data-columns="{columns}" '
        'aria-roledescription="token map" '
        'aria-label="What became of each visual token. Use the arrow keys to read them.">'
        f"{svg}</div>"
        f'<p class="readout" aria-live="polite">{hint}</p>{LEGEND.format(**counts)}{note}'
        f"<details><summary>All {num_tokens} tokens as a table</summary>"
        f"{_table(carving, fates)}</details>"
        f"<details><summary>Report</summary><pre>{escape(str(carving.report))}</pre></details>"
    )


def agreement_html(points: Sequence[Agreement], chosen: float, doubt: str = "") -> str:
    """The plot, as far as it is measured; no budget is praised where the answer is in doubt."""
    plot = agreement_plot(
        [
            BudgetPoint(keep_ratio=p.keep_ratio, probability=p.probability, is_same=p.is_same)
            for p in points
        ],
        chosen=chosen,
    )
    done = f" (measured {len(points)} of {len(BUDGETS)})" if len(points) < len(BUDGETS) else ""
    same = [p.keep_ratio for p in points if p.is_same]
    lowest = (
        f" Lowest budget with it: {100 * min(same):g} %." if same and not (done or doubt) else ""
    )
    return (
        f"<h3>The same question at every budget</h3>{plot}"
        "<p>Probability that the carved model gives the full answer, a token at a time; "
        f"filled: it says exactly that.{lowest}{done}</p>"
    )


def token_texts(carving: Carving) -> list[str]:
    """One sentence a token: where it is, what became of it, its scores and ranks."""
    fates = fates_of(carving.plan, carving.span.num_tokens)
    texts = []
    for index, fate in enumerate(fates):
        scores = []
        for step in carving.steps:
            prefix = f"layer {step.layer} " if len(carving.steps) > 1 else ""
            for name, values in step.scores.items():
                rank = int(step.ranks[name][index])
                if rank:
                    total = int((step.ranks[name] > 0).sum())
                    value = float(values[index])
                    scores.append(f"{prefix}{name} {value:.4g} (rank {rank} of {total})")
        told = "; ".join(scores) if scores else "no scores: the method decides without them"
        where = _place(index, carving.span.grid)
        texts.append(f"{where}: {_fate(fate, carving.span.grid)}. {told}.")
    return texts


def megabytes(count: int | None) -> str:
    return "none" if count is None else f"{count / 1e6:.2f} MB"


def _against(count: int | None, full: int | None) -> str:
    if count is None or not full:
        return megabytes(count)
    return f"{megabytes(count)} ({100 * count / full:.0f} %)"


def _card(title: str, answer: Answer, facts: Sequence[tuple[str, str]]) -> str:
    rows = [*facts, ("time", f"{1000 * answer.seconds:.0f} ms")]
    told = "".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>" for a, b in rows)
    tokens = "".join(f"<li>{_chip(token)}</li>" for token in answer.tokens)
    return (
        f'<section class="card" aria-label="{escape(title)}"><h3>{escape(title)}</h3>'
        f'<p class="answer">{escape(answer.text) or "(nothing)"}</p>'
        f'<ol class="tokens" aria-label="Tokens of the answer with their probabilities">'
        f"{tokens}</ol><dl>{told}</dl></section>"
    )


def _chip(token: AnswerToken) -> str:
    text = escape(token.text.strip()) or "&lsaquo;end&rsaquo;"
    other = escape(token.runner_up.strip() or "nothing")
    return (
        f'<span class="chip" style="--p:{token.probability:.3f}" title="second: {other} '
        f'{_percent(token.runner_up_probability)}"><b>{text}</b> '
        f"<small>{_percent(token.probability)}</small></span>"
    )


def _table(carving: Carving, fates: Sequence[Fate]) -> str:
    columns = [(step, name) for step in carving.steps for name in step.scores]
    several = len(carving.steps) > 1
    heads = "".join(
        f'<th scope="col">{escape(name)}{f", layer {step.layer}" if several else ""}</th>'
        '<th scope="col">rank</th>'
        for step, name in columns
    )
    rows = []
    for index, fate in enumerate(fates):
        cells = "".join(
            f"<td>{_number(float(step.scores[name][index]))}</td>"
            f"<td>{int(step.ranks[name][index]) or ''}</td>"
            for step, name in columns
        )
        where = _place(index, carving.span.grid)
        rows.append(
            f'<tr><th scope="row">{where}</th><td>{_fate(fate, carving.span.grid)}</td>{cells}</tr>'
        )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="All tokens"><table><thead><tr>'
        f'<th scope="col">token</th><th scope="col">fate</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _place(index: int, grid: tuple[int, int] | None) -> str:
    if grid is None:
        return f"token {index + 1}"
    return f"row {index // grid[1] + 1}, column {index % grid[1] + 1}"


def _fate(fate: Fate, grid: tuple[int, int] | None) -> str:
    kind, target = fate
    return kind if target is None else f"merged into {_place(target, grid)}"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
