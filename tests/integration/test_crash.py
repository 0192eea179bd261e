"""What dies, is cut off or frozen while rows are on their way: agent, hub and broker, with SIGKILL at random moments and at the one that matters most,
between what was produced and its acknowledgement. In the end the sync view holds exactly what the sources hold, and nothing was refused.

SB_SEED repeats a run; SB_CRASH_SECONDS makes the random one longer."""
import os
import random
import signal
import threading
import time
import unittest

from harness import TENANT, Failure, Platform, service, until
from tables import SCORE_TABLE, sample_row, sample_rows, sample_table
from test_entities import owned, records, table

SEED = int(os.environ.get("SB_SEED", time.time_ns() % 1000000))
SECONDS = float(os.environ.get("SB_CRASH_SECONDS", 30))
TOPIC = f"sb.{TENANT}.dev.up.entity.v1"


class Writer(threading.Thread):
    """Random transactions of 1 to 500 rows over three tables, until told to stop."""

    def __init__(self, platform, seed):
        super().__init__(daemon=True)
        self.p, self.random = platform, random.Random(seed)
        self.next, self.transactions, self.error = 5000, 0, None
        self.end = threading.Event()

    def statement(self):
        r = self.random
        n, k = r.choice((1, 1, 2, 5, 20, 100, 500)), r.randrange(self.next)
        kind = r.randrange(12)
        if kind < 4:
            self.next += n
            return sample_rows("experiment", self.next - n + 1, self.next)
        if kind < 6:
            return f"UPDATE experiment SET attempts = attempts + 1, notes = CASE WHEN id % 3 = 0 THEN NULL ELSE notes || {r.randrange(9)} END WHERE id BETWEEN {k} AND {k + n};"
        if kind == 6:
            return f"DELETE FROM experiment WHERE id BETWEEN {k} AND {k + n // 4};"
        if kind == 7:   # keys move away, and out of the way of those that come
            return f"UPDATE experiment SET id = -id WHERE id BETWEEN {k} AND {k + n // 10} AND NOT EXISTS (SELECT 1 FROM experiment x WHERE x.id = -experiment.id);"
        if kind == 8:
            return (f"INSERT INTO score SELECT {k} + g, 'm' || g % 5, g, random() FROM generate_series(1, {n}) AS g "
                    "ON CONFLICT (metric, run) DO UPDATE SET value = excluded.value, step = score.step + 1;")
        if kind == 9:   # the large value stays where it is: the source does not send it again
            return f"UPDATE document SET version = version + 1 WHERE id % {r.randrange(2, 9)} = 0;"
        if kind == 10:
            return f"UPDATE document SET body = repeat(md5({k}::text), {r.randrange(100, 900)}) WHERE id = {r.randrange(30)};"
        return "TRUNCATE score;" if r.randrange(15) == 0 else f"DELETE FROM score WHERE run % {r.randrange(20, 60)} = 0;"

    def transaction(self):
        r = self.random
        body = "".join(self.statement() for _ in range(r.choice((1, 1, 1, 2, 4))))
        if r.randrange(8) == 0:
            body = body + "SAVEPOINT a;" + self.statement() + "ROLLBACK TO a;" + self.statement()
        return "BEGIN;" + body + ("ROLLBACK;" if r.randrange(20) == 0 else "COMMIT;")

    def run(self):
        try:
            while not self.end.is_set():
                self.p.psql("dev", "".join(self.transaction() for _ in range(self.random.randrange(1, 8))))
                self.transactions += 1
        except Exception as e:  # noqa: BLE001 - told to the test
            self.error = e

    def finish(self):
        self.end.set()
        self.join()
        if self.error:
            raise self.error


