# SPDX-License-Identifier: Apache-2.0
"""Tests what distributed_bench leaves behind of its link between two network namespaces, with fake commands that only record their arguments."""

import os
import pathlib
import sys
import tempfile
import unittest
from unittest import mock

sys.argv.insert(1, "ranks_call")
import main  # noqa: E402


class Link(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        for name in ("ip", "tc"):
            self.command(name, "")
        patch = mock.patch.dict(os.environ, {"PATH": f"{folder.name}:{os.environ['PATH']}"})
        patch.start()
        self.addCleanup(patch.stop)

    def command(self, name, then):
        path = self.folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self.folder}/asked"\n{then}\n')
        path.chmod(0o755)

    def asked(self, words):
        return [line.split()[-1] for line in (self.folder / "asked").read_text().splitlines() if line.startswith(words)]

    def test_nothing_is_left_after_use(self):
        with main.Link(1000) as link:
            self.assertEqual((self.asked("ip netns add"), self.asked("ip netns del")), (link.names, []))
            self.assertTrue(os.path.exists(link.agent))
        self.assertEqual(self.asked("ip netns del"), link.names)
        self.assertFalse(os.path.exists(link.agent))

    def test_nothing_is_left_of_a_link_that_cannot_be_made(self):
        self.command("ip", 'case "$*" in *sysctl*) echo no sysctl >&2; exit 1 ;; esac')
        link = main.Link(None)
        with self.assertRaisesRegex(RuntimeError, "no sysctl"), link:
            self.fail("a link that could not be made")
        self.assertEqual(self.asked("ip netns del"), link.names)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]])
