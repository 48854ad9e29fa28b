"""What each form of a memory costs: FLOPs to read and to ask, bytes, and when it pays.

By arithmetic, for the embedded models: SmolLM2-135M and the text encoder. A multiply-add is two
FLOPs; matrix products are all that is counted, with the attention between all pairs of rows and
columns that a pass multiplies. `python -m benchmarks.vist_forms` writes docs/results/vist-forms.md
and .json; `--measure 1024` adds seconds of this machine's CPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from benchmarks.results import write_results
from benchmarks.vist_cost.arithmetic import CostShape, llm_piece, reader_piece
from benchmarks.vist_forms_seconds import Seconds, measure
from foveate.assets import vist_path
from foveate.core.decoder_shape import DecoderShape
from foveate.measure.manifest import manifest
from foveate.vist.run.vist import Vist

__all__ = ["ARMS", "Bill", "FormShape", "bill", "pays_after"]

SMOLLM2 = DecoderShape(
    num_layers=30, hidden_size=576, intermediate_size=1536, num_heads=9, num_kv_heads=3, head_dim=64
)
TOKENS = (1024, 4096, 16384, 65536)


@dataclass(frozen=True, kw_only=True)
class FormShape:
    """What is read and asked.

    Args:
        llm: of the decoder.
        window: positions it was made for; beyond it raw text and states do not work at all.
        vocabulary: of its head, which runs on the last row only.
        share: of the tokens, that skims and carved memories keep.
        anchors: of the tokens, that a memory of states always has on the device.
        look: of the tokens: what a question may have, raw tokens and skim together.
        cut: first layer that a carved memory enters with its share.
        question, answer: tokens of a question, and decoded after it.
        tokens_per_strip: of text.
        segment: of a unit that is looked at as a whole.
        value: bytes of one.
    """

    llm: DecoderShape = SMOLLM2
    window: int = 8192
    vocabulary: int = 49_152
    share: float = 1 / 3
    anchors: float = 0.1
    look: float = 0.1
    cut: int = 15
    question: int = 24
    answer: int = 16
    tokens_per_strip: float = 190.0
    segment: int = 24
    value: int = 2

    @property
    def row_bytes(self) -> int:
        """Keys and values of a row in all layers."""
        llm = self.llm
        return 2 * llm.num_layers * llm.num_kv_heads * llm.head_dim * self.value


@dataclass(frozen=True, kw_only=True)
class Bill:
    """What an arm costs for one document.

    Args:
        read: FLOPs once.
        ask: FLOPs of each question, its answer decoded.
        entries: rows that a question's tokens attend to, beside themselves.
        device: bytes of keys and values on the device while it answers.
        host: bytes held off it.
        exact: whether the document fits the model's positions, where the arm needs that.
    """

    read: float
    ask: float
    entries: int
    device: int
    host: int = 0
    exact: bool = field(default=True)


def rows_flops(shape: FormShape, rows: float, before: float, layers: float | None = None) -> float:
    """Rows through some layers, each attending to `before` rows and to all of these.

    Half of the pairs among the rows are masked; kernels multiply them, and they are counted.
    """
    llm = shape.llm
    one = llm_piece(DecoderShape(**{**vars(llm), "num_layers": 1}), 0, 1)
    layers = llm.num_layers if layers is None else layers
    width = llm.num_heads * llm.head_dim
    return layers * (rows * one.projections + 4 * rows * (before + rows) * width)


def answer_flops(shape: FormShape, entries: float) -> float:
    """A question behind `entries` rows, and its answer token by token."""
    head = 2 * shape.llm.hidden_size * shape.vocabulary * (1 + shape.answer)
    asked = rows_flops(shape, shape.question, entries)
    place = entries + shape.question + shape.answer / 2
    return asked + shape.answer * rows_flops(shape, 1, place) + head


def pictures_flops(shape: FormShape, tokens: int) -> float:
    """Strips through the encoder, which reads the tokens."""
    strips = max(1, round(tokens / shape.tokens_per_strip))
    return reader_piece(CostShape().reader, strips).flops


def index_flops(shape: FormShape, tokens: int) -> float:
    """Segments through half of the layers, each by itself, to be found by."""
    one = rows_flops(shape, shape.segment, 0, shape.llm.num_layers / 2)
    return tokens / shape.segment * one


def index_bytes(shape: FormShape, tokens: int) -> int:
    """A mean state of each segment, in float32."""
    return round(tokens / shape.segment) * shape.llm.hidden_size * 4


def _raw_again(shape: FormShape, n: int) -> Bill:
    return Bill(
        read=0.0,
        ask=rows_flops(shape, n, 0) + answer_flops(shape, n),
        entries=n,
        device=n * shape.row_bytes,
        exact=n <= shape.window,
    )


def _raw_kept(shape: FormShape, n: int) -> Bill:
    return Bill(
        read=rows_flops(shape, n, 0),
        ask=answer_flops(shape, n),
        entries=n,
        device=n * shape.row_bytes,
        exact=n <= shape.window,
    )


def _bm25(shape: FormShape, n: int) -> Bill:
    k = round(shape.look * n)
    return Bill(
        read=0.0,
        ask=rows_flops(shape, k, 0) + answer_flops(shape, k),
        entries=k,
        device=k * shape.row_bytes,
        host=5 * n,  # the text
    )


def _latents(shape: FormShape, n: int) -> Bill:
    m = round(shape.share * n)
    return Bill(
        read=pictures_flops(shape, n) + rows_flops(shape, m, 0),
        ask=answer_flops(shape, m),
        entries=m,
        device=m * shape.row_bytes,
        host=8 * n,
    )


def _looked(shape: FormShape, skim: Bill, k: int, layers: int) -> Bill:
    """The same with a look: the question's attention on the skim, then its own entries anew.

    In forms that the LLM reads the question's mean state too, through half of the layers.
    """
    asked = rows_flops(shape, shape.question, skim.entries) + rows_flops(shape, k, 0, layers)
    if layers < shape.llm.num_layers:
        asked += rows_flops(shape, shape.question, 0, shape.llm.num_layers / 2)
    return Bill(
        read=skim.read,
        ask=asked + answer_flops(shape, k),
        entries=k,
        device=skim.device + k * shape.row_bytes,
        host=skim.host,
        exact=skim.exact,
    )


def _latents_look(shape: FormShape, n: int) -> Bill:
    return _looked(shape, _latents(shape, n), round(shape.look * n), shape.llm.num_layers)


def _carved(shape: FormShape, n: int) -> Bill:
    m = round(shape.share * n)
    lower = rows_flops(shape, n, 0, shape.cut)
    upper = rows_flops(shape, m, 0, shape.llm.num_layers - shape.cut)
    return Bill(
        read=pictures_flops(shape, n) + lower + upper + index_flops(shape, n),
        ask=answer_flops(shape, m),
        entries=m,
        device=m * shape.row_bytes,
        host=8 * n + index_bytes(shape, n),
        exact=n <= shape.window,
    )


def _carved_look(shape: FormShape, n: int) -> Bill:
    """What the lower layers made stays on the device, so that they are not run again."""
    skim = _carved(shape, n)
    looked = _looked(shape, skim, round(shape.look * n), shape.llm.num_layers - shape.cut)
    below = shape.cut * shape.row_bytes // shape.llm.num_layers
    stream = shape.llm.hidden_size * shape.value
    return Bill(**{**vars(looked), "device": looked.device + n * (below + stream)})


def _states_look(shape: FormShape, n: int) -> Bill:
    anchors, k = round(shape.anchors * n), round(shape.look * n)
    skim = Bill(
        read=pictures_flops(shape, n) + rows_flops(shape, n, 0) + index_flops(shape, n),
        ask=answer_flops(shape, anchors),
        entries=anchors,
        device=anchors * shape.row_bytes,
        host=n * shape.row_bytes + index_bytes(shape, n),
        exact=n <= shape.window,
    )
    return _looked(shape, skim, k, 0)


ARMS: dict[str, tuple[str, Callable[[FormShape, int], Bill]]] = {
    "raw, again": ("all tokens, read anew for every question", _raw_again),
    "raw, kept": ("all tokens, their keys and values kept on the device", _raw_kept),
    "BM25 + raw": ("the best segments by their words, raw: the rival", _bm25),
    "latents": ("of the resampler, through the LLM", _latents),
    "latents + look": ("the same, and a tenth of the tokens for what is looked at", _latents_look),
    "carved": ("all tokens below layer 15, a third above; each segment's states", _carved),
    "carved + look": ("the same, and a tenth for what is looked at", _carved_look),
    "states + look": (
        "all tokens once, held on the host, a tenth on the device; each segment's states",
        _states_look,
    ),
}


def bill(shape: FormShape, arm: str, tokens: int) -> Bill:
    """What an arm of ARMS costs for a document of so many tokens."""
    return ARMS[arm][1](shape, tokens)


def pays_after(own: Bill, rival: Bill) -> int | None:
    """The fewest questions after which `own` has cost less in all; None for never."""
    saved = rival.ask - own.ask
    more = own.read - rival.read
    if saved <= 0:
        return 1 if more + own.ask - rival.ask < 0 else None
    return max(1, int(more // saved) + 1)


def table(shape: FormShape, tokens: Sequence[int]) -> list[str]:
    """Markdown, one part for each length."""
    lines: list[str] = []
    for n in tokens:
        lines += [f"## {n:,} tokens", ""]
        lines.append(
            "| form | read, GFLOP | ask, GFLOP | entries | device, MB | host, MB | cheaper than "
            "raw again after | than raw kept | than BM25 + raw |"
        )
        lines.append("|---|---|---|---|---|---|---|---|---|")
        rivals = [bill(shape, name, n) for name in ("raw, again", "raw, kept", "BM25 + raw")]
        for name in ARMS:
            own = bill(shape, name, n)
            after = [_shown(own, rival) for rival in rivals]
            mark = "" if own.exact else " *"
            lines.append(
                f"| {name}{mark} | {own.read / 1e9:,.1f} | {own.ask / 1e9:,.1f} | "
                f"{own.entries:,} | {own.device / 1e6:,.1f} | {own.host / 1e6:,.1f} | "
                f"{' | '.join(after)} |"
            )
        lines.append("")
    return lines


def seconds_table(taken: Mapping[int, Mapping[str, Seconds]], shape: FormShape) -> list[str]:
    """Markdown of what was really run."""
    lines: list[str] = []
    for n, own in taken.items():
        lines += [
            f"## {n:,} tokens, seconds of one core",
            "",
            "In float32, the pictures drawn and encoded, tokens and text included; an answer of "
            f"{shape.answer} tokens. The machine was busy with other work: compare, do not quote.",
            "",
            "| form | read, s | ask, s |",
            "|---|---|---|",
        ]
        lines += [f"| {k} | {own[k].read:.1f} | {own[k].ask:.1f} |" for k in ARMS if k in own]
        lines.append("")
    return lines


def _shown(own: Bill, rival: Bill) -> str:
    if own == rival:
        return "-"
    count = pays_after(own, rival)
    return "never" if count is None else f"{count:,}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=list(TOKENS))
    parser.add_argument("--measure", type=int, nargs="*", default=[], help="tokens really run")
    parser.add_argument("--vist", default=str(vist_path()))
    parser.add_argument("--rounds", type=int, default=1, help="of what is measured")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    shape = FormShape()
    torch.set_num_threads(options.threads)
    taken: dict[int, dict[str, Seconds]] = {}
    if options.measure:
        vist = Vist.from_pretrained(options.vist)
        taken = {
            n: measure(vist, n, answer=shape.answer, look=shape.look, rounds=options.rounds)
            for n in options.measure
        }
    what = (
        f"For SmolLM2-135M in bfloat16 and the embedded text encoder; a question of "
        f"{shape.question} tokens, an answer of {shape.answer}. `read` is done once for a "
        "document, `ask` for every question. Device: keys and values held while it answers "
        "(weights are the same for all); host: what is held beside. The last columns: after how "
        "many questions the form has cost fewer FLOPs in all than each rival. FLOPs are not "
        "answers: which form answers what is in the other tables.\n\n"
        + "\n".join(f"- **{name}**: {about}." for name, (about, _) in ARMS.items())
        + f"\n\nThe marked (*) need the LLM to see a document whole, and it was made for "
        f"{shape.window:,} positions: foveate refuses there, or shrinks positions (carved)."
    )
    data: dict[str, Any] = {
        "shape": {**asdict(shape), "llm": vars(shape.llm)},
        "bills": {
            str(n): {name: asdict(bill(shape, name, n)) for name in ARMS} for n in options.tokens
        },
        "seconds": {n: {k: asdict(v) for k, v in own.items()} for n, own in taken.items()},
        "manifest": manifest(seed=0),
    }
    lines = [*table(shape, options.tokens), *seconds_table(taken, shape)]
    write_results("vist-forms", "What each form of a memory costs", what, lines, data)


if __name__ == "__main__":
    main()
