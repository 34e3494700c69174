"""links.py FOLDER: checks that every link within built pages leads somewhere, its anchor included.

Pages that rustdoc made are led to, but not looked through: rustdoc checks its own links.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup

OTHER_TOOLS = ("rust",)


@functools.cache
def page(path: Path) -> BeautifulSoup:
    """A page, parsed."""
    return BeautifulSoup(path.read_text(), "html.parser")


@functools.cache
def anchors(path: Path) -> set[str]:
    """What the fragment of a link to the page may be."""
    tags = page(path).find_all(True)
    return {str(tag[key]) for tag in tags for key in ("id", "name") if tag.has_attr(key)}


def broken(path: Path, link: str) -> str | None:
    """Why a link on a page leads nowhere; None if it leads somewhere or out of these pages."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        return "no such file"
    anchor = unquote(parts.fragment)
    if anchor and target.suffix == ".html" and anchor not in anchors(target):
        return "no such anchor"
    return None


def main(folder: Path) -> int:
    checked = failed = 0
    for path in sorted(folder.resolve().rglob("*.html")):
        if path.relative_to(folder.resolve()).parts[0] in OTHER_TOOLS:
            continue
        for tag in page(path).find_all(["a", "img", "link", "script"]):
            for link in (str(tag[key]) for key in ("href", "src") if tag.has_attr(key)):
                checked += 1
                if why := broken(path, link):
                    failed += 1
                    print(f"{path}: {link}: {why}")
    print(f"{checked} links, {failed} lead nowhere")
    return 1 if failed or not checked else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
