"""cloister on kernels and CPUs that the machine of the tests does not have: nohz_full, PREEMPT_RT, old, taken offline."""
import functools
import os
import re
import unittest

import vm

# By name: the kernel, and its command line. An isolated CPU of 6.12 cannot be taken offline (its deadline server's share of
# the last CPU of a root domain: EBUSY), so that is tried on the old one.
OLD = r"linux-image-6\.1\.0-\d+-amd64"
RT = r"linux-image-[\d.]+(-\d+|\+deb\d+)-rt-amd64"
MACHINES = {"old": (OLD, vm.ISOLATED + " offline=yes"), "rt": (RT, vm.ISOLATED), "plain": (OLD, "")}
HAS_SENDERS = (6, 5)  # csd:* came with 6.5, ipi:ipi_send_cpu with 6.4


def loc(line):
    """Local timer interrupts of CPU 1, of a line of /proc/interrupts."""
    return int(line.split()[2])


def local_timer_interrupts(part):
    """How many of them the rows hold: all that are not a timer inside of something that another one began."""
    return sum(row["count"] for row in part.of("row") if not row["away"] and (
        row["cause"] == "tick" or row["cause"] == "timer" and not re.search("softirq|tick|timer", row["inside"])))


def on(*names):
    """A test that looks at these machines, each as a subtest."""
    def wrap(check):
        @functools.wraps(check)
        def test(self):
            for name in names:
                with self.subTest(machine=name):
                    check(self, self.machines[name])
        return test
    return wrap


