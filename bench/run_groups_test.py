#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests run_groups.py with fake benchmark programs: what a host has, what a run reports, what goes wrong."""

import contextlib
import io
import json
import pathlib
import tempfile
import unittest

import peers
import results
import run_groups

PROGRAM = """#!/usr/bin/env python3
import json, pathlib, sys
names, results, status = json.loads(pathlib.Path(__file__ + ".json").read_text())
for argument in sys.argv[1:]:
    key, _, value = argument.partition("=")
    if key == "--benchmark_list_tests":
        print("\\n".join(names))
    if key == "--benchmark_out":
        count = pathlib.Path(__file__ + ".count")
        n = int(count.read_text()) if count.exists() else 0
        count.write_text(str(n + 1))
        pathlib.Path(value).write_text(json.dumps({"benchmarks": [
            {**r, "speed": r["speed"][n]} if "speed" in r else r for r in results]}))
if status:
    sys.exit("went wrong")
"""

# Replaces the Python of .venv-peers: prints prepared lines for each ISA and thread count, and records its arguments.
PEERS = """#!/usr/bin/env python3
import json, os, pathlib, sys
here = pathlib.Path(__file__)
_, script, library, environment, isa, threads, names = sys.argv
with open(here.parent / "calls", "a") as calls:
    print(json.dumps([isa, int(threads), json.loads(names), os.environ.get("ATEN_CPU_CAPABILITY")]), file=calls)
lines = json.loads((here.parent / "results.json").read_text())[f"{isa}/{threads}"]
if lines is None:
    sys.exit("went wrong")
for line in lines:
    print(json.dumps(line))
for name in json.loads(names):
    print(json.dumps({"done": name}))
"""

GROUP = """
[demo]
about = "a group"
[[demo.tables]]
program = "work"
isa = ["avx512", "avx2"]
threads = [3]
counter = "speed"
unit = "x"
rows = [{row = "fast", benchmark = "BENCHMARK", threads = [1, 2], target = 3.0}]
"""


