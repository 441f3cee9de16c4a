"""How a run ends: whose status it has, what happens to the command, and what is said of both."""
import fcntl
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import unittest

from harness import ACTOR, CPU, OTHER, child_of, cloister, read_line, run, start_run, wait_until


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Status(unittest.TestCase):
    def test_the_commands_own(self):
        for status in (0, 1, 7, 124, 255):
            done = run("exit", status)
            self.assertEqual(done.status, status, str(done))
            self.assertEqual(done.report.count("syscall", "exit_group"), 1, done.report.brief())

    def test_budget_met(self):
        done = run("exit", 7, options=["--budget", "total<=100%"])
        self.assertEqual(done.status, 7, str(done))
        self.assertEqual(done.report.violations, [])

    def test_budget_exceeded_names_rows_and_the_commands_status(self):
        done = run("syscalls", 50, options=["--budget", "syscall=0,nmi<=1000000"])
        self.assertEqual(done.status, 124, str(done))
        self.assertIn("exit status 0", done.err)
        violation, = done.report.violations
        self.assertEqual(violation["limit"], "syscall=0")
        rows = done.report.all("row")
        getppid, = [found for found in violation["rows"] if found["detail"] == "getppid"]
        self.assertEqual(getppid["count"], 50)
        self.assertEqual(rows[getppid["row"]]["detail"], "getppid")
        self.assertIn("getppid", done.out.split("syscall=0")[-1], "the text names the row as well")

    def test_budget_exceeded_wins_over_a_signal(self):
        done = run("signal", 15, options=["--budget", "syscall=0"])
        self.assertEqual(done.status, 124, str(done))
        self.assertIn("signal 15", done.err)

    def test_bad_budget_has_a_caret(self):
        done = run("exit", options=["--budget", "syscall=0,tick<=many"])
        self.assertEqual(done.status, 125, str(done))
        lines = done.err.splitlines()
        at = next(number for number, line in enumerate(lines) if "^" in line)
        self.assertEqual(lines[at - 1][lines[at].index("^"):], "many", done.err)
        self.assertIsNone(done.report)

    def test_bad_usage(self):
        for words in (["--nonsense"], ["-d", "5parsecs"], ["-d", "-1s"], ["--after", "soon"], ["-c", "one"],
                      ["-c", "-2"]):
            done = run("exit", options=words)
            self.assertEqual(done.status, 125, f"{words}: {done}")
            self.assertTrue(done.err, words)
        for words in ((), ("nonsense",), ("--nonsense",)):
            done = cloister(*words, json=False)
            self.assertIn(done.status, (2, 125), f"{words}: {done}")
            self.assertTrue(done.err, words)
        self.assertEqual(cloister("run", json=False).status, 125)

    def test_not_executable_and_not_found(self):
        for command, status in (("/etc/passwd", 126), ("/", 126), ("/no/such/program", 127)):
            done = run(command)
            self.assertEqual(done.status, status, str(done))
            self.assertIn(command, done.err)
        self.assertEqual(cloister("run", "--", "no-such-program-anywhere").status, 127)

    def test_dashes_after_the_command_are_the_commands(self):
        done = cloister("run", "echo", "-n", "a", "--", "-b", json=False)
        self.assertIn("a -- -b", done.out)
        self.assertEqual(done.status, 0, str(done))

    def test_death_by_signal_is_reproduced(self):
        for number in (signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
            done = run("signal", int(number))
            self.assertEqual(done.status, -number, str(done))
            self.assertIn(f"signal {int(number)}", done.err)
            self.assertEqual(done.report.count("syscall", "kill"), 1, done.report.brief())


class Signals(unittest.TestCase):
    def test_sigint_ends_the_watch_and_not_the_command(self):
        with start_run("sigint", "handle", 60) as running:
            wait_until(lambda: "ready" in running.text("stdout"), lambda: running.text("stderr"))
            command = child_of(running.pid)
            os.kill(running.pid, signal.SIGINT)
            wait_until(lambda: "still runs" in running.text("stderr"))
            self.assertIn(str(command), running.text("stderr"))
            self.assertTrue(alive(command), "the command is left alone")
            self.assertIn('"balance"', running.json.read_text(), "the report is there while the command still runs")
            self.assertIsNone(running.process.poll(), "it waits for the command")
            # The command has its own handling: status 42.
            os.kill(command, signal.SIGINT)
            done = running.finish()
        self.assertEqual(done.status, 42, str(done))
        self.assertTrue([thread for thread in done.report.threads if thread["tid"] == command and thread["live"]])

    def test_sigterm_is_handed_on(self):
        with start_run("spin", 60) as running:
            command = child_of(running.pid)
            os.kill(running.pid, signal.SIGTERM)
            done = running.finish()
            self.assertFalse(alive(command))
        self.assertEqual(done.status, -signal.SIGTERM, str(done))
        self.assertEqual(done.report.balance["type"], "balance")

    def test_ignored_signals_stay_ignored(self):
        """The command is started with what cloister itself was started with, whatever cloister needs for itself."""
        text = run("/bin/grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status").out
        bare = subprocess.run(["grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"], capture_output=True, text=True,
                              check=True).stdout
        self.assertTrue(bare)
        for line in bare.splitlines():
            self.assertIn(line, text)


class Commands(unittest.TestCase):
    def test_exec_at_once(self):
        """/usr/bin/env does nothing but execute: the same process is another program then."""
        done = run("/usr/bin/env", ACTOR, "syscalls", 33)
        self.assertEqual(done.status, 0, str(done))
        self.assertEqual(done.report.count("syscall", "getppid"), 33, done.report.brief())
        row, = done.report.rows("syscall", "getppid")
        self.assertTrue(any(frame["function"] == "actor::syscalls" for frame in row["sites"][0]["stack"]), row["sites"])

    def test_fork_and_exec(self):
        done = run("fork-exec", ACTOR, "syscalls", 44)
        self.assertEqual(done.status, 0, str(done))
        self.assertEqual(done.report.count("syscall", "getppid"), 44, done.report.brief())
        self.assertEqual(len({thread["tgid"] for thread in done.report.threads}), 2, done.report.threads)
        self.assertEqual(run("fork-exec", ACTOR, "exit", 9).status, 9)

    def test_daemon_is_named_when_it_is_left_behind(self):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "pid"
            with start_run("daemonise", 2, file) as running:
                done = running.finish()
                self.assertEqual(done.status, 0, str(done))
                live = [thread["tgid"] for thread in done.report.threads if thread["live"]]
                self.assertEqual(len(live), 1, done.report.threads)
                self.assertIn(f"actor/{live[0]}", " ".join(done.report.notices))
                wait_until(lambda: file.exists() and file.read_text())
                self.assertEqual(int(file.read_text()), live[0])

    def test_duration_watches_a_daemon_on(self):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "pid"
            done = run("daemonise", 0.5, file, options=["-d", "90s"])
            self.assertEqual(done.status, 0, str(done))
            self.assertEqual(done.report.count("syscall", "exit_group"), 3, done.report.brief())
            self.assertFalse([thread for thread in done.report.threads if thread["live"]], done.report.threads)
            self.assertTrue(file.read_text())

    def test_own_affinity_is_noticed_and_watched_on(self):
        done = run("affinity", OTHER, 0.05)
        self.assertEqual(done.status, 0, str(done))
        self.assertEqual(done.report.header["cpu"], CPU)
        notice = [text for text in done.report.notices if f"cpu {OTHER}" in text and "moved" in text]
        self.assertEqual(len(notice), 1, done.report.notices)
        self.assertIn("sched_setaffinity", notice[0])
        self.assertEqual(done.report.count("syscall", "exit_group", away=True), 1, done.report.brief())
        self.assertEqual(done.report.count("syscall", "write", away=True), 1, done.report.brief())
        self.assertEqual(done.report.count("syscall", "write", away=False), 0, done.report.brief())

    def test_after(self):
        """--after leaves out the start, and the rest is whole."""
        done = run("spin", 3, options=["--after", "1s"])
        self.assertEqual(done.status, 0, str(done))
        self.assertEqual(done.report.count("syscall", "exit_group"), 1, done.report.brief())
        self.assertEqual(done.report.count("syscall", "execve") + done.report.count("syscall", "mmap"), 0,
                         done.report.brief())
        early = run("exit", 3, options=["--after", "60s"])
        self.assertEqual(early.status, 3, str(early))
        self.assertIn("--after", early.err)
        self.assertEqual(early.report.balance["watched_ns"], 0)

    def test_duration(self):
        done = run("syscalls", 10, options=["-d", "60s"])
        self.assertEqual(done.report.count("syscall", "getppid"), 10, "the command's end ends the watch")
        done = run("sigint", "ignore", 2, options=["-d", "200ms"])
        self.assertEqual(done.status, 0, str(done))
        self.assertIn("still runs", done.err)
        self.assertGreaterEqual(done.report.balance["watched_ns"], 200_000_000)
        self.assertEqual(done.report.count("syscall", "exit_group"), 0, done.report.brief())

    def test_two_at_once(self):
        with start_run("syscalls", 3000) as one, start_run("syscalls", 4000) as two:
            first, second = one.finish(), two.finish()
        for done, count in ((first, 3000), (second, 4000)):
            self.assertEqual(done.status, 0, str(done))
            self.assertEqual(done.report.count("syscall", "getppid"), count, done.report.brief())


class Streams(unittest.TestCase):
    def assert_says_so(self, done, what):
        self.assertEqual(done.status, 125, str(done))
        self.assertIn("could not be written", done.err)
        self.assertIn(what, done.err)

    def test_full_device(self):
        with open("/dev/full", "w") as full:
            self.assert_says_so(run("exit", stdout=full, json=False), "No space left")
        done = cloister("run", "--json", "/dev/full", "--", ACTOR, "exit", json=False)
        self.assert_says_so(done, "No space left")

    def test_nobody_reads(self):
        for options in ([], ["--json", "-"], ["--log"]):
            reader, writer = os.pipe()
            os.close(reader)
            with os.fdopen(writer, "w") as pipe:
                self.assert_says_so(run("exit", options=options, stdout=pipe, json=False), "Broken pipe")

    def test_json_to_a_place_that_is_none(self):
        done = cloister("run", "--json", "/no/such/folder/x", "--", ACTOR, "exit", 3, json=False)
        self.assertEqual(done.status, 125, str(done))
        for word in ("/no/such/folder/x", "needs", "found", "set"):
            self.assertIn(word, done.err)

    def test_log_comes_while_the_command_runs(self):
        with start_run("sigint", "handle", 60, options=["--log"], json=False, stdout=subprocess.PIPE,
                       text=True) as running:
            fcntl.fcntl(running.process.stdout, fcntl.F_SETPIPE_SZ, 1 << 20)
            lines = []
            while not any("mmap" in line for line in lines):
                line = read_line(running.process.stdout)
                self.assertTrue(line, "".join(lines))
                lines.append(line)
            command = child_of(running.pid)
            self.assertTrue(alive(command))
            os.kill(command, signal.SIGINT)
            rest = running.process.stdout.read()
            self.assertEqual(running.finish().status, 42)
        self.assertIn("breaches", rest, "and the report comes at the end")

    def test_json_on_stdout_is_all_there_is(self):
        done = cloister("run", "--json", "-", "--", ACTOR, "exit", json=False)
        kinds = [json.loads(line)["type"] for line in done.out.splitlines()]
        self.assertEqual((kinds[0], kinds[-1]), ("header", "balance"))


if __name__ == "__main__":
    unittest.main()
