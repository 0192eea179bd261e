"""Entities from a stage's PostgreSQL into the sync view: how fast, how soon, with how much memory. One stage, real Kafka, rows of 365 bytes."""
import json
import os
import subprocess
import time

from frame import BUILD, Asker, bench
from harness import TENANT, Platform, until
from tables import SAMPLE_COLUMNS, sample_row, sample_rows, sample_table

ROWS = 200_000
HUB = "hub_" + TENANT


def platform():
    return Platform(stages=["dev"], origins=(), sources={"dev": [{"table": "public.experiment", "type": "experiment"}]}, types=[{"type": "experiment", "owner": "dev"}])


SNAPSHOT_DONE = "SELECT count(*) FROM lifecycle.entity_type WHERE type = 'experiment' AND snapshot_state = 'done'"


def view(p):
    return Asker(p.dsn_cached(HUB))


def started(p):
    p.start()
    until("the agent streams", lambda: "source_streaming" in p.agents["dev"].text() and p.hub_sql(SNAPSHOT_DONE) == "1", 120)


def await_highest(asker, number):
    """When the view shows the row of that number; rows come in their order."""
    return asker.until(f"row {number} is visible", "SELECT coalesce(max(id), 0) FROM dev.experiment", lambda answer: int(answer) >= number)


def expect_rows(p, count):
    found = int(p.hub_sql("SELECT count(*) FROM dev.experiment"))
    if found != count:
        raise AssertionError(f"{found} rows in the view, not {count}")


def copy_in(p):
    """Rows a second of a plain COPY into a table of the same columns and key, in the database of the sync view."""
    file = p.path("rows.copy")
    with open(file, "wb") as f:
        subprocess.run(["psql", "-XqAt", p.dsn_cached("dev"), "-c", "COPY experiment TO STDOUT"], stdout=f, check=True)
    p.hub_sql(f"CREATE TABLE public.plain ({SAMPLE_COLUMNS})")
    begin = time.monotonic()
    with open(file, "rb") as f:
        subprocess.run(["psql", "-XqAt", p.dsn_cached(HUB), "-c", "COPY public.plain FROM STDIN"], stdin=f, check=True)
    took = time.monotonic() - begin
    os.unlink(file)
    return ROWS / took


@bench("entities.snapshot")
def snapshot(m):
    with platform() as p:
        p.psql("dev", sample_table("experiment") + sample_rows("experiment", 1, ROWS) + "VACUUM ANALYZE experiment;")
        plain = copy_in(p)
        p.start_hub()
        with view(p) as v:
            begin = time.monotonic()
            p.start_agent("dev")
            took = v.until("the snapshot is complete", SNAPSHOT_DONE, lambda answer: answer == "1") - begin
        expect_rows(p, ROWS)
        m.figure("rows_per_s", ROWS / took, "rows/s", "higher", "COPY", plain,
                 note=f"first snapshot of {ROWS:,} rows, start of the agent included, until the last is in the sync view; beside it a plain COPY into the same table")


def load(p, script):
    """Runs SQL in one psql; returns when it was sent off and when it ended."""
    begin = time.monotonic()
    p.psql("dev", script)
    return begin, time.monotonic()


@bench("entities.stream")
def stream(m):
    with platform() as p:
        p.psql("dev", sample_table("experiment"))
        started(p)
        with view(p) as v:
            p.psql("dev", sample_rows("experiment", 1, 1000))
            await_highest(v, 1000)
            _, committed = load(p, sample_rows("experiment", 1001, 101_000))
            m.figure("one_insert.rows_per_s", 100_000 / (await_highest(v, 101_000) - committed), "rows/s", "higher",
                     note="one INSERT of 100,000 rows, from its commit until the last is in the sync view")
            expect_rows(p, 101_000)
            for name, size, count in (("transactions_of_100", 100, 50_000), ("single_rows", 1, 10_000)):
                transactions(m, p, v, name, size, count)


def transactions(m, p, v, name, size, count):
    first = int(p.psql("dev", "SELECT max(id) + 1 FROM experiment"))
    # prepared, so that the source's planner is not what is measured
    script = f"SET plan_cache_mode = force_generic_plan; PREPARE add(bigint, bigint) AS {sample_rows('experiment', '$1', '$2')}\n"
    begin, loaded = load(p, script + "".join(f"EXECUTE add({n}, {n + size - 1});\n" for n in range(first, first + count, size)))
    seen = await_highest(v, first + count - 1)
    m.figure(name + ".rows_per_s", count / (seen - begin), "rows/s", "higher", "the source alone", count / (loaded - begin),
             note=f"{count:,} rows in transactions of {size}, one connection, from the first until the last is in the sync view; beside it how fast the source took them")
    expect_rows(p, first + count - 1)


def latency(p, rate, seconds):
    """Runs the tool `latency`: commit in the source to visible in the view, polled every millisecond over an open connection."""
    done = subprocess.run([os.path.join(BUILD, "tools", "latency"), p.dsn_cached("dev"), p.dsn_cached(HUB), f"INSERT INTO public.experiment SELECT {sample_row('$1::bigint')}",
                           "SELECT max(id) FROM dev.experiment", str(rate), str(seconds), "1000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=seconds + 120)
    if done.returncode:
        raise AssertionError(done.stderr.strip())
    return json.loads(done.stdout)


@bench("entities.latency")
def latencies(m):
    seconds = 120 if m.options.long else 30
    with platform() as p:
        p.psql("dev", sample_table("experiment") + sample_rows("experiment", 1, 1000))
        started(p)
        latency(p, 100, 2)   # connections, statements and tables are warm
        for name, rate, length in (("", 1000, seconds), ("single.", 1, max(20, seconds // 2))):
            got = latency(p, rate, length)
            note = f"{got['rows']:,} rows, each committed alone, {rate} a second asked and {got['rate']:.0f} reached, polled every millisecond"
            for q in ("p50", "p99", "max"):
                m.figure(f"{name}{q}", got[q + "_ms"], "ms", "lower", note=note if q == "p50" else "")
        expect_rows(p, int(p.psql("dev", "SELECT count(*) FROM experiment")))


def peak_mb(process):
    with open(f"/proc/{process.child.pid}/status") as f:
        return int(next(line.split()[1] for line in f if line.startswith("VmHWM:"))) / 1024


def reset_peak(process):
    with open(f"/proc/{process.child.pid}/clear_refs", "w") as f:
        f.write("5")


@bench("entities.memory")
def memory(m):
    with platform() as p:
        p.psql("dev", sample_table("experiment"))
        started(p)
        time.sleep(20)   # what is measured is being idle
        agent, hub = p.agents["dev"], p.hub
        m.figure("idle.agent", agent.rss_mb(), "MB", "lower", note="resident, idle for 20 s")
        m.figure("idle.hub", hub.rss_mb(), "MB", "lower")
        m.figure("idle", agent.rss_mb() + hub.rss_mb(), "MB", "lower", note="promised: 64 MB at most")
        cpu = agent.cpu_s() + hub.cpu_s()
        for process in (agent, hub):
            reset_peak(process)
        p.psql("dev", sample_rows("experiment", 1, ROWS))
        with view(p) as v:
            await_highest(v, ROWS)
        expect_rows(p, ROWS)
        m.figure("transaction.agent", peak_mb(agent), "MB", "lower", note=f"highest while one transaction of {ROWS:,} rows passes")
        m.figure("transaction.hub", peak_mb(hub), "MB", "lower")
        m.figure("transaction.cpu_us_per_row", (agent.cpu_s() + hub.cpu_s() - cpu) / ROWS * 1e6, "µs/row", "lower", note="CPU of agent and hub")
