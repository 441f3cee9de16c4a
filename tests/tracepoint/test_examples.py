"""The examples print what they say they trace."""
import os
import subprocess
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


if __name__ == "__main__":
    unittest.main()