class Crash(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        types = ("experiment", "score", "document")
        p = Platform(stages=["dev"], origins=(), sources={"dev": [table(t) for t in types]}, types=[owned(t) for t in types])
        cls.p = p.__enter__()
        cls.addClassCleanup(lambda: p.__exit__(None, None, None))
        p.psql("dev", sample_table("experiment") + sample_rows("experiment", 1, 5000) + SCORE_TABLE.format(name="score")
               + "CREATE TABLE document (id integer PRIMARY KEY, version integer NOT NULL, body text);"
               "ALTER TABLE document ALTER COLUMN body SET STORAGE EXTERNAL;"
               "INSERT INTO document SELECT g, 1, repeat(md5(g::text), 300) FROM generate_series(0, 29) AS g;")
        p.start()
        cls.tables = types

    def settle(self, seconds=120):
        for t in self.tables:
            self.p.await_same("dev", t, t, seconds, "1, 2")
        self.assertEqual(self.p.hub_sql("SELECT class || ' ' || reason FROM lifecycle.quarantine"), "")
        self.assertEqual(self.p.hub_sql("SELECT count(*) FROM lifecycle.audit_broken"), "0")
        self.assertEqual(self.p.hub_sql("SELECT count(*) FROM sb.stream WHERE gap_at IS NOT NULL"), "0")

    def covered(self):
        """[(session, first, end)] of the batches of experiment on the broker, in their order: positions as (lsn, n)."""
        out = []
        for line in records(self.p.brokers["dev"], TOPIC, "%h\n").splitlines():
            head = dict(h.split("=", 1) for h in line.split(",") if "=" in h)
            if head.get("ce_source", "").endswith("/entity/experiment") and "ce_sbfrom" in head:
                place = [(int(v.split(".")[0], 16), int(v.split(".")[1])) for v in (head["ce_sbfrom"], head["ce_sbto"])]
                out.append((int(head["ce_sbsession"]), *place))
        return out

    def test_1_killed_between_produce_and_acknowledgement(self):
        """The broker is frozen with the agent's batches in its socket, the agent killed, the broker woken: it takes them, and nobody hears so. The next
        session reads the source from before them, with more that was committed since, and cuts other batches."""
        p = self.p
        self.settle()
        overlaps = 0
        for i in range(4):
            broker = int(service("kafka", "pid", p.path("kafka-dev")))
            start = 1000000 + i * 2000
            before = p.agents["dev"].text().count("source_streaming")
            os.kill(broker, signal.SIGSTOP)
            try:
                mark = p.psql("dev", "SELECT pg_current_wal_lsn()")
                for k in range(5):
                    p.psql("dev", sample_rows("experiment", start + k * 200, start + k * 200 + 150) + "UPDATE experiment SET attempts = attempts + 1 WHERE id < 50;")
                until("the agent has read the changes", lambda: p.psql(
                    "dev", f"SELECT sent_lsn > '{mark}' AND flush_lsn <= sent_lsn FROM pg_stat_replication WHERE application_name LIKE '%stagebridge%' AND state = 'streaming'"
                    " ORDER BY sent_lsn DESC LIMIT 1") == "t")
                until("they are in the broker's socket", lambda: unread(broker) > 1000)
                p.agents["dev"].kill()
                p.psql("dev", f"UPDATE experiment SET notes = 'after' WHERE id >= {start} AND id % 3 = 0; DELETE FROM experiment WHERE id >= {start} AND id % 5 = 0;")
            finally:
                os.kill(broker, signal.SIGCONT)
            p.start_agent("dev")
            until("the agent streams again", lambda: p.agents["dev"].text().count("source_streaming") > before, 60)
            self.settle()
            batches = self.covered()
            last = batches[-1][0]
            known = max((b[2] for b in batches if b[0] < last), default=(0, 0))
            overlaps += any(b[0] == last and b[1] < known for b in batches)
        # else this test would have shown nothing
        self.assertGreaterEqual(overlaps, 2, "repeats were not seen: the kills did not fall between produce and acknowledgement")

    def test_2_anything_at_any_time(self):
        p = self.p
        r = random.Random(SEED)
        print(f"  seed {SEED}", flush=True)
        writer = Writer(p, SEED)
        writer.start()
        kills = {"agent": 0, "hub": 0, "broker": 0, "both": 0}
        end = time.monotonic() + SECONDS
        try:
            while time.monotonic() < end and not writer.error:
                time.sleep(r.random() ** 2 * 1.5)   # not to settle: the moment of a kill is what is random
                what = r.choices(("agent", "hub", "both", "broker"), (8, 8, 3, 1))[0]
                kills[what] += 1
                if what in ("agent", "both"):
                    p.agents["dev"].kill()
                if what in ("hub", "both"):
                    p.hub.kill()
                if what == "broker":
                    service("kafka", "kill", p.path("kafka-dev"))
                    service("kafka", "restart", p.path("kafka-dev"))
                if what in ("hub", "both"):
                    p.start_hub()
                if what in ("agent", "both"):
                    p.start_agent("dev")
        finally:
            writer.finish()
        if not kills["broker"]:
            service("kafka", "kill", p.path("kafka-dev"))
            service("kafka", "restart", p.path("kafka-dev"))
        print(f"  {kills}, {writer.transactions} scripts, {p.psql('dev', 'SELECT count(*) FROM experiment')} rows", flush=True)
        self.assertGreater(writer.transactions, 20)
        self.assertGreater(kills["agent"] + kills["both"], 3)
        self.assertGreater(kills["hub"] + kills["both"], 3)
        try:
            self.settle(180)
        except (Failure, AssertionError) as e:
            raise Failure(f"SB_SEED={SEED}: {e}") from e

    def test_3_hub_away(self):
        """Nothing is asked of the hub while rows are committed: it catches up."""
        p = self.p
        p.hub.kill()
        p.psql("dev", sample_rows("experiment", 2000001, 2010000) + "UPDATE score SET value = 0.5;")
        until("the agent has handed over all of it", lambda: p.psql(
            "dev", "SELECT pg_current_wal_lsn() - confirmed_flush_lsn < 100000 FROM pg_replication_slots WHERE slot_name = 'stagebridge_dev'") == "t", 60)
        p.start_hub()
        self.settle()

    def test_4_killed_in_a_snapshot(self):
        """A resync by a new slot, the agent killed in the middle of its snapshots, twice."""
        p = self.p
        p.psql("dev", sample_rows("experiment", 2100001, 2160000))
        self.settle()
        p.agents["dev"].stop()
        until("the slot is free", lambda: p.psql("dev", "SELECT active FROM pg_replication_slots WHERE slot_name = 'stagebridge_dev'") == "f")
        p.psql("dev", "SELECT pg_drop_replication_slot('stagebridge_dev'); DELETE FROM experiment WHERE id % 3 = 0; UPDATE document SET version = -1;")
        for _ in range(2):
            begun = p.agents["dev"].text().count("snapshot_begun source=app type=experiment")
            p.start_agent("dev")
            until("a snapshot has begun", lambda: p.agents["dev"].text().count("snapshot_begun source=app type=experiment") > begun, 60, 0.01)
            p.psql("dev", f"UPDATE experiment SET attempts = attempts + 1 WHERE id % 97 = 0; INSERT INTO experiment SELECT {sample_row('max(id) + 1')} FROM experiment;")
            p.agents["dev"].kill()
        p.start_agent("dev")
        self.settle()

    def test_6_database_servers_restart(self):
        """Under both daemons, in an orderly way and by SIGKILL, again and again: they wait for it, neither ends."""
        p = self.p
        pids = [p.hub.child.pid, p.agents["dev"].child.pid]
        for i, how in enumerate(("restart", "kill", "restart", "kill")):
            p.psql("dev", f"UPDATE experiment SET attempts = {i} WHERE id % 3 = 0; UPDATE document SET version = {i};")
            if how == "kill":
                service("postgres", "kill", p.path("pg"))
            service("postgres", "restart", p.path("pg"))
            self.settle()
        self.assertTrue(p.hub.alive() and p.agents["dev"].alive())
        self.assertEqual([p.hub.child.pid, p.agents["dev"].child.pid], pids)

    def test_5_everything_stops_and_starts(self):
        p = self.p
        p.psql("dev", "UPDATE experiment SET attempts = 0 WHERE id % 2 = 0;")
        self.assertEqual(p.agents["dev"].stop(), 0)
        self.assertEqual(p.hub.stop(), 0)
        p.psql("dev", "UPDATE experiment SET attempts = 1 WHERE id % 3 = 0; TRUNCATE score;")
        p.start()
        self.settle()


def unread(pid):
    """Bytes that wait in the receive queues of a process's TCP connections."""
    inodes = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    total = 0
    for name in ("tcp", "tcp6"):
        with open(f"/proc/{pid}/net/{name}") as f:
            for line in f.readlines()[1:]:
                part = line.split()
                if part[9] in inodes and part[3] == "01":
                    total += int(part[4].split(":")[1], 16)
    return total


if __name__ == "__main__":
    unittest.main()
