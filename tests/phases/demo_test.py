# SPDX-License-Identifier: Apache-2.0
"""scripts/demo: its options are checked before anything is installed or built. In a copy of scripts/, whose setup does nothing."""

import pathlib
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Demo(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        shutil.copytree(ROOT / "scripts", self.folder / "scripts")
        self.program("scripts/setup", "echo setup")
        self.program("bin/cmake", "echo cmake")
        self.program(".venv/bin/python", 'echo "demo.py ${*: 2}"')

    def program(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)

    def demo(self, *options):
        return subprocess.run([self.folder / "scripts/demo", *options], capture_output=True, text=True, timeout=60, check=False,
                              env={"PATH": f"{self.folder}/bin:/usr/bin:/bin"})

    def test_options_are_passed_on(self):
        for options in ((), ("--clients", "2", "--rounds=3"), ("--rounds", "999")):
            done = self.demo(*options)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("setup\n", done.stdout)
            self.assertIn(" ".join(("demo.py --server build-demo/examples/inference_server/inference_server", *options)) + "\n", done.stdout)

    def test_a_wrong_one_is_named_before_anything_is_done(self):
        for options, words in (
            (("--clients", "0"), "--clients is '0': expected a number from 1 to 999"), (("--rounds=-1",), "--rounds is '-1': expected"),
            (("--clients", "2", "--rounds", "x"), "--rounds is 'x': expected"), (("--rounds",), "--rounds is '': expected"),
            (("--clients", "1000"), "--clients is '1000': expected"), (("--client", "3"), "unknown option '--client': expected --clients N or --rounds N"),
        ):
            done = self.demo(*options)
            self.assertEqual((done.returncode, done.stdout), (1, ""), options)
            self.assertIn(f"demo: {words}", done.stderr)

    def test_help_installs_nothing(self):
        done = self.demo("--help")
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stdout, "^usage: scripts/demo .*--clients N.*\n$")


if __name__ == "__main__":
    unittest.main()
