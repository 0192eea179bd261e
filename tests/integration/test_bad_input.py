"""What people get wrong: settings of both daemons and the command line. Every refusal names the file, the line, the setting and the reason, and what was
expected; the exit status tells scripts that a second try would not help."""
import json
import os
import re
import socket
import subprocess
import tempfile
import unittest

from harness import BUILD, until

AGENT = os.path.join(BUILD, "broker-agent", "broker-agent")
HUB = os.path.join(BUILD, "lifecycle-hub", "lifecycle-hub")
CLI = os.path.join(BUILD, "cli", "stagebridge")
BAD_CONFIG = 78

AGENT_YAML = """tenant: acme
stage: dev
state_dir: {dir}/state
broker:
  servers: 127.0.0.1:1
keys:
  identity: {dir}/keys/dev.key
  keyring: {dir}/keys/keyring.json
  root: {dir}/keys/root.pub
api:
  socket: {dir}/agent.sock
heartbeat:
  interval: 10s
postgres:
  - name: app
    conninfo: host=127.0.0.1 port=1 dbname=none
    tables:
      - table: public.experiment
        type: experiment
"""

HUB_YAML = """state_dir: {dir}/hub
http:
  port: 0
tokens:
  - name: root
    file: {dir}/token
    role: admin
tenants:
  - name: acme
    database: host=127.0.0.1 port=1 dbname=none
    keys:
      identity: {dir}/keys/hub.key
      keyring: {dir}/keys/keyring.json
      root: {dir}/keys/root.pub
    forge:
      kind: bare
      path: {dir}/forge
    stages:
      - name: dev
        broker:
          servers: 127.0.0.1:1
      - name: train
        broker:
          servers: 127.0.0.1:1
    types:
      - type: experiment
        owner: dev
"""

# what to replace, by what, line of the complaint (None: the file only), setting, words of the reason
AGENT_CASES = [
    ("stage: dev\n", "stage: dev\nstate: x\n", 3, "state", "unknown key"),
    ("  interval: 10s", "  interval: 10s\n  jitter: 1s", 14, "heartbeat.jitter", "unknown key"),
    ("stage: dev\n", "stage: dev\nstage: train\n", 3, "stage", "duplicate of line 2"),
    ("interval: 10s", "interval: 10", 13, "heartbeat.interval", "is not a duration such as 250ms, 10s"),
    ("interval: 10s", "interval: 1ms", 13, "heartbeat.interval", "1ms is outside 100ms..1h"),
    ("interval: 10s", "interval: [10s]", 13, "heartbeat.interval", "must be one value, not a list"),
    ("tenant: acme", "tenant: Acme Corp", 1, "tenant", None),
    ("        type: experiment", "        type: Experiment!", 19, "postgres[0].tables[0].type", None),
    ("    tables:\n      - table: public.experiment\n        type: experiment\n", "    tables: public.experiment\n", 17, "postgres[0].tables", "must be a list of mappings, not one value"),
    ("    tables:\n      - table: public.experiment\n        type: experiment\n", "    tables: []\n", 17, "postgres[0].tables", "0 items"),
    ("        type: experiment\n", "", 18, "postgres[0].tables[0].type", "is required, but missing"),
    ("stage: dev\n", "", 1, "stage", "is required, but missing"),
    ("public.experiment", "experiment", None, "postgres.tables.table", "is not schema.table"),
    ("        type: experiment\n", "        type: experiment\n      - {{table: public.other, type: experiment}}\n", None, "type", "comes from two places"),
    ("{dir}/keys/dev.key", "{dir}/keys/loose.key", 7, "keys.identity", "0400"),
    ("{dir}/keys/dev.key", "{dir}/keys/nobody.key", 7, "keys.identity", None),
    ("stage: dev\n", "stage: &a dev\n", 2, "&a", "anchors are refused"),
    ("stage: dev\n", "stage: [dev\n", None, "yaml", None),
    ("broker:\n  servers: 127.0.0.1:1\n", "broker:\n  servers: 127.0.0.1:1\n  security: tls\n", 6, "broker.security", "plaintext, ssl, sasl_ssl"),
]

