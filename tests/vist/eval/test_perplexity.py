"""Documents, targets, and the statistics of the perplexity protocols."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from foveate.errors import InputError
from foveate.measure.quality import clustered_mean
from foveate.tasks.documents import Document, load_documents
from foveate.vist.eval.arms import Subjects
from foveate.vist.eval.perplexity import evaluate_perplexity
from foveate.vist.eval.perplexity_targets import PerplexitySettings, choose_targets
from tests.vist.eval.fake_subject import FakeSubject


def document(number: int, words: int, domain: str = "d") -> Document:
    text = " ".join(f"d{number}w{i % 50}" for i in range(words))
    return Document(text=text, id=f"{domain}{number}", domain=domain)


def settings(**changes: object) -> PerplexitySettings:
    values: dict[str, object] = {"contexts": (20, 40), "window": 5, "score": 10, "resamples": 200}
    return PerplexitySettings(**{**values, **changes})  # type: ignore[arg-type]


def fakes() -> Subjects:
    raw = FakeSubject()
    return Subjects(raw=raw, vist=FakeSubject(ratio=4, words=raw.words))


def test_targets_have_their_context_and_fit() -> None:
    subject = FakeSubject()
    documents = [document(0, 55), document(1, 56), document(2, 300)]
    targets = choose_targets(documents, subject, settings(windows=3))
    assert sorted(t.document.id for t in targets) == ["d1", "d2", "d2", "d2"]
    for target in targets:
        ids = subject.encode(target.document.text).ids
        before = target.before.ids
        assert len(before) == 46
        at = next(i for i in range(len(ids)) if ids[i : i + 56] == (*before, *target.ids))
        assert at + 56 <= len(ids)
        assert target.window(5) == before[-5:]
        assert target.far(20, 5).ids == before[21:41]
        assert target.far(40, 5).text == target.before.cut(1, 41).text
        assert (target.head(20, 5), target.head(40, 5)) == (before[20:21], before[:1])


def test_every_context_length_scores_the_same_target() -> None:
    subjects = fakes()
    evaluate_perplexity([document(i, 200) for i in range(3)], subjects, settings(windows=1))
    assert isinstance(subjects.raw, FakeSubject)
    scored = {(window, target) for _, _, window, target in subjects.raw.seen}
    assert len(scored) == 3


def test_arms_see_the_tokens_they_claim() -> None:
    subjects = fakes()
    chosen = settings(contexts=(40,), windows=1)
    evaluate_perplexity([document(i, 56) for i in range(2)], subjects, chosen)
    assert isinstance(subjects.raw, FakeSubject)
    assert isinstance(subjects.vist, FakeSubject)
    # The first word of each document, in all arms.
    assert len(set(subjects.raw.heads)) == 2
    assert set(subjects.raw.heads) == set(subjects.vist.heads)
    sizes = sorted(len(far.ids) if far else 0 for _, far, _, _ in subjects.raw.seen)
    assert sizes == [0, 0, 10, 10, 10, 10, 40, 40]
    own, other = subjects.vist.seen[:2], subjects.vist.seen[2:]
    for (_, far, _, target), (_, wrong, _, same) in zip(own, other, strict=True):
        assert target == same
        assert far is not None
        assert wrong is not None
        assert far.ids != wrong.ids
        assert len(far.ids) == len(wrong.ids) == 40


def test_gains_and_differences() -> None:
    """The fake loses a nat a token whose word the far context lacks: raw lacks none here."""
    documents = [document(i, 80, domain) for domain in ("x", "y") for i in range(2)]
    result = evaluate_perplexity(documents, fakes(), settings(contexts=(60,), windows=1))
    rows = {(row["domain"], row["arm"]): row for row in result.rows}
    assert {domain for domain, _ in rows} == {"x", "y", "all"}
    raw = rows["all", "raw"]
    assert raw["nats"]["value"] == 0
    assert raw["gain"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert raw["minus_shuffled"] is None
    assert rows["all", "vist"]["minus_shuffled"]["value"] == 1.0
    assert rows["all", "vist"]["share_of_raw_gain"] == 1.0
    assert rows["all", "none"]["gain"] is None
    assert (rows["x", "vist"]["tokens"], rows["x", "vist"]["entries"]) == (60, 15)
    page = result.markdown()
    assert "| vist | 15 | 4.00x | 0.000 [0.000, 0.000] | +1.000 [+1.000, +1.000] |" in page
    json.dumps(result.to_dict(), allow_nan=False)
    assert result.samples[0]["nats"]["none"] == 1.0


def test_a_fixed_head() -> None:
    subjects = fakes()
    chosen = settings(contexts=(40,), windows=1, own_head=False)
    evaluate_perplexity([document(i, 56) for i in range(2)], subjects, chosen)
    assert isinstance(subjects.raw, FakeSubject)
    assert not subjects.raw.heads


def test_limit_is_a_domains() -> None:
    documents = [document(i, 300, domain) for domain in ("x", "y") for i in range(5)]
    targets = choose_targets(documents, FakeSubject(), settings(limit=3, windows=2))
    assert [t.document.domain for t in targets] == ["x"] * 3 + ["y"] * 3


def test_too_short() -> None:
    with pytest.raises(InputError, match=r"needs \(the longest has 50\); shorten --context"):
        choose_targets([document(0, 50)], FakeSubject(), settings())


@pytest.mark.parametrize(
    ("change", "message"),
    [({"score": 0}, "score=0 is below 1"), ({"contexts": ()}, "at least 1 token"),
     ({"limit": 1}, "use 2 or more")],
)  # fmt: skip
def test_impossible_settings(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings(**change)


def test_clustered_mean_draws_whole_documents() -> None:
    values, clusters = [0.0] * 50 + [1.0] * 50, ["a"] * 50 + ["b"] * 50
    wide = clustered_mean(values, clusters)
    assert (wide.value, wide.low, wide.high) == (0.5, 0.0, 1.0)
    narrow = clustered_mean(values, [str(i) for i in range(100)])
    assert narrow.high - narrow.low < 0.25
    assert math.isinf(clustered_mean([1.0, 2.0], ["a", "a"]).high)


WIKI = (
    " \n = First = \n \n Words . \n \n = = Part = = \n More , a = b = c . \n"
    " = Second = \n \n End . \n"
)


def test_wiki_articles(tmp_path: Path) -> None:
    (tmp_path / "wiki.txt").write_text(WIKI)
    first, second = load_documents([tmp_path / "wiki.txt"])
    assert first.text.startswith(" = First = ")
    assert "= = Part = =" in first.text
    assert second.text == " = Second = \n \n End . \n"
    assert (first.id, first.domain) == ("wiki/wiki#0", "wiki")


def test_blocks_hold_everything(tmp_path: Path) -> None:
    text = "".join(f"Paragraph {i} of it.\n\n" for i in range(100))
    (tmp_path / "book.txt").write_text(text)
    blocks = load_documents([], domains=[("prose", tmp_path)], block_chars=500)
    assert "".join(block.text for block in blocks) == text
    assert all(500 <= len(block.text) < 1100 for block in blocks)
    assert {block.domain for block in blocks} == {"prose"}


def test_jsonl(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "one"}\n\n{"text": "two"}\n')
    assert [d.text for d in load_documents([file])] == ["one", "two"]
    file.write_text('{"text": "one"}\n{"words": 1}\n')
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: 'text' is missing"):
        load_documents([file])


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give --data FILE_OR_FOLDER"):
        load_documents([])
    with pytest.raises(InputError, match="does not exist"):
        load_documents([tmp_path / "none.txt"])
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as UTF-8"):
        load_documents([tmp_path / "b.txt"])


def test_real_files_split(shared_lm: Path) -> None:
    articles = load_documents([shared_lm / "wikitext-2.valid.txt"])
    assert len(articles) == 60
    assert len(load_documents([shared_lm / "debian-handbook.en.txt"])) > 20


@pytest.fixture
def shared_lm() -> Path:
    folder = Path(__file__).resolve().parents[4] / "shared" / "data" / "lm"
    if not folder.exists():
        pytest.skip("no ../shared/data/lm beside the clone")
    return folder
