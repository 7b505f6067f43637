# SPDX-License-Identifier: Apache-2.0
"""The scaling programs: curves of the model, a measured point, options that are wrong, and the picture.

    scaling_examples_test.py STRONG WEAK FOLDER
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

STRONG, WEAK, FOLDER = (pathlib.Path(argument) for argument in sys.argv[1:4])


def call(program, *arguments):
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=200)


def curve(program, *arguments):
    """The JSON that a run writes; its table must say the same."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "curve.json"
        done = call(program, "--json", path, *arguments)
        assert done.returncode == 0, done.stderr
        result = json.loads(path.read_text())
    for point in result["points"]:
        assert f"{point['seconds'] * 1e3:.3f}" in done.stdout, done.stdout
    return result


def points(program, *arguments):
    return {(p["bind"], p["threads"]): p for p in curve(program, *arguments)["points"]}


class Simulated(unittest.TestCase):
    A64FX = ("--simulate", "4x12", "--tokens", "8192")

    def test_prefill_fills_the_chip(self):
        found = points(STRONG, *self.A64FX)
        self.assertEqual(found["close", 48]["domains"], 4)
        self.assertEqual(found["close", 12]["domains"], 1)
        self.assertEqual(found["spread", 4]["domains"], 4)
        self.assertGreaterEqual(found["close", 48]["efficiency"], 0.95)
        self.assertGreaterEqual(found["spread", 48]["efficiency"], 0.95)

    def test_a_mixed_batch_of_64_fills_the_chip(self):
        self.assertGreaterEqual(points(STRONG, *self.A64FX, "--workload", "mixed")["close", 48]["efficiency"], 0.90)

    def test_decode_stops_at_the_bandwidth_of_a_domain(self):
        found = points(STRONG, *self.A64FX, "--workload", "decode")
        one = found["close", 1]["gbps"]
        self.assertLessEqual(one, 36)
        self.assertGreater(one, 0.95 * 36)
        self.assertLessEqual(found["close", 12]["gbps"], 225)
        self.assertGreater(found["close", 12]["gbps"], 0.9 * 225)
        self.assertGreater(found["spread", 4]["gbps"], 3.8 * one)
        self.assertGreater(found["close", 48]["balance"], 0.90)

    def test_rates_are_what_was_stated(self):
        twice = ("--core-gflops", "218", "--start-us", "0.000001")
        plain = ("--core-gflops", "109", "--start-us", "0.000001")
        fast, slow = (points(STRONG, *self.A64FX, *rates)["close", 48]["seconds"] for rates in (twice, plain))
        self.assertAlmostEqual(slow / fast, 2, places=3)
        late = points(STRONG, *self.A64FX, "--start-us", "1000")["close", 48]["seconds"]
        self.assertAlmostEqual(late - slow, 1e-3, places=6)

    def test_weak_scaling_keeps_its_time(self):
        found = points(WEAK, *self.A64FX)
        self.assertGreater(found["close", 48]["efficiency"], 0.95)
        self.assertAlmostEqual(found["close", 48]["gflops"] / found["close", 1]["gflops"], 48, delta=2.4)


class Measured(unittest.TestCase):
    def test_each_executor_is_run_and_reported(self):
        for program in (STRONG, WEAK):
            for workload in ("prefill", "decode", "mixed"):
                result = curve(program, "--workload", workload, "--tokens", "64", "--q-heads", "4", "--kv-heads", "2", "--head-dim", "16",
                               "--threads", "1", "--executors", "openmp,tbb,serial", "--binds", "none", "--seconds", "0.001")
                self.assertEqual([p["executor"] for p in result["points"]], ["openmp", "tbb", "serial"])
                for point in result["points"]:
                    self.assertGreater(point["seconds"], 0)
                    self.assertEqual(point["efficiency"], 1)
                    self.assertNotIn("balance", point)

    def test_progress_goes_to_standard_error(self):
        done = call(STRONG, "--tokens", "16", "--threads", "1", "--executors", "serial", "--binds", "none", "--seconds", "0.001")
        self.assertIn("[1/1] serial, none, 1 threads", done.stderr)
        self.assertNotIn("[1/1]", done.stdout)


class Wrong(unittest.TestCase):
    def test_options(self):
        for arguments in (("--simulate", "4y"), ("--simulate", "4x12x"), ("--simulate", "0x1"), ("--workload", "training"), ("--threads", "0"),
                          ("--q-heads", "6", "--kv-heads", "4"), ("--nonsense",)):
            done = call(STRONG, *arguments)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertIn(arguments[0], done.stderr + done.stdout)

    def test_more_threads_than_the_machine_has(self):
        done = call(STRONG, "--simulate", "2x2", "--threads", "5")
        self.assertEqual(done.returncode, 1)
        self.assertIn("num_threads", done.stderr)

    def test_a_file_that_cannot_be_written(self):
        done = call(STRONG, "--simulate", "2x2", "--json", "/no/such/folder/x.json")
        self.assertEqual(done.returncode, 1)
        self.assertIn("/no/such/folder/x.json", done.stderr)


class Picture(unittest.TestCase):
    def test_svg_and_png(self):
        with tempfile.TemporaryDirectory() as folder:
            data = pathlib.Path(folder) / "curve.json"
            self.assertEqual(call(STRONG, "--simulate", "2x4", "--json", data).returncode, 0)
            for name, start in (("a.svg", b"<?xml"), ("a.png", b"\x89PNG")):
                picture = pathlib.Path(folder) / name
                done = call(sys.executable, FOLDER / "plot.py", data, picture)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertTrue(picture.read_bytes().startswith(start))
            self.assertIn("parallel efficiency", (pathlib.Path(folder) / "a.svg").read_text())


class BatchScript(unittest.TestCase):
    def test_is_a_shell_script_with_both_schedulers_directives(self):
        script = FOLDER / "a64fx.sh"
        self.assertEqual(call("bash", "-n", script).returncode, 0)
        text = script.read_text()
        self.assertIn("#PJM", text)
        self.assertIn("#SBATCH", text)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
