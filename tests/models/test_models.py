"""lane.pml and spill.pml searched by SPIN: no interleaving has an error, and every mutant has one."""
import pathlib
import re
import subprocess
import tempfile
import unittest

FOLDER = pathlib.Path(__file__).resolve().parent
MEMORY = 6000  # MB


class Search:
    """What pan says of one configuration: Search("lane.pml", CELLS=1, MAX=4, DRAIN=1)."""

    def __init__(self, model, shortest=False, **configuration):
        live = configuration.get("LIVE", 0)
        # Partial order reduction knows nothing of `provided`, by which a handler holds its thread up.
        options = [*(["-DNP"] if live else ["-DSAFETY"]), *(["-DBFS"] if shortest else []),
                   *(["-DNOREDUCE"] if configuration.get("NESTED", 0) else [])]
        with tempfile.TemporaryDirectory() as directory:
            def run(*command, may_fail=False):
                done = subprocess.run(command, cwd=directory, text=True, check=False, stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT)
                if done.returncode != 0 and not may_fail:
                    raise AssertionError(f"{command}:\n{done.stdout}")
                return done.stdout

            text = (FOLDER / model).read_text()
            (pathlib.Path(directory) / model).write_text(text)
            run("spin", "-a", *(f"-D{name}={value}" for name, value in configuration.items()), model)
            run("gcc", "-O2", "-w", "-DCOLLAPSE", "-DVECTORSZ=256", f"-DMEMLIM={MEMORY}", *options, "-o", "pan",
                "pan.c")
            self.text = run("./pan", *(["-l"] if live else []), "-m200000", "-w24", may_fail=True)
        self.errors = self.number(r"errors: (\d+)")
        self.states = self.number(r"([\d.e+]+) states, stored")
        self.complete = not re.search(r"not completed|too small|memory limit|out of memory|aborted", self.text)
        # A line of the model each; not that of processes that never end.
        self.unreached = [text.splitlines()[int(line) - 1].strip()
                          for line, what in re.findall(rf"{model}:(\d+), state \d+, \"(.*)\"", self.text)
                          if what != "-end-"]

    def number(self, pattern):
        found = re.search(pattern, self.text)
        return int(float(found[1])) if found else -1


class Case(unittest.TestCase):
    MODEL = "lane.pml"

    def holds(self, states, never=(), **configuration):
        """No error in all of its states, of which there are about so many, and none but these steps is never taken."""
        search = Search(self.MODEL, **configuration)
        print(f"{configuration}: {search.states} states", flush=True)
        self.assertTrue(search.complete, search.text)
        self.assertEqual(search.errors, 0, search.text)
        self.assertGreater(search.states, states * 0.8, search.text)
        self.assertEqual([line for line in search.unreached if not any(f"/* {step}" in line for step in never)], [])
        self.assertRegex(search.text, r"unreached in proctype writer")  # the report is there
        return search.states

    def fails(self, assertion, **configuration):
        """There is an error, and it is this one."""
        search = Search(self.MODEL, shortest="LIVE" not in configuration, **configuration)
        print(f"{configuration}: {search.states} states", flush=True)
        self.assertEqual(search.errors, 1, search.text)
        self.assertIn(assertion, search.text)


class Overwrite(Case):
    """Two writers, a drain that may die, snapshots."""

    def test_readers(self):
        self.holds(6_400_000, CELLS=1, MAX=4, DRAIN=1, SNAPSHOT=1)

    def test_readers_of_several_events(self):
        self.holds(2_500_000, CELLS=2, MAX=6, DRAIN=1, SNAPSHOT=1)

    def test_laps(self):
        states = self.holds(3_900_000, CELLS=1, MAX=8, DRAIN=1)
        with self.subTest("a claim from any lower number is the same"):
            self.assertEqual(self.holds(3_900_000, CELLS=1, MAX=8, DRAIN=1, RAISE=1), states)


class Discard(Case):
    def test_readers(self):
        self.holds(11_200_000, DISCARD=1, CELLS=1, MAX=4, DRAIN=1, SNAPSHOT=1)

    def test_readers_of_several_events(self):
        self.holds(2_800_000, DISCARD=1, CELLS=2, MAX=5, DRAIN=1, SNAPSHOT=1)

    def test_laps(self):
        self.holds(1_200_000, DISCARD=1, CELLS=1, MAX=6, DRAIN=1)


class Nested(Case):
    """A signal handler in one of the threads."""

    def test_overwrite(self):
        self.holds(3_000_000, NESTED=1, CELLS=2, MAX=4, MIXED=1)

    def test_overwrite_readers(self):
        self.holds(3_500_000, NESTED=1, THREADS=1, CELLS=1, MAX=4, DRAIN=1, SNAPSHOT=1)

    def test_discard(self):
        self.holds(8_000_000, NESTED=1, DISCARD=1, CELLS=1, MAX=4, DRAIN=1)


