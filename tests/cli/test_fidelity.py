"""A program with known behaviour: the report is exact, and says the same as getrusage(2) and perf stat."""
import json
import os
import pathlib
import subprocess
import tempfile
import time
import unittest

from harness import ACTOR, frames, nodes, read_line, run, start_run, switches_out, wait_until

SOURCE = (pathlib.Path(__file__).parents[1] / "programs" / "known.cpp").read_text().splitlines()
OPENAT = "257 "


def line_of(text):
    """The one line of the actor's source that has this text."""
    found = [number for number, line in enumerate(SOURCE, 1) if text in line]
    assert len(found) == 1, (text, found)
    return found[0]


READER = """
import mmap, os, resource, sys
file = os.open(sys.argv[1], os.O_RDONLY)
os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
memory = mmap.mmap(file, 0, prot=mmap.PROT_READ)
memory.madvise(mmap.MADV_RANDOM)
before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
for at in range(0, len(memory), mmap.PAGESIZE): memory[at]
print("major", resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before)
"""


class Disk(unittest.TestCase):
    def test_a_fault_that_waits_for_a_disk_is_one_fault(self):
        # Beside the program: where temporary files are may be memory.
        with tempfile.NamedTemporaryFile(dir=pathlib.Path(ACTOR).parent) as file:
            file.write(os.urandom(64 * 4096))
            file.flush()
            os.fsync(file.fileno())
            done = run("/usr/bin/python3", "-c", READER, file.name)
        self.assertEqual(done.status, 0, str(done))
        waited = int(done.out[done.out.index("major "):].split()[1])
        self.assertGreater(waited, 0, str(done))
        rows = [row for row in done.report.rows("fault", away=False) if row["detail"].startswith("major")]
        self.assertEqual(sum(row["count"] for row in rows), sum(t["faults_major"] for t in done.report.threads),
                         done.report.brief())
        self.assertGreaterEqual(sum(row["count"] for row in rows), waited, done.report.brief())
        failed = [row for row in done.report.rows("fault") if row["detail"].startswith("failed")]
        self.assertEqual(failed, [], done.report.brief())


