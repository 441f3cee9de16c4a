"""What cloister itself uses of a CPU while a program makes breaches at an even pace."""
import subprocess
import time

from common import cpu_seconds, monotonic_ns, spread, table

SECONDS = 3.0


def _percent(programs, per_second):
    # The margin on either side keeps arming and reporting out of the steady state.
    margin = 1.5
    process = subprocess.Popen([programs.cloister, "run", "-c", str(programs.cpu), "--", programs.actor, "pace",
                                str(per_second), str(SECONDS + 2 * margin)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(margin)
    used, begin = cpu_seconds(process.pid), monotonic_ns()
    time.sleep(SECONDS)
    used, wall = cpu_seconds(process.pid) - used, (monotonic_ns() - begin) / 1e9
    if process.wait() != 0:
        raise RuntimeError(f"cloister run: status {process.returncode}")
    return 100 * used / wall


def measure(programs, rounds):
    rows = [[f"{per_second:,}", spread([_percent(programs, per_second) for _ in range(rounds)])]
            for per_second in (1, 1_000, 10_000, 100_000)]
    return (f"### The collector, {SECONDS:g} s of steady state, {rounds} rounds\n\n"
            + table(["breaches/s", "% of a CPU: median (least to most)"], rows))
