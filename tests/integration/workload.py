"""Random work on a stage's tables, made from a seed: what applications do to rows (Writer) and to tables (Changer). Every statement may fail, for a lock, a
conflict or a server that is away: what the source holds in the end is what counts. Neither class knows who follows the tables."""
import random
import subprocess
import threading
import time

from tables import WIDE_ROWS, WIDE_TABLE

BIG = "repeat(md5(({0})::text), {1})"      # EXTERNAL columns keep it out of the row: an update that leaves it alone does not send it again
MONTHS = range(1, 7)
GUARD = "SET statement_timeout = '20s'; SET lock_timeout = '3s'; SET client_min_messages = error;\n"


class Table:
    """A table to work on. `key`: declared key, where it has no primary one. `private`: columns that stay. `public`:
    columns that may go to earlier stages too. `moves`: [(weight, function of random -> SQL)]."""

    def __init__(self, name, create, moves, type_=None, key=(), private=(), extras=True, public=()):
        self.name, self.create, self.moves, self.type = name, create, moves, type_ or name
        self.key, self.private, self.extras, self.public = list(key), list(private), extras, list(public)

    def setting(self):
        out = {"table": self.name if "." in self.name else "public." + self.name, "type": self.type}
        return {**out, **({"key": self.key} if self.key else {}), **({"private": self.private} if self.private else {}), **({"public": self.public, "down": True} if self.public else {})}

    def statement(self, r):
        if self.extras and r.random() < 0.12:
            return touch(self.name, r)
        return r.choices([m[1] for m in self.moves], [m[0] for m in self.moves])[0](r)


def touch(name, r):
    """A change of one of the columns that come and go, x1, x2 ...; their values are digits, whatever their type is by now."""
    literal = name.replace("'", "''")
    return (f"DO $do$ DECLARE c text; BEGIN SELECT quote_ident(attname) INTO c FROM pg_attribute WHERE attrelid = '{literal}'::regclass AND attname ~ '^x[0-9]+$'"
            f" AND NOT attisdropped ORDER BY md5(attname || '{r.randrange(99)}') LIMIT 1; IF c IS NOT NULL THEN"
            f" EXECUTE 'UPDATE {literal} SET ' || c || ' = ''{r.randrange(900)}'' WHERE abs(hashtext(ctid::text)) % {r.choice((1, 3, 40))} = 0'; END IF; END $do$;")


def span(r, most=400):
    k = r.randrange(most)
    return k, k + r.choice((0, 0, 1, 3, 10, 60))


# -- rows by table ----------------------------------------------------------------------------------------------------------------
def item_rows(a, b, n):
    return (f"SELECT g, 'item ' || g, {n}, (g * 7919 % 1000)::numeric / 7, CASE WHEN g % 4 = 0 THEN {BIG.format('g', 200)} END, jsonb_build_object('n', g),"
            f" '2026-01-01 00:00:00+00'::timestamptz + g * interval '1 s', g % 3 = 0 FROM generate_series({a}, {b}) AS g")


