"""docs/benchmarks.md, made of the newest result of each figure. What is compared and what was promised comes first, every figure last."""
import json
import os
import re
import shutil
import subprocess

from frame import BUILD, RESULTS, ROOT, US, short
from peers import PEERS
from pipelines import POSTGRES, pinned

PAGE = os.path.join(ROOT, "docs", "benchmarks.md")
BOUND = os.path.join(ROOT, "tests", "bench", "bound.md")    # what bounds us, written by who profiled it
TIMES = {"Debezium, as shipped": 10, "Debezium, tuned": 5, "Debezium, schema apart": 5}  # how many times as many rows a second as the peer we promise

# (what, figure) of the first table
SUMMARY = (("first snapshot", "entities.snapshot.rows_per_s"), ("one transaction of 100,000 rows", "entities.stream.transaction.rows_per_s"),
           ("a backlog in transactions of 100", "entities.stream.hundreds.rows_per_s"), ("a backlog of single rows", "entities.stream.singles.rows_per_s"),
           ("commit to visible, 1,000 a second: p50", "entities.latency.busy.p50"), ("p95", "entities.latency.busy.p95"), ("p99", "entities.latency.busy.p99"),
           ("max", "entities.latency.busy.max"), ("commit to visible, one a second: p50", "entities.latency.quiet.p50"), ("p99", "entities.latency.quiet.p99"),
           ("CPU, snapshot", "entities.snapshot.cpu"), ("CPU, one transaction", "entities.stream.transaction.cpu"), ("CPU, single rows", "entities.stream.singles.cpu"),
           ("highest memory, snapshot", "entities.snapshot.peak"), ("highest memory, stream", "entities.stream.peak"))


def first_line(*argv):
    if not shutil.which(argv[0]):
        return "not installed"
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return (done.stdout.strip().splitlines() or [""])[0]


def versions():
    server = first_line(os.path.join(ROOT, "tests", "services", "postgres.sh"), "install")
    out = [("stagebridge", first_line(os.path.join(BUILD, "broker-agent", "broker-agent"), "--version").split()[-1]),
           ("PostgreSQL", re.search(r"[0-9.]+", first_line(os.path.join(server, "postgres"), "--version"))[0]), ("Kafka", pinned("kafka.sh"))]
    return out + [(library, first_line("pkg-config", "--modversion", library)) for library in ("rdkafka", "libpq", "libgit2", "libsodium")]


def newest():
    """{name: last result of the figure}, in the order of the names."""
    last = {}
    if os.path.exists(RESULTS):
        with open(RESULTS) as f:
            for line in f:
                r = json.loads(line)
                last[r["name"]] = r
    return {n: last[n] for n in sorted(last)}


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows), ""]


def verdict(r):
    if not r.get("target"):
        return ""
    wanted = f"{r['target'].replace('>=', '≥').replace('<=', '≤')} {r['unit']}".strip()
    return f"{wanted}: {'met' if r['met'] else '**not met**'}"


def against(r, who):
    """A cell of the summary: how many times better we are, and the peer's figure."""
    other = r.get("others", {}).get(who)
    if not other:
        return "failed" if who in r.get("failed", {}) else "–"
    cell = f"**{other['times']:.1f}×** ({short(other['value'])})" if other["times"] else short(other["value"])
    if who in TIMES and r["unit"] == "rows/s":
        cell += f", ≥ {TIMES[who]}×: {'met' if other['times'] >= TIMES[who] else '**not met**'}"
    return cell


def summary(results):
    rows = [(r, what) for what, name in SUMMARY if (r := results.get(name))]
    if not rows:
        return []
    copy = results.get("entities.snapshot.rows_per_s")
    text = ["## Summary", "", "How many times better stagebridge is, then the peer's own figure. Targets stand where there are any.", ""]
    text += table(["", US, "target", *(peer.name for peer in PEERS)],
                  [[what, f"{short(r['value'])} {r['unit']}", verdict(r), *(against(r, peer.name) for peer in PEERS)] for r, what in rows])
    if copy and copy.get("peer"):
        text += [f"A plain `COPY` into the same table, in the same runs: {short(copy['peer_value'])} rows/s; our first snapshot reaches {copy['ratio']:.0%} of it.", ""]
    for who, why in sorted({(who, why) for r, _ in rows for who, why in r.get("failed", {}).items()}):
        text += [f"{who} failed: {why}", ""]
    return text


