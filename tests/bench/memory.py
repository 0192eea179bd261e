"""Memory of agent and hub: idle, while one very large transaction passes, and while the broker is away under load."""
import threading
import time

from frame import bench
from harness import service
from pipelines import Stagebridge
from stream import started
from tables import sample_row, sample_rows
from usage import Meter, peak_mb, reset_peak, resident_mb

PROMISE_IDLE, PROMISE_BUSY = 64, 256    # MB, agent and hub together
RATE = 1000


def peaks(m, name, pipeline, note):
    both = {who: peak_mb(pid) for who, pid in pipeline.processes().items()}
    m.figure(name, sum(both.values()), "MB", "lower", target=("<=", PROMISE_BUSY), note=f"highest resident memory of agent and hub together {note}")
    for who, value in both.items():
        m.figure(f"{name}.{who}", value, "MB", "lower")


@bench("entities.memory")
def memory(m):
    rows = m.sizes["large_rows"]
    with Stagebridge() as pipeline, pipeline.asker() as asker:
        last = started(pipeline, asker, 1000)
        time.sleep(m.sizes["idle_s"])   # what is measured is being idle
        both = {who: resident_mb(pid) for who, pid in pipeline.processes().items()}
        m.figure("idle", sum(both.values()), "MB", "lower", target=("<=", PROMISE_IDLE), note=f"resident, idle for {m.sizes['idle_s']} s, agent and hub together")
        for who, value in both.items():
            m.figure("idle." + who, value, "MB", "lower")
        for pid in pipeline.processes().values():
            reset_peak(pid)
        meter, begin = Meter(pipeline), time.monotonic()
        pipeline.sql(sample_rows("experiment", last + 1, last + rows))
        committed = time.monotonic()
        seen = pipeline.await_highest(asker, last + rows, 1200)
        pipeline.expect_equal()
        peaks(m, "transaction", pipeline, f"while one transaction of {rows:,} rows passes")
        m.figure("transaction.rows_per_s", rows / (seen - committed), "rows/s", "higher", note=f"from its commit; the source took {committed - begin:.0f} s for it")
        meter.report(m, "transaction.", rows)


class Load(threading.Thread):
    """Changes at a fixed rate, each a transaction of its own, over one connection: seven inserts, two updates and a delete of ten."""

    def __init__(self, pipeline, last):
        super().__init__()
        self.asker, self.first = pipeline.asker_of_source(), last
        self.changes, self.last, self.stopping, self.error, self.seconds = 0, last, threading.Event(), None, 0

    def statement(self):
        """The next change; every update and delete finds its row."""
        self.changes += 1
        ten, what = divmod(self.changes, 10)
        if what == 0:
            return f"EXECUTE del({self.first + 7 * (ten - 1) + 1});"
        if what in (3, 7):
            return f"EXECUTE upd({self.first + 7 * (ten * 7919 % max(1, ten)) + what // 3 + 1});"
        self.last += 1
        return f"EXECUTE ins({self.last});"

    def run(self):
        try:
            self.asker.tell("SET plan_cache_mode = force_generic_plan; PREPARE del(bigint) AS DELETE FROM experiment WHERE id = $1; "
                            "PREPARE upd(bigint) AS UPDATE experiment SET attempts = attempts + 1, updated_at = now() WHERE id = $1; "
                            f"PREPARE ins(bigint) AS INSERT INTO experiment SELECT {sample_row('$1')};")
            begin = time.monotonic()
            while not self.stopping.is_set():
                due = int((time.monotonic() - begin) * RATE) - self.changes
                if due > 0:
                    self.asker.tell("\n".join(self.statement() for _ in range(due)))
                    self.asker.ask("SELECT 1")   # the source has taken them: nothing piles up in between
                self.stopping.wait(0.01)
            self.seconds = time.monotonic() - begin
        except Exception as e:  # noqa: BLE001 - raised by stop()
            self.error = e
        finally:
            self.asker.close()

    def stop(self):
        """Returns the highest number inserted."""
        self.stopping.set()
        self.join()
        if self.error:
            raise self.error
        return self.last


@bench("entities.outage")
def outage(m):
    seconds = m.sizes["outage_s"]
    with Stagebridge() as pipeline, pipeline.asker() as asker:
        load = Load(pipeline, started(pipeline, asker, 10_000))
        for pid in pipeline.processes().values():
            reset_peak(pid)
        load.start()
        try:
            pipeline.await_highest(asker, load.first + RATE)     # the load passes before the broker goes
            service("kafka", "kill", pipeline.platform.path("kafka-dev"))
            load.stopping.wait(seconds)
            service("kafka", "restart", pipeline.platform.path("kafka-dev"))
            back = time.monotonic()
        finally:
            load.stopping.set()
            load.join()
        last = load.stop() + 1
        pipeline.sql(sample_rows("experiment", last, last))   # comes after every change of the load
        seen = pipeline.await_highest(asker, last, 1200)
        pipeline.expect_equal()
        peaks(m, "peak", pipeline, f"while the broker is away for {seconds} s and while they catch up")
        m.figure("rate", load.changes / load.seconds, "changes/s", "higher", note=f"the load: {RATE:,} a second asked, {load.changes:,} changes in all, inserts, updates and deletes")
        m.figure("catch_up", seen - back, "s", "lower", note="from the broker's return until the last change is in the sync view, equal to the source row by row")
