"""What the plugin extends of vLLM, compared between two versions without running either.

Only the older of the versions that the plugin is for exists as a build for CPUs. This reads the
sources of both (wheels, or folders that hold `vllm/`) and compares every class, method and function
that the plugin imports, overrides or calls: whether it is there, its signature, its body.
`python -m benchmarks.vllm_surface OLD NEW` writes docs/results/vllm-surface.json and .md.
"""

from __future__ import annotations

import argparse
import ast
import functools
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from benchmarks.results import write_results
from foveate.measure.manifest import manifest

MODELS = "vllm/model_executor/models"
_GRID = (
    "__init__", "_process_image_input", "_parse_and_validate_image_input", "embed_multimodal",
    "get_mrope_input_positions", "get_encoder_cudagraph_config",
)  # fmt: skip
_VIDEO = ("_process_video_input", "_parse_and_validate_video_input")
_TILES = ("__init__", "embed_multimodal")
# Module -> names in it, a method behind its class. What a class inherits is looked up in the class
# that defines it.
SURFACE: Mapping[str, tuple[str, ...]] = {
    "vllm/__init__.py": ("ModelRegistry",),
    "vllm/config/vllm.py": ("VllmConfig.try_verify_and_update_config",),
    "vllm/config/multimodal.py": (
        "MultiModalConfig.is_multimodal_pruning_enabled",
        "MultiModalConfig.merge_mm_processor_kwargs",
    ),
    "vllm/model_executor/models/registry.py": ("_ModelRegistry.register_model",),
    "vllm/multimodal/registry.py": ("MultiModalRegistry.register_processor",),
    "vllm/multimodal/inputs.py": ("MultiModalFieldConfig.batched",),
    "vllm/multimodal/processing/inputs.py": ("ProcessorInputs", "ProcessorInputs.get_mm_hashes"),
    "vllm/multimodal/processing/context.py": (
        "BaseProcessingInfo.get_mm_max_tokens_per_item",
        "BaseProcessingInfo.get_supported_mm_limits",
        "BaseProcessingInfo.validate_num_items",
    ),
    "vllm/multimodal/processing/processor.py": (
        "PromptUpdateDetails",
        "PromptUpdateDetails.from_seq",
        "BaseMultiModalProcessor.apply",
        "BaseMultiModalProcessor._get_mm_hashes",
        "BaseMultiModalProcessor._get_cache_missing_processor_kwargs",
        "BaseMultiModalProcessor._apply_hf_processor",
        "BaseMultiModalProcessor._cached_apply_hf_processor",
        "BaseMultiModalProcessor._apply_hf_processor_main",
        "BaseMultiModalProcessor._get_mm_fields_config",
        "BaseMultiModalProcessor._get_prompt_updates",
        "BaseMultiModalProcessor._maybe_apply_prompt_updates",
        "BaseMultiModalProcessor.get_dummy_mm_inputs",
    ),
    "vllm/v1/engine/input_processor.py": ("InputProcessor.process_inputs",),
    "vllm/platforms/__init__.py": (),
    "vllm/v1/worker/cpu_model_runner.py": ("CPUModelRunner.load_model",),
    "vllm/distributed/communication_op.py": ("tensor_model_parallel_all_reduce",),
    "vllm/model_executor/layers/attention/mm_encoder_attention.py": (
        "MMEncoderAttention.forward_native",
        "MMEncoderAttention.__init__",
    ),
    "vllm/model_executor/models/interfaces.py": (
        "SupportsMultiModalPruning.recompute_mrope_positions",
        "SupportsMRoPE.get_mrope_input_positions",
    ),
    f"{MODELS}/llava.py": tuple(f"LlavaForConditionalGeneration.{n}" for n in _TILES),
    f"{MODELS}/llava_next.py": tuple(
        f"LlavaNextForConditionalGeneration.{n}" for n in (*_TILES, "_merge_image_patch_embeddings")
    ),
    f"{MODELS}/llava_onevision.py": tuple(
        f"LlavaOnevisionForConditionalGeneration.{n}"
        for n in (*_TILES, "_merge_image_patch_embeddings")
    ),
    f"{MODELS}/qwen2_vl.py": tuple(
        f"Qwen2VLForConditionalGeneration.{n}" for n in (*_GRID, *_VIDEO)
    ),
    f"{MODELS}/qwen2_5_vl.py": (
        *(f"Qwen2_5_VLForConditionalGeneration.{n}" for n in (*_GRID, *_VIDEO)),
        "Qwen2_5_VisionTransformer.get_window_index_thw",
    ),
    f"{MODELS}/qwen3_vl.py": tuple(
        f"Qwen3VLForConditionalGeneration.{n}" for n in (*_GRID, *_VIDEO)
    ),
    f"{MODELS}/qwen3_5.py": ("Qwen3_5ForConditionalGeneration.__init__",),
    f"{MODELS}/glm4_1v.py": tuple(f"Glm4vForConditionalGeneration.{n}" for n in _GRID),
    f"{MODELS}/gemma3_mm.py": (
        *(f"Gemma3ForConditionalGeneration.{n}" for n in _TILES),
        "Gemma3MultiModalProjector.forward",
    ),
    f"{MODELS}/idefics3.py": (
        *(f"Idefics3ForConditionalGeneration.{n}" for n in _TILES),
        "Idefics3Connector.pixel_shuffle",
    ),
    f"{MODELS}/smolvlm.py": ("SmolVLMForConditionalGeneration.__init__",),
    f"{MODELS}/interns1.py": tuple(
        f"InternS1ForConditionalGeneration.{n}" for n in (*_TILES, "pixel_shuffle")
    ),
}

