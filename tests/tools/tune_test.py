# SPDX-License-Identifier: Apache-2.0
"""kumiko-tune writes a file that the runtime reads; what it cannot do it says.

    tune_test.py KUMIKO_TUNE KUMIKO_TOPOLOGY
"""

import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import unittest

FIELDS = ["decode_rows", "tile_vectors", "narrow_tile_vectors", "task_tiles", "pipe_ahead", "keys_ahead", "values_ahead", "l2_ahead",
          "l2_ahead_apart", "values_together", "narrow_decode_rows", "append_ahead", "append_streams"]


class Tune(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def run_program(self, program, *options, **environment):
        return subprocess.run([program, *options], cwd=self.folder, capture_output=True, text=True,
                              env={**os.environ, **environment})

    def test_the_file_is_whole_and_the_runtime_reads_it(self):
        done = self.run_program(TUNE, "--quick", "--rounds", "1", "--megabytes", "1", "--output", "here.tuning")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stderr, "")  # no progress where nobody looks on
        text = (self.folder / "here.tuning").read_text()
        self.assertTrue(done.stdout.startswith(text))
        self.assertEqual([path.name for path in self.folder.iterdir()], ["here.tuning"])
        sections = re.findall(r"^\[(\w+)\]\n((?:\w+ = \d+\n)+)", text, re.MULTILINE)
        self.assertGreater(len(sections), 0)
        for isa, lines in sections:
            self.assertEqual([line.split(" = ")[0] for line in lines.splitlines()], FIELDS)
            used = self.run_program(TOPOLOGY, "--isa", isa, KUMIKO_TUNING="here.tuning")
            self.assertEqual(used.returncode, 0, used.stderr)
            self.assertIn("tuning here.tuning", used.stdout)

    def test_one_instruction_set_of_several(self):
        done = self.run_program(TUNE, "--isa", "sse", "--output", "one.tuning")
        known = re.search(r"expected (.+)$", done.stderr, re.MULTILINE)[1].split(" | ")
        done = self.run_program(TUNE, "--quick", "--rounds", "1", "--megabytes", "1", "--isa", known[-1], "--output", "one.tuning")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(re.findall(r"^\[(\w+)\]$", (self.folder / "one.tuning").read_text(), re.MULTILINE), known[-1:])

    def test_a_file_that_was_spoilt_is_refused(self):
        (self.folder / "bad.tuning").write_text("[avx2]\ndecode_rows = many\n")
        done = self.run_program(TOPOLOGY, KUMIKO_TUNING="bad.tuning")
        self.assertEqual(done.returncode, 1)
        self.assertIn('KUMIKO_TUNING is "bad.tuning"; expected a file of kumiko-tune (line 2 is "decode_rows = many"', done.stderr)

    def test_what_cannot_be_is_said_before_anything_is_measured(self):
        for options, words, status in ((["--isa", "sse"], '--isa is "sse"; expected ', 2), (["--isa", "avx512_bf16"], "expected ", 2),
                                       (["--output", "/nowhere/x"], '--output is "/nowhere/x"; expected a file', 1), (["--rounds", "0"], "--rounds", 2),
                                       (["--megabytes", "nan"], "--megabytes", 2), (["--nonsense"], "--nonsense", 2)):
            done = self.run_program(TUNE, "--quick", *options)
            self.assertEqual(done.returncode, status)
            self.assertIn(words, done.stderr)
            self.assertEqual(list(self.folder.iterdir()), [])

    def test_the_file_may_be_a_pipe(self):
        os.mkfifo(self.folder / "pipe")
        with subprocess.Popen(["cat", self.folder / "pipe"], stdout=subprocess.PIPE, text=True) as reader:
            done = self.run_program(TUNE, "--quick", "--rounds", "1", "--megabytes", "1", "--isa", self.an_isa(), "--output", "pipe")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("decode_rows = ", reader.communicate(timeout=60)[0])

    def an_isa(self):
        """The first of those that the program names."""
        return self.run_program(TUNE, "--isa", "none").stderr.partition("expected ")[2].split()[0]

    def test_a_folder_for_temporary_files_that_is_not_there(self):
        done = self.run_program(TUNE, "--quick", "--megabytes", "1", TMPDIR="/nowhere")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("expected TMPDIR", done.stderr)
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_more_memory_than_there_is(self):
        most = 2 << 30
        done = subprocess.run([TUNE, "--quick", "--megabytes", "4096"], cwd=self.folder, capture_output=True, text=True,
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (most, most)))
        self.assertEqual((done.returncode, done.stderr), (1, "kumiko-tune: out of memory; expected a smaller --megabytes\n"))
        self.assertEqual(list(self.folder.iterdir()), [])


if __name__ == "__main__":
    TUNE, TOPOLOGY = sys.argv[1:3]
    unittest.main(argv=sys.argv[:1])
