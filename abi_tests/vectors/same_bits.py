#!/usr/bin/env python3
"""Compares what the runners of the test vectors wrote: every language got the same bits.

same_bits.py FOLDER LANGUAGE...
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(folder: Path, languages: list[str]) -> str:
    """Returns "" or what is wrong, in words."""
    results = {
        language: (folder / f"{language}.txt").read_text().splitlines() for language in languages
    }
    first = languages[0]
    if not results[first] or len(set(results[first])) != len(results[first]):
        return f"{first}.txt has no lines, or one twice"
    for language, lines in results.items():
        for line in sorted(set(lines) ^ set(results[first])):
            return f"{language}.txt and {first}.txt are not the same: {line}"
    print(f"{len(results[first])} results, the same bits in: {', '.join(languages)}")
    return ""


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]) or 0)
