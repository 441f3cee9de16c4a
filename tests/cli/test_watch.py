"""cloister watch: a CPU as it is, or a task that runs there."""
import os
import pathlib
import signal
import subprocess
import unittest

from harness import ACTOR, CPU, OTHER, Cloister, wait_until, watch


class Spinner(unittest.TestCase):
    def test_the_balance_adds_up(self):
        done = watch("-c", CPU, "-d", "2s")
        self.assertEqual(done.status, 1, str(done))
        header, balance = done.report.header, done.report.balance
        self.assertEqual((header["command"], header["target"], header["cpu"], header["gap_threshold_ns"]),
                         ("watch", "built-in spinner", CPU, 1000))
        self.assertTrue(done.report.sees_everything(), header)
        self.assertGreater(balance["gaps"], 0)
        self.assertGreater(balance["kernel_gaps"], 0)
        self.assertEqual(balance["lost_ns"], balance["explained_ns"] + balance["unexplained_ns"], balance)
        self.assertEqual(balance["unexplained_ns"], sum(balance["inferred_ns"].values()), balance)
        self.assertGreaterEqual(balance["named_gaps"], 0.99 * balance["kernel_gaps"], done.report.brief())
        self.assertLessEqual(balance["kernel_gaps"], balance["gaps"])
        self.assertGreaterEqual(balance["watched_ns"], 2_000_000_000)
        self.assertLess(balance["lost_ns"], balance["watched_ns"])
        self.assertGreaterEqual(balance["gaps"] * balance["worst_ns"], balance["lost_ns"])

    def test_inferred_rows_are_the_unexplained_time(self):
        done = watch("-c", CPU, "-d", "1s", "--gap", "500ns")
        balance, rows = done.report.balance, done.report.rows(known="inferred")
        self.assertEqual(balance["gap_threshold_ns"], 500)
        by_cause = {}
        for row in rows:
            by_cause[row["cause"]] = by_cause.get(row["cause"], 0) + row["total_ns"]
        self.assertEqual(by_cause, balance["inferred_ns"], done.report.brief())
        for row in rows:
            self.assertIn(row["cause"], ("firmware", "entry", "unseen"))

    def test_ticks_of_the_kernel_are_seen(self):
        """A CPU with a task has its tick, unless it is nohz_full."""
        done = watch("-c", CPU, "-d", "1s")
        if "nohz_full" not in done.report.header["isolation"]:
            self.assertGreater(done.report.count("tick"), 0, done.report.brief())

    def test_a_higher_threshold_finds_no_more(self):
        done = watch("-c", CPU, "-d", "1s", "--gap", "1s")
        balance = done.report.balance
        self.assertEqual((balance["gaps"], balance["lost_ns"]), (0, 0), balance)
        self.assertGreater(balance["below_threshold"], 0, balance)

    def test_budget(self):
        self.assertEqual(watch("-c", CPU, "-d", "300ms", "--budget", "total<=100%").status, 0)
        done = watch("-c", CPU, "-d", "300ms", "--budget", "async=0")
        self.assertEqual(done.status, 1, str(done))
        self.assertEqual([violation["limit"] for violation in done.report.violations], ["async=0"])

    def test_sigint_ends_it_with_a_report(self):
        with Cloister("watch", "-c", CPU) as running:
            wait_until(lambda: running.json.exists() and running.json.read_text().count("\n") > 3,
                       lambda: running.text("stderr"))
            os.kill(running.pid, signal.SIGINT)
            done = running.finish()
        self.assertEqual(done.status, 1, str(done))
        self.assertGreater(done.report.balance["watched_ns"], 0)

    def test_spinner_ends_with_it(self):
        with Cloister("watch", "-c", CPU, "-d", "60s") as running:
            children = pathlib.Path(f"/proc/{running.pid}/task/{running.pid}/children")
            spinner = wait_until(lambda: children.read_text().split(), lambda: running.text("stderr"))
            self.assertEqual(os.sched_getaffinity(int(spinner[0])), {CPU})
            running.process.kill()
            running.process.wait()
            wait_until(lambda: not os.path.exists(f"/proc/{spinner[0]}"), lambda: f"the end of spinner {spinner[0]}")


class Pid(unittest.TestCase):
    def setUp(self):
        self.task = subprocess.Popen([ACTOR, "pace", "200", "60"], stdout=subprocess.DEVNULL)
        os.sched_setaffinity(self.task.pid, {CPU})

    def tearDown(self):
        self.task.kill()
        self.task.wait()

    def test_its_breaches_are_seen(self):
        done = watch("--pid", self.task.pid, "-d", "1s")
        self.assertEqual(done.status, 1, str(done))
        report = done.report
        self.assertEqual((report.header["target"], report.header["cpu"], report.header["gap_threshold_ns"]),
                         (f"pid {self.task.pid}", CPU, None))
        calls = [breach for breach in report.breaches if breach["detail"] == "getppid"]
        self.assertGreater(len(calls), 0, report.brief())
        self.assertEqual(report.count("syscall", "getppid"), len(calls))
        self.assertEqual({breach["tid"] for breach in report.breaches}, {self.task.pid})
        self.assertTrue(any(frame["function"] == "actor::pace" for frame in calls[0]["stack"]), calls[0])
        self.assertIsNone(report.balance["unexplained_ns"])
        thread, = report.threads
        self.assertTrue(thread["live"])
        self.assertEqual(thread["syscalls"], report.count("syscall"))
        self.assertIsNone(self.task.poll(), "it runs on")

    def test_its_end_ends_the_watch(self):
        with Cloister("watch", "-c", CPU, "--pid", self.task.pid) as running:
            wait_until(lambda: running.json.exists() and "getppid" in running.json.read_text(),
                       lambda: running.text("stderr"))
            self.task.kill()
            self.task.wait()
            done = running.finish()
        self.assertEqual(done.status, 1, str(done))
        self.assertIn("has ended", done.err)
        thread, = done.report.threads
        self.assertFalse(thread["live"])

    def test_another_cpu_than_its_own(self):
        done = watch("-c", OTHER, "--pid", self.task.pid, "-d", "1s")
        self.assertEqual(done.status, 2, str(done))
        for word in ("needs", "found", "set", f"-c {CPU}"):
            self.assertIn(word, done.err)

    def test_no_gaps_of_another_task(self):
        done = watch("-c", CPU, "--pid", self.task.pid, "--gap", "1us")
        self.assertEqual(done.status, 2, str(done))
        self.assertIn("--gap", done.err)


class Errors(unittest.TestCase):
    def test_status_2(self):
        ended = subprocess.Popen(["true"])
        ended.wait()
        for words in (["-c", "1000000"], ["-c", "x"], ["-c", CPU, "-d", "1lightyear"], ["-c", CPU, "--gap", "wide"],
                      ["-c", CPU, "--budget", "nothing"], ["--nonsense"], ["--pid", ended.pid], ["--pid", "0"],
                      ["-c", CPU, "extra"]):
            done = watch(*words)
            self.assertEqual(done.status, 2, f"{words}: {done}")
            self.assertTrue(done.err, words)
            self.assertIsNone(done.report, words)


if __name__ == "__main__":
    unittest.main()
