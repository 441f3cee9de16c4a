"""What TraceWriter writes, babeltrace2 reads: every value, every time, every loss, and without a word on stderr."""
import re
import subprocess
import unittest

from harness import Traces

UUID = "10325476-98ba-4cfe-8102-030405060708"


def both(*arguments):
    done = subprocess.run(["babeltrace2", *map(str, arguments)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


class Written(Traces):
    def assert_events(self, expected, *options):
        """Lines are compared without the name of the host."""
        status, out, error = both(self.trace, "--no-delta", *options)
        self.assertEqual((status, error), (0, ""))
        self.assertEqual([line.replace('host "1" ', "") for line in out.splitlines()], expected)


def everything(**values):
    order = ("u8 i8 u16 i16 u32 i32 u64 i64 pointer ratio price side change flag string struct array _sequence_len sequence"
             " _doubles_len doubles words").split()
    common = {"pointer": "0xDEADBEEF0000CAFE", "ratio": "0.25", "struct": "[ [0] = 0x0, [1] = 0x1, [2] = 0x7F, [3] = 0xFF ]",
              "array": "[ [0] = 1, [1] = 2, [2] = 65535 ]", "_doubles_len": 2, "doubles": "[ [0] = 0.5, [1] = -2 ]",
              "words": '[ [0] = "first", [1] = "second" ]'}
    return ", ".join(f"{name} = {({**common, **values})[name]}" for name in order)


LEAST = everything(
    u8=0, i8=127, u16=0, i16=32767, u32=0, i32=2147483647, u64=0, i64=9223372036854775807, price="100.5",
    side='( "other" : container = 7 )', change='( "same" : container = 0 )', flag='( "false" : container = 0 )',
    string='"ein \\"Wort\\"\\tgültig"', _sequence_len=0, sequence="[ ]")
MOST = everything(
    u8=255, i8=-128, u16=65535, i16=-32768, u32=4294967295, i32=-2147483648, u64=18446744073709551615,
    i64=-9223372036854775808, price="-1e+300", side='( "sell" : container = 1 )', change='( "less" : container = -3 )',
    flag='( "true" : container = 1 )', string='""', _sequence_len=3, sequence="[ [0] = -1, [1] = 0, [2] = 1 ]")


class Babeltrace(Written):
    def test_every_type_and_both_headers(self):
        self.make("fields")
        cpu0, cpu3 = "{ cpu_id = 0 }", "{ cpu_id = 3 }"
        self.assert_events([
            f"[{500:020}] test:other: {cpu3}, {{ n = 0 }}",
            f"[{501:020}] test:other: {cpu3}, {{ n = 1 }}",
            f"[{502:020}] test:other: {cpu3}, {{ n = 2 }}",
            f"[{1000:020}] test:everything: {cpu0}, {{ {LEAST} }}",
            f"[{2**27 + 999:020}] test:empty: {cpu0}, {{ }}",
            f"[{2**27 + 999:020}] test:empty: {cpu0}, {{ }}",
            f"[{3 * 2**27:020}] test:empty: {cpu0}, {{ }}",
            f"[{5 * 2**40:020}] test:extended: {cpu0}, {{ n = 77 }}",
            f"[{5 * 2**40 + 1:020}] test:everything: {cpu0}, {{ {MOST} }}",
        ], "--clock-cycles")

    def test_the_clock(self):
        self.make("cycles", 50)
        frequency, first, step = 2_999_999_937, 123_456_789_012_345, 12_345_679
        cycles = [first + n * step for n in range(50)]
        self.assert_events([f"[{value:020}] test:n: {{ cpu_id = 0 }}, {{ n = {n} }}" for n, value in enumerate(cycles)],
                           "--clock-cycles")
        _, out, _ = both("--no-delta", "--clock-seconds", self.trace)
        for line, value in zip(out.splitlines(), cycles, strict=True):
            shown = int(re.match(r"\[(\d+)\.(\d{9})\]", line).expand(r"\1\2"))
            exact = 1_700_000_000_000_000_000 + (value + 7) * 10**9 // frequency
            self.assertLessEqual(abs(shown - exact), 1, "babeltrace2 computes in double")

    def test_environment_and_clock_class(self):
        self.make("fields")
        status, out, error = both("-c", "sink.text.details", self.trace)
        self.assertEqual((status, error), (0, ""))
        for line in ('hostname: host "1"', "tracer_name: cloister", "tracer_major: 0", "tracer_minor: 1", r"note: back\slash",
                     f"UUID: {UUID}", "Frequency (Hz): 1,000,000,000", "Offset (s): 1,700,000,000", "Offset (cycles): 7",
                     "Origin is Unix epoch: Yes", "Log level: Debug (line)", "Log level: Info", "Event class `test:extended` (ID 1000)"):
            self.assertIn(line, out)

    def test_losses_lie_between_the_events_that_they_separate(self):
        self.make("losses")
        status, out, error = both("-c", "sink.text.details", "--params=with-metadata=no,compact=yes", self.trace)
        self.assertEqual((status, error), (0, ""))
        told = [re.search(r"Event `|Discarded (events|packets)(?: \((\d+) )?", line) for line in out.splitlines()]
        self.assertEqual([f"{found[2]} {found[1]}" if found[1] else "event" for found in told if found],
                         # How many before the first packet it does not say.
                         ["None events", "event", "event", "4 events", "5 events", "event", "event", "2 packets", "event", "2 events",
                          "1 packets", "event"])

    def test_no_events(self):
        self.make("empty")
        self.assert_events([])


if __name__ == "__main__":
    unittest.main()
