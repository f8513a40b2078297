"""Look at the built site: links, descriptions of pictures, headings, and nothing from elsewhere.

python docs/_ext/check.py docs/_build/html
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page has: places, links, pictures without a description, headings, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.links: list[str] = []
        self.headings: list[int] = []
        self.faults: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.places |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "html" and not values.get("lang"):
            self.faults.append("the page does not say its language")
        if tag == "img" and not values.get("alt", "").strip():
            self.faults.append(f"no description of {values.get('src')}")
        if tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
            self.headings.append(int(tag[1]))
        loaded = values.get("src") or (values.get("href") if tag == "link" else None)
        if loaded and urlsplit(loaded).netloc:
            self.faults.append(f"loads {loaded}")


def faults(site: Path) -> list[str]:
    """One line for each."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        here = [*page.faults]
        if page.headings.count(1) != 1 and path.name != "search.html":  # the theme's, which a script fills
            here.append(f"{page.headings.count(1)} headings of the first level")
        for above, below in zip(page.headings, page.headings[1:], strict=False):
            if below > above + 1:
                here.append(f"a heading of level {below} below one of level {above}")
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                here.append(f"links to {link}, which does not exist")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places:
                here.append(f"links to {link}: no such place on that page")
        found += [f"{path.relative_to(site)}: {fault}" for fault in here]
    if not pages:
        found.append(f"no pages in {site}")
    return found


if __name__ == "__main__":
    lines = faults(Path(sys.argv[1]).resolve())
    print("\n".join(lines) or "links, descriptions and headings are right, nothing is loaded from elsewhere")
    sys.exit(bool(lines))