def promises(results):
    rows = [r for name, r in results.items() if r.get("target") and name not in {figure for _, figure in SUMMARY}]
    if not rows:
        return []
    return ["## Memory, growth and other promises", "",
            *table(["figure", "median", "promised", "what it is"], [[f"`{r['name']}`", f"{short(r['value'])} {r['unit']}", verdict(r), r["note"]] for r in rows])]


def bar(value, highest, width=30):
    return "`" + "█" * max(1, round(value / highest * width)) + "`"


def by_number(results, pattern):
    """[(number in the name, result)] of the figures that match, by number."""
    found = [(int(match[1]), r) for name, r in results.items() if (match := re.fullmatch(pattern, name))]
    return sorted(found, key=lambda pair: pair[0])


def batches(results):
    rows = by_number(results, r"entities\.batch\.(\d+)\.cpu")
    if not rows:
        return []
    highest = max(r["value"] for _, r in rows)
    rates = dict(by_number(results, r"entities\.batch\.(\d+)\.rows_per_s"))
    return ["## What a row costs, by the size of its transaction", "", "CPU of agent and hub together, over a backlog of such transactions.", "",
            *table(["rows in a transaction", "rows/s", "CPU, µs a row", ""], [[f"{size:,}", short(rates[size]["value"]), short(r["value"]), bar(r["value"], highest)] for size, r in rows])]


def grown(results):
    inserts = by_number(results, r"entities\.growth\.inserts\.(\d+)")
    if not inserts:
        return []
    updates, highest = dict(by_number(results, r"entities\.growth\.updates\.(\d+)")), max(r["value"] for _, r in inserts)
    return ["## As the sync view grows", "", "One transaction of inserts, one of updates of rows all over the table, from the commit until the last is visible.", "",
            *table(["rows in the view", "inserts/s", "updates/s", "inserts/s"], [[f"{size:,}", short(r["value"]), short(updates[size]["value"]), bar(r["value"], highest)] for size, r in inserts])]


def bound():
    if not os.path.exists(BOUND):
        return []
    with open(BOUND) as f:
        return ["## What bounds us", "", f.read().strip(), ""]


def peers():
    text = ["## The peers and their settings", "",
            f"Every pipeline has a fresh PostgreSQL ({', '.join(f'`{s}`' for s in POSTGRES)}, else as delivered) and a fresh Kafka broker, the same for all; "
            "source and target are two databases of that server, the target table is made before, with the source's columns and key. "
            "The peers' processes run before their clocks start; ours starts with its agent. Everything shares the same two cores.", ""]
    for peer in PEERS:
        text += [f"- **{peer.name}** ({peer.version()}). {' '.join(peer.__doc__.split())} "
                 + "; ".join(peer.describe()) + "."]
    return [*text, ""]


def spread(runs):
    return f"{short(min(runs))} to {short(max(runs))}" if len(runs) > 1 else ""


def details(results):
    rows = []
    for name, r in results.items():
        beside = [f"{r['peer']}: {short(r['peer_value'])} (ratio {r['ratio']:.2f})"] if r.get("peer") else []
        beside += [f"{who}: {short(o['value'])}" + (f" ({spread(o['runs'])})" if len(o["runs"]) > 1 else "") for who, o in r.get("others", {}).items()]
        rows.append([f"`{name}`", f"{short(r['value'])} {r['unit']}", spread(r["runs"]), r["better"], "; ".join(beside), r.get("note", ""), r["at"][:10], f"{r.get('load', 0):.1f}"])
    return ["## Every figure", "", *table(["figure", "median", "lowest to highest run", "better", "in the same run", "what it is", "date", "load"], rows)]


def page(results):
    text = ["# Benchmarks", "",
            "Made by `make bench` (`make bench ONLY=entities.latency` for one; `ARGS=--quick` to see that they work; `ARGS=--peers=none` without other programs). Every figure is the",
            "median of the runs named beside it; the runs of all benches and programs are interleaved. One machine carries everything: Kafka, PostgreSQL with the sources and the targets,",
            "agents, hub or peer, and the load itself. Rows have 11 columns and 365 bytes. Load is that of the machine before the bench began: where it is not near 0, something else was",
            "running and the figure is too low.", "",
            "Machine: " + "; ".join(sorted({r["machine"] for r in results.values()})) + ".  ",
            "Versions: " + ", ".join(f"{n} {v}" for n, v in versions()) + ".", ""]
    for part in (summary(results), bound(), promises(results), batches(results), grown(results), peers(), details(results)):
        text += part
    return "\n".join(text).rstrip("\n") + "\n"


def render():
    os.makedirs(os.path.dirname(PAGE), exist_ok=True)
    with open(PAGE, "w") as f:
        f.write(page(newest()))
