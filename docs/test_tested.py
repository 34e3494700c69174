"""What keeps the documentation true fails where it should.

Run by ./dev docs. ATTN_PREFIX names the prefix that the library was installed into.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import attn
import pytest

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
XML = ROOT / "build" / "docs-work" / "doxygen" / "xml"


def build(tmp_path: Path, page: str) -> tuple[int, str]:
    """Builds one page with the extension; returns the exit status and what was said."""
    (tmp_path / "conf.py").write_text('extensions = ["myst_parser", "tested"]\n')
    (tmp_path / "index.md").write_text(f"# Page\n\n{page}\n")
    result = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", tmp_path, tmp_path / "html"],
        env={**os.environ, "PYTHONPATH": str(DOCS)},
        capture_output=True,
        text=True,
    )
    return result.returncode, result.stderr


def literalinclude(tmp_path: Path, file: Path) -> str:
    return f"```{{literalinclude}} {os.path.relpath(file, tmp_path)}\n```"


@pytest.mark.parametrize(
    "page",
    [
        "```python\nprint(1)\n```",
        "```\nany words\n```",
        "    indented",
        "```{code-block} c\nint x;\n```",
    ],
)
def test_code_in_a_page_is_refused(tmp_path: Path, page: str) -> None:
    status, words = build(tmp_path, page)
    assert status != 0 and "no test runs" in words


def test_tested_examples_are_accepted(tmp_path: Path) -> None:
    files = [*ROOT.glob("examples/*/minimal.*")]
    assert len(files) == 5
    page = "\n\n".join(literalinclude(tmp_path, file) for file in files)
    assert build(tmp_path, page) == (0, "")


@pytest.mark.parametrize("file", ["examples/demo/manual.py", "bench/cases.py"])
def test_files_that_no_test_runs_are_refused(tmp_path: Path, file: str) -> None:
    status, words = build(tmp_path, literalinclude(tmp_path, ROOT / file))
    assert status != 0 and Path(file).name in words


def test_a_command_runs_and_shows_what_it_prints(tmp_path: Path) -> None:
    page = "```{command}\n:files: c/minimal.c\n\nls; attn-info --version; echo $((6 * 7))\n```"
    assert build(tmp_path, page) == (0, "")
    html = (tmp_path / "html" / "index.html").read_text()
    assert "minimal.c\n0." in html and "\n42" in html


@pytest.mark.parametrize("commands", ["false", "false | cat", "echo $unset", "no-such-program"])
def test_a_command_that_fails_is_refused(tmp_path: Path, commands: str) -> None:
    status, words = build(tmp_path, f"```{{command}}\n{commands}\n```")
    assert status != 0 and "exit status" in words


@pytest.mark.parametrize(
    "link", ["gone.html", "other.html#gone", "#gone", "folder/", "../outside/gone.html"]
)
def test_a_broken_link_is_found(tmp_path: Path, link: str) -> None:
    pages = tmp_path / "pages"
    (pages / "folder").mkdir(parents=True)
    (pages / "other.html").write_text('<p id="here">text</p>')
    good = '<a href="other.html#here">a</a><a href="https://example.org">b</a>'
    for text, status in ((good, 0), (good + f'<a href="{link}">c</a>', 1)):
        (pages / "index.html").write_text(text)
        result = subprocess.run([sys.executable, DOCS / "links.py", pages], capture_output=True)
        assert result.returncode == status, result.stdout


def public_members() -> list[tuple[str, bool]]:
    """(name, whether it is documented) of each public function and type of the headers."""
    found = []
    for path in XML.glob("*.xml"):
        for compound in ElementTree.parse(path).getroot().iter("compounddef"):
            name = compound.findtext("compoundname", "")
            if compound.get("kind") in {"struct", "class"} and "<" not in name:
                found.append((name, documented(compound)))
            for member in compound.iter("memberdef"):
                if member.get("kind") in {"function", "enum", "typedef"} and is_public(member):
                    found.append((member.findtext("definition", ""), documented(member)))
    return found


def is_public(member: ElementTree.Element) -> bool:
    """What needs no words is no more than every class has: destructors, moves."""
    signature = member.findtext("name", "") + member.findtext("argsstring", "")
    return member.get("prot") == "public" and not re.search(r"~|operator=|\(\w+ &&", signature)


def documented(element: ElementTree.Element) -> bool:
    words = (element.find(f"{kind}description") for kind in ("brief", "detailed"))
    return any("".join(found.itertext()).strip() for found in words if found is not None)


def test_everything_public_in_the_headers_is_documented() -> None:
    members = public_members()
    assert len(members) > 100
    assert [name for name, is_documented in members if not is_documented] == []


def test_everything_public_in_python_is_in_the_reference() -> None:
    page = (DOCS / "reference" / "python.md").read_text()
    shown = re.findall(r"auto(?:function|class|exception):: attn\.(\w+)", page)
    assert sorted(shown) == sorted(attn.__all__)


def test_every_section_of_the_header_is_in_the_reference() -> None:
    page = (DOCS / "reference" / "c.md").read_text()
    header = (ROOT / "include" / "attn" / "attn.h").read_text()
    sections = re.findall(r"^ \* (\d+)\. \w", header, re.MULTILINE)
    assert re.findall(r"\} section_(\d+)", page) == sections
