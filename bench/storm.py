"""A loop of getppid: what each tracer makes of its time. The actor takes the time of the loop alone, without start and end."""
import pathlib
import random
import tempfile

from common import Watched, actors_line, run, spread, table

CALLS = 2_000_000
CALLS_UNDER_PERF_TRACE = 20_000  # it takes some 400 times as long; the time of one call is what is compared


def measure(programs, rounds, calls=CALLS):
    with tempfile.TemporaryDirectory() as scratch:
        return _measure(programs, rounds, calls, pathlib.Path(scratch))


def _measure(programs, rounds, calls, scratch):
    def of_one_call(made, text):
        return actors_line(text)["ns"] / made

    def under(*tool, made=calls):
        return lambda: of_one_call(made, run([*tool, *programs.pinned("syscalls", made)]))

    def under_cloister():
        watched = Watched(programs, "syscalls", calls)
        if watched.syscalls("getppid") != calls:
            raise RuntimeError(f"cloister counted {watched.syscalls('getppid')} of {calls} calls")
        return watched.actor["ns"] / calls

    variants = {"native": under(), "`cloister run`": under_cloister}
    yardsticks = {
        "`perf record -e raw_syscalls:sys_enter`": under(
            "perf", "record", "-q", "-o", scratch / "perf", "-e", "raw_syscalls:sys_enter", "--"),
        "`perf trace -s`": under("perf", "trace", "-s", "-o", scratch / "trace", "--", made=CALLS_UNDER_PERF_TRACE),
        "`trace-cmd record -e raw_syscalls:sys_enter`": under(
            "trace-cmd", "record", "-q", "-o", scratch / "trace-cmd", "-e", "raw_syscalls:sys_enter"),
    }
    rows_of_absent = []
    for name, once in yardsticks.items():
        try:
            once()
            variants[name] = once
        except (OSError, RuntimeError) as error:
            rows_of_absent.append([name, "cannot run here", " ".join(str(error).split("\n", 1)[-1].split())])

    # Interleaved and in a new order each time, so that what drifts on the machine falls on all alike.
    times = {name: [] for name in variants}
    order = list(variants)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            times[name].append(variants[name]())
    rows = []
    for name, own in times.items():
        ratios = [mine / native for mine, native in zip(own, times["native"])]
        rows.append([name, spread(own, 0), spread(ratios)])
    return (f"### {calls:,} getppid, {rounds} rounds\n\n"
            + table(["", "ns a call: median (least to most)", "times native: median (least to most)"],
                    rows + rows_of_absent))
