# SPDX-License-Identifier: Apache-2.0
"""train_tiny's file of losses: what cannot be written is known before the training, or said after it. And options that are wrong.

    files_test.py PROGRAM
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

PROGRAM = sys.argv[1]
SMALL = ["--batch", "1", "--context", "16", "--layers", "1", "--width", "8", "--heads", "1", "--threads", "1"]


def train(path, *more, steps=2, command=()):
    return subprocess.run([*command, PROGRAM, *SMALL, "--steps", str(steps), "--json", str(path), *more], capture_output=True, text=True, timeout=120, check=False)


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
            self.assertEqual(done.returncode, 2)
            self.assertIn("--width: 9; expected a multiple of --heads, which is 2", done.stderr)
            self.assertFalse(file.exists())

    def test_of_an_older_training_stays_until_the_new_one_is_whole(self):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "losses.json"
            file.write_text("older")
            file.chmod(0o640)
            done = train(file, command=["sh", "-c", "trap '' XFSZ; ulimit -f 0; exec \"$@\"", "sh"])
            self.assertEqual(done.returncode, 1)
            self.assertIn(f"train_tiny: cannot write {file}\n", done.stderr)
            self.assertEqual((file.read_text(), list(Path(folder).iterdir())), ("older", [file]))
            self.assertEqual(train(file).returncode, 0)
            self.assertEqual(len(json.loads(file.read_text())["losses"]), 2)
            self.assertEqual(file.stat().st_mode & 0o777, 0o640)

    def test_behind_a_link_is_made_where_the_link_leads(self):
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / "link.json"
            link.symlink_to("losses.json")
            self.assertEqual(train(link).returncode, 0)
            self.assertTrue(link.is_symlink())
            self.assertEqual(len(json.loads((Path(folder) / "losses.json").read_text())["losses"]), 2)

    def test_may_be_a_pipe(self):
        with tempfile.TemporaryDirectory() as folder:
            pipe = Path(folder) / "pipe"
            os.mkfifo(pipe)
            with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True) as reader:
                self.assertEqual(train(pipe).returncode, 0)
                self.assertEqual(len(json.loads(reader.communicate(timeout=60)[0])["losses"]), 2)

    def test_has_no_losses_that_are_no_numbers(self):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "losses.json"
            done = train(file, "--learning-rate", "1e6", steps=50)
            self.assertEqual((done.returncode, file.exists()), (1, False))
            self.assertRegex(done.stderr, "\ntrain_tiny: the loss .* is -?(nan|inf); expected a finite number, as a learning rate below 1e[+]06 may give\n$")


class Picture(unittest.TestCase):
    def test_a_last_group_of_fewer_steps_is_drawn_at_its_middle(self):
        spec = importlib.util.spec_from_file_location("plot", Path(__file__).parents[2] / "examples/train_tiny/plot.py")
        plot = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(plot)
        self.assertEqual(plot.means([2.0] * 20 + [1.0, 3.0]), [(10, 2), (21, 2)])
        self.assertEqual(plot.means([5.0]), [(0.5, 5)])
        with tempfile.TemporaryDirectory() as folder:
            for name, steps in (("a.svg", 1), ("b.png", 41)):
                picture = Path(folder) / name
                plot.draw({"losses": [1.0] * steps, "held_out": 2.0, "tokens_a_step": 16}, picture)
                self.assertGreater(picture.stat().st_size, 1000)


class Wrong(unittest.TestCase):
    def test_options(self):
        for option, value in (("--steps", "0"), ("--steps", "-1"), ("--batch", "x"), ("--context", "1"), ("--layers", "65"), ("--width", ""), ("--heads", "0"),
                              ("--learning-rate", "0"), ("--learning-rate", "nan"), ("--learning-rate", "inf"), ("--seed", "-1"), ("--threads", "99999"),
                              ("--text", "/no/such/text"), ("--nonsense", "1")):
            done = subprocess.run([PROGRAM, option, value], capture_output=True, text=True, timeout=60, check=False)
            self.assertEqual((done.returncode, done.stdout), (2, ""), (option, value))
            self.assertIn(option, done.stderr)

    def test_output_that_cannot_be_written(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run([PROGRAM, *SMALL, "--steps", "2"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("train_tiny: cannot write the standard output", done.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
