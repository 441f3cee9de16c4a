"""Millions of breaches: counts stay exact, memory stays bounded, and what was not recorded is said."""
import json
import unittest

from harness import run

# Far above what a watch needs, far below what a record of every breach of a storm would take.
MEMORY_KB = 300_000


class Storm(unittest.TestCase):
    def assert_bounded(self, done):
        self.assertEqual(done.status, 0, str(done)[-3000:])
        self.assertTrue(done.report.sees_everything(), done.report.header)
        self.assertGreater(done.peak_kb, 0)
        self.assertLess(done.peak_kb, MEMORY_KB)
        balance = done.report.balance
        self.assertEqual(sum(balance["dropped_by_kind"].values()), balance["dropped"], balance)
        self.assertEqual(done.report.order[0], "header")
        self.assertEqual(done.report.order[-1], "balance")
        if balance["dropped"]:
            self.assertIn(f"records dropped {balance['dropped']:,}", done.out[-2000:])

    def test_syscalls(self):
        done = run("syscalls", 2_000_000, options=["--all"])
        self.assert_bounded(done)
        row, = done.report.rows("syscall", "getppid")
        self.assertEqual(row["count"], 2_000_000)
        self.assertLess(row["recorded"], row["count"], "a storm is thinned out")
        self.assertGreater(row["recorded"], 0)
        self.assertGreater(row["total_ns"], 0)
        self.assertGreaterEqual(row["total_ns"], row["max_ns"])
        one_by_one = sum(breach["detail"] == "getppid" for breach in done.report.breaches)
        self.assertEqual(one_by_one, row["recorded"])
        thread, = done.report.threads
        self.assertEqual(thread["syscalls"], sum(row["count"] for row in done.report.rows("syscall")))
        self.assertIn("actor::syscalls", [frame["function"] for site in row["sites"] for frame in site["stack"]])
        said = [line for line in done.out.splitlines() if f"recorded {row['recorded']:,} of 2,000,000" in line]
        self.assertTrue(said, "the text says how many were recorded:\n" + done.out[:6000])

    def test_faults(self):
        done = run("faults", 200_000)
        self.assert_bounded(done)
        report = done.report
        touches = report.count("fault", "minor, write")
        thread, = report.threads
        all_faults = thread["faults_minor"] + thread["faults_major"] + thread["faults_failed"]
        self.assertEqual(report.count("fault"), all_faults, report.brief())
        # The program's start writes to some tens of pages of its own.
        self.assertGreaterEqual(touches, 200_000)
        self.assertLess(touches, 200_500)
        sites = [site for row in report.rows("fault") for site in row["sites"]
                 if site["stack"] and site["stack"][0]["function"] == "actor::faults"]
        self.assertEqual(sum(site["count"] for site in sites), 200_000, sites)

    def test_threads(self):
        done = run("threads", 2000)
        self.assert_bounded(done)
        report = done.report
        self.assertEqual(json.loads(done.out[done.out.index('{"threads"'):].splitlines()[0])["getppid"], 2000)
        self.assertEqual(report.count("syscall", "getppid"), 2000, report.brief())
        self.assertEqual(report.count("syscall", "clone3"), 2000, report.brief())
        self.assertEqual(report.count("syscall", "exit"), 2000, report.brief())
        self.assertEqual(sum(thread["syscalls"] for thread in report.threads), report.count("syscall"))
        self.assertFalse([thread for thread in report.threads if thread["live"]])
        # Threads that found no room are told together; nothing is left out.
        if len(report.threads) != 2001:
            self.assertTrue([thread for thread in report.threads if thread["shared"]], len(report.threads))

    def test_forks(self):
        done = run("forks", 500)
        self.assert_bounded(done)
        report = done.report
        self.assertEqual(report.count("syscall", "getppid"), 500, report.brief())
        self.assertEqual(report.count("syscall", "wait4"), 500, report.brief())
        self.assertEqual(report.count("syscall", "exit_group"), 501, report.brief())
        self.assertEqual(sum(thread["syscalls"] for thread in report.threads), report.count("syscall"))


if __name__ == "__main__":
    unittest.main()
