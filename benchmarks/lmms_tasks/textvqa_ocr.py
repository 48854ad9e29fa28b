"""What textvqa_val_ocr.yaml takes from lmms-eval's own TextVQA."""

from __future__ import annotations

from typing import Any

from lmms_eval.tasks.textvqa.utils import (
    textvqa_doc_to_text,
    textvqa_doc_to_visual,
    textvqa_process_results,
)

__all__ = ["doc_to_text", "doc_to_visual", "process_results"]

doc_to_text = textvqa_doc_to_text
doc_to_visual = textvqa_doc_to_visual


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """The VQA accuracy alone, without writing a file for the server."""
    return {"exact_match": textvqa_process_results(doc, results)["exact_match"]}
