#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests that the committed tables and the plot match results/*.json, and how they are made. Needs matplotlib."""

import json
import pathlib
import re
import tempfile
import unittest

import results


def row(title="decode", isa="avx512", value=0.8, unit="of read bandwidth", **more):
    return {"group": "limits", "row": title, "isa": isa, "threads": 1, "value": value, "unit": unit, "peer": "Other 1", "peer_value": 0.5,
            "target": 0.9, "met": False, **more}


def run(*rows, date="2026-01-02"):
    return {"cpu": "a processor", "cores": 2, "date": date, "commit": "0123456789", "passes": 3, "rows": list(rows)}


class Committed(unittest.TestCase):
    def test_what_is_committed_is_what_was_recorded(self):
        self.assertEqual(results.stale(), [], "run bench/results.py")

    def test_every_row_of_the_short_table_is_recorded(self):
        _, shown = results.shown(results.load(results.ROOT / "results"))
        self.assertEqual(set(results.SHORT) - {r["row"] for r in shown["rows"]}, set())

    def test_every_kind_of_serving_has_recorded_rows(self):
        rows = [r for groups in results.load(results.ROOT / "results").values() for r in groups.get("serving", {"rows": []})["rows"]]
        found = [any(r["unit"] == unit and re.search(pattern, r["row"]) for r in rows) for _, pattern, unit in results.KINDS]
        self.assertEqual(found, [True] * len(results.KINDS))


