"""Snapshots of a segment of 64 MiB under full write load: how long they take, and whether a writer notices."""
import json

from common import run, spread, table


def measure(programs, rounds):
    found = json.loads(run([programs.snapshot_bench, rounds]))
    rows = [["a snapshot, ms", spread(found["took_ms"], 1)],
            ["of which on the CPU", spread(found["used_ms"], 1)],
            ["of which events, MiB", spread(found["mib"], 1)],
            ["a writer's longest wait for one event, with snapshots one after the other, us",
             spread(found["longest_with_us"], 1)],
            ["the same without, us", spread(found["longest_without_us"], 1)],
            ["the least that a switch of sub-buffers takes, us", f"{found['switch_us']:.2f}"]]
    return (f"### A snapshot of a segment of {found['segment_mib']:.0f} MiB, {len(found['took_ms'])} of them, waits in "
            f"{rounds} seconds of each kind\n\n" + table(["", "median (least to most)"], rows))
