"""Runs cloister on the live kernel, and reads what it wrote. CLOISTER and ACTOR are the programs' paths."""
import json
import os
import pathlib
import re
import select
import shutil
import subprocess
import tempfile
import time

CLOISTER = os.environ["CLOISTER"]
ACTOR = os.environ["ACTOR"]
# Long enough for any machine: a test that needs it has failed already.
PATIENCE = 100
# The CPU that cloister takes by itself here, and one that it does not.
ALLOWED = sorted(os.sched_getaffinity(0))
CPU, OTHER = ALLOWED[-1], ALLOWED[0]
# What the header says that it sees where nothing is kept from it.
SIGHTS = ("syscalls", "faults", "signals", "ticks", "timers", "irqs", "softirqs", "ipis", "preemption", "workqueues")
# JSON goes to memory, not to a disk: what the disk's driver does is no part of any test.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class Report:
    """The lines of --json, by type."""

    def __init__(self, text):
        self.lines = [json.loads(line) for line in text.splitlines()]
        self.order = [line["type"] for line in self.lines]
        self.header = self.only("header")
        self.balance = self.only("balance")
        self.breaches = self.all("breach")
        self.threads = self.all("thread")
        self.violations = self.all("violation")
        self.notices = [line["text"] for line in self.all("notice")]

    def all(self, kind):
        return [line for line in self.lines if line["type"] == kind]

    def only(self, kind):
        found = self.all(kind)
        assert len(found) == 1, f"{len(found)} lines of type {kind}: {found}"
        return found[0]

    def rows(self, cause=None, detail=None, **fields):
        return [row for row in self.all("row") if cause in (None, row["cause"]) and detail in (None, row["detail"])
                and all(row[name] == value for name, value in fields.items())]

    def count(self, cause, detail=None, **fields):
        """How many of it there were, wherever in the tree and on whatever CPU."""
        return sum(row["count"] for row in self.rows(cause, detail, **fields))

    def sees_everything(self):
        """The probe is in the kernel: without it a test of what it reports would have nothing to look at."""
        return not set(SIGHTS) - set(self.header["sees"])

    def brief(self):
        """For the message of an assertion that fails."""
        rows = [f"{row['count']} {row['cause']} {row['detail']}" + (f" in {row['inside']}" if row["inside"] else "")
                + (f" by {row['who']}" if row["who"] else "") + (" away" if row["away"] else "") for row in self.rows()]
        return "\n".join([f"blind: {self.header['blind']}", *rows, *self.notices, str(self.balance)])


class Done:
    def __init__(self, process, out, err, peak_kb, report):
        self.status, self.out, self.err, self.peak_kb, self.report = process.returncode, out, err, peak_kb, report

    def __str__(self):
        return f"status {self.status}\n--- stdout\n{self.out[-4000:]}\n--- stderr\n{self.err}"


class Cloister:
    """A cloister that runs; with `with` it does not outlive the test, whatever happens.

    `json`: with --json to a file, whose lines are in finish().report. `before`: words in front of it (setpriv ...).
    """

    def __init__(self, *words, json=True, before=(), program=CLOISTER, **options):
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY)
        os.chmod(self.folder.name, 0o777)
        self.json = pathlib.Path(self.folder.name) / "report.jsonl" if json else None
        words = [str(word) for word in words]
        if json:
            words[1:1] = ["--json", str(self.json)]
        # Files, not pipes: whoever inherits them (a daemon) does not hold up the test.
        self.files = {name: open(os.path.join(self.folder.name, name), "w+") for name in ("stdout", "stderr")}
        options = {**self.files, "stdin": subprocess.DEVNULL, **options}
        self.process = subprocess.Popen([*map(str, before), str(program), *words], **options)
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for stream in (*self.files.values(), self.process.stdout, self.process.stderr):
            if stream:
                stream.close()
        self.folder.cleanup()

    def text(self, name):
        return pathlib.Path(self.files[name].name).read_text(errors="replace")

    def finish(self):
        """Waits for the end. peak_kb: the most memory it ever had (not ru_maxrss: that begins with this process's)."""
        peak_kb = 0

        def ended():
            nonlocal peak_kb
            found = re.search(r"VmHWM:\s+(\d+)", pathlib.Path(f"/proc/{self.pid}/status").read_text())
            peak_kb = max(peak_kb, int(found[1])) if found else peak_kb
            return self.process.poll() is not None

        wait_until(ended, lambda: self.text("stderr"))
        report = None
        if self.json and self.json.exists() and self.json.stat().st_size:
            report = Report(self.json.read_text())
        return Done(self.process, self.text("stdout"), self.text("stderr"), peak_kb, report)


def cloister(*words, **options):
    with Cloister(*words, **options) as running:
        return running.finish()


def run(*command, options=(), **rest):
    """cloister run OPTIONS --json FILE -- COMMAND; a command that is no path is a subcommand of the actor."""
    command = command if "/" in str(command[0]) else (ACTOR, *command)
    return cloister("run", *options, "--", *command, **rest)


def start_run(*command, options=(), **rest):
    command = command if "/" in str(command[0]) else (ACTOR, *command)
    return Cloister("run", *options, "--", *command, **rest)


def watch(*options, **rest):
    return cloister("watch", *options, **rest)


def wait_until(condition, what=lambda: "", seconds=PATIENCE):
    """What the condition is once it is true. How long that takes is no part of any test."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"did not happen: {what()}"
        time.sleep(0.005)
    return found


def read_line(pipe):
    """A line of a pipe that is being written, or what there is of it if no more comes."""
    ready, _, _ = select.select([pipe], [], [], PATIENCE)
    return pipe.readline() if ready else ""


def child_of(pid):
    """The first child of a process that has executed another program than it."""
    own = os.readlink(f"/proc/{pid}/exe")

    def look():
        for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
            for child in task.read_text().split():
                try:
                    if os.readlink(f"/proc/{child}/exe") != own:
                        return int(child)
                except OSError:
                    continue
        return None

    return wait_until(look, lambda: f"a command as child of {pid}")


def nodes(breach):
    """A breach with everything inside it."""
    yield breach
    for child in breach["children"]:
        yield from nodes(child)


def switches_out(breach):
    """Where the thread itself was switched out in a departure: tasks that preempt each other then are not its own."""
    if breach["cause"] in ("preempted", "blocked"):
        return [breach]
    return [found for child in breach["children"] for found in switches_out(child)]


def frames(stack):
    return " < ".join(f"{frame['function']} {frame['file']}:{frame['line']}" for frame in stack)


def public_copy(folder):
    """cloister and the actor where any user can execute them."""
    os.chmod(folder, 0o755)
    copies = []
    for program in (CLOISTER, ACTOR):
        copy = os.path.join(folder, os.path.basename(program))
        shutil.copyfile(program, copy)
        os.chmod(copy, 0o755)
        copies.append(copy)
    return copies
