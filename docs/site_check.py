"""Checks a built site: links and pictures lead somewhere in it, nothing comes from elsewhere.

python docs/site_check.py out/site
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
NOT_LOADED = ("canonical", "next", "prev")


class _Page(HTMLParser):
    """What a page links to, what it loads, and which anchors it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {value for key in ("id", "name") if (value := found.get(key))}
        if tag == "a" and found.get("href"):
            self.links.append(str(found["href"]))
        source = found.get(LOADED.get(tag, ""))
        if source and found.get("rel") not in NOT_LOADED:
            self.loads.append(source)


def problems(site: Path) -> list[str]:
    """One sentence for each link that leads nowhere and each thing loaded from outside."""
    pages = {path: _Page(path) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site)
        for address in page.loads:
            parts = urlsplit(address)
            if parts.netloc:
                found.append(f"{name} loads {address} from another host.")
        for address in (*page.links, *page.loads):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc or not (parts.path or parts.fragment):
                continue
            # 404.html is written for the root of a server.
            base = site if parts.path.startswith("/") else path.parent
            target = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                found.append(f"{name} links to {address}, which does not exist.")
            elif parts.fragment and target in pages and name.name != "404.html":
                anchor = unquote(parts.fragment)
                if anchor not in pages[target].anchors and anchor != "__toc":
                    found.append(f"{name} links to {address}, and that page has no such anchor.")
    if not pages:
        found.append(f"{site} has no pages.")
    return found


def main() -> None:
    found = problems(Path(sys.argv[1]).resolve())
    for sentence in found:
        print(sentence, file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
