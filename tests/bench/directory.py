"""Entities from a folder into the sync view: many files, and as many rows in one file. One stage, real Kafka."""
import json
import os
import time

from frame import Asker, bench
from harness import TENANT, Platform, until

HUB = "hub_" + TENANT
POLL_S = 5
SNAPSHOT_DONE = "SELECT count(*) FROM lifecycle.entity_type WHERE type = 'card' AND snapshot_state = 'done'"


def document(number, text="as it was"):
    return json.dumps({"id": number, "name": f"card {number}", "score": number * 7919 % 100000 / 8, "enabled": number % 3 == 0, "notes": text * 8})


class Folder:
    """A platform of one stage whose agent watches one folder."""

    def __init__(self, form, key=""):
        self.p = Platform(stages=["dev"], origins=(), types=[{"type": "card", "owner": "dev"}])
        self.folder = self.p.path("cards")
        os.mkdir(self.folder)
        source = {"name": "cards", "type": "card", "path": self.folder, "format": form, "poll": f"{POLL_S}s"}
        self.p.extra_agent["dev"] = {"directories": [{**source, **({"key": key} if key else {})}]}

    def __enter__(self):
        self.p.__enter__()
        return self

    def __exit__(self, *exc):
        self.p.__exit__(*exc)

    def put(self, name, text):
        """As a careful writer does: beside it, then renamed."""
        with open(os.path.join(self.folder, "." + name), "w") as f:
            f.write(text)
        os.rename(os.path.join(self.folder, "." + name), os.path.join(self.folder, name))

    def start(self, asker, rows):
        """Seconds from the start of the agent until everything is in the view, and the CPU that the agent took."""
        begin = time.monotonic()
        self.p.start_agent("dev")
        took = asker.until("the snapshot is complete", SNAPSHOT_DONE, lambda answer: answer == "1", 600) - begin
        found = int(asker.ask("SELECT count(*) FROM dev.card"))
        if found != rows:
            raise AssertionError(f"{found} rows in the view, not {rows}")
        return took, self.agent.cpu_s()

    @property
    def agent(self):
        return self.p.agents["dev"]

    def restart(self, asker):
        """Seconds and CPU from a start with everything known until a change made before it is in the view."""
        self.agent.stop()
        self.put("000007.json", document(7, "while nobody looked"))
        begin = time.monotonic()
        self.p.start_agent("dev")
        took = asker.until("the change is visible", "SELECT count(*) FROM dev.card WHERE key = '000007' AND document::text LIKE '%nobody looked%'", lambda answer: answer == "1") - begin
        return took, self.agent.cpu_s()

    def quiet(self, passes):
        """CPU of one pass in which nothing changed, in ms."""
        time.sleep(POLL_S)     # the start is over
        before = self.agent.cpu_s()
        time.sleep(passes * POLL_S)
        return (self.agent.cpu_s() - before) / passes * 1000

    def change(self, asker, number):
        """Milliseconds from the renaming of one changed file until its text is in the view."""
        text = f"change {number}."
        self.put(f"{number:06d}.json", document(number, text))
        begin = time.monotonic()
        seen = asker.until("the change is visible", f"SELECT count(*) FROM dev.card WHERE key = '{number:06d}' AND document::text LIKE '%{text}%'",
                           lambda answer: answer == "1", 60, 0.001)
        return (seen - begin) * 1000

    def rss(self):
        return self.agent.rss_mb()


@bench("entities.directory.files")
def files(m):
    count = m.sizes["files"]
    with Folder("json") as f, Asker(f.p.dsn_cached(HUB)) as asker:
        for number in range(count):
            with open(os.path.join(f.folder, f"{number:06d}.json"), "w") as out:
                out.write(document(number))
        until("the last file is older than the agent asks", lambda: time.time() - os.stat(os.path.join(f.folder, f"{count - 1:06d}.json")).st_mtime > POLL_S, POLL_S + 5)
        f.p.start_hub()
        took, cpu = f.start(asker, count)
        m.figure("start.seconds", took, "s", "lower", note=f"start of the agent on {count:,} files it never saw, until all are in the sync view")
        m.figure("start.cpu", cpu, "s", "lower", note="CPU of the agent for that")
        m.figure("pass.cpu", f.quiet(4), "ms", "lower", note=f"CPU of the agent for one look at {count:,} files, nothing changed, every {POLL_S} s")
        delays = sorted(f.change(asker, number) for number in range(1000, 1010))
        m.figure("change.p50", delays[len(delays) // 2], "ms", "lower", note="one file renamed over another until the change is in the sync view, ten times")
        m.figure("change.max", delays[-1], "ms", "lower")
        took, cpu = f.restart(asker)
        m.figure("restart.seconds", took, "s", "lower", note="start with everything known, until a change that was made before it is in the sync view")
        m.figure("restart.cpu", cpu, "s", "lower", note="CPU of the agent for that")
        m.figure("memory", f.rss(), "MB", "lower", note="resident memory of the agent then")


@bench("entities.directory.rows")
def rows(m):
    count = m.sizes["files"]
    with Folder("jsonl", "id") as f, Asker(f.p.dsn_cached(HUB)) as asker:
        f.put("all.jsonl", "".join(document(number) + "\n" for number in range(count)))
        f.p.start_hub()
        took, cpu = f.start(asker, count)
        m.figure("start.seconds", took, "s", "lower", note=f"start of the agent on one file of {count:,} JSON lines, until all are in the sync view")
        m.figure("start.cpu", cpu, "s", "lower", note="CPU of the agent for that")
        before = f.agent.cpu_s()
        f.put("all.jsonl", "".join(document(number, "changed." if number == 500 else "as it was") + "\n" for number in range(count)))
        begin = time.monotonic()
        seen = asker.until("the change is visible", "SELECT count(*) FROM dev.card WHERE id = '500' AND document::text LIKE '%changed.%'", lambda answer: answer == "1", 120, 0.01)
        m.figure("change.seconds", seen - begin, "s", "lower", note="one of those lines changed, the file renamed over the old one, until it is in the sync view")
        m.figure("change.cpu", f.agent.cpu_s() - before, "s", "lower", note="CPU of the agent for that")
        m.figure("memory", f.rss(), "MB", "lower", note="resident memory of the agent then")
