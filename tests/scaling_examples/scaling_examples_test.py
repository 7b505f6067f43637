# SPDX-License-Identifier: Apache-2.0
"""The scaling programs: curves of the model, a measured point, options that are wrong, and the picture.

    scaling_examples_test.py STRONG WEAK FOLDER
"""

import json
import os
import pathlib
import pty
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


class Ranks(unittest.TestCase):
    A64FX = ("--simulate", "64x4x12", "--tokens", "65536")

    def points(self, program, *arguments):
        return {p["ranks"]: p for p in curve(program, *self.A64FX, *arguments)["points"]}

    def test_powers_of_two_up_to_all(self):
        found = curve(STRONG, "--simulate", "6x4x12", "--tokens", "8192")
        self.assertEqual([p["ranks"] for p in found["points"]], [1, 2, 4, 6])
        self.assertEqual([found["rates"][key] for key in ("link", "link_gbps", "link_us", "message_us", "overlap")], ["tofu-d", 6.8, 0.5, 0.1, 1])
        self.assertEqual(list(self.points(STRONG, "--ranks", "3,64")), [3, 64])

    def test_one_rank_is_the_plans_prediction(self):
        for workload in ("prefill", "decode"):
            plan = points(STRONG, "--simulate", "4x12", "--tokens", "65536", "--workload", workload, "--threads", "48")["close", 48]
            one = self.points(STRONG, "--workload", workload)[1]
            self.assertAlmostEqual(one["seconds"] / plan["seconds"], 1, places=12)
            self.assertEqual((one["algorithm"], one["efficiency"]), ("none", 1))

    def test_parts_are_the_whole_and_the_bound_is_the_largest(self):
        for workload in ("prefill", "decode"):
            for point in self.points(STRONG, "--workload", workload).values():
                parts = point["parts"]
                self.assertAlmostEqual(sum(parts.values()) / point["seconds"], 1, places=9)
                self.assertEqual(parts[point["bound"]], max(parts.values()))
                self.assertLessEqual(point["efficiency"], 1)
                self.assertEqual(min(point["algorithms"].values()), point["seconds"])

    def test_the_link_is_what_was_stated(self):
        decode = ("--workload", "decode", "--ranks", "64", "--distribution", "contiguous")
        tofu = self.points(STRONG, *decode)[64]
        self.assertEqual(self.points(STRONG, *decode, "--link", "tofu-d", "--link-gbps", "6.8", "--link-us", "0.5")[64], tofu)
        ethernet = self.points(STRONG, *decode, "--link", "ethernet-100g")[64]
        self.assertEqual(self.points(STRONG, *decode, "--link-gbps", "12.5", "--link-us", "3", "--message-us", "0.2")[64], ethernet)
        half = self.points(STRONG, *decode, "--link-gbps", "3.4")[64]
        self.assertAlmostEqual(half["parts"]["link"] / tofu["parts"]["link"], 2, places=6)
        self.assertGreater(self.points(STRONG, *decode, "--link-us", "500")[64]["parts"]["latency"], 1e-3)

    def test_algorithms_and_distributions(self):
        for algorithm in ("ring", "broadcast", "states"):
            found = self.points(STRONG, "--ranks", "1,16", "--algorithm", algorithm)
            self.assertEqual(found[16]["algorithm"], algorithm)
            self.assertEqual(found[16]["algorithms"][algorithm], found[16]["seconds"])
            self.assertNotIn("head_parallel", found[16]["algorithms"])
        ranks = ("--ranks", "16", "--link-gbps", "1e9", "--link-us", "0", "--message-us", "0")
        zigzag, contiguous = (self.points(STRONG, *ranks, "--distribution", d)[16]["efficiency"] for d in ("zigzag", "contiguous"))
        self.assertGreater(zigzag, contiguous)
        done = call(STRONG, *self.A64FX, "--algorithm", "head_parallel")
        self.assertEqual(done.returncode, 1)
        self.assertIn("head_parallel", done.stderr)

    def test_blocks_and_overlap_count(self):
        prefill = ("--ranks", "4", "--algorithm", "broadcast", "--link-gbps", "0.1")
        whole = self.points(STRONG, *prefill)[4]["seconds"]
        self.assertGreater(self.points(STRONG, *prefill, "--overlap", "0")[4]["seconds"], whole)
        self.assertGreater(self.points(STRONG, *prefill, "--block-keys", "8192")[4]["seconds"], whole)

    def test_weak_scaling_keeps_the_work_of_a_rank(self):
        prefill = self.points(WEAK)
        self.assertEqual([prefill[n]["tokens"] for n in (1, 4, 64)], [65536, 131072, 524288])
        decode = self.points(WEAK, "--workload", "decode")
        self.assertEqual(decode[64]["tokens"], 64 * 65536)
        for found in (prefill, decode):
            self.assertAlmostEqual(found[64]["parts"]["compute"] / found[1]["seconds"], 1, delta=0.001)

    def test_a_million_tokens_on_4096_nodes(self):
        for link in ("tofu-d", "ethernet-100g"):
            found = curve(STRONG, "--simulate", "4096x4x12", "--tokens", "1048576", "--link", link)["points"]
            self.assertEqual(found[-1]["ranks"], 4096)
            self.assertEqual(found[-1]["bound"], "link")
            self.assertGreater(found[3]["efficiency"], 0.9)


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


    def test_several_domains(self):
        """Keys and values are given to the domains with threads; the library refuses a wrong domain or part."""
        machine = os.environ | {"KUMIKO_TOPOLOGY": "numa:3 core:2 pu:1"}
        for program in (STRONG, WEAK):
            for workload in ("prefill", "decode", "mixed"):
                done = subprocess.run([program, "--workload", workload, "--tokens", "33", "--q-heads", "6", "--kv-heads", "3", "--head-dim", "24",
                                       "--threads", "1,2,5", "--seconds", "0.001"], env=machine, capture_output=True, text=True, timeout=200)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertEqual(len(done.stdout.splitlines()), 2 + 2 * 2 * 3)

    def test_serial_has_one_point(self):
        """Its one thread computes, however many seats there are."""
        result = curve(STRONG, "--tokens", "16", "--executors", "serial", "--binds", "none", "--seconds", "0.001")
        self.assertEqual([(p["executor"], p["threads"]) for p in result["points"]], [("serial", 1)])


