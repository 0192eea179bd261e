"""Anonymized data from Prod to Train over real Kafka: asked for in Train, produced in Prod by Prod's policy, forwarded by a hub that cannot read it, delivered whole or
not at all. The input is the census sample of the demo. A planted value must be nowhere but in the source."""
import csv
import json
import os
import subprocess
import unittest

from harness import ROOT, Platform, service, until

PLANTED = "Zanzibar-Quetzal-7741"
POLICY = """policy: census
version: "1"
source: {{postgres: {{conninfo: "{dsn}", table: public.census}}}}
recipients: [train]
limits: {{min_rows: 100, max_rows: 1000000}}
columns:
  - {{name: person_id, role: key, op: pseudonym, domain: person, token_prefix: p, "null": refuse}}
  - {{name: age, role: quasi, op: bucket, edges: ["25", "35", "45", "55", "65"]}}
  - {{name: hours_per_week, role: quasi, op: bucket, edges: ["20", "35", "41", "50"]}}
  - {{name: workclass, role: quasi, op: keep, reason: closed list}}
  - {{name: education, role: quasi, op: keep, reason: closed list}}
  - {{name: marital_status, role: quasi, op: prefix, n: 7}}
  - {{name: occupation, role: sensitive, op: keep, reason: the subject of the analysis}}
  - {{name: race, role: sensitive, op: drop, reason: never given away}}
  - {{name: sex, role: quasi, op: keep, reason: two values}}
  - {{name: native_country, role: quasi, op: constant, value: suppressed}}
  - {{name: salary, role: sensitive, op: keep, reason: the label}}
"""
CENSUS = os.path.join(ROOT, "config", "demo", "data", "adult.csv")


