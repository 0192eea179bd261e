"""From a commit in the source to its row being visible in the target, at a fixed rate, with the tool `latency`."""
import json
import os
import subprocess

from frame import BUILD, US, bench
from peers import each
from stream import started
from tables import sample_row

POLL_US = 1000


def probe(pipeline, rate, seconds):
    platform = pipeline.platform
    done = subprocess.run([os.path.join(BUILD, "tools", "latency"), platform.dsn_cached("dev"), platform.dsn_cached(pipeline.target_db),
                           f"INSERT INTO public.experiment SELECT {sample_row('$1::bigint')}", pipeline.highest_sql(), str(rate), str(seconds), str(POLL_US)],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=seconds + 120)
    if done.returncode:
        raise AssertionError(done.stderr.strip())
    return json.loads(done.stdout)


TARGETS = {"p50": ("<=", 10), "p99": ("<=", 100)}


def report(m, name, got, rate):
    if got["rate"] < rate * 0.98:
        print(f"    the load was {got['rate']:.0f} a second, not {rate}", flush=True)
    note = (f"{got['rows']:,} rows, each committed alone; {rate:,} a second asked, {got['rate']:.0f} reached, sent {got['behind_p99_ms']:.1f} ms late at most in 99 of 100 cases; "
            f"asked every {POLL_US / 1000:g} ms, {got['ask_us']:.0f} µs a question")
    for q in ("p50", "p95", "p99", "max"):
        m.figure(f"{name}.{q}", got[q + "_ms"], "ms", "lower", note=note if q == "p50" else "", target=TARGETS.get(q))
    m.figure(f"{name}.rate", got["rate"], "rows/s", "higher", note="the rate that the load reached")


def latency(m, pipeline):
    with pipeline.asker() as asker:
        last, ours = started(pipeline, asker, m.sizes["warm_rows"]), pipeline.name == US
        probe(pipeline, 100, 2)   # connections and statements are warm
        for name, rate, seconds in (("busy", 1000, m.sizes["latency_s" if ours else "peer_latency_s"]), ("quiet", 1, m.sizes["slow_s" if ours else "peer_slow_s"])):
            got = probe(pipeline, rate, seconds)
            report(m, name, got, rate)
        pipeline.await_highest(asker, last + 1)
    pipeline.expect_equal()


@bench("entities.latency", compared=True)
def latencies(m):
    each(m, latency)
