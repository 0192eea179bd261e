#!/usr/bin/env python3
"""Runs the benchmarks against real processes, appends their figures to build/bench/results.jsonl and renders docs/benchmarks.md.

usage: bench.py [--only NAME[,NAME...]] [--runs N] [--long] [--list]   a name may be a beginning: "entities" means all of them"""
import argparse
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "integration")]

import entities   # noqa: E402,F401 - they register themselves
import promotion  # noqa: E402,F401
from frame import BENCHES, PAGE, RESULTS, render, run  # noqa: E402


def chosen(only):
    if not only:
        return list(BENCHES)
    names = []
    for want in only.split(","):
        found = [n for n in BENCHES if n == want or n.startswith(want + ".")]
        if not found:
            sys.exit(f'bench.py: no benchmark "{want}": there are {", ".join(BENCHES)}')
        names += [n for n in found if n not in names]
    return names


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="names, or their beginnings, separated by commas")
    parser.add_argument("--runs", type=int, default=3, help="rounds over all benchmarks; the figures are their medians (default 3)")
    parser.add_argument("--long", action="store_true", help="latency for 120 s instead of 30 s")
    parser.add_argument("--list", action="store_true", help="the names")
    options = parser.parse_args()
    if options.list:
        print("\n".join(BENCHES))
        return
    if options.runs < 1:
        parser.error("--runs: at least 1")
    failed = run(chosen(options.only), options.runs, options)
    render()
    print(f"figures: {os.path.relpath(RESULTS)}, page: {os.path.relpath(PAGE)}")
    if failed:
        sys.exit("failed: " + ", ".join(failed))


if __name__ == "__main__":
    main()