Verdict = Literal["same", "body differs", "signature differs", "gone", "new"]


@dataclass(frozen=True)
class Compared:
    """One name in both versions.

    Args:
        module, name: where it is and what it is called.
        verdict: how the newer one stands to the older.
        before, after: signatures, "" where there is none.
    """

    module: str
    name: str
    verdict: Verdict
    before: str = ""
    after: str = ""


def sources(place: Path) -> Mapping[str, str]:
    """The texts of the modules of SURFACE in a wheel or a folder; missing ones are left out."""
    if place.is_dir():
        return {name: (place / name).read_text() for name in SURFACE if (place / name).exists()}
    with zipfile.ZipFile(place) as wheel:
        there = set(wheel.namelist())
        return {name: wheel.read(name).decode() for name in SURFACE if name in there}


def find(text: str, name: str) -> ast.AST | None:
    """A class, function, method or imported name of a module."""
    found: ast.AST | None = _parsed(text)
    for part in name.split("."):
        inside = _definitions(found)
        found = inside.get(part)
        if found is None:
            return None
    return found


@functools.cache
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def _definitions(scope: ast.AST | None) -> dict[str, ast.AST]:
    found: dict[str, ast.AST] = {}
    for node in ast.walk(scope) if isinstance(scope, ast.Module) else ast.iter_child_nodes(scope):  # type: ignore[arg-type]
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            found.setdefault(node.name, node)
        elif isinstance(node, (ast.ImportFrom, ast.Import)):
            for alias in node.names:
                found.setdefault(alias.asname or alias.name, node)
        elif (
            isinstance(scope, ast.Module)
            and isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node.value.isidentifier()
        ):  # lazily imported names stand in a table of texts
            found.setdefault(node.value, ast.Constant(node.value))
    return found


def signature(node: ast.AST) -> str:
    """Parameters of a function, fields of a class."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return ast.unparse(node.args)
    if isinstance(node, ast.ClassDef):
        fields = [ast.unparse(part) for part in node.body if isinstance(part, ast.AnnAssign)]
        return "; ".join([", ".join(ast.unparse(base) for base in node.bases), *fields])
    return ""


def compare(old: Mapping[str, str], new: Mapping[str, str]) -> list[Compared]:
    """Every name of SURFACE.

    Raises:
        ValueError: neither version has it, so that nothing would be compared.
    """
    rows = []
    for module, names in SURFACE.items():
        for name in names:
            before, after = (
                find(texts[module], name) if module in texts else None for texts in (old, new)
            )
            if before is None and after is None:
                raise ValueError(f"{name} of {module} is in neither version; mend SURFACE.")
            if before is None or after is None:
                there = after if before is None else before
                assert there is not None
                verdict: Verdict = "new" if before is None else "gone"
                shown = signature(there)
                sides = ("", shown) if before is None else (shown, "")
                rows.append(Compared(module, name, verdict, *sides))
                continue
            a, b = signature(before), signature(after)
            is_same = ast.dump(before) == ast.dump(after)
            verdict = "signature differs" if a != b else "same" if is_same else "body differs"
            rows.append(Compared(module, name, verdict, a, b))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path, help="wheel or site-packages of the older version")
    parser.add_argument("new", type=Path, help="of the newer version")
    parser.add_argument("--names", nargs=2, default=("0.32.0", "0.33.0"))
    arguments = parser.parse_args()
    rows = compare(sources(arguments.old), sources(arguments.new))
    old, new = arguments.names
    counts = {
        verdict: sum(row.verdict == verdict for row in rows)
        for verdict in ("same", "body differs", "signature differs", "gone", "new")
    }
    table = ["| module | name | verdict |", "|---|---|---|"]
    for row in rows:
        if row.verdict != "same":
            more = f": `{row.before}` -> `{row.after}`" if row.before != row.after else ""
            table.append(f"| `{row.module}` | `{row.name}` | {row.verdict}{more} |")
    write_results(
        "vllm-surface",
        f"What the plugin extends, in vLLM {old} and {new}",
        f"{len(rows)} classes, methods and functions of vLLM that the plugin imports, overrides or "
        f"calls, read from the sources of both versions; "
        + ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        + f". Nothing of {new} was run: there is no build of it for CPUs. The table has what is "
        "not the same.",
        table,
        {
            "versions": [old, new],
            "counts": counts,
            "rows": [asdict(row) for row in rows],
            "manifest": manifest(seed=0),
        },
    )


if __name__ == "__main__":
    main()
