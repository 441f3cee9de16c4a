"""A loop with a tracepoint: what it costs off, and on."""
import json

from common import run, spread, table

ROUNDS_FOR_ONE = 5  # a round takes 0.3 s


def measure(programs, rounds):
    lines = run(["taskset", "-c", programs.cpu, programs.tracepoint_bench, rounds * ROUNDS_FOR_ONE]).splitlines()
    times = [json.loads(line) for line in lines]
    rows = [[name, spread([one[name] for one in times]),
             "" if name == "without" else spread([one[name] - one["without"] for one in times], 3)]
            for name in sorted(times[0], key=lambda name: (name != "without", name != "off", len(name)))]
    walk = [one["on, two probes"] - one["on, one probe"] for one in times]
    pair = [one["without, but a pair of atomic instructions"] - one["without"] for one in times]
    rows.append(["one more probe in the list", "", spread(walk, 3)])
    rows.append(["the atomic instructions that the walk does without", "", spread(pair, 3)])
    return (f"### A loop with a tracepoint, {len(times)} rounds\n\n"
            + table(["tracepoint", "ns an iteration: median (least to most)", "more than without: median (least to most)"],
                    rows))
