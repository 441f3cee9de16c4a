"""Long work shows how far it has come, on a terminal, and nowhere else."""
import os
import pty
import select
import signal
import subprocess
import unittest

from harness import CLOISTER, PATIENCE, cloister
from recorded import Recorded

TRACED_RECORDER = os.environ["TRACED_RECORDER"]


class Progress(Recorded):
    def start(self):
        return self.start_program(TRACED_RECORDER, "record", "say", "up", "spin", said="up",
                                  env={**os.environ, "CLOISTER_TRACE": "*"})

    def on_a_terminal(self, *words, until, **environment):
        """What a command writes to stderr that is a terminal, until `until` is in it; then Ctrl-C."""
        ours, its = pty.openpty()
        running = subprocess.Popen([CLOISTER, *map(str, words)], stdout=subprocess.DEVNULL, stderr=its,
                                   env={**os.environ, "TERM": "xterm", **environment})
        os.close(its)
        shown = ""
        try:
            while until not in shown and select.select([ours], [], [], PATIENCE)[0]:
                try:
                    shown += os.read(ours, 4096).decode()
                except OSError:  # it has ended
                    break
            running.send_signal(signal.SIGINT)
            while select.select([ours], [], [], PATIENCE)[0]:
                try:
                    shown += os.read(ours, 4096).decode()
                except OSError:
                    break
            running.wait()
        finally:
            os.close(ours)
            running.kill()
            running.wait()
        return shown

    def test_on_a_terminal(self):
        shown = self.on_a_terminal("record", "--pid", self.start().pid, "-o", self.folder / "trace", until=" packets, ")
        self.assertIn("\r", shown)
        self.assertIn(" of events\x1b[K", shown)
        # The line is taken away before the next one is written.
        self.assertRegex(shown, r"\r\x1b\[Kcloister: look at it")

    def test_not_on_one_that_cannot(self):
        shown = self.on_a_terminal("record", "--pid", self.start().pid, "-o", self.folder / "trace", "-d", "1s",
                                   until="look at it", TERM="dumb")
        self.assertNotIn("\x1b", shown)

    def test_not_in_a_file(self):
        done = cloister("record", "--pid", self.start().pid, "-o", self.folder / "trace", "-d", "1s", json=False)
        self.assertEqual(done.status, 0, str(done))
        self.assertNotIn("\r", done.err)


if __name__ == "__main__":
    unittest.main()
