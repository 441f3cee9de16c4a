"""cloister snapshot, and cloister view of what it made."""
import json
import os
import pathlib
import subprocess
import tempfile
import unittest

from harness import cloister

RECORDS = os.environ["RECORDS"]


class Snapshot(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def start(self, *words):
        """A program that records 5000 events and more, says that it has, and waits."""
        program = subprocess.Popen([RECORDS, *map(str, words)], stdout=subprocess.PIPE, text=True)
        self.addCleanup(lambda: (program.kill(), program.wait(), program.stdout.close()))
        self.assertEqual(program.stdout.readline(), "recorded\n")
        return program

    def numbers(self, trace):
        done = cloister("view", trace, "--json", json=False)
        self.assertEqual(done.status, 0, str(done))
        events = [json.loads(line) for line in done.out.splitlines()]
        return [event["fields"]["n"] for event in events if event.get("type") == "event"]

    def assert_newest(self, trace):
        numbers = self.numbers(trace)
        self.assertGreater(len(numbers), 1000)
        self.assertEqual(sorted(numbers), list(range(5001 - len(numbers), 5001)))

    def test_of_a_running_program(self):
        program = self.start()
        done = cloister("snapshot", "--pid", program.pid, "-o", self.folder / "trace", json=False)
        self.assertEqual(done.status, 0, str(done))
        self.assertIn("cloister view", done.err)
        self.assertIsNone(program.poll(), "it runs on")
        self.assert_newest(self.folder / "trace")

    def test_of_a_dead_program(self):
        program = self.start(self.folder / "segment")
        program.kill()
        program.wait()
        done = cloister("snapshot", self.folder / "segment", "-o", self.folder / "trace", json=False)
        self.assertEqual(done.status, 0, str(done))
        self.assert_newest(self.folder / "trace")

    def test_a_directory_that_is_not_empty_is_left_alone(self):
        program = self.start()
        (self.folder / "trace").mkdir()
        (self.folder / "trace" / "mine").write_text("x")
        done = cloister("snapshot", "--pid", program.pid, "-o", self.folder / "trace", json=False)
        self.assertEqual(done.status, 2, str(done))
        self.assertIn("  needs  ", done.err)
        self.assertEqual([path.name for path in (self.folder / "trace").iterdir()], ["mine"])

    def test_what_it_cannot_do(self):
        ended = subprocess.Popen(["true"])
        ended.wait()
        for words in ((), ("--pid", os.getpid()), ("--pid", ended.pid), ("--pid", 0), ("/no/such/file",), ("/etc/passwd",),
                      ("/dev/null",), ("/",), ("--pid", os.getpid(), "/etc/passwd")):
            done = cloister("snapshot", "-o", self.folder / "never", *words, json=False)
            self.assertEqual(done.status, 2, f"{words}: {done}")
            self.assertTrue(done.err, words)
            self.assertFalse((self.folder / "never").exists(), words)
        self.assertEqual(cloister("snapshot", "--pid", os.getpid(), json=False).status, 2)


if __name__ == "__main__":
    unittest.main()
