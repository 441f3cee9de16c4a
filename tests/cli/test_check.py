"""cloister check and cloister explain as a person runs them. What they change is tried in tests/vm."""
import json
import os
import subprocess
import tempfile
import unittest

from harness import CLOISTER, CPU


def cloister(*words, **options):
    return subprocess.run([CLOISTER, *map(str, words)], capture_output=True, text=True, check=False, **options)


class Check(unittest.TestCase):
    def test_text_and_json_say_the_same(self):
        with tempfile.TemporaryDirectory() as folder:
            file = f"{folder}/json"
            done = cloister("check", "-c", CPU, "--json", file)
            with open(file, encoding="utf8") as text:
                *findings, last = map(json.loads, text)
        self.assertEqual(last["type"], "audit")
        self.assertEqual(done.returncode, 1 if last["fail"] else 0, done)
        for verdict in ("pass", "fail", "unknown"):
            ids = [line["setting"] for line in findings if line["verdict"] == verdict]
            self.assertEqual(len(ids), last[verdict])
            for name in ids:
                self.assertRegex(done.stdout, rf"(?m)^{verdict} +{name}\b")
        self.assertIn(f"{last['pass']} pass, {last['fail']} fail, {last['unknown']} unknown", done.stdout)

    def test_nothing_is_changed_unasked(self):
        done = [cloister("check", "-c", CPU, "--json", "-").stdout.splitlines() for _ in range(2)]
        verdicts = [{line["setting"]: line["verdict"] for line in map(json.loads, lines) if line["type"] == "finding"}
                    for lines in done]
        for name in verdicts[0]:
            if name not in ("tasks", "kthreads", "irq_affinity", "steal"):  # others are at work, too
                self.assertEqual(verdicts[0][name], verdicts[1][name], name)

    def test_of_a_process(self):
        loop = subprocess.Popen(["sleep", "100"])
        try:
            done = cloister("check", "-c", CPU, "--pid", loop.pid, "--json", "-")
            found = {line.get("setting"): line for line in map(json.loads, done.stdout.splitlines())}
            self.assertEqual(found["task_memory"]["verdict"], "fail", found["task_memory"])
            self.assertEqual(found["task_shared_memory"]["verdict"], "pass", found["task_shared_memory"])
            os.sched_setaffinity(loop.pid, [CPU])
            done = cloister("check", "-c", CPU, "--pid", loop.pid, "--json", "-")
            found = {line.get("setting"): line for line in map(json.loads, done.stdout.splitlines())}
            self.assertEqual(found["task_affinity"]["verdict"], "pass", found["task_affinity"])
        finally:
            loop.kill()
            loop.wait()

    def assert_told(self, done, *words):
        self.assertEqual((done.returncode, done.stdout), (2, ""), done)
        for word in ("cloister: ", "  needs  ", "  found  ", *words):
            self.assertIn(word, done.stderr)

    def test_bad_input(self):
        self.assert_told(cloister("check", "-c", "1,,2"), "character 3")
        self.assert_told(cloister("check", "-c", "0-60000"), "there is no CPU")
        self.assert_told(cloister("check", "--pid", 4194304), "no such process")
        self.assert_told(cloister("check", "--undo", "--journal", "/tmp/no/such/file"), "nothing to undo")
        self.assert_told(cloister("check", "-c", CPU, "--fix", "--journal", "/proc/no/file"), "--journal")
        self.assertEqual(cloister("check", "--fix", "--undo").returncode, 2)
        done = cloister("check", "-c", CPU, "--json", "/no/such/folder/x")
        self.assertEqual(done.returncode, 2, done)
        self.assertIn("cannot write /no/such/folder/x", done.stderr)


class Explain(unittest.TestCase):
    def test_everything_that_it_lists(self):
        lists = cloister("explain")
        self.assertEqual(lists.returncode, 0)
        names = [line.split()[0] for line in lists.stdout.splitlines() if line.startswith("  ")]
        self.assertGreater(len(names), 50)
        for name in names:
            done = cloister("explain", name)
            self.assertEqual((done.returncode, done.stderr), (0, ""), name)
            self.assertTrue(done.stdout.startswith(name + "\n"), done.stdout)
            self.assertGreater(len(done.stdout.splitlines()), 3, done.stdout)
            self.assertNotRegex(done.stdout, "[{}]", name)
            self.assertLessEqual(max(map(len, done.stdout.splitlines())), 100, done.stdout)

    def test_what_nobody_knows(self):
        done = cloister("explain", "gremlins")
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertIn("nothing to explain by the name gremlins", done.stderr)


if __name__ == "__main__":
    unittest.main()
