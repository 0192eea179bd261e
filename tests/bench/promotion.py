"""From a merge to the artifact in place: journey 1, one stage, the forge of the hub itself, real Kafka."""
import json
import os
import subprocess
import time

from frame import Asker, bench
from harness import TENANT, Platform, until

MERGES = 20


def git(cwd, *args):
    return subprocess.run(["git", "-c", "user.name=bench", "-c", "user.email=bench@example.org", "-c", "init.defaultBranch=main", *args], cwd=cwd, check=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True).stdout.strip()


def commit(work, name):
    with open(os.path.join(work, name), "w") as f:
        f.write(name + "\n" + "x" * 4096 + "\n")
    git(work, "add", name)
    git(work, "commit", "-qm", name)


IN_PLACE = "SELECT count(*) FROM lifecycle.occupancy WHERE stage = 'dev' AND verified_at IS NOT NULL"


def quantile(values, q):
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


@bench("promotion.merge")
def merge(m):
    with Platform(stages=["dev"], origins=("model",)) as p:
        p.start()
        forge, work = p.path("forge", "model.git"), p.path("work")
        until("the repository is there", lambda: os.path.isdir(forge), 30)
        git(p.dir, "clone", "-q", forge, work)
        commit(work, "first")
        git(work, "push", "-q", "origin", "HEAD:refs/heads/main")
        until("the first artifact is in place", lambda: p.hub_sql(IN_PLACE) == "1", 60)
        git(work, "fetch", "-q", "origin")
        base = git(work, "rev-parse", "HEAD")
        for i in range(MERGES):
            git(work, "checkout", "-qb", f"feature-{i}", base)
            commit(work, f"file-{i}")
            p.cli("push", "--wait", "--title", f"feature {i}", stage="dev", cwd=work)
        numbers = [int(n) for n in p.hub_sql("SELECT number FROM lifecycle.pull_request WHERE state = 'open' ORDER BY number").split()]
        if len(numbers) != MERGES:
            raise AssertionError(f"{len(numbers)} pull requests are open, not {MERGES}")
        took = []
        with Asker(p.dsn_cached("hub_" + TENANT)) as asker:
            for i, number in enumerate(numbers):
                begin = time.monotonic()
                p.cli("merge", "model", number)
                took.append((asker.until(f"merge {number} is in place", IN_PLACE, lambda answer, i=i: int(answer) >= i + 2, 60) - begin) * 1000)
        note = f"{MERGES} merges of a pull request, from `stagebridge merge` until the artifact is deployed and healthy in the first stage, hook and health check included"
        m.figure("p50", quantile(took, 0.5), "ms", "lower", note=note)
        m.figure("p99", quantile(took, 0.99), "ms", "lower")


# 100 origins with 2 artifacts each, each waiting for each of 5 stages: 1,000 promotions; two yes and two statuses on each, so that every gate has something to read
WAITING = """
INSERT INTO lifecycle.origin (name, repository) SELECT 'o' || n, 'o' || n FROM generate_series(1, 100) n;
INSERT INTO lifecycle.artifact (id, origin, commit_oid, tree_oid, kind, title, author, committed_at, manifest)
  SELECT encode(sha256(('o' || n || '/' || k)::bytea), 'hex'), 'o' || n, left(encode(sha256(('c' || n || '/' || k)::bytea), 'hex'), 40), repeat('d', 40), 'hotfix', 't', 'ann', now(), '{}'
  FROM generate_series(1, 100) n, generate_series(1, 2) k;
INSERT INTO lifecycle.promotion (id, origin, artifact, stage, kind, requested_by)
  SELECT 'p' || row_number() OVER (), a.origin, a.id, s.name, 'manual', 'ann' FROM lifecycle.artifact a, lifecycle.stage s;
INSERT INTO lifecycle.approval (promotion, person, decision, artifact) SELECT p.id, x, 'approve', p.artifact FROM lifecycle.promotion p, unnest(ARRAY['maria', 'tom']) x;
INSERT INTO lifecycle.commit_status (origin, oid, context, state, reporter) SELECT origin, commit_oid, x, 'success', 'ci' FROM lifecycle.artifact, unnest(ARRAY['ci/build', 'scan']) x;
ANALYZE;
"""
POLICY = """policy: bench
version: "1"
groups: [{ name: release, members: [maria, tom, ines] }]
edges:
"""
EDGE = """  - edge: %s..%s
    mode: manual
    soak: { min: 1h }
    approvals: { min: 2, rules: [{ group: release }] }
    statuses: { required: [ci/build, scan] }
    windows:
      allow: [{ name: hours, tz: Europe/Paris, start: 2026-01-05T09:00, duration: 8h, rrule: "FREQ=WEEKLY;BYDAY=MO,TU,WE,TH" }]
      deny: [{ name: always, start: 2020-01-01, duration: 365d, rrule: FREQ=DAILY }]
"""


def metric(p, name):
    for line in p.get("/metrics", raw=True).splitlines():
        if line.startswith(name + "{") or line.startswith(name + " "):
            return float(line.split()[-1])
    return None


@bench("promotion.evaluate")
def evaluate(m):
    stages = ["dev", "train", "qa", "preprod", "prod"]
    with Platform(brokers="mock", stages=stages, modes={s: "manual" for s in stages}, origins=("model",)) as p:
        with open(p.hub_file) as f:
            settings = json.load(f)
        settings["tenants"][0]["policy"] = p.path("policy.yaml")
        p._write("hub.yaml", settings)
        with open(p.path("policy.yaml"), "w") as f:
            f.write(POLICY + "".join(EDGE % (a, b) for a, b in zip(["main", *stages], stages)))
        p.start_hub()
        until("the hub leads", lambda: metric(p, "stagebridge_promotions_waiting") == 0, 30)
        p.hub_sql(WAITING)
        until("all of them are judged", lambda: p.hub_sql("SELECT count(*) FROM lifecycle.promotion WHERE state = 'GATED' AND waiting_for <> ''") == "1000", 120)
        until("all of them are looked at", lambda: metric(p, "stagebridge_promotions_waiting") == 1000, 30)
        took, last, end = [], None, time.monotonic() + 60
        while len(took) < 20 and time.monotonic() < end:
            now = metric(p, "stagebridge_promotions_evaluate_seconds")
            if now != last:
                took.append(now * 1000)
                last = now
            time.sleep(0.1)
        took = took[1:]    # the first may be of a look in which rows were still written
        m.figure("look", quantile(took, 0.5), "ms", "lower",
                 note="one look at 1,000 waiting promotions over 100 origins and 5 stages: facts by one query, every gate of each judged; by the hub's own metric")
