"""The breadth of what a stage may be, end to end: three databases of one agent, several schemas, every type of column, DDL that no row follows, a table that is
configured later, and events of applications; from the tables into the sync view and into another stage's copies, against real Kafka and PostgreSQL."""
import json
import os
import threading
import unittest

from compare import Comparison, await_equal
from harness import ROOT, TENANT, Platform, service, until
from test_entities import owned, table

HUB = "hub_" + TENANT
SUPPORT = os.path.join(ROOT, "tests", "support")
ITEM = "CREATE TABLE {0} (id integer PRIMARY KEY, n integer, note text); INSERT INTO {0} SELECT g, 0, 'row ' || g FROM generate_series(1, 50) AS g;"
OUTBOX = ("CREATE TABLE outbox (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text NOT NULL, aggregateid text NOT NULL, type text NOT NULL, payload jsonb);")
# type -> (database, table)
ITEMS = {"item": ("dev", "public.item"), "stock-item": ("dev", "stock.item"), "shop-item": ("shop", "public.item"), "sales-item": ("shop", "sales.item"),
         "book": ("books", "public.item")}
SOURCE = {"item": "app", "stock-item": "app", "every": "app", "shop-item": "shop", "sales-item": "shop", "shop-event": "shop", "book": "books"}
TYPES_OF = ("SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = '{}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum")


def column_types():
    """[(type, whether it is the same elsewhere, rows of an INSERT)] of the table that the component tests use too."""
    with open(os.path.join(SUPPORT, "column_types.tsv"), encoding="utf-8") as f:
        lines = [line.rstrip("\n").split("\t") for line in f if not line.startswith("#")]
    return [(type_, same == "same", values) for type_, same, values in lines]


def everywhere(p, type_, db, name):
    """The table against its view and against its copy."""
    setting = {"table": name, "type": type_}
    return [Comparison(p, db, setting, HUB, f'dev."{type_}"'), Comparison(p, db, setting, "train", f'replica."{type_}"')]


class Application(threading.Thread):
    """Writes to both databases in turn until told to stop; `down` names one that it cannot reach now."""

    def __init__(self, p):
        super().__init__(daemon=True)
        self.p, self.down, self.error, self.rounds = p, None, None, 0
        self.end = threading.Event()

    def write(self, db, name, n):
        self.p.psql(db, f"UPDATE {name} SET n = {n} WHERE id <= 5; INSERT INTO {name} VALUES ({1000 + n}, {n}, 'new'); DELETE FROM {name} WHERE id = {1000 + n - 3};")

    def run(self):
        try:
            while not self.end.is_set():
                self.rounds += 1
                for db, name in (("dev", "public.item"), ("shop", "public.item")):
                    if self.down != db:
                        self.write(db, name, self.rounds)
        except Exception as e:  # noqa: BLE001 - told to the test
            self.error = e

    def finish(self):
        self.end.set()
        self.join()
        if self.error:
            raise self.error


