"""Hooks of the documentation site: pages that lie elsewhere in the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
# A file of the repository -> its place on the site.
ELSEWHERE = {
    "foveate/assets/vlm/README.md": "cards/vlm.md",
    "foveate/assets/text_encoder/README.md": "cards/text-encoder.md",
    "foveate/assets/vist/README.md": "cards/vist.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
}
OPTIONAL = {"Running it": [{"Serving": "serving.md"}]}


def on_config(config: Any) -> Any:
    """Pages that may not be written yet join the navigation once they are there."""
    for section in config["nav"]:
        for title, pages in section.items():
            for page in OPTIONAL.get(title, ()):
                (name,) = page.values()
                if (Path(config["docs_dir"]) / name).exists():
                    pages.insert(0, page)
    return config


def on_files(files: Any, config: Any) -> Any:
    """The cards of the models, the changes and how to contribute belong to the site too."""
    for source, place in ELSEWHERE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, place, content=_links(text, source, place)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links that leave docs/ for such a file go to its page."""
    if page.file.src_uri in ELSEWHERE.values():
        return markdown
    up = "../" * page.file.src_uri.count("/")
    for source, place in ELSEWHERE.items():
        markdown = re.sub(rf"\]\((?:\.\./)+{re.escape(source)}", f"]({up}{place}", markdown)
    return markdown


def _links(text: str, source: str, place: str) -> str:
    """The text with its relative links turned to where their files are on the site."""
    up = "../" * place.count("/")

    def turned(match: re.Match[str]) -> str:
        link, anchor = match[1], match[2] or ""
        if "://" in link or not link:
            return match[0]
        target = (ROOT / source).parent.joinpath(link).resolve().relative_to(ROOT).as_posix()
        if target in ELSEWHERE:
            return f"]({up}{ELSEWHERE[target]}{anchor})"
        if target.startswith("docs/"):
            return f"]({up}{target.removeprefix('docs/')}{anchor})"
        return match[0]

    return re.sub(r"\]\(([^)#]*)(#[^)]*)?\)", turned, text)
