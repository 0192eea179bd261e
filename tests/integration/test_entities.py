"""Entities from a stage's tables and files into the sync view and into another stage, against real Kafka and PostgreSQL: exactly what the source
holds, nothing that is private, nothing from who does not own it. What happens when processes die is in test_crash.py."""
import glob
import json
import os
import subprocess
import tempfile
import unittest

from harness import TENANT, Platform, Process, service, until
from tables import SCORE_TABLE, WIDE_ROWS, WIDE_TABLE, sample_row, sample_rows, sample_table

PLANTED = "kQ7vXw3ZpT9mLs2RbY8c"   # stands for a secret: never seen elsewhere
OPEN_PLANTED = "hG4nJd6FtB1xVr5WqC0z"  # the same kind of text in a column that may leave: what the scan must be able to find


def table(name, type_=None, **more):
    return {"table": "public." + name, "type": type_ or name, **more}


def owned(type_, owner="dev", **more):
    return {"type": type_, "owner": owner, **more}


def broker_holds(platform, *texts):
    """Where brokers of the platform hold each text: in their files byte by byte, and in records as a reader gets them (files may be compressed)."""
    found = [set() for _ in texts]
    for stage, servers in platform.brokers.items():
        folder = platform.path("kafka-" + stage, "data")
        topics = [f"sb.{TENANT}.{stage}.{d}.{c}.v1" for d in ("up", "down") for c in ("entity", "event", "data")]
        content = {t: records(servers, t) for t in topics}
        for places, text in zip(found, texts):
            scan = subprocess.run(["grep", "-rlaF", text, folder], stdout=subprocess.PIPE, text=True)
            places.update("file " + os.path.relpath(f, folder) for f in scan.stdout.split())
            places.update("records of " + t for t in topics if text in content[t])
    return found


def records(servers, topic, form="%k %h %s\n"):
    return subprocess.run(["kcat", "-C", "-q", "-b", servers, "-t", topic, "-o", "beginning", "-e", "-f", form], stdout=subprocess.PIPE, check=True,
                          timeout=60).stdout.decode(errors="replace")


def produce(servers, topic, value, headers=(), key=None):
    argv = ["kcat", "-P", "-b", servers, "-t", topic]
    for name, text in headers:
        argv += ["-H", f"{name}={text}"]
    if key:
        argv += ["-k", key]
    with tempfile.NamedTemporaryFile() as f:
        f.write(value)
        f.flush()
        subprocess.run([*argv, f.name], check=True, timeout=60)  # a file: one record, newlines and all