def item(name):
    cols = "(id, name, n, price, body, doc, at, flag)"

    def insert(r):
        a, b = span(r)
        return f"INSERT INTO {name} {cols} {item_rows(a, b, r.randrange(99))} ON CONFLICT (id) DO NOTHING;"

    def upsert(r):
        a, b = span(r)
        keep = r.choice(("body = excluded.body", "name = excluded.name || '!'", "price = NULL"))
        return f"INSERT INTO {name} {cols} {item_rows(a, b, r.randrange(99))} ON CONFLICT (id) DO UPDATE SET n = {name}.n + 1, {keep};"

    def update(r):
        a, b = span(r)
        what = r.choice(("n = n + 1", "flag = NOT flag", "doc = doc || '{\"k\": \"\\u00e9\\n\"}'", "name = E'tab\\t\\\\ line\\n' || n", "at = 'infinity'", "price = 'NaN'", "body = NULL",
                         f"body = {BIG.format(r.randrange(99), r.randrange(1, 900))}", "name = NULL", "doc = NULL"))
        return f"UPDATE {name} SET {what} WHERE id BETWEEN {a} AND {b};"

    def move(r):
        a, b = span(r)
        return f"UPDATE {name} SET id = {r.choice(('-id', 'id + 100000', 'id - 100000'))} WHERE id BETWEEN {r.choice((a, -b, a + 100000))} AND {r.choice((b, -a, b + 100000))};"

    def swap(r):
        a, b = r.randrange(400), r.randrange(400)
        return f"UPDATE {name} SET id = 987654 WHERE id = {a}; UPDATE {name} SET id = {a} WHERE id = {b}; UPDATE {name} SET id = {b} WHERE id = 987654;"

    def delete(r):
        a, b = span(r)
        return f"DELETE FROM {name} WHERE id BETWEEN {a} AND {b};"

    def again(r):
        a = r.randrange(400)
        return (f"DELETE FROM {name} WHERE id = {a}; INSERT INTO {name} {cols} {item_rows(a, a, 1)}; UPDATE {name} SET n = n + 1 WHERE id = {a};"
                f"UPDATE {name} SET body = {BIG.format(a, 500)} WHERE id = {a}; UPDATE {name} SET n = n + 1, id = {a} + 200000 WHERE id = {a}; DELETE FROM {name} WHERE id = {a} + 200000;"
                + (f"INSERT INTO {name} {cols} {item_rows(a, a, 2)};" if r.random() < 0.6 else ""))

    def copy(r):
        a = r.randrange(400, 5000)
        lines = "".join(f"{a + i}\tcopied \\\\ {i}\t{i}\t\\N\n" for i in range(r.choice((1, 20, 200))))
        return f"COPY {name} (id, name, n, body) FROM STDIN;\n{lines}\\.\n"

    def merge(r):
        a, b = span(r)
        return (f"MERGE INTO {name} t USING generate_series({a}, {b}) g ON t.id = g WHEN MATCHED AND g % 3 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET n = t.n * 2 % 1000"
                f" WHEN NOT MATCHED THEN INSERT (id, name, n) VALUES (g, 'merged', 0);")

    def large(r):
        n = r.choice((3000, 20000))
        return f"INSERT INTO {name} (id, name, n) SELECT g, 'many', 0 FROM generate_series(1000000, {1000000 + n}) g ON CONFLICT (id) DO UPDATE SET n = {name}.n + 1;"

    return [(6, insert), (5, upsert), (12, update), (4, move), (2, swap), (4, delete), (3, again), (2, copy), (2, merge), (0.3, large),
            (1, lambda r: f"DELETE FROM {name} WHERE id >= 1000000;"), (0.4, lambda r: f"TRUNCATE {name};"), (0.5, lambda r: f"DELETE FROM {name}; {insert(r)}")]


def keyed(name, keys, number, text="v", body="body"):
    """Moves of a table whose key is some columns; `number`: one of them, of a number type. They have a text and a large column beside them."""
    first = {k: f"'k' || g % 17" for k in keys} | {number: "g"}
    names, values = ", ".join([*keys, text, body]), ", ".join([*first.values(), "'v' || g", BIG.format("g", 150)])
    few = ", ".join([*first.values(), "'many'", "NULL"])

    def insert(r):
        a, b = span(r)
        return f"INSERT INTO {name} ({names}) SELECT {values} FROM generate_series({a}, {b}) g ON CONFLICT DO NOTHING;"

    def upsert(r):
        a, b = span(r)
        return f"INSERT INTO {name} AS t ({names}) SELECT {values} FROM generate_series({a}, {b}) g ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {text} = coalesce(t.{text}, '') || '+';"

    def where(r):
        a, b = span(r)
        return f"{number} BETWEEN {a} AND {b}"

    return [(6, insert), (4, upsert), (8, lambda r: f"UPDATE {name} SET {text} = '{r.randrange(999)}' WHERE {where(r)};"),
            (2, lambda r: f"UPDATE {name} SET {body} = {r.choice(('NULL', BIG.format(r.randrange(99), r.randrange(1, 900))))} WHERE {where(r)};"),
            (5, lambda r: f"UPDATE {name} SET {number} = {number} {r.choice(('+ 10000', '- 10000'))}, {text} = 'moved' WHERE {number} BETWEEN {r.choice((0, 10000))} AND {r.choice((300, 10100))};"),
            (4, lambda r: f"DELETE FROM {name} WHERE {where(r)};"), (0.4, lambda r: f"TRUNCATE {name};"), (0.6, lambda r: f"DELETE FROM {name}; {insert(r)}"),
            (0.3, lambda r: f"INSERT INTO {name} ({names}) SELECT {few} FROM generate_series(50000, 65000) g ON CONFLICT DO NOTHING;"),
            (0.6, lambda r: f"DELETE FROM {name} WHERE {number} >= 50000;")]