class Datasets(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        extra = {"dev": {"datasets": {}}, "train": {"datasets": {}}, "prod": {"datasets": {}}}
        cls.p = p = Platform(brokers="kafka", forge="bare", stages=["dev", "train", "prod"], origins=(), extra_agent=extra,
                             datasets=[{"dataset": d, "from": "prod", "to": ["train"]} for d in ("census", "leaky", "missing", "large")])
        os.makedirs(p.path("policies-prod"))
        for s in ("dev", "train"):
            os.makedirs(p.path("inbox-" + s))
            extra[s]["datasets"]["inbox"] = p.path("inbox-" + s)
        extra["prod"]["datasets"].update(policies=p.path("policies-prod"), secret=p._secret("tenant-root-key", "ab" * 32))
        cls.enterClassContext(p)
        p.psql("prod", "CREATE TABLE census (person_id int PRIMARY KEY, age int, hours_per_week int, workclass text, education text, marital_status text, occupation text, race text, sex text,"
                       " native_country text, salary text)")
        with open(CENSUS) as f:
            text = f.read().split("\n", 1)[1]
        p.psql("prod", "COPY census FROM STDIN (FORMAT csv);\n" + text + "\\.\n")
        p.psql("prod", f"UPDATE census SET native_country = '{PLANTED}', race = '{PLANTED}' WHERE person_id % 7 = 0")
        cls.rows = int(p.psql("prod", "SELECT count(*) FROM census"))
        cls.policy("census", POLICY)
        cls.policy("leaky", "\n".join(x for x in POLICY.splitlines() if "native_country" not in x).replace("policy: census", "policy: leaky"))
        p.start()

    @classmethod
    def policy(cls, name, text):
        with open(cls.p.path("policies-prod", name + ".yaml"), "w") as f:
            f.write(text.format(dsn=cls.p.dsn("prod")))

    def pull(self, name, *args, check=True):
        return self.p.cli("data", "pull", name, "--from", "prod", "--purpose", "test", "--wait=60s", *args, stage="train", check=check)

    def delivered(self):
        return json.loads(self.p.cli("data", "list", "-o", "json", stage="train").stdout)["items"]

    def grep(self, needle):
        """Files below the platform's folder that hold the needle, but for the source database."""
        done = subprocess.run(["grep", "-rlaF", "--exclude-dir=pg", "--", needle, self.p.dir], stdout=subprocess.PIPE, text=True)
        return done.stdout.split()

    def test_1_delivered_with_an_attestation(self):
        said = self.pull("census")
        self.assertIn("delivered", said.stdout)
        path = said.stdout.split()[1]
        with open(os.path.join(path, "data.csv")) as f:
            rows = list(csv.DictReader(f))
        self.assertEqual(len(rows), self.rows)
        self.assertEqual(set(rows[0]), {"person_id", "age", "hours_per_week", "workclass", "education", "marital_status", "occupation", "sex", "native_country", "salary"})
        self.assertEqual(len({r["person_id"] for r in rows}), self.rows, "pseudonyms are unique")
        self.assertTrue(all(r["person_id"].startswith("p_") for r in rows))
        self.assertEqual({r["native_country"] for r in rows}, {"suppressed"})
        self.assertFalse(any(r["age"].isdigit() for r in rows), "ages are ranges")
        with open(os.path.join(path, "attestation.json")) as f:
            att = json.load(f)["attestation"]
        self.assertEqual(att["rows_out"], self.rows)
        self.assertEqual(att["claim"], "pseudonymized")
        state = self.p.hub_sql("SELECT state || ' ' || row_count FROM lifecycle.dataset_request WHERE dataset = 'census'")
        self.assertEqual(state, f"delivered {self.rows}")

    def test_2_planted_value_is_nowhere(self):
        marker = self.p.path("marker")
        with open(marker, "w") as f:
            f.write("x" + PLANTED + "x")
        self.assertEqual(self.grep(PLANTED), [marker], "the scan finds what is there, and nothing else is there")
        os.unlink(marker)
        self.assertEqual(self.p.hub_sql(f"SELECT count(*) FROM lifecycle.event e WHERE e::text LIKE '%{PLANTED}%'"), "0")

    def test_3_a_column_without_a_rule_refuses_all(self):
        said = self.pull("leaky", check=False)
        self.assertEqual(said.returncode, 4, said.stdout + said.stderr)
        self.assertIn("unlisted_column", said.stdout)
        self.assertIn("native_country", said.stdout)
        self.assertEqual([d for d in os.listdir(self.p.path("inbox-train")) if d.startswith("leaky")], [])

    def test_4_no_policy_no_edge_no_data(self):
        said = self.pull("missing", check=False)
        self.assertEqual(said.returncode, 4, said.stdout + said.stderr)
        said = self.p.cli("data", "pull", "census", "--from", "prod", "--purpose", "test", "--wait=30s", stage="dev", check=False)
        self.assertEqual(said.returncode, 4, said.stdout + said.stderr)
        self.assertIn("edge", said.stdout)
        said = self.pull("unheard-of", check=False)
        self.assertEqual(said.returncode, 4, said.stdout + said.stderr)

    def test_5_killed_in_the_middle(self):
        self.p.psql("prod", "CREATE TABLE large AS SELECT g AS person_id, md5(g::text) || md5((g + 1)::text) AS noise FROM generate_series(1, 300000) g")
        self.policy("large", "policy: large\nversion: \"1\"\nsource: {{postgres: {{conninfo: \"{dsn}\", table: public.large}}}}\nrecipients: [train]\nlimits: {{min_rows: 1, max_rows: 1000000}}\n"
                             "columns:\n  - {{name: person_id, role: key, op: pseudonym, domain: person, token_prefix: p, \"null\": refuse}}\n  - {{name: noise, role: public, op: keep, reason: generated noise}}\n")
        asked = json.loads(self.p.cli("data", "pull", "large", "--from", "prod", "--purpose", "test", "-o", "json", stage="train").stdout)["request"]

        def moving():
            return int(self.p.hub_sql(f"SELECT coalesce(max(t.sent + t.next), 0) FROM lifecycle.dataset_request d LEFT JOIN lifecycle.transfer t ON t.id = d.transfer WHERE d.id = '{asked}'") or 0) > 0 \
                or [d for d in self.delivered() if d["request"] == asked and d["state"] in ("produced", "delivered")]
        for who in ("prod", "hub", "train", "hub", "prod"):
            until("the request is on its way", lambda: self.p.hub_sql(f"SELECT 1 FROM lifecycle.dataset_request WHERE id = '{asked}'"), 30)
            if who == "hub":
                self.p.hub.kill()
                self.p.start_hub()
            else:
                self.p.agents[who].kill()
                self.p.start_agent(who)
        service("kafka", "kill", self.p.path("kafka-train"))
        service("kafka", "restart", self.p.path("kafka-train"))
        done = until("it is delivered whole", lambda: [d for d in self.delivered() if d["request"] == asked and d["state"] == "delivered"], 120, 0.3)
        path = done[0]["path"]
        with open(os.path.join(path, "data.csv")) as f:
            rows = sum(1 for _ in f) - 1
        self.assertEqual(rows, 300000)
        sums = subprocess.run("cut -d, -f2 data.csv | tail -n +2 | sort | md5sum", shell=True, cwd=path, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[0]
        self.p.psql("prod", f"COPY (SELECT noise FROM large) TO PROGRAM 'cat > {self.p.path('pg')}/noise'")
        want = subprocess.run(f"sort {self.p.path('pg')}/noise | md5sum", shell=True, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[0]
        self.assertEqual(sums, want)
        self.assertTrue(moving())


if __name__ == "__main__":
    unittest.main()
