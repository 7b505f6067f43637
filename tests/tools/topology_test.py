# SPDX-License-Identifier: Apache-2.0
"""kumiko-topology on recorded machines: its text, its picture, its errors.

    topology_test.py PROGRAM TOPOLOGIES
"""

import os
import re
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree
from pathlib import Path

PROGRAM, TOPOLOGIES = sys.argv[1], Path(sys.argv[2])
SVG = "{http://www.w3.org/2000/svg}"


def call(*arguments, environment=None, command=()):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KUMIKO_")}
    return subprocess.run([*command, PROGRAM, *map(str, arguments)], env={**clean, **(environment or {})}, capture_output=True, text=True,
                          timeout=120, check=False)


def text(*arguments, environment=None):
    done = call(*arguments, environment=environment)
    if done.returncode != 0 or done.stderr:
        raise AssertionError(f"{arguments}: ended with {done.returncode}: {done.stderr}")
    return done.stdout


def picture(*arguments):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "picture.svg"
        text(*arguments, "--svg", file)
        return ElementTree.parse(file).getroot()


class Text(unittest.TestCase):
    def test_every_recorded_machine(self):
        wanted = {
            "a64fx_fugaku": ["4 domains, 48 cores", "domain 0: NUMA node 4, CPUs 12-23, L1 64 KiB and L2 682 KiB",
                             "domain 3: NUMA node 7, CPUs 48-59", "threads: 48"],
            "a64fx_fx700": ["4 domains, 48 cores", "domain 0: NUMA node 0, CPUs 0-11", "last-level cache 8192 KiB"],
            "x86_2_sockets": ["2 domains, 40 cores", "domain 1: NUMA node 1, CPUs 20-39"],
            "x86_offline": ["2 domains, 7 cores", "CPUs 0,3,10"],
            "epyc_nps4": ["8 domains, 32 cores", "domain 7: NUMA node 3, CPUs 28-31"],
            "one_core_container": ["1 domains, 1 cores", "CPUs 13", "threads: 1"],
        }
        self.assertEqual({path.stem for path in TOPOLOGIES.glob("*.xml")}, set(wanted))
        for name, facts in wanted.items():
            with self.subTest(name):
                said = text("--topology", TOPOLOGIES / f"{name}.xml")
                for fact in [*facts, "not this host", "predicted imbalance", "pipeline: online"]:
                    self.assertIn(fact, said)

    def test_host_is_the_default(self):
        said = text()
        self.assertIn("machine: host, ", said)
        self.assertNotIn("not this host", said)

    def test_variables_are_read_and_options_beat_them(self):
        machine = {"KUMIKO_TOPOLOGY": "numa:2 core:3 pu:1", "KUMIKO_EXECUTOR": "tbb", "KUMIKO_NUM_THREADS": "4"}
        said = text(environment=machine)
        self.assertIn("threads: 4, executor tbb", said)
        self.assertIn("domain 1: NUMA node 1, CPUs 3-5", said)
        self.assertIn("workers on CPUs 3\n", said)
        said = text("--threads", 2, "--bind", "spread", "--executor", "openmp", environment=machine)
        self.assertIn("threads: 2, executor openmp, policy heads_first, bind spread", said)
        self.assertIn("workers on CPUs 0\n", said)
        self.assertIn("workers on CPUs 3\n", said)

    def test_problem(self):
        said = text("--topology", "core:4 pu:1", "--batch", 3, "--heads", 6, "--kv-heads", 2, "--q-len", 1, "--kv-len", 5000,
                    "--head-dim", 64, "--lengths", "5000,1,77", "--window", 100, "--causal")
        self.assertIn("batch 3, query heads 6, KV heads 2, q_len 1, kv_len 5000, head_dim 64", said)
        self.assertIn("pipeline: decode", said)

    def test_each_option_of_the_problem_changes_the_plan(self):
        given = ["--topology", "core:4 pu:1", "--batch", 2, "--heads", 4, "--kv-heads", 2, "--q-len", 700, "--kv-len", 1500, "--head-dim", 32]
        plain = text(*given)
        self.assertIn("batch 2, query heads 4, KV heads 2, q_len 700, kv_len 1500, head_dim 32", plain)
        for option in (["--causal"], ["--window", 100], ["--lengths", "1500,20"]):
            with self.subTest(option):
                self.assertNotEqual(text(*given, *option), plain)

    def test_options_of_the_machine(self):
        given = ["--topology", "numa:2 core:2 pu:1", "--threads", 2]
        self.assertIn("isa reference\n", text(*given, "--isa", "reference"))
        self.assertIn(", policy flat,", text(*given, "--policy", "flat"))
        self.assertIn("domain 1: NUMA node 1, CPUs 3, ", text("--topology", "numa:2 core:2 pu:1", "--cpus", "0,3"))

    def test_unbound_workers_are_said_to_be(self):
        self.assertIn("not bound to these CPUs", text("--topology", "core:4 pu:1"))


class Errors(unittest.TestCase):
    def test_each_names_what_is_wrong(self):
        for arguments, words, *status in [
            (["--topology", "nonsense"], "nonsense"),
            (["--topology", TOPOLOGIES / "a64fx_fugaku.xml", "--cpus", "0"], "CPU 0 "),
            (["--threads", "99", "--topology", "core:4 pu:1"], "99"),
            (["--heads", "6", "--kv-heads", "4"], "a divisor of q.shape[1]"),
            (["--batch", "2", "--lengths", "1,2,3"], "--lengths has 3"),
            (["--svg", "/no/such/folder/a.svg"], "/no/such/folder/a.svg", 1),
            (["--policy", "best"], "heads_first"),
            (["--q-len", "0"], "--q-len"),
            (["--nonsense"], "--nonsense"),
            (["--threads", "0"], "--threads"),
            (["--window", "-1"], "--window"),
            (["--window", "nan"], "--window"),
            (["--batch"], "--batch"),
        ]:
            with self.subTest(arguments):
                done = call(*arguments)
                self.assertEqual(done.returncode, *(status or [2]))
                self.assertIn(words, done.stderr)

    def test_a_variable_is_no_option(self):
        done = call(environment={"KUMIKO_POLICY": "best"})
        self.assertEqual(done.returncode, 1)
        self.assertIn("KUMIKO_POLICY", done.stderr)


