"""What the compilers make of a tracepoint, read from the machine code: one NOP in line, a short way out of line, and no
atomic instruction on the way of an event."""
import os
import re
import subprocess
import unittest

PROGRAM = os.environ["PROGRAM"]
NOP = "0f 1f 44 00 00"


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def disassembled():
    """{symbol: [(bytes, instruction)]} of the program."""
    symbols, name = {}, None
    for line in run("objdump", "-d", "-w", PROGRAM).splitlines():
        if head := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            name = head[1]
            symbols[name] = []
        elif (part := line.split("\t")) and len(part) >= 3 and name:
            symbols[name].append((part[1].strip(), part[2].strip()))
    return symbols


def without_padding(instructions):
    """Up to the last ret or jump: what aligns the next function is nobody's."""
    last = max(i for i, (_, text) in enumerate(instructions) if re.match(r"(ret|jmp)\b", text))
    return instructions[:last + 1]


def size(instructions):
    return sum(len(code.split()) for code, _ in instructions)


def atomic(code):
    """Locked instructions, xchg with memory (which locks by itself), and fences."""
    return [text for text in code if re.match(r"lock\b|xchg\s.*\(|[lms]fence", text)]


class Code(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.symbols = disassembled()

    def test_in_line_there_is_one_nop_and_nothing_else(self):
        traced, untraced = (without_padding(self.symbols[name]) for name in ("traced", "untraced"))
        self.assertEqual([code for code, _ in traced].count(NOP), 1)
        self.assertEqual([code for code, _ in traced if code != NOP], [code for code, _ in untraced])
        self.assertEqual(size(traced), size(untraced) + 5)

    def test_a_loop_has_no_call_in_line(self):
        loop = self.symbols["traced_loop"]
        self.assertIn(NOP, [code for code, _ in loop])
        self.assertFalse([text for _, text in loop if text.startswith("call")])

    def test_out_of_line_a_two_integer_event_takes_at_most_200_bytes(self):
        layout = [name for name in self.symbols if "cloister_fire_code_two" in name]
        self.assertEqual(len(layout), 1)
        total = size(without_padding(self.symbols[layout[0]])) + size(without_padding(self.symbols["traced.cold"]))
        print(f"{total} bytes out of line")
        self.assertTrue(0 < total <= 200, total)

    def test_no_atomic_instruction_on_the_way_of_an_event(self):
        """From the layout to the walk of the probe list, with everything that is called; not where an event is lost."""
        lost = re.compile("first_event|busy_tracers|count|drop_from|@plt")
        way, ahead = {}, ["cloister_trace_fire"]
        while ahead:
            name = ahead.pop()
            if name in way or lost.search(name):
                continue
            way[name] = [text for _, text in self.symbols[name]]
            ahead += [call[1] for text in way[name] if (call := re.match(r"(?:call|jmp)\s+[0-9a-f]+ <([^+>]*)>", text))]
        self.assertIn("holds", " ".join(way), "the filter is on it")
        walk = [text for text in way["cloister_trace_fire"] if re.match(r"call\s+\*", text)]
        self.assertEqual(len(walk), 1, "the call of a probe")
        self.assertEqual({name: atomic(code) for name, code in way.items() if atomic(code)}, {})
        # What the search does find, where there is one.
        counting = [name for name in self.symbols if "tracepoint" in name and "count" in name]
        self.assertTrue(any(atomic([text for _, text in self.symbols[name]]) for name in counting), counting)

    def test_every_site_is_a_record(self):
        headers = run("objdump", "-h", PROGRAM)
        section = re.search(r"cloister_sites\s+([0-9a-f]+)", headers)
        self.assertEqual(int(section[1], 16), 2 * 24)


if __name__ == "__main__":
    unittest.main()