class Breadth(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        p = Platform(
            stages=["dev", "train"], origins=(), replicas=["train"],
            sources={"dev": [table("item"), {"table": "stock.item", "type": "stock-item"}, {"table": "app.every", "type": "every"}]},
            databases={"shop": {"stage": "dev", "tables": [table("item", "shop-item"), {"table": "sales.item", "type": "sales-item"}],
                                "outbox": {"type": "shop-event", "table": "public.outbox"}},
                       "books": {"stage": "dev", "apart": False, "tables": [table("item", "book")]}},
            types=[owned(t, subscribers=["train"]) for t in [*SOURCE, "later", "book-left"]])
        cls.p = p.__enter__()
        cls.addClassCleanup(lambda: p.__exit__(None, None, None))
        cls.columns = column_types()
        with open(os.path.join(SUPPORT, "column_types.sql"), encoding="utf-8") as f:
            p.psql("dev", "CREATE SCHEMA stock;" + ITEM.format("public.item") + ITEM.format("stock.item") + f.read() + "CREATE TABLE app.every (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
                   + ", ".join(f"c{i} {c[0]}" for i, c in enumerate(cls.columns)) + ", n int);" + cls.every_value())
        p.psql("shop", "CREATE SCHEMA sales;" + ITEM.format("public.item") + ITEM.format("sales.item") + OUTBOX)
        p.psql("books", ITEM.format("public.item"))
        p.start()

    @classmethod
    def every_value(cls):
        return "".join(f"INSERT INTO app.every (c{i}) VALUES {c[2]};" for i, c in enumerate(cls.columns))

    def view(self, what):
        return self.p.hub_sql(what)

    def application(self):
        a = Application(self.p)
        a.start()
        self.addCleanup(a.end.set)
        return a

    def items_equal(self, seconds=60):
        await_equal([c for t, (db, name) in ITEMS.items() for c in everywhere(self.p, t, db, name)], seconds)

    # -- every type of column -----------------------------------------------------------------------------------------------------
    def await_every(self, what):
        p = self.p
        there = lambda: p.rows("dev", "app.every")  # noqa: E731
        until(f"view equals table after {what}", lambda: p.rows(HUB, "dev.every") == there(), 60, 0.3)
        until(f"copy equals table after {what}", lambda: p.rows("train", "replica.every") == there(), 60, 0.3)

    def test_1_every_type(self):
        p = self.p
        self.await_every("the snapshot")
        types = [dict(line.split("\t") for line in p.psql(db, TYPES_OF.format(name)).splitlines())
                 for db, name in (("dev", "app.every"), (HUB, "dev.every"), ("train", "replica.every"))]
        self.assertEqual(list(types[0]), list(types[1]))
        self.assertEqual(types[1], types[2])
        same = [f"c{i}" for i, c in enumerate(self.columns) if c[1]]
        self.assertGreater(len(same), 60)
        self.assertEqual([types[0][c] for c in same], [types[1][c] for c in same])
        p.psql("dev", self.every_value())
        self.await_every("the same as changes")
        p.psql("dev", "UPDATE app.every SET n = id; DELETE FROM app.every WHERE id % 7 = 0;")   # large values are not sent again
        self.await_every("updates")

    # -- several databases ----------------------------------------------------------------------------------------------------------
    def sources(self):
        rows = self.view("SELECT source, state, array_to_string(ARRAY(SELECT unnest(types) ORDER BY 1), ' ') FROM lifecycle.source WHERE stage = 'dev' AND kind = 'postgres' ORDER BY 1")
        return {name: (state, types) for name, state, types in (line.split("\t") for line in rows.splitlines())}

    def as_of(self, type_):
        return self.view(f"SELECT ('0/0'::pg_lsn + ('x' || lpad(split_part(as_of, '.', 1), 16, '0'))::bit(64)::bigint) FROM lifecycle.freshness WHERE stage = 'dev' AND type = '{type_}'")

    def is_within(self, type_, first, last):
        return self.view(f"SELECT '{self.as_of(type_)}'::pg_lsn BETWEEN '{first}' AND '{last}'") == "t"

    def test_2_three_databases(self):
        p = self.p
        # no row follows these: looked for in test_3
        p.psql("dev", "ALTER TABLE stock.item ADD COLUMN extra numeric(6,2) DEFAULT 7.5; ALTER TABLE stock.item DROP COLUMN note;"
               "COMMENT ON TABLE stock.item IS 'what lies in the store'; COMMENT ON COLUMN stock.item.n IS 'how many';")
        p.psql("shop", "ALTER TABLE sales.item ADD COLUMN sold_at timestamptz; COMMENT ON COLUMN sales.item.sold_at IS 'when';")
        a = self.application()
        until("all sources are told of", lambda: self.sources() == {
            "app": ("streaming", "every item stock-item"), "books": ("streaming", "book"), "shop": ("streaming", "sales-item shop-event shop-item")})
        for type_, source in SOURCE.items():
            self.assertEqual(self.view(f"SELECT source FROM lifecycle.freshness WHERE stage = 'dev' AND type = '{type_}'"), source)
        for type_ in ("item", "shop-item"):     # each by the positions of its own server
            db = ITEMS[type_][0]
            first = p.psql(db, "SELECT pg_current_wal_lsn()")
            until(f"{type_} is as of its own server", lambda: self.is_within(type_, first, p.psql(db, "SELECT pg_current_wal_insert_lsn()")))  # noqa: B023 - called at once
        self.one_away(a)
        a.finish()
        p.psql("books", "UPDATE item SET n = id; DELETE FROM item WHERE id = 4;")
        self.items_equal()

    def one_away(self, a):
        """The server of one database is stopped under the application and started again."""
        p = self.p
        a.down = "shop"
        seen = a.rounds
        until("the application has left it", lambda: a.rounds > seen + 1)
        service("postgres", "stop", p.cluster("shop"))
        until("the hub says that it is away", lambda: self.sources()["shop"][0] in ("down", "starting"))
        until("what comes from it is not called fresh", lambda: self.view(
            "SELECT count(*) FROM lifecycle.freshness WHERE stage = 'dev' AND source = 'shop' AND source_state IN ('down', 'starting')") == "3")
        self.assertEqual(self.sources()["app"][0], "streaming")
        p.agents["dev"].stop()      # an agent that never reached it in its life says the same
        p.start_agent("dev")
        until("all are told of again", lambda: self.sources().get("shop", ("",))[0] in ("down", "starting") and self.sources()["app"][0] == "streaming")
        self.assertEqual(self.view("SELECT source FROM lifecycle.freshness WHERE stage = 'dev' AND type = 'sales-item'"), "shop")
        before, others = a.rounds, self.as_of("shop-item")
        for _ in range(3):
            n = a.rounds + 1
            until("the other database's changes come", lambda: int(self.view("SELECT max(n) FROM dev.item")) >= n, 10)  # noqa: B023 - called at once
        self.assertGreater(a.rounds, before + 2)
        self.assertEqual(self.as_of("shop-item"), others)
        self.assertEqual(self.view("SELECT count(*) FROM lifecycle.freshness WHERE stage = 'dev' AND type = 'item' AND source_state = 'streaming' AND as_of_seconds < 10"), "1")
        service("postgres", "start", p.cluster("shop"))
        a.down = None
        n = a.rounds + 1
        until("its changes come again", lambda: int(self.view("SELECT max(n) FROM dev.\"shop-item\"")) >= n, 60)
        until("all stream", lambda: {s for s, _ in self.sources().values()} == {"streaming"})

    # -- DDL ------------------------------------------------------------------------------------------------------------------------
    def comments(self, db, relation, column):
        return self.p.psql(db, f"SELECT obj_description(c.oid), col_description(c.oid, a.attnum) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = '{column}'"
                               f" WHERE c.oid = '{relation}'::regclass")

    def test_3_ddl_without_rows(self):
        p = self.p
        self.items_equal(90)    # columns too
        for db, schema in ((HUB, "dev"), ("train", "replica")):
            relation = schema + '."stock-item"'
            self.assertEqual(p.psql(db, f"SELECT DISTINCT extra FROM {relation}"), "7.50")
            until(f"{relation} has the source's comments", lambda: self.comments(db, relation, "n") == "what lies in the store\thow many", 60)  # noqa: B023 - called at once
            until("a new column has its comment", lambda: self.comments(db, schema + '."sales-item"', "sold_at").endswith("\twhen"), 60)  # noqa: B023 - called at once

    # -- events of applications -----------------------------------------------------------------------------------------------------
    def emit(self, first, last):
        """Events first..last, one a transaction, by table and by message in turn, each with the row that it tells of."""
        sql = [f"SELECT pg_logical_emit_message(true, 'stagebridge.outbox', '{{\"id\": \"bad {first}\", \"aggregatetype\": \"item\"}}');"]
        for n in range(first, last + 1):
            event = {"id": f"m{n}", "aggregatetype": "item", "aggregateid": n, "type": "Sold", "payload": {"n": n, "price": 0.5}}
            text = json.dumps(event).replace("'", "''")
            told = (f"INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('item', '{n}', 'Sold', '{{\"n\": {n}, \"price\": 0.5}}'); DELETE FROM outbox;" if n % 2
                    else f"SELECT pg_logical_emit_message(true, 'stagebridge.outbox', '{text}');")
            sql.append(f"BEGIN; UPDATE public.item SET n = {n} WHERE id = 1; {told} COMMIT;")
        self.p.psql("shop", "".join(sql))

    def events(self, db, relation):
        """Numbers of the events in the order of their commits. At every moment they are all from the first to the newest."""
        got = [int(n) for n in self.p.psql(db, f"SELECT aggregateid FROM {relation} ORDER BY at, id").splitlines()]
        self.assertEqual(sorted(got), list(range(1, len(got) + 1)), relation)
        return got

    def await_events(self, least):
        """Waits until so many are in the view and in the copy; returns how many the copy has."""
        for db, relation in ((HUB, 'dev."shop-event"'), ("train", 'replica."shop-event"')):
            got = until(f"{least} events in {relation}", lambda: (lambda got: len(got) >= least and got)(self.events(db, relation)), 60)  # noqa: B023 - called at once
            self.assertEqual(got, sorted(got), relation)
        return len(got)

    def emit_until(self, end, told):
        while not end.is_set():
            self.emit(told[0] + 1, told[0] + 10)
            told[0] += 10

    def test_4_outbox(self):
        p = self.p
        end, told = threading.Event(), [0]
        self.addCleanup(end.set)
        emitter = threading.Thread(target=self.emit_until, args=(end, told), daemon=True)
        emitter.start()
        for dead in (["dev"], ["hub"], ["train"], ["hub", "dev"]):
            n = self.await_events(1)
            for name in dead:
                (p.hub if name == "hub" else p.agents[name]).kill()
            for name in dead:
                p.start_hub() if name == "hub" else p.start_agent(name)
            self.await_events(n + 1)
        self.assertTrue(emitter.is_alive(), "the application failed")
        end.set()
        emitter.join()
        self.assertGreater(told[0], 50)
        self.assertEqual(self.await_events(told[0]), told[0])
        self.assertEqual(self.view("SELECT DISTINCT payload->>'price' FROM dev.\"shop-event\""), "0.5")
        self.assertEqual(self.view("SELECT count(*) FROM dev.\"shop-event\" WHERE payload->>'n' <> aggregateid OR type <> 'Sold'"), "0")
        self.assertRegex(p.agents["dev"].text(), "event_withheld .*type=shop-event")
        p.psql("shop", "SELECT pg_logical_emit_message(true, 'stagebridge.outbox', 'no event');")
        until("the hub says that something was withheld", lambda: {n: s for n, (s, _) in self.sources().items()} == {"app": "streaming", "books": "streaming", "shop": "withheld row"})
        self.assertEqual(p.psql("shop", "SELECT count(*) FROM outbox"), "0")
        self.items_equal()

    # -- a table that is configured later ------------------------------------------------------------------------------------------------
    def test_5_table_configured_later(self):
        p = self.p
        snapshots = lambda: self.view("SELECT type, snapshot_at FROM lifecycle.freshness WHERE stage = 'dev' AND type <> 'later' ORDER BY 1")  # noqa: E731
        before = snapshots()
        p.psql("shop", "CREATE TABLE sales.later (id integer PRIMARY KEY, v text); INSERT INTO sales.later SELECT g, md5(g::text) FROM generate_series(1, 30000) AS g;")
        a = self.application()
        p.databases["shop"]["tables"].append({"table": "sales.later", "type": "later"})
        p._write("agent-dev.yaml", p.agent_settings("dev"))
        p.agents["dev"].stop()
        p.start_agent("dev")
        until("rows of the new table come", lambda: self.view("SELECT snapshot_state FROM lifecycle.freshness WHERE stage = 'dev' AND type = 'later'") in ("running", "done"), 60)
        n = a.rounds + 1
        until("the others go on", lambda: min(int(self.view(f'SELECT max(n) FROM dev."{t}"')) for t in ("item", "shop-item")) >= n, 30)
        p.psql("shop", "UPDATE sales.later SET v = 'changed' WHERE id % 1000 = 0; DELETE FROM sales.later WHERE id % 1001 = 0;")
        until("its snapshot is done", lambda: self.view("SELECT snapshot_state FROM lifecycle.freshness WHERE stage = 'dev' AND type = 'later'") == "done", 60)
        a.finish()
        await_equal(everywhere(p, "later", "shop", "sales.later"), 60)
        self.items_equal()
        self.assertEqual(snapshots(), before)
        self.assertEqual(self.view("SELECT class || ' ' || reason FROM lifecycle.quarantine"), "")

    def test_6_type_from_another_database(self):
        """A type's table moves to another server, whose positions are lower."""
        p = self.p
        p.psql("shop", "CREATE TABLE sales.book (id integer PRIMARY KEY, n integer, note text); INSERT INTO sales.book SELECT g, -1, 'moved ' || g FROM generate_series(10, 70) AS g;")
        lower = p.psql("shop", "SELECT pg_current_wal_lsn()")
        self.assertEqual(self.view(f"SELECT '{self.as_of('book')}'::pg_lsn > '{lower}'"), "t")
        p.databases["books"]["tables"] = [table("item", "book-left")]
        p.databases["shop"]["tables"].append({"table": "sales.book", "type": "book"})
        p._write("agent-dev.yaml", p.agent_settings("dev"))
        p.agents["dev"].stop()
        p.start_agent("dev")
        await_equal(everywhere(p, "book", "shop", "sales.book"), 60)
        p.psql("shop", "UPDATE sales.book SET n = id; DELETE FROM sales.book WHERE id % 5 = 0;")
        await_equal(everywhere(p, "book", "shop", "sales.book"), 60)


if __name__ == "__main__":
    unittest.main()
