# SPDX-License-Identifier: Apache-2.0
"""The lists of mutants fit the sources of today: a change of the library that moves a line has to move its mutant."""

import unittest

import mutants


class Lists(unittest.TestCase):
    def test_every_mutant_has_its_place(self):
        self.assertEqual(list(mutants.faults(mutants.load())), [])

    def test_faults_are_found(self):
        good = mutants.load()[0]
        change = lambda **fields: mutants.Mutant(**{**good.__dict__, **fields})  # noqa: E731
        for bad, part in [
            (change(find="no such line"), "stands 0 times"),
            (change(find=good.replace or "x", replace=good.replace or "x"), "changes nothing"),
            (change(killed_by="", equivalent=""), "needs one of"),
            (change(equivalent="because"), "needs one of"),
            (change(unseen="because"), "needs one of"),
            (change(sanitizer="memory"), "expected thread"),
            (change(cpu="avx2"), "expected avx512_vnni"),
            (change(killed_by="scheduler.no_such_test:*"), "no test program"),
            (change(killed_by="no_such_folder.policy_test"), "no test program"),
        ]:
            self.assertIn(part, "\n".join(mutants.faults([bad])))
        self.assertIn("stands twice", "\n".join(mutants.faults([good, good])))

    def test_what_the_processor_must_have(self):
        flags = {m.id: m.cpu_flag for m in mutants.load()}
        self.assertEqual(flags["tiles-pairs-exchanged"], "avx512bw")
        self.assertEqual(flags["tiles-half-line-reads-its-neighbour"], "avx512_bf16")
        self.assertEqual(flags["gradient-pairs-begin-at-the-second-of-a-pair"], "avx512_bf16")
        self.assertEqual(flags["append-home-of-the-last-token"], "")


if __name__ == "__main__":
    unittest.main()