def event(name):
    day = "('2026-01-01'::date + (g * 7 % 180)::int)"

    def insert(r):
        a, b = span(r)
        return f"INSERT INTO {name} (day, id, v, body) SELECT {day}, g, 'v' || g, {BIG.format('g', 150)} FROM generate_series({a}, {b}) g ON CONFLICT DO NOTHING;"

    def where(r):
        a, b = span(r)
        return f"id BETWEEN {a} AND {b}"

    return [(8, insert), (8, lambda r: f"UPDATE {name} SET v = '{r.randrange(999)}' WHERE {where(r)};"), (4, lambda r: f"DELETE FROM {name} WHERE {where(r)};"),
            (5, lambda r: f"UPDATE {name} SET day = '2026-01-01'::date + (day - '2026-01-01'::date + {r.choice((31, 60, 5))}) % 180 WHERE {where(r)};"),  # to another partition
            (2, lambda r: f"UPDATE {name} SET body = {BIG.format(r.randrange(99), 300)} WHERE {where(r)};"), (0.3, lambda r: f"TRUNCATE {name};")]


WIDE_VALUES = ["amount = 'NaN'", "amount = 1e-30", "price = NULL", "at = '-infinity'", "at = '0001-01-01 00:00:00+00 BC'", "day = '5874897-12-31'", "clock = '24:00'", "span = '-178000000 years'",
               "doc = '{\"\\u00fc\": [1e400, -0.0]}'", "raw = ' {\"a\" :\"\\u0000\"} '", "bin = decode(repeat('00ff', 4000), 'hex')", "tags = '{NULL,\"NULL\",\"\",\"a\\\\\"b\"}'", "grid = '[2:3][0:1]={{1,2},{3,4}}'",
               "flag = NOT flag", "small = -32768", "real4 = 'NaN'", "real4 = 1e-45", "net = '::ffff:1.2.3.4/120'", "range = '(,)'", "big = NULL", "big = repeat(md5(random()::text), 3000)", "\"Odd Name\" = ''", "\"üñï\" = E'\\x01\\x7f\\u2028'"]
WIDE = [(8, lambda r: f"UPDATE wide SET {r.choice(WIDE_VALUES)} WHERE id::text LIKE '%{r.randrange(1, 5)}';"),
        (1, lambda r: f"UPDATE wide SET id = gen_random_uuid() WHERE id::text LIKE '%{r.randrange(1, 5)}';"),
        (1, lambda r: WIDE_ROWS.format(name="wide").strip().rstrip(";") + " ON CONFLICT DO NOTHING;"), (1, lambda r: f"DELETE FROM wide WHERE id::text LIKE '%{r.randrange(1, 9)}';")]

KINDS_TABLE = """CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s "fine"'); CREATE DOMAIN positive AS integer CHECK (VALUE > 0); CREATE TYPE spot AS (x integer, y text);
CREATE TABLE kinds (id integer PRIMARY KEY, mood mood, moods mood[], pos positive, spot spot, twice integer GENERATED ALWAYS AS (id * 2) STORED, bits bit(5), vbits varbit, tz timetz,
	stamp timestamp(3), multi int4multirange, trange tstzrange, vec tsvector, pt point, poly polygon, mac macaddr8, c5 char(5), nm name, ch "char", nums numeric(10,2)[], bins bytea[], stamps timestamptz[],
	ivs interval[], lsn pg_lsn, path jsonpath, docs jsonb[], x xml, cash money, o oid, seq serial, ident integer GENERATED BY DEFAULT AS IDENTITY);"""
