"""What the benchmarks share: the programs, the CPU, one run under cloister, and medians with their spread."""
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time


class Programs:
    """The binaries of one build, and the CPU that everything is measured on: the one that `cloister run` would choose."""

    def __init__(self, folder):
        self.cloister = str(pathlib.Path(folder) / "cloister")
        self.actor = str(pathlib.Path(folder) / "actor")
        self.lane_bench = str(pathlib.Path(folder) / "lane_bench")
        self.pages_bench = str(pathlib.Path(folder) / "pages_bench")
        self.snapshot_bench = str(pathlib.Path(folder) / "snapshot_bench")
        self.tracepoint_bench = str(pathlib.Path(folder) / "tracepoint_bench")
        self.cpu = max(os.sched_getaffinity(0))

    def pinned(self, *arguments):
        return ["taskset", "-c", str(self.cpu), self.actor, *map(str, arguments)]


def actors_line(text):
    """The one line of JSON that the actor printed, wherever a tool's own output surrounds it."""
    for line in text.splitlines():
        if line.startswith("{") and '"type"' not in line:
            return json.loads(line)
    raise RuntimeError(f"the actor printed nothing:\n{text}")


def run(command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stderr}")
    return done.stdout


class Watched:
    """`cloister run` over one command of the actor: what it printed, the report's objects, and the peak memory (MiB)."""

    def __init__(self, programs, *arguments):
        with tempfile.NamedTemporaryFile("r", suffix=".json") as report, tempfile.TemporaryFile("w+") as out:
            process = subprocess.Popen([programs.cloister, "run", "-c", str(programs.cpu), "--json", report.name, "--",
                                        programs.actor, *map(str, arguments)], stdout=out, stderr=subprocess.STDOUT)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            self.text = out.read()
            if process.returncode != 0:
                raise RuntimeError(f"cloister run: status {process.returncode}\n{self.text}")
            self.objects = [json.loads(line) for line in report]
        self.actor = actors_line(self.text)
        self.rss_mib = usage.ru_maxrss / 1024

    def rows(self, cause):
        return [row for row in self.objects if row["type"] == "row" and row["cause"] == cause]

    def syscalls(self, name):
        return sum(row["count"] for row in self.rows("syscall") if row["detail"] == name)

    @property
    def balance(self):
        return next(one for one in self.objects if one["type"] == "balance")


def spread(values, digits=2):
    """"median (least to most)"."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def cpu_seconds(pid):
    """CPU time that the threads of a process have used so far."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in pathlib.Path(f"/proc/{pid}/task").iterdir()) / 1e9


def monotonic_ns():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
