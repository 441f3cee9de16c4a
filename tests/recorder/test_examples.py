"""The example in C records what it says."""
import os
import subprocess
import tempfile
import unittest


def run(program, *words):
    return subprocess.run([os.environ[program], *words], capture_output=True, text=True, check=True).stdout


class Examples(unittest.TestCase):
    def test_valve(self):
        with tempfile.TemporaryDirectory() as folder:
            trace = folder + "/trace"
            self.assertIn("100000 measurements, 0 events lost", run("VALVE", trace))
            alarms = run("CLOISTER", "view", "--event", "valve:alarm", trace).splitlines()
            self.assertEqual(len(alarms), 1, alarms)
            self.assertRegex(alarms[0], r'bar=4.5 why="pressure too high"  at control valve.c:\d+ < main valve.c:\d+')
            measured = run("CLOISTER", "view", "--event", "valve:measured", trace).splitlines()
            self.assertGreater(len(measured), 100)
            self.assertLess(len(measured), 100_000, "only the newest")
            self.assertIn("round=99999 ", measured[-1])


if __name__ == "__main__":
    unittest.main()
