"""From the start of cloister to the first instruction of the command's main, by which time everything is armed."""
import re
import subprocess

from common import monotonic_ns, spread, table


def _milliseconds(command):
    begin = monotonic_ns()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return (int(re.search(r"^\d{6,}$", done.stdout, re.M)[0]) - begin) / 1e6


def measure(programs, rounds):
    native, watched = [], []
    for _ in range(rounds):
        native.append(_milliseconds(programs.pinned("time")))
        watched.append(_milliseconds([programs.cloister, "run", "-c", str(programs.cpu), "--", programs.actor, "time"]))
    return (f"### Start to armed, {rounds} rounds\n\n"
            + table(["", "ms from start to main: median (least to most)"],
                    [["native", spread(native)], ["`cloister run`", spread(watched)]]))
