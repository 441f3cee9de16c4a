"""cloister record --pid PID -e GLOB: the tracepoints of a program that runs, from outside."""
import os
import signal
import time
import unittest

from harness import CPU, OTHER, Cloister, cloister, wait_until
from recorded import Recorded

TRACED_RECORDER = os.environ["TRACED_RECORDER"]


class Control(Recorded):
    def start(self, *words, **options):
        return self.start_program(TRACED_RECORDER, "record", "say", "up", *words, said="up", **options)

    def on(self, program):
        """The names of the classes that are on."""
        done = cloister("record", "--pid", program.pid, "--list", json=False)
        self.assertEqual(done.status, 0, str(done))
        rows = [line.split() for line in done.out.splitlines()]
        self.assertEqual(rows[0], ["ON", "LEVEL", "EVENT"])
        self.assertEqual(sorted(row[2] for row in rows[1:]), ["program:detail", "program:n"])
        return sorted(row[2] for row in rows[1:] if row[0] == "on")

    def recording(self, program, *options):
        return Cloister("record", "--pid", program.pid, "-o", self.folder / "trace", *options, json=False)

    def is_on(self, program):
        """Whether program:n goes into the segment, without asking the program."""
        def last():
            cloister("snapshot", "--pid", program.pid, "-o", self.folder / f"look{self.looks}", json=False)
            self.looks += 1
            return [event["fields"]["n"] for event in self.events(self.folder / f"look{self.looks - 1}")][-1:]
        before = last()
        time.sleep(0.1)  # a hundred turns of its loop; one that is slower is looked at again
        return last() != before

    looks = 0

    def record(self, program, *options):
        with self.recording(program, *options) as running:
            return running.finish()

    def test_on_for_a_while(self):
        program = self.start("spin")
        self.assertEqual(self.on(program), [])
        with self.recording(program, "-e", "program:n if n > 3") as running:
            wait_until(lambda: "Ctrl-C" in running.text("stderr"), lambda: running.text("stderr"))
            listed = cloister("record", "--pid", program.pid, "--list", json=False)
            self.assertEqual(listed.status, 2, str(listed))
            self.assertIn("another cloister is at it", listed.err)
            os.kill(running.pid, signal.SIGINT)
            done = running.finish()
        self.assertEqual(done.status, 0, str(done))
        self.assertEqual(self.on(program), [])
        self.assertIsNone(program.poll(), "it runs on")
        numbers = [event["fields"]["n"] for event in self.events(self.folder / "trace")]
        self.assertEqual(numbers, list(range(numbers[0], numbers[0] + len(numbers))))
        self.assertEqual({event["event"] for event in self.events(self.folder / "trace")}, {"program:n"})

    def test_what_the_program_has_turned_on_stays_on(self):
        program = self.start("spin", env={**os.environ, "CLOISTER_TRACE": "program:detail"})
        done = self.record(program, "-e", "*", "-d", "300ms")
        self.assertEqual(done.status, 0, str(done))
        self.assertEqual({event["event"] for event in self.events(self.folder / "trace")},
                         {"program:n", "program:detail"})
        self.assertEqual(self.on(program), ["program:detail"])

    def test_a_recorder_that_is_killed(self):
        program = self.start("spin")
        with self.recording(program, "-e", "*") as running:
            wait_until(lambda: "Ctrl-C" in running.text("stderr"), lambda: running.text("stderr"))
            os.kill(running.pid, signal.SIGKILL)
            running.process.wait()
        # The program finds that out by itself; who begins a session now would put it back too.
        wait_until(lambda: not self.is_on(program), lambda: "still on")
        self.assertEqual(self.on(program), [])

    def test_a_program_that_is_stopped_is_not_waited_for_for_ever(self):
        program = self.start("spin")
        os.kill(program.pid, signal.SIGSTOP)
        done = self.record(program, "-e", "*")
        self.assertEqual(done.status, 2, str(done))
        self.assertIn("stopped", done.err)
        self.assertFalse((self.folder / "trace").exists())
        # What it was asked for meanwhile is taken back when it goes on.
        os.kill(program.pid, signal.SIGCONT)
        self.assertEqual(self.on(program), [])

    def test_what_it_cannot_do(self):
        program = self.start("spin")
        for words, found in ((("-e", "nobody:*"), "program:detail"), (("-e", "nobody:*"), "program:n"),
                             (("-e", "program:*@9"), "level 9"), (("-e", "program:n if nope > 1"), "nope"),
                             (("-e", "x" * 3000), "characters")):
            done = self.record(program, *words)
            self.assertEqual(done.status, 2, str(done))
            self.assertIn(found, done.err)
            self.assertFalse((self.folder / "trace").exists())
        self.assertEqual(self.on(program), [])

    def test_its_barriers_are_cloisters_own(self):
        """Patching sends IPIs to the watched CPU: they are not there without cloister, and the report says so."""
        program = self.start("busy")

        def threads():
            found = {}
            for tid in os.listdir(f"/proc/{program.pid}/task"):
                with open(f"/proc/{program.pid}/task/{tid}/comm") as comm:
                    found[comm.read().strip()] = int(tid)
            return found
        wait_until(lambda: "cloister-ctl" in threads())
        os.sched_setaffinity(program.pid, {CPU})
        os.sched_setaffinity(threads()["cloister-ctl"], {OTHER})
        with Cloister("watch", "-c", CPU, "--pid", program.pid, "-d", "30s") as watching:
            def barriers():
                done = cloister("record", "--pid", program.pid, "-o", self.folder / str(barriers.turn), "-e", "*",
                                "-d", "50ms", json=False)
                self.assertEqual(done.status, 0, str(done))
                barriers.turn += 1
                return barriers.turn == 20
            barriers.turn = 0
            wait_until(barriers)
            os.kill(watching.pid, signal.SIGINT)
            report = watching.finish().report
        if not report.sees_everything():
            return
        rows = [row for row in report.rows("ipi") if (row["who"] or "").startswith("cloister-ctl")
                or row["observer"]]
        self.assertTrue(rows, report.brief())
        self.assertTrue(all(row["observer"] for row in rows), report.brief())


if __name__ == "__main__":
    unittest.main()
