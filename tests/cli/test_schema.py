"""Every line that the live kernel makes cloister write is one of docs/json.schema.json. Needs python3-jsonschema."""
import json
import os
import pathlib
import unittest

import jsonschema

from harness import CPU, run, watch

SCHEMA = json.loads((pathlib.Path(__file__).parents[2] / "docs" / "json.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


class Schema(unittest.TestCase):
    def assert_valid(self, done, types):
        for line in done.report.lines:
            error = jsonschema.exceptions.best_match(VALIDATOR.iter_errors(line))
            self.assertIsNone(error, f"{error and error.message}: {json.dumps(line)[:2000]}")
        order = list(dict.fromkeys(done.report.order))
        documented = ("header", "breach", "row", "thread", "notice", "violation", "balance")
        self.assertEqual(order, [kind for kind in documented if kind in order])
        self.assertEqual(set(types) - set(order), set())
        begin, watched = done.report.header["begin_ns"], done.report.balance["watched_ns"]
        self.assertGreater(begin, 0)
        for line in done.report.all("breach") + done.report.all("notice"):
            self.assertLessEqual(abs(line["t_ns"]), watched + 5_000_000_000, f"not a moment of the watch: {line}")

    def test_run(self):
        away = min(os.sched_getaffinity(0))
        done = run("affinity", away, 0.1, options=["--budget", "syscall=0"])
        self.assert_valid(done, ("header", "breach", "row", "thread", "notice", "violation", "balance"))
        done = run("known", "--syscalls", 9, "--touch", 9, "--yield", 9, "--timers", 9, "--shootdowns", 9)
        self.assert_valid(done, ("header", "breach", "row", "thread", "balance"))

    def test_run_with_a_trap(self):
        self.assert_valid(run("signal", 11), ("header", "breach", "row", "thread", "balance"))

    def test_watch(self):
        self.assert_valid(watch("-c", CPU, "-d", "1s", "--budget", "async=0"),
                          ("header", "breach", "row", "violation", "balance"))

    def test_blind(self):
        done = run("known", "--touch", 9, before=("prlimit", "--nofile=20"))
        self.assertFalse(done.report.sees_everything())
        self.assert_valid(done, ("header", "row", "balance"))


if __name__ == "__main__":
    unittest.main()
