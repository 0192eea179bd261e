"""A promotion policy at work: real hub and agents, forge bare, brokers in process. Its file is changed under what waits, as people do."""
import json
import os
import subprocess
import unittest
import urllib.request

from harness import TENANT, Platform, service, until
from test_promotion import Git

HEAD = """policy: acme
version: "1"
groups:
  - { name: release, members: [root, maria] }
edges:
  - edge: dev..prod
    mode: manual
    approvals: { min: 2, rules: [{ group: release, min: 1 }], self: allow, request_counts: false }
"""
FREEZE = """    windows: { deny: [{ name: frozen, start: 2020-01-01, duration: 365d, rrule: FREQ=DAILY }] }
"""
STATUS = """    statuses: { required: [ci/build], reporters: [root] }
"""


class PolicyAtWork(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.p = Platform(brokers="mock", forge="bare", stages=["dev", "prod"], modes={"dev": "auto", "prod": "auto"})
        cls.enterClassContext(cls.p)
        with open(cls.p.hub_file) as f:
            settings = json.load(f)
        settings["tenants"][0]["policy"] = cls.p.path("policy.yaml")
        with open(cls.p.path("maria.token"), "w") as f:
            f.write("integration-maria-token")
        os.chmod(cls.p.path("maria.token"), 0o600)
        settings["tokens"].append({"name": "maria", "file": cls.p.path("maria.token"), "role": "approver"})
        cls.p._write("hub.yaml", settings)
        cls.policy(HEAD + STATUS + FREEZE)
        cls.p.start()
        forge = cls.p.path("forge", "model.git")
        until("the forge's repository", lambda: os.path.isdir(forge), 20)
        cls.git = Git(forge, cls.p.path("work"))
        cls.git.commit("a.txt", "a\n", "first")
        cls.git.run("push", "-q", "origin", "HEAD:refs/heads/main")
        cls.first = until("it waits", lambda: cls.p.hub_sql("SELECT id FROM lifecycle.promotion WHERE stage = 'prod' AND state = 'GATED' AND waiting_for LIKE '%window%'"), 40)

    @classmethod
    def policy(cls, text):
        with open(cls.p.path("policy.new"), "w") as f:
            f.write(text)
        os.rename(cls.p.path("policy.new"), cls.p.path("policy.yaml"))

    def gates(self):
        said = self.p.cli("why", "model", "--to", "prod", "-o", "json", check=False)
        answer = json.loads(said.stdout)
        self.assertEqual(said.returncode, 4 if answer["blocked"] else said.returncode)
        return {g["gate"]: g for g in answer["items"]}

    def test_1_why_says_every_gate_and_who_and_when(self):
        gates = self.gates()
        self.assertEqual(sorted(gates), ["approval", "status", "window"])
        self.assertIn("release (root, maria)", gates["approval"]["who"])
        self.assertIn("2 more people", gates["approval"]["detail"])
        self.assertEqual(gates["status"]["detail"], "ci/build is not reported yet")
        self.assertTrue(gates["window"]["since"].startswith("2020-01-01T00:00:00"))
        self.assertIn("no opening is in sight", gates["window"]["detail"])
        self.assertIn("stage", [g["gate"] for g in self.p.get(f"/api/v1/tenants/acme/why?subject={self.first}&all=1")["items"]])

    def test_2_explain_and_check(self):
        told = self.p.cli("policy", "explain", "--edge", "dev..prod").stdout
        self.assertIn("closed at that time", told)
        self.assertIn("2 different people must say yes", told)
        edge = self.p.cli_json("policy", "explain", "--edge", "dev..prod", "--at", "2019-12-31T23:00:00Z")["items"][0]
        self.assertTrue(edge["window"]["open"])
        self.assertEqual(edge["window"]["next_close"], "2020-01-01T00:00:00.000Z")
        self.assertEqual(self.p.cli("policy", "explain", "--edge", "x..y", check=False).returncode, 2)
        self.assertEqual(self.p.cli_json("policy", "check", self.p.path("policy.yaml"))["items"][0]["edge"], "dev..prod")
        bad = self.p.path("bad.yaml")
        with open(bad, "w") as f:
            f.write(HEAD + "    depends_on: [schema]\n")
        said = self.p.cli("policy", "check", bad, check=False)
        self.assertEqual(said.returncode, 78)
        self.assertIn("bad.yaml:9:17: edges[0].depends_on: not supported yet", said.stderr)

    def test_3_a_mistake_changes_nothing(self):
        self.policy(HEAD + "    colour: red\n")
        until("the mistake is said", lambda: "colour" in self.p.get("/api/v1/tenants/acme/policy")["problem"], 20)
        self.assertIn("has a mistake", self.p.cli("policy", "explain").stdout)
        self.assertIn("window", self.gates())

    def test_4_the_window_opens_with_the_policy(self):
        self.policy(HEAD + STATUS)
        until("the window is no gate any more", lambda: "window" not in self.gates(), 20)
        self.assertEqual(self.p.get("/api/v1/tenants/acme/policy")["problem"], "")

    def test_5_approvals_and_a_status(self):
        self.p.cli("approve", self.first)
        self.p.cli("approve", self.first, token="maria.token")
        until("two are enough", lambda: "approval" not in self.gates(), 20)
        self.assertEqual(sorted(self.gates()), ["status"])
        commit = self.p.hub_sql("SELECT commit_oid FROM lifecycle.artifact LIMIT 1")
        report = {"origin": "model", "commit": commit, "context": "ci/build", "state": "success"}
        self.p.cli("stop", "--stage", "prod", "--reason", "incident 7")
        subprocess.run(["curl", "-sSf", "-H", "Authorization: Bearer integration-maria-token", "-d", json.dumps(report), f"http://127.0.0.1:{self.p.port}/api/v1/tenants/acme/statuses"], check=True, stdout=subprocess.DEVNULL)
        until("the stop holds, and the word of another is not heard", lambda: sorted(self.gates()) == ["status", "stop"], 20)
        subprocess.run(["curl", "-sSf", "-H", "Authorization: Bearer integration-admin-token", "-d", json.dumps(report), f"http://127.0.0.1:{self.p.port}/api/v1/tenants/acme/statuses"], check=True, stdout=subprocess.DEVNULL)
        until("the stop alone holds", lambda: sorted(self.gates()) == ["stop"], 20)
        self.p.cli("resume", "--stage", "prod", token="maria.token")
        until("it is in", lambda: self.p.hub_sql(f"SELECT state FROM lifecycle.promotion WHERE id = '{self.first}'") == "SUCCEEDED", 30)
        self.assertEqual(self.p.hub_sql("SELECT count(*) FROM lifecycle.audit_broken"), "0")


class StatusesAtGitea(unittest.TestCase):
    """What is required is read at the forge, from the account that may say it."""

    @classmethod
    def setUpClass(cls):
        cls.p = p = Platform(brokers="mock", forge="gitea", stages=["dev", "prod"])
        cls.enterClassContext(p)
        with open(p.hub_file) as f:
            settings = json.load(f)
        settings["tenants"][0]["policy"] = p.path("policy.yaml")
        p._write("hub.yaml", settings)
        with open(p.path("policy.yaml"), "w") as f:
            f.write('policy: a\nversion: "1"\nedges:\n  - { edge: dev..prod, mode: auto, statuses: { required: [ci/build], reporters: [ci] } }\n')
        cls.admin = service("gitea", "token", p.path("gitea"))
        cls.api("POST", "/orgs", {"username": TENANT})
        cls.tokens = {u: service("gitea", "user", p.path("gitea"), u, u + "-password-1") for u in ("ci", "alice")}
        p.start()
        until("the hub provisions the repository", lambda: cls.api("GET", f"/repos/{TENANT}/model"), 40)
        for user in cls.tokens:
            cls.api("PUT", f"/repos/{TENANT}/model/collaborators/{user}", {"permission": "write"})

    @classmethod
    def api(cls, method, path, body=None, token=None):
        req = urllib.request.Request(cls.p.gitea + "/api/v1" + path, method=method, data=json.dumps(body).encode() if body is not None else None,
                                     headers={"Authorization": "token " + (token or cls.admin), "Content-Type": "application/json"})
        with urllib.request.urlopen(req, timeout=20) as r:
            text = r.read().decode()
        return json.loads(text) if text else {}

    def test_a_status_lets_it_in(self):
        waits = until("it waits for the status", lambda: self.p.hub_sql("SELECT id || ' ' || waiting_for FROM lifecycle.promotion WHERE stage = 'prod' AND state = 'GATED' AND waiting_for LIKE 'status: %'"), 60)
        promotion = waits.split()[0]
        self.assertIn("ci/build is not reported yet", waits)
        commit = self.p.hub_sql("SELECT commit_oid FROM lifecycle.artifact LIMIT 1")
        said = f"/repos/{TENANT}/model/statuses/{commit}"
        self.api("POST", said, {"state": "success", "context": "ci/build"}, self.tokens["alice"])
        until("the word of alice is known", lambda: self.p.hub_sql("SELECT reporter FROM lifecycle.commit_status WHERE context = 'ci/build'") == "alice", 30)
        self.api("POST", said, {"state": "failure", "context": "ci/build"}, self.tokens["ci"])
        until("it failed", lambda: self.p.hub_sql(f"SELECT waiting_for FROM lifecycle.promotion WHERE id = '{promotion}'") == "status: ci/build is failure", 30)
        self.api("POST", said, {"state": "success", "context": "ci/build"}, self.tokens["ci"])
        until("it is in", lambda: self.p.hub_sql(f"SELECT state FROM lifecycle.promotion WHERE id = '{promotion}'") == "SUCCEEDED", 60)


if __name__ == "__main__":
    unittest.main()
