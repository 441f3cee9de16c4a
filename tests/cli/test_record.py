"""cloister record -- CMD: programs that are started, into a trace."""
import collections
import os
import shutil
import signal
import subprocess
import unittest

from harness import CLOISTER, Cloister, cloister, wait_until
from recorded import Recorded

TRACED, TRACED_RECORDER = os.environ["TRACED"], os.environ["TRACED_RECORDER"]


class Command(Recorded):
    def record(self, *command, options=(), **rest):
        return cloister("record", "-o", self.folder / "trace", *options, "--", *command, json=False, **rest)

    def numbers(self):
        """Of program:n, by process."""
        out = collections.defaultdict(list)
        for event in self.events(self.folder / "trace", "--event", "program:n"):
            out[event["fields"]["pid"]].append(event["fields"]["n"])
        return out

    def test_every_event_and_the_status(self):
        done = self.record(TRACED, "fire", 100_000, "exit", 7)
        self.assertEqual(done.status, 7, str(done))
        self.assertEqual([list(range(1, 100_001))], list(self.numbers().values()))
        self.assertEqual(len(self.judge(self.folder / "trace")), 110_000)
        self.assertIn("cloister view", done.err)
        self.assertEqual(done.out, "", "standard output is the command's")

    def test_a_program_that_is_killed_or_crashes(self):
        for way, number in (("kill", signal.SIGKILL), ("crash", signal.SIGABRT)):
            with self.subTest(way):
                trace = self.folder / way
                done = cloister("record", "-o", trace, "--", TRACED, "fire", 1234, way, json=False)
                self.assertEqual(done.status, -number, str(done))
                shown = [event["fields"]["n"] for event in self.events(trace, "--event", "program:n")]
                self.assertEqual(shown, list(range(1, 1235)))

    def test_children(self):
        """A child of fork, a program that a shell starts, and one that executes itself."""
        done = self.record("/bin/sh", "-c", f"{TRACED} fire 10 fork 20; {TRACED} fire 30 exec fire 40; exit 3")
        self.assertEqual(done.status, 3, str(done))
        found = sorted(tuple(numbers) for numbers in self.numbers().values())
        one, other = list(range(1, 31)), list(range(1, 41))
        self.assertEqual(found, sorted([tuple(range(1, 11)), tuple(range(1, 21)), tuple(one + other)]))

    def test_a_program_with_a_recording_of_its_own(self):
        done = self.record(TRACED_RECORDER, "fire", 5, "record", "fire", 5)
        self.assertEqual(done.status, 0, str(done))
        self.assertEqual([list(range(1, 11))], list(self.numbers().values()))

    def test_what_is_enabled(self):
        done = self.record(TRACED, "fire", 100, options=["-e", "program:n if n > 90 && n != 95", "-e", "program:d*@6"])
        self.assertEqual(done.status, 0, str(done))
        self.assertEqual([[n for n in range(91, 101) if n != 95]], list(self.numbers().values()))
        self.assertEqual(self.events(self.folder / "trace", "--event", "program:detail"), [])

    def test_the_environment_may_say_what_is_enabled(self):
        done = self.record(TRACED, "fire", 100, env={**os.environ, "CLOISTER_TRACE": "program:detail"})
        self.assertEqual(done.status, 0, str(done))
        self.assertEqual({event["event"] for event in self.events(self.folder / "trace")}, {"program:detail"})

    def test_overwrite(self):
        done = self.record(TRACED, "fire", 5000, options=["--overwrite", "--sub-buffers", 4096])
        self.assertEqual(done.status, 0, str(done))
        self.assertEqual([list(range(1, 5001))], list(self.numbers().values()))

    def test_an_empty_trace_explains_itself(self):
        for command, found in ((("/bin/true",), "which has none"), (("/bin/sh", "-c", "exit 0"), "which has none"),
                               ((TRACED, "fire", 0), "program:detail, program:n")):
            trace = self.folder / "nothing"
            done = cloister("record", "-o", trace, "--", *command, json=False)
            self.assertEqual(done.status, 0, str(done))
            self.assertIn(found, done.err)
            self.assertEqual(trace.exists(), "fire" in command, "no directory without a trace")
        done = self.record(TRACED, "fire", 10, options=["-e", "nobody:*"])
        self.assertIn("fits -e nobody:*", done.err)

    def test_a_filter_that_does_not_fit_is_told(self):
        done = self.record(TRACED, "fire", 10, options=["-e", "program:n if nope > 1"])
        self.assertEqual(done.status, 0, str(done))
        self.assertIn("the filter does not fit program:n", done.err)

    def test_a_process_that_runs_on(self):
        done = self.record("/bin/sh", "-c", f"{TRACED} spin & echo $!; exec sleep 0.5")
        self.addCleanup(os.kill, int(done.out), signal.SIGKILL)
        self.assertEqual(done.status, 0, str(done))
        self.assertIn(f"process {int(done.out)} still runs", done.err)
        self.assertEqual(list(self.numbers()), [int(done.out)])

    def test_signals_go_to_the_command(self):
        with Cloister("record", "-o", self.folder / "trace", "--", TRACED, "say", "up", "spin", json=False) as running:
            wait_until(lambda: "up" in running.text("stdout"), lambda: running.text("stderr"))
            os.kill(running.pid, signal.SIGTERM)
            done = running.finish()
        self.assertEqual(done.status, -signal.SIGTERM, str(done))
        (numbers,) = self.numbers().values() or [[]]
        self.assertEqual(numbers, list(range(1, len(numbers) + 1)))

    def test_its_tracepoints_can_be_listed_meanwhile(self):
        with Cloister("record", "-o", self.folder / "first", "-e", "program:detail", "--", TRACED, "say", "up", "read",
                      json=False, stdin=-1) as running:
            wait_until(lambda: "up" in running.text("stdout"), lambda: running.text("stderr"))
            (name,) = os.listdir(self.folder / "first")
            pid = name.rpartition("-")[2]
            listed = cloister("record", "--pid", pid, "--list", json=False)
            self.assertEqual(listed.status, 0, str(listed))
            self.assertIn("on      7 program:detail", listed.out)
            second = cloister("record", "--pid", pid, "-o", self.folder / "second", "-e", "*", json=False)
            self.assertEqual(second.status, 2, str(second))
            self.assertIn("another drain", second.err)
            os.kill(int(pid), signal.SIGKILL)
            running.finish()
            running.process.stdin.close()

    def test_a_recorder_that_is_killed_leaves_the_command_alone(self):
        with Cloister("record", "-o", self.folder / "trace", "--", TRACED, "say", "up", "read", "fire", 100, "say", "done",
                      json=False, stdin=subprocess.PIPE) as running:
            wait_until(lambda: "up" in running.text("stdout"), lambda: running.text("stderr"))
            os.kill(running.pid, signal.SIGKILL)
            running.process.wait()
            running.process.stdin.write(b"\n")
            running.process.stdin.close()
            wait_until(lambda: "done" in running.text("stdout"), lambda: running.text("stderr"))

    def test_what_it_cannot_do(self):
        (self.folder / "full").mkdir()
        (self.folder / "full" / "mine").write_text("x")
        for words, status in ((("-o", self.folder / "full", "--", TRACED), 125), (("--",), 125),
                              (("--pid", 1, "--", TRACED), 125), (("-d", "1s", "--", TRACED), 125),
                              (("-e", "a@9", "--", TRACED), 125), (("-e", "a if (", "--", TRACED), 125),
                              (("-e", "@6", "--", TRACED), 125), (("--sub-buffers", 3, "--", TRACED), 125),
                              (("--", "/no/such/program"), 127), (("--", "/etc/passwd"), 126)):
            with self.subTest(words):
                options = () if "-o" in words else ("-o", self.folder / "never")
                done = cloister("record", *options, *words, json=False)
                self.assertEqual(done.status, status, str(done))
                self.assertIn("  found  ", done.err)
                self.assertFalse((self.folder / "never").exists())
        copy = self.folder / "cloister"
        shutil.copyfile(CLOISTER, copy)
        copy.chmod(0o755)
        done = cloister("record", "--", TRACED, json=False, program=copy)
        self.assertEqual(done.status, 125, str(done))
        self.assertIn("libcloister-preload.so", done.err)


if __name__ == "__main__":
    unittest.main()
