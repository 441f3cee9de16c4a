"""What an event costs in a lane, beside rdtsc and bare stores, and beside LTTng-UST in overwrite mode."""
import contextlib
import json
import os
import pathlib
import subprocess
import tempfile

from common import run, spread, table

NAMES = {
    "clock": "`rdtsc` alone",
    "bare": "`rdtsc` and bare stores of 16 bytes",
    "pair": "an event of 16 bytes",
    "pair_while_read": "the same while a reader copies the lane all the time",
    "pair_on_two_cpus": "the same from two threads on two CPUs",
    "staged": "an event of a string of 12 and two integers",
}


@contextlib.contextmanager
def lttng(scratch, cpu):
    """A function that runs one round of LTTng-UST in a session of its own, with a daemon of its own."""
    here = pathlib.Path(__file__).parent
    program = scratch / "lttng"
    run(["cc", "-O2", f"-I{here}", here / "lttng.c", "-o", program, "-llttng-ust", "-ldl"])
    environment = {**os.environ, "LTTNG_HOME": str(scratch), "LTTNG_RUNDIR": str(scratch / "run"), "HOME": str(scratch)}
    (scratch / "run").mkdir()

    def tell(*words):
        subprocess.run(["lttng", "--no-sessiond", *words], env=environment, check=True, capture_output=True)

    # As an ordinary user's: the daemons of the whole machine are left alone.
    daemon = subprocess.Popen(["lttng-sessiond", "--no-kernel", "--quiet"], env=environment)
    try:
        for _ in range(100):
            if subprocess.run(["lttng", "--no-sessiond", "list"], env=environment, check=False,
                              capture_output=True).returncode == 0:
                break
            subprocess.run(["sleep", "0.05"], check=True)
        tell("create", "bench", "--snapshot", f"--output={scratch}/out")
        tell("enable-channel", "--userspace", "ch", "--overwrite", "--subbuf-size=131072", "--num-subbuf=8")
        tell("enable-event", "--userspace", "book:*", "--channel=ch")
        tell("start")

        def once():
            done = subprocess.run([str(program), str(cpu)], env=environment, check=True, capture_output=True, text=True)
            return json.loads(done.stdout)
        yield once
        tell("destroy", "bench")
    finally:
        daemon.terminate()
        daemon.wait()


def measure(programs, rounds):
    costs = {name: [] for name in NAMES}
    peers = {"pair": [], "staged": []}
    with tempfile.TemporaryDirectory() as folder:
        try:
            with lttng(pathlib.Path(folder), programs.cpu) as once:
                for _ in range(rounds):
                    peer = once()
                    for name, cost in peer.items():
                        peers[name].append(cost)
                    take_in(costs, programs)
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
            print(f"LTTng-UST cannot run here: {error}\n")
            for _ in range(rounds):
                take_in(costs, programs)
    rows = [[title, spread(costs[name], 2), spread([a / b for a, b in zip(costs[name], costs["bare"])])]
            for name, title in NAMES.items()]
    for name, title in (("pair", "LTTng-UST, 16 bytes"), ("staged", "LTTng-UST, string and two integers")):
        if peers[name]:
            rows.append([title, spread(peers[name], 1), spread([a / b for a, b in zip(peers[name], costs["bare"])])])
            rows.append(["... times the event in a lane", "", spread([a / b for a, b in zip(peers[name], costs[name])])])
    return (f"### An event, {rounds} rounds\n\n"
            + table(["", "ns: median (least to most)", "times bare: median (least to most)"], rows))


def take_in(costs, programs):
    """One round of every variant; the middle of three, as each lasts but milliseconds."""
    for name, values in json.loads(run([programs.lane_bench, 3])).items():
        costs[name].append(sorted(values)[1])
