"""A folder under random writers, and the socket, against real Kafka and the hub, with the agent killed again and again: at the end the view holds exactly what the
files and the answers of the socket say."""
import http.client
import json
import os
import random
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from harness import BUILD, Platform, until

FILES = int(os.environ.get("SB_SOURCE_FILES", "20000"))
PROGRESS = "SELECT count(*), sum((document->>'step')::bigint) FROM dev.card"
SECONDS = float(os.environ.get("SB_SOURCE_SECONDS", "20"))


class Local(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=10)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(10)
        self.sock.connect(self.path)


def ask(path, method, address, body=None):
    """Status, or 0 when nobody answered: then it is not known what became of the request."""
    c = Local(path)
    try:
        c.request(method, address, body)
        r = c.getresponse()
        r.read()
        return r.status
    except OSError:
        return 0
    except http.client.HTTPException:
        return 0
    finally:
        c.close()


class Writers:
    """Threads that write, rename over, tear and remove files of a folder, each its own share of the names."""

    def __init__(self, folder, seed):
        self.folder, self.seed = folder, seed
        self.stop = threading.Event()
        self.threads = []

    def path(self, n):
        return os.path.join(self.folder, f"f{n:05d}.json")

    def put(self, n, text):
        tmp = os.path.join(self.folder, f".{n}.tmp")
        with open(tmp, "w") as f:
            f.write(text)
        os.rename(tmp, self.path(n))

    def step(self, rnd, n, count):
        text = json.dumps({"n": n, "step": count, "pad": "x" * rnd.randrange(200)})
        what = rnd.random()
        if what < 0.4:
            self.put(n, text)
        elif what < 0.6:      # in place, as a careless writer does
            with open(self.path(n), "w") as f:
                f.write(text)
        elif what < 0.75:     # torn: half of it, closed, then the whole
            with open(self.path(n), "w") as f:
                f.write(text[:len(text) // 2])
            with open(self.path(n), "w") as f:
                f.write(text)
        elif os.path.exists(self.path(n)):
            os.unlink(self.path(n))

    def run(self, share, of):
        rnd, count = random.Random(self.seed * 100 + share), 0
        while not self.stop.is_set():
            count += 1
            self.step(rnd, rnd.randrange(FILES // of) * of + share, count)

    def __enter__(self):
        self.threads = [threading.Thread(target=self.run, args=(i, 3)) for i in range(3)]
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *exc):
        self.stop.set()
        for t in self.threads:
            t.join()


class Sources(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.seed = int(os.environ.get("SB_SEED", str(random.randrange(1 << 30))))
        print(f"  seed {cls.seed} (SB_SEED)", flush=True)
        p = Platform(stages=["dev"], origins=(), types=[{"type": t, "owner": "dev"} for t in ("card", "reading", "feedback")])
        cls.folder, cls.table = tempfile.mkdtemp(prefix="sb-files-"), tempfile.mkdtemp(prefix="sb-csv-")
        p.extra_agent["dev"] = {
            "directories": [{"name": "cards", "type": "card", "path": cls.folder, "format": "json", "poll": "1s"},
                            {"name": "readings", "type": "reading", "path": cls.table, "format": "csv", "key": "id", "poll": "1s", "private": ["who"]}],
            "entities": [{"type": "feedback", "key": "id", "columns": [{"name": "id", "type": "bigint"}, {"name": "stars", "type": "integer"}]}]}
        cls.p = p.__enter__()
        cls.addClassCleanup(lambda: p.__exit__(None, None, None))
        cls.writers = Writers(cls.folder, cls.seed)
        for n in range(FILES):
            cls.writers.put(n, json.dumps({"n": n}))
        p.start()

    def files(self):
        out = {}
        for name in os.listdir(self.folder):
            if name.endswith(".json") and not name.startswith("."):
                with open(os.path.join(self.folder, name)) as f:
                    out[name[:-5]] = json.load(f)
        return out

    def view(self):
        return json.loads(self.p.hub_sql("SELECT coalesce(json_object_agg(key, document), '{}') FROM dev.card"))

    def await_files(self, seconds=120):
        want = self.files()
        try:
            until("the view holds what the files hold", lambda: self.view() == want, seconds, 0.5)
        except AssertionError as e:
            got = self.view()
            wrong = [k for k in sorted(set(want) | set(got)) if want.get(k) != got.get(k)]
            raise AssertionError(f"{e}; files {len(want)}, view {len(got)}, {len(wrong)} differ, such as {wrong[:5]}") from None

    def test_1_all_files_once(self):
        self.await_files()

    def test_2_writers_and_kills(self):
        self.await_files()
        rnd = random.Random(self.seed)
        end = time.monotonic() + SECONDS
        kills = 0
        with self.writers:
            while time.monotonic() < end:
                seen = self.p.hub_sql(PROGRESS)
                until("changes arrive", lambda: self.p.hub_sql(PROGRESS) != seen, 60, rnd.uniform(0.02, 0.2))
                self.p.agents["dev"].kill()
                kills += 1
                self.p.start_agent("dev")
        print(f"  {kills} kills", flush=True)
        self.await_files()
        self.assertEqual(self.p.hub_sql("SELECT count(*) FROM dev.card"), str(len(self.files())))

    def test_3_typed_rows(self):
        with open(os.path.join(self.table, "a.csv"), "w") as f:
            f.write("id,n,day,zip,who\n1,10,2026-01-01,007,hidden\n2,,,,\n")
        kinds = "SELECT string_agg(format_type(atttypid, atttypmod), ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = to_regclass('dev.reading') AND attnum > 0 AND NOT attisdropped"
        until("the rows are there", lambda: self.p.hub_sql("SELECT count(*) FROM dev.reading") == "2")
        self.assertEqual(self.p.hub_sql(kinds), "text bigint date text")
        self.assertEqual(self.p.hub_sql("SELECT * FROM dev.reading ORDER BY 1"), "1\t10\t2026-01-01\t007\n2\t\t\t")
        with open(os.path.join(self.table, "b.csv"), "w") as f:
            f.write("id,n\n3,1.50\n")
        until("the column is wider", lambda: self.p.hub_sql("SELECT n FROM dev.reading WHERE id = '3'") == "1.50")
        self.assertEqual(self.p.hub_sql(kinds), "text numeric date text")
        self.assertEqual(self.p.hub_sql("SELECT id, n FROM dev.reading ORDER BY 1"), "1\t10\n2\t\n3\t1.50")
        self.pin_what_is_inferred(kinds)

    def pin_what_is_inferred(self, kinds):
        """What --infer shows can be pasted into the settings; then a value that does not fit is refused alone."""
        agent = [os.path.join(BUILD, "broker-agent", "broker-agent"), "--config", self.p.path("agent-dev.yaml"), "--infer", "readings"]
        shown = subprocess.run(agent, stdout=subprocess.PIPE, check=True, text=True).stdout
        pins = [dict(part.split(": ") for part in line.split("{ ")[1].split(" }")[0].split(", ")) for line in shown.splitlines() if "{ " in line]
        pins = [{"name": pin["name"].strip('"'), "type": pin["type"]} for pin in pins]
        self.assertEqual(pins, [{"name": "id", "type": "bigint"}, {"name": "n", "type": "numeric"}, {"name": "day", "type": "date"}, {"name": "zip", "type": "text"}])
        self.p.extra_agent["dev"]["directories"][1]["columns"] = pins
        self.p.agents["dev"].stop()
        self.p._write("agent-dev.yaml", self.p.agent_settings("dev"))
        with open(os.path.join(self.table, "b.csv"), "w") as f:
            f.write("id,n\n3,much\n4,2\n")
        self.p.start_agent("dev")
        until("the good row is there", lambda: self.p.hub_sql("SELECT n FROM dev.reading WHERE id = 4") == "2")
        self.assertEqual(self.p.hub_sql(kinds), "bigint numeric date text")
        until("the bad one is told", lambda: 'b.csv: line 2: column "n": the value is not a numeric' in self.p.cli("source", "list", stage="dev").stdout)
        self.assertNotIn("much", self.p.agents["dev"].text())

    def test_4_socket_and_kills(self):
        """Every request that was answered counts; one that was not is asked again."""
        rnd, want = random.Random(self.seed + 1), {}
        sock = self.p.path("dev.sock")
        for count in range(400):
            key = rnd.randrange(60)
            put = rnd.random() < 0.75
            if count % 80 == 40:
                self.p.agents["dev"].kill()
                self.p.start_agent("dev")
            body = json.dumps({"stars": count})
            until("the agent answers", lambda: ask(sock, "PUT" if put else "DELETE", f"/v1/entities/feedback/{key}", body if put else None) in (200, 201), 30, 0.02)
            if put:
                want[str(key)] = count
            else:
                want.pop(str(key), None)
        lines = "".join(json.dumps({"id": 1000 + i, "stars": i}) + "\n" for i in range(5000))
        self.assertEqual(ask(sock, "POST", "/v1/entities/feedback", lines), 200)
        self.p.agents["dev"].kill()    # at once: what was answered is durable
        self.p.start_agent("dev")
        want.update({str(1000 + i): i for i in range(5000)})
        until("the view holds what was answered", lambda: json.loads(self.p.hub_sql("SELECT coalesce(json_object_agg(id, stars), '{}') FROM dev.feedback")) == want, 60, 0.2)

    def test_5_a_folder_that_vanishes(self):
        before = len(self.files())
        away = self.folder + ".away"
        os.rename(self.folder, away)
        os.mkdir(self.folder)
        until("the agent does not believe it", lambda: "deletion held" in self.p.cli("source", "list", stage="dev").stdout, 60)
        self.assertEqual(self.p.hub_sql("SELECT count(*) FROM dev.card"), str(before))
        os.rmdir(self.folder)
        os.rename(away, self.folder)
        until("all is well", lambda: "deletion held" not in self.p.cli("source", "list", stage="dev").stdout, 60)
        self.await_files()

    def test_6_a_folder_that_is_emptied(self):
        for name in os.listdir(self.folder):
            os.unlink(os.path.join(self.folder, name))
        until("the agent does not believe it", lambda: "deletion held" in self.p.cli("source", "list", stage="dev").stdout, 60)
        self.p.cli("source", "confirm", "cards", stage="dev")
        until("it is believed", lambda: self.p.hub_sql("SELECT count(*) FROM dev.card") == "0", 60)
        self.assertNotEqual(self.p.cli("source", "confirm", "cards", stage="dev", check=False).returncode, 0)    # nothing waits any more


if __name__ == "__main__":
    unittest.main()