class Made(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)

    def readme(self, text):
        (self.root / "README.md").write_text(text)

    def test_a_record_is_written_with_all_that_is_made_from_it(self):
        self.readme(f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n")
        title = results.SHORT[0]
        results.record("host-1", "limits", run(row(title, value=0.834)), self.root)
        results.record("host-1", "spine", run(row("of the spine")), self.root)
        self.assertEqual(json.loads((self.root / "results/host-1.json").read_text())["groups"].keys(), {"limits", "spine"})
        self.assertEqual(results.stale(self.root), [])
        readme = (self.root / "README.md").read_text()
        self.assertTrue(readme.startswith(f"before\n{results.BEGIN}\n!["))
        self.assertTrue(readme.endswith(f"\n{results.END}\nafter\n"))
        self.assertIn(f"| {title} | avx512 | 1 | 0.83 of read bandwidth | 0.50 Other 1 |", readme)
        self.assertNotIn("old", readme)
        page = (self.root / "docs/results.md").read_text()
        self.assertIn("host-1 (a processor, 2 cores), 2026-01-02, commit 0123456, medians of 3 passes.", page)
        self.assertIn("| of the spine | avx512 | 1 | 0.80 of read bandwidth | 0.50 Other 1 | 0.90 | no |", page)

    def test_a_changed_figure_is_seen_in_every_file(self):
        self.readme(f"{results.BEGIN}\n{results.END}\n")
        results.record("host", "limits", run(row(results.SHORT[0])), self.root)
        file = self.root / "results/host.json"
        file.write_text(file.read_text().replace("0.8", "0.7"))
        self.assertEqual(results.stale(self.root), ["docs/results.md", "docs/results.svg", "README.md"])

    def test_readme_without_markers_is_left_alone_and_with_one_refused(self):
        self.readme("words\n")
        results.record("host", "limits", run(row()), self.root)
        self.assertEqual((self.root / "README.md").read_text(), "words\n")
        for text in (results.BEGIN, f"{results.END}\n{results.BEGIN}"):
            self.readme(text)
            with self.assertRaisesRegex(ValueError, "README.md: expected one line"):
                results.write(self.root)

    def test_the_table_of_serving_has_the_least_and_the_largest_value_of_each_kind(self):
        (self.root / "docs").mkdir()
        (self.root / "docs/serving.md").write_text(f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n")
        listed = "f32 prefill of 4096, half of the 64 x 64 key blocks listed"
        results.record("host-1", "serving", run(
            row(listed, value=0.912, unit="of dense"), row(listed, isa="avx2", value=0.87, unit="of dense"), row(listed, value=None, unit="of dense"),
            row(listed, value=0.3, unit="of FMA peak"), row(listed, value=0.5, unit="of dense", threads=2)), self.root)
        text = (self.root / "docs/serving.md").read_text()
        self.assertEqual(results.stale(self.root), [])
        self.assertTrue(text.startswith(f"before\n{results.BEGIN}\n| work | value | host-1, 1 | host-1, 2 |\n"))
        self.assertTrue(text.endswith(f"\n{results.END}\nafter\n"))
        self.assertIn("| half of the 64 x 64 key blocks listed, a visible pair | of dense | 0.87 to 0.91 | 0.50 |", text)
        self.assertIn("| decode of 64 sequences, pages of 16 | of dense | - | - |", text)
        self.assertIn("| what vLLM's kernel can run | times its speed | 0.60 to 1.82 | 1.00 |", text)
        self.assertIn("| geometric mean of these rows | times its speed | 1.24 | 1.00 |", text)

    def test_the_newest_run_of_most_instruction_sets_is_shown(self):
        hosts = {"a": {"limits": run(row(), date="2026-01-02")}, "b": {"limits": run(row(), date="2026-02-01")}, "c": {"spine": run(row())}}
        self.assertEqual(results.shown(hosts)[0], "b")
        hosts["a"]["limits"]["rows"] += [row(isa="avx2")]
        self.assertEqual(results.shown(hosts)[0], "a")
        hosts["a"]["limits"]["rows"][-1]["value"] = None
        self.assertEqual(results.shown(hosts)[0], "b")
        self.assertIsNone(results.shown({"c": {"spine": run(row())}}))

    def test_the_best_instruction_set_that_has_a_value_is_shown(self):
        rows = [row(isa="avx2", value=0.6), row(isa="avx512", value=None), row("other", isa="avx2"), row("other", isa="avx512_bf16")]
        self.assertEqual([(r["row"], r["isa"]) for r in results.best_isa(rows)], [("decode", "avx2"), ("other", "avx512_bf16")])

    def test_claims_of_rows_without_a_limit_or_a_peer_are_their_targets(self):
        self.assertEqual(results.claims([row(unit="us", peer_value=None), row(unit="us", peer_value=None, met=True)]), "1 of 2 targets met.")
        self.assertEqual(results.claims([row(unit="us", peer_value=None, met=None)]), "No row has a target.")

    def test_claims_are_those_of_the_rows(self):
        text = results.claims([row(value=0.51), row(value=0.904, met=True), row(value=0.4), row(value=None, met=None), row(unit="of FMA peak")])
        self.assertIn("0.80 of FMA peak on 1 thread (1 rows); 0.40 to 0.90 of read bandwidth on 1 thread (3 rows)", text)
        self.assertIn("Ahead of the best peer in 3 of 4 rows that one was measured on; 1 of 4 targets met.", text)

    def test_decode_bound_by_multiply_adds_is_claimed_and_drawn_as_that(self):
        rows = [row(isa="avx2", value=0.62, unit="of FMA peak"), row(value=0.8), row(value=None, unit="of its limit")]
        self.assertIn("0.62 of FMA peak on 1 thread (1 rows); 0.80 of read bandwidth on 1 thread (1 rows)", results.claims(rows))
        self.assertIn("decode [avx2]", results.plot({"host": {"limits": run(rows[0])}}))

    def test_what_was_left_out_is_said(self):
        self.assertEqual(results.cells(row(note="1 of 3 passes left out: above their ceiling"))[3],
                         "0.80 of read bandwidth (1 of 3 passes left out: above their ceiling)")
        self.assertEqual(results.cells(row(value=None, note="not run: host lacks avx512"))[3], "not run: host lacks avx512")


if __name__ == "__main__":
    unittest.main()