class Entities(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        p = Platform(
            stages=["dev", "train"], origins=(), replicas=["train"],
            sources={"dev": [table("experiment"), table("score"), table("wide"), table("person", private=["iban", "note"]), table("stray"),
                             table("late"), table("empty")],
                     "train": [table("experiment_copy", "experiment")]},
            types=[owned("experiment", subscribers=["train"]), owned("score", subscribers=["train"]), owned("wide", subscribers=["train"]), owned("person"),
                   owned("late"), owned("empty"), owned("card"), owned("metric")])
        cls.folder = tempfile.mkdtemp(prefix="sb-cards-")
        cls.lines = tempfile.mkdtemp(prefix="sb-lines-")
        p.extra_agent["dev"] = {"directories": [{"name": "cards", "type": "card", "path": cls.folder, "format": "json", "poll": "200ms"},
                                                {"name": "metrics", "type": "metric", "path": cls.lines, "format": "jsonl", "key": "id", "poll": "200ms"}]}
        cls.p = p.__enter__()
        cls.addClassCleanup(lambda: p.__exit__(None, None, None))
        cls.addClassCleanup(lambda: [subprocess.run(["rm", "-rf", d], check=True) for d in (cls.folder, cls.lines)])
        p.psql("dev", sample_table("experiment") + sample_rows("experiment", 1, 20000) + SCORE_TABLE.format(name="score")
               + "INSERT INTO score SELECT g, 'metric ' || g % 7, g * 3, CASE WHEN g % 5 <> 0 THEN g / 7.0 END FROM generate_series(1, 3000) AS g;"
               + WIDE_TABLE.format(name="wide") + WIDE_ROWS.format(name="wide")
               + "CREATE TABLE person (id integer PRIMARY KEY, name text, iban text, note text);"
               + f"INSERT INTO person VALUES (1, '{OPEN_PLANTED} ann', 'DE-{PLANTED}-1', '{PLANTED}'), (2, 'bob', NULL, '{PLANTED}');"
               + "CREATE TABLE stray (id integer PRIMARY KEY, v text); INSERT INTO stray VALUES (1, 'nobody listed this');"
               + "CREATE TABLE empty (id integer PRIMARY KEY, v text);")
        p.psql("train", sample_table("experiment_copy") + sample_rows("experiment_copy", 1, 3))
        cls.write(cls.folder, "first.json", json.dumps({"title": "first", "tags": ["a", "é"], "size": 1.5}))
        cls.write(cls.lines, "m.jsonl", "".join(json.dumps({"id": f"m{i}", "value": i}) + "\n" for i in range(100)))
        p.start()
        # the agent looks for changes of tables now and then: the tests below come back to this one
        p.psql("dev", "CREATE TABLE late (id integer PRIMARY KEY, v text); INSERT INTO late VALUES (1, 'made after the agent started');")

    @staticmethod
    def write(folder, name, text):
        """As applications should: a reader never sees half a file."""
        with open(os.path.join(folder, "." + name), "w") as f:
            f.write(text)
        os.rename(os.path.join(folder, "." + name), os.path.join(folder, name))

    def view(self, what):
        return self.p.hub_sql(what)

    # -- what arrives -------------------------------------------------------------------------------------------------------------
    def test_01_snapshot(self):
        for name in ("experiment", "score", "wide"):
            self.p.await_same("dev", name, name, 60, "1, 2")
        until("all snapshots are complete", lambda: self.view(
            "SELECT count(*) FROM lifecycle.freshness WHERE stage = 'dev' AND type IN ('experiment', 'score', 'wide', 'person', 'empty') AND snapshot_state = 'done'") == "5")
        self.assertEqual(self.view("SELECT count(*) FROM dev.empty"), "0")

    def test_02_names_and_types_are_the_sources(self):
        query = ("SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = '{}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum")
        for name in ("experiment", "score", "wide"):
            self.p.await_same("dev", name, name, order="1, 2")
            self.assertEqual(self.view(query.format("dev." + name)), self.p.psql("dev", query.format("public." + name)))

    def test_03_stream(self):
        p = self.p
        p.psql("dev", sample_rows("experiment", 20001, 21000) + "UPDATE experiment SET status = 'done', score = NULL WHERE id % 11 = 0;"
               "DELETE FROM experiment WHERE id % 17 = 0;" + "UPDATE experiment SET id = id + 1000000 WHERE id BETWEEN 100 AND 150;")
        p.psql("dev", "BEGIN; INSERT INTO score VALUES (-1, 'kept', 1, 1); SAVEPOINT a; INSERT INTO score VALUES (-2, 'undone', 1, 1); ROLLBACK TO a; COMMIT;"
               "BEGIN; INSERT INTO score VALUES (-3, 'undone', 1, 1); ROLLBACK; UPDATE score SET metric = 'moved' WHERE run = 7; DELETE FROM score WHERE run = 8;")
        # the large value is not sent again by the source: it must stay as it is
        p.psql("dev", "UPDATE wide SET amount = 1 WHERE id::text LIKE '%1'; UPDATE wide SET big = repeat(md5('x'), 5000) WHERE id::text LIKE '%2';"
               "UPDATE wide SET id = '00000000-0000-0000-0000-00000000000a' WHERE id::text LIKE '%1'; UPDATE wide SET day = NULL WHERE id::text LIKE '%a';")
        for name in ("experiment", "score", "wide"):
            p.await_same("dev", name, name, order="1, 2")
        self.assertEqual(self.view("SELECT count(*) FROM dev.score WHERE metric IN ('undone')"), "0")
        self.assertEqual(self.view("SELECT length(big) FROM dev.wide WHERE id::text LIKE '%a'"), "200000")

    def test_04_truncate_and_swap(self):
        p = self.p
        p.psql("dev", "BEGIN; INSERT INTO score VALUES (9000, 'before', 1, 1); TRUNCATE score; INSERT INTO score VALUES (9001, 'after', 1, 1), (9002, 'after', 2, 2); COMMIT;")
        p.await_same("dev", "score", "score", order="1, 2")
        self.assertEqual(self.view("SELECT count(*) FROM dev.score"), "2")
        # two rows change places in one transaction, over a third key
        p.psql("dev", "BEGIN; UPDATE score SET run = 0 WHERE run = 9001; UPDATE score SET run = 9001 WHERE run = 9002; UPDATE score SET run = 9002 WHERE run = 0; COMMIT;")
        p.await_same("dev", "score", "score", order="1, 2")

    # -- what must not --------------------------------------------------------------------------------------------------------------
    def test_05_private_columns_never_leave(self):
        p = self.p
        p.psql("dev", f"UPDATE person SET iban = 'FR-{PLANTED}', name = name || ' {OPEN_PLANTED}'; INSERT INTO person VALUES (3, 'cid', '{PLANTED}', '{PLANTED}');"
               f"DELETE FROM person WHERE id = 2;")
        seen = "COPY (SELECT id, name FROM {} ORDER BY 1) TO STDOUT"
        until("dev.person equals what may leave of it", lambda: self.view(seen.format("dev.person")) == p.psql("dev", seen.format("person")))
        self.assertEqual(self.view("SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'dev.person'::regclass AND attnum > 0"), "id name")
        hidden, where = broker_holds(p, PLANTED, OPEN_PLANTED)
        self.assertEqual(hidden, set())
        dump = subprocess.run(["pg_dump", p.dsn_cached("hub_" + TENANT)], stdout=subprocess.PIPE, check=True, text=True).stdout
        self.assertNotIn(PLANTED, dump)
        # the scan can see: a text of the same kind in a column that may leave is found in files, in records and in the view
        self.assertIn(OPEN_PLANTED, dump)
        self.assertTrue(any(w.startswith("file ") for w in where), where)
        self.assertIn(f"records of sb.{TENANT}.dev.up.entity.v1", where)

    def test_06_only_owners_change_a_type(self):
        p = self.p
        until("train's experiments are refused", lambda: self.view(
            "SELECT count(*) FROM lifecycle.violation WHERE stage = 'train' AND type = 'experiment' AND owner = 'dev'") != "0", 60)
        p.psql("train", "UPDATE experiment_copy SET name = 'forged'; DELETE FROM experiment_copy WHERE id = 2;")
        until("dev's type that nobody listed is refused", lambda: self.view("SELECT count(*) FROM lifecycle.violation WHERE stage = 'dev' AND type = 'stray'") != "0", 60)
        self.assertEqual(self.view("SELECT to_regclass('dev.stray') IS NULL AND to_regclass('train.experiment') IS NULL"), "t")
        self.assertIn("stray", p.cli("get", "quarantine", "--stage", "dev").stdout)
        p.await_same("dev", "experiment", "experiment")
        self.assertEqual(self.view("SELECT count(*) FROM dev.experiment WHERE name = 'forged'"), "0")

    def test_07_read_only_copy(self):
        p = self.p
        for name in ("experiment", "score", "wide"):
            until(f"train's copy of {name} equals the source",
                  lambda name=name: p.rows("train", "replica." + name, "1, 2") == p.rows("dev", name, "1, 2"), 60, 0.2)
        p.psql("dev", "UPDATE experiment SET name = 'seen elsewhere' WHERE id = 5; DELETE FROM experiment WHERE id = 6;")
        until("a change reaches the copy", lambda: p.psql("train", "SELECT name FROM replica.experiment WHERE id = 5") == "seen elsewhere"
              and p.psql("train", "SELECT count(*) FROM replica.experiment WHERE id = 6") == "0")
        p.psql("train", "DO $$ BEGIN CREATE ROLE app LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;")
        as_app = "SET ROLE app; "
        self.assertEqual(p.psql("train", as_app + "SELECT name FROM replica.experiment WHERE id = 5"), "seen elsewhere")
        for attack in ("UPDATE replica.experiment SET name = 'x'", "DELETE FROM replica.experiment", "INSERT INTO replica.experiment (id) VALUES (-1)",
                       "TRUNCATE store.\"dev.experiment\"", "CREATE TABLE replica.mine (a integer)", "DROP VIEW replica.experiment", "SELECT * FROM store.down_stream"):
            with self.assertRaisesRegex(AssertionError, "permission denied|must be owner|does not exist", msg=attack):
                p.psql("train", as_app + attack)
        # what nobody subscribed to is not there
        self.assertEqual(p.psql("train", "SELECT to_regclass('replica.person') IS NULL"), "t")

    # -- files --------------------------------------------------------------------------------------------------------------------
    def expect_card(self, name, **fields):
        def there():
            rows = json.loads(self.view("SELECT coalesce(json_agg(c), '[]') FROM dev.card c"))
            return any(name in map(str, flat(r)) and all(has(r, k, v) for k, v in fields.items()) for r in rows)
        until(f"card {name} shows {fields}", there)

    def test_08_directory(self):
        self.expect_card("first", title="first", size=1.5)
        self.write(self.folder, "second.json", json.dumps({"title": "second", "nested": {"x": [1, 2]}}))
        self.expect_card("second", title="second")
        self.write(self.folder, "first.json", json.dumps({"title": "changed"}))
        self.expect_card("first", title="changed")
        os.unlink(os.path.join(self.folder, "first.json"))
        until("a removed file leaves the view", lambda: self.view("SELECT count(*) FROM dev.card") == "1")
        with open(os.path.join(self.folder, "torn.json"), "w") as f:
            f.write('{"title": "to')     # half a file: not published, and the rest goes on
        self.write(self.folder, "third.json", json.dumps({"title": "third"}))
        self.expect_card("third", title="third")
        self.assertEqual(self.view("SELECT count(*) FROM dev.card"), "2")
        os.unlink(os.path.join(self.folder, "torn.json"))

    def test_09_lines(self):
        until("all lines are there", lambda: self.view("SELECT count(*) FROM dev.metric") == "100")
        self.write(self.lines, "m.jsonl", "".join(json.dumps({"id": f"m{i}", "value": i * 2}) + "\n" for i in range(50, 120)))
        until("lines are added, changed and removed", lambda: self.view("SELECT count(*) FROM dev.metric") == "70")

    def test_10_table_made_later(self):
        p = self.p
        p.await_same("dev", "late", "late", 90)
        p.psql("dev", "ALTER TABLE late ADD COLUMN more integer DEFAULT 7; INSERT INTO late VALUES (2, 'two', 22);")

    # -- faults ---------------------------------------------------------------------------------------------------------------------
    def test_11_poison(self):
        p = self.p
        servers, topic = p.brokers["dev"], f"sb.{TENANT}.dev.up.entity.v1"
        before = int(self.view("SELECT coalesce(max(id), 0) FROM lifecycle.quarantine"))
        produce(servers, topic, b"garbage \x00\xff\xfe")
        produce(servers, topic, b'{"type":"experiment"}\n', [("ce_specversion", "1.0"), ("ce_type", "stagebridge.entity.changed.v1")])
        # forged: a real record's attributes, another content
        real = records(servers, topic, "%k\x1f%h\x1e").split("\x1e")
        key, headers = next(r for r in real if "entity/experiment" in r and "entity.changed" in r).split("\x1f")
        headers = [h.split("=", 1) for h in headers.split(",")]
        forged = (b'{"type":"experiment","incarnation":1,"columns":[["id","bigint",true],["name","text",false]]}\n["u","FFFFFFFF/0",1,["1","forged"]]\n')
        produce(servers, topic, forged, headers, key)
        # unsigned, but else in order
        produce(servers, topic, forged, [(n, v) for n, v in headers if n not in ("ce_sbsig", "ce_sbkid")], key)
        produce(servers, f"sb.{TENANT}.dev.up.event.v1", b"{}", headers, key)
        produce(servers, topic, b"x" * 700000)
        until("six records are set aside", lambda: int(self.view(f"SELECT count(*) FROM lifecycle.quarantine WHERE id > {before}")) >= 6)
        got = self.view(f"SELECT class || ' ' || reason FROM lifecycle.quarantine WHERE id > {before} ORDER BY id").splitlines()
        classes = sorted(r.split()[0] for r in got)
        self.assertEqual(classes, ["forge", "malf", "malf", "malf", "malf", "route"], got)
        self.assertTrue(all(len(r.split(" ", 1)[1]) > 5 for r in got), got)
        p.psql("dev", "UPDATE experiment SET name = 'after the poison' WHERE id = 1;")
        p.await_same("dev", "experiment", "experiment")
        self.assertEqual(self.view("SELECT name FROM dev.experiment WHERE id = 1"), "after the poison")

    def test_12_slot_lost(self):
        p = self.p
        incarnation = lambda: int(self.view("SELECT max(incarnation) FROM sb.stream WHERE stage = 'dev' AND source LIKE '%/entity/experiment'"))  # noqa: E731
        before = incarnation()
        p.agents["dev"].stop()
        until("the slot is free", lambda: p.psql("dev", "SELECT active FROM pg_replication_slots WHERE slot_name = 'stagebridge_dev'") == "f")
        p.psql("dev", "SELECT pg_drop_replication_slot('stagebridge_dev')")
        # while nobody listens: these are known to no stream, only a snapshot and its sweep can bring them
        p.psql("dev", "DELETE FROM experiment WHERE id % 19 = 0; UPDATE experiment SET notes = 'unheard' WHERE id % 23 = 0;" + sample_rows("experiment", 30001, 30100)
               + "TRUNCATE score; INSERT INTO score VALUES (1, 'alone', 1, 1); DELETE FROM wide WHERE amount IS NULL;")
        p.start_agent("dev")
        for name in ("experiment", "score", "wide"):
            p.await_same("dev", name, name, 90, "1, 2")
            until(f"train's copy of {name} equals the source",
                  lambda name=name: p.rows("train", "replica." + name, "1, 2") == p.rows("dev", name, "1, 2"), 60, 0.2)
        p.psql("dev", "UPDATE experiment SET attempts = attempts + 1 WHERE id < 100;")
        p.await_same("dev", "experiment", "experiment")
        self.assertGreater(incarnation(), before)
        p.await_same("dev", "late", "late", 60)      # a column with a default came to rows that did not change
        p.psql("dev", "ALTER TABLE late DROP COLUMN v; UPDATE late SET more = more + 1;")

    def test_13_records_lost_on_the_broker(self):
        p = self.p
        p.await_same("dev", "experiment", "experiment")
        p.hub.stop()
        p.psql("dev", "DELETE FROM experiment WHERE id % 29 = 0; UPDATE experiment SET notes = 'lost on the way' WHERE id % 31 = 0;")
        topic = f"sb.{TENANT}.dev.up.entity.v1"
        sent = lambda: p.psql("dev", "SELECT confirmed_flush_lsn >= '" + at + "' FROM pg_replication_slots WHERE slot_name = 'stagebridge_dev'") == "t"  # noqa: E731
        at = p.psql("dev", "SELECT pg_current_wal_lsn()")
        until("the agent has handed over its changes", sent, 60)
        drop_records(p, "dev", topic)
        p.psql("dev", "UPDATE experiment SET attempts = 77 WHERE id = 3;")
        p.types.append(owned("stray"))      # what was refused until now is asked for again
        p._write("hub.yaml", p.hub_settings())
        p.start_hub()
        until("the hub orders a resync", lambda: "resync_ordered" in p.hub.text(), 60)
        p.await_same("dev", "experiment", "experiment", 90)
        self.assertNotEqual(self.view("SELECT count(*) FROM lifecycle.quarantine WHERE class = 'gap' AND topic = '" + topic + "'"), "0")
        p.await_same("dev", "stray", "stray", 60)
        until("no gap is open", lambda: self.view("SELECT count(*) FROM lifecycle.freshness WHERE gap_at IS NOT NULL AND stage = 'dev' AND type = 'experiment'") == "0", 60)

    def test_14_frozen_hub_commits_nothing(self):
        p = self.p
        p.await_same("dev", "experiment", "experiment")
        settings = p.hub_settings()
        settings["state_dir"] = p.path("hub2")
        settings["http"]["port"] = 0
        second = Process("hub2", [*p.hub.argv[:2], p._write("hub2.yaml", settings)], p.path("hub2.log"))
        self.addCleanup(second.kill)
        second.start()
        leader = lambda: p.hub_sql("SELECT holder FROM sb.lease")  # noqa: E731
        holds = lambda pid: leader().split("/")[1] == str(pid)  # noqa: E731
        until("the second hub runs", lambda: "hub_started" in second.text())
        self.assertTrue(holds(p.hub.child.pid), leader())
        p.psql("dev", "UPDATE experiment SET attempts = 1 WHERE id % 2 = 0;")
        p.hub.freeze()
        self.addCleanup(p.hub.thaw)
        p.psql("dev", "UPDATE experiment SET attempts = 2 WHERE id % 3 = 0; DELETE FROM experiment WHERE id % 37 = 0;")
        until("the second hub leads", lambda: holds(second.child.pid), 90)
        p.await_same("dev", "experiment", "experiment", 60)
        p.psql("dev", "UPDATE experiment SET attempts = 3 WHERE id % 5 = 0;")
        p.await_same("dev", "experiment", "experiment")
        places = "SELECT consumer || ' ' || topic, next_offset FROM sb.position ORDER BY 1"
        before = dict(line.split("\t") for line in p.hub_sql(places).splitlines())
        p.hub.thaw()
        until("the woken hub sees that it was replaced", lambda: "was taken over" in p.hub.text() or "standing by" in p.hub.text(), 60)
        after = dict(line.split("\t") for line in p.hub_sql(places).splitlines())
        self.assertTrue(all(int(after[k]) >= int(v) for k, v in before.items()), (before, after))
        p.psql("dev", "UPDATE experiment SET attempts = 4 WHERE id % 7 = 0;")
        p.await_same("dev", "experiment", "experiment")
        self.assertTrue(holds(second.child.pid), leader())
        # the other way: a kill is noticed at once, and nothing is applied twice or lost
        second.kill()
        p.psql("dev", "UPDATE experiment SET attempts = 5 WHERE id % 11 = 0;")
        p.await_same("dev", "experiment", "experiment", 60)
        until("the first hub leads again", lambda: holds(p.hub.child.pid))

    def test_15_nothing_is_left_over(self):
        p = self.p
        p.await_same("dev", "late", "late", 60)      # a column was dropped meanwhile
        self.assertEqual(self.view("SELECT count(*) FROM lifecycle.audit_broken"), "0")
        self.assertEqual(self.view("SELECT DISTINCT class FROM lifecycle.quarantine WHERE class NOT IN ('not-owned', 'forge', 'malf', 'route', 'gap')"), "")
        until("the stages are live and complete", lambda: self.view(
            "SELECT bool_and(status = 'LIVE' AND NOT behind) FROM lifecycle.stages") == "t", 60)
        for log in glob.glob(p.path("*.log")):
            with open(log, errors="replace") as f:
                self.assertNotIn(PLANTED, f.read(), log)


def flat(value):
    if isinstance(value, dict):
        for v in value.values():
            yield from flat(v)
    elif isinstance(value, list):
        for v in value:
            yield from flat(v)
    else:
        yield value


def has(row, key, value):
    """A field of a document: as a column, or within a column that holds the document."""
    if key in row and row[key] == value:
        return True
    return any(isinstance(v, dict) and has(v, key, value) for v in row.values())


def drop_records(platform, stage, topic):
    """Removes all records that the topic holds now, as retention would."""
    lib = service("kafka", "install")
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        json.dump({"partitions": [{"topic": topic, "partition": 0, "offset": -1}], "version": 1}, f)
        f.flush()
        subprocess.run(["java", "-Xmx128m", "-cp", lib + "/lib/*", "org.apache.kafka.tools.DeleteRecordsCommand", "--bootstrap-server", platform.brokers[stage],
                        "--offset-json-file", f.name], check=True, timeout=60, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    unittest.main()