class Known(unittest.TestCase):
    """One run with some of everything, looked at from every side."""

    plan = {"syscalls": 321, "touch": 234, "yield": 123, "timers": 45, "shootdowns": 210}

    @classmethod
    def setUpClass(cls):
        cls.done = run("known", *(word for name, count in cls.plan.items() for word in (f"--{name}", count)))
        assert cls.done.status == 0, str(cls.done)
        cls.said = json.loads(cls.done.out[cls.done.out.index('{"pid"'):].splitlines()[0])
        cls.report = cls.done.report
        cls.tid = cls.said["tid"]

    def test_syscalls_are_exact(self):
        for name in ("getppid", "getuid", "geteuid", "getgid"):
            rows = self.report.rows("syscall", name)
            self.assertEqual([row["count"] for row in rows], [321], name)
            self.assertEqual(rows[0]["class"], "syscall")
            self.assertIn("call_system known.cpp", frames(rows[0]["sites"][0]["stack"]), name)
        self.assertEqual(self.report.count("syscall", "sched_yield"), 123 + self.said["yield"]["competitors_count"])
        self.assertEqual(self.report.count("syscall", "timer_settime"), 45)
        self.assertEqual(self.report.count("syscall", "rt_sigreturn"), 45)
        self.assertEqual(self.report.count("syscall", "exit_group"), 1)

    def test_faults_are_exact_and_located(self):
        sites = [site for row in self.report.rows("fault", "minor, write") for site in row["sites"]
                 if any(frame["function"] == "actor::touch_first" for frame in site["stack"])]
        self.assertEqual(sum(site["count"] for site in sites), 234, self.report.brief())
        self.assertEqual(self.said["touch"]["rusage"]["minflt"], 234)
        line = line_of("memory[i * kPage] = 1;")
        for site in sites:
            innermost = site["stack"][0]
            self.assertEqual((innermost["function"], innermost["file"], innermost["line"]),
                             ("actor::touch_first", "known.cpp", line))
            self.assertEqual(site["pc"], innermost["pc"])
        touches = [node for breach in self.report.breaches for node in nodes(breach) if node["cause"] == "fault"
                   and node["stack"] and node["stack"][0]["function"] == "actor::touch_first"]
        addresses = sorted(int(node["address"], 16) for node in touches)
        self.assertEqual(len(addresses), 234)
        self.assertEqual({b - a for a, b in zip(addresses, addresses[1:])}, {4096}, "one touch of each page, in a row")

    def test_switches_are_what_getrusage_says(self):
        """Between the two getrusage of the yield phase: every switch of the thread, and each is told how it came."""
        begin, end = self.phase("yield_to_competitor")
        inside = [breach for breach in self.report.breaches
                  if breach["tid"] == self.tid and begin < breach["t_ns"] < end]
        said = self.said["yield"]["rusage"]
        self.assertEqual(sum(len(switches_out(breach)) for breach in inside), said["nvcsw"] + said["nivcsw"])
        yields = [breach for breach in inside if breach["detail"] == "sched_yield"]
        self.assertEqual(len(yields), 123)
        blocked = [child for breach in yields for child in breach["children"] if child["cause"] == "blocked"]
        self.assertGreater(len(blocked), 0)
        competitor = [child["sender"]["tid"] for child in blocked if child["sender"]]
        self.assertIn(self.said["yield"]["competitor_tid"], competitor)

    def test_timer_signals_are_exact(self):
        self.assertEqual(self.report.count("signal", "SIGRTMIN"), 45, self.report.brief())
        # An interrupt that runs several timers has the name of the first: then the signal lies in that one.
        named = self.report.count("timer", "posix_timer_fn")
        elsewhere = sum(row["count"] for row in self.report.rows("signal", "SIGRTMIN")
                        if "posix_timer_fn" not in row["inside"])
        self.assertLessEqual(named, 45, self.report.brief())
        self.assertGreaterEqual(named + elsewhere, 45, self.report.brief())
        self.assertEqual({row["class"] for row in self.report.rows("timer", "posix_timer_fn")}, {"async"})

    def test_shootdowns_are_exact_and_their_sender_named(self):
        said = self.said["shootdowns"]
        line = line_of("shoot_down_line = __LINE__;")
        self.assertEqual(said["line"], line)
        ours, named = 0, 0
        for breach in self.report.breaches:
            for node in nodes(breach):
                if node["cause"] != "ipi" or not node["detail"].startswith("TLB flush") or breach["tid"] != self.tid:
                    continue
                sender = node["sender"]
                if sender is None or sender["tgid"] == self.said["pid"]:
                    ours += 1
                    named += bool(sender) and f"actor::shoot_down known.cpp:{line}" in frames(sender["stack"])
                if sender and sender["tgid"] == self.said["pid"]:
                    self.assertEqual((sender["tid"], sender["cpu"], sender["comm"], sender["observer"]),
                                     (said["shooter_tid"], said["shooter_cpu"], "shooter", False))
        self.assertGreaterEqual(ours, 210, self.report.brief())
        # Threads that end and arenas that shrink may send a few more than what the phase counts as uncertain.
        self.assertLessEqual(ours, 210 + said["uncertain"] + 2, self.report.brief())
        self.assertGreaterEqual(named, 0.99 * ours, f"{named} of {ours} name the line")
        rows = self.report.rows("ipi", who=f"shooter/{said['shooter_tid']} on cpu {said['shooter_cpu']}")
        self.assertGreaterEqual(sum(row["count"] for row in rows), 210, self.report.brief())

    def test_threads_counters(self):
        threads = {thread["tid"]: thread for thread in self.report.threads}
        self.assertEqual(set(threads), {self.tid, self.said["yield"]["competitor_tid"],
                                        self.said["shootdowns"]["shooter_tid"]})
        self.assertEqual(threads[self.tid]["signals"], 45)
        self.assertEqual(threads[self.said["shootdowns"]["shooter_tid"]]["migrations"], 1)
        for tid, thread in threads.items():
            one_by_one = [node for breach in self.report.breaches if breach["tid"] == tid for node in nodes(breach)]
            for cause, count in (("syscall", thread["syscalls"]), ("signal", thread["signals"]),
                                 ("fault", thread["faults_minor"] + thread["faults_major"] + thread["faults_failed"])):
                self.assertEqual(sum(node["cause"] == cause for node in one_by_one), count, (cause, thread))
            self.assertFalse(thread["shared"] or thread["live"], thread)

    def test_rows_are_the_sum_of_the_breaches(self):
        """Nothing was thinned out here, so every row's count is what was reported one by one."""
        self.assertEqual(self.report.balance["dropped"], 0, self.report.balance)
        counted, summed = {}, {}
        for row in self.report.rows(known="traced"):
            counted[row["cause"]] = counted.get(row["cause"], 0) + row["count"]
        for breach in self.report.breaches:
            for node in nodes(breach):
                summed[node["cause"]] = summed.get(node["cause"], 0) + 1
        self.assertEqual(counted, summed)

    def test_balance(self):
        balance = self.report.balance
        self.assertIsNone(balance["unexplained_ns"])
        self.assertEqual(balance["lost_ns"], balance["explained_ns"])
        self.assertLess(balance["lost_ns"], balance["watched_ns"])
        self.assertEqual(balance["breaches"], sum(row["count"] for row in self.report.rows(depth=0, away=False)))

    def phase(self, function):
        """The moments of the two getrusage(2) around what a phase does."""
        calls = [breach["t_ns"] for breach in self.report.breaches
                 if breach["detail"] == "getrusage" and f"{function} known.cpp" in frames(breach["stack"])]
        self.assertEqual(len(calls), 2, function)
        return calls


