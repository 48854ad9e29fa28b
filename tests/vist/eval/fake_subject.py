"""A subject without a model: words are tokens, what it was handed is recorded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from foveate.vist.eval.context import EncodedText, FarContext, Score, Subject


@dataclass
class FakeSubject(Subject):
    """Word k of its vocabulary is token k; a memory has one entry for every `ratio` words.

    Args:
        ratio: far tokens an entry; 1 for a raw subject.
        knows: answers with the word after the prompt's last one, if it is in the far context.
    """

    ratio: int = 1
    words: list[str] = field(default_factory=list)
    seen: list[tuple[str, FarContext | None, tuple[int, ...], tuple[int, ...]]] = field(
        default_factory=list
    )
    heads: list[tuple[int, ...]] = field(default_factory=list)

    def encode(self, text: str) -> EncodedText:
        found = list(re.finditer(r"\s*\S+", text))
        for match in found:
            if match.group().strip() not in self.words:
                self.words.append(match.group().strip())
        return EncodedText(
            text=text,
            ids=tuple(self.words.index(match.group().strip()) for match in found),
            starts=tuple(match.start() for match in found),
        )

    def num_entries(self, far: FarContext) -> int:
        return max(1, len(far.ids) // self.ratio)

    def nll(
        self,
        fars: Sequence[FarContext | None],
        windows: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        heads: Sequence[Sequence[int]] | None = None,
    ) -> list[Score]:
        """A nat a token, less what share of the target's words the far context holds."""
        scores = []
        self.heads += [tuple(head) for head in heads or []]
        for far, window, target in zip(fars, windows, targets, strict=True):
            self.seen.append(("nll", far, tuple(window), tuple(target)))
            known = set(far.ids) if far is not None else set()
            missing = sum(word not in known for word in target)
            scores.append(Score(nats=float(missing), tokens=len(target)))
        return scores

    def option_nll(
        self, far: FarContext | None, prompt: str, options: Sequence[str]
    ) -> list[Score]:
        """Prefers the option that the far context names most often."""
        self.seen.append(("option", far, self.encode(prompt).ids, ()))
        text = far.text if far is not None else ""
        return [Score(nats=10.0 - text.count(option.strip()), tokens=1) for option in options]

    def answer(self, far: FarContext | None, prompt: str, max_new_tokens: int) -> str:
        """What follows the prompt's last line in the far context."""
        self.seen.append(("answer", far, self.encode(prompt).ids, ()))
        text = f"{far.text if far is not None else ''}\n{prompt}"
        line = prompt.rstrip().split("\n")[-1]
        found = re.search(re.escape(line) + r"\s*(\S+)", text)
        return found.group(1).rstrip(".") if found else "nothing"
