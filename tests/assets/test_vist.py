"""The shipped Vist: small, bound to its models by hash, and reading what it is shown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from foveate.assets import vist_path
from foveate.tasks.documents import Document
from foveate.vist.eval.arms import Subjects
from foveate.vist.eval.perplexity import evaluate_perplexity
from foveate.vist.eval.perplexity_targets import PerplexitySettings
from foveate.vist.eval.subjects import RawSubject, VistSubject
from foveate.vist.fixation.index import index_scores
from foveate.vist.latents.glance_resampler import GlanceResampler
from foveate.vist.latents.memory import UNREAD
from foveate.vist.run.document_reader import DocumentReader
from foveate.vist.run.vist import Vist
from tests.wheel import needs_smollm2

pytestmark = needs_smollm2
ROOT = Path(__file__).parents[2]
# Prose that no training saw: this project's own pages.
PAGES = ("vist", "pages", "evaluation", "training", "rendering", "command-line")


@pytest.fixture(scope="module")
def vist() -> Vist:
    torch.set_num_threads(1)
    return Vist.from_pretrained(vist_path())


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def test_it_is_small_and_says_what_it_is() -> None:
    size = (vist_path() / "vist.safetensors").stat().st_size
    assert size <= 16e6
    about = json.loads((vist_path() / "vist.json").read_text())
    assert (about["base"]["name"], about["encoder"]["name"]) == ("smollm2", "embedded")
    assert len(about["base"]["sha256"]) == len(about["encoder"]["sha256"]) == 64
    assert about["training"]["steps"] > 0


def test_it_reads_about_three_tokens_in_one(vist: Vist) -> None:
    text = page("rendering")[:1500]
    memory = vist.read(text)
    resampler = vist.parts.resampler
    assert isinstance(resampler, GlanceResampler)
    assert memory.num_tokens == len(vist.tokenizer(text)["input_ids"])
    # Tables have more tokens a strip than prose, and a strip has 64 latents.
    assert 2.7 < memory.num_tokens / memory.num_latents < 4


@torch.no_grad()
def test_the_right_document_helps_and_another_does_not(vist: Vist) -> None:
    documents = [Document(id=name, domain="docs", text=page(name)) for name in PAGES]
    settings = PerplexitySettings(
        arms=("raw", "vist", "vist-shuffled"), windows=1, contexts=(512,), resamples=200
    )
    subjects = Subjects(raw=RawSubject(vist.model, vist.tokenizer), vist=VistSubject(vist))
    rows = {row["arm"]: row for row in evaluate_perplexity(documents, subjects, settings).rows}
    assert rows["vist"]["entries"] <= 512 / 2.7
    assert rows["vist"]["gain"]["value"] > 0.2, rows["vist"]
    assert rows["vist"]["minus_shuffled"]["value"] > 0.1, rows["vist"]
    assert rows["raw"]["gain"]["value"] > rows["vist"]["gain"]["value"]


def test_it_reads_documents_beyond_the_window_and_says_so(vist: Vist) -> None:
    text = "\n\n".join(page(name) for name in PAGES)
    text = text * (1 + 9000 * 4 // len(text))
    answer = DocumentReader(vist, recent=64).go_on(text, max_new_tokens=2, compare=True)
    report = answer.report
    assert report.text_tokens > vist.window
    assert report.seconds_before is None
    assert "does not fit the model's window" in report.note
    assert report.tokens_after < report.tokens_before / 2.7


def test_its_card_gives_the_figures_of_the_results() -> None:
    card = (vist_path() / "README.md").read_text(encoding="utf-8")
    for name in ("near", "far"):
        found = json.loads((ROOT / f"docs/results/vist-{name}/perplexity.json").read_text())
        rows = {(row["domain"], row["arm"]): row for row in found["rows"]}
        arm = rows[("all", "vist")]
        for interval in (arm["gain"], arm["minus_shuffled"]):
            shown = re.escape(f"{interval['value']:+.3f} [{interval['low']:+.3f}, ")
            assert re.search(shown, card), (name, interval)


@torch.no_grad()
@pytest.mark.parametrize("tokens", ["source", "read"])
def test_the_index_finds_segments_by_words_and_by_pictures(vist: Vist, tokens: Any) -> None:
    assert (vist_path() / "index.safetensors").stat().st_size < 1.2e6
    head = vist.parts.index
    assert head is not None
    memory = vist.read(page("rendering")[:6000], tokens=tokens)
    assert memory.index_side == ("words" if tokens == "source" else "pictures")
    assert memory.index is not None
    assert memory.segments is not None
    assert memory.tokens is not None
    parts = [p[p != UNREAD] for p in memory.tokens.tensor_split(memory.segments[1:])]
    long = [i for i, part in enumerate(parts) if len(part) >= 16]
    most = len(parts) // 10
    # Every other token of a segment asks for it.
    ranked = {i: index_scores(memory, head, vist.embed(parts[i][::2])).argsort() for i in long}
    found = sum(i in order[-most:].tolist() for i, order in ranked.items()) / len(long)
    other = dict(zip(long, [*long[5:], *long[:5]], strict=True))
    wrong = sum(other[i] in order[-most:].tolist() for i, order in ranked.items()) / len(long)
    assert found > 0.75
    assert wrong < 0.35
