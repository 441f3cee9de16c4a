"""The examples print what they say they trace."""
import os
import re
import subprocess
import tempfile
import unittest


def lines(program, **environment):
    done = subprocess.run([os.environ[program]], env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    assert done.stderr == "", done.stderr
    return done.stdout.splitlines()


class Examples(unittest.TestCase):
    def test_in_cpp(self):
        bought = 'book:filled order=11 price=110.5 side=buy venue="XETR"'
        self.assertEqual(lines("TRADING", CLOISTER_TRACE=""),
                         ["as the environment says:", "where side == buy:", bought, "off:"])
        self.assertEqual(lines("TRADING", CLOISTER_TRACE="book:filled if price > 101"),
                         ["as the environment says:", 'book:filled order=2 price=101.5 side=sell venue="XETR"',
                          "where side == buy:", bought, "off:"])

    def test_in_c(self):
        self.assertEqual(lines("SENSOR", CLOISTER_TRACE=""), ['sensor:read celsius=31 name="attic"'])

    def test_an_analyser_of_the_engine(self):
        """It reads in place what the engine is writing at full speed."""
        with tempfile.TemporaryDirectory() as folder:
            engine = subprocess.Popen([os.environ["ENGINE"], f"{folder}/trace", "600"], stdout=subprocess.PIPE, text=True)
            try:
                self.assertIn("was slow", engine.stdout.readline())
                found = subprocess.run([os.environ["ANALYSER"], str(engine.pid)], capture_output=True, text=True, check=True)
            finally:
                engine.kill()
                engine.wait()
                engine.stdout.close()
        orders, lowest, highest = re.match(r"(\d+) orders within [\d.]+ ms, at prices from ([\d.]+) to ([\d.]+);",
                                           found.stdout).groups()
        self.assertGreater(int(orders), 1000)
        self.assertEqual((lowest, highest), ("100.00", "100.99"))
        refused = subprocess.run([os.environ["ANALYSER"], "/etc/passwd"], capture_output=True, text=True)
        self.assertEqual(refused.returncode, 2)
        self.assertIn("is not a segment", refused.stderr)


if __name__ == "__main__":
    unittest.main()
