"""Git and promotion with real Gitea, real Kafka (one broker per stage) and real PostgreSQL: merges, pushes from inside a stage, rollback, a hotfix, a person's merge,
and kills in the middle. One platform for the class; each test makes its own commits and waits for its own artifact."""
import hashlib
import hmac
import json
import os
import subprocess
import unittest
import urllib.error
import urllib.request

from harness import TENANT, Failure, Platform, service, until

STAGES = ["dev", "train", "preprod", "prod"]


class Git:
    """A developer's clone."""

    def __init__(self, url, path):
        self.path = path
        self.run("clone", "-q", url, path, cwd="/")

    def run(self, *args, cwd=None):
        env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1"}
        done = subprocess.run(["git", "-c", "user.name=Dev", "-c", "user.email=dev@example.org", "-c", "init.defaultBranch=main", *args], cwd=cwd or self.path, env=env,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise Failure(f"git {' '.join(args)}: {done.stderr.strip()[:400]}")
        return done.stdout.strip()

    def commit(self, name, text, message, branch=None, start="origin/main"):
        if branch:
            self.run("fetch", "-q", "origin")
            self.run("checkout", "-q", "-B", branch, start)
        with open(os.path.join(self.path, name), "w") as f:
            f.write(text)
        self.run("add", name)
        self.run("commit", "-q", "-m", message)
        return self.run("rev-parse", "HEAD")


class Promotion(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.p = Platform(brokers="kafka", forge="gitea", stages=STAGES, origins=("model",))
        cls.enterClassContext(cls.p)
        p = cls.p
        cls.admin = service("gitea", "token", p.path("gitea"))
        cls.api("POST", "/orgs", {"username": TENANT})
        cls.alice = service("gitea", "user", p.path("gitea"), "alice", "alice-password-1")
        p.start()
        until("the hub provisions the repository", lambda: cls.api("GET", f"/repos/{TENANT}/model"), 40)
        cls.api("PUT", f"/repos/{TENANT}/model/collaborators/alice", {"permission": "write"})
        cls.git = Git(cls.url("alice", cls.alice), p.path("alice"))
        until("the first artifact reaches prod", lambda: cls.current("prod"), 60)

    # -- helpers ------------------------------------------------------------------------------------------------------------------
    @classmethod
    def api(cls, method, path, body=None, token=None):
        req = urllib.request.Request(cls.p.gitea + "/api/v1" + path, method=method, data=json.dumps(body).encode() if body is not None else None,
                                     headers={"Authorization": "token " + (token or cls.admin), "Content-Type": "application/json"})
        with urllib.request.urlopen(req, timeout=20) as r:
            text = r.read().decode()
        return json.loads(text) if text else {}

    @classmethod
    def url(cls, user, token):
        return cls.p.gitea.replace("http://", f"http://{user}:{token}@") + f"/{TENANT}/model.git"

    @classmethod
    def current(cls, stage):
        """Commit that the stage holds, verified."""
        return cls.p.hub_sql(f"SELECT a.commit_oid FROM lifecycle.occupancy o JOIN lifecycle.artifact a ON a.id = o.artifact WHERE o.stage = '{stage}' AND o.until IS NULL AND o.verified_at IS NOT NULL")

    def reaches(self, stage, commit, seconds=60):
        until(f"{commit[:8]} in {stage}", lambda: self.current(stage) == commit, seconds)

    def merge(self, branch, base="main", style="fast-forward-only", token=None):
        pull = self.api("POST", f"/repos/{TENANT}/model/pulls", {"head": branch, "base": base, "title": branch}, token=self.alice)
        return self.merge_pull(pull["number"], style, token)

    def merge_pull(self, number, style="fast-forward-only", token=None):
        def attempt():
            pull = self.api("GET", f"/repos/{TENANT}/model/pulls/{number}")
            if pull["merged"]:
                return pull
            try:
                self.api("POST", f"/repos/{TENANT}/model/pulls/{number}/merge", {"Do": style, "head_commit_id": pull["head"]["sha"]}, token=token or self.alice)
            except urllib.error.HTTPError as e:
                if e.code not in (405, 409):
                    raise
                return None   # Gitea still works out whether it can be merged
            return self.api("GET", f"/repos/{TENANT}/model/pulls/{number}")
        return until(f"pull request {number} is merged", attempt, 30)

    def feature(self, name, text="x\n", start="origin/main"):
        commit = self.git.commit(name + ".txt", text, name, branch=name, start=start)
        self.git.run("push", "-q", "-f", "origin", name)
        return commit

    def hook_log(self, stage):
        with open(self.p.path(f"hook-{stage}-model.log")) as f:
            return f.read()

    def release(self, stage):
        return sorted(os.listdir(self.p.path(f"deploy-{stage}", "model", "current") + "/"))

    def branch(self, name):
        return self.api("GET", f"/repos/{TENANT}/model/branches/{name.replace('/', '%2F')}")["commit"]["id"]

    # -- journeys -----------------------------------------------------------------------------------------------------------------
    def test_01_merge_goes_to_prod_and_hooks_run(self):
        commit = self.feature("merge-one")
        self.merge("merge-one")
        for stage in STAGES:
            self.reaches(stage, commit)
            self.assertIn(f"stage={stage} origin=model", self.hook_log(stage))
            self.assertIn("commit=" + commit, self.hook_log(stage))
            self.assertIn("merge-one.txt", self.release(stage))
        for stage in STAGES[1:]:
            until(f"branch stage/{stage} follows", lambda s=stage: self.branch("stage/" + s) == commit, 30)
        statuses = until("statuses at Gitea", lambda: [s for s in self.api("GET", f"/repos/{TENANT}/model/statuses/{commit}") if s["status"] == "success"], 30)
        until("a success for every stage", lambda: {s["context"] for s in self.api("GET", f"/repos/{TENANT}/model/statuses/{commit}") if s["status"] == "success"}
              >= {"stagebridge/" + s for s in STAGES}, 30)
        self.assertTrue(statuses)
        self.assertEqual(self.p.hub_sql("SELECT count(*) FROM lifecycle.audit_broken"), "0")

    def test_02_merge_commit_style(self):
        self.feature("styled")
        pull = self.merge("styled", style="merge")
        self.reaches("prod", pull["merge_commit_sha"])

    def test_03_push_from_inside_dev_while_the_hub_is_down(self):
        work = self.p.path("pusher")
        clone = Git(self.url("alice", self.alice), work)
        commit = clone.commit("pushed.txt", "from inside\n", "pushed from inside", branch="inside")
        self.p.hub.kill()
        said = self.p.cli("push", "--title", "from inside Dev", stage="dev", cwd=work)
        self.assertIn("waits at the broker", said.stdout)
        self.p.start_hub()
        push = until("the push is known", lambda: self.p.hub_sql(f"SELECT number FROM lifecycle.push WHERE head = '{commit}' AND state = 'opened'"), 40)
        pull = self.api("GET", f"/repos/{TENANT}/model/pulls/{push}")
        self.assertEqual(pull["title"], "from inside Dev")
        self.assertEqual(pull["head"]["sha"], commit)
        fate = until("the stage knows the fate", lambda: [x for x in json.loads(self.p_get("dev", "/v1/pushes"))["items"] if x["head"] == commit and x["state"] == "opened"], 30)
        self.assertEqual(fate[0]["number"], int(push))
        self.merge_pull(int(push))
        self.reaches("prod", commit)
        until("the stage hears of the merge", lambda: [x for x in json.loads(self.p_get("dev", "/v1/pushes"))["items"] if x["head"] == commit and x["state"] == "merged"], 30)
        # Git flows down as well: the stage's own repository has main and the pull request
        refs = json.loads(self.p_get("dev", "/v1/git/model/refs"))
        until("main in the stage's repository", lambda: {r["name"]: r["oid"] for r in json.loads(self.p_get("dev", "/v1/git/model/refs"))["refs"]}.get("refs/heads/main") == commit, 30)
        self.assertTrue(any(x["number"] == int(push) for x in refs["pulls"]))

    def p_get(self, stage, path):
        done = subprocess.run(["curl", "-sS", "--unix-socket", self.p.path(stage + ".sock"), "http://localhost" + path], stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout

    def test_04_failing_hook_stops_the_line_and_leaves_the_stage_as_it_was(self):
        before = self.current("dev")
        commit = self.git.commit("FAIL", "x\n", "a file that makes the hook fail", branch="FAIL")
        self.git.run("push", "-q", "-f", "origin", "FAIL")
        self.merge("FAIL")
        state = until("the promotion into dev ends", lambda: self.p.hub_sql("SELECT p.state || '|' || p.reason || '|' || p.output FROM lifecycle.promotion p JOIN lifecycle.artifact a ON a.id = p.artifact"
                                                                         f" WHERE a.commit_oid = '{commit}' AND p.stage = 'dev' AND p.ended_at IS NOT NULL"), 40)
        self.assertTrue(state.startswith("FAILED|deploy hook said no with exit status 3"), state)
        self.assertIn("the artifact asks to fail", state)
        self.assertEqual(self.current("dev"), before)
        self.assertNotIn("FAIL", self.release("dev"))
        self.assertEqual(self.p.hub_sql(f"SELECT count(*) FROM lifecycle.promotion p JOIN lifecycle.artifact a ON a.id = p.artifact WHERE a.commit_oid = '{commit}' AND p.stage <> 'dev'"), "0")
        why = self.p.cli("why", "model", "--to", "dev", check=False)
        self.assertEqual(why.returncode, 2, why.stdout + why.stderr)
        # mended by the next merge
        self.git.run("fetch", "-q", "origin")
        self.git.run("checkout", "-q", "-B", "mended", "origin/main")
        self.git.run("rm", "-q", "FAIL")
        self.git.run("commit", "-q", "-m", "mended")
        mended = self.git.run("rev-parse", "HEAD")
        self.git.run("push", "-q", "-f", "origin", "mended")
        self.merge("mended")
        self.reaches("prod", mended)

    def test_05_hub_killed_in_the_middle(self):
        commit = self.feature("hub-killed")
        self.merge("hub-killed")
        for _ in range(4):
            until("something moves", lambda: self.p.hub_sql("SELECT count(*) FROM lifecycle.promotion WHERE ended_at IS NULL") != "0" or self.current("prod") == commit, 30)
            self.p.hub.kill()
            self.p.start_hub()
        self.reaches("prod", commit)
        self.once(commit)

    def test_06_agent_killed_in_the_middle(self):
        commit = self.feature("agent-killed")
        self.merge("agent-killed")
        for stage in ("dev", "train"):
            until(f"an order for {stage}", lambda s=stage: self.p.hub_sql(f"SELECT count(*) FROM lifecycle.promotion p JOIN lifecycle.artifact a ON a.id = p.artifact WHERE a.commit_oid = '{commit}' AND p.stage = '{s}'"
                                                                         " AND p.dispatched_at IS NOT NULL") == "1", 40)
            self.p.agents[stage].kill()
            self.p.start_agent(stage)
        self.reaches("prod", commit)
        self.once(commit)

    def once(self, commit):
        """Every stage has exactly one successful promotion of the artifact, and the record is whole."""
        rows = self.p.hub_sql(f"SELECT p.stage, count(*), string_agg(p.state, ',') FROM lifecycle.promotion p JOIN lifecycle.artifact a ON a.id = p.artifact WHERE a.commit_oid = '{commit}' GROUP BY 1 ORDER BY 1")
        self.assertEqual(rows.splitlines(), [f"{s}\t1\tSUCCEEDED" for s in sorted(STAGES)])
        self.assertEqual(self.p.hub_sql("SELECT count(*) FROM lifecycle.audit_broken"), "0")

    def test_07_broker_stopped_and_started(self):
        commit = self.feature("broker-down")
        service("kafka", "kill", self.p.path("kafka-preprod"))
        self.merge("broker-down")
        self.reaches("train", commit)
        service("kafka", "restart", self.p.path("kafka-preprod"))
        self.reaches("prod", commit, 90)
        self.once(commit)

    def test_08_rollback_holds_automation(self):
        good = self.current("prod")
        bad = self.feature("regrettable")
        self.merge("regrettable")
        self.reaches("prod", bad)
        until("stage/prod shows it", lambda: self.branch("stage/prod") == bad, 30)
        done = self.p.cli("rollback", "model", "--stage", "prod", "--reason", "error rate", "--wait=60s")
        self.assertIn("SUCCEEDED", done.stdout)
        self.assertEqual(self.current("prod"), good)
        self.assertNotIn("regrettable.txt", self.release("prod"))
        tree = lambda oid: self.git.run("rev-parse", oid + "^{tree}")  # noqa: E731

        def shown():
            self.git.run("fetch", "-q", "origin")
            return tree("origin/stage/prod") == tree(good)
        until("stage/prod shows the former tree by a record commit", shown, 40)
        self.assertNotEqual(self.branch("stage/prod"), good)
        held = self.feature("held-back")
        self.merge("held-back")
        self.reaches("preprod", held)
        self.assertEqual(self.current("prod"), good)
        done = self.p.cli("promote", "model", "--to", "prod", "--wait=60s")
        self.assertIn("SUCCEEDED", done.stdout)
        self.assertEqual(self.current("prod"), held)
        self.assertEqual(self.p.hub_sql("SELECT count(*) FROM lifecycle.hold"), "0")

    def test_09_hotfix_merged_into_the_stage_branch(self):
        until("stage/prod is at rest", lambda: self.p.hub_sql("SELECT count(*) FROM lifecycle.promotion WHERE ended_at IS NULL") == "0", 30)

        def shows_what_is_there():
            self.git.run("fetch", "-q", "origin")
            return self.git.run("rev-parse", "origin/stage/prod^{tree}") == self.git.run("rev-parse", self.current("prod") + "^{tree}")
        until("stage/prod shows what the stage holds", shows_what_is_there, 30)
        commit = self.feature("hotfix", start="origin/stage/prod")
        self.api("PATCH", f"/repos/{TENANT}/model/branch_protections/stage%2F*", {"enable_push": True})
        pull = self.api("POST", f"/repos/{TENANT}/model/pulls", {"head": "hotfix", "base": "stage/prod", "title": "hotfix"}, token=self.alice)
        self.merge_pull(pull["number"], token=self.admin)
        self.reaches("prod", commit)
        self.assertEqual(self.p.hub_sql(f"SELECT kind FROM lifecycle.artifact WHERE commit_oid = '{commit}'"), "hotfix")
        row = self.p.hub_sql(f"SELECT p.kind || ' ' || p.requested_by FROM lifecycle.promotion p JOIN lifecycle.artifact a ON a.id = p.artifact WHERE a.commit_oid = '{commit}'")
        self.assertEqual(row, "hotfix sbadmin")

    def test_10_webhook_is_a_hint_and_its_signature_is_checked(self):
        def hook(body, signature):
            req = urllib.request.Request(f"http://127.0.0.1:{self.p.port}/hooks/gitea/{TENANT}", method="POST", data=body,
                                         headers={"X-Gitea-Signature": signature, "X-Gitea-Event": "push", "X-Gitea-Delivery": "test-1", "Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(req, timeout=10) as r:
                    return r.status
            except urllib.error.HTTPError as e:
                return e.code
        body = json.dumps({"repository": {"full_name": TENANT + "/model"}}).encode()
        good = hmac.new(b"integration-test-secret-0123456789", body, hashlib.sha256).hexdigest()
        self.assertEqual(hook(body, good), 200)
        self.assertEqual(hook(body, "0" * 64), 403)
        self.assertEqual(hook(body, ""), 403)
        self.assertEqual(hook(body + b" ", good), 403)
        self.assertNotEqual(self.p.hub_sql("SELECT count(*) FROM sb.webhook WHERE delivery <> 'test-1'"), "0", "Gitea's own webhooks arrive")

    def test_11_requests_that_cannot_be(self):
        refused = self.p.cli("promote", "model", "--to", "moon", check=False)
        self.assertEqual(refused.returncode, 4, refused.stdout + refused.stderr)
        self.assertIn("is not a stage", refused.stdout)
        refused = self.p.cli("approve", "01k00000000000000000000000", check=False)
        self.assertEqual(refused.returncode, 4, refused.stdout + refused.stderr)
        viewer = self.p.cli("promote", "model", "--to", "prod", check=False, token="token-viewer")
        self.assertEqual(viewer.returncode, 2, viewer.stdout + viewer.stderr)
        self.assertIn("not", viewer.stderr)
        usage = self.p.cli("promote", "model", check=False)
        self.assertEqual(usage.returncode, 1)
        self.assertIn("--to STAGE is needed", usage.stderr)
        # from inside a stage, with nothing but the socket
        asked = self.p.cli("promote", "model", "--to", "moon", "--wait=30s", stage="dev", check=False)
        self.assertEqual(asked.returncode, 4, asked.stdout + asked.stderr)

    def test_12_force_push_orphans_and_automation_leaves_it_alone(self):
        self.api("PUT", f"/repos/{TENANT}/model/collaborators/alice", {"permission": "admin"})
        base = self.current("prod") if self.p.hub_sql("SELECT kind FROM lifecycle.artifact WHERE orphaned") else self.branch("main")
        lost = self.feature("lost-commit")
        self.merge("lost-commit")
        self.reaches("prod", lost)
        self.git.run("push", "-q", "-f", "origin", f"{base}:refs/heads/main")
        until("the artifact is orphaned", lambda: self.p.hub_sql(f"SELECT orphaned FROM lifecycle.artifact WHERE commit_oid = '{lost}'") == "t", 40)
        self.assertEqual(self.current("prod"), lost, "what runs stays")


class ManualStage(unittest.TestCase):
    """A stage that a person lets artifacts into; forge bare, brokers in process: the rules are the hub's."""

    @classmethod
    def setUpClass(cls):
        cls.p = Platform(brokers="mock", forge="bare", stages=["dev", "prod"], modes={"prod": "manual"})
        cls.enterClassContext(cls.p)
        cls.p.start()
        forge = cls.p.path("forge", "model.git")
        until("the forge's repository", lambda: os.path.isdir(forge), 20)
        cls.git = Git(forge, cls.p.path("work"))
        cls.git.commit("a.txt", "a\n", "first")
        cls.git.run("push", "-q", "origin", "HEAD:refs/heads/main")
        cls.first = until("it waits for a person", cls.waiting, 40)

    @classmethod
    def waiting(cls):
        return cls.p.hub_sql("SELECT id FROM lifecycle.promotion WHERE stage = 'prod' AND state = 'GATED' AND waiting_for LIKE '%approval:%'")

    def test_1_why_names_the_gate_and_who_can_act(self):
        said = self.p.cli("why", self.first, check=False)
        self.assertEqual(said.returncode, 4)
        self.assertIn("approval", said.stdout)
        self.assertIn("an approver", said.stdout)

    def test_2_approve_lets_it_in(self):
        self.p.cli("approve", self.first)
        until("it is in", lambda: self.p.hub_sql(f"SELECT state FROM lifecycle.promotion WHERE id = '{self.first}'") == "SUCCEEDED", 30)

    def test_3_who_pushed_may_not_approve(self):
        self.git.commit("b.txt", "b\n", "second", branch="second")
        pushed = self.p.cli_json("push", "--wait=30s", stage="dev", cwd=self.git.path)
        self.assertEqual(pushed["state"], "opened")
        self.p.cli("merge", "model", pushed["number"])
        waiting = until("the second waits", self.waiting, 30)
        refused = self.p.cli("approve", waiting, check=False)   # the token's name is root, and so is the pusher's account
        self.assertEqual(refused.returncode, 4, refused.stdout)
        self.assertIn("somebody else", refused.stdout)
        rejected = self.p.cli("reject", waiting, "--reason", "not now")
        self.assertEqual(rejected.returncode, 0)
        self.assertEqual(until("it is over", lambda: self.p.hub_sql(f"SELECT state FROM lifecycle.promotion WHERE id = '{waiting}' AND ended_at IS NOT NULL"), 20), "REJECTED")

    def test_4_superseded_by_a_newer_one(self):
        self.git.commit("c.txt", "c\n", "third", branch="third")
        self.git.run("push", "-q", "origin", "HEAD:refs/heads/main")
        third = until("the third waits", self.waiting, 30)
        self.git.commit("d.txt", "d\n", "fourth", branch="fourth")
        self.git.run("push", "-q", "origin", "HEAD:refs/heads/main")
        until("the third is superseded", lambda: self.p.hub_sql(f"SELECT state FROM lifecycle.promotion WHERE id = '{third}'") == "SUPERSEDED", 30)
        self.assertTrue(until("the fourth waits", self.waiting, 30))

    def test_5_a_merge_of_its_pull_request_is_a_yes(self):
        waiting = until("the fourth waits", self.waiting, 30)
        number = until("its pull request", lambda: self.p.hub_sql(f"SELECT pull_number FROM lifecycle.promotion WHERE id = '{waiting}' AND pull_number > 0"), 30)
        self.p.cli("merge", "model", number)
        until("it is in", lambda: self.p.hub_sql(f"SELECT state || kind FROM lifecycle.promotion WHERE id = '{waiting}'") == "SUCCEEDEDmerge", 30)

    def test_6_unhealthy_goes_back(self):
        before = os.readlink(self.p.path("deploy-dev", "model", "current"))
        self.git.commit("SICK", "s\n", "sick", branch="sick")
        self.git.run("push", "-q", "origin", "HEAD:refs/heads/main")
        state = until("it fails in dev", lambda: self.p.hub_sql("SELECT p.state || ' ' || p.reason FROM lifecycle.promotion p JOIN lifecycle.artifact a ON a.id = p.artifact WHERE a.title = 'sick' AND p.ended_at IS NOT NULL"), 30)
        self.assertEqual(state, "FAILED health check said no with exit status 1")
        self.assertEqual(os.readlink(self.p.path("deploy-dev", "model", "current")), before)


if __name__ == "__main__":
    unittest.main()