class Wrong(unittest.TestCase):
    def test_options(self):
        for arguments in (("--simulate", "4y"), ("--simulate", "4x12x"), ("--simulate", "0x1"), ("--simulate", "0x4x12"), ("--simulate", "2x4x12x"),
                          ("--link", "carrier-pigeon"), ("--link-gbps", "0"), ("--link-us", "-1"), ("--overlap", "1.5"), ("--distribution", "random"),
                          ("--algorithm", "magic"), ("--block-keys", "1000"), ("--ranks", "0"), ("--workload", "mixed", "--simulate", "2x4x12"), ("--workload", "training"), ("--threads", "0"),
                          ("--q-heads", "6", "--kv-heads", "4"), ("--nonsense",), ("--seconds", "nan"), ("--overlap", "nan"), ("--core-gflops", "nan"),
                          ("--core-gbps", "inf"), ("--domain-gbps", "1e300"), ("--start-us", "nan"), ("--link-us", "nan"), ("--link-gbps", "nan"),
                          ("--threads", "1.5"), ("--tokens", "99999999999999999999"), ("--batch", ""), ("--simulate", "4294967298x4x12"),
                          ("--simulate", "4x 12"), ("--ranks", "1,2"), ("--ranks", "2", "--simulate", "4x12"), ("--executors", "serial", "--threads", "1,2")):
            done = call(STRONG, *arguments)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertIn(arguments[0], done.stderr)
            self.assertRegex(done.stderr, "expected|not in|not expected", arguments)
            self.assertEqual(done.stdout, "")

    def test_more_threads_than_the_machine_has(self):
        done = call(STRONG, "--simulate", "2x2", "--threads", "5")
        self.assertEqual(done.returncode, 1)
        self.assertIn("num_threads", done.stderr)

    def test_more_ranks_than_were_stated(self):
        done = call(STRONG, "--simulate", "4x2x2", "--ranks", "2,5")
        self.assertEqual(done.returncode, 1)
        self.assertIn("--ranks: 5", done.stderr)

    def test_a_file_that_cannot_be_written_is_known_before_the_work(self):
        for more in (("--simulate", "2x2"), ("--simulate", "2x2x2"), ("--tokens", "16")):
            done = call(STRONG, *more, "--json", "/no/such/folder/x.json")
            self.assertEqual((done.returncode, done.stdout, done.stderr), (1, "", "--json: cannot write /no/such/folder/x.json\n"))

    def test_an_older_file_stays_until_the_new_one_is_whole(self):
        with tempfile.TemporaryDirectory() as folder:
            older, link = pathlib.Path(folder) / "older.json", pathlib.Path(folder) / "link.json"
            link.symlink_to("older.json")
            for shape in ("2x2", "2x2x2"):
                older.write_text("older")
                full = call("sh", "-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\"", STRONG, "--simulate", shape, "--json", link)
                self.assertEqual((full.returncode, full.stderr.splitlines()[-1]), (1, f"--json: cannot write {link}"))
                self.assertIn("strong scaling", full.stdout)
                self.assertEqual(older.read_text(), "older")
                self.assertEqual(call(STRONG, "--simulate", shape, "--json", link).returncode, 0)
                self.assertTrue(json.loads(older.read_text())["points"])
                self.assertEqual(sorted(p.name for p in pathlib.Path(folder).iterdir()), ["link.json", "older.json"])

    def test_a_table_that_cannot_be_written_is_an_error(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run([STRONG, "--simulate", "2x2"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=200)
        self.assertEqual((done.returncode, done.stderr.splitlines()[-1]), (1, "the standard output cannot be written"))

    def test_an_error_begins_a_line_on_a_terminal(self):
        main, terminal = pty.openpty()
        done = subprocess.run([STRONG, "--simulate", "2x2", "--threads", "5"], stdout=subprocess.DEVNULL, stderr=terminal, timeout=200)
        os.close(terminal)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(os.read(main, 4096).decode(), "5 threads\r\x1b\\[Knum_threads")
        os.close(main)

    def test_a_call_that_does_not_fit_in_memory(self):
        # 16 GiB of queries in an address space of 4: nothing is touched that a machine might lack.
        done = call("sh", "-c", 'ulimit -v 4194304 && exec "$0" --tokens 1048576 --threads 1', STRONG)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("memory", done.stderr)


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

    def test_a_label_tells_strong_from_weak_and_no_point_is_cut_off(self):
        with tempfile.TemporaryDirectory() as folder:
            files = [pathlib.Path(folder) / f"{mode}.json" for mode in ("strong", "weak")]
            for file in files:
                point = {"executor": "tbb", "bind": "close", "threads": 2, "speedup": 6.0, "efficiency": 3.0}
                file.write_text(json.dumps({"mode": file.stem, "workload": "decode", "machine": "here", "points": [point]}))
            picture = pathlib.Path(folder) / "a.svg"
            done = call(sys.executable, FOLDER / "plot.py", *files, picture)
            self.assertEqual(done.returncode, 0, done.stderr)
            for text in (">strong, decode, tbb, close<", ">weak, decode, tbb, close<", ">3.0<"):
                self.assertIn(text, picture.read_text())

    def test_ranks(self):
        with tempfile.TemporaryDirectory() as folder:
            ranks, threads, picture = (pathlib.Path(folder) / name for name in ("ranks.json", "threads.json", "a.svg"))
            self.assertEqual(call(STRONG, "--simulate", "8x2x4", "--json", ranks).returncode, 0)
            self.assertEqual(call(STRONG, "--simulate", "2x4", "--json", threads).returncode, 0)
            done = call(sys.executable, FOLDER / "plot.py", ranks, ranks, picture)
            self.assertEqual(done.returncode, 0, done.stderr)
            for text in ("parallel efficiency", "part of the time", "imbalance", "latency", "strong, prefill, tofu-d"):
                self.assertIn(text, picture.read_text())
            done = call(sys.executable, FOLDER / "plot.py", ranks, threads, picture)
            self.assertEqual(done.returncode, 2)
            self.assertIn("two pictures", done.stderr)


class BatchScript(unittest.TestCase):
    def test_is_a_shell_script_with_both_schedulers_directives(self):
        script = FOLDER / "a64fx.sh"
        self.assertEqual(call("bash", "-n", script).returncode, 0)
        text = script.read_text()
        self.assertIn("#PJM", text)
        self.assertIn("#SBATCH", text)

    def run_with(self, name, launcher, environment):
        """The script in a folder where the launcher says how it was called; the files of the results."""
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / "build/examples/strong_scaling").mkdir(parents=True)
            (root / "build/examples/strong_scaling/strong_scaling").symlink_to(STRONG)
            (root / launcher).write_text('#!/bin/sh\necho "$*" > called\n')
            (root / launcher).chmod(0o755)
            path = {"PATH": f"{root}:{os.environ['PATH']}"}
            done = subprocess.run(["bash", FOLDER / name], cwd=root, env=path | environment, capture_output=True, text=True, timeout=200)
            self.assertEqual(done.returncode, 0, done.stderr)
            (results,) = root.glob("ranks-*")
            last = {f.name: json.loads(f.read_text())["points"][-1]["ranks"] for f in results.glob("*.json")}
            return (root / "called").read_text(), last

    def test_ranks_on_fugaku(self):
        for domains, ranks in (("4", 2), ("1", 8)):
            called, last = self.run_with("fugaku_ranks.sh", "mpiexec", {"COMMAND": "a.out --x", "NODES": "2", "DOMAINS": domains})
            self.assertTrue(called.endswith(" a.out --x\n"), called)
            self.assertEqual(last, {"predicted-prefill.json": ranks, "predicted-decode.json": ranks})

    def test_ranks_under_slurm(self):
        called, last = self.run_with("slurm_ranks.sh", "srun", {"COMMAND": "a.out --x", "SLURM_NTASKS": "8", "SLURM_CPUS_PER_TASK": "12"})
        self.assertEqual(called, "--cpus-per-task=12 --cpu-bind=cores a.out --x\n")
        self.assertEqual(last, {"predicted-prefill.json": 8, "predicted-decode.json": 8})

    def test_a_missing_command_is_named(self):
        for name in ("fugaku_ranks.sh", "slurm_ranks.sh"):
            done = call("bash", FOLDER / name)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("COMMAND", done.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
