"""pgstream: one process from PostgreSQL to Kafka, one from Kafka to PostgreSQL."""
import json
import re

from pipelines import Pipeline, pinned, script


class Pgstream(Pipeline):
    """Batches and their timeouts are set: as delivered its sink waits for up to 30 s. Everything else is its default. Numbers in jsonb lose the zeros at their
    end on the way, so its rows are compared with such numbers by value."""
    name = "pgstream"
    digest_row = "(to_jsonb(t) - 'params')::text || jsonb_hash_extended(params, 0)"
    to_kafka = {"timeout": 5, "size": 5000}
    to_postgres = {"BATCH_TIMEOUT": "5ms", "BATCH_SIZE": "5000", "ON_CONFLICT_ACTION": "update", "IGNORE_DDL": "true"}

    def url(self, database):
        host, port = re.search(r"host=(\S+) port=(\d+)", self.platform.dsn_cached("dev")).groups()
        return f"postgres://postgres@{host}:{port}/{database}?sslmode=disable"

    def prepare(self):
        super().prepare()
        self.pids = {}
        script("pgstream.sh", "install")

    def start(self, name, file, settings, *more):
        path = self.platform.path(f"pgstream-{name}.{file}")
        with open(path, "w") as f:
            f.write(settings)
        self.pids[name] = int(script("pgstream.sh", "start", self.platform.path("pgstream-" + name), path, *more))

    def begin(self):
        source, server, topic = self.url("dev"), self.platform.brokers["dev"], {"name": "pgstream", "partitions": 1, "replication_factor": 1, "auto_create": True}
        snapshot = {"mode": "full", "tables": ["public.experiment"], "recorder": {"postgres_url": source}, "schema": {"mode": "schemalog"}, "disable_progress_tracking": True}
        self.start("source", "yaml", json.dumps({
            "source": {"postgres": {"url": source, "mode": "snapshot_and_replication", "snapshot": snapshot, "replication": {"replication_slot": "pgstream_dev"}}},
            "target": {"kafka": {"servers": [server], "topic": topic, "batch": self.to_kafka}},
            "modifiers": {"injector": {"enabled": True}, "filter": {"include_tables": ["public.experiment"]}}}), "--init")
        # with a source of Kafka this version reads no YAML: it misses the settings of a PostgreSQL
        self.start("sink", "env", "".join(f"PGSTREAM_{k}={v}\n" for k, v in {
            "KAFKA_READER_SERVERS": server, "KAFKA_TOPIC_NAME": topic["name"], "KAFKA_READER_CONSUMER_GROUP_ID": "sink", "KAFKA_READER_CONSUMER_GROUP_START_OFFSET": "earliest",
            "POSTGRES_WRITER_TARGET_URL": self.url(self.target_db), "POSTGRES_WRITER_SCHEMALOG_STORE_URL": source,
            **{"POSTGRES_WRITER_" + k: v for k, v in self.to_postgres.items()}}.items()))

    def end(self):
        for name in getattr(self, "pids", {}):
            script("pgstream.sh", "kill", self.platform.path("pgstream-" + name))

    def processes(self):
        return self.pids

    @staticmethod
    def version():
        return f"pgstream {pinned('pgstream.sh')} with wal2json, PostgreSQL to Kafka and Kafka to PostgreSQL"

    @classmethod
    def describe(cls):
        return [f"source `target.kafka.batch.{k}={v}`" for k, v in cls.to_kafka.items()] + [f"sink `PGSTREAM_POSTGRES_WRITER_{k}={v}`" for k, v in cls.to_postgres.items()]