HUB_CASES = [
    ("  port: 0", "  port: 0\n  tls: yes", 4, "http.tls", "unknown key"),
    ("  port: 0", "  port: 70000", 3, "http.port", "70000 is outside 0..65535"),
    ("  port: 0", "  port: eighty", 3, "http.port", None),
    ("  port: 0", "  port: '80'", 3, "http.port", "without quotes"),
    ("    role: admin", "    role: god", 7, "tokens[0].role", "viewer, developer, approver, admin"),
    ("    file: {dir}/token", "    file: {dir}/loose-token", 6, "tokens[0].file", "0400"),
    ("      kind: bare", "      kind: github", 16, "tenants[0].forge.kind", "bare, gitea"),
    ("      kind: bare", "      kind: gitea", 15, "tenants[0].forge.url", "is needed with this kind of forge"),
    ("        owner: dev", "        owner: prod", 27, "tenants[0].types[0].owner", '"prod" is not one of the stages'),
    ("      - name: train", "      - name: dev", 22, "tenants[0].stages[1].name", '"dev" is there twice'),
    ("        owner: dev", "        owner: train\n        subscribers: [dev]", None, "tenants[0].types[0].subscribers", "data goes down only when public_down says so"),
    ("{dir}/keys/hub.key", "{dir}/keys/loose.key", 12, "tenants[0].keys.identity", "0400"),
    ("tenants:\n", "tenants: none\nothers:\n", None, "others", "unknown key"),
]


def run(*argv, env=None, cwd=None):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SB_")}
    return subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60, env={**clean, **(env or {})}, cwd=cwd)