class Vm(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        archive = vm.initramfs(os.environ["CLOISTER"], os.environ["ACTOR"], os.environ["RECORDS"])
        cls.machines = {name: vm.boot(name, vm.kernel(kernel), line, archive) for name, (kernel, line) in MACHINES.items()}

    def header(self, part):
        return part.one("header")

    @on("old", "rt")
    def test_the_header_says_how_isolated_the_cpu_is(self, machine):
        self.assertEqual(machine["isolated"].stdout, "1\n")
        self.assertEqual(self.header(machine["known"])["isolation"], "nohz_full, domain-isolated, rcu_nocbs")
        self.assertIn("nohz_full, domain-isolated, rcu_nocbs", machine["known"].stdout.splitlines()[0])

    @on("plain")
    def test_the_header_says_that_it_is_not_isolated(self, machine):
        self.assertEqual(machine["isolated"].stdout.strip(), "")
        self.assertEqual(self.header(machine["known"])["isolation"], "none")

    @on(*MACHINES)
    def test_the_cpu_is_the_isolated_one_and_cloister_is_elsewhere(self, machine):
        self.assertEqual(self.header(machine["known"])["cpu"], 1, machine["known"])
        own = [row for row in machine["quiet"].of("row") if row["observer"] and not row["away"]]
        self.assertEqual(own, [], machine["quiet"])

    @on(*MACHINES)
    def test_the_probe_loads_and_names_the_tracepoints_that_are_missing(self, machine):
        header = self.header(machine["known"])
        blind = {item["what"]: item["why"] for item in header["blind"] if "tracepoint" in item["why"]}
        if tuple(vm.versions(header["kernel"])[:2]) >= HAS_SENDERS:
            self.assertEqual(blind, {}, machine["known"])
        else:
            why = "this kernel has no tracepoint csd_queue_cpu, ipi_send_cpu"
            self.assertEqual(blind.get("senders of ipis"), why, machine["known"])
            self.assertIn(f"\nblind   senders of ipis: {why}\n", machine["known"].stdout)
            self.assertLessEqual(set(blind), {"senders of ipis", "functions of ipis"}, machine["known"])
        for seen in ("syscalls", "faults", "ticks", "ipis", "preemption"):
            self.assertIn(seen, header["sees"], machine["known"])

    def test_old_and_new_are_both_tried(self):
        kernels = {name: self.header(machine["known"])["kernel"] for name, machine in self.machines.items()}
        self.assertRegex(kernels["old"], r"^6\.1\.", kernels)
        self.assertRegex(kernels["rt"], r"-rt-amd64$", kernels)

    @on(*MACHINES)
    def test_what_the_program_does_is_counted_exactly(self, machine):
        part = machine["known"]
        self.assertEqual(part.status, 0, part)
        rows = {row["detail"]: row["count"] for row in part.of("row") if row["cause"] == "syscall" and not row["away"]}
        for name in ("getppid", "getuid", "geteuid", "getgid"):
            self.assertEqual(rows.get(name), 40, part)
        touches = sum(site["count"] for row in part.of("row") if row["cause"] == "fault" for site in row["sites"]
                      if site["stack"] and "touch_first" in (site["stack"][0]["function"] or ""))
        self.assertEqual(touches, 30, part)
        self.assertEqual(part.one("balance")["dropped"], 0, part)

    @on(*MACHINES)
    def test_shootdowns_and_who_sent_them(self, machine):
        part = machine["known"]
        ipis = [row for row in part.of("row") if row["cause"] == "ipi" and not row["away"]]
        if tuple(vm.versions(self.header(part)["kernel"])[:2]) < HAS_SENDERS:
            calls = [row for row in ipis if row["detail"] == "function call"]
            self.assertGreaterEqual(sum(row["count"] for row in calls), 20, part)
            self.assertEqual([row for row in calls if row["who"]], [], part)
            return
        sent = [row for row in ipis if "TLB flush" in row["detail"] and (row["who"] or "").startswith("shooter/")]
        self.assertGreaterEqual(sum(row["count"] for row in sent), 20, part)
        frames = [frame["function"] or "" for row in sent for site in row["sites"] for frame in site["stack"]]
        self.assertTrue(any("shoot_down" in function for function in frames), f"{frames}\n{part}")

    @on(*MACHINES)
    def test_tracefs_is_neither_needed_nor_mounted(self, machine):
        self.assertNotIn("tracefs", machine["mounts"].stdout)
        self.assertNotIn("debugfs", machine["mounts"].stdout)
        without, mounted = self.header(machine["known"]), self.header(machine["ticks"])
        self.assertEqual([without["sees"], without["blind"]], [mounted["sees"], mounted["blind"]])

    @on(*MACHINES)
    def test_ticks_are_those_of_the_cpu(self, machine):
        part = machine["ticks"]
        first, last = (loc(line) for line in part.stdout.splitlines() if line.strip().startswith("LOC:"))
        seen, around = local_timer_interrupts(part), loc(machine["after"].stdout) - loc(machine["before"].stdout)
        text = f"{seen} in the report, {last - first} inside of the watch, {around} around it\n{part}"
        self.assertLessEqual(seen, around, text)
        # Those that come while neither the program runs nor waits for the CPU are not its loss.
        self.assertGreaterEqual(seen, (last - first) * 0.9 - 3, text)

    def test_a_quiet_program_on_a_nohz_full_cpu_has_fewer_ticks_than_elsewhere(self):
        seen = {name: local_timer_interrupts(machine["quiet"]) for name, machine in self.machines.items()}
        print(f"ticks in 2 s: {seen}")  # for a person who reads the log
        for name in ("old", "rt"):
            self.assertLess(seen[name] * 3, seen["plain"], f"{seen}\n{self.machines[name]['quiet']}")

    @on(*MACHINES)
    def test_gaps_add_up(self, machine):
        part = machine["watch"]
        self.assertIn(part.status, (0, 1), part)
        balance = part.one("balance")
        self.assertEqual(balance["lost_ns"], balance["explained_ns"] + balance["unexplained_ns"], part)

    @on("old")
    def test_a_cpu_that_goes_offline_ends_the_watch_of_a_program_with_a_report(self, machine):
        part = machine["run_away"]
        self.assertEqual(part.status, 125, part)
        self.assertIn("cpu 1 was taken offline", part.stderr, part)
        self.assertIn("echo 1 | sudo tee /sys/devices/system/cpu/cpu1/online", part.stderr, part)
        self.assertIn("the command itself: exit status 7", part.stderr, part)
        self.assertTrue(any("cpu 1 was taken offline" in notice["text"] for notice in part.of("notice")), part)
        # What was seen until then is all there.
        rows = {row["detail"] for row in part.of("row") if row["cause"] == "syscall"}
        self.assertIn("execve", rows, part)
        self.assertTrue(any(row["cause"] == "migrated" and row["detail"] == "1 -> 0" for row in part.of("row")), part)
        self.assertGreater(part.one("balance")["watched_ns"], 0, part)
        self.assertRegex(part.stdout, r"(?m)^[\d,]+ breaches, .* lost", part)

    @on("old")
    def test_a_cpu_that_goes_offline_ends_a_watch_with_a_report(self, machine):
        part = machine["watch_away"]
        self.assertEqual(part.status, 2, part)
        self.assertRegex(part.stderr, "the watch ended early\n(.*\n)?  found .*cpu 1 (was )?taken offline", part)
        balance = part.one("balance")
        self.assertGreater(balance["watched_ns"], 0, part)
        self.assertEqual(balance["lost_ns"], balance["explained_ns"] + balance["unexplained_ns"], part)
        part = machine["pid_away"]
        self.assertEqual(part.status, 2, part)
        self.assertIn("cpu 1 was taken offline", part.stderr, part)
        self.assertGreater(part.one("balance")["watched_ns"], 0, part)

    @on("old")
    def test_an_offline_cpu_cannot_be_chosen(self, machine):
        for name, status in (("run_chosen", 125), ("watch_chosen", 2)):
            part = machine[name]
            self.assertEqual(part.status, status, part)
            self.assertEqual(part.stdout, "", part)
            self.assertIn("cloister: CPU 1 is offline\n", part.stderr)
            self.assertIn("echo 1 | sudo tee /sys/devices/system/cpu/cpu1/online", part.stderr)
        part = machine["none_to_spare"]
        self.assertEqual(part.status, 125, part)
        self.assertIn("cloister: there is no CPU to spare\n", part.stderr)
        self.assertIn("found  online: 0", part.stderr)

    @on("old")
    def test_a_cpu_that_is_back_is_watched_again(self, machine):
        part = machine["again"]
        self.assertEqual(part.status, 0, part)
        self.assertEqual(self.header(part)["cpu"], 1, part)
        self.assertEqual([row["count"] for row in part.of("row") if row["detail"] == "getppid"], [25], part)

    @on("old")
    def test_a_program_records_on_when_its_cpu_goes_offline(self, machine):
        self.assertEqual(machine["recorder"].status, 0, machine["recorder"])
        self.assertEqual(machine["snapshot"].status, 0, machine["snapshot"])
        once, lines, elsewhere, there = map(int, machine["events"].stdout.split())
        self.assertEqual((once, lines, elsewhere + there), (20_000, 20_000, 20_000), machine["events"])
        self.assertGreater(elsewhere, 0, machine["events"])
        self.assertGreater(there, 0, machine["events"])


    # What is wrong by the kernel's own defaults, whatever it was booted with; and what only a boot mends.
    DEFAULTS = {"kthreads", "writeback_cpumask", "rt_throttling", "irq_affinity", "default_smp_affinity", "stat_interval",
                "compaction", "machine_check"}
    WRONG = {"old": DEFAULTS | {"transparent_hugepage", "compact_unevictable"},
             "rt": DEFAULTS | {"fair_server"},
             "plain": DEFAULTS | {"transparent_hugepage", "compact_unevictable", "nohz_full", "rcu_nocbs", "isolated",
                                  "tasks", "rcu_kthreads", "workqueue_cpumask", "watchdog_cpumask", "timer_migration",
                                  "tsc_watchdog"}}
    TAKES_A_BOOT = {"nohz_full", "rcu_nocbs", "isolated", "tsc_watchdog"}

    @staticmethod
    def failing(part):
        """The settings that fail. Whether an emulated TSC is trusted is up to the emulator."""
        return {line["setting"] for line in part.of("finding") if line["verdict"] == "fail"} - {"clocksource"}

    def test_an_audit_finds_exactly_what_is_wrong(self):
        for name, machine in self.machines.items():
            with self.subTest(machine=name):
                self.assertEqual(self.failing(machine["check"]), self.WRONG[name], machine["check"])
                self.assertEqual(machine["check"].status, 1)

    def test_what_can_be_set_now_is_set(self):
        for name, machine in self.machines.items():
            with self.subTest(machine=name):
                left = self.WRONG[name] & self.TAKES_A_BOOT
                self.assertEqual(self.failing(machine["fix"]), left, machine["fix"])
                self.assertNotEqual(machine["settings"].stdout, machine["fixed"].stdout)

    @on(*MACHINES)
    def test_undo_gives_back_exactly_what_was(self, machine):
        self.assertEqual(machine["undo"].status, 0, machine["undo"])

        def lines(part):
            """Kernel threads that come and go are other ones, or have another name."""
            return {line for line in part.stdout.splitlines() if not re.search(r"^task \d+ (kworker|khugepaged|cat|sed)", line)}
        before, after = lines(machine["settings"]), lines(machine["undone"])
        self.assertEqual(before - after, set(), machine["undo"])
        self.assertEqual(after - before, set(), machine["undo"])


if __name__ == "__main__":
    unittest.main()
