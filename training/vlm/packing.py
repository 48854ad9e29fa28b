"""Questions as padded token ids: prompt, answer, end; targets only on the answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from training.vlm.vocabulary import ANSWER, END, VOCABULARY, encode

__all__ = ["answer_loss", "pack"]

_ANSWER_ID, _END_ID = VOCABULARY.index(ANSWER), VOCABULARY.index(END)


def pack(pages: Sequence[Sequence[tuple[str, str]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode (question, answer) pairs of each page.

    Returns:
        ids [B, Q, L] and targets [B, Q, L] (the next token where it belongs to the answer or
        ends it, else -100). Pages with fewer questions are filled with targets of -100.
    """
    rows = [[([*encode(q), _ANSWER_ID], [*encode(a), _END_ID]) for q, a in page] for page in pages]
    most = max(len(page) for page in rows)
    length = max(len(p) + len(a) - 1 for page in rows for p, a in page)
    ids = torch.zeros(len(rows), most, length, dtype=torch.long)
    targets = torch.full_like(ids, -100)
    for b, page in enumerate(rows):
        for q, (prompt, answer) in enumerate(page):
            whole = prompt + answer
            ids[b, q, : len(whole) - 1] = torch.tensor(whole[:-1])
            targets[b, q, len(prompt) - 1 : len(whole) - 1] = torch.tensor(answer)
    return ids, targets


def answer_loss(
    hidden: torch.Tensor,
    head: torch.nn.Linear,
    targets: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy over answer tokens, and exact match per question.

    Args:
        hidden: [B, Q, L, D]; targets: [B, Q, L].

    Returns:
        scalar loss; [B, Q] bool, True where every answer token has the highest logit (equal to
        greedy decoding giving the answer).
    """
    chosen = targets != -100
    logits = head(hidden[chosen])
    wanted = targets[chosen]
    loss = torch.nn.functional.cross_entropy(logits, wanted)
    right = torch.ones_like(chosen)
    right[chosen] = logits.argmax(-1) == wanted
    return loss, right.all(-1)