KINDS_VALUES = ["mood = 'sad'", "mood = NULL", "moods = '{sad,NULL,\"it''s \\\\\"fine\\\\\"\"}'", "moods = '{}'", "pos = id", "spot = ROW(1, E'a,\\\\\"b')", "spot = ROW(NULL, '')", "bits = B'10101'", "vbits = B''", "tz = '04:05:06.789-8'",
                "stamp = '2026-02-28 23:59:59.9999'", "multi = '{[1,3),[5,9)}'", "trange = '[2026-01-01,infinity)'", "vec = to_tsvector('simple', 'a fat cat''s')", "pt = '(1e-300,-0)'", "poly = '((0,0),(1,1),(1,0))'", "mac = '08:00:2b:01:02:03:04:05'",
                "c5 = 'a'", "nm = repeat('é', 40)::name", "ch = E'\\\\001'", "nums = '{1.10,NULL,NaN}'", "bins = ARRAY['\\x00'::bytea, '']", "stamps = '{infinity,\"2026-01-01 BC\"}'", "ivs = '{1 mon -1 day,NULL}'", "lsn = 'FF/1'", "path = '$.a[*] ? (@ > 1)'",
                "docs = ARRAY['{\"a\": 1}'::jsonb, 'null']", "x = '<a b=\"c\">&amp;</a>'", "cash = 12.5", "o = 4294967295", "seq = seq + 1"]
KINDS = [(8, lambda r: f"UPDATE kinds SET {r.choice(KINDS_VALUES)} WHERE id % {r.randrange(1, 9)} = 0;"), (4, lambda r: f"INSERT INTO kinds (id, mood, pos) SELECT g, 'ok', g FROM generate_series({1 + r.randrange(60)}, 62) g ON CONFLICT DO NOTHING;"),
         (1, lambda r: f"UPDATE kinds SET id = id + 100 WHERE id = {r.randrange(60)};"), (2, lambda r: f"DELETE FROM kinds WHERE id % {r.randrange(2, 9)} = 0;")]

PERSON = [(4, lambda r: f"INSERT INTO person (id, name, iban, note) SELECT g, 'name ' || g, 'DE' || g, 'kept' FROM generate_series({r.randrange(99)}, 99) g ON CONFLICT DO NOTHING;"),
          (5, lambda r: f"UPDATE person SET {r.choice(('name = name || 1', 'iban = iban || 1', 'note = NULL, name = NULL'))} WHERE id % {r.randrange(1, 9)} = 0;"),
          (2, lambda r: f"DELETE FROM person WHERE id % {r.randrange(2, 9)} = 0;"), (1, lambda r: f"UPDATE person SET id = -id WHERE id = {r.randrange(99)};"), (0.3, lambda r: "TRUNCATE person;")]
ODD_NAME = '"Odd Schema"."Tâble ""x"""'
LATE_TABLE = "CREATE TABLE late (id integer PRIMARY KEY, v text, body text);"


def dev_tables():
    late = keyed("late", ["id"], "id")
    return [
        Table("item", item_table("item"), item("item")),
        Table("pair", pair_table("pair"), keyed("pair", ["a", "b"], "b")),
        Table("app.event", event_table("app.event"), event("app.event"), "event"),
        Table("coded", "CREATE TABLE coded (n integer, code bigint NOT NULL, v text, body text, w text NOT NULL DEFAULT 'w'); CREATE UNIQUE INDEX coded_code ON coded (w, code);"
              "ALTER TABLE coded ALTER body SET STORAGE EXTERNAL; ALTER TABLE coded REPLICA IDENTITY USING INDEX coded_code;", keyed("coded", ["w", "code"], "code")),
        Table("loose", "CREATE TABLE loose (v text, k2 text NOT NULL, body text, k1 integer NOT NULL, UNIQUE (k1, k2)); ALTER TABLE loose ALTER body SET STORAGE EXTERNAL;"
              "ALTER TABLE loose REPLICA IDENTITY FULL;", keyed("loose", ["k1", "k2"], "k1"), key=["k1", "k2"]),
        Table("person", "CREATE TABLE person (id integer PRIMARY KEY, name text, iban text, note text);", PERSON, private=["iban", "note"]),
        Table("wide", WIDE_TABLE.format(name="wide") + WIDE_ROWS.format(name="wide"), WIDE, extras=False),
        Table("kinds", KINDS_TABLE, KINDS),
        Table("flip", "CREATE TABLE flip (id integer PRIMARY KEY, alt integer NOT NULL GENERATED BY DEFAULT AS IDENTITY, v text, body text); CREATE UNIQUE INDEX flip_alt ON flip (alt);"
              "ALTER TABLE flip ALTER body SET STORAGE EXTERNAL;", keyed("flip", ["id"], "id")),
        Table(ODD_NAME, f'CREATE SCHEMA "Odd Schema"; CREATE TABLE {ODD_NAME} ("Ключ" integer PRIMARY KEY, "a b" text, "select" text);', keyed(ODD_NAME, ['"Ключ"'], '"Ключ"', '"a b"', '"select"'), "odd",
              extras=False),
        Table("late", "", late),
    ]


