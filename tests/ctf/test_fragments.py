"""`cloister view` of events that were written in fragments: put together, selected, counted, and told when they cannot be."""
import json
import pathlib
import subprocess
import unittest

import jsonschema

from harness import Traces, view

SCHEMA = json.loads((pathlib.Path(__file__).parents[2] / "docs" / "view.schema.json").read_text())


def number(t_ns, cpu, n):
    return t_ns, cpu, "test:n", {"n": n}, None


def long(t_ns, cpu, fields, incomplete=None):
    return t_ns, cpu, "test:long", fields, incomplete


def part(fragments, of, abandoned, size):
    return {"fragments": fragments, "of": of, "abandoned": abandoned, "bytes": size}


# What make_trace writes, by the time of the last fragment; what has none at the end.
EXPECTED = [
    number(0, 0, 1),
    number(25, 0, 2),
    long(30, 0, {"n": 6, "text": "nested", "_list_len": 0, "list": []}),
    number(60, 1, 3),
    long(70, 0, {"n": 5, "text": "whole on two CPUs", "_list_len": 3, "list": [1, 2, 3]}),
    long(110, 0, {"n": 20, "text": "gap"}, part(2, 3, False, 4)),
    long(120, 1, {}, part(1, 3, False, 0)),
    long(140, 1, {"n": 23, "text": "abandoned", "_list_len": 5, "list": [1, 2]}, part(1, None, True, 17)),
    number(200, 1, 4),
    long(160, 0, {"n": 25, "text": "no end"}, part(2, None, False, 9)),
]


def as_shown(event):
    return event["t_ns"], event["cpu"], event["event"], event["fields"], event.get("incomplete")


