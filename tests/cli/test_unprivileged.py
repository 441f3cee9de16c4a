"""An ordinary user: what is left works, and everything else is called blind."""
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from harness import CPU, frames, public_copy, run, wait_until, watch

PARANOID = int(pathlib.Path("/proc/sys/kernel/perf_event_paranoid").read_text())


class Nobody(unittest.TestCase):
    """As root it becomes nobody; as anybody else it is what it is."""

    before = () if os.geteuid() else ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
                                      "--inh-caps=-all", "--bounding-set=-all")

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.cloister, cls.actor = public_copy(folder.name)

    def run_as_nobody(self, *arguments, options=()):
        return run(self.actor, *arguments, options=options, before=self.before, program=self.cloister)

    def watch_as_nobody(self, *options):
        return watch(*options, before=self.before, program=self.cloister)

    def assert_blind(self, done):
        report = done.report
        self.assertFalse(report.sees_everything(), report.header)
        blind = [blind for blind in report.header["blind"] if blind["what"].startswith("syscalls")]
        self.assertEqual(len(blind), 1, report.header["blind"])
        for cause in ("syscalls", "traps", "signals", "timers", "softirqs", "preemption", "workqueues",
                      "senders of ipis"):
            self.assertIn(cause, blind[0]["what"])
            self.assertNotIn(cause, report.header["sees"])
        self.assertIn("cap_bpf,cap_perfmon+ep", blind[0]["lift"])
        self.assertIn("setcap", done.out, "the text says it as well")
        for cause in ("syscall", "trap", "signal", "timer", "softirq", "workqueue"):
            self.assertEqual(report.rows(cause), [], "what it is blind to is no row, not even one with zero")
        return report

    def test_run(self):
        done = self.run_as_nobody("known", "--syscalls", 100, "--touch", 300)
        self.assertEqual(done.status, 0, str(done))
        report = self.assert_blind(done)
        self.assertIsNone(report.balance["lost_ns"])
        self.assertIsNone(report.balance["unexplained_ns"])
        self.assertTrue(report.rows(known="counted"), report.brief())
        self.assertEqual({row["known"] for row in report.rows() if row["cause"] not in ("fault",)}, {"counted"})
        self.assertEqual({row["total_ns"] for row in report.rows()}, {None}, report.brief())

    @unittest.skipIf(PARANOID > 2, "this kernel lets an ordinary user open no perf event at all")
    def test_faults_are_seen_with_their_function(self):
        report = self.run_as_nobody("known", "--touch", 300).report
        self.assertIn("faults", report.header["sees"])
        touches = [breach for breach in report.breaches if breach["cause"] == "fault"
                   and "actor::touch_first known.cpp" in frames(breach["stack"])]
        self.assertEqual(len(touches), 300, report.brief())
        self.assertEqual({breach["stack"][0]["function"] for breach in touches}, {"actor::touch_first"})
        self.assertEqual({breach["duration_ns"] for breach in touches}, {None})
        addresses = sorted(int(breach["address"], 16) for breach in touches)
        self.assertEqual({b - a for a, b in zip(addresses, addresses[1:])}, {4096})
        self.assertEqual({breach["pc"] for breach in touches}, {touches[0]["pc"]})

    def test_no_fault_of_a_storm_is_lost_in_silence(self):
        report = self.run_as_nobody("faults", 50_000).report
        self.assertGreaterEqual(report.count("fault"), 50_000, report.brief())
        self.assertLess(report.count("fault"), 50_500, report.brief())
        recorded = sum(breach["cause"] == "fault" for breach in report.breaches)
        self.assertEqual(report.balance["dropped"], report.count("fault") - recorded, report.balance)

    @unittest.skipUnless(os.geteuid() == 0, "only root can make a program that others run as root")
    def test_a_setuid_program_takes_the_events_off(self):
        """What cannot be seen of it is blind or counted by the kernel, never a small number of faults that were."""
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            program = shutil.copy(self.actor, os.path.join(folder, "actor-suid"))
            os.chmod(program, 0o4755)
            done = run(program, "faults", 300, before=self.before, program=self.cloister)
        self.assertEqual(done.status, 0, str(done))
        self.assertIn("changes its privileges when it starts", done.err)
        report = self.assert_blind(done)
        self.assertNotIn("faults", report.header["sees"])
        blind, = [blind for blind in report.header["blind"] if blind["what"] == "faults one by one"]
        self.assertIn("changes its privileges", blind["why"])
        self.assertIn("as root", blind["lift"])
        self.assertEqual(report.rows("fault", known="traced"), [], report.brief())
        self.assertGreaterEqual(report.count("fault", known="counted"), 300, report.brief())

    @unittest.skipUnless(os.geteuid() == 0, "the limit on perf's memory is root's to set")
    def test_no_memory_for_perf_rings(self):
        limit = pathlib.Path("/proc/sys/kernel/perf_event_mlock_kb")
        before = limit.read_text()
        limit.write_text("0")
        try:
            done = run(self.actor, "faults", 300, before=("prlimit", "--memlock=0", *self.before),
                       program=self.cloister)
        finally:
            limit.write_text(before)
        self.assertEqual(done.status, 0, str(done))
        report = self.assert_blind(done)
        blind, = [blind for blind in report.header["blind"] if blind["what"] == "faults one by one"]
        self.assertIn("kernel.perf_event_mlock_kb = 0", blind["why"])
        self.assertIn("sysctl kernel.perf_event_mlock_kb=", blind["lift"])
        self.assertNotIn("faults", report.header["sees"])
        self.assertGreaterEqual(report.count("fault", known="counted"), 300, report.brief())

    def test_status(self):
        self.assertEqual(self.run_as_nobody("exit", 9).status, 9)
        self.assertEqual(self.run_as_nobody("signal", 11).status, -11)

    def test_a_budget_that_cannot_be_verified_is_not_met(self):
        done = self.run_as_nobody("syscalls", 5, options=["--budget", "syscall=0,nmi<=1000000"])
        self.assertEqual(done.status, 124, str(done))
        violation = [violation for violation in done.report.violations if violation["limit"] == "syscall=0"]
        self.assertEqual(len(violation), 1, done.report.violations)
        self.assertTrue(violation[0]["found"].startswith("blind: "), violation)
        self.assertIn("blind", done.out.split("budget")[-1])

    def test_watch(self):
        done = self.watch_as_nobody("-c", CPU, "-d", "1s")
        self.assertEqual(done.status, 1, str(done))
        report = self.assert_blind(done)
        balance = report.balance
        self.assertGreater(balance["gaps"], 0, balance)
        self.assertEqual(balance["named_gaps"], 0, balance)
        self.assertEqual(balance["explained_ns"], 0, "nothing was traced")
        self.assertEqual(balance["lost_ns"], balance["unexplained_ns"], balance)
        self.assertEqual(balance["lost_ns"], sum(balance["inferred_ns"].values()), balance)
        if "nohz_full" not in report.header["isolation"]:
            self.assertGreater(report.count("tick", known="counted"), 0, report.brief())

    def test_watch_a_task(self):
        own = subprocess.Popen([*self.before, self.actor, "pace", "100", "60"], stdout=subprocess.DEVNULL)
        try:
            wait_until(lambda: os.readlink(f"/proc/{own.pid}/exe") == self.actor)
            os.sched_setaffinity(own.pid, {CPU})
            self.assert_blind(self.watch_as_nobody("--pid", own.pid, "-d", "300ms"))
        finally:
            own.kill()
            own.wait()
        # Of another user's task even less is to be seen; it says why, and does not fail.
        done = self.watch_as_nobody("-c", CPU, "--pid", os.getpid(), "-d", "300ms")
        report = self.assert_blind(done)
        if self.before:
            self.assertNotIn("faults", report.header["sees"])
            self.assertTrue([blind for blind in report.header["blind"] if "faults" in blind["what"]], report.header)


if __name__ == "__main__":
    unittest.main()
