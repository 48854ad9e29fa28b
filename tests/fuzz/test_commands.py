"""Whatever is typed, piped and given as a file: a sentence or a result, and no torn file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings

from foveate.errors import InputError
from tests.fuzz.cases import Case, cases, command_names
from tests.fuzz.world import World

NAMES = command_names()
# In all of them less is tried of what a test cannot run to its end.
WEIGHTS = {"ask": 3, "render": 3, "pages": 3, "read": 2, "run": 2, "compare": 2, "train": 2}
HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        yield World(tmp_path_factory.mktemp("world"), patch)


@pytest.mark.parametrize("name", NAMES)
def test_no_input_ends_in_a_traceback_or_a_torn_file(
    name: str, world: World, num_inputs: int, fuzz_seed: int
) -> None:
    total = sum(WEIGHTS.get(one, 1) for one in NAMES)
    count = max(1, round(num_inputs * WEIGHTS.get(name, 1) / total))

    @seed(fuzz_seed)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=HEALTH)
    @given(cases(name))
    def holds(case: Case) -> None:
        world.run(case)

    holds()


def case(*arguments: str) -> Case:
    return Case(
        arguments=arguments, files={"text.txt": b"a"}, stdin=b"", columns=80, charset="utf-8"
    )


def test_a_traceback_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: object) -> None:
        raise KeyError("raw")

    world.run(case("render", "text.txt", "-o", "out.png"))
    monkeypatch.setattr("foveate.cli.render._report", broken)
    with pytest.raises(KeyError):
        world.run(case("render", "text.txt", "-o", "out.png"))


def test_a_torn_file_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def torn(picture: object, path: object) -> None:
        Path("old.png").write_bytes(b"half")
        raise InputError("disk full")

    monkeypatch.setattr("foveate.cli.pictures.save_picture", torn)
    with pytest.raises((AssertionError, OSError)):
        world.run(case("render", "text.txt", "-o", "old.png"))
