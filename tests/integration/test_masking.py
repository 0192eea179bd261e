"""What goes down: a type that prod owns, copied to train, which comes before it. Texts are planted in columns of every class, and every byte of train's broker, of
train's database, of its agent's folder and of all logs is searched for them; a text in a public column shows that the search can find."""
import glob
import re
import subprocess
import unittest

from harness import TENANT, Platform, until
from test_entities import records

PUBLIC = "hG4nJd6FtB1xVr5WqC0z"
PRIVATE, INTERNAL, MASKED, LATER = "kQ7vXw3ZpT9mLs2RbY8c", "uA8eNy1KcM6oDf3SgH2i", "tP5lJb9ZrE4wGv7QxO0k", "mI3hYs6UaR1nCd8BfL5j"
NEVER_DOWN = (PRIVATE, INTERNAL, MASKED, LATER)


class Masking(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        p = Platform(
            stages=["dev", "train", "prod"], origins=(), replicas=["train"],
            sources={"prod": [
                {"table": "public.customer", "type": "customer", "private": ["iban"], "internal": ["phone"], "public": ["plan", "city"], "down": True,
                 "new_columns": "withhold", "masks": [
                     {"column": "id", "op": "pseudonym", "domain": "customer"}, {"column": "mail", "op": "suppress"},
                     {"column": "age", "op": "bucket", "step": 10}, {"column": "salary", "op": "round", "step": 1000}]},
                {"table": "public.invoice", "type": "invoice"}]},
            types=[{"type": "customer", "owner": "prod", "subscribers": ["train"], "public_down": True},
                   {"type": "invoice", "owner": "prod", "subscribers": ["train"], "public_down": True}])
        p.extra_agent["prod"] = {"datasets": {"secret": p._secret("prod-root-key", "ab" * 32)}}
        cls.p = p.__enter__()
        cls.addClassCleanup(lambda: p.__exit__(None, None, None))
        p.psql("prod", "CREATE TABLE customer (id integer PRIMARY KEY, plan text, city text, mail text, age integer, salary numeric(8,2), phone text, iban text,"
               " note text); CREATE TABLE invoice (id integer PRIMARY KEY, total numeric);"
               f"INSERT INTO customer SELECT g, 'free', '{PUBLIC}-' || g, '{MASKED}@x.org', g % 90, g * 10, '{INTERNAL}', '{PRIVATE}', '{INTERNAL}' FROM generate_series(1, 3000) g;"
               f"INSERT INTO invoice SELECT g, g FROM generate_series(1, 10) g;")
        p.start()

    def same(self):
        """train's copy is what the rules make of prod's table; keys are tokens, so rows are told apart by the city."""
        there = self.p.psql("prod", "SELECT plan, city, NULL, '[' || age / 10 * 10 || ',' || age / 10 * 10 + 10 || ')', floor((salary + 500) / 1000) * 1000"
                                    " FROM customer ORDER BY city")
        here = self.p.psql("train", "SELECT plan, city, mail, age, salary FROM replica.customer ORDER BY city", check=False)
        return there == here

    def whole(self):
        columns = "id, plan, city, mail, age, salary, phone, note"
        return self.p.hub_sql(f"SELECT {columns} FROM prod.customer ORDER BY id", check=False) == self.p.psql("prod", f"SELECT {columns} FROM customer ORDER BY id")

    def test_1_copy_is_what_the_rules_say(self):
        until("train has prod's customers as the rules make them", self.same, 60)
        until("the sync view has them whole", self.whole, 60)
        self.assertEqual(self.p.psql("train", "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum) FROM pg_attribute"
                                              " WHERE attrelid = 'replica.customer'::regclass AND attnum > 0"),
                         "id text, plan text, city text, mail text, age text, salary numeric")
        self.assertEqual(self.p.psql("train", "SELECT count(DISTINCT id), bool_and(id ~ '^customer_[0-9a-z]{26}$') FROM replica.customer"), "3000\tt")

    def test_2_changes_follow(self):
        p = self.p
        p.psql("prod", f"UPDATE customer SET age = age + 7, phone = '{INTERNAL} again' WHERE id % 3 = 0; DELETE FROM customer WHERE id % 50 = 1;"
               f"UPDATE customer SET id = id + 100000 WHERE id % 50 = 2; UPDATE customer SET phone = '{INTERNAL} only';"
               f"INSERT INTO customer VALUES (200000, 'paid', '{PUBLIC} new', '{MASKED}', 1, 2, '{INTERNAL}', '{PRIVATE}', '{INTERNAL}');")
        until("train's copy follows", self.same, 60)
        until("the sync view follows", self.whole, 60)
        token = "SELECT id FROM replica.customer WHERE city = '{}'"
        before = p.psql("train", token.format(PUBLIC + " new"))
        p.agents["prod"].kill()
        p.psql("prod", "UPDATE customer SET salary = 70000 WHERE id < 100; TRUNCATE invoice;")
        p.start_agent("prod")
        until("and after a kill", self.same, 60)
        self.assertEqual(p.psql("train", token.format(PUBLIC + " new")), before)

    def test_3_a_later_column_is_withheld_until_it_is_declared(self):
        p = self.p
        p.psql("prod", f"ALTER TABLE customer ADD COLUMN later text DEFAULT '{LATER}'; UPDATE customer SET later = '{LATER} 2', plan = 'trial' WHERE id < 1000;")
        until("what else was changed came", self.same, 60)
        until("the agent says so", lambda: "withheld customer.later" in p.cli("status", stage="prod").stdout, 60)
        until("the hub says so", lambda: p.hub_sql("SELECT class FROM lifecycle.entity_column WHERE type = 'customer' AND column_name = 'later'") == "withheld", 60)
        self.assertEqual(p.hub_sql("SELECT count(*) FROM pg_attribute WHERE attrelid = 'prod.customer'::regclass AND attname = 'later'"), "0")
        self.assertIn("column_withheld", p.agents["prod"].text())

    def test_4_nothing_that_may_not_go_down_is_anywhere_in_train(self):
        p = self.p
        folder = p.path("kafka-train", "data")
        received = "".join(records(p.brokers["train"], f"sb.{TENANT}.train.{d}.{c}.v1") for d in ("up", "down") for c in ("entity", "event", "data"))
        dump = subprocess.run(["pg_dump", p.dsn_cached("train")], stdout=subprocess.PIPE, check=True, text=True).stdout
        for text in NEVER_DOWN:
            for place in (folder, p.path("agent-train")):
                self.assertEqual(subprocess.run(["grep", "-rlaF", text, place], stdout=subprocess.PIPE, text=True).stdout, "", text)
            self.assertNotIn(text, received)
            self.assertNotIn(text, dump)
        for log in glob.glob(p.path("*.log")):
            with open(log, errors="replace") as f:
                said = f.read()
            for text in (*NEVER_DOWN, PUBLIC):
                self.assertNotIn(text, said, log)
        # what the search is able to find: the public text here, the internal one where it may be, the private one nowhere outside of its database
        self.assertNotEqual(subprocess.run(["grep", "-rlaF", PUBLIC, folder], stdout=subprocess.PIPE, text=True).stdout, "")
        self.assertIn(PUBLIC, received)
        self.assertIn(PUBLIC, dump)
        view = subprocess.run(["pg_dump", p.dsn_cached("hub_" + TENANT)], stdout=subprocess.PIPE, check=True, text=True).stdout
        sent = records(p.brokers["prod"], f"sb.{TENANT}.prod.up.entity.v1")
        for text, there in ((INTERNAL, True), (MASKED, True), (PRIVATE, False), (LATER, False)):
            self.assertEqual((text in view, text in sent), (there, there), text)

    def test_5_a_copy_that_nobody_publishes_says_so(self):
        p = self.p
        until("the view says so", lambda: p.hub_sql("SELECT stage, content, withheld <> '' FROM lifecycle.copy WHERE type = 'invoice'") == "train\tpublic\tt", 30)
        self.assertEqual(p.hub_sql("SELECT content, withheld FROM lifecycle.copy WHERE type = 'customer'"), "public\t")
        self.assertTrue(re.search(r"ev=copy_withheld key=invoice .*publishes nothing", p.hub.text()))
        self.assertEqual(p.psql("train", "SELECT to_regclass('replica.invoice') IS NULL"), "t")
        self.assertEqual(p.psql("train", "SELECT owner, type, content, snapshot_state FROM replica._freshness"), "prod\tcustomer\tpublic\tdone")

    def test_6_once_declared_it_comes(self):
        p = self.p
        p.psql("prod", "UPDATE customer SET later = 'declared ' || id")
        p.agents["prod"].kill()
        p.sources["prod"][0]["public"] = ["plan", "city", "later"]
        p._write("agent-prod.yaml", p.agent_settings("prod"))
        p.start_agent("prod")
        until("train has it, in every row", lambda: p.psql("train", "SELECT count(*) FROM replica.customer WHERE later LIKE 'declared %'", check=False)
              == p.psql("prod", "SELECT count(*) FROM customer"), 60)


if __name__ == "__main__":
    unittest.main()
