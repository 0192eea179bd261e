"""Debezium's PostgreSQL source and JDBC sink in one Kafka Connect worker: as shipped, tuned, and with the schema apart."""
import json
import re

from pipelines import Pipeline, pinned, script


def connect(*args, stdin=None):
    """Runs connect.sh; returns the last line it printed."""
    return script("connect.sh", *args, stdin=stdin)


def shortened(value):
    return value if len(value) < 80 else value[:40] + "..."


class Debezium(Pipeline):
    """As shipped: what Kafka's and Debezium's own samples set; upsert and deletes are needed for the target to be a copy at all."""
    name = "Debezium, as shipped"
    worker, url = {}, ""
    source = {"connector.class": "io.debezium.connector.postgresql.PostgresConnector", "plugin.name": "pgoutput", "publication.autocreate.mode": "filtered",
              "topic.prefix": "peer", "table.include.list": "public.experiment",
              "topic.creation.default.replication.factor": "1", "topic.creation.default.partitions": "1"}
    sink = {"connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector", "topics": "peer.public.experiment", "collection.name.format": "experiment",
            "insert.mode": "upsert", "primary.key.mode": "record_key", "delete.enabled": "true"}

    def prepare(self):
        super().prepare()
        self.dir = self.platform.path("connect")
        connect("start", self.dir, self.platform.brokers["dev"], *[f"{k}={v}" for k, v in self.worker.items()])
        self.pid = int(connect("pid", self.dir))

    def begin(self):
        host, port = re.search(r"host=(\S+) port=(\d+)", self.platform.dsn_cached("dev")).groups()
        source = {**self.source, "database.hostname": host, "database.port": port, "database.user": "postgres", "database.dbname": "dev"}
        sink = {**self.sink, "connection.url": f"jdbc:postgresql://{host}:{port}/{self.target_db}{self.url}", "connection.username": "postgres"}
        connect("connector", self.dir, "source", stdin=json.dumps(source))
        connect("connector", self.dir, "sink", stdin=json.dumps(sink))

    def end(self):
        if getattr(self, "pid", None):
            connect("kill", self.dir)

    def processes(self):
        return {"worker": self.pid}

    @classmethod
    def version(cls):
        kafka, debezium = pinned("connect.sh").split("-")
        return f"Kafka Connect {kafka}, one standalone worker with the JVM options of Kafka's own scripts; Debezium's PostgreSQL source and JDBC sink {debezium}"

    @classmethod
    def describe(cls):
        """What it is set to, for the page: what its base has not, or has otherwise."""
        base, out = cls.__bases__[0], []
        for where in ("worker", "source", "sink"):
            known = getattr(base, where, {})
            out += [f"{where} `{k}={shortened(v)}`" for k, v in getattr(cls, where).items() if known.get(k) != v]
        return out + [f"sink URL `{cls.url}`"] * (cls.url != getattr(base, "url", ""))


def struct(name, *fields):
    return json.dumps({"type": "struct", "optional": False, "name": f"peer.public.experiment.{name}", "fields": list(fields)})


def field(name, kind, logical=None, optional=False, **more):
    return {"field": name, "type": kind, "optional": optional, **({"name": logical, "version": 1} if logical else {}), **more}


TIME = "io.debezium.time.ZonedTimestamp"
KEY_SCHEMA = struct("Key", field("id", "int64"))
VALUE_SCHEMA = struct("Value", field("id", "int64"), field("name", "string"), field("owner", "string"), field("status", "string"),
                      field("score", "bytes", "org.apache.kafka.connect.data.Decimal", True, parameters={"scale": "4", "connect.decimal.precision": "12"}),
                      field("attempts", "int32"), field("enabled", "boolean"), field("params", "string", "io.debezium.data.Json"),
                      field("created_at", "string", TIME), field("updated_at", "string", TIME), field("notes", "string", optional=True))
JSON = "org.apache.kafka.connect.json.JsonConverter"


class TunedDebezium(Debezium):
    """The settings that its manuals name for throughput and for short delays: larger batches, short polls, compression, several changes of one row in a
    batch reduced to the last, and inserts rewritten into one statement."""
    name = "Debezium, tuned"
    url = "?reWriteBatchedInserts=true"
    worker = {"producer.compression.type": "lz4", "producer.batch.size": "524288", "producer.linger.ms": "5", "producer.buffer.memory": "67108864",
              "consumer.max.poll.records": "5000", "consumer.max.partition.fetch.bytes": "16777216", "consumer.fetch.max.bytes": "67108864"}
    source = {**Debezium.source, "poll.interval.ms": "5", "max.batch.size": "16384", "max.queue.size": "65536"}
    sink = {**Debezium.sink, "batch.size": "5000", "use.reduction.buffer": "true"}


class LeanDebezium(TunedDebezium):
    """All of that, and the row alone travels instead of Debezium's envelope, its schema in the sink's settings instead of in every record: for one table
    whose columns do not change."""
    name = "Debezium, schema apart"
    source = {**TunedDebezium.source, "transforms": "unwrap", "transforms.unwrap.type": "io.debezium.transforms.ExtractNewRecordState",
              "transforms.unwrap.delete.tombstone.handling.mode": "tombstone",
              "key.converter": JSON, "key.converter.schemas.enable": "false", "value.converter": JSON, "value.converter.schemas.enable": "false"}
    sink = {**TunedDebezium.sink, "key.converter": JSON, "key.converter.schema.content": KEY_SCHEMA, "value.converter": JSON, "value.converter.schema.content": VALUE_SCHEMA}
