"""Whether the sync view gets slower as it grows: inserts, and updates of rows all over the table, with more and more rows in it."""
import time

from frame import bench
from pipelines import Stagebridge
from stream import grow, started
from tables import sample_rows
from usage import Meter

SPREAD = 104_729    # a prime that no size here is a multiple of: rows all over the table, each once


def fill(pipeline, asker, last, size, step):
    while last < size:
        last = grow(pipeline, asker, min(step, size - last))
    return last


def updated(pipeline, asker, last, rows):
    """Rows a second of one UPDATE of rows all over the table. The row after it tells when it has arrived: changes come in their order."""
    pipeline.sql(f"UPDATE experiment SET attempts = attempts + 1, updated_at = updated_at + interval '1 second' "
                 f"WHERE id IN (SELECT 1 + g * {SPREAD}::bigint % {last} FROM generate_series(1, {rows}) AS g);" + sample_rows("experiment", last + 1, last + 1))
    committed = time.monotonic()
    return rows / (pipeline.await_highest(asker, last + 1) - committed)


def inserted(pipeline, asker, last, rows):
    pipeline.sql(sample_rows("experiment", last + 1, last + rows))
    committed = time.monotonic()
    return rows / (pipeline.await_highest(asker, last + rows) - committed)


@bench("entities.growth")
def growth(m):
    sample, rates = m.sizes["growth_sample"], {"inserts": [], "updates": []}
    with Stagebridge() as pipeline, pipeline.asker() as asker:
        last = started(pipeline, asker, min(1000, m.sizes["growth_rows"][0] // 2))
        for size in m.sizes["growth_rows"]:
            last = fill(pipeline, asker, last, size, m.sizes["growth_step"])
            pipeline.sql("CHECKPOINT")
            for what, measure in (("inserts", inserted), ("updates", updated)):
                last, meter = int(pipeline.sql("SELECT max(id) FROM experiment")), Meter(pipeline)
                rates[what].append(measure(pipeline, asker, last, sample))
                m.figure(f"{what}.{size}", rates[what][-1], "rows/s", "higher", note=f"one transaction of {sample:,} {what} with {size:,} rows in the view, from its commit")
                meter.report(m, f"{what}.{size}.", sample)
        pipeline.expect_equal()
    for what, found in rates.items():
        m.figure(what + ".kept", found[-1] / found[0], "", "higher", target=(">=", 0.8), note=f"rate with {size:,} rows in the view, as a share of that with {m.sizes['growth_rows'][0]:,}")