class RunGroups(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.program("machine_bench", ["fma/avx2/t1/x", "fma/avx2/t2/x"], [])
        groups, run_groups.GROUPS = run_groups.GROUPS, self.folder / "groups.toml"
        self.addCleanup(setattr, run_groups, "GROUPS", groups)
        for name, value in ("VENVS", {"venv": self.folder / "venv"}), ("PROGRAMS", ("work",)):  # Not this machine's own peers.
            self.addCleanup(setattr, peers, name, getattr(peers, name))
            setattr(peers, name, value)

    def program(self, name, offered, results, status=0):
        path = self.folder / name
        path.write_text(PROGRAM)
        path.chmod(0o755)
        pathlib.Path(f"{path}.json").write_text(json.dumps([offered, results, status]))

    def install_peers(self, results):
        path = self.folder / "venv" / "bin" / "python"
        path.parent.mkdir(parents=True)
        path.write_text(PEERS)
        path.chmod(0o755)
        (path.parent / "results.json").write_text(json.dumps(results))
        (self.folder / "venv" / "kumiko-requirements").write_text("")
        return path.parent / "calls"

    def run_group(self, *arguments, benchmark="b", unit="x"):
        (self.folder / "groups.toml").write_text(GROUP.replace("BENCHMARK", benchmark).replace('unit = "x"', f'unit = "{unit}"'))
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = run_groups.main([*arguments, "--bin", str(self.folder), "--json", str(self.folder / "out.json")])
        rows = json.loads((self.folder / "out.json").read_text()) if (self.folder / "out.json").exists() else None
        return status, rows, out.getvalue() + err.getvalue()

    def test_median_target_and_what_the_host_lacks(self):
        self.program("work", ["b/avx2/t1/x", "b/avx2/t2/x"],
                     [{"name": "b/avx2/t1/x", "speed": [1, 9, 4, 5, 2]}, {"name": "b/avx2/t2/x", "speed": [2, 2, 2, 9, 9]}])
        status, rows, text = self.run_group("demo")
        self.assertEqual(status, 0)
        by = {(r["isa"], r["threads"]): r for r in rows}
        self.assertEqual(by["avx2", 1], {"group": "demo", "row": "fast", "isa": "avx2", "threads": 1, "value": 4, "unit": "x",
                                         "peer": None, "peer_value": None, "target": 3.0, "met": True})
        self.assertEqual((by["avx2", 2]["value"], by["avx2", 2]["met"]), (2, False))
        self.assertEqual(by["avx512", 1]["note"], "not run: host lacks avx512")
        self.assertIsNone(by["avx512", 1]["met"])
        self.assertIn("1 of 2 targets met", text)

    def test_a_value_above_its_ceiling_does_not_count(self):
        def figure(unit, *values):
            return {"group": "g", "row": "r", "isa": "avx2", "threads": 1, "unit": unit, "target": 0.8, "values": list(values)}
        self.assertEqual(run_groups.record(figure("of read bandwidth", 0.5, 1.3, 1.2, 1.4, 0.7))["value"], 0.6)
        self.assertEqual(run_groups.record(figure("of FMA peak", 1.01, 1.02, 1.0))["value"], 1.01)
        self.assertEqual(run_groups.record(figure("x", 1.9, 2.0, 2.1))["value"], 2.0)
        some = run_groups.record(figure("of read bandwidth", 0.5, 1.03, 1.24, 1.02))
        self.assertEqual((some["value"], some["left_out"], some["note"]), (0.76, 2, "2 of 4 passes left out: above their ceiling"))
        self.assertIn("0.76 of read bandwidth (2 of 4 passes left out: above their ceiling)", run_groups.table([some], False))
        none = run_groups.record(figure("of read bandwidth", 1.3))
        self.assertEqual((none["value"], none["met"]), (None, None))
        self.assertIn("above its ceiling", none["note"])

    def test_a_speedup_without_all_cores_does_not_count_if_another_pass_has_them(self):
        figure = {"group": "g", "row": "r", "isa": "avx2", "threads": 2, "unit": "x", "target": 1.9, "values": [1.4, 1.9, 2.0],
                  "peers": {"A": [1.5, 1.6], "B": [1.1, 1.2]}, "peers_cores_there": {"A": [0, 0], "B": [0, 1]}}
        some = run_groups.record({**figure, "cores_there": [0, 1, 1]})
        self.assertEqual((some["value"], some["left_out"], some["note"]), (1.95, 1, "1 of 3 passes left out: not all cores there"))
        self.assertEqual(some["peers"], {"A": {"value": 1.55, "passes": 2}, "B": {"value": 1.2, "passes": 1}})
        none = run_groups.record({**figure, "cores_there": [0, 0, 0]})
        self.assertEqual((none["value"], none["note"], "left_out" in none), (1.9, "no pass had all cores", False))
        self.assertNotIn("note", run_groups.record({**figure, "cores_there": [1, 1, 1]}))

    def test_whether_cores_were_there_comes_from_the_program(self):
        self.program("work", ["b/avx2/t1/x", "b/avx2/t2/x"],
                     [{"name": "b/avx2/t1/x", "speed": [4] * 5}, {"name": "b/avx2/t2/x", "speed": [1.4] * 5, "cores_there": 0}])
        self.install_peers({"avx2/1": [], "avx2/2": [{"name": "b", "peer": "P", "ways": ["w"], "counters": {"speed": 1.0, "cores_there": 0}}]})
        _, rows, text = self.run_group("demo")
        self.assertEqual([r.get("note") for r in rows if r["isa"] == "avx2"], [None, "no pass had all cores"])
        self.assertRegex(text, r"1\.40 x \(no pass had all cores\)")

    def test_a_peer_above_the_read_ceiling_does_not_count_either(self):
        figure = {"group": "g", "row": "r", "isa": "avx2", "threads": 1, "values": [0.5], "peers": {"A": [0.4, 1.3, 0.6], "B": [1.1]}}
        read = run_groups.record({**figure, "unit": "of read bandwidth"})
        self.assertEqual((read["peer"], read["peer_value"], read["peers"]), ("A", 0.5, {"A": {"value": 0.5, "passes": 2}}))
        # A peer's figure above this instruction set's peak is not a ceiling error: it may use another set.
        self.assertEqual(run_groups.record({**figure, "unit": "of FMA peak"})["peer"], "B")

    def test_a_group_says_how_often_it_runs(self):
        global GROUP
        self.program("work", ["b/avx2/t1/x", "b/avx2/t2/x"], [{"name": f"b/avx2/t{t}/x", "speed": [7, 1, 1, 1, 1]} for t in (1, 2)])
        every, GROUP = GROUP, GROUP.replace("[demo]", '[demo]\npasses = 1\nwhere = "A model"', 1)
        try:
            status, rows, text = self.run_group("demo")
        finally:
            GROUP = every
        self.assertEqual((status, {r["value"] for r in rows if r["isa"] == "avx2"}), (0, {7}))
        self.assertIn("A model", text)

    def test_the_caller_may_say_how_often_it_runs(self):
        self.program("work", ["b/avx2/t1/x", "b/avx2/t2/x"], [{"name": f"b/avx2/t{t}/x", "speed": [7, 4, 5, 1, 1]} for t in (1, 2)])
        status, rows, text = self.run_group("demo", "--passes", "3")
        self.assertEqual((status, {r["value"] for r in rows if r["isa"] == "avx2"}), (0, {5}))
        self.assertIn("medians of 3 runs", text)
        with self.assertRaises(SystemExit) as refused:
            self.run_group("demo", "--passes", "0")
        self.assertEqual(refused.exception.code, 2)

    def test_threads_the_host_lacks(self):
        self.program("work", ["b/avx2/t1/x"], [{"name": "b/avx2/t1/x", "speed": [4] * 5}])
        status, rows, _ = self.run_group("demo")
        self.assertEqual(status, 0)
        self.assertEqual({r["threads"]: r["value"] for r in rows if r["isa"] == "avx2"}, {1: 4, 2: None})

    def test_wrong_answer_is_an_error(self):
        self.program("work", ["b/avx2/t1/x", "b/avx2/t2/x"],
                     [{"name": "b/avx2/t1/x", "error_occurred": True, "error_message": "wrong answer: out[0]"},
                      {"name": "b/avx2/t2/x", "speed": [4] * 5}])
        status, rows, text = self.run_group("demo")
        self.assertEqual(status, 1)
        self.assertIn("failed: wrong answer: out[0]", [r.get("note") for r in rows])
        self.assertIn("1 rows FAILED", text)

    def test_program_that_fails_is_an_error(self):
        self.program("work", ["b/avx2/t1/x", "b/avx2/t2/x"], [], status=1)
        pathlib.Path(self.folder / "work").write_text(PROGRAM.replace("if status", "if status and '--benchmark_out_format=json' in sys.argv"))
        status, rows, _ = self.run_group("demo")
        self.assertEqual(status, 1)
        self.assertIn("failed: work ended with status 1: went wrong", [r.get("note") for r in rows])

    def test_unknown_benchmark_is_an_error(self):
        self.program("work", ["other/avx2/t1/x", "other/avx2/t2/x"], [])
        status, rows, _ = self.run_group("demo")
        self.assertEqual(status, 1)
        self.assertIn("failed: work has no benchmark b/avx2/t1", [r.get("note") for r in rows])

    def test_pattern_takes_every_benchmark_that_matches(self):
        self.program("work", ["b1/avx2/t1/x", "b2/avx2/t1/x"],
                     [{"name": "b1/avx2/t1/x", "speed": [4] * 5}, {"name": "b2/avx2/t1/x", "speed": [5] * 5}])
        _, rows, _ = self.run_group("demo", benchmark="b*")
        self.assertEqual({r["row"]: r["value"] for r in rows if r["value"]}, {"fast: b1": 4, "fast: b2": 5})

    def work_of_two(self):
        self.program("work", ["b/avx2/t1/x", "b/avx2/t2/x"], [{"name": f"b/avx2/t{t}/x", "speed": [4] * 10} for t in (1, 2)])

    @staticmethod
    def peer(name, speed, benchmark="b"):
        return {"name": benchmark, "peer": name, "ways": ["w"], "counters": {"speed": speed, "other": 99}}

    def test_the_best_peer_stands_beside_our_value(self):
        self.work_of_two()
        calls = self.install_peers({"avx2/1": [self.peer("Slow 1", 2), self.peer("Quick 2", 5), self.peer("Quick 2", 9, "bb")],
                                    "avx2/2": [{"name": "b", "note": "b: Slow 1: wrong answer"}]})
        status, rows, text = self.run_group("demo")
        self.assertEqual(status, 0)
        by = {(r["isa"], r["threads"]): (r["value"], r["peer"], r["peer_value"]) for r in rows}
        self.assertEqual(by, {("avx2", 1): (4, "Quick 2", 5), ("avx2", 2): (4, None, None), ("avx512", 1): (None, None, None),
                              ("avx512", 2): (None, None, None)})
        self.assertIn("best peer", text)
        self.assertRegex(text, r"fast +avx2 +1 +4\.00 x +5\.00 Quick 2 +3\.00 +yes")
        self.assertRegex(text, r"fast +avx2 +2 +4\.00 x +- +3\.00 +yes")
        self.assertEqual(text.count("peers: b: Slow 1: wrong answer"), 1)
        # Once per pass and thread count, kept to the instruction set of the row; after the first pass only the ways that it chose.
        self.assertEqual([json.loads(line) for line in calls.read_text().splitlines()],
                         [["avx2", 1, {"b": {}}, "avx2"], ["avx2", 2, {"b": {}}, "avx2"]]
                         + [["avx2", 1, {"b": {"Slow 1": ["w"], "Quick 2": ["w"]}}, "avx2"], ["avx2", 2, {"b": {}}, "avx2"]] * 4)

    def test_without_peers_nothing_is_started(self):
        self.work_of_two()
        _, rows, text = self.run_group("demo")
        self.assertEqual({(r["peer"], r["peer_value"]) for r in rows}, {(None, None)})
        self.assertNotIn("peers:", text)
        calls = self.install_peers({})
        status, rows, _ = self.run_group("demo", "--no-peers")
        self.assertEqual((status, {r["peer"] for r in rows}), (0, {None}))
        self.assertFalse(calls.exists())

    def test_peers_that_fail_do_not_fail_the_group(self):
        self.work_of_two()
        self.install_peers({"avx2/1": None, "avx2/2": [self.peer("Quick 2", 5)]})
        status, rows, text = self.run_group("demo")
        self.assertEqual((status, [r["peer"] for r in rows if r["isa"] == "avx2"]), (0, [None, "Quick 2"]))
        self.assertIn("peers: b/avx2/t1: the process of venv ended with status 1: went wrong", text)

    def test_what_ends_the_peers_process_does_not_take_the_others_with_it(self):
        self.program("work", ["b1/avx2/t1/x", "b2/avx2/t1/x", "b3/avx2/t1/x"],
                     [{"name": f"b{n}/avx2/t1/x", "speed": [4] * 10} for n in (1, 2, 3)])
        calls = self.install_peers({"avx2/1": [self.peer("Quick 2", 5, f"b{n}") for n in (1, 2, 3)]})
        python = calls.parent / "python"
        python.write_text(python.read_text().replace("for line in lines:", """for name in list(json.loads(names)):
    if name == "b2":
        os.abort()
    print(json.dumps(lines[int(name[1]) - 1]), flush=True)
    print(json.dumps({"done": name}), flush=True)
for line in []:"""))
        _, rows, text = self.run_group("demo", "--passes", "2", benchmark="b*")
        self.assertEqual({r["row"]: r["peer"] for r in rows if r["isa"] == "avx2" and r["value"]},
                         {"fast: b1": "Quick 2", "fast: b2": None, "fast: b3": "Quick 2"})
        self.assertEqual(text.count("peers: b2/avx2/t1: the process of venv ended with status -6"), 1)
        self.assertEqual(sum("b2" in line for line in calls.read_text().splitlines()), 2)  # Tried again in the second pass.

    def test_a_run_is_recorded_with_what_it_was(self):
        self.work_of_two()
        root, results.ROOT = results.ROOT, self.folder
        recorded, results.record.__defaults__ = results.record.__defaults__, (self.folder,)
        self.addCleanup(setattr, results, "ROOT", root)
        self.addCleanup(setattr, results.record, "__defaults__", recorded)
        status, rows, _ = self.run_group("demo", "--passes", "2", "--record", "host-1")
        run = json.loads((self.folder / "results/host-1.json").read_text())["groups"]["demo"]
        self.assertEqual((status, run["rows"], run["passes"]), (0, rows, 2))
        self.assertRegex(run["date"], r"^\d{4}-\d\d-\d\d$")
        self.assertIn("medians of 2 passes", (self.folder / "docs/results.md").read_text())
        with self.assertRaises(SystemExit):
            self.run_group("demo", "--record", "My Host")

    def limited(self, isa, bounds):
        """The record of a figure whose passes were bound as said, with one of them above its ceiling."""
        figure = {"group": "demo", "row": "r", "isa": isa, "threads": 1, "unit": run_groups.LIMIT, "values": [0.7, 0.8, 1.3],
                  "memory_bound": bounds, "peers": {"Other 1": [1.3, 0.5, 0.6]}}
        return run_groups.record(figure)

    def test_a_figure_of_its_limit_says_what_bounds_it(self):
        units = {(isa, tuple(bounds)): self.limited(isa, bounds)["unit"] for isa in ("avx2", "avx512_bf16") for bounds in ([1, 1, 0], [0, 1, 0])}
        self.assertEqual(units, {("avx2", (1, 1, 0)): "of read bandwidth", ("avx2", (0, 1, 0)): "of FMA peak",
                                 ("avx512_bf16", (1, 1, 0)): "of read bandwidth", ("avx512_bf16", (0, 1, 0)): "of bf16-dot peak"})

    def test_a_pass_above_the_limit_is_left_out_and_a_peers_above_the_read_ceiling_too(self):
        memory, compute = self.limited("avx2", [1, 1, 1]), self.limited("avx2", [0, 0, 0])
        self.assertEqual((memory["value"], memory["left_out"], memory["peer_value"]), (0.75, 1, 0.55))
        self.assertEqual((compute["value"], compute["left_out"], compute["peer_value"]), (0.75, 1, 0.6))

    def test_what_bounds_a_row_comes_from_the_program(self):
        self.program("work", ["b/avx2/t1/x", "b/avx2/t2/x"],
                     [{"name": "b/avx2/t1/x", "speed": [0.4] * 5, "memory_bound": 1.0}, {"name": "b/avx2/t2/x", "speed": [0.5] * 5, "memory_bound": 0.0}])
        _, rows, text = self.run_group("demo", unit=run_groups.LIMIT)
        self.assertEqual({r["threads"]: r["unit"] for r in rows if r["isa"] == "avx2"}, {1: "of read bandwidth", 2: "of FMA peak"})
        self.assertEqual({r["unit"] for r in rows if r["isa"] == "avx512"}, {run_groups.LIMIT}, "not run")
        self.assertRegex(text, r"fast +avx2 +1 +0\.40 of read bandwidth")
        self.assertRegex(text, r"fast +avx2 +2 +0\.50 of FMA peak")

    def test_the_best_of_peers_is_the_median_and_the_least_where_less_is_better(self):
        figure = {"peers": {"A": [1, 9, 2], "B": [3, 3, 1]}}
        self.assertEqual(peers.best(figure), ("B", 3))
        self.assertEqual(peers.best({**figure, "at_most": True}), ("A", 2))
        self.assertEqual(peers.best({}), (None, None))

    def test_a_file_that_cannot_be_written_is_refused_before_anything_runs(self):
        self.work_of_two()
        (self.folder / "groups.toml").write_text(GROUP)
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), self.assertRaises(SystemExit):
            run_groups.main(["demo", "--bin", str(self.folder), "--json", str(self.folder)])
        self.assertIn(f"--json is {str(self.folder)!r}, which cannot be written: Is a directory", errors.getvalue())
        self.assertFalse((self.folder / "work.count").exists())

    def test_unknown_group_lists_the_groups(self):
        status, rows, text = self.run_group("nope")
        self.assertEqual((status, rows), (2, None))
        self.assertIn("demo", text)

    def test_the_real_groups_are_whole(self):
        groups = run_groups.group_rows.load()
        for name, group in groups.items():
            self.assertTrue(group["about"], name)
            for row in group["rows"]:
                missing = {"row", "program", "benchmark", "isa", "threads", "counter", "unit"} - row.keys()
                self.assertFalse(missing, f"{name}: {row}")


if __name__ == "__main__":
    unittest.main()
