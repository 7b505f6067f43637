# SPDX-License-Identifier: Apache-2.0
"""kumiko-bench as a user starts it: its table, its JSON, its errors. No assertion is about how long anything took.

    bench_test.py PROGRAM
"""

import json
import os
import pty
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

PROGRAM = sys.argv[1]
QUICK = ["--threads", 1, "--passes", 1, "--seconds", 0.001]
SHAPE = ["--q-heads", 4, "--kv-heads", 2, "--q-len", 24, "--kv-len", 40, "--head-dim", 32]
SMALL = [*QUICK, *SHAPE]
PIPELINES = {"online", "decode", "two_pass", "interleaved", "three_pass"}
ISAS = ["avx512_bf16", "avx512", "avx2", "sve512", "neon", "reference"]


def call(*arguments, environment=None):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KUMIKO_")}
    return subprocess.run([PROGRAM, *map(str, arguments)], env={**clean, **(environment or {})}, capture_output=True, text=True,
                          timeout=250, check=False)


def measure(*arguments, environment=None):
    """The table and the JSON of a call that is right."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        done = call(*arguments, "--json", file, environment=environment)
        if done.returncode != 0 or done.stderr:
            raise AssertionError(f"{arguments}: ended with {done.returncode}: {done.stderr}")
        return done.stdout, json.loads(file.read_text())


def advice_of_pages(*arguments):
    """Of a running call's mappings of 64 MiB or more: "hg" where the kernel is asked for huge pages, "nh" where it is asked for none, as for
    the address sanitizer's own in any case."""
    advice = set()
    with subprocess.Popen([PROGRAM, *map(str, arguments)], stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            kib = 0
            try:
                lines = Path(f"/proc/{process.pid}/smaps").read_text().splitlines()
            except OSError:
                break
            for line in lines:
                name, _, value = line.partition(":")
                if name == "Size":
                    kib = int(value.split()[0])
                if name == "VmFlags" and kib >= 65536:
                    advice |= {"hg", "nh"} & set(value.split())
    return advice


def host_isas():
    """Those that this machine runs, by asking for each."""
    return [isa for isa in ISAS if call(*SMALL, "--isa", isa).returncode == 0]


class Figures(unittest.TestCase):
    def check(self, found):
        """What the figures of each row have to do with each other."""
        for row in found["rows"]:
            seconds = row["seconds"]["median"]
            self.assertTrue(0 < row["seconds"]["min"] <= seconds <= row["seconds"]["max"])
            self.assertAlmostEqual(row["gflops"] * seconds * 1e9 / found["flop"], 1)
            self.assertAlmostEqual(row["kv_gbps"] * seconds * 1e9 / found["kv_bytes"], 1)
            if row["rounds_above_ceiling"] == row["rounds"]:
                self.assertEqual([row[name] for name in ("fraction", "bound", "limit_seconds", "peak_gflops", "read_gbps")], [None] * 5)
                continue
            reading = found["kv_bytes"] / row["read_gbps"] * 1e-9
            multiplying = found["flop"] / row["peak_gflops"] * 1e-9
            self.assertAlmostEqual(row["limit_seconds"] / max(reading, multiplying), 1)
            self.assertEqual(row["bound"], "memory" if reading > multiplying else "compute")
            self.assertTrue(0 < row["fraction"]["min"] <= row["fraction"]["median"] <= row["fraction"]["max"] <= 1.02)

    def test_defaults(self):
        said, found = measure(*QUICK, "--q-len", 64)
        self.check(found)
        self.assertEqual(found["problem"], {"batch": 1, "q_heads": 8, "kv_heads": 8, "q_len": 64, "kv_len": 64, "head_dim": 128,
                                            "v_head_dim": 128, "dtype": "f32", "layout": "bhsd", "causal": False, "lengths": None,
                                            "window": None})
        self.assertEqual((found["threads"], found["clock"], found["data"], found["kv_copies"]), (1, "cpu", "warm", 1))
        self.assertEqual(len(found["rows"]), 1)
        self.assertTrue(found["rows"][0]["default"])
        self.assertEqual(found["left_out"], [])
        self.assertEqual(found["flop"], 4 * 8 * 64 * 64 * 128)
        self.assertEqual(found["kv_bytes"], 2 * 8 * 64 * 128 * 4)
        for words in ("warm; one copy", "every row right by fp64", "CPU time", "* what the library chooses", "ceilings: read bandwidth ", "multiply-adds of "):
            self.assertIn(words, said)
        self.assertNotIn("pipeline: ", said)

    def test_every_option_of_the_problem(self):
        said, found = measure(*QUICK, "--batch", 2, "--q-heads", 6, "--kv-heads", 2, "--q-len", 20, "--kv-len", 30, "--head-dim", 16,
                              "--v-head-dim", 24, "--dtype", "bf16", "--layout", "bshd", "--causal", "--window", 4)
        self.check(found)
        self.assertEqual(found["problem"], {"batch": 2, "q_heads": 6, "kv_heads": 2, "q_len": 20, "kv_len": 30, "head_dim": 16,
                                            "v_head_dim": 24, "dtype": "bf16", "layout": "bshd", "causal": True, "lengths": None,
                                            "window": 4})
        self.assertEqual(found["flop"], 2 * 6 * 20 * 5 * 2 * (16 + 24))  # Each query sees itself and 4 keys before.
        self.assertEqual(found["kv_bytes"], 2 * 2 * (20 + 4) * (16 + 24) * 2)  # The first 6 keys are seen by nobody.
        self.assertIn("bf16, bshd, causal, window 4", said)

    def test_lengths(self):
        shape = [*QUICK, "--q-heads", 4, "--kv-heads", 2, "--head-dim", 32, "--warm"]
        said, found = measure(*shape, "--q-len", 1, "--lengths", "700,1,90")
        self.check(found)
        self.assertEqual([found["problem"][name] for name in ("batch", "kv_len", "lengths")], [3, 700, [700, 1, 90]])
        self.assertEqual(found["flop"], 4 * 791 * 4 * 32)
        self.assertEqual(found["kv_bytes"], 791 * 2 * 2 * 32 * 4)
        self.assertIn(", 3 lengths of 1 to 700 keys", said)
        found = measure(*shape, "--q-len", 5, "--kv-len", 800, "--lengths", "700", "--causal")[1]
        self.assertEqual([found["problem"][name] for name in ("batch", "kv_len", "lengths")], [1, 800, [700]])
        self.assertEqual(found["kv_bytes"], 700 * 2 * 2 * 32 * 4)
        for wrong, sentence in ((["--lengths", "5,x"], '--lengths: "x"; expected a whole number, 1 to 2147483647'),
                                (["--lengths", "5,0"], '--lengths: "0"; expected a whole number, 1 to 2147483647'),
                                (["--lengths", "5,9", "--kv-len", 8], '--lengths: "9"; expected at most --kv-len, which is 8'),
                                (["--lengths", "5", "--batch", 1], "--lengths")):
            with self.subTest(wrong):
                done = call(*shape, *wrong)
                self.assertEqual((done.returncode, done.stdout), (2, ""))
                self.assertIn(sentence, done.stderr)

    def test_decode_reads_from_memory_unless_told(self):
        shape = [*QUICK, "--q-heads", 4, "--kv-heads", 2, "--q-len", 1, "--kv-len", 2000, "--head-dim", 64]
        said, found = measure(*shape)
        self.check(found)
        self.assertEqual(found["data"], "cold")
        self.assertGreaterEqual(found["kv_copies_bytes"], 256 << 20)
        self.assertGreaterEqual(found["kv_copies"] * found["kv_bytes"], 256 << 20)
        self.assertIn("data: cold; calls go round", said)
        said, found = measure(*shape, "--warm")
        self.check(found)
        self.assertEqual((found["data"], found["kv_copies"]), ("warm", 1))
        self.assertEqual(measure(*SMALL, "--cold")[1]["data"], "cold")

    def test_pages(self):
        said, found = measure(*SMALL)
        self.assertEqual(found["pages"], "huge")
        self.assertNotIn("huge pages", said)
        said, found = measure(*SMALL, "--base-pages")
        self.check(found)
        self.assertEqual(found["pages"], "base")
        self.assertIn("; not in huge pages\n", said)
        has_huge_pages = Path("/sys/kernel/mm/transparent_hugepage").exists()  # A kernel without them takes no advice on them.
        self.assertEqual("hg" in advice_of_pages(*SMALL, "--cold"), has_huge_pages)
        self.assertEqual(advice_of_pages(*SMALL, "--cold", "--base-pages"), {"nh"} if has_huge_pages else set())

    def test_types_and_layouts_are_right(self):
        for dtype in ("f32", "bf16", "f16"):
            for layout in ("bhsd", "bshd"):
                with self.subTest(dtype=dtype, layout=layout):
                    found = measure(*SMALL, "--dtype", dtype, "--layout", layout, "--causal")[1]
                    self.check(found)
                    row = found["rows"][0]
                    self.assertEqual(row["peak_isa"], row["isa"])
                    if dtype != "bf16":
                        self.assertNotEqual(row["isa"], "avx512_bf16")  # It has other products for bf16 alone.

    def test_compare_has_a_row_for_each_pipeline_and_instruction_set(self):
        isas = host_isas()
        self.assertIn("reference", isas)
        for dtype in ("f32", "bf16"):
            with self.subTest(dtype):
                known = [isa for isa in isas if dtype == "bf16" or isa != "avx512_bf16"]
                said, found = measure(*SMALL, "--compare", "--dtype", dtype)
                self.check(found)
                ways = [(row["isa"], row["pipeline"]) for row in found["rows"] + found["left_out"]]
                self.assertEqual(len(ways), len(set(ways)))
                self.assertEqual({pipeline for isa, pipeline in ways if isa == found["rows"][0]["isa"]}, PIPELINES)  # the default
                self.assertEqual({isa for isa, _ in ways}, set(known))
                self.assertEqual([row["default"] for row in found["rows"]], [True] + [False] * (len(found["rows"]) - 1))
                for row in found["rows"]:
                    self.assertRegex(said, rf"(?m)^{row['isa']} +{row['pipeline']} ")

    def test_compare_with_one_of_them_forced(self):
        found = measure(*SMALL, "--compare", "--isa", "reference")[1]
        self.assertEqual({row["isa"] for row in found["rows"]}, {"reference"})
        self.assertEqual({row["pipeline"] for row in found["rows"] + found["left_out"]}, PIPELINES)
        found = measure(*SMALL, "--compare", "--pipeline", "two_pass")[1]
        self.assertEqual({row["pipeline"] for row in found["rows"]}, {"two_pass"})
        self.assertFalse(any(row["default"] for row in found["rows"]))

    def test_reference_is_left_out_where_it_takes_seconds(self):
        said, found = measure(*QUICK, "--q-len", 1024, "--head-dim", 64, "--compare")
        self.assertNotIn("reference", {row["isa"] for row in found["rows"]})
        self.assertEqual([left["isa"] for left in found["left_out"]], ["reference"])
        self.assertIn("on reference left out: plain C++ takes seconds here", said)

    def test_passes_and_threads(self):
        found = measure(*SHAPE, "--seconds", 0.001, "--threads", 1, "--passes", 3)[1]
        self.assertEqual(found["rows"][0]["rounds"], 3)
        cores = len(os.sched_getaffinity(0))
        for executor in ("openmp", "tbb"):
            if cores > 1:
                found = measure(*SHAPE, "--passes", 1, "--threads", 2, "--executor", executor)[1]
                self.assertEqual((found["threads"], len(found["cpus"]), found["clock"], found["executor"]), (2, 2, "wall", executor))
        last = max(os.sched_getaffinity(0))
        found = measure(*SHAPE, "--passes", 1, "--cpus", last, "--executor", "serial")[1]
        self.assertEqual((found["cpus"], found["executor"]), ([last], "serial"))

    def test_a_variable_that_is_no_utf8(self):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "result.json"
            trace = os.fsencode(folder) + b"/caf\xe9"
            done = subprocess.run([PROGRAM, *map(str, SMALL), "--json", file], env={**os.environb, b"KUMIKO_TRACE": trace}, capture_output=True,
                                  timeout=250, check=False)
            self.assertEqual((done.returncode, done.stderr), (0, b""))
            self.assertIn(b"variable: KUMIKO_TRACE=" + trace, done.stdout)
            self.assertIn(f"KUMIKO_TRACE={folder}/caf\N{REPLACEMENT CHARACTER}", json.loads(file.read_text())["variables"])

    def test_variables_choose_and_are_told(self):
        said, found = measure(*SMALL, environment={"KUMIKO_PIPELINE": "three_pass", "KUMIKO_ISA": "reference"})
        self.assertEqual([(row["isa"], row["pipeline"], row["default"]) for row in found["rows"]], [("reference", "three_pass", False)])
        self.assertEqual(found["variables"], ["KUMIKO_ISA=reference", "KUMIKO_PIPELINE=three_pass"])
        self.assertIn("variable: KUMIKO_ISA=reference", said)
        found = measure(*SMALL, "--pipeline", "online", environment={"KUMIKO_PIPELINE": "three_pass"})[1]
        self.assertEqual(found["rows"][0]["pipeline"], "online")

    def test_explain(self):
        said, found = measure(*SMALL, "--explain")
        self.assertIn("pipeline: online, isa ", said)
        self.assertIn(found["rows"][0]["explain"], said)


class Errors(unittest.TestCase):
    def test_each_names_what_is_wrong(self):
        for arguments, *words in [
            (["--q-len", "abc"], "--q-len", '"abc"', "expected a whole number"),
            (["--q-len", "0"], "--q-len", '"0"', "1 to"),
            (["--head-dim", "577"], "--head-dim", '"577"', "1 to 576"),
            (["--window", "-1"], "--window", '"-1"', "0 to"),
            (["--kv-heads", "3"], "--kv-heads", '"3"', "a divisor of --q-heads, which is 8"),
            (["--dtype", "f64"], "--dtype", '"f64"', "f32|bf16|f16"),
            (["--layout", "sbhd"], "--layout", '"sbhd"', "bhsd|bshd"),
            (["--isa", "mmx"], "--isa", '"mmx"', "|reference"),
            (["--pipeline", "best"], "--pipeline", '"best"', "|three_pass"),
            (["--executor", "pool"], "--executor", '"pool"', "openmp|tbb|serial"),
            (["--seconds", "0"], "--seconds", '"0"', "0.001 to 60"),
            (["--passes", "1.5"], "--passes", '"1.5"', "1 to 1000"),
            (["--threads", "99999"], "--threads", '"99999"', "expected 1.."),
            (["--threads", "2", "--executor", "serial"], "--threads", '"2"', "expected 1"),
            (["--cpus", "65000"], "--cpus", '"65000"', "expected CPUs"),
            (["--cpus", "x"], "--cpus", '"x"', "expected a list"),
            (["--cold", "--warm"], "--cold", "--warm"),
            (["--compare", "--isa", "reference", "--pipeline", "online"], "--compare", "--isa", "--pipeline"),
            (["--json", "/no/such/folder/a.json"], "--json", "/no/such/folder/a.json", "expected a file"),
            (["--nonsense"], "--nonsense"),
            (["--q-len"], "--q-len"),
        ]:
            with self.subTest(arguments):
                done = call(*arguments)
                self.assertEqual((done.returncode, done.stdout), (2, ""))
                for word in words:
                    self.assertIn(word, done.stderr)

    def test_instruction_set_that_the_machine_lacks(self):
        for isa in set(ISAS) - set(host_isas()):
            with self.subTest(isa):
                done = call(*SMALL, "--isa", isa)
                self.assertEqual(done.returncode, 2)
                self.assertIn(f'--isa is "{isa}"', done.stderr)

    def test_another_machine_is_not_timed(self):
        done = call(*SMALL, environment={"KUMIKO_TOPOLOGY": "numa:2 core:2 pu:1"})
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertIn('KUMIKO_TOPOLOGY is "numa:2 core:2 pu:1"; expected none', done.stderr)

    def test_memory_is_looked_at_first(self):
        for shape in (["--q-len", 4294967296, "--q-heads", 4294967296, "--batch", 4294967296], ["--kv-len", 1000000000],
                      ["--q-len", 1, "--kv-len", 4294967296], ["--batch", 4294967296, "--q-heads", 1, "--q-len", 1, "--head-dim", 1]):
            with self.subTest(shape):
                done = call(*shape)
                self.assertEqual((done.returncode, done.stdout), (2, ""))
                self.assertRegex(done.stderr, r"this shape takes \S+ GB of memory .*; expected at most the \S+ [GM]B that are available")


class Terminal(unittest.TestCase):
    def test_progress_is_a_line_of_a_terminal(self):
        master, slave = pty.openpty()
        done = subprocess.run([PROGRAM, *map(str, SHAPE), "--passes", "2"], stdout=subprocess.PIPE, stderr=slave, timeout=60, check=False)
        os.close(slave)
        said = os.read(master, 1 << 16).decode()
        os.close(master)
        self.assertEqual(done.returncode, 0)
        self.assertIn("round 2 of 2: online on", said)
        self.assertTrue(said.endswith("\r\033[K"), said)
        self.assertNotIn("\n", said)
        self.assertNotIn(b"\033", done.stdout)

    def test_help_and_version(self):
        self.assertIn("--compare", call("--help").stdout)
        self.assertRegex(call("--version").stdout, r"^kumiko \d+\.\d+\.\d+\n$")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
