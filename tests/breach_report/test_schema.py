"""The JSON schema holds for the output, for the examples in the documentation, and is not so wide that anything does.

Needs python3-jsonschema.
"""
import copy
import json
import pathlib
import re
import unittest

import jsonschema

HERE = pathlib.Path(__file__).resolve().parent
DOCS = HERE.parent.parent / "docs"
SCHEMA = json.loads((DOCS / "json.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def objects_in(node):
    """Every object with named fields in a line: those with any key at all (inferred_ns, dropped_by_kind) have none."""
    if isinstance(node, dict):
        yield node
        for key, value in node.items():
            if key not in ("inferred_ns", "dropped_by_kind"):
                yield from objects_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from objects_in(value)


class Golden(unittest.TestCase):
    def setUp(self):
        self.lines = [json.loads(line) for name in ("report", "audit")
                      for line in (HERE / f"golden/{name}.jsonl").read_text().splitlines()]

    def test_schema_is_a_schema(self):
        jsonschema.Draft202012Validator.check_schema(SCHEMA)

    def test_every_line_is_valid(self):
        for line in self.lines:
            VALIDATOR.validate(line)

    def test_every_type_occurs(self):
        types = {ref["$ref"].rsplit("/", 1)[1] for ref in SCHEMA["oneOf"]}
        self.assertEqual({line["type"] for line in self.lines}, types)

    def test_every_nullable_field_is_seen_with_a_value(self):
        seen = {(line["type"], key) for line in self.lines for key, value in line.items() if value is not None}
        for line in self.lines:
            for key in line:
                self.assertIn((line["type"], key), seen)

    def test_a_field_that_is_missing_added_or_of_another_type_is_found(self):
        fullest = {line["type"]: line for line in sorted(self.lines, key=lambda line: len(str(line)))}
        for line in fullest.values():
            for i, fields in enumerate(objects_in(line)):
                for key in list(fields) + [None]:
                    broken = copy.deepcopy(line)
                    target = list(objects_in(broken))[i]
                    if key is None:
                        target["surplus"] = 1
                    else:
                        del target[key]
                    self.assertFalse(VALIDATOR.is_valid(broken), f"{line['type']}: without {key}")
                    if key is not None:
                        broken = copy.deepcopy(line)
                        list(objects_in(broken))[i][key] = 1.5
                        self.assertFalse(VALIDATOR.is_valid(broken), f"{line['type']}: {key} = 1.5")


class Documentation(unittest.TestCase):
    def setUp(self):
        self.text = (DOCS / "json.md").read_text()

    def test_examples_are_valid_and_of_every_type(self):
        examples = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", self.text, re.S)]
        for example in examples:
            VALIDATOR.validate(example)
        self.assertEqual({e["type"] for e in examples}, {ref["$ref"].rsplit("/", 1)[1] for ref in SCHEMA["oneOf"]})

    def test_every_field_has_its_line(self):
        sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", self.text, re.S | re.M))
        where = {"inner": "breach", "party": "sender", "frame": "frame"}
        for name, definition in SCHEMA["$defs"].items():
            documented = set(re.findall(r"^\| `(\w+)` \|", sections[where.get(name, name)], re.M))
            fields = set(definition["properties"])
            self.assertEqual(documented, fields | ({"type", "v"} if name == "inner" else set()), name)

    def test_causes_are_listed(self):
        for cause in SCHEMA["$defs"]["row"]["properties"]["cause"]["enum"]:
            self.assertIn(f"`{cause}`", self.text)


if __name__ == "__main__":
    unittest.main()
