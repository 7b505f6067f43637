# SPDX-License-Identifier: Apache-2.0
"""train_tiny's file of losses: what cannot be written is known before the training, or said after it.

    files_test.py PROGRAM
"""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

PROGRAM = sys.argv[1]
SMALL = ["--steps", "2", "--batch", "1", "--context", "16", "--layers", "1", "--width", "8", "--heads", "1", "--threads", "1"]


def train(path):
    return subprocess.run([PROGRAM, *SMALL, "--json", str(path)], capture_output=True, text=True, timeout=120, check=False)


class File(unittest.TestCase):
    def test_has_a_loss_for_each_step(self):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "losses.json"
            self.assertEqual(train(file).returncode, 0)
            self.assertEqual(len(json.loads(file.read_text())["losses"]), 2)

    def test_that_cannot_be_written_is_known_before_the_first_step(self):
        done = train("/no/such/folder/losses.json")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (1, "", "train_tiny: cannot write /no/such/folder/losses.json\n"))

    def test_on_a_full_disk_is_an_error(self):
        done = train("/dev/full")
        self.assertEqual(done.returncode, 1)
        self.assertIn("train_tiny: cannot write /dev/full", done.stderr)

    def test_is_not_left_empty_by_wrong_options(self):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "losses.json"
            done = subprocess.run([PROGRAM, "--width", "9", "--heads", "2", "--json", file], capture_output=True, text=True, timeout=60, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertFalse(file.exists())


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
