"""The frame of the benchmarks: the table of benches, what a bench measures into, and the file of results; page.py makes the page of it.

A bench is a function that takes a Measure and calls `figure` on it once per figure; @bench("name") puts it into the table. Names of figures begin with the
bench's: "entities.snapshot" gives "entities.snapshot.rows_per_s". What was measured beside it in the same run on the same data, a plain COPY for instance, is
its `peer`. A bench that is `compared` measures the same figures on other programs too, each within `with m.of(name) as part`: their ratio to ours is taken run
by run."""
import contextlib
import json
import os
import platform
import statistics
import subprocess
import time

from sizes import sizes

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("SB_BUILD", os.path.join(ROOT, "build"))
RESULTS = os.path.join(ROOT, "build", "bench", "results.jsonl")
BENCHES = {}
COMPARED = set()    # the names of those that measure peers too
US = "stagebridge"


def bench(name, compared=False):
    def register(function):
        BENCHES[name] = function
        if compared:
            COMPARED.add(name)
        return function
    return register


class Measure:
    """Figures of one bench, over all runs."""

    def __init__(self, name, options):
        self.name, self.options, self.sizes = name, options, sizes(options)
        self.figures = {}
        self.run, self.who = 0, US
        self.failed = {}    # who -> the first line of why
        self.loads = []     # of the machine before each run: what else it was busy with

    def figure(self, name, value, unit, better, peer=None, peer_value=None, note="", target=None):
        """One figure of this run. better: "higher" or "lower"; target: (">=" or "<=", value), what was promised of ours."""
        f = self.figures.setdefault(f"{self.name}.{name}", {"unit": unit, "better": better, "peer": peer, "note": note, "target": target, "by": {}, "peers": []})
        f["by"].setdefault(self.who, {})[self.run] = value
        if self.who == US:
            f["note"] = note    # those of peers may tell of another length
            if peer:
                f["peers"].append(peer_value)
        print(f"    {self.name}.{name}: {short(value)} {unit}" + (f", {peer}: {short(peer_value)}" if peer else "") + (f"   [{self.who}]" if self.who != US else ""), flush=True)

    @contextlib.contextmanager
    def of(self, who):
        """The figures within are those of another program; when it fails that is noted, and this bench goes on. Our own failure is the bench's."""
        self.who = who
        try:
            yield self
        except Exception as e:  # noqa: BLE001 - reported in the page and at the end
            if who == US:
                raise
            self.failed.setdefault(who, " ".join(str(e).split())[:300])
            print(f"  FAILED {self.name} of {who}: {e}", flush=True)
        finally:
            self.who = US

    def results(self, at):
        for name, f in self.figures.items():
            ours = f["by"].get(US)
            if not ours:
                continue
            value = statistics.median(ours.values())
            line = {"name": name, "value": tidy(value), "unit": f["unit"], "better": f["better"], "at": at,
                    "runs": [tidy(v) for v in ours.values()], "note": f["note"], "load": round(max(self.loads), 1)}
            if f["peer"]:
                line.update(peer=f["peer"], peer_value=tidy(statistics.median(f["peers"])), peer_runs=[tidy(v) for v in f["peers"]],
                            ratio=round(statistics.median(v / p for v, p in zip(ours.values(), f["peers"]) if p), 3))
            if f["target"]:
                relation, wanted = f["target"]
                line.update(target=f"{relation} {wanted:,g}", met=value >= wanted if relation == ">=" else value <= wanted)
            if others := {who: compared(ours, runs, f["better"]) for who, runs in f["by"].items() if who != US}:
                line["others"] = others
            if self.failed:
                line["failed"] = self.failed
            yield line


def compared(ours, theirs, better):
    """What the page says of another program's figure: "times" is how many times better ours is, from the runs that have both."""
    both = [(ours[run], theirs[run]) for run in theirs if run in ours and ours[run] and theirs[run]]
    times = [a / b if better == "higher" else b / a for a, b in both]
    return {"value": tidy(statistics.median(theirs.values())), "runs": [tidy(v) for v in theirs.values()], "times": round(statistics.median(times), 2) if times else None}


class Asker:
    """One open psql that answers queries of one value: polling with it costs what is measured next to nothing."""

    def __init__(self, dsn):
        self.psql = subprocess.Popen(["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", dsn], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)

    def tell(self, sql):
        """Sends statements that answer nothing."""
        with contextlib.suppress(BrokenPipeError):   # the next question finds its last words
            self.psql.stdin.write(sql + "\n")

    def ask(self, sql):
        self.tell(sql + ";")
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
    then on; its name is returned, and that of each peer that failed."""
    measures = {n: Measure(n, options) for n in names}
    failed = []
    try:
        for i in range(runs):
            for name, m in measures.items():
                if name not in failed and not attempt(m, i, runs):
                    failed.append(name)
    finally:    # also when interrupted: what was measured is kept
        if not options.quick:
            keep([m for name, m in measures.items() if name not in failed])
    return failed + [f"{name} of {who}" for name, m in measures.items() for who in m.failed]


def attempt(m, i, runs):
    print(f"  {m.name}, run {i + 1} of {runs}", flush=True)
    m.run = i
    m.loads.append(os.getloadavg()[0])
    begin = time.monotonic()
    try:
        BENCHES[m.name](m)
    except Exception as e:  # noqa: BLE001 - the others go on
        print(f"  FAILED {m.name}: {e}", flush=True)
        return False
    print(f"    took {time.monotonic() - begin:.0f} s", flush=True)
    return True


def keep(measures):
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    os.makedirs(os.path.dirname(RESULTS), exist_ok=True)
    with open(RESULTS, "a") as f:
        for m in measures:
            for line in m.results(at):
                f.write(json.dumps({**line, "machine": machine()}) + "\n")


def machine():
    cpu, memory = platform.machine(), 0
    with open("/proc/cpuinfo") as f:
        cpu = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), cpu)
    with open("/proc/meminfo") as f:
        memory = int(next(line.split()[1] for line in f if line.startswith("MemTotal"))) / 1048576
    return f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} × {cpu}, {memory:.0f} GB, Linux {platform.release()}"
