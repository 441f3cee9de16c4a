"""soak.py BIN [--seconds S] [--seed N]: watches one random program with known behaviour after another, and stops at the first
report that does not agree with it."""
import argparse
import random
import time

from common import Programs, Watched

SYSCALLS = ("getppid", "getuid", "geteuid", "getgid")
MOST_RSS_MIB = 512


def check(plan, watched):
    """What is wrong with a report, in words."""
    for name in SYSCALLS:
        if watched.syscalls(name) != plan["syscalls"]:
            yield f"{name}: {watched.syscalls(name)} reported, {plan['syscalls']} made"
    faults = sum(row["count"] for row in watched.rows("fault"))
    if faults < plan["touch"]:
        yield f"{faults} faults reported, {plan['touch']} pages touched"
    signals = sum(row["count"] for row in watched.rows("signal"))
    if signals != plan["timers"]:
        yield f"{signals} signals reported, {plan['timers']} timers expired"
    balance = watched.balance
    if None not in (balance["explained_ns"], balance["unexplained_ns"]) and (
            balance["lost_ns"] != balance["explained_ns"] + balance["unexplained_ns"]):
        yield f"the balance does not add up: {balance}"
    if watched.rss_mib > MOST_RSS_MIB:
        yield f"cloister used {watched.rss_mib:.0f} MiB"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bin", help="where cloister and actor are")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    arguments = parser.parse_args()
    programs, dice = Programs(arguments.bin), random.Random(arguments.seed)
    end, runs, dropped, rss = time.monotonic() + arguments.seconds, 0, 0, 0.0
    while time.monotonic() < end:
        # Small numbers often, large ones sometimes: both are where mistakes live.
        plan = {name: int(2 ** dice.uniform(0, most)) for name, most in
                (("syscalls", 18), ("touch", 15), ("yield", 12), ("timers", 10), ("shootdowns", 12))}
        words = [word for name, count in plan.items() for word in (f"--{name}", count)]
        watched = Watched(programs, "known", *words)
        if wrong := list(check(plan, watched)):
            raise SystemExit(f"soak: seed {arguments.seed}, run {runs}: actor known {' '.join(map(str, words))}\n  "
                             + "\n  ".join(wrong))
        runs += 1
        dropped += watched.balance["dropped"]
        rss = max(rss, watched.rss_mib)
    print(f"soak: {runs} runs agree (seed {arguments.seed}); records dropped and counted {dropped}; peak memory {rss:.0f} MiB")


if __name__ == "__main__":
    main()