class PerfStat(unittest.TestCase):
    """perf stat attached to the actor while it waits for its FIFO; what both saw from then on is the same."""

    EVENTS = {"raw_syscalls:sys_enter": "syscall", "page-faults": "fault", "signal:signal_deliver": "signal"}

    def test_perf_agrees(self):
        plan = ("--syscalls", 111, "--touch", 222, "--yield", 33, "--timers", 44, "--shootdowns", 55)
        with tempfile.TemporaryDirectory() as folder:
            fifo, control, ack, counts = (os.path.join(folder, name) for name in ("fifo", "control", "ack", "counts"))
            for name in (fifo, control, ack):
                os.mkfifo(name)
            with start_run("known", *plan, "--fifo", fifo) as running:
                pid = int(wait_until(lambda: running.text("stderr").partition("\n")[1] and
                                     running.text("stderr").split()[0], lambda: running.text("stderr")))
                # It waits in openat(2) for somebody to write.
                wait_until(lambda: pathlib.Path(f"/proc/{pid}/syscall").read_text().startswith(OPENAT))
                events = [word for event in (*self.EVENTS, "context-switches") for word in ("-e", event)]
                perf = subprocess.Popen(["perf", "stat", "-x;", "-o", counts, "-p", str(pid), "-D", "-1",
                                         "--control", f"fifo:{control},{ack}", *events], stderr=subprocess.PIPE)
                try:
                    with open(control, "w") as commands, open(ack) as answers:
                        commands.write("enable\n")
                        commands.flush()
                        self.assertEqual(read_line(answers).strip("\0\n"), "ack")
                        attached = time.monotonic_ns()
                        with open(fifo, "w") as writer:
                            writer.write("12345")
                            writer.flush()
                            done = running.finish()
                    self.assertEqual(perf.wait(timeout=100), 0, perf.stderr.read())
                finally:
                    if perf.poll() is None:
                        perf.kill()
                        perf.wait()
                    perf.stderr.close()
            rows = [line.split(";") for line in pathlib.Path(counts).read_text().splitlines() if line[:1] not in "#"]
        self.assertEqual(done.status, 0, str(done))
        perfs = {row[2]: int(row[0]) for row in rows}
        report = done.report
        attached -= report.header["begin_ns"]
        self.assertEqual(report.balance["dropped"], 0, report.balance)
        for event, cause in self.EVENTS.items():
            mine = [node for breach in report.breaches for node in nodes(breach)
                    if node["cause"] == cause and node["t_ns"] > attached]
            self.assertEqual(len(mine), perfs[event], event)
            self.assertGreater(len(mine), 0, event)
        switches = [(node["t_ns"], breach["detail"]) for breach in report.breaches for node in switches_out(breach)]
        after = [detail for t_ns, detail in switches if t_ns > attached]
        # The kernel takes perf's events off a task early in its exit, and may switch it out more often until its end.
        exiting = sum(detail in ("exit", "exit_group") for detail in after)
        self.assertLessEqual(len(after) - exiting, perfs["context-switches"])
        self.assertGreaterEqual(len(after), perfs["context-switches"])
        # The counters hold the last switch of each thread as well, after which nothing is left to report.
        counted = sum(thread["switches_voluntary"] + thread["switches_involuntary"] for thread in report.threads)
        self.assertEqual(len(switches) + len(report.threads), counted, report.threads)


if __name__ == "__main__":
    unittest.main()
