#!/usr/bin/env python3
"""doxygen_filter.py: reads a header's plain comments as documentation; Doxygen's INPUT_FILTER.

The headers are written to be read as they are, without markup. What Doxygen needs is put in on the
way: a comment belongs to what follows it, or to what it stands behind; lines that are indented, as
shapes and formulas are, keep their form; `name` is code; nothing else is markup. The numbered
sections of a header become groups, the whole header is one, and the unnamed enumeration behind
`typedef int32_t NAME;` gets that name.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

# A comment with what stands before it on its line. One of C++ may be several lines of //.
COMMENT = re.compile(
    r"^(?P<before>[^\n]*?)(?:/\*(?P<block>.*?)\*/|//(?P<lines>[^\n]*(?:\n[ ]*//[^\n]*)*))",
    re.DOTALL | re.MULTILINE,
)
FILE = re.compile(r"(\w+)\.(h|hpp): ")
SECTION = re.compile(r"-{5,}\n(?P<number>\d+)\. (?P<title>.*)\n(?P<text>[^-]*)-{5,}")
ENUM = re.compile(r"typedef u?int32_t (\w+);\nenum \{")
MARKUP = re.compile(r"[@\\&#<>%]")


def marked_up(text: str) -> str:
    """The text of a comment with Doxygen's markup."""
    out: list[str] = []
    kept = in_list = False
    for line in text.split("\n"):
        indented = line.startswith("  ")
        in_list = line.startswith(("- ", "  - ")) or (in_list and indented)
        if line and kept != (indented and not in_list):
            kept = not kept
            out.append("@verbatim" if kept else "@endverbatim")
        if not kept:
            line = re.sub(r"`([^`]*)`", r"<tt>\1</tt>", MARKUP.sub(r"\\\g<0>", line))
            line = re.sub(r"\b\w+\.h\b", r"%\g<0>", line)  # a file's name is no link
        if line.startswith("*") and out:  # what is pointed to, where Doxygen would see decoration
            out[-1] += f" {line}"
        else:
            out.append(line)
    return "\n".join([*out, "@endverbatim"] if kept else out)


def documented(match: re.Match[str]) -> str:
    """A comment as Doxygen reads it."""
    before = match["before"]
    if match["block"] is not None:
        first, *rest = match["block"].split("\n")
        lines = [first.strip(), *(re.sub(r"^ *\*? ?", "", line) for line in rest)]
    else:
        lines = [re.sub(r"^ *(//)? ?", "", line) for line in match["lines"].split("\n")]
    text = "\n".join(lines).strip()
    if before.startswith(("}", "#endif")):  # names what ends here
        return match[0]
    if before.strip():  # behind a declaration: its further lines are indented for looks
        return f"{before}/**< {marked_up(' '.join(text.split()))} */"
    if section := SECTION.match(text):
        end = "" if section["number"] == "1" else "/** @} */\n"
        words = f"section_{section['number']} {section['title']}\n{marked_up(section['text'])}"
        return f"{end}/** @defgroup {words}@{{ */"
    if file := FILE.match(text):
        words = f"{file[1]}_{file[2]} {file[0]}\n{marked_up(text[file.end() :])}"
        return f"/** @defgroup {words}\n@{{ */"
    return f"{before}/** {marked_up(textwrap.dedent(text))} */"


if __name__ == "__main__":
    header = COMMENT.sub(documented, Path(sys.argv[1]).read_text())
    groups = header.count("@{") - header.count("@}")
    print(ENUM.sub(r"enum \1 {", header), "/** @} */\n" * groups)
