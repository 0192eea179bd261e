"""What carries rows from a source to a target: stagebridge and its peers, behind the same few calls, so that every bench runs the same lines on each.

A pipeline brings its own fresh PostgreSQL (source and target are two databases of it) and its own fresh Kafka broker, set alike for all. Entered, it has
both and nothing runs yet; `begin` starts it on the tables that are there."""
import os
import subprocess

from frame import US, Asker
from harness import SERVICES, TENANT, Platform, service
from tables import SAMPLE_COLUMNS, sample_table

HUB = "hub_" + TENANT
TYPE = {"table": "public.experiment", "type": "experiment"}
SNAPSHOT_DONE = "SELECT count(*) FROM lifecycle.entity_type WHERE type = 'experiment' AND snapshot_state = 'done'"
# a server of this size would not be run with what PostgreSQL is delivered with; the same for every pipeline
POSTGRES = ("shared_buffers=1GB", "max_wal_size=4GB", "checkpoint_timeout=15min")


def script(name, *args, stdin=None):
    """Runs a script of tests/services; returns the last line it printed, raises what it said when it failed."""
    done = subprocess.run([os.path.join(SERVICES, name), *map(str, args)], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=1800)
    if done.returncode:
        raise AssertionError(f"{name} {args[0]}: {' '.join(done.stderr.split())[-600:]}")
    return (done.stdout.strip().splitlines() or [""])[-1]


def pinned(name):
    """The VERSION of a script of tests/services."""
    with open(os.path.join(SERVICES, name)) as f:
        return next(line.split("=")[1].split("#")[0].strip() for line in f if line.startswith("VERSION="))


class Pipeline:
    """Base: the servers, the source table, and what is asked of /proc."""
    name = None
    target_db, relation = "peer", "public.experiment"
    digest_row = "t::text"    # what of a row of t is compared

    def __init__(self):
        self.platform = self.make_platform()

    def make_platform(self):
        return Platform(stages=["dev"], origins=(), postgres=POSTGRES)

    def __enter__(self):
        self.platform.__enter__()
        try:
            self.sql(sample_table("experiment"))
            self.prepare()
        except BaseException as e:
            self.__exit__(type(e), e, None)
            raise
        return self

    def __exit__(self, *exc):
        try:
            self.end()
        finally:
            self.platform.__exit__(*exc)

    def prepare(self):
        self.platform.psql("postgres", f"CREATE DATABASE {self.target_db}")
        self.platform.psql(self.target_db, f"CREATE TABLE {self.relation} ({SAMPLE_COLUMNS})")

    def begin(self):
        """Starts to carry: first what the table holds, then its changes."""
        raise NotImplementedError

    def end(self):
        """Stops what begin started; the servers go by themselves."""

    def processes(self):
        """{name: process number} of what carries, without PostgreSQL and Kafka."""
        raise NotImplementedError

    def sql(self, text):
        return self.platform.psql("dev", text)

    def target_sql(self, text):
        return self.platform.psql(self.target_db, text)

    def asker(self):
        return Asker(self.platform.dsn_cached(self.target_db))

    def asker_of_source(self):
        return Asker(self.platform.dsn_cached("dev"))

    def servers(self):
        """{name: process number} of what all pipelines share the machine with."""
        return {"postgres": int(service("postgres", "pid", self.platform.path("pg"))), "kafka": int(service("kafka", "pid", self.platform.path("kafka-dev")))}

    def count(self):
        return int(self.target_sql(f"SELECT count(*) FROM {self.relation}"))

    def expect_rows(self, count):
        if (found := self.count()) != count:
            raise AssertionError(f"{self.name}: {found} rows in the target, not {count}")

    def expect_equal(self):
        """Every row of the target is the source's, by a hash over all of them."""
        digest = f"SELECT count(*), sum(hashtextextended({self.digest_row}, 0)::numeric) FROM (SELECT * FROM %s) t"
        source, target = self.sql(digest % "public.experiment"), self.target_sql(digest % self.relation)
        if source != target:
            raise AssertionError(f"{self.name}: rows and hash differ: source {source.split()}, target {target.split()}")

    def highest_sql(self):
        return f"SELECT coalesce(max(id), 0) FROM {self.relation}"

    def await_highest(self, asker, number, seconds=600):
        """When the target shows the row of that number, where rows come in their order."""
        return asker.until(f"{self.name}: row {number} is visible", self.highest_sql(), lambda answer: int(answer) >= number, seconds)

    def await_count(self, asker, count, seconds=600):
        """When the target holds that many rows, in whatever order they come. Counts only once the highest number is there: counting costs."""
        self.await_highest(asker, count, seconds)
        return asker.until(f"{self.name}: {count} rows are visible", f"SELECT count(*) FROM {self.relation}", lambda answer: int(answer) >= count, seconds, 0.05)


class Stagebridge(Pipeline):
    name = US
    target_db, relation = HUB, "dev.experiment"

    def make_platform(self):
        return Platform(stages=["dev"], origins=(), postgres=POSTGRES, sources={"dev": [TYPE]}, types=[{"type": "experiment", "owner": "dev"}])

    def prepare(self):
        self.platform.start_hub()   # it makes its database; the peer's worker runs before its clock starts, too

    def begin(self):
        self.platform.start_agent("dev")

    def processes(self):
        return {p.name.partition("-")[0]: p.child.pid for p in (self.platform.hub, *self.platform.agents.values())}

    def await_count(self, asker, count, seconds=600):
        # the relation is made with the first batch; until then it cannot be asked
        asker.until("the snapshot is complete", SNAPSHOT_DONE, lambda answer: answer == "1", seconds)
        return super().await_count(asker, count, seconds)
