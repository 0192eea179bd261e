"""From a merge to the artifact in place: journey 1, one stage, the forge of the hub itself, real Kafka."""
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