class Progress(Case):
    """Whatever a thread leaves behind, the others go on."""

    def test_overwrite(self):
        self.holds(1_400_000, LIVE=1, CELLS=1, MAX=4, DRAIN=1)

    def test_discard(self):
        self.holds(1_000_000, LIVE=1, DISCARD=1, CELLS=1, MAX=4, DRAIN=1)

    def test_nested(self):
        self.holds(800_000, LIVE=1, NESTED=1, CELLS=1, MAX=3)

    def test_a_claim_that_is_not_taken_over(self):
        self.fails("non-progress cycle", MUTANT=6, LIVE=1, CELLS=1, MAX=4)


class Mutants(Case):
    """What each leads to: see the assertion. Few states suffice."""

    def test_1_open_compares_the_descriptor_alone(self):
        self.fails("assertion violated ((a_k+1)==(active_k+1))", MUTANT=1, CELLS=1)  # `active` goes back

    def test_2_claim_from_any_number(self):
        self.fails("assertion violated ((active_k==0)||(((slot[", MUTANT=2, CELLS=1)  # no slot says what `active` names

    def test_3_snapshot_does_not_compare_active(self):
        self.fails("assertion violated  !(wrong)", MUTANT=3, CELLS=1, THREADS=1, SNAPSHOT=1)

    def test_4_fill_outside_of_the_sequence(self):
        self.fails("assertion violated ((active_k==0)||((((desc[", MUTANT=4, CELLS=1)  # an event is gone

    def test_5_begin_from_the_commit_word(self):
        self.fails("assertion violated  !(wrong)", MUTANT=5, CELLS=2, THREADS=1, SNAPSHOT=1)

    def test_7_lost_is_read_last(self):
        self.fails("assertion violated  !((open&&late))", MUTANT=7, DISCARD=1, CELLS=1, THREADS=1, SNAPSHOT=1)

    def test_8_drained_before_the_slot_is_given_back(self):
        self.fails("assertion violated ((((slot[0].k>drained)", MUTANT=8, DISCARD=1, CELLS=1, THREADS=1, DRAIN=1)

    def test_9_snapshot_does_not_look_again(self):
        self.fails("assertion violated  !(wrong)", MUTANT=9, CELLS=1, THREADS=1, SNAPSHOT=1)


class Spill(Case):
    """The spill lane's writers, of which any may stop anywhere, its readers and its drain."""
    MODEL = "spill.pml"

    def test_three_writers(self):
        self.holds(400_000, THREADS=3, MAX=3, never=["S2"])

    def test_events_of_two_sizes(self):
        self.holds(160_000, MIXED=1, CELLS=2, MAX=4, never=["S7"])

    def test_readers(self):
        self.holds(230_000, SNAPSHOT=1, MAX=3, never=["S2", "S7"])

    def test_drain(self):
        self.holds(1_220_000, DRAIN=1, MAX=4, never=["S7"])

    def test_discard(self):
        self.holds(2_180_000, DISCARD=1, SNAPSHOT=1, DRAIN=1, MAX=3, never=["S2"])

    def test_discard_of_several_events(self):
        self.holds(1_860_000, DISCARD=1, DRAIN=1, CELLS=2, MAX=5, never=["S2"])

    def test_progress(self):
        self.holds(10_000, LIVE=1, MAX=3, never=["S2", "S7"])
        self.fails("non-progress cycle", MUTANT=7, LIVE=1, MAX=3)


class SpillMutants(Case):
    """What each leads to: see the assertion. Few states suffice."""
    MODEL = "spill.pml"
    TIME = "assertion violated ((((first[(1+1)]==0)"  # goes down from one number to the next

    def test_1_closed_after_the_next_is_open(self):
        self.fails(self.TIME, MUTANT=1, MIXED=1, CELLS=2, MAX=4, THREADS=3)

    def test_2_numbers_ahead_are_free(self):
        self.fails(self.TIME, MUTANT=2, MAX=3)

    def test_3_writers_do_not_keep_a_sub_buffer(self):
        self.fails("assertion violated (s[a_i].k==a_k)", MUTANT=3, MAX=3)

    def test_4_committed_before_it_is_there(self):
        self.fails("assertion violated ( !(torn)", MUTANT=4, MAX=3, SNAPSHOT=1)

    def test_5_the_clock_is_read_too_early(self):
        self.fails(self.TIME, MUTANT=5, MAX=3)

    def test_6_a_reader_does_not_look_again(self):
        self.fails("assertion violated ( !(torn)", MUTANT=6, MAX=3, SNAPSHOT=1)


if __name__ == "__main__":
    unittest.main()