def train_tables():
    return [Table("item", item_table("item"), item("item"), "t_item"), Table("pair", pair_table("pair"), keyed("pair", ["a", "b"], "b"), "t_pair", public=["a", "b", "body"]),
            Table("app.event", event_table("app.event"), event("app.event"), "t_event")]


def item_table(name):
    return (f"CREATE TABLE {name} (id bigint PRIMARY KEY, name text, n integer, price numeric, body text, doc jsonb, at timestamptz, flag boolean);"
            f"ALTER TABLE {name} ALTER body SET STORAGE EXTERNAL; INSERT INTO {name} {item_rows(0, 300, 0)};")


def pair_table(name):
    return f"CREATE TABLE {name} (a text, b integer, v text, body text, PRIMARY KEY (a, b)); ALTER TABLE {name} ALTER body SET STORAGE EXTERNAL;"


def event_table(name):
    return (f"CREATE SCHEMA app; CREATE TABLE {name} (day date, id integer, v text, body text, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);"
            f"ALTER TABLE {name} ALTER body SET STORAGE EXTERNAL;" + "".join(partition(name, m) for m in MONTHS))


def partition(name, month):
    return f"CREATE TABLE {name}_{month} PARTITION OF {name} FOR VALUES FROM ('2026-{month:02}-01') TO ('2026-{month + 1:02}-01');"


# -- actors -----------------------------------------------------------------------------------------------------------------------
class Trace:
    """What was done, by whom and when, of all actors: [(seconds, actor, text)]."""

    def __init__(self):
        self.begin, self.lines, self.lock = time.monotonic(), [], threading.Lock()

    def add(self, actor, text):
        with self.lock:
            self.lines.append((time.monotonic() - self.begin, actor, text))

    def text(self, *actors):
        return "\n".join(f"{t:8.3f} {a}: {x!r}" for t, a, x in self.lines if not actors or a in actors)


