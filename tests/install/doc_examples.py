# SPDX-License-Identifier: Apache-2.0
"""The programs in README.md and docs/*.md are real: found here, compiled and run against the installed package.

A fenced block of `cpp` or `c` is a program under test if the line above it is a mark:

    <!-- example: examples/hello_attention/hello_attention.cpp -->   the block is that file, letter for letter but for its licence line
    <!-- example -->                                                  a whole program: it builds and exits 0

A block of either language that defines main() and carries no mark is an error: it would go stale unnoticed.
"""

import re
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"^(?:[ \t]*<!-- example(?::[ \t]*(?P<file>\S+))?[ \t]*-->[ \t]*\n)?```(?P<language>cpp|c)[^\n]*\n(?P<code>.*?)^```[ \t]*$",
                   re.MULTILINE | re.DOTALL)


@dataclass
class Example:
    where: str  # "README.md:12"
    language: str
    code: str
    file: str | None = None  # the file it must equal


def examples_of(text: str, name: str):
    """(examples, problems) of one page."""
    examples, problems = [], []
    for block in BLOCK.finditer(text):
        where = f"{name}:{text.count(chr(10), 0, block.start('code'))}"
        marked = block[0].lstrip().startswith("<!--")
        if marked:
            examples.append(Example(where, block["language"], block["code"], block["file"]))
        elif re.search(r"\bmain\s*\(", block["code"]):
            problems.append(f"{where}: a whole program without the mark <!-- example -->")
    return examples, problems


def without_licence_line(text: str):
    """As a page shows a file: without the SPDX line that sources begin with."""
    return re.sub(r"\A// SPDX-License-Identifier: [^\n]*\n", "", text)


def examples_in(root: Path):
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    examples, problems = [], []
    for page in pages:
        if page.is_file():
            found, wrong = examples_of(page.read_text(encoding="utf-8"), page.relative_to(root).as_posix())
            examples += found
            problems += wrong
    for example in examples:
        if example.file is not None:
            source = root / example.file
            if not source.is_file():
                problems.append(f"{example.where}: there is no {example.file}")
            elif without_licence_line(source.read_text(encoding="utf-8")) != example.code:
                problems.append(f"{example.where}: differs from {example.file}")
    return examples, problems
