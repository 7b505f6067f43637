# SPDX-License-Identifier: Apache-2.0
"""scripts/setup where everything is installed: it says so, and starts nothing. In a copy of scripts/, with a package system that knows every package."""

import pathlib
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMANDS = {
    "dpkg": "echo amd64",
    "dpkg-query": 'for name in "$@"; do case $name in *:arm64) echo "${name%:*} arm64 installed" ;; *) echo "$name amd64 installed" ;; esac; done',
    "apt-get": "exit 1",
    "sudo": "exit 1",
}


class Setup(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="a name with spaces ")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        shutil.copytree(ROOT / "scripts", self.folder / "scripts")
        for name, text in COMMANDS.items():
            self.program(f"bin/{name}", text)

    def program(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)

    def make_environment(self, name, stamps):
        self.program(f"{name}/bin/python", "exit 1")
        version = subprocess.run(["/usr/bin/python3", "--version"], capture_output=True, text=True, check=True).stdout
        for stamp, lists in stamps.items():
            read = "".join((self.folder / "scripts" / f"requirements{part}.txt").read_text() for part in lists)
            (self.folder / name / stamp).write_text(f"{self.folder}\n{version}{read}")

    def setup(self, what):
        return subprocess.run([self.folder / "scripts/setup", what], capture_output=True, text=True, timeout=60, check=False,
                              env={"PATH": f"{self.folder}/bin:/usr/bin:/bin"})

    def test_the_demo_needs_no_environment_but_its_own(self):
        self.make_environment(".venv", {"kumiko-demo": ["-demo"]})
        done = self.setup("demo")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout, "== Debian packages for Python: all are installed\n== Python packages: .venv is up to date\n"
                                      "== Debian packages: all are installed\n== setup: everything is in place\n")


if __name__ == "__main__":
    unittest.main()
