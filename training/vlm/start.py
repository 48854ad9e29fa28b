"""Structured start of the language model: heads that already match, bind and copy codes.

A text word's embedding is the code of the same visual word turned into another subspace, so a
head can match the two without matching a token to itself. Early layers gather the question's
words and bind each visual token to its line's word; layers from 3 on match and fetch. Everything
is trained afterwards; without this start the same circuits take hours of CPU time to appear.
"""

from __future__ import annotations

import torch

from foveate.tasks.reading_page import COLOURS, NOUNS, SHAPES
from training.vlm.codes import GRID, WIDTH, code_table, factor_rows
from training.vlm.language import LANGUAGE_CONFIG, LanguageModel
from training.vlm.vocabulary import ANSWER, BEGIN, DIGITS, VOCABULARY

__all__ = ["SCALE", "structured_start"]

SCALE = 3.0  # norm of one code in the residual stream
_HEAD = LANGUAGE_CONFIG["head_dim"]
_FIRST_SLOW = 13  # rotary pairs from here on turn by less than a radian over a page
_SLOW = torch.cat([torch.arange(_FIRST_SLOW, 32), torch.arange(_FIRST_SLOW, 32) + 32])
_EMPTY_WORDS = "what is the of a there on page that in ? image does contain at present"
_EMPTY = (*_EMPTY_WORDS.split(), ANSWER, BEGIN)
_FULL_WORDS = "price stock costs color shape under above beside no not"
_FULL = tuple(_FULL_WORDS.split())


def _orthonormal(seed: int, count: int, *avoid: torch.Tensor) -> torch.Tensor:
    """``count`` random orthonormal rows of width 192, orthogonal to all rows of ``avoid``."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)
    if avoid:
        basis = torch.linalg.qr(torch.cat(avoid).double().T)[0]
        rows = rows - rows @ basis @ basis.T
    return torch.linalg.qr(rows.T)[0].T.float()


class _Start:
    """Subspaces of the residual stream and the two moves: match (q, k) and copy (v, o)."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.generator = torch.Generator().manual_seed(5)
        table = code_table()
        of = self.of = {
            name: table[factor_rows(name)]
            for name in ("kind", "word", "colour", "tens", "units", "shape", "line", "column")
        }
        self.numbers = torch.cat([of["tens"], of["units"]])
        apart = (of["line"], of["column"], of["colour"], self.numbers)
        names = ("word", "colour", "tens", "units", "shape", "kind")
        text = _orthonormal(1, sum(len(of[n]) for n in names), *apart)
        self.text = dict(zip(names, torch.split(text, [len(of[n]) for n in names]), strict=True))
        self.function = _orthonormal(2, 36, *apart, text)
        self.row_word = _orthonormal(3, len(NOUNS), table)
        self.above_word = _orthonormal(4, len(NOUNS), of["line"], of["column"], of["colour"])
        self.row_price = _orthonormal(6, 20, *apart)
        half = GRID // 2
        column = of["column"]
        self.block = torch.stack([column[:half].sum(0), column[half:].sum(0)])
        self.visual = of["line"].sum(0, keepdim=True)  # every visual token has a line

    def match(
        self, layer: int, head: int, gain: float, *pairs: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        """Queries reading ``a`` prefer keys reading ``b``, row by row of each pair (a, b)."""
        attention = self.model.model.layers[layer].self_attn
        asked, offered = torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs])
        embed = torch.randn(len(_SLOW), max(len(asked), len(_SLOW)), generator=self.generator)
        if len(asked) <= len(_SLOW):
            embed = torch.linalg.qr(embed)[0]
        else:
            embed = torch.linalg.qr(embed.T)[0].T * (len(asked) / len(_SLOW)) ** 0.5
        embed = embed[:, : len(asked)]
        rows = head * _HEAD + _SLOW
        attention.q_proj.weight[rows] = gain * embed @ asked
        attention.k_proj.weight[rows] = gain * embed @ offered

    def copy(
        self,
        layer: int,
        head: int,
        gain: float,
        read: torch.Tensor,
        write: torch.Tensor | None = None,
    ) -> None:
        """Write what ``read`` finds along the rows of ``write`` (default: the same rows)."""
        attention = self.model.model.layers[layer].self_attn
        rows = slice(head * _HEAD, head * _HEAD + len(read))
        attention.v_proj.weight[rows] = read
        attention.o_proj.weight[:, rows] += SCALE * gain * (read if write is None else write).T