class BadInput(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="sb-bad-")
        cls.addClassCleanup(folder.cleanup)
        cls.dir = folder.name
        made = run(CLI, "keys", "dev", os.path.join(cls.dir, "keys"), "--tenant", "acme", "--stages", "dev,train")
        if made.returncode:
            raise AssertionError(made.stderr)
        for name, mode in (("token", 0o600), ("loose-token", 0o644)):
            cls.put(name, "0123456789abcdef", mode)
        with open(os.path.join(cls.dir, "keys", "dev.key")) as f:
            cls.put("keys/loose.key", f.read(), 0o644)

    @classmethod
    def put(cls, name, text, mode=0o600):
        path = os.path.join(cls.dir, name)
        with open(path, "w") as f:
            f.write(text)
        os.chmod(path, mode)
        return path

    def check(self, program, template, cases):
        plain = self.put("good.yaml", template.format(dir=self.dir))
        good = run(program, "--config", plain, "--check-config")
        self.assertEqual(good.returncode, 0, good.stderr)
        for old, new, line, key, reason in cases:
            with self.subTest(change=new):
                self.assertIn(old, template)
                path = self.put("bad.yaml", template.replace(old, new, 1).format(dir=self.dir))
                for mode in (["--check-config"], []):      # and to run with it is refused the same way
                    done = run(program, "--config", path, *mode)
                    self.assertEqual(done.returncode, BAD_CONFIG, f"{new!r}: {done.stdout}{done.stderr}")
                    said = done.stderr.strip()
                    where = re.escape(path) + (rf":{line}(:\d+)?" if line else r"(:\d+){0,2}")    # column too, where there is one
                    self.assertRegex(said, where + ": .*" + re.escape(key), f"{new!r}")
                    if reason:
                        self.assertIn(reason, said.replace('\\"', '"'), f"{new!r}")
                    self.assertEqual(len(said.splitlines()), 1, said)
                    self.assertNotIn("0123456789abcdef", said)

    def test_agent_settings(self):
        self.check(AGENT, AGENT_YAML, AGENT_CASES)

    def test_hub_settings(self):
        self.check(HUB, HUB_YAML, HUB_CASES)

    def test_files_that_are_none(self):
        for program in (AGENT, HUB):
            for path, word in ((os.path.join(self.dir, "missing.yaml"), "missing.yaml"), (self.dir, self.dir)):
                done = run(program, "--config", path, "--check-config")
                self.assertNotEqual(done.returncode, 0)
                self.assertIn(word, done.stderr)
            for text in ("", "[]", "tenant", "\0", "a: b: c", "- " * 3000, "\xff"):
                with open(os.path.join(self.dir, "odd.yaml"), "wb") as f:
                    f.write(text.encode("latin-1"))
                done = run(program, "--config", os.path.join(self.dir, "odd.yaml"), "--check-config")
                self.assertEqual(done.returncode, BAD_CONFIG, f"{text[:20]!r}: {done.stderr}")
                self.assertIn("odd.yaml", done.stderr)

    def test_environment(self):
        path = self.put("agent.yaml", AGENT_YAML.format(dir=self.dir))
        shown = run(AGENT, "--config", path, "--print-config", env={"SB_HEARTBEAT_INTERVAL": "3s"})
        self.assertEqual(shown.returncode, 0, shown.stderr)
        self.assertRegex(shown.stdout, r"interval: \"?3s")
        done = run(AGENT, "--config", path, "--check-config", env={"SB_HEARTBEAT_INTERVAL": "soon"})
        self.assertEqual(done.returncode, BAD_CONFIG)
        self.assertRegex(done.stderr, "SB_HEARTBEAT_INTERVAL: heartbeat.interval: ")

    def test_arguments(self):
        for program in (AGENT, HUB):
            for argv in (["--no-such"], ["surplus"], ["--config"]):
                done = run(program, *argv)
                self.assertEqual(done.returncode, 1, (program, argv, done.stderr))
                self.assertIn("--help", done.stderr)
            told = run(program, "--help")
            self.assertEqual(told.returncode, 0)
            self.assertIn("--check-config", told.stdout)

    def test_wrong_keys(self):
        """Keys that are in order, but another's: the agent of train with dev's key, a keyring of another root."""
        path = self.put("agent.yaml", AGENT_YAML.format(dir=self.dir).replace("stage: dev", "stage: train"))
        done = run(AGENT, "--config", path)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("speaks for acme/dev, not for acme/train", done.stderr)
        other = os.path.join(self.dir, "other")
        self.assertEqual(run(CLI, "keys", "dev", other, "--tenant", "acme", "--stages", "dev").returncode, 0)
        path = self.put("agent.yaml", AGENT_YAML.format(dir=self.dir).replace(self.dir + "/keys/root.pub", other + "/root.pub"))
        done = run(AGENT, "--config", path)
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stderr, "keyring")

    # -- the command line ---------------------------------------------------------------------------------------------------------------
    def test_cli_says_what_it_expected(self):
        token = os.path.join(self.dir, "token")
        hub = {"SB_HUB": "http://127.0.0.1:9", "SB_TENANT": "acme", "SB_TOKEN_FILE": token}
        cases = [
            ([], {}, "usage: stagebridge COMMAND"),
            (["frobnicate"], {}, 'unknown command "frobnicate": stagebridge --help lists them'),
            (["get", "bananas"], hub, 'unknown noun "bananas": expected one of stages, artifacts, promotions, types, datasets, pulls, events, quarantine'),
            (["get"], hub, "expected: stagebridge get stages|artifacts"),
            (["get", "stages", "--colour"], hub, 'unknown option "--colour": see stagebridge get --help'),
            (["get", "stages", "-o", "xml"], hub, '-o "xml": expected table or json'),
            (["get", "stages", "--limit"], hub, "--limit needs a value: N"),
            (["get", "stages", "a", "b", "c", "d", "e", "f", "g", "h", "i"], hub, "see stagebridge get --help"),
            (["get", "stages"], {}, "give --hub URL or set SB_HUB"),
            (["get", "stages"], {"SB_HUB": "http://127.0.0.1:9"}, "give --tenant NAME or set SB_TENANT"),
            (["get", "stages"], {**hub, "SB_TENANT": "A/../B"}, "is not a tenant's name"),
            (["get", "stages"], {**hub, "SB_TOKEN_FILE": os.path.join(self.dir, "loose-token")}, "loose-token"),
            (["get", "stages"], {**hub, "SB_TOKEN_FILE": os.path.join(self.dir, "no-token")}, "no-token"),
            (["get", "stages"], hub, "hub at http://127.0.0.1:9"),
            (["status"], {}, "inside a stage set SB_SOCKET, as a manager set SB_HUB"),
            (["status"], {"SB_SOCKET": os.path.join(self.dir, "none.sock")}, "none.sock"),
            (["push"], {}, "SB_SOCKET"),
            (["promote"], hub, "expected: stagebridge promote"),
            (["approve"], hub, "expected: stagebridge approve"),
            (["keys", "prod", "x"], {}, "expected: stagebridge keys dev DIR"),
            (["keys", "dev", os.path.join(self.dir, "k2"), "--tenant", "Acme", "--stages", "dev"], {}, "--tenant NAME is needed"),
            (["keys", "dev", os.path.join(self.dir, "k2"), "--tenant", "acme", "--stages", "dev,Train"], {}, '"Train" is not a stage\'s name'),
            (["keys", "dev", os.path.join(self.dir, "keys"), "--tenant", "acme", "--stages", "dev"], {}, "keyring.json"),
            (["provision", "--servers", "127.0.0.1:9", "--stage", "dev"], {}, "--servers, --tenant and --stage are needed"),
            (["provision", "--servers", "127.0.0.1:9", "--stage", "dev", "--tenant", "acme", "--replication", "many"], {}, "--replication"),
            (["provision", "--servers", "127.0.0.1:9", "--stage", "dev", "--tenant", "acme", "--retention", "30"], {}, "--retention"),
            (["get", "stages", "--wait=soon"], hub, "--wait"),
        ]
        for argv, env, said in cases:
            with self.subTest(argv=argv):
                done = run(CLI, *argv, env=env)
                self.assertNotEqual(done.returncode, 0, argv)
                self.assertIn(said, done.stderr + done.stdout, argv)
                self.assertLessEqual(len(done.stderr.strip().splitlines()), 2, done.stderr)
                self.assertNotIn("0123456789abcdef", done.stderr + done.stdout)

    def test_cli_errors_in_json(self):
        done = run(CLI, "get", "bananas", "-o", "json", env={"SB_HUB": "http://127.0.0.1:9", "SB_TENANT": "acme"})
        error = json.loads(done.stderr)["error"]
        self.assertEqual((error["code"], error["retriable"]), ("EINVAL", False))
        away = run(CLI, "get", "stages", "-o", "json", env={"SB_HUB": "http://127.0.0.1:9", "SB_TENANT": "acme"})
        self.assertTrue(json.loads(away.stderr)["error"]["retriable"], away.stderr)
        self.assertNotEqual(away.returncode, done.returncode)

    def test_port_in_use(self):
        """Not the settings' fault: another exit status, so that a supervisor tries again."""
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen()
            path = self.put("hub.yaml", HUB_YAML.format(dir=self.dir).replace("port: 0", f"port: {s.getsockname()[1]}"))
            done = run(HUB, "--config", path)
            self.assertNotIn(done.returncode, (0, BAD_CONFIG), done.stderr)

    def test_agent_without_anything(self):
        """No broker, no database: it starts, says what is missing, answers on its socket and stops when asked."""
        path = self.put("agent.yaml", AGENT_YAML.format(dir=self.dir))
        with open(os.path.join(self.dir, "alone.log"), "wb") as log:
            child = subprocess.Popen([AGENT, "--config", path], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.addCleanup(child.kill)
        env = {"SB_SOCKET": os.path.join(self.dir, "agent.sock")}
        until("it answers", lambda: child.poll() is None and run(CLI, "status", env=env).returncode == 0, 20)
        until("it says that its source cannot be reached", lambda: "source/app" in run(CLI, "status", env=env).stdout
              and re.search(r"source/app +\S+ .*could not connect", run(CLI, "status", env=env).stdout), 20)
        child.terminate()
        self.assertEqual(child.wait(20), 0)


if __name__ == "__main__":
    unittest.main()
