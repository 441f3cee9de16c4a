"""run.py BIN [--rounds N] [BENCHMARK ...]: the benchmarks as tables in markdown, on stdout; run.py --help names them."""
import argparse
import os
import pathlib
import platform
import re

import arming
import collector
import lane
import pages
import reading
import snapshot
import storm
import tracepoint
from common import Programs

BENCHMARKS = {"storm": storm, "arming": arming, "collector": collector, "lane": lane, "pages": pages, "snapshot": snapshot,
              "reading": reading, "tracepoint": tracepoint}


def machine():
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return f"{model[1] if model else platform.machine()}, {os.cpu_count()} CPUs, kernel {platform.release()}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bin", help="where cloister and actor are")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("which", nargs="*", default=list(BENCHMARKS), metavar="|".join(BENCHMARKS))
    arguments = parser.parse_args()
    if unknown := set(arguments.which) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}")
    programs = Programs(arguments.bin)
    print(f"{machine()}; on cpu {programs.cpu}\n")
    for name in arguments.which:
        print(BENCHMARKS[name].measure(programs, arguments.rounds) + "\n", flush=True)


if __name__ == "__main__":
    main()
