#!/usr/bin/env python3
"""Runs the benchmarks against real processes, appends their figures to build/bench/results.jsonl and renders docs/benchmarks.md.

usage: bench.py [--only NAME[,NAME...]] [--runs N] [--peers all|none|NAME[,NAME...]] [--quick] [--list] [--render]
A name may be a beginning: "entities" means all of them. More with --help."""
import argparse
import os
import signal
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "integration")]

import snapshot   # noqa: E402,F401 - they register themselves, in this order
import stream     # noqa: E402,F401
import latency    # noqa: E402,F401
import memory     # noqa: E402,F401
import growth     # noqa: E402,F401
import directory  # noqa: E402,F401
import promotion  # noqa: E402,F401
from frame import BENCHES, RESULTS, run  # noqa: E402
from page import PAGE, render  # noqa: E402
from peers import PEERS  # noqa: E402

CPUS = 2    # what everything shares, on a larger machine too: figures of different machines stay comparable


def chosen(only):
    if not only:
        return list(BENCHES)
    names = []
    for want in only.split(","):
        found = [n for n in BENCHES if n == want or n.startswith(want.removesuffix("*").removesuffix(".") + ".")]
        if not found:
            sys.exit(f'bench.py: no benchmark "{want}": there are {", ".join(BENCHES)}')
        names += [n for n in found if n not in names]
    return names


def chosen_peers(text, quick):
    """The peers' full names; in the text their beginnings or any word of them."""
    text = text or ("none" if quick else "all")
    if text in ("all", "none"):
        return [peer.name for peer in PEERS] if text == "all" else []
    names = []
    for want in text.split(","):
        found = [peer.name for peer in PEERS if want.lower() in peer.name.lower()]
        if not found:
            sys.exit(f'bench.py: no peer "{want}": there are {"; ".join(peer.name for peer in PEERS)}')
        names += [n for n in found if n not in names]
    return names


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="names, or their beginnings, separated by commas")
    parser.add_argument("--runs", type=int, help="rounds over all benchmarks; the figures are their medians (default 3, with --quick 1)")
    parser.add_argument("--peers", help='"all" (default), "none" (default with --quick), or words of their names, as in --peers shipped,tuned')
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that the benches work, its figures mean nothing and go to no page")
    parser.add_argument("--rows", type=int, help="rows of the snapshot")
    parser.add_argument("--outage", type=int, help="seconds that the broker is away (default 600)")
    parser.add_argument("--growth", type=int, help="the largest table that growth is measured with (default 10000000)")
    parser.add_argument("--list", action="store_true", help="the names, and those of the peers")
    parser.add_argument("--render", action="store_true", help="makes the page of the figures that are there, measures nothing")
    options = parser.parse_args()
    options.runs = options.runs if options.runs is not None else 1 if options.quick else 3
    if options.runs < 1:
        parser.error("--runs: at least 1")
    options.peers = chosen_peers(options.peers, options.quick)
    return options


def interrupted(*_):
    raise KeyboardInterrupt


def main():
    options = parse()
    if options.list:
        print("\n".join([*BENCHES, *(f"peer: {peer.name}" for peer in PEERS)]))
        return
    failed = []
    if not options.render:
        signal.signal(signal.SIGTERM, interrupted)   # what was started is stopped
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CPUS])
        failed = run(chosen(options.only), options.runs, options)
    if options.quick:
        print(f"{'failed: ' + ', '.join(failed) if failed else 'every bench works'}")
    else:
        render()
        print(f"figures: {os.path.relpath(RESULTS)}, page: {os.path.relpath(PAGE)}")
    if failed:
        sys.exit("failed: " + ", ".join(failed))


if __name__ == "__main__":
    main()
