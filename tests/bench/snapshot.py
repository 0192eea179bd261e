"""The first copy of a table: rows a second from the start of the pipeline until every row is in the target, beside a plain COPY of the same rows."""
import os
import subprocess
import time

from frame import bench
from peers import each
from tables import SAMPLE_COLUMNS, sample_rows
from usage import Meter, peak_mb


def plain_copy(pipeline, rows):
    """Rows a second of COPY into a table of the same columns and key, in the database of the target."""
    platform, file = pipeline.platform, pipeline.platform.path("rows.copy")
    with open(file, "wb") as f:
        subprocess.run(["psql", "-XqAt", platform.dsn_cached("dev"), "-c", "COPY experiment TO STDOUT"], stdout=f, check=True)
    pipeline.target_sql(f"CREATE TABLE public.plain ({SAMPLE_COLUMNS})")
    begin = time.monotonic()
    with open(file, "rb") as f:
        subprocess.run(["psql", "-XqAt", platform.dsn_cached(pipeline.target_db), "-c", "COPY public.plain FROM STDIN"], stdin=f, check=True)
    took = time.monotonic() - begin
    os.unlink(file)
    pipeline.target_sql("DROP TABLE public.plain")
    return rows / took


def snapshot(m, pipeline, rows):
    pipeline.sql(sample_rows("experiment", 1, rows) + "VACUUM ANALYZE experiment; CHECKPOINT;")
    plain = plain_copy(pipeline, rows)
    with pipeline.asker() as asker:
        meter, begin = Meter(pipeline), time.monotonic()
        pipeline.begin()
        took = pipeline.await_count(asker, rows) - begin
    pipeline.expect_equal()
    m.figure("rows_per_s", rows / took, "rows/s", "higher", "COPY", plain, target=(">=", 50_000),
             note=f"first snapshot of {rows:,} rows, from the start of the agent (of the connectors) until the last is in the target; beside it a plain COPY into the same table")
    meter.report(m, "", rows)
    m.figure("peak", sum(peak_mb(pid) for pid in pipeline.processes().values()), "MB", "lower", note="highest resident memory of agent and hub, or of the peer's process")


@bench("entities.snapshot", compared=True)
def snapshots(m):
    each(m, lambda part, pipeline: snapshot(part, pipeline, m.sizes["snapshot_rows"]))
