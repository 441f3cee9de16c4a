"""What the tests of the recorder's commands have in common."""
import json
import pathlib
import subprocess
import tempfile
import unittest

from harness import MEMORY, cloister


class Recorded(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(dir=MEMORY)  # a disk may keep a drain waiting for as long as it likes
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def start_program(self, *words, said=None, **options):
        """A program that says `said` when it has begun, and does not outlive the test."""
        program = subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True, **options)
        self.addCleanup(lambda: (program.kill(), program.wait(), program.stdout.close()))
        if said:
            self.assertEqual(program.stdout.readline(), f"{said}\n")
        return program

    def events(self, trace, *options):
        done = cloister("view", trace, "--json", *options, json=False)
        self.assertEqual(done.status, 0, str(done))
        lines = [json.loads(line) for line in done.out.splitlines()]
        self.assertEqual([line for line in lines if line["type"] == "lost"], [])
        return [line for line in lines if line["type"] == "event"]

    def judge(self, trace):
        """babeltrace2 has nothing to complain about; its lines."""
        done = subprocess.run(["babeltrace2", str(trace)], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout.splitlines()
