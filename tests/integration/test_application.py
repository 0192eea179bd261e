"""A real application followed from its empty database on: MLflow's tracking store and model registry, all of its tables. Its old version works, its new
version upgrades the database (dozens of migrations, while they are followed) and works, from several processes; an agent and a hub are killed meanwhile.
Then every table equals its view, exactly. What the application does is in mlflow_traffic.py, and in the application."""
import os
import subprocess
import threading
import unittest

import compare
from harness import Platform, parallel, service, until
from test_entities import owned

TRAFFIC = os.path.join(os.path.dirname(os.path.abspath(__file__)), "mlflow_traffic.py")
LISTED = "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace ORDER BY 1"
SETTLE_SECONDS = 180


class Application(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.home = service("mlflow", "install", timeout=1800)
        tables = cls.traffic("new", "tables").split()
        # one that nothing tells apart: refused, and said so
        cls.settings = [{"table": "public." + t, "type": t} for t in [*tables, "keyless"]]
        p = Platform(stages=["dev"], origins=(), sources={"dev": cls.settings}, types=[owned(s["type"]) for s in cls.settings])
        cls.p = p.__enter__()
        cls.addClassCleanup(lambda: p.__exit__(None, None, None))
        p.start()
        p.psql("dev", "CREATE TABLE keyless (a integer);")

    @classmethod
    def traffic(cls, version, *args):
        env = {**os.environ, **({"PYTHONPATH": os.path.join(cls.home, "old")} if version == "old" else {})}
        done = subprocess.run([os.path.join(cls.home, "bin", "python"), TRAFFIC, *map(str, args)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=600)
        if done.returncode != 0:
            raise AssertionError(f"{version} {args[0]}: {done.stdout[-1000:]}{done.stderr[-2000:]}")
        return done.stdout

    def uri(self):
        words = dict(w.split("=") for w in self.p.dsn_cached("dev").split())
        return f"postgresql://{words['user']}@{words['host']}:{words['port']}/dev"

    def work(self, version, seed, workers, rounds):
        print(f"  {version}: {self.traffic(version, 'work', self.uri(), seed, workers, rounds).strip()}", flush=True)

    def equal(self):
        there = [t for t in self.p.psql("dev", LISTED).splitlines() if t != "keyless"]
        self.assertEqual(set(there) - {s["type"] for s in self.settings}, set(), "tables of the application that are not followed")
        compare.await_equal([compare.view(self.p, "dev", s) for s in self.settings if s["type"] in there], SETTLE_SECONDS)
        return there

    def test_1_old_version(self):
        self.work("old", 1, 3, 30)
        print(f"  {len(self.equal())} tables equal", flush=True)

    def test_2_upgrade(self):
        before = set(self.p.psql("dev", LISTED).splitlines())
        revision = self.p.psql("dev", "SELECT version_num FROM alembic_version")
        self.traffic("new", "upgrade", self.uri())
        there = self.equal()
        self.assertGreater(len(set(there) - before), 10)
        self.assertNotEqual(self.p.hub_sql("SELECT version_num FROM dev.alembic_version"), revision)

    def test_3_new_version(self):
        """Two processes at once, and what follows them dies twice."""
        p, end = self.p, threading.Event()

        def kill():
            for victim in ("agent", "hub", "agent"):
                if end.wait(3):
                    return
                if victim == "agent":
                    p.agents["dev"].kill()
                    p.start_agent("dev")
                else:
                    p.hub.kill()
                    p.start_hub()

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            parallel(lambda: self.work("new", 2, 3, 40), lambda: self.work("new", 3, 3, 40))
        finally:
            end.set()
            killer.join()
        there = self.equal()
        rows = {t: int(p.psql("dev", f'SELECT count(*) FROM "{t}"')) for t in there}
        print(f"  {len(there)} tables equal, {sum(rows.values())} rows, {sum(n > 0 for n in rows.values())} tables have some", flush=True)
        self.assertGreater(sum(n > 0 for n in rows.values()), 20)

    def test_4_nothing_is_left_over(self):
        p = self.p
        until("no snapshot runs and no gap is open", lambda: p.hub_sql(
            "SELECT type FROM lifecycle.entity_type WHERE snapshot_state NOT IN ('done', '') UNION ALL SELECT source FROM sb.stream WHERE gap_at IS NOT NULL") == "", 60)
        self.equal()
        self.assertEqual(p.hub_sql("SELECT class, type, reason FROM lifecycle.quarantine"), "")
        until("the table without a key is named with the reason", lambda: "type=keyless" in p.agents["dev"].text() and "has no primary key" in p.agents["dev"].text(), 60)
        self.assertEqual(p.hub_sql("SELECT to_regclass('dev.keyless') IS NULL"), "t")
        p.psql("dev", "INSERT INTO keyless VALUES (1); UPDATE keyless SET a = 2;")      # nobody is in the application's way


if __name__ == "__main__":
    unittest.main()
