"""Every version of PostgreSQL that can be a source: the component tests that have a server run with each of them. The system's own server (15 on
Debian 12) runs them in `make check-component`; the others come from Maven."""
import os
import re
import subprocess
import tempfile
import unittest

from harness import BUILD, ROOT, service

VERSIONS = ["14", "16", "17"]
PROGRAMS = ["test_pg", "test_pg_replication", "test_entity_table", "test_agent_source_pg", "test_agent_source_types",
            "test_agent_source_tables", "test_agent_source_outbox", "test_agent_source_check", "test_agent_source_slot"]


class PostgresVersions(unittest.TestCase):
    def run_with(self, version):
        with tempfile.TemporaryDirectory(prefix="sb-pg-") as folder:
            os.chmod(folder, 0o755)  # the server has a user of its own
            programs = service("postgres", "install", version, os.path.join(folder, "server"))
            for name in PROGRAMS:
                program = os.path.join(BUILD, "tests", "component", name)
                self.assertTrue(os.path.exists(program), f"{program} is not there: make check-component builds it")
                with self.subTest(program=name):
                    done = subprocess.run([program], cwd=ROOT, env=dict(os.environ, SB_PG_BIN=programs), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                          text=True, timeout=600)
                    tests = re.search(r"Checks: ([0-9]+), Failures: 0, Errors: 0", done.stdout)
                    self.assertTrue(done.returncode == 0 and tests and int(tests.group(1)) > 0, done.stdout[-3000:])


for v in VERSIONS:
    setattr(PostgresVersions, f"test_{v}", lambda self, v=v: self.run_with(v))

if __name__ == "__main__":
    unittest.main()
