"""The frame of the benchmarks: the table of benches, what a bench measures into, the file of results and the page.

A bench is a function that takes a Measure and calls `figure` on it once per figure; @bench("name") puts it into the table. Names of figures begin with the
bench's: "entities.snapshot" gives "entities.snapshot.rows_per_s". A peer is something else that was measured in the same run on the same data, for
comparison: its ratio to us is taken run by run."""
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("SB_BUILD", os.path.join(ROOT, "build"))
RESULTS = os.path.join(ROOT, "build", "bench", "results.jsonl")
PAGE = os.path.join(ROOT, "docs", "benchmarks.md")
BENCHES = {}


def bench(name):
    def register(function):
        BENCHES[name] = function
        return function
    return register


class Measure:
    """Figures of one bench, over all runs."""

    def __init__(self, name, options):
        self.name, self.options = name, options
        self.figures = {}
        self.loads = []   # of the machine before each run: what else it was busy with

    def figure(self, name, value, unit, better, peer=None, peer_value=None, note=""):
        f = self.figures.setdefault(f"{self.name}.{name}", {"unit": unit, "better": better, "peer": peer, "note": note, "runs": [], "peers": []})
        f["runs"].append(value)
        if peer:
            f["peers"].append(peer_value)
        print(f"    {self.name}.{name}: {short(value)} {unit}" + (f", {peer}: {short(peer_value)}" if peer else ""), flush=True)

    def results(self, at):
        for name, f in self.figures.items():
            line = {"name": name, "value": tidy(statistics.median(f["runs"])), "unit": f["unit"], "better": f["better"], "at": at,
                    "runs": [tidy(v) for v in f["runs"]], "note": f["note"], "load": round(max(self.loads), 1)}
            if f["peer"]:
                line.update(peer=f["peer"], peer_value=tidy(statistics.median(f["peers"])), peer_runs=[tidy(v) for v in f["peers"]],
                            ratio=round(statistics.median(v / p for v, p in zip(f["runs"], f["peers"]) if p), 3))
            yield line


class Asker:
    """One open psql that answers queries of one value: polling with it costs what is measured next to nothing."""

    def __init__(self, dsn):
        self.psql = subprocess.Popen(["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", dsn], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)

    def ask(self, sql):
        try:
            self.psql.stdin.write(sql + ";\n")
        except BrokenPipeError:
            pass    # its last words say why
        line = self.psql.stdout.readline()
        if not line:
            raise AssertionError("psql: " + self.psql.stderr.read().strip())
        return line.rstrip("\n")

    def until(self, what, sql, good, seconds=300, every=0.005):
        """Polls until good(answer); returns the time at which it was so."""
        end = time.monotonic() + seconds
        while True:
            answer = self.ask(sql)
            now = time.monotonic()
            if good(answer):
                return now
            if now > end:
                raise AssertionError(f"not within {seconds} s: {what} (last: {answer})")
            time.sleep(every)

    def close(self):
        self.psql.stdin.close()
        self.psql.wait()

    __enter__, __exit__ = lambda self: self, lambda self, *exc: self.close()


def tidy(value):
    return round(value, 3) if abs(value) < 1000 else round(value)


def short(value):
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def run(names, runs, options):
    """Runs the benches one after the other, `runs` rounds, so that no figure comes from one moment of the machine. A bench that fails is left out from
    then on; its name is returned."""
    measures = {n: Measure(n, options) for n in names}
    failed = []
    for i in range(runs):
        for name, m in measures.items():
            if name in failed:
                continue
            print(f"  {name}, run {i + 1} of {runs}", flush=True)
            m.loads.append(os.getloadavg()[0])
            begin = time.monotonic()
            try:
                BENCHES[name](m)
            except Exception as e:  # noqa: BLE001 - the others go on
                print(f"  FAILED {name}: {e}", flush=True)
                failed.append(name)
            else:
                print(f"    took {time.monotonic() - begin:.0f} s", flush=True)
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    os.makedirs(os.path.dirname(RESULTS), exist_ok=True)
    with open(RESULTS, "a") as f:
        for name, m in measures.items():
            if name not in failed:
                for line in m.results(at):
                    f.write(json.dumps({**line, "machine": machine()}) + "\n")
    return failed


# -- the page -------------------------------------------------------------------------------------------------------------------------


def first_line(*argv):
    if not shutil.which(argv[0]):
        return "not installed"
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return (done.stdout.strip().splitlines() or [""])[0]


def machine():
    cpu, memory = platform.machine(), 0
    with open("/proc/cpuinfo") as f:
        cpu = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), cpu)
    with open("/proc/meminfo") as f:
        memory = int(next(line.split()[1] for line in f if line.startswith("MemTotal"))) / 1048576
    return f"{os.cpu_count()} × {cpu}, {memory:.0f} GB, Linux {platform.release()}"


def versions():
    server = first_line(os.path.join(ROOT, "tests", "services", "postgres.sh"), "install")
    out = [("stagebridge", first_line(os.path.join(BUILD, "broker-agent", "broker-agent"), "--version").split()[-1]),
           ("PostgreSQL", re.search(r"[0-9.]+", first_line(os.path.join(server, "postgres"), "--version"))[0])]
    with open(os.path.join(ROOT, "tests", "services", "kafka.sh")) as f:
        out.append(("Kafka", next(line.split("=")[1].strip() for line in f if line.startswith("VERSION="))))
    for library in ("rdkafka", "libpq", "libgit2", "libsodium"):
        out.append((library, first_line("pkg-config", "--modversion", library)))
    return out


def newest():
    """The last result of each figure, in the order of their names."""
    last = {}
    if os.path.exists(RESULTS):
        with open(RESULTS) as f:
            for line in f:
                r = json.loads(line)
                last[r["name"]] = r
    return [last[n] for n in sorted(last)]


def row(r):
    spread = f"{short(min(r['runs']))} to {short(max(r['runs']))}" if len(r["runs"]) > 1 else ""
    peer = f"{r['peer']}: {short(r['peer_value'])} (ratio {r['ratio']:.2f})" if r.get("peer") else ""
    return f"| `{r['name']}` | {short(r['value'])} {r['unit']} | {spread} | {r['better']} | {peer} | {r.get('note', '')} | {r['at'][:10]} | {r.get('load', 0):.1f} |"


def render():
    results = newest()
    text = ["# Benchmarks", "",
            "Made by `make bench` (`make bench ONLY=entities.latency` for one; `ARGS=--runs=1` for a quick look). Every figure is the median of the runs named beside it,",
            "on one machine that carries everything: the stages' Kafka, PostgreSQL with the sources and the sync view, the agents, the hub and the load itself.",
            "Rows have 11 columns and 365 bytes. How each figure is taken is said in `tests/bench/`. Load is that of the machine before the bench began: where it is not near 0, something",
            "else was running and the figure is too low.", "",
            "Machine: " + "; ".join(sorted({r["machine"] for r in results})) + ".  ",
            "Versions: " + ", ".join(f"{n} {v}" for n, v in versions()) + ".", "",
            "| figure | median | lowest to highest run | better | in the same run | what it is | date | load |", "|---|---|---|---|---|---|---|---|"]
    text += [row(r) for r in results]
    os.makedirs(os.path.dirname(PAGE), exist_ok=True)
    with open(PAGE, "w") as f:
        f.write("\n".join(text) + "\n")
