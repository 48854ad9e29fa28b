"""Parts of a long evaluation: made once, shared out, never mixed with those of other settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from foveate.errors import InputError
from foveate.measure.parts import Parts


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
