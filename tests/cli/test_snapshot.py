"""cloister snapshot and cloister record, and cloister view of what they made."""
import os
import random
import signal
import subprocess
import threading
import unittest

from harness import Cloister, cloister, public_copy, wait_until
from recorded import Recorded


RECORDS = os.environ["RECORDS"]


class Segments(Recorded):
    def start(self, *words):
        """A program that records 5000 events and more, says that it has, and waits."""
        return self.start_program(RECORDS, *words, said="recorded")

    def numbers(self, trace):
        return [event["fields"]["n"] for event in self.events(trace)]

    def assert_newest(self, trace):
        numbers = self.numbers(trace)
        self.assertGreater(len(numbers), 1000)
        self.assertEqual(sorted(numbers), list(range(5001 - len(numbers), 5001)))


class Snapshot(Segments):
    def test_of_a_running_program(self):
        program = self.start()
        done = cloister("snapshot", "--pid", program.pid, "-o", self.folder / "trace", json=False)
        self.assertEqual(done.status, 0, str(done))
        self.assertIn("cloister view", done.err)
        self.assertIsNone(program.poll(), "it runs on")
        self.assert_newest(self.folder / "trace")

    def test_of_a_program_without_restartable_sequences(self):
        program = self.start_program("env", "GLIBC_TUNABLES=glibc.pthread.rseq=0", RECORDS, said="recorded")
        done = cloister("snapshot", "--pid", program.pid, "-o", self.folder / "trace", json=False)
        self.assertEqual(done.status, 0, str(done))
        self.assert_newest(self.folder / "trace")
        self.assertEqual({event["cpu"] for event in self.events(self.folder / "trace")}, {None}, "it is of no CPU")
        self.assertNotIn("cpu", cloister("view", self.folder / "trace", json=False).out)

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

    def test_of_another_users_program(self):
        segment = self.folder / "segment"
        by_path, by_pid = self.start(segment), self.start()
        self.assertEqual(segment.stat().st_mode & 0o777, 0o600)
        self.folder.chmod(0o777)
        copies = self.folder / "bin"
        copies.mkdir()
        program, _ = public_copy(copies)
        nobody = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
        for words in ((segment,), ("--pid", by_pid.pid), ("--pid", by_path.pid)):
            done = cloister("snapshot", *words, "-o", self.folder / "never", json=False, before=nobody, program=program)
            self.assertEqual(done.status, 2, f"{words}: {done}")
            self.assertIn("of the same user (or root)", done.err)
            self.assertFalse((self.folder / "never").exists(), words)

    def test_a_segment_that_somebody_cuts_and_scribbles_on(self):
        """At whatever moment: a trace, or an error that says so; never a signal."""
        self.start(self.folder / "segment").kill()
        whole = (self.folder / "segment").read_bytes()
        stop, dice = threading.Event(), random.Random(1)

        def spoil():
            with open(self.folder / "segment", "r+b", buffering=0) as file:
                while not stop.is_set():
                    file.truncate(dice.choice((0, 100, 4096, 300_000)))
                    file.truncate(len(whole))
                    file.seek(0)
                    file.write(whole)
                    file.seek(dice.randrange(len(whole)))
                    file.write(dice.randbytes(64))
        peer = threading.Thread(target=spoil)
        peer.start()
        try:
            for n in range(60):
                done = cloister("snapshot", self.folder / "segment", "-o", self.folder / str(n), json=False)
                self.assertIn(done.status, (0, 2), str(done))
                self.assertTrue(done.err, "where to look at it, or what is wrong")
        finally:
            stop.set()
            peer.join()

    def test_what_it_cannot_do(self):
        ended = subprocess.Popen(["true"])
        ended.wait()
        for words in ((), ("--pid", os.getpid()), ("--pid", ended.pid), ("--pid", 0), ("/no/such/file",),
                      ("/etc/passwd",), ("/dev/null",), ("/",), ("--pid", os.getpid(), "/etc/passwd")):
            done = cloister("snapshot", "-o", self.folder / "never", *words, json=False)
            self.assertEqual(done.status, 2, f"{words}: {done}")
            self.assertTrue(done.err, words)
            self.assertFalse((self.folder / "never").exists(), words)
        self.assertEqual(cloister("snapshot", "--pid", os.getpid(), json=False).status, 2)


class Record(Segments):
    def test_nothing_is_lost_until_the_program_ends(self):
        """The ring of the program holds less than what it writes, and enough for a drain that is late by seconds."""
        program = self.start(self.folder / "segment", 60_000)
        done = cloister("record", self.folder / "segment", "-o", self.folder / "trace", json=False)
        self.assertEqual(done.status, 0, str(done))
        self.assertIn("the program has ended", done.out)
        self.assertEqual(program.wait(), 0, "not one event found its ring full")
        self.assertEqual(self.numbers(self.folder / "trace"), list(range(1, 60_001)))

    def test_for_a_while(self):
        program = self.start()
        done = cloister("record", "--pid", program.pid, "-o", self.folder / "trace", "-d", "200ms", json=False)
        self.assertEqual(done.status, 0, str(done))
        self.assertIn("the time is over", done.out)
        self.assertIsNone(program.poll(), "it runs on")
        self.assert_newest(self.folder / "trace")

    def test_until_it_is_interrupted_and_only_one_at_a_time(self):
        program = self.start()
        with Cloister("record", "--pid", program.pid, "-o", self.folder / "trace", json=False) as running:
            wait_until(lambda: "Ctrl-C" in running.text("stderr"), lambda: running.text("stderr"))
            second = cloister("record", "--pid", program.pid, "-o", self.folder / "second", json=False)
            self.assertEqual(second.status, 2, str(second))
            self.assertIn("another drain", second.err)
            os.kill(running.pid, signal.SIGINT)
            done = running.finish()
        self.assertEqual(done.status, 0, str(done))
        self.assertIn("interrupted", done.out)
        self.assert_newest(self.folder / "trace")

    def test_a_segment_that_is_cut_while_it_is_read(self):
        self.start(self.folder / "segment")
        with Cloister("record", self.folder / "segment", "-o", self.folder / "trace", json=False) as running:
            wait_until(lambda: "Ctrl-C" in running.text("stderr"), lambda: running.text("stderr"))
            os.truncate(self.folder / "segment", 4096)
            done = running.finish()
        self.assertEqual(done.status, 2, str(done))
        self.assertIn("was cut while it was read", done.err)
        refused = cloister("snapshot", self.folder / "segment", "-o", self.folder / "never", json=False)
        self.assertEqual(refused.status, 2, str(refused))
        self.assertIn("the file's size, 4096", refused.err)

    def test_what_it_cannot_do(self):
        for words in ((), ("--pid", os.getpid()), ("/etc/passwd",), ("/no/such/file",),
                      ("--pid", os.getpid(), "/etc/passwd")):
            done = cloister("record", "-o", self.folder / "never", *words, json=False)
            self.assertEqual(done.status, 2, f"{words}: {done}")
            self.assertFalse((self.folder / "never").exists(), words)
        program = self.start()
        done = cloister("record", "--pid", program.pid, "-o", self.folder / "never", "-d", "soon", json=False)
        self.assertEqual(done.status, 2, str(done))


if __name__ == "__main__":
    unittest.main()
