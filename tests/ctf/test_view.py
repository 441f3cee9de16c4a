"""What `cloister view` shows of a trace is what babeltrace2 shows of it: our own traces, and one of LTTng-UST."""
import json
import pathlib
import random
import re
import subprocess
import unittest

import jsonschema

from harness import CLOISTER, Traces, babeltrace2, line, view

# A recording of lttng-ust 2.13: two streams of 64 bits, a channel with the contexts vtid and procname, and in lttng.txt what
# `babeltrace2 --no-delta --clock-seconds` made of it.
LTTNG = pathlib.Path(__file__).parent / "fixtures" / "lttng"
DOCS = pathlib.Path(__file__).parents[2] / "docs"
SCHEMA = json.loads((DOCS / "view.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


class SameAsBabeltrace(Traces):
    def test_our_own(self):
        self.make("fields")
        header, events = self.json(self.trace)
        self.assertEqual([line(header, event, host='host "1"') for event in events],
                         babeltrace2("--no-delta", "--clock-seconds", self.trace))

    def test_every_value_as_it_was_written(self):
        """babeltrace2 shows six digits of a floating point number; here is all of it."""
        self.make("fields")
        last = self.events(self.trace)[-1]["fields"]
        self.assertEqual((last["price"], last["u64"], last["i64"]), (-1e300, 2**64 - 1, -2**63))
        self.assertEqual(last["change"], {"value": -3, "labels": ["less"]})
        self.assertEqual(last["struct"], ["0x0", "0x1", "0x7f", "0xff"])
        self.assertEqual(last["pointer"], "0xdeadbeef0000cafe")

    def test_cycles_become_exact_nanoseconds(self):
        self.make("cycles", 1000)
        header, events = self.json(self.trace)
        exact = [1_700_000_000_000_000_000 + (123_456_789_012_345 + n * 12_345_679 + 7) * 10**9 // 2_999_999_937
                 for n in range(1000)]
        self.assertEqual([header["begin_unix_ns"] + event["t_ns"] for event in events], exact)

    def test_losses(self):
        self.make("losses")
        _, lines = self.json(self.trace)
        self.assertEqual([(one["type"], one["t_ns"], one.get("to_ns"), one.get("events"), one.get("packets")) for one in lines],
                         [("lost", 0, 100, 3, 0), ("event", 0, None, None, None), ("event", 1, None, None, None),
                          ("lost", 100, 1100, 4, 0), ("lost", 1100, 2100, 5, 0),
                          ("event", 2000, None, None, None), ("event", 2001, None, None, None),
                          ("lost", 2100, 3000, 0, 2), ("event", 3000, None, None, None),
                          ("lost", 3100, 4100, 2, 1), ("event", 4000, None, None, None)])

    def test_lttng(self):
        header, events = self.json(LTTNG)
        expected = LTTNG.with_suffix(".txt").read_text().splitlines()
        self.assertEqual(len(expected), 260)
        host = expected[0].split()[1]
        self.assertEqual([line(header, event, host=host, contexts=["context"]) for event in events], expected)
        self.assertEqual(babeltrace2("--no-delta", "--clock-seconds", LTTNG), expected, "the fixture has changed")


class Selection(Traces):
    def test_from_and_to(self):
        self.make("cycles", 1000)
        everything = self.events(self.trace)
        times = [event["t_ns"] for event in everything]
        for first, last in ((0, 999), (500, 510), (999, 999), (1, 998)):
            got = self.events(self.trace, "--from", f"{times[first]}ns", "--to", f"{times[last]}ns")
            self.assertEqual(got, everything[first:last + 1])
        got = self.events(self.trace, "--from", f"{times[500] + 1}ns", "--to", f"{times[510] - 1}ns")
        self.assertEqual(got, everything[501:510])

    def test_time_of_day(self):
        self.make("cycles", 10)
        everything = self.events(self.trace)
        _, out, _ = view(self.trace, "--wall")
        stamps = [one.split()[0] for one in out.splitlines()]
        self.assertEqual(self.events(self.trace, "--from", stamps[3], "--to", stamps[7]), everything[3:8])

    def test_with_and_without_an_index(self):
        everything = self.events(LTTNG)
        copy = self.folder / "copy"
        copy.mkdir()
        for name in ("metadata", "ch_0", "ch_1"):
            (copy / name).write_bytes((LTTNG / name).read_bytes())
        for event in everything[::20]:
            time = f"{event['t_ns']}ns"
            later = [one for one in everything if one["t_ns"] >= event["t_ns"]]
            self.assertEqual(self.events(LTTNG, "--from", time), later)
            self.assertEqual(self.events(copy, "--from", time), later)
        # An index of other packets is no hint, and neither is noise.
        (copy / "index").mkdir()
        for one, other in (("ch_0", "ch_1"), ("ch_1", "ch_0")):
            (copy / "index" / f"{one}.idx").write_bytes((LTTNG / "index" / f"{other}.idx").read_bytes())
        self.assertEqual(self.events(copy, "--from", f"{everything[100]['t_ns']}ns"), everything[100:])
        dice = random.Random(1)
        for size in (0, 15, 16, 17, 88, 4000):
            for name in ("ch_0", "ch_1"):
                head = (LTTNG / "index" / f"{name}.idx").read_bytes()[:16] if size > 17 else b""
                (copy / "index" / f"{name}.idx").write_bytes(head + dice.randbytes(size))
            self.assertEqual(self.events(copy, "--from", f"{everything[100]['t_ns']}ns"), everything[100:])

    def test_any_subset_of_the_packets(self):
        """Each is whole in itself: its time and its fields need no other."""
        for name in ("ch_0", "ch_1"):
            data = (LTTNG / name).read_bytes()
            packets = [data[at:at + 4096] for at in range(0, len(data), 4096)]
            self.assertEqual(len(packets), 3)
            stream = [event for event in self.events(LTTNG) if event["stream"] == name]
            found = []
            for number, packet in enumerate(packets):
                part = self.folder / f"{name}-{number}"
                part.mkdir()
                (part / "metadata").write_bytes((LTTNG / "metadata").read_bytes())
                (part / name).write_bytes(packet)
                header, events = self.json(part)
                found += [(header["begin_unix_ns"] + event["t_ns"], event["fields"]) for event in events]
            begin = self.json(LTTNG)[0]["begin_unix_ns"]
            self.assertEqual(found, [(begin + event["t_ns"], event["fields"]) for event in stream])
            outer = self.folder / f"{name}-outer"
            outer.mkdir()
            (outer / "metadata").write_bytes((LTTNG / "metadata").read_bytes())
            (outer / name).write_bytes(packets[0] + packets[2])
            _, lines = self.json(outer)
            self.assertEqual([one["packets"] for one in lines if one["type"] == "lost"], [1])

    def test_event(self):
        names = {event["event"] for event in self.events(LTTNG, "--event", "*:tick")}
        self.assertEqual(names, {"market:tick"})

    def test_where(self):
        everything = self.events(LTTNG)

        def orders(condition):
            return [event for event in everything if event["event"] == "market:order" and condition(event["fields"])]

        for text, condition in (
                ("price >= 150.5", lambda f: f["price"] >= 150.5),
                ('venue == "NYSE" && (n < 10 || n == 20)', lambda f: f["venue"] == "NYSE" and (f["n"] < 10 or f["n"] == 20)),
                ("side == 'other' && !(n <= 70)", lambda f: f["side"]["labels"] == ["other"] and f["n"] > 70),
                ("side != 'other'", lambda f: f["side"]["labels"] != ["other"]),
                ("negative < -50000000000", lambda f: f["negative"] < -50000000000),
                ("large == 18446744073709551614", lambda f: f["large"] == 2**64 - 2),
                ("handle == 0xbeef0007", lambda f: f["n"] == 7),
                ("body == 5", lambda f: 5 in f["body"]),
                ("venue >= 'X'", lambda f: f["venue"] >= "X")):
            self.assertEqual(self.events(LTTNG, "--where", text), orders(condition), text)
        self.assertEqual(self.events(LTTNG, "--where", "cpu_id == 1"), [e for e in everything if e["cpu"] == 1])
        self.assertEqual(self.events(LTTNG, "--where", "procname == 'app' && !(price > 0)"),
                         [e for e in everything if e["event"] == "market:tick"], "a context; a field that it does not have")

    def test_last(self):
        everything = self.events(LTTNG)
        self.assertEqual(self.events(LTTNG, "--last", 7), everything[-7:])
        self.assertEqual(self.events(LTTNG, "--last", 1000), everything)
        self.assertEqual(self.events(LTTNG, "--last", 3, "--event", "*tick"),
                         [event for event in everything if event["event"] == "market:tick"][-3:])

    def test_stats(self):
        for name, counts, lost, packets in (("fields", {"test:everything": 2, "test:empty": 3, "test:extended": 1, "test:other": 3}, 0, 0),
                                            ("losses", {"test:n": 6}, 14, 3), ("cycles", {"test:n": 100}, 0, 0)):
            self.trace = self.folder / name
            self.make(name)
            events = self.events(self.trace)
            streams = [path for path in self.trace.iterdir() if path.is_file() and path.name != "metadata"]
            # Fast and without order; by way of every event; and as text.
            for options in ([], ["--from", "0s"]):
                _, lines = self.json(self.trace, "--stats", *options)
                self.assertEqual({one["event"]: one["count"] for one in lines[:-1]}, counts)
                self.assertEqual(lines[-1], {
                    "type": "stats", "v": 1, "events": sum(counts.values()), "incomplete_events": 0, "lost_events": lost,
                    "lost_packets": packets, "first_ns": events[0]["t_ns"], "last_ns": events[-1]["t_ns"], "streams": len(streams),
                    "bytes": sum(path.stat().st_size for path in streams)})
            status, out, error = view(self.trace, "--stats")
            self.assertEqual((status, error), (0, ""))
            for event, count in counts.items():
                self.assertRegex(out, rf"(?m)^ +{count}  {event}$")


class Schema(Traces):
    """docs/view.schema.json holds for every line, and docs/view.md has every field."""

    def test_every_line(self):
        types = set()
        for name in ("fields", "losses", "empty"):
            self.trace = self.folder / name
            self.make(name)
            for options in ([], ["--stats"]):
                _, out, _ = view(self.trace, "--json", *options)
                for one in out.splitlines():
                    VALIDATOR.validate(json.loads(one))
                    types.add(json.loads(one)["type"])
        self.assertEqual(types, {ref["$ref"].rsplit("/", 1)[1] for ref in SCHEMA["oneOf"]})

    def test_the_schema_is_not_so_wide_that_anything_does(self):
        self.make("losses")
        for options in ([], ["--stats"]):
            _, lines = self.json(self.trace, *options)
            for one in lines:
                for key in one:
                    self.assertFalse(VALIDATOR.is_valid({name: value for name, value in one.items() if name != key}), key)
                self.assertFalse(VALIDATOR.is_valid({**one, "surplus": 1}))

    def test_every_field_is_documented(self):
        rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", (DOCS / "view.md").read_text(), re.M)
        documented = {(field, kind) for field, kinds in rows for kind in re.findall(r"`(\w+)`", kinds)}
        declared = {(field, kind["$ref"].rsplit("/", 1)[1]) for kind in SCHEMA["oneOf"]
                    for field in SCHEMA["$defs"][kind["$ref"].rsplit("/", 1)[1]]["properties"]}
        self.assertEqual(documented, {(field, kind) for field, kind in declared if field not in ("type", "v")})


class Words(Traces):
    def assert_told(self, done, *words):
        status, _, error = done
        self.assertEqual(status, 2, error)
        for word in ("cloister: ", "  needs  ", "  found  ", *words):
            self.assertIn(word, error)

    def test_text(self):
        self.make("losses")
        status, out, error = view(self.trace)
        self.assertEqual((status, error), (0, ""))
        self.assertEqual(out.splitlines()[:5], [
            "   0.000000000  cpu 2  lost: 3 events of book_2 until 0.000000100",
            "   0.000000000  cpu 2  test:n  n=0",
            "   0.000000001  cpu 2  test:n  n=1",
            "   0.000000100  cpu 2  lost: 4 events of book_2 until 0.000001100",
            "   0.000001100  cpu 2  lost: 5 events of book_2 until 0.000002100"])

    def test_no_directory(self):
        self.assert_told(view(self.folder / "none"), "no such directory", "metadata")
        self.assert_told(view(LTTNG / "metadata"), "a file", "  set    cloister view " + str(LTTNG))
        self.assert_told(view(self.folder), "no trace in", "none")

    def test_broken_metadata(self):
        self.trace.mkdir()
        (self.trace / "metadata").write_text("/* CTF 1.8 */\ntrace {\n\tmajor = ;\n};\n")
        self.assert_told(view(self.trace), "metadata:3:", "^")

    def test_cut(self):
        """What lies before the cut is shown, then what is wrong."""
        copy = self.folder / "cut"
        copy.mkdir()
        (copy / "metadata").write_bytes((LTTNG / "metadata").read_bytes())
        (copy / "ch_0").write_bytes((LTTNG / "ch_0").read_bytes()[:10000])
        done = view(copy)
        self.assert_told(done, "packet 2 of ch_0", "packet_size 32768 bits reaches beyond the end of the file, 14464 bits are left")
        data = (LTTNG / "ch_0").read_bytes()[:8192]
        (copy / "ch_0").write_bytes(data)
        self.assertEqual(done[1], view(copy)[1])

    def test_where_shows_the_place(self):
        for text, place in (("n", 1), ("n = 5", 2), ("n == ", 5), ("n == five", 5), ("n == 5 && ", 10), ("n == 5 & n == 6", 7),
                            ("(n == 5", 7), ("n == 5)", 6), ("!(n == 'x)", 7), ("5 == n", 0), ("n == 5x", 5), ("a..b == 1", 2)):
            status, _, error = view(LTTNG, "--where", text)
            self.assertEqual(status, 2, text)
            shown = error.splitlines()
            caret = next(i for i, one in enumerate(shown) if one.strip() == "^")
            self.assertEqual(shown[caret - 1], "  found  " + text)
            self.assertEqual(shown[caret].index("^") - len("  found  "), place, error)

    def test_where_with_a_name_that_no_event_has(self):
        self.assert_told(view(LTTNG, "--where", "ordre == 5"), "'ordre'", "venue")

    def test_times(self):
        self.assert_told(view(LTTNG, "--from", "yesterday"), "'yesterday'", "1.5ms", "2026-")

    def test_an_empty_result_explains_itself(self):
        self.make("empty")
        for arguments, words in (((self.trace,), ("no events in", "0 event classes")),
                                 ((LTTNG, "--event", "book:*"), ("'book:*'", "market:order, market:tick")),
                                 ((LTTNG, "--where", "n > 1000"), ("no event matches", "260 were looked at")),
                                 ((LTTNG, "--from", "1h"), ("0 were looked at", "begins at 2026-"))):
            status, out, error = view(*arguments)
            self.assertEqual((status, out), (0, ""))
            for word in words:
                self.assertIn(word, error)

    def test_a_reader_that_goes_away(self):
        self.make("cycles", 20000)
        done = subprocess.run(f"{CLOISTER} view {self.trace} | head -1 | wc -l; echo ${{PIPESTATUS[0]}}", shell=True,
                              executable="/bin/bash", capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout.split(), ["1", "2"])
        self.assertIn("Broken pipe", done.stderr)
        self.assertIn("--last", done.stderr)


if __name__ == "__main__":
    unittest.main()
