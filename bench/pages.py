"""4 KiB pages against 2 MiB pages: what an event costs where the program itself thrashes the TLB."""
import contextlib
import json
import pathlib

from common import run, spread, table

RESERVED = pathlib.Path("/proc/sys/vm/nr_hugepages")
PAGES = 64  # of 2 MiB: more than a segment of the benchmark takes on a machine of some CPUs


@contextlib.contextmanager
def huge_pages():
    """So many more as long as it is measured; then as before."""
    before = RESERVED.read_text()
    try:
        with contextlib.suppress(OSError):  # an ordinary user: the benchmark says that there are none
            RESERVED.write_text(str(int(before) + PAGES))
        yield
    finally:
        with contextlib.suppress(OSError):
            RESERVED.write_text(before)


def measure(programs, rounds):
    with huge_pages():
        costs = json.loads(run([programs.pages_bench, 3 * rounds]))
    without = costs["without"]
    rows = [[title, spread(costs[name], 1), spread([cost - bare for cost, bare in zip(costs[name], without)], 1)]
            for name, title in (("small", "4 KiB pages"), ("huge", "2 MiB pages")) if name in costs]
    if "huge" not in costs:
        rows.append(["2 MiB pages", "none could be had here", ""])
    return (f"### Pages, under a workload that thrashes the TLB, {len(without)} rounds\n\n"
            + table(["segment of", "ns of CPU an iteration: median (least to most)", "of which the event"],
                    [["no event", spread(without, 1), ""], *rows]))