class Actor(threading.Thread):
    """Does `step` again and again until told to stop; an error of the test itself (not of the SQL) is kept for finish()."""

    def __init__(self, name, seed, trace):
        super().__init__(daemon=True, name=name)
        self.random, self.trace, self.error, self.end, self.steps = random.Random(f"{seed} {name}"), trace, None, threading.Event(), 0

    def run(self):
        try:
            while not self.end.is_set():
                self.step()
                self.steps += 1
        except Exception as e:  # noqa: BLE001 - told to the test
            self.error = e

    def finish(self):
        self.end.set()
        self.join()
        if self.error:
            raise self.error

    def sql(self, dsn, text):
        """As one session; every statement may fail. Returns what psql said went wrong."""
        self.trace.add(self.name, text)
        done = subprocess.run(["psql", "-XqAt", dsn], input=GUARD + text, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wrong = done.stderr.strip()
        if wrong:
            self.trace.add(self.name, "-- " + wrong[:300])
        if done.returncode == 2:   # no connection, or it broke
            self.end.wait(0.2)
        return wrong


class Writer(Actor):
    def __init__(self, name, seed, trace, dsn, tables):
        super().__init__(name, seed, trace)
        self.dsn, self.tables, self.prepared = dsn, tables, 0

    def transaction(self):
        r = self.random
        some = lambda: r.choice(self.tables).statement(r)  # noqa: E731
        body = "".join(some() for _ in range(r.choice((1, 1, 1, 2, 4, 8))))
        how = r.random()
        if how < 0.3:
            return body
        if r.random() < 0.2:
            body += "SAVEPOINT a;" + some() + "ROLLBACK TO a;" + some() + "SAVEPOINT b;" + some() + "RELEASE b;"
        if how < 0.35:
            self.prepared += 1
            gid = f"'{self.name}-{self.prepared}'"
            return f"BEGIN;{body}PREPARE TRANSACTION {gid};{r.choice(('COMMIT', 'COMMIT', 'ROLLBACK'))} PREPARED {gid};"
        return "BEGIN;" + body + ("ROLLBACK;" if r.random() < 0.08 else "COMMIT;")

    def step(self):
        if "prepared" in self.sql(self.dsn, "\n".join(self.transaction() for _ in range(self.random.randrange(1, 8)))):
            self.undo_prepared()
        self.end.wait(self.random.random() ** 4)

    def undo_prepared(self):
        """What a broken connection left behind would hold its locks for ever."""
        self.sql(self.dsn, f"SELECT format('ROLLBACK PREPARED %L', gid) FROM pg_prepared_xacts WHERE gid LIKE '{self.name}-%' \\gexec")


class Changer(Actor):
    """DDL while the rows change. `settings`: called with True or False, to have the table `late` in the agent's configuration or not."""

    CHAIN = ["bigint", "numeric", "text"]     # from one to the next, no value is lost and no text form changes

    def __init__(self, name, seed, trace, dsn, tables, settings=None):
        super().__init__(name, seed, trace)
        self.dsn, self.tables, self.settings, self.columns, self.number, self.table_exists = dsn, tables, settings, {}, 0, False
        self.partitioned = next(t.name for t in tables if t.name.endswith("event"))
        self.all = len(tables) > 3

    def step(self):
        r = self.random
        what = [(5, self.add), (3, self.drop), (3, self.rename), (3, self.retype), (3, self.within), (4, self.partitions), (0.5, self.rewrite), (0.5, self.away)]
        if self.all:
            what += [(3, self.identity), (2, self.labels), (2, self.late), (1, self.settle_late), (0.5, self.private)]
        r.choices([w[1] for w in what], [w[0] for w in what])[0](r)
        self.end.wait(0.3 + r.random() ** 2 * 4)

    def do(self, text):
        return not self.sql(self.dsn, text)

    def column(self, r, fresh=False):
        """(table, column) of those that come and go; None when there is none."""
        table = r.choice([t for t in self.tables if t.extras and t.name != "late"])
        known = self.columns.setdefault(table.name, {})
        if fresh:
            self.number += 1
            return table.name, f"x{self.number}"
        return (table.name, r.choice(sorted(known))) if known else (table.name, None)

    def add(self, r):
        table, column = self.column(r, fresh=True)
        default = r.choice(("", "", " DEFAULT 7", " NOT NULL DEFAULT 5", " DEFAULT (random() * 100)::int"))
        if self.do(f"ALTER TABLE {table} ADD COLUMN {column} integer{default};"):
            self.columns[table][column] = -1

    def drop(self, r):
        table, column = self.column(r)
        if column and self.do(f"ALTER TABLE {table} DROP COLUMN {column};"):
            del self.columns[table][column]

    def rename(self, r):
        table, column = self.column(r)
        if column:
            _, fresh = self.column(r, fresh=True)
            if self.do(f"ALTER TABLE {table} RENAME COLUMN {column} TO {fresh};"):
                self.columns[table][fresh] = self.columns[table].pop(column)

    def retype(self, r):
        table, column = self.column(r)
        at = self.columns[table][column] + 1 if column else len(self.CHAIN)
        if at < len(self.CHAIN) and self.do(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE {self.CHAIN[at]}{' USING ' + column + '::text' if self.CHAIN[at] == 'text' else ''};"):
            self.columns[table][column] = at

    def within(self, r):
        """Rows before, between and after the changes of their table, in one transaction."""
        table, column = self.column(r, fresh=True)
        t = next(t for t in self.tables if t.name == table)
        m = lambda: t.statement(r)  # noqa: E731
        self.do(f"BEGIN; {m()} ALTER TABLE {table} ADD COLUMN {column} integer{r.choice(('', ' DEFAULT 3'))}; {m()} UPDATE {table} SET {column} = 1; {m()}"
                f" ALTER TABLE {table} DROP COLUMN {column}; {m()} {r.choice(('COMMIT', 'COMMIT', 'ROLLBACK'))};")

    def partitions(self, r):
        name, m = self.partitioned, r.choice(MONTHS)
        part = f"{name}_{m}"
        choice = r.randrange(4)
        if choice == 0:
            self.do(f"DROP TABLE {part}; {partition(name, m)}")
        elif choice == 1:
            self.do(f"ALTER TABLE {name} DETACH PARTITION {part}; DELETE FROM {part} WHERE id % 3 = 0; UPDATE {part} SET v = 'alone';"
                    f"ALTER TABLE {name} ATTACH PARTITION {part} FOR VALUES FROM ('2026-{m:02}-01') TO ('2026-{m + 1:02}-01');")
        elif choice == 2:
            self.do(f"TRUNCATE {part};")
        else:
            self.do(f"INSERT INTO {part} (day, id, v) SELECT '2026-{m:02}-03', g, 'direct' FROM generate_series(900, 903) g ON CONFLICT DO NOTHING;")

    def rewrite(self, r):
        self.do(f"VACUUM FULL {r.choice(self.tables).name};")

    def away(self, r):
        self.do(f"ALTER TABLE pair RENAME TO pair_away; UPDATE pair_away SET v = 'unseen' WHERE b % 7 = 0; SELECT pg_sleep({r.random() * 2:.2f}); ALTER TABLE pair_away RENAME TO pair;")

    def identity(self, r):
        self.do(f"ALTER TABLE flip REPLICA IDENTITY {r.choice(('DEFAULT', 'FULL', 'USING INDEX flip_alt', 'NOTHING'))};")

    def labels(self, r):
        self.number += 1
        self.do(r.choice((f"ALTER TYPE mood ADD VALUE 'm{self.number}'; UPDATE kinds SET mood = 'm{self.number}' WHERE id % 3 = 0;", f"ALTER TYPE mood RENAME VALUE 'sad' TO 'glum'; SELECT pg_sleep(1); ALTER TYPE mood RENAME VALUE 'glum' TO 'sad';")))

    def late(self, r):
        if self.do("DROP TABLE IF EXISTS late; " + LATE_TABLE + f"INSERT INTO late SELECT g, 'made anew' FROM generate_series(0, {r.choice((0, 50, 500))}) g;"):
            self.table_exists = True

    def settle_late(self, r):
        self.settings(r.random() < 0.5)

    def private(self, r):
        self.do(f"ALTER TABLE person RENAME COLUMN iban TO iban2; UPDATE person SET name = 'renamed' WHERE id % 5 = 0; SELECT pg_sleep({r.random():.2f}); ALTER TABLE person RENAME COLUMN iban2 TO iban;")

    def mend(self):
        """Back to where every table can be followed; called when all servers are there and nobody writes."""
        name = self.partitioned
        for m in MONTHS:
            self.do(f"CREATE TABLE IF NOT EXISTS {name}_{m} (LIKE {name} INCLUDING ALL);")
            self.do(f"ALTER TABLE {name} ATTACH PARTITION {name}_{m} FOR VALUES FROM ('2026-{m:02}-01') TO ('2026-{m + 1:02}-01');")
        self.do("ALTER TABLE pair_away RENAME TO pair;")
        if self.all:
            self.do("ALTER TABLE person RENAME COLUMN iban2 TO iban;")
            self.do("ALTER TYPE mood RENAME VALUE 'glum' TO 'sad';")
            self.do("ALTER TABLE flip REPLICA IDENTITY DEFAULT;")
            if not self.table_exists:
                self.do(LATE_TABLE)
            self.settings(True)
