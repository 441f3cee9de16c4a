"""What is missing or forbidden: each says what is needed, what was found and what to set, and has its status."""
import os
import pathlib
import subprocess
import tempfile
import unittest

from harness import ACTOR, ALLOWED, CLOISTER, CPU, OTHER, run, watch

ROOT = os.geteuid() == 0


class Told(unittest.TestCase):
    """run ends with 125, watch with 2, and both say the same."""

    def assert_told(self, *words, options=(), before=()):
        for done, status in ((run("exit", options=options, before=before), 125),
                             (watch(*options, "-d", "1s", before=before), 2)):
            self.assertEqual(done.status, status, str(done))
            for word in ("cloister: ", "  needs  ", "  found  ", "  set    ", *words):
                self.assertIn(word, done.err)
            self.assertIsNone(done.report, str(done))


class Cpus(Told):
    def test_unknown(self):
        possible = pathlib.Path("/sys/devices/system/cpu/possible").read_text().strip()
        last = int(possible.replace(",", "-").rpartition("-")[2])
        self.assert_told(f"no CPU {last + 1}", "with -c", options=["-c", last + 1])
        self.assert_told("no CPU 100000", options=["-c", 100000])

    def test_last_is_chosen_and_zero_can_be(self):
        self.assertEqual(run("exit").report.header["cpu"], CPU)
        done = run("syscalls", 12, options=["-c", OTHER])
        self.assertEqual((done.status, done.report.header["cpu"]), (0, OTHER), str(done))
        self.assertEqual(done.report.count("syscall", "getppid", away=False), 12, done.report.brief())

    @unittest.skipUnless(ROOT, "making a cgroup takes root")
    def test_outside_of_the_cpuset(self):
        with Cpuset(OTHER) as group:
            self.assert_told(f"CPU {CPU} is outside", str(group.folder), f"tee {group.folder}/cpuset.cpus",
                             options=["-c", CPU], before=group.enter)

    @unittest.skipUnless(ROOT, "making a cgroup takes root")
    def test_a_cpuset_with_one_cpu_leaves_none_for_the_observer(self):
        with Cpuset(OTHER) as group:
            self.assert_told("no CPU to spare", str(group.folder), options=["-c", OTHER], before=group.enter)

    @unittest.skipUnless(ROOT, "making a cgroup takes root")
    def test_a_cpuset_that_is_wide_enough(self):
        with Cpuset(",".join(map(str, ALLOWED))) as group:
            done = run("syscalls", 23, before=group.enter)
            self.assertEqual(done.status, 0, str(done))
            self.assertEqual(done.report.count("syscall", "getppid"), 23, done.report.brief())


class Cpuset:
    """A cgroup with these CPUs. What has `enter` in front of it runs inside."""

    def __init__(self, cpus):
        mounts = [line.split() for line in pathlib.Path("/proc/self/mounts").read_text().splitlines()]
        first = [mount[1] for mount in mounts if mount[2] == "cgroup" and "cpuset" in mount[3].split(",")]
        second = [mount[1] for mount in mounts if mount[2] == "cgroup2"
                  and "cpuset" in (pathlib.Path(mount[1]) / "cgroup.controllers").read_text().split()]
        assert first or second, "no cpuset controller is mounted"
        if not first:
            (pathlib.Path(second[0]) / "cgroup.subtree_control").write_text("+cpuset")
        self.folder = pathlib.Path((first or second)[0]) / f"cloister-test-{os.getpid()}"
        self.cpus, self.list = cpus, "tasks" if first else "cgroup.procs"
        self.enter = ("sh", "-c", f'echo $$ > {self.folder}/{self.list} && exec "$@"', "sh")

    def __enter__(self):
        self.folder.mkdir()
        try:
            (self.folder / "cpuset.cpus").write_text(str(self.cpus))
            mems = self.folder.parent / "cpuset.mems"
            if self.list == "tasks":
                (self.folder / "cpuset.mems").write_text(mems.read_text())
        except OSError:
            self.folder.rmdir()
            raise
        return self

    def __exit__(self, *_):
        self.folder.rmdir()


class Limits(Told):
    def test_few_files_are_enough_for_a_little(self):
        """Without room for the probe it goes on without it, and says what lifts it."""
        done = run("exit", 4, before=("prlimit", "--nofile=20"))
        self.assertEqual(done.status, 4, str(done))
        blind, = [blind for blind in done.report.header["blind"] if blind["what"].startswith("syscalls")]
        self.assertIn("RLIMIT_NOFILE", blind["why"])
        self.assertIn("ulimit -n", blind["lift"])
        self.assertEqual(done.report.rows("syscall"), [], "blind is not zero")
        self.assertIn("ulimit -n", done.out)

    def test_too_few_files(self):
        for limit in (4, 6, 9):
            self.assert_told("open files", "ulimit -n", before=("prlimit", f"--nofile={limit}"))

    def test_the_command_has_the_limits_that_cloister_was_started_with(self):
        done = run("/bin/sh", "-c", "ulimit -Sn; ulimit -Hn", before=("prlimit", "--nofile=300:400"))
        self.assertIn("300\n400\n", done.out)


@unittest.skipUnless(ROOT, "a mount namespace without tracefs takes root")
class Tracefs(unittest.TestCase):
    def test_nothing_is_mounted_and_nothing_is_missed(self):
        """In a mount namespace of its own, from which tracefs and debugfs are taken away first."""
        with tempfile.TemporaryDirectory() as folder:
            script = ('for point in $(awk \'$3 == "tracefs" || $3 == "debugfs" {print $2}\' /proc/self/mounts |'
                      ' sort -r); do umount -l "$point" || exit 99; done\n'
                      f'cat /proc/self/mounts > {folder}/before\n'
                      '"$@"\nstatus=$?\n'
                      f'cat /proc/self/mounts > {folder}/after\nexit $status')
            done = run("syscalls", 77, before=("unshare", "-m", "sh", "-c", script, "sh"))
            before, after = ((pathlib.Path(folder) / name).read_text() for name in ("before", "after"))
        self.assertEqual(done.status, 0, str(done))
        self.assertNotIn("tracefs", before)
        self.assertEqual(before, after)
        self.assertTrue(done.report.sees_everything(), done.report.header)
        self.assertEqual(done.report.count("syscall", "getppid"), 77, done.report.brief())


class Help(unittest.TestCase):
    def test_every_option_is_told(self):
        for command, options in (("run", ("--cpu", "--after", "--duration", "--budget", "--log", "--json", "124")),
                                 ("watch", ("--cpu", "--gap", "--pid", "--duration", "--budget", "--log", "--json")),
                                 ("view", ("DIR", "--from", "--to", "--event", "--where", "--stats", "--last", "--wall", "--json"))):
            done = subprocess.run([CLOISTER, command, "--help"], capture_output=True, text=True, check=True)
            for option in options:
                self.assertIn(option, done.stdout, command)
        done = subprocess.run([CLOISTER, "--version"], capture_output=True, text=True, check=True)
        self.assertRegex(done.stdout, r"^cloister \d+\.\d+\.\d+\n$")
        self.assertTrue(os.access(ACTOR, os.X_OK))


if __name__ == "__main__":
    unittest.main()
