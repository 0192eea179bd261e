"""Changes as they are committed: one large transaction live, and backlogs of small transactions, which show what the pipeline can do rather than
how fast one connection writes. And what a row costs by the size of its transaction."""
import contextlib
import os
import signal
import time

from frame import bench
from peers import each
from pipelines import Stagebridge
from tables import sample_row, sample_rows
from usage import Meter, peak_mb


def started(pipeline, asker, warm):
    """The pipeline runs, the first rows went as a snapshot and the next ones as changes."""
    pipeline.sql(sample_rows("experiment", 1, warm))
    pipeline.begin()
    pipeline.await_count(asker, warm)
    return grow(pipeline, asker, warm)


def grow(pipeline, asker, rows):
    """One more transaction of that many rows, awaited; returns the highest number."""
    last = int(pipeline.sql("SELECT max(id) FROM experiment")) + rows
    pipeline.sql(sample_rows("experiment", last - rows + 1, last))
    pipeline.await_highest(asker, last)
    return last


@contextlib.contextmanager
def frozen(pipeline):
    """The pipeline's processes stand still."""
    pids = pipeline.processes().values()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def committed_by(size, first, count):
    """SQL that inserts rows in transactions of one size, in the server: no client is what limits it. They need not be on the disk before the next one."""
    return f"""SET synchronous_commit = off;
        DO $$ BEGIN
            FOR n IN 0..{count // size - 1} LOOP
                INSERT INTO experiment SELECT {sample_row('g')} FROM generate_series({first}::bigint + n * {size}, {first}::bigint + n * {size} + {size - 1}) AS g;
                COMMIT;
            END LOOP;
        END $$;"""


def backlog(m, pipeline, asker, name, size, count):
    """Rows a second at which a backlog of transactions of one size is carried."""
    count -= count % size
    first = int(pipeline.sql("SELECT max(id) + 1 FROM experiment"))
    with frozen(pipeline):
        pipeline.sql(committed_by(size, first, count))
        meter, begin = Meter(pipeline), time.monotonic()
    seen = pipeline.await_highest(asker, first + count - 1)
    m.figure(name + ".rows_per_s", count / (seen - begin), "rows/s", "higher", target=(">=", 50_000),
             note=f"a backlog of {count:,} rows in transactions of {size:,}, until the last is in the target")
    meter.report(m, name + ".", count)


def stream(m, pipeline):
    with pipeline.asker() as asker:
        last, rows = started(pipeline, asker, m.sizes["warm_rows"]), m.sizes["transaction_rows"]
        meter = Meter(pipeline)
        pipeline.sql(sample_rows("experiment", last + 1, last + rows))
        committed = time.monotonic()
        took = pipeline.await_highest(asker, last + rows) - committed
        m.figure("transaction.rows_per_s", rows / took, "rows/s", "higher", target=(">=", 50_000), note=f"one INSERT of {rows:,} rows, from its commit until the last is in the target")
        meter.report(m, "transaction.", rows)
        backlog(m, pipeline, asker, "hundreds", 100, m.sizes["hundreds_rows"])
        backlog(m, pipeline, asker, "singles", 1, m.sizes["single_rows"])
    pipeline.expect_equal()
    m.figure("peak", sum(peak_mb(pid) for pid in pipeline.processes().values()), "MB", "lower", note="highest resident memory over these")


@bench("entities.stream", compared=True)
def streams(m):
    each(m, stream)


@bench("entities.batch")
def by_size(m):
    rows = m.sizes["transaction_rows"]
    with Stagebridge() as pipeline, pipeline.asker() as asker:
        started(pipeline, asker, m.sizes["warm_rows"])
        for size in (1, 10, 100, 1_000, 10_000, 100_000):
            if size <= rows:
                backlog(m, pipeline, asker, str(size), size, min(rows, max(m.sizes["single_rows"], size * 100)))
        pipeline.expect_equal()
