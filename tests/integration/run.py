#!/usr/bin/env python3
"""Runs the integration tests (test_*.py beside this file), one after the other, and ends with "N passed, N failed".

usage: run.py [NAME...]   e.g. run.py test_entities test_promotion.Promotion.test_merge
"""
import os
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


class Result(unittest.TextTestResult):
    def startTest(self, test):
        super().startTest(test)
        self._begin = time.monotonic()

    def addSuccess(self, test):
        super().addSuccess(test)
        self.stream.writeln(f"  PASS    {test.id()} ({time.monotonic() - self._begin:.1f} s)")

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.stream.writeln(f"  FAIL    {test.id()}: {str(err[1])[:1500]}")

    def addError(self, test, err):
        super().addError(test, err)
        self.stream.writeln(f"  ERROR   {test.id() if hasattr(test, 'id') else test}: {str(err[1])[:1500]}")


def main():
    loader = unittest.TestLoader()
    here = os.path.dirname(os.path.abspath(__file__))
    suite = loader.loadTestsFromNames(sys.argv[1:]) if sys.argv[1:] else loader.discover(here, "test_*.py")
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=0, resultclass=Result).run(suite)
    failed = len(result.failures) + len(result.errors) + len(result.skipped)
    if result.testsRun == 0:
        print("no integration test was found")
        failed += 1
    print(f"{max(result.testsRun - failed, 0)} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
