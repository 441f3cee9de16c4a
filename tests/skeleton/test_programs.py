"""The programs with known behaviour do what they say, according to the kernel and to perf."""
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time
import unittest

ACTOR = os.environ["ACTOR"]
DATAPLANE = os.environ["DATAPLANE"]


def actor(*arguments, **options):
    return subprocess.run([ACTOR, *map(str, arguments)], capture_output=True, text=True, check=False, **options)


def known(*arguments):
    done = actor("known", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def perf_counts(events, *command):
    """What perf stat counts over the whole of a command: {event: count}, and what the command printed."""
    with tempfile.NamedTemporaryFile("r") as counts:
        done = subprocess.run(["perf", "stat", "-x;", "-o", counts.name, *(word for event in events for word in ("-e", event)),
                               "--", *map(str, command)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        rows = [line.split(";") for line in counts if line[0] not in "#\n"]
    return {row[2]: int(row[0]) for row in rows}, done.stdout


def wait_until(condition, seconds=20):
    """A condition that will hold soon; how soon is no part of any test."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.01)


class Actor(unittest.TestCase):
    def test_touches_are_what_the_kernel_counts(self):
        self.assertEqual(known("--touch", 777)["touch"]["rusage"]["minflt"], 777)
        self.assertEqual(known("--touch", 777, "--thread")["touch"]["rusage"]["minflt"], 777)

    def test_shootdowns_are_what_the_cpu_receives(self):
        done = known("--shootdowns", 300)["shootdowns"]
        self.assertNotEqual(done["shooter_cpu"], known()["cpu"])
        # Other processes' shootdowns, and the uncertain ones, may come on top in the machine's row; none can take away.
        self.assertGreaterEqual(done["received"], 300)
        line = (pathlib.Path(__file__).parents[1] / "programs" / "known.cpp").read_text().splitlines()[done["line"] - 1]
        self.assertIn("munmap(", line)

    def test_yields_switch(self):
        done = known("--yield", 100)["yield"]
        self.assertGreater(done["rusage"]["nivcsw"], 0)
        self.assertGreater(done["competitors_count"], 0)

    @unittest.skipIf(os.geteuid() != 0, "perf stat counts tracepoints for root only")
    def test_perf_agrees(self):
        names = ("getppid", "getuid", "geteuid", "getgid", "sched_yield", "timer_settime", "munmap")
        events = [f"syscalls:sys_enter_{name}" for name in names] + ["signal:signal_deliver"]
        plan = ("--syscalls", 321, "--yield", 54, "--timers", 21, "--shootdowns", 65)
        # What the program's start and end do, whatever it is, and what the plan adds.
        floor, _ = perf_counts(events, ACTOR, "known")
        counts, out = perf_counts(events, ACTOR, "known", *plan)
        added = {event.split("_enter_")[-1]: counts[event] - floor[event] for event in events}
        for name in names[:4]:
            self.assertEqual(added[name], 321, name)
        self.assertEqual(added["sched_yield"], 54 + json.loads(out)["yield"]["competitors_count"])
        self.assertEqual(added["timer_settime"], 21)
        self.assertEqual(added["signal:signal_deliver"], 21)
        # glibc unmaps the stacks or arenas of finished threads on top, as it sees fit.
        self.assertGreaterEqual(added["munmap"], 65)

    def test_phases_wait_for_the_fifo(self):
        with tempfile.TemporaryDirectory() as directory:
            fifo = os.path.join(directory, "fifo")
            os.mkfifo(fifo)
            process = subprocess.Popen([ACTOR, "known", "--syscalls", "5", "--touch", "6", "--fifo", fifo],
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            self.assertEqual(int(process.stderr.readline()), process.pid)
            with open(fifo, "wb", buffering=0) as writer:
                writer.write(b"1")
                # It waits for the second byte in read(2), and would do so forever.
                wait_until(lambda: pathlib.Path(f"/proc/{process.pid}/syscall").read_text().startswith("0 "))
                self.assertIsNone(process.poll())
                writer.write(b"2")
                out, _ = process.communicate(timeout=20)
            self.assertEqual(json.loads(out)["touch"]["count"], 6)

    def test_ends(self):
        self.assertEqual(actor("exit").returncode, 0)
        self.assertEqual(actor("exit", 9).returncode, 9)
        for number in (signal.SIGSEGV, signal.SIGTERM, signal.SIGKILL):
            self.assertEqual(actor("signal", int(number)).returncode, -number)
        self.assertEqual(actor("fork-exec", ACTOR, "exit", 7).returncode, 7)
        self.assertEqual(actor("fork-exec", ACTOR, "signal", 15).returncode, 128 + 15)

    def test_sigint(self):
        for how, status in (("handle", 42), ("ignore", 0), ("default", -signal.SIGINT)):
            process = subprocess.Popen([ACTOR, "sigint", how, "1"], stdout=subprocess.PIPE, text=True)
            self.assertEqual(process.stdout.readline(), "ready\n")
            process.send_signal(signal.SIGINT)
            self.assertEqual(process.wait(timeout=20), status, how)
            process.stdout.close()

    def test_daemon_outlives_its_parent(self):
        with tempfile.TemporaryDirectory() as directory:
            file = pathlib.Path(directory) / "done"
            self.assertEqual(actor("daemonise", 0.1, file).returncode, 0)
            wait_until(lambda: file.exists() and file.read_text())
            self.assertGreater(int(file.read_text()), 1)

    def test_affinity(self):
        for cpu in sorted(os.sched_getaffinity(0)):
            self.assertEqual(actor("affinity", cpu, 0.01).stdout.strip(), str(cpu))

    def test_storms(self):
        self.assertEqual(json.loads(actor("threads", 50).stdout), {"threads": 50, "getppid": 50})
        self.assertEqual(json.loads(actor("forks", 20).stdout), {"forks": 20, "getppid": 20})

    def test_bad_usage(self):
        for arguments in ((), ("nonsense",), ("spin",), ("spin", "x"), ("known", "--touch", "-1"), ("known", "--nonsense"),
                          ("known", "word"), ("sigint", "perhaps", "1"), ("signal", "0")):
            done = actor(*arguments)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertTrue(done.stderr, arguments)
        self.assertEqual(actor("affinity", 1023, 0).returncode, 3)


class Dataplane(unittest.TestCase):
    def test_its_threads_keep_off_the_loops_cpu(self):
        process = subprocess.Popen([DATAPLANE, "1"], stderr=subprocess.PIPE, text=True)
        tasks = pathlib.Path(f"/proc/{process.pid}/task")

        def threads():
            return {(task / "comm").read_text().strip(): os.sched_getaffinity(int(task.name)) for task in tasks.iterdir()}

        def apart():
            found = threads()
            return (found.keys() == {"dataplane", "producer", "housekeeper"} and len(found["dataplane"]) == 1
                    and not found["dataplane"] & (found["producer"] | found["housekeeper"]))

        wait_until(apart)
        _, error = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 0)
        self.assertGreater(int(re.search(r"(\d+) packets", error)[1]), 0)

    @unittest.skipIf(os.geteuid() != 0, "perf stat counts tracepoints for root only")
    def test_it_sins(self):
        counts, _ = perf_counts(["syscalls:sys_enter_write", "syscalls:sys_enter_munmap", "page-faults"], DATAPLANE, "0.5")
        floor, _ = perf_counts(["syscalls:sys_enter_write", "syscalls:sys_enter_munmap", "page-faults"], DATAPLANE, "0.001")
        for event in counts:
            self.assertGreater(counts[event], floor[event], event)

    def test_bad_usage(self):
        for arguments in (("x",), ("-1",), ("1", "2"), ("nan",)):
            self.assertEqual(subprocess.run([DATAPLANE, *arguments], stderr=subprocess.DEVNULL, check=False).returncode, 2)


if __name__ == "__main__":
    unittest.main()
