"""Runs cloister view, babeltrace2 and make_trace, and compares what they say. CLOISTER and MAKE_TRACE are the programs' paths."""
import json
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

CLOISTER = os.environ["CLOISTER"]
MAKE_TRACE = os.environ["MAKE_TRACE"]


def view(*arguments, **options):
    done = subprocess.run([CLOISTER, "view", *map(str, arguments)], capture_output=True, text=True, check=False, **options)
    return done.returncode, done.stdout, done.stderr


def babeltrace2(*arguments):
    done = subprocess.run(["babeltrace2", *map(str, arguments)], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


class Traces(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.folder = pathlib.Path(directory.name)
        self.trace = self.folder / "trace"

    def make(self, *words):
        subprocess.run([MAKE_TRACE, self.trace, *map(str, words)], check=True)

    def json(self, *arguments):
        status, out, error = view(*arguments, "--json")
        self.assertEqual((status, error), (0, ""))
        lines = [json.loads(line) for line in out.splitlines()]
        self.assertTrue(all(line["v"] == 1 for line in lines))
        self.assertEqual(lines[0]["type"], "trace")
        return lines[0], lines[1:]

    def events(self, *arguments):
        return [line for line in self.json(*arguments)[1] if line["type"] == "event"]


class Variant:
    """A value that the metadata says is a variant's: our JSON has the value alone."""

    def __init__(self, value):
        self.value = value


def as_babeltrace2(value):
    """A value of our JSON as babeltrace2 writes it."""
    if isinstance(value, Variant):
        return f"{{ {as_babeltrace2(value.value)} }}"
    if isinstance(value, dict):
        if set(value) == {"value", "labels"}:
            labels = ", ".join(f'"{label}"' for label in value["labels"]) or "<unknown>"
            return f"( {labels} : container = {value['value']} )"
        return "{ " + ", ".join(f"{name} = {as_babeltrace2(one)}" for name, one in value.items()) + (" }" if value else "}")
    if isinstance(value, list):
        return "[ " + ", ".join(f"[{i}] = {as_babeltrace2(one)}" for i, one in enumerate(value)) + (" ]" if value else "]")
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str) and re.fullmatch("0x[0-9a-f]+", value):
        return "0x" + value[2:].upper()
    return json.dumps(value, ensure_ascii=False)


def line(header, event, *, host, contexts=(), packet=()):
    """`packet`: fields of our context that babeltrace2 shows beside the CPU."""
    ns = header["begin_unix_ns"] + event["t_ns"]
    of_packet = {name: event["context"][name] for name in packet}
    event["context"] = {name: value for name, value in event["context"].items() if name not in packet}
    parts = [{"cpu_id": event["cpu"], **of_packet}, *(event[context] for context in contexts), event["fields"]]
    return (f"[{ns // 10**9}.{ns % 10**9:09}] {host} {event['event']}: " + ", ".join(map(as_babeltrace2, parts)))
