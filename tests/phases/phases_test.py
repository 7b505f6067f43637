# SPDX-License-Identifier: Apache-2.0
"""scripts/phases.sh: what its phases print into a log, and what a failure leaves."""

import pathlib
import shlex
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Phases(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def run_script(self, script: str) -> subprocess.CompletedProcess:
        """`script` with phases.sh, in an empty folder, without a terminal."""
        sources = "set -euo pipefail\n" + "".join(f"source {shlex.quote(str(ROOT / 'scripts' / name))}\n" for name in ("lib.sh", "phases.sh"))
        return subprocess.run(["bash", "-c", sources + script], cwd=self.folder, capture_output=True, text=True, timeout=60)

    def detail(self, log: str) -> str:
        (self.folder / "log").write_text(log)
        return self.run_script("phase_detail log").stdout

    def test_a_phase_has_a_line_where_it_starts_and_ends_and_its_output_in_the_log(self):
        done = self.run_script("run_phase first logs/a echo hello; run_phase second logs/b echo you")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"\A== first\n== first: done in \d+ s\n== second\n== second: done in \d+ s\n\Z")
        self.assertEqual((self.folder / "logs/a").read_text(), "hello\n")

    def test_phases_run_beside_one_another(self):
        # Each waits for the other's file, so one after the other would not end.
        wait = "touch $0; until [[ -e $1 ]]; do sleep 0.05; done"
        done = self.run_script(f"start_phase x la bash -c '{wait}' a b; start_phase y lb bash -c '{wait}' b a; finish_phases")
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_a_failure_shows_the_logs_end_and_ends_the_others(self):
        done = self.run_script(
            "start_phase long log sleep 600; echo ${phase_pids[0]} >pid\n"
            "start_phase bad logs/bad bash -c 'seq 100; echo reason >&2; exit 3'; finish_phases; echo not reached"
        )
        self.assertNotEqual(done.returncode, 0)
        self.assertNotIn("not reached", done.stdout)
        self.assertTrue(done.stderr.endswith("100\nreason\nfailed: bad (all of it in logs/bad)\n"), done.stderr)
        command = pathlib.Path("/proc", (self.folder / "pid").read_text().strip(), "cmdline")
        self.assertFalse(command.exists() and b"sleep" in command.read_bytes())

    def test_a_phase_that_is_a_function_ends_at_its_first_error(self):
        done = self.run_script("steps() { false; touch after; }; run_phase steps log steps")
        self.assertNotEqual(done.returncode, 0)
        self.assertFalse((self.folder / "after").exists())

    def test_how_far_ninja_apt_and_pip_are(self):
        self.assertEqual(self.detail(""), "")
        self.assertEqual(
            self.detail("[1/8] Re-checking\n[2/8] Building CXX object dot/CMakeFiles/k.dir/walk.cpp.o\n"), ", 25 %, 2 of 8 steps done, last dot/walk.cpp"
        )
        apt = "1 upgraded, 1 newly installed, 0 to remove and 3 not upgraded.\nGet:1 http://x bookworm/main amd64 libfoo amd64 1.2 [3 kB]\n"
        self.assertEqual(self.detail(apt), ", downloading libfoo")
        self.assertEqual(self.detail(apt + "Unpacking libfoo:amd64 (1.2) ...\n"), ", 25 %, unpacking libfoo:amd64")
        self.assertEqual(
            self.detail(apt + "Unpacking libfoo (1.2) ...\nUnpacking b (1) ...\nSetting up libfoo (1.2) ...\n"), ", 75 %, setting up libfoo"
        )
        self.assertEqual(self.detail("Collecting numpy==2.4.6\n"), ", fetching numpy==2.4.6")


if __name__ == "__main__":
    unittest.main()
