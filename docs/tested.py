"""tested.py: a Sphinx extension: what the pages show as code has run.

A page takes a program from examples/ by `literalinclude`, and examples/test_examples.py must run
it. Commands are run when the page is built, by the directive `command`, which shows them and what
they print. Any other block of code in a page is a warning, and ./dev docs makes errors of warnings.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
PREFIX = Path(os.environ["ATTN_PREFIX"])

# Pages whose code tools took from headers, docstrings and Examples, which have tests of their own.
GENERATED_PAGES = "reference/"

logger = logging.getLogger(__name__)


class Command(SphinxDirective):
    """Shell commands and their output, with the installed library in the environment.

    They run in an empty folder into which the option `files` copies examples. A command that fails
    is an error. `PREFIX` in the output stands for where this library was installed.
    """

    has_content = True
    option_spec = {"files": directives.unchanged}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        commands = "\n".join(self.content)
        with tempfile.TemporaryDirectory() as folder:
            for name in self.options.get("files", "").split():
                self.env.note_dependency(str(EXAMPLES / name))
                shutil.copy(EXAMPLES / name, folder)
            result = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", commands],
                cwd=folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=300,
            )
        output = result.stdout.replace(str(PREFIX), "PREFIX").rstrip()
        if result.returncode != 0:
            raise self.error(f"exit status {result.returncode} of\n{commands}\n{output}")
        blocks = [(commands, "sh"), *([(output, "text")] if output else [])]
        shown = (nodes.literal_block(text, text, language=language) for text, language in blocks)
        return [nodes.container("", *shown, classes=["command"])]


def environment() -> dict[str, str]:
    """What a user of the installed library has set."""
    paths = [str(PREFIX / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    return {
        **os.environ,
        "PATH": ":".join(paths),
        "PKG_CONFIG_PATH": str(PREFIX / "lib" / "pkgconfig"),
        "CMAKE_PREFIX_PATH": str(PREFIX),
        "LD_LIBRARY_PATH": str(PREFIX / "lib"),
    }


def untested(block: nodes.literal_block) -> str | None:
    """What is wrong with a block that a page shows; None if it is a command or a tested program."""
    if isinstance(block.parent, nodes.container) and "command" in block.parent["classes"]:
        return None
    if "source" not in block:
        return "code that no test runs; use literalinclude of an example, or the directive command"
    path = Path(block["source"])
    cmake = EXAMPLES / "CMakeLists.txt"
    if path == cmake or path.is_relative_to(ROOT / "include"):
        return None
    if not path.is_relative_to(EXAMPLES):
        return f"{path} does not lie in examples/"
    # The test names the file, or the program that CMake makes of it.
    name = path.relative_to(EXAMPLES).as_posix()
    target = re.search(rf"add_executable\((\w+) {re.escape(name)}\)", cmake.read_text())
    called = rf'programs / "{target[1]}"' if target else rf'[/"]{re.escape(path.name)}"'
    if not re.search(called, (EXAMPLES / "test_examples.py").read_text()):
        return f"{name} is not run by examples/test_examples.py"
    return None


def check_code(app: Sphinx, doctree: nodes.document) -> None:
    if app.env.docname.startswith(GENERATED_PAGES):
        return
    for block in doctree.findall(nodes.literal_block):
        if problem := untested(block):
            logger.warning(problem, location=block)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("command", Command)
    app.connect("doctree-read", check_code)
    return {"parallel_read_safe": True}