class Fragments(Traces):
    def shown(self, *options):
        return [as_shown(event) for event in self.events(self.trace, *options)]

    def test_become_events(self):
        self.make("fragments")
        self.assertEqual(self.shown(), EXPECTED)
        status, out, _ = view(self.trace, "--json")
        for one in out.splitlines():
            jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(one))

    def test_as_text(self):
        self.make("fragments")
        status, out, error = view(self.trace)
        self.assertEqual((status, error), (0, ""))
        lines = out.splitlines()
        self.assertEqual(lines[4], '   0.000000070  cpu 0  test:long  n=5 text="whole on two CPUs" _list_len=3 list=[1 2 3]')
        self.assertEqual(lines[5:8] + lines[9:], [
            '   0.000000110  cpu 0  test:long  n=20 text="gap"  incomplete: 2 of 3 fragments',
            '   0.000000120  cpu 1  test:long  incomplete: 1 of 3 fragments',
            '   0.000000140  cpu 1  test:long  n=23 text="abandoned" _list_len=5 list=[1 2]  incomplete: 1 fragment, then abandoned',
            '   0.000000160  cpu 0  test:long  n=25 text="no end"  incomplete: 2 fragments, the last is missing'])

    def test_babeltrace2_shows_them_as_what_they_are(self):
        self.make("fragments")
        done = subprocess.run(["babeltrace2", "--no-delta", self.trace], capture_output=True, text=True, check=True)
        self.assertEqual(done.stderr, "")
        self.assertEqual(done.stdout.count(" cloister:fragment: "), 12)
        self.assertIn('{ instance = 6, begun = 119, thread = 7, id = 3, index = 1, end = ( "last" : container = 1 ), '
                      "_bytes_len = 8, bytes = [ [0] = 0x74,", done.stdout)

    def test_every_range_of_time(self):
        """By the time that is shown, whatever lies before it."""
        self.make("fragments")
        times = sorted({event[0] for event in EXPECTED})
        for first in times:
            for last in [time for time in times if time >= first]:
                self.assertEqual(self.shown("--from", f"{first}ns", "--to", f"{last}ns"),
                                 [event for event in EXPECTED if first <= event[0] <= last], f"{first} to {last}")

    def test_selection(self):
        self.make("fragments")
        longs = [event for event in EXPECTED if event[2] == "test:long"]
        self.assertEqual(self.shown("--event", "test:l*"), longs)
        self.assertEqual(self.shown("--where", 'text == "whole on two CPUs"'), [EXPECTED[4]])
        self.assertEqual(self.shown("--where", "list == 2"), [EXPECTED[4], EXPECTED[7]])
        self.assertEqual(self.shown("--where", "cpu_id == 1"), [event for event in EXPECTED if event[1] == 1])
        for last in range(1, len(EXPECTED) + 2):
            self.assertEqual(self.shown("--last", last), EXPECTED[-last:])
        self.assertEqual(self.shown("--event", "test:long", "--last", 2), longs[-2:])

    def test_the_class_of_fragments_is_nobodys_business(self):
        self.make("fragments")
        status, out, error = view(self.trace, "--event", "cloister:fragment")
        self.assertEqual((status, out), (0, ""))
        self.assertIn("no event is named 'cloister:fragment'; there are: test:long, test:n\n", error)
        status, _, error = view(self.trace, "--where", "instance == 5")
        self.assertEqual(status, 2)
        self.assertIn("no event has a field 'instance'", error)

    def test_stats(self):
        self.make("fragments")
        for options in ([], ["--from", "0s"]):
            _, lines = self.json(self.trace, "--stats", *options)
            self.assertEqual({one["event"]: one["count"] for one in lines[:-1]}, {"test:n": 4, "test:long": 6})
            self.assertEqual({name: lines[-1][name] for name in ("events", "incomplete_events", "first_ns", "last_ns")},
                             {"events": 10, "incomplete_events": 4, "first_ns": 0, "last_ns": 200})
            _, out, _ = view(self.trace, "--stats", *options)
            self.assertIn("10 events (4 of them incomplete), lost 0 events", out)

    def test_what_was_begun_long_before_the_range(self):
        self.make("straddling", 500)
        whole = {"n": 5, "text": "from far away", "_list_len": 0, "list": []}
        cut = long(1, 0, {"n": 6, "text": "further, and never ended"}, part(1, None, False, 25))
        everything = self.shown()
        self.assertEqual(len(everything), 502)
        self.assertEqual(everything[-2:], [long(999000, 0, whole), cut])
        self.assertEqual(self.shown("--from", "999us"), [long(999000, 0, whole)])
        self.assertEqual(self.shown("--from", "5us"), everything[400:501])
        # Begun within it, and ended behind it: not in it. Begun within it and never ended: in it.
        self.assertEqual(self.shown("--to", "1010ns"), [number(1000, 0, 0), number(1010, 0, 1), cut])

    def test_mistakes_end_their_stream(self):
        told = ["its index is 0 and not above that of the one before it", "its index is 3 and not above",
                "its end is 3, and there are 0, 1 and 2", "it is of event 77, which is not declared",
                "it is of event 4294967295, which is not declared",
                "it is of event 1 begun at 0, those before it of event 3 begun at 0",
                "it is of event 3 begun at 1, those before it of event 3 begun at 0"]
        for way, words in enumerate(told):
            self.trace = self.folder / str(way)
            self.make("mistaken", way)
            status, out, error = view(self.trace)
            self.assertEqual(status, 2)
            for word in ("cloister: packet 0 of book_0: fragment ", " of thread 7: ", words, "  needs  ", "  found  "):
                self.assertIn(word, error)
            self.assertIn("test:n  n=1", out)
            self.assertNotIn("test:n  n=2", out)

    def test_fields_that_are_not_those_of_the_event(self):
        for way, words in ((7, "4 bytes more than its fields take"), (8, "string 'text' has no end in the 7 bytes")):
            self.trace = self.folder / str(way)
            self.make("mistaken", way)
            for options in ([], ["--where", "n == 2"], ["--where", "n == 1 || n == 2", "--last", 5]):
                status, out, error = view(self.trace, *options)
                self.assertEqual(status, 2)
                self.assertIn(f"event 'test:long' in 2 fragments that end in packet 0 of book_0: {words}", error)
                self.assertIn("test:n  n=2", out, "the others go on")
                self.assertNotIn("test:long", out)


if __name__ == "__main__":
    unittest.main()
