"""Splits the project's manual, README.md and the documentation in its headers, into passages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MIN_WORDS = 6  # a shorter paragraph says nothing alone
MAX_WORDS = 130  # about what the model takes at once


class Passage(NamedTuple):
    place: str  # "include/attn/attn.h:205"
    title: str  # the heading that it stands under, or the function that it documents
    text: str


def split_long(text: str) -> Iterator[str]:
    """The text in pieces of whole sentences, of at most MAX_WORDS words where sentences allow."""
    piece: list[str] = []
    for sentence in re.split(r"(?<=[.;:]) ", text):
        words = sentence.split()
        if piece and len(piece) + len(words) > MAX_WORDS:
            yield " ".join(piece)
            piece = []
        piece += words
    if piece:
        yield " ".join(piece)


def paragraphs(lines: list[str], first_line: int) -> Iterator[tuple[int, str]]:
    """Paragraphs, list items and rows of tables, as (line number, text on one line)."""
    block: list[str] = []
    for number, line in enumerate([*lines, ""], first_line):
        item = re.match(r"\s*([-*]|\d+\.) (?=\S)|\|", line)
        if block and (item or not line.strip()):
            text = " ".join(block)
            if len(text.split()) >= MIN_WORDS:
                for piece in split_long(text):
                    yield number - len(block), piece
            block = []
        if line.strip():
            block.append(line[item.end() :] if item else line.strip())


def documented(source: str, comment: re.Match[str]) -> str:
    """The name that a comment documents: in front of it on its line, else declared after it."""
    before = source[source.rfind("\n", 0, comment.start()) + 1 : comment.start()]
    trailing = re.search(r"(\w+)(\[\w+\])?(\s*=[^,;]*)?[,;]?\s*$", before)
    if trailing:
        return trailing[1]
    declaration = re.split(r"[;{]|/\*|\n\n", source[comment.end() :].lstrip(), maxsplit=1)[0]
    function = re.search(r"\b(attn_\w+)\(", declaration)
    names = re.findall(r"^(?:typedef (?:struct )?\w* ?|struct )?(attn_\w+)", declaration)
    return function[1] if function else names[0] if names else ""


def header_passages(name: str, source: str) -> Iterator[Passage]:
    """The comments of a C header, each titled by what it documents."""
    for comment in re.finditer(r"/\*(.*?)\*/", source, re.DOTALL):
        lines = [re.sub(r"^\s*\* ?", "", line) for line in comment[1].splitlines()]
        lines = [line for line in lines if not re.fullmatch(r"\s*-+\s*", line)]
        title = documented(source, comment)
        first_line = source.count("\n", 0, comment.start()) + 1
        for line, text in paragraphs(lines, first_line):
            yield Passage(f"{name}:{line}", title, text)


def markdown_passages(name: str, source: str) -> Iterator[Passage]:
    """The paragraphs, list items and table rows of a Markdown file, titled by their heading."""
    # Code is no prose; its lines stay as blank ones, so that line numbers hold.
    source = re.sub(
        r"^```.*?^```$", lambda m: "\n" * m[0].count("\n"), source, flags=re.DOTALL | re.MULTILINE
    )
    title, section, first = "", list[str](), 1
    for number, line in enumerate([*source.splitlines(), "#"], 1):
        if line.startswith("#"):
            for at, text in paragraphs(section, first):
                yield Passage(f"{name}:{at}", title, plain(text))
            title, section, first = line.lstrip("# "), [], number + 1
        else:
            section.append(line)


def plain(text: str) -> str:
    """Markdown without its marks."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"[`*]|^[-*] |\s*\|\s*", " ", text).strip()


def passages(root: Path) -> list[Passage]:
    """All passages of the manual of the tree at `root`."""
    found: list[Passage] = []
    for path in (root / "README.md", *sorted((root / "include" / "attn").glob("*.h"))):
        split = markdown_passages if path.suffix == ".md" else header_passages
        found += split(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8"))
    return found
