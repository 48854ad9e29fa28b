"""The benchmark for GPUs on a CPU in tiny form: rows, its budget, its page; flash out of torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import foveate
from benchmarks import results
from benchmarks.gpu import page
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.contest import Contender, Contest
from benchmarks.gpu.flash_of_torch import use_flash, use_sdpa
from benchmarks.gpu.models import Shapes, build_qwen, qwen_prompt
from benchmarks.gpu.official import exact_is_a_full_svd, information_full_svd
from benchmarks.gpu.rows import Rows
from benchmarks.gpu.sections import SECTIONS
from foveate.core.information import INFORMATION_SCORES, information_exact
from tests import tiny_vlm as tiny

TINY = ["--device", "cpu", "--tiny", "--new-tokens", "2", "--rounds", "2"]


def run_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "gpu.json").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All sections once, on tiny shapes."""
    folder = tmp_path_factory.mktemp("gpu")
    assert main(["--out", str(folder), "--budget", "300", *TINY]) == 0
    return run_of(folder)


def test_every_section_leaves_rows_and_no_error(run: dict[str, Any]) -> None:
    assert run["errors"] == run["skipped"] == []
    kinds = {row["what"] for row in run["rows"]}
    assert kinds == {what for _, what, _ in page.TABLES}
    prefills = [row for row in run["rows"] if row["what"] == "prefill"]
    assert {row["model"] for row in prefills} == {
        "LLaVA-1.5-7B", "LLaVA-1.5-7B, the paper's", "Qwen2.5-VL-7B",
    }  # fmt: skip
    assert {row["attention"] for row in prefills} == {"sdpa", "flash", "eager"}
    for row in prefills:
        assert row["finite"]
        assert row["rounds"] == 2
        assert row["prefill_ms"]["low"] <= row["prefill_ms"]["value"] <= row["prefill_ms"]["high"]
        is_plain = row["method"].startswith("plain")
        assert (row["kv_ratio"] == 1) == is_plain
        assert ("select_ms" in row) != is_plain
        assert 0 < row["tower_share"] < 1


def test_a_page_of_it_has_every_table(run: dict[str, Any]) -> None:
    counted = {"kernels": 1, "kernels_ms": 0.5, "waits": 2}
    rows = [
        {**row, "prefill": counted, "token": counted} if row["what"] == "launches" else row
        for row in run["rows"]
    ]
    lines = page.page({**run, "rows": rows, "skipped": ["the rest"]})
    assert [line[3:] for line in lines if line.startswith("## ")] == [
        *(heading for heading, _, _ in page.TABLES),
        "Not measured for lack of time",
    ]
    tables = [line for line in lines if line.startswith("|")]
    assert len(tables) == len(rows) + 2 * len(page.TABLES)


def test_only_a_gpu_makes_the_page(
    run: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path / "docs")
    file = tmp_path / "gpu.json"
    file.write_text(json.dumps(run))
    assert page.main([str(file)]) == 2
    assert "a run on cpu at tiny shapes, which says nothing about a GPU" in capsys.readouterr().err
    assert not (tmp_path / "docs").exists()
    # The control: the same rows of a GPU become one.
    run = {**run, "rows": [row for row in run["rows"] if row["what"] != "launches"]}
    hardware = {**run["about"]["hardware"], "gpu": "a GPU"}
    about = {**run["about"], "device": "cuda", "tiny": False, "hardware": hardware}
    file.write_text(json.dumps({**run, "about": about}))
    assert page.main([str(file)]) == 0
    assert "One a GPU, bfloat16" in (tmp_path / "docs" / "gpu.md").read_text()


def test_what_there_is_no_time_for_is_named(tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path), "--budget", "0", *TINY]) == 0
    run = run_of(tmp_path)
    assert run["rows"] == []
    assert run["skipped"] == list(SECTIONS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--device", "cpu"], "add --tiny"), (["--device", "cuda"], "finds no GPU here")],
)
def test_refused(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), *arguments])
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_contender_that_fails_costs_itself_only(tmp_path: Path) -> None:
    device = torch.device("cpu")
    shapes = Shapes(tiny=True)
    rows = Rows(tmp_path, {}, budget=60)
    model, inputs = build_qwen(shapes, device), qwen_prompt(shapes, device, side=4)
    where = {"model": "Qwen2.5-VL-7B", "batch": 1, "keep": "25%"}
    broken = foveate.FastV(keep_tokens=4)
    object.__setattr__(broken, "select", None)
    contenders = {"plain": Contender(), "broken": Contender(method=broken)}
    Contest(rows, Clock(device), where, model, inputs).run(contenders, rounds=1)
    run = run_of(tmp_path)
    assert [row["method"] for row in run["rows"]] == ["plain"]
    assert [error["what"] for error in run["errors"]] == ["Qwen2.5-VL-7B, 1, 25%: broken"]
    assert rows.has_errors


@pytest.mark.parametrize("num_images", [(1,), (1, 2, 0)], ids=["single", "ragged"])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_flash_equals_sdpa(family: str, num_images: tuple[int, ...]) -> None:
    model = tiny.build(family)
    inputs = tiny.prompts(model, family, num_images)
    said = []
    for use in (use_sdpa, use_flash):
        use(model)
        with foveate.attach(model, foveate.FastV(keep_ratio=0.4)):
            out = model.generate(
                **inputs,
                max_new_tokens=4,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
        said.append(torch.stack(out.logits))
    torch.testing.assert_close(said[0], said[1], atol=1e-5, rtol=1e-5)


def test_the_whole_svd_is_the_exact_score() -> None:
    x = torch.randn(2, 20, 12, generator=torch.Generator().manual_seed(0))
    for shape in (x, x.mT):
        exact = information_exact(shape).float()
        torch.testing.assert_close(information_full_svd(shape), exact, atol=1e-4, rtol=1e-4)
    with exact_is_a_full_svd():
        assert INFORMATION_SCORES["exact"] is information_full_svd
    assert INFORMATION_SCORES["exact"] is information_exact