class Unwritable(unittest.TestCase):
    """A picture that cannot be written takes nothing away that was there, and leaves nothing new."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def refused(self, picture, *command):
        done = call("--topology", "core:4 pu:1", "--svg", picture, command=command)
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"--svg: '{picture}' cannot be written", done.stderr)

    def refused_on_a_full_disk(self, picture):
        self.refused(picture, "sh", "-c", "trap '' XFSZ; ulimit -f 0; exec \"$@\"", "sh")

    def test_a_folder_stays(self):
        self.refused(self.folder)
        self.assertTrue(self.folder.is_dir())

    def test_a_link_to_a_full_device_stays(self):
        link = self.folder / "picture.svg"
        link.symlink_to("/dev/full")
        self.refused(link)
        self.assertTrue(link.is_symlink())

    def test_an_older_file_stays(self):
        file = self.folder / "picture.svg"
        file.write_text("older")
        self.refused_on_a_full_disk(file)
        self.assertEqual(file.read_text(), "older")
        self.assertEqual(list(self.folder.iterdir()), [file])

    def test_a_link_and_a_mode_stay(self):
        file, link = self.folder / "target.svg", self.folder / "picture.svg"
        file.write_text("older")
        file.chmod(0o640)
        link.symlink_to("target.svg")
        self.assertEqual(call("--topology", "core:4 pu:1", "--svg", link).returncode, 0)
        self.assertTrue(link.is_symlink())
        self.assertIn("<svg", file.read_text())
        self.assertEqual(file.stat().st_mode & 0o777, 0o640)
        self.assertEqual(sorted(self.folder.iterdir()), [link, file])

    def test_a_report_that_cannot_be_written_is_an_error(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run([PROGRAM, "--topology", "core:4 pu:1"], stdout=full, stderr=subprocess.PIPE, text=True)
        self.assertEqual((done.returncode, done.stderr), (1, "kumiko-topology: the standard output cannot be written\n"))

    def test_a_part_of_a_new_file_does_not_stay(self):
        self.refused_on_a_full_disk(self.folder / "picture.svg")
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_of_a_link_to_a_new_file_only_the_link_stays(self):
        link = self.folder / "picture.svg"
        link.symlink_to("target.svg")
        self.refused_on_a_full_disk(link)
        self.assertEqual(list(self.folder.iterdir()), [link])


class Picture(unittest.TestCase):
    def test_a_lane_for_each_worker_and_every_task_in_one(self):
        arguments = ["--topology", TOPOLOGIES / "a64fx_fugaku.xml", "--threads", 30, "--q-len", 512]
        root = picture(*arguments)
        domains = [group for group in root.iter(f"{SVG}g") if group.get("class") == "domain"]
        self.assertEqual(len(domains), 4)
        lanes = [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") == "lane"]
        self.assertEqual(len(lanes), 30)
        labels = [label.text for label in root.iter(f"{SVG}text")]
        self.assertEqual([f"CPU {cpu}" for cpu in range(12, 60)], [label for label in labels if label.startswith("CPU ")])
        self.assertEqual(labels.count("no worker"), 18)
        tasks = [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") == "task"]
        said = text(*arguments)
        self.assertEqual(len(tasks), int(re.search(r"^tasks: (\d+)", said, re.MULTILINE)[1]))

        rows = {float(lane.get("y")): [] for lane in lanes}
        for task in tasks:
            rows[float(task.get("y"))].append((float(task.get("x")), float(task.get("width"))))
        first, width = float(lanes[0].get("x")), float(lanes[0].get("width"))
        ends = []
        for row in rows.values():
            at = first
            for x, wide in sorted(row):
                self.assertGreaterEqual(x, at - 0.02, "tasks of a lane overlap")
                at = x + wide
            ends.append(at)
        self.assertAlmostEqual(max(ends), first + width, delta=0.05)

    def test_a_head_has_one_colour(self):
        root = picture("--topology", "numa:2 core:2 pu:1", "--heads", 4, "--kv-heads", 4)
        colours = {}
        for task in root.iter(f"{SVG}rect"):
            if task.get("class") == "task":
                head = re.search(r"KV head (\d+)", task.find(f"{SVG}title").text)[1]
                colours.setdefault(head, set()).add(task.get("fill"))
        self.assertEqual([len(found) for found in colours.values()], [1, 1, 1, 1])
        self.assertEqual(len(set.union(*colours.values())), 4)

    def test_names_are_escaped(self):
        with tempfile.TemporaryDirectory() as folder:
            odd = Path(folder) / 'a<b>&"c".xml'
            odd.write_text((TOPOLOGIES / "a64fx_fx700.xml").read_text())
            self.assertIn(odd.name, "".join(label.text for label in picture("--topology", odd).iter(f"{SVG}text")))

    def test_many_tasks_make_no_larger_picture_than_pixels(self):
        root = picture("--topology", "core:2 pu:1", "--batch", 64, "--heads", 128, "--kv-heads", 2, "--q-len", 8192)
        self.assertLess(sum(1 for _ in root.iter(f"{SVG}rect")), 2 * 960 * 4)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
