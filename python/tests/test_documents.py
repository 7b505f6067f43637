# SPDX-License-Identifier: Apache-2.0
"""The Python in README.md and docs/python.md runs as it stands."""

import pathlib
import re

import pytest
from test_context import script

ROOT = pathlib.Path(__file__).parents[2]
BLOCKS = [pytest.param(block[1], id=f"{name}:{text.count(chr(10), 0, block.start()) + 1}") for name in ("README.md", "docs/python.md")
          for text in [(ROOT / name).read_text()] for block in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


def test_both_pages_have_some():
    assert {block.id.partition(":")[0] for block in BLOCKS} == {"README.md", "docs/python.md"}


@pytest.mark.parametrize("block", BLOCKS)
def test_it_runs(block):
    assert script(block + "print(out.shape, numpy.isfinite(out).all())").endswith((", 64) True", ", 512) True"))