@torch.no_grad()
def structured_start(model: LanguageModel) -> None:
    """Overwrite ``model``'s random weights by the structured start (deterministic)."""
    s = _Start(model)
    of, text = s.of, s.text
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            noise = torch.randn(parameter.shape, generator=s.generator)
            parameter.copy_(noise * (0.005 if "o_proj" in name or "down_proj" in name else 0.02))
    _tokens(model, s)
    embedding = model.model.embed_tokens.weight
    begin = embedding[VOCABULARY.index(BEGIN)][None] / SCALE
    answer = embedding[VOCABULARY.index(ANSWER)][None] / SCALE
    told = [VOCABULARY.index(w) for w in (*_FULL, *DIGITS, *COLOURS, *SHAPES, *NOUNS)]
    known = embedding[told + [VOCABULARY.index(w) for w in _EMPTY]]
    wanted = torch.cat([torch.ones(len(told)), torch.zeros(len(_EMPTY))])[:, None]
    content = torch.linalg.lstsq(known / SCALE, wanted, driver="gelsd").solution.T
    gatherers = answer + embedding[[VOCABULARY.index(d) for d in DIGITS]].sum(0)[None] / SCALE
    basis = _orthonormal(7, WIDTH)
    for part in range(3):  # gather the question; visual tokens rest on the prefix
        s.match(0, 1 + part, 1.0, (1.5 * s.visual, 1.5 * begin), (0.5 * gatherers, 0.5 * content))
        rows = basis[part * _HEAD : (part + 1) * _HEAD]
        s.copy(0, 1 + part, 0.5, rows - rows @ begin.T @ begin, rows)
    here = ((of["line"], of["line"]), (s.block, s.block))
    upper = ((of["line"][1:], of["line"][:-1]), (s.block, s.block))
    lower = ((of["line"][:-1], of["line"][1:]), (s.block, s.block))
    word_kind, price_kind = ((s.visual, of["kind"][i : i + 1]) for i in (1, 2))
    s.match(0, 0, 1.3, *here, word_kind)
    s.copy(0, 0, 0.12, of["word"], s.row_word)
    s.match(1, 0, 1.3, *here, price_kind)
    s.copy(1, 0, 0.1, s.numbers, s.row_price)
    s.match(1, 1, 1.3, *upper, word_kind)
    s.copy(1, 1, 0.1, of["word"], s.above_word)
    seen = (answer, s.visual)  # the last token's heads look at visual tokens, not at text
    asked_kind = (text["kind"], of["kind"])
    places = torch.cat([of["line"], of["column"], of["colour"]])
    marks = [(text[n], of[n]) for n in ("colour", "shape", "tens", "units")]
    s.match(3, 0, 2.0, (text["word"], of["word"]), seen)
    s.copy(3, 0, 0.3, places)
    s.match(3, 1, 2.0, *marks, seen)
    s.copy(3, 1, 0.2, s.row_word, of["word"])
    s.match(3, 2, 2.0, (text["word"], s.above_word), *_when(s, "under", begin, answer))
    s.copy(3, 2, 0.3, of["word"])
    s.match(3, 3, 2.0, (text["word"], s.row_word), asked_kind, (answer, begin))
    s.copy(3, 3, 0.2, s.numbers)
    found = torch.cat([s.numbers, of["colour"]])
    for layer in (4, 5):
        s.match(layer, 0, 2.0, *here, asked_kind, (answer, begin))
        s.copy(layer, 0, 0.2, found)
        for head, moved, word in ((1, lower, "under"), (2, upper, "above")):
            s.match(layer, head, 2.0, *moved, asked_kind, *_when(s, word, begin, answer))
            s.copy(layer, head, 0.2, found)
    across = ((of["line"], of["line"]), (s.block, s.block.flip(0)))
    for head, moved, word in ((0, across, "beside"), (1, upper, "above")):
        s.match(6, head, 2.0, *moved, word_kind, *_when(s, word, begin, answer))
        s.copy(6, head, 0.3, of["word"])
    for layer in (4, 5, 6):
        s.match(layer, 3, 2.0, *marks, (answer, begin))
        s.copy(layer, 3, 0.2, torch.cat([places, of["shape"]]))


def _when(
    s: _Start, word: str, begin: torch.Tensor, answer: torch.Tensor
) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """Look at visual tokens when the question has ``word``, else rest on the prefix."""
    table = s.model.model.embed_tokens.weight
    asked = table[VOCABULARY.index(word)][None] / SCALE
    return (asked, 0.7 * s.visual), (answer, begin)


def _tokens(model: LanguageModel, s: _Start) -> None:
    """Embeddings: turned codes or unit vectors apart from them; head rows: plain codes."""
    table = model.model.embed_tokens.weight
    mix = torch.randn(len(table), len(s.function), generator=s.generator)
    table.copy_(mix / mix.norm(dim=1, keepdim=True) @ s.function)
    table[VOCABULARY.index(BEGIN)], table[VOCABULARY.index(ANSWER)] = s.function[0], s.function[1]
    head = model.lm_head.weight
    head.copy_(0.02 * torch.randn(head.shape, generator=s.generator))
    for name, words in (("word", NOUNS), ("colour", tuple(COLOURS)), ("shape", SHAPES)):
        for i, word in enumerate(words):
            table[VOCABULARY.index(word)] = s.text[name][i]
            head[VOCABULARY.index(word)] = s.of[name][i]
    for i, word in ((2, "price"), (3, "stock"), (4, "shape"), (2, "costs")):
        table[VOCABULARY.index(word)] = s.text["kind"][i]
    for i, digit in enumerate(DIGITS):
        table[VOCABULARY.index(digit)] = (s.text["tens"][i] + s.text["units"][i]) / 2**0.5
        head[VOCABULARY.index(digit)] = (s.of["tens"][i] + s.of["units"][i]) / 2**0.5
    table.mul_(SCALE)
