"""How fast a trace is read, event by event, and how soon a moment in the middle of it is found. Events are of 20 bytes: a compact
header and 16 bytes of fields. The trace is in memory (/dev/shm), and read once before it is measured."""
import os
import pathlib
import random
import shutil
import subprocess
import tempfile

from common import monotonic_ns, run, spread, table

MIB = 4096
MIB_OF_SLOW = 64  # for what takes many times as long; the time of one event is what is compared
EVENTS_A_MIB = 52_424
NS_AN_EVENT = 100  # of the trace's own clock


def measure(programs, rounds, mib=MIB):
    memory = "/dev/shm" if shutil.disk_usage("/dev/shm").free > 1.2 * mib * 2**20 else None
    with tempfile.TemporaryDirectory(dir=memory) as scratch:
        return _measure(programs, rounds, mib, pathlib.Path(scratch))


def _cpu_seconds(command):
    """Of the CPU, user and system, from start to end: what is compared is work, not what else the machine does."""
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{command}: status {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def _first_line_ms(programs, trace, number):
    """From the start of the program to the first line of output, which must be of the event with that number."""
    begin = monotonic_ns()
    with subprocess.Popen([programs.cloister, "view", trace, "--from", f"{number * NS_AN_EVENT}ns"], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True) as process:
        line = process.stdout.readline()
        took = (monotonic_ns() - begin) / 1e6
        process.kill()
    if f" n={number} " not in line:
        raise RuntimeError(f"cloister view --from event {number}: {line}")
    return took


def _measure(programs, rounds, mib, scratch):
    make_trace = pathlib.Path(programs.cloister).with_name("make_trace")
    large, small, bare = scratch / "large", scratch / "small", scratch / "bare"
    run([make_trace, large, "bulk", mib])
    run([make_trace, small, "bulk", min(mib, MIB_OF_SLOW)])
    bare.mkdir()  # the same without its index
    for name in ("metadata", "book_0"):
        (bare / name).hardlink_to(large / name)

    view = ["taskset", "-c", programs.cpu, programs.cloister, "view"]
    babeltrace2 = ["taskset", "-c", programs.cpu, "babeltrace2"]
    variants = {
        "`cloister view --stats`": (large, mib, [*view, "--stats", large]),
        "`cloister view --stats --where 'n > 0'`": (small, MIB_OF_SLOW, [*view, "--stats", "--where", "n > 0", small]),
        "`cloister view`, text": (small, MIB_OF_SLOW, [*view, small]),
        "`babeltrace2 -c sink.utils.counter`": (small, MIB_OF_SLOW, [*babeltrace2, small, "-c", "sink.utils.counter"]),
        "`babeltrace2`, text": (small, MIB_OF_SLOW, [*babeltrace2, small]),
    }
    times = {name: [] for name in variants}
    found = {"with its index": (large, []), "without": (bare, [])}
    _cpu_seconds([*view, "--stats", large])
    for _ in range(rounds):
        for name in random.sample(list(variants), len(variants)):
            _, size, command = variants[name]
            times[name].append(_cpu_seconds(command) * 1e9 / (min(size, mib) * EVENTS_A_MIB))
        number = random.randrange(mib * EVENTS_A_MIB // 4, mib * EVENTS_A_MIB * 3 // 4)
        for trace, taken in found.values():
            taken.append(_first_line_ms(programs, trace, number))
    counter = times["`babeltrace2 -c sink.utils.counter`"]
    rows = [[name, spread(own), spread([1e3 / ns for ns in own], 1), spread([other / ns for other, ns in zip(counter, own)], 1)]
            for name, own in times.items()]
    return (f"### Reading a trace of {mib:,} MiB, {rounds} rounds\n\n"
            + table(["", "ns of CPU an event: median (least to most)", "million events/s of CPU", "times the counter of babeltrace2"], rows)
            + "\n\n"
            + table(["`cloister view --from` in its middle", "ms from start to the first event: median (least to most)"],
                    [[name, spread(taken, 1)] for name, (_, taken) in found.items()]))
