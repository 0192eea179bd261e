"""The benchmarks themselves: that one runs from end to end, and that ratios, targets and failures come out right in the page."""
import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import unittest

from harness import ROOT

BENCH = os.path.join(ROOT, "tests", "bench")
sys.path.append(BENCH)

import frame  # noqa: E402
import page   # noqa: E402

OPTIONS = argparse.Namespace(quick=True, rows=None, outage=None, growth=None, peers=["Debezium, as shipped"])


def measured(ours, theirs):
    """The results of a bench that was run len(ours) times; None: the peer failed then."""
    m = frame.Measure("entities.snapshot", OPTIONS)
    m.loads.append(0.5)
    with contextlib.redirect_stdout(io.StringIO()):
        measure(m, ours, theirs)
    return {r["name"]: {**json.loads(json.dumps(r)), "machine": "a machine"} for r in m.results("2026-01-01T00:00:00Z")}


def measure(m, ours, theirs):
    for m.run, (value, other) in enumerate(zip(ours, theirs)):
        m.figure("rows_per_s", value, "rows/s", "higher", "COPY", value * 2, note="what it is", target=(">=", 50_000))
        m.figure("peak", 40, "MB", "lower")
        with m.of("Debezium, as shipped") as part:
            if other is None:
                raise AssertionError("the worker\nis gone")
            part.figure("rows_per_s", other, "rows/s", "higher")
            part.figure("peak", 1000, "MB", "lower")


class Page(unittest.TestCase):
    def test_ratios_are_taken_run_by_run(self):
        r = measured([10_000, 40_000, 60_000], [5_000, 1_000, 2_000])["entities.snapshot.rows_per_s"]
        self.assertEqual((r["value"], r["met"], r["ratio"]), (40_000, False, 0.5))
        self.assertEqual(r["others"]["Debezium, as shipped"], {"value": 2_000, "runs": [5_000, 1_000, 2_000], "times": 30})

    def test_lower_is_better(self):
        self.assertEqual(measured([1], [1])["entities.snapshot.peak"]["others"]["Debezium, as shipped"]["times"], 25)

    def test_the_summary_says_what_was_met(self):
        text = page.page(measured([60_000], [5_000]))
        self.assertIn("| first snapshot | 60,000 rows/s | ≥ 50,000 rows/s: met | **12.0×** (5,000), ≥ 10×: met | – |", text)
        self.assertIn("| first snapshot | 40,000 rows/s | ≥ 50,000 rows/s: **not met** | **8.0×** (5,000), ≥ 10×: **not met** |", page.page(measured([40_000], [5_000])))

    def test_a_peer_that_failed_is_shown(self):
        text = page.page(measured([60_000], [None]))
        self.assertIn("≥ 50,000 rows/s: met | failed |", text)
        self.assertIn("Debezium, as shipped failed: the worker is gone", text)

    def test_our_own_failure_is_the_benchs(self):
        with self.assertRaises(ValueError), frame.Measure("x", OPTIONS).of(frame.US):
            raise ValueError


class Smoke(unittest.TestCase):
    def test_a_bench_runs(self):
        done = subprocess.run([sys.executable, os.path.join(BENCH, "bench.py"), "--quick", "--only", "entities.snapshot"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=300)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        for figure in ("rows_per_s", "cpu", "peak"):
            self.assertIn(f"entities.snapshot.{figure}: ", done.stdout)


if __name__ == "__main__":
    unittest.main()
