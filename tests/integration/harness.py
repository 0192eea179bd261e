"""A whole platform on one machine: five stages with a broker each, PostgreSQL, a forge, agents and a hub, all real processes.

Used by the integration tests and by the benchmarks. Everything lives below one temporary folder and is stopped at the end. Nothing here
waits for a fixed time: `until` polls a condition against a deadline and says what it waited for.
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("SB_BUILD", os.path.join(ROOT, "build"))
SERVICES = os.path.join(ROOT, "tests", "services")
TENANT = "acme"
STAGES = ["dev", "train", "preprod", "prod", "explore"]


class Failure(AssertionError):
    pass


def until(what, condition, seconds=30.0, every=0.05):
    """Waits until condition() is true (and returns its value); raises Failure naming what was awaited and the last error."""
    end = time.monotonic() + seconds
    last = None
    while True:
        try:
            value = condition()
            if value:
                return value
            last = value
        except (subprocess.CalledProcessError, urllib.error.URLError, ConnectionError, json.JSONDecodeError, Failure) as e:
            last = e
        if time.monotonic() >= end:
            raise Failure(f"not within {seconds:g} s: {what} (last: {str(last)[:600]})")
        time.sleep(every)


def service(name, *args, timeout=900):
    """Runs a script of tests/services and returns the last line that it printed."""
    done = subprocess.run([os.path.join(SERVICES, name + ".sh"), *map(str, args)], stdout=subprocess.PIPE, text=True, timeout=timeout)
    if done.returncode != 0:
        raise Failure(f"{name}.sh {' '.join(map(str, args))} failed with {done.returncode}")
    lines = done.stdout.strip().splitlines()
    return lines[-1] if lines else ""


def parallel(*calls):
    """Runs the calls at the same time; raises the first error."""
    errors = []

    def run(call):
        try:
            call()
        except BaseException as e:  # noqa: BLE001 - carried to the caller's thread
            errors.append(e)

    threads = [threading.Thread(target=run, args=(c,)) for c in calls]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]


class Process:
    """A daemon under test: started, killed, frozen, its log kept."""

    def __init__(self, name, argv, log, env=None):
        self.name, self.argv, self.log, self.env = name, argv, log, env
        self.child = None

    def start(self):
        out = open(self.log, "ab")
        self.child = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=ROOT, env=self.env)
        out.close()
        return self

    def alive(self):
        return self.child is not None and self.child.poll() is None

    def kill(self):
        if self.alive():
            self.child.kill()
        if self.child:
            self.child.wait()

    def stop(self, seconds=20):
        if self.alive():
            self.child.terminate()
            try:
                self.child.wait(seconds)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
                raise Failure(f"{self.name} did not stop within {seconds} s of SIGTERM")
        return self.child.returncode if self.child else None

    def freeze(self):
        self.child.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.child.send_signal(signal.SIGCONT)

    def rss_mb(self):
        with open(f"/proc/{self.child.pid}/status") as f:
            for line in f:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) / 1024
        return 0.0

    def cpu_s(self):
        with open(f"/proc/{self.child.pid}/stat") as f:
            parts = f.read().rsplit(")", 1)[1].split()
        return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")

    def text(self):
        with open(self.log, errors="replace") as f:
            return f.read()


class Platform:
    """`brokers`: "kafka" (real, one per stage) or "mock" (in process). `forge`: "gitea" or "bare". `apart`: every stage's database is on a server of
    its own, which can be killed alone; `postgres`: settings of the servers, key=value. `databases`: further databases of stages, each a source of the stage's
    agent: name -> {"stage": ..., "tables": [...], and what else the source's settings have}; on a server of its own unless "apart" is False."""

    def __init__(self, brokers="kafka", forge="bare", stages=None, sources=None, types=None, datasets=None, modes=None, origins=("model",), extra_agent=None,
                 replicas=(), apart=False, postgres=(), databases=None):
        self.dir = tempfile.mkdtemp(prefix="sb-it-")
        os.chmod(self.dir, 0o755)
        self.kind, self.forge_kind = brokers, forge
        self.stages = list(stages or STAGES)
        self.sources = sources or {}        # stage -> list of postgres tables [{table, type, ...}]
        self.types = types or []            # hub: [{type, owner, subscribers, public_down}]
        self.datasets = datasets or []      # hub: [{dataset, from, to}]
        self.modes = modes or {}            # stage -> auto | manual
        self.origins = list(origins)
        self.extra_agent = extra_agent or {}  # stage -> dict merged into the agent's settings
        self.replicas = set(replicas)
        self.apart, self.postgres = apart, list(postgres)
        self.databases = databases or {}
        self.brokers, self.agents, self.hub = {}, {}, None
        self.mock = None
        self.gitea = None
        self.port = None

    # -- life ---------------------------------------------------------------------------------------------------------------------
    def path(self, *parts):
        return os.path.join(self.dir, *parts)

    def __enter__(self):
        try:
            parallel(self._start_brokers, self._start_postgres, self._start_forge)
            self.cli("keys", "dev", self.path("keys"), "--tenant", TENANT, "--stages", ",".join(self.stages))
            if self.kind == "kafka":
                parallel(*[lambda s=s: self.cli("provision", "--servers", self.brokers[s], "--tenant", TENANT, "--stage", s) for s in self.stages])
            self._write_configs()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *exc):
        if exc and exc[0] is not None:
            self.show_logs()
        for p in [*self.agents.values(), self.hub]:
            if p:
                p.kill()
        if self.mock:
            self.mock.stdin.close()
            self.mock.wait()
        stops = [lambda c=c: service("postgres", "stop", c) for c in self.clusters() if os.path.exists(c)]
        if self.kind == "kafka":
            stops += [lambda s=s: service("kafka", "stop", self.path("kafka-" + s)) for s in self.brokers]
        if self.gitea:
            stops.append(lambda: service("gitea", "stop", self.path("gitea")))
        try:
            parallel(*stops)
        finally:
            if not os.environ.get("SB_KEEP"):
                shutil.rmtree(self.dir, ignore_errors=True)

    def show_logs(self, lines=25):
        for p in [*self.agents.values(), self.hub]:
            if p and os.path.exists(p.log):
                tail = p.text().splitlines()[-lines:]
                print(f"--- {p.name} ({'alive' if p.alive() else 'dead'})", *tail, sep="\n", file=sys.stderr)

    def _start_brokers(self):
        if self.kind == "mock":
            self.mock = subprocess.Popen([os.path.join(BUILD, "tools", "mock_brokers"), TENANT, *self.stages], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in self.stages:
                stage, servers = self.mock.stdout.readline().split()
                self.brokers[stage] = servers
            return
        # two at a time: five JVMs at once fight for two cores
        for i in range(0, len(self.stages), 2):
            parallel(*[lambda s=s: self.brokers.__setitem__(s, service("kafka", "start", self.path("kafka-" + s), 0)) for s in self.stages[i:i + 2]])

    def _start_postgres(self):
        parallel(*[lambda c=c: service("postgres", "start", c, *self.postgres) for c in self.clusters()])
        for db in self._all_databases():
            subprocess.run(["psql", "-Xq", service("postgres", "dsn", self.cluster(db)), "-c", f'CREATE DATABASE "{db}"'], check=True)

    def cluster(self, db):
        """The folder of the server that has the database."""
        apart = self.databases[db].get("apart", True) if db in self.databases else self.apart and db in self.stages
        return self.path("pg-" + db if apart else "pg")

    def _all_databases(self):
        return self.stages + list(self.databases) + ["hub_" + TENANT]

    def clusters(self):
        return sorted({self.cluster(db) for db in self._all_databases()})

    def _start_forge(self):
        if self.forge_kind == "gitea":
            self.gitea = service("gitea", "start", self.path("gitea"))
        else:
            os.makedirs(self.path("forge"), exist_ok=True)

    # -- settings -----------------------------------------------------------------------------------------------------------------
    def _write(self, name, value):
        with open(self.path(name), "w") as f:
            json.dump(value, f, indent=1)   # JSON is YAML
        return self.path(name)

    def dsn(self, db):
        return service("postgres", "dsn", self.cluster(db), db)

    def agent_settings(self, stage):
        base = {
            "tenant": TENANT, "stage": stage, "state_dir": self.path("agent-" + stage),
            "broker": {"servers": self.brokers[stage], "fetch_wait": "10ms" if self.kind == "mock" else "100ms"},
            "keys": {"identity": self.path("keys", stage + ".key"), "keyring": self.path("keys", "keyring.json"), "root": self.path("keys", "root.pub")},
            "api": {"socket": self.path(stage + ".sock"), "mode": 666},
            "heartbeat": {"interval": "1s"},
        }
        sources = [{"name": "app", "conninfo": self.dsn(stage), "slot": "stagebridge_" + stage, "publication": "stagebridge",
                    "tables": self.sources[stage]}] if self.sources.get(stage) else []
        sources += [{"name": name, "conninfo": self.dsn(name), **{k: v for k, v in more.items() if k not in ("stage", "apart")}}
                    for name, more in self.databases.items() if more["stage"] == stage]
        if sources:
            base["postgres"] = [{**s, "tables": [{"new_columns": "send", **t} for t in s["tables"]]} for s in sources]  # tests alter tables
        if stage in self.replicas:
            base["replica"] = {"conninfo": self.dsn(stage)}
        if stage != "explore" and self.origins:
            base["origins"] = [{"name": o, "deploy_dir": self.path("deploy-" + stage, o), "hook": [os.path.join(ROOT, "tests", "integration", "hook.sh")],
                                "health": [os.path.join(ROOT, "tests", "integration", "health.sh")], "timeout": "30s",
                                "environment": ["HOOK_LOG=" + self.path(f"hook-{stage}-{o}.log")]} for o in self.origins]
        base.update(self.extra_agent.get(stage, {}))
        return base

    def hub_settings(self):
        forge = {"kind": "bare", "path": self.path("forge"), "poll": "1s"}
        if self.forge_kind == "gitea":
            self._secret("hook-secret", "integration-test-secret-0123456789")
            forge = {"kind": "gitea", "url": self.gitea, "owner": "acme", "token_file": self._secret("gitea-token", service("gitea", "token", self.path("gitea"))),
                     "token_user": "sbadmin", "webhook_secret_file": self.path("hook-secret"), "poll": "5s",
                     "hook_url": f"http://127.0.0.1:{self.port}/hooks/gitea/{TENANT}"}
        stages = []
        for s in self.stages:
            stages.append({"name": s, "broker": {"servers": self.brokers[s], "fetch_wait": "10ms" if self.kind == "mock" else "100ms"},
                           "mode": self.modes.get(s, "auto"), "promoted": s != "explore"})
        return {
            "state_dir": self.path("hub"), "http": {"host": "127.0.0.1", "port": self.port},
            "tokens": [{"name": "root", "file": self._secret("token", "integration-admin-token"), "role": "admin"},
                       {"name": "vera", "file": self._secret("token-viewer", "integration-viewer-token"), "role": "viewer"}],
            "tenants": [{"name": TENANT, "database": self.dsn("hub_" + TENANT),
                         "keys": {"identity": self.path("keys", "hub.key"), "keyring": self.path("keys", "keyring.json"), "root": self.path("keys", "root.pub")},
                         "stages": stages, "types": self.types, "datasets": self.datasets, "forge": forge,
                         "origins": [{"name": o, "repository": o} for o in self.origins]}],
        }

    def _secret(self, name, text):
        path = self.path(name)
        with open(path, "w") as f:
            f.write(text)
        os.chmod(path, 0o600)
        return path

    def _write_configs(self):
        import socket
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.hub_file = self._write("hub.yaml", self.hub_settings())
        for s in self.stages:
            self._write(f"agent-{s}.yaml", self.agent_settings(s))

    # -- daemons ------------------------------------------------------------------------------------------------------------------
    def start_hub(self, name="hub"):
        p = Process(name, [os.path.join(BUILD, "lifecycle-hub", "lifecycle-hub"), "--config", self.hub_file], self.path(name + ".log"))
        p.start()
        if name == "hub":
            self.hub = p
        until("hub answers", lambda: p.alive() and self.get("/healthz", raw=True) is not None, 30)
        return p

    def start_agent(self, stage):
        p = self.agents.get(stage) or Process("agent-" + stage, [os.path.join(BUILD, "broker-agent", "broker-agent"), "--config", self.path(f"agent-{stage}.yaml")],
                                              self.path(f"agent-{stage}.log"))
        self.agents[stage] = p.start()
        until(f"agent {stage} listens", lambda: p.alive() and os.path.exists(self.path(stage + ".sock")), 20)
        return p

    def start(self, stages=None):
        self.start_hub()
        for s in stages or self.stages:
            self.start_agent(s)
        return self

    # -- talking ------------------------------------------------------------------------------------------------------------------
    def psql(self, db, sql, check=True):
        """Runs SQL (through standard input) and returns the rows as tab-separated lines."""
        done = subprocess.run(["psql", "-XqAt", "-F", "\t", "-v", "ON_ERROR_STOP=1", self.dsn_cached(db)], input=sql, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if check and done.returncode != 0:
            raise Failure(f"psql {db}: {done.stderr.strip()[:500]}")
        return done.stdout.rstrip("\n")

    def dsn_cached(self, db):
        if not hasattr(self, "_dsn"):
            self._dsn = {}
        if db not in self._dsn:
            self._dsn[db] = self.dsn(db)
        return self._dsn[db]

    def hub_sql(self, sql, check=True):
        return self.psql("hub_" + TENANT, sql, check)

    def cli(self, *args, stage=None, user=None, check=True, token="token", cwd=None, timeout=120):
        """Runs `stagebridge` as a person: inside a stage (its socket) or at the hub (token). Returns CompletedProcess."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("SB_")}
        env["SB_TENANT"] = TENANT
        if stage:
            env["SB_SOCKET"] = self.path(stage + ".sock")
        elif self.port:
            env["SB_HUB"] = f"http://127.0.0.1:{self.port}"
            if token:
                env["SB_TOKEN_FILE"] = self.path(token)
        argv = [os.path.join(BUILD, "cli", "stagebridge"), *map(str, args)]
        if user:
            argv = ["setpriv", f"--reuid={user}", "--regid=nogroup", "--clear-groups", *argv]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=cwd or self.dir, timeout=timeout)
        if check and done.returncode != 0:
            raise Failure(f"stagebridge {' '.join(map(str, args))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def cli_json(self, *args, **kw):
        return json.loads(self.cli(*args, "-o", "json", **kw).stdout)

    def get(self, path, raw=False, token="integration-admin-token"):
        req = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers={"Authorization": "Bearer " + token} if token else {})
        with urllib.request.urlopen(req, timeout=10) as r:
            body = r.read().decode()
        return body if raw else json.loads(body)

    def agent_metrics(self, stage):
        done = subprocess.run(["curl", "-sf", "--unix-socket", self.path(stage + ".sock"), "http://agent/metrics"], stdout=subprocess.PIPE, check=True, text=True, timeout=10)
        return done.stdout

    # -- comparing ----------------------------------------------------------------------------------------------------------------
    def rows(self, db, relation, order="1"):
        return self.psql(db, f"COPY (SELECT * FROM {relation} ORDER BY {order}) TO STDOUT")

    def same(self, stage, table, type_, order="1"):
        """The sync view equals the source, row by row."""
        return self.rows(stage, table, order) == self.rows("hub_" + TENANT, f'"{stage}"."{type_}"', order)

    def await_same(self, stage, table, type_, seconds=60, order="1"):
        try:
            until(f"{stage}.{type_} equals {table}", lambda: self.same(stage, table, type_, order), seconds, 0.2)
        except Failure as e:
            a, b = self.rows(stage, table, order).splitlines(), self.rows("hub_" + TENANT, f'"{stage}"."{type_}"', order).splitlines()
            missing, extra = sorted(set(a) - set(b))[:3], sorted(set(b) - set(a))[:3]
            raise Failure(f"{e}; source {len(a)} rows, view {len(b)}; only in source {missing}; only in view {extra}") from None
