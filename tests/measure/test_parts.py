"""Parts of a long evaluation: made once, shared out, never mixed with those of other settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from foveate.errors import InputError
from foveate.measure.parts import Part, Parts
from foveate.measure.progress import no_progress


def test_shares_are_disjoint_and_complete(tmp_path: Path) -> None:
    jobs = list(range(7))
    shares = [Parts(folder=tmp_path, index=i, count=3).share(jobs) for i in range(3)]
    assert sorted(job for share in shares for job in share) == jobs
    assert list(Parts().share(jobs)) == jobs


def test_a_part_is_made_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def make() -> dict[str, int]:
        calls.append(1)
        return {"x": len(calls)}

    parts = Parts(folder=tmp_path / "new")
    assert parts.kept("a", {"rule": "mean"}, make) == {"x": 1}
    assert parts.kept("a", {"rule": "mean"}, make) == {"x": 1}
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.json"]
    assert Parts().kept("a", {}, make) == {"x": 2}
    with pytest.raises(InputError, match=r"a\.json was made with another rule; restore"):
        parts.kept("a", {"rule": "sum"}, make)
    (tmp_path / "new" / "a.json").write_text("{cut o")
    with pytest.raises(InputError, match=r"a\.json cannot be used .*; delete it"):
        parts.kept("a", {"rule": "mean"}, make)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"index": 2, "count": 2}, "share 2/2 does not exist; use 0/2 to 1/2"),
     ({"index": 0, "count": 2}, "needs a folder"),
     ({"index": 0, "count": 0}, "does not exist")],
)  # fmt: skip
def test_shares_that_make_no_sense(options: dict[str, int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Parts(**options)  # type: ignore[arg-type]


def test_errors_of_the_work_are_not_blamed_on_the_file(tmp_path: Path) -> None:
    def broken() -> dict[str, int]:
        raise KeyError("a bug of the evaluation")

    with pytest.raises(KeyError, match="a bug of the evaluation"):
        Parts(folder=tmp_path).kept("a", {}, broken)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        Parts(folder=tmp_path / "file" / "below").kept("a", {}, lambda: {"x": 1})


def test_all_parts_are_made_in_order_or_in_shares(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []

    def part_of(job: int) -> Part:
        return Part(
            name=f"p{job}", told=f"job {job}", wanted={"job": job}, make=lambda: {"x": job * job}
        )

    def progress(what: str, done: int, total: int) -> None:
        told.append((what, done, total))

    whole = Parts().make_all([3, 1, 2], part_of, progress)
    assert whole is not None
    assert list(whole.items()) == [(3, {"x": 9}), (1, {"x": 1}), (2, {"x": 4})]
    assert told == [("job 3", 1, 3), ("job 1", 2, 3), ("job 2", 3, 3)]
    del told[:]
    shares = [Parts(folder=tmp_path, index=i, count=2) for i in range(2)]
    assert [share.make_all([3, 1, 2], part_of, progress) for share in shares] == [None, None]
    assert told == [("job 3", 1, 2), ("job 2", 2, 2), ("job 1", 1, 1)]
    files = sorted(file.name for file in tmp_path.iterdir())
    assert files == ["p1.json", "p2.json", "p3.json"]

    def never(job: int) -> Part:
        return Part(name=f"p{job}", told="", wanted={"job": job}, make=lambda: 1 / 0)  # type: ignore[arg-type, return-value]

    assert Parts(folder=tmp_path).make_all([3, 1, 2], never, no_progress) == whole
