"""Traces that no tracer of ours writes: big endian, fields of single bits, every construct of TSDL. babeltrace2 reads them too, and
both must say the same."""
import struct
import unittest

from harness import Traces, Variant, babeltrace2, line

MAGIC = 0xC1FC1FC1


class Bits:
    """Fields one after the other, each at a multiple of its alignment."""

    def __init__(self, big):
        self.big, self.bits = big, []

    def align(self, to):
        self.bits += [0] * (-len(self.bits) % to)

    def put(self, value, size, align=1):
        self.align(align)
        digits = [value >> i & 1 for i in range(size)]
        self.bits += reversed(digits) if self.big else digits
        return self

    def bytes(self, data):
        for byte in data:
            self.put(byte, 8, 8)
        return self

    def real(self, value, size=64, align=8):
        code = (">" if self.big else "<") + ("d" if size == 64 else "f")
        return self.put(int.from_bytes(struct.pack(code, value), "big" if self.big else "little"), size, align)

    def __len__(self):
        return len(self.bits)

    def data(self):
        self.align(8)
        bits = [self.bits[i:i + 8] if self.big else self.bits[i:i + 8][::-1] for i in range(0, len(self.bits), 8)]
        return bytes(sum(bit << (7 - i) for i, bit in enumerate(byte)) for byte in bits)


BASE = """/* CTF 1.8 */
typealias integer { size = 8; align = 8; signed = false; } := uint8_t;
typealias integer { size = 16; align = 8; signed = false; } := uint16_t;
typealias integer { size = 32; align = 8; signed = false; } := uint32_t;
typealias integer { size = 64; align = 8; signed = false; } := uint64_t;
trace { major = 1; minor = 8; byte_order = %s; packet.header := struct { uint32_t magic; uint32_t stream_id; }; };
env { hostname = "elsewhere"; number = -5; hex = 0x1F; };
clock { name = c; freq = 1000000000; offset_s = 1600000000; };
typealias integer { size = 64; align = 8; map = clock.c.value; } := uint64_clock_t;
struct context { uint64_clock_t timestamp_begin; uint64_clock_t timestamp_end; uint64_t content_size; uint64_t packet_size;
                 uint32_t cpu_id; uint8_t count; };
"""


class Foreign(Traces):
    def write(self, metadata, big, packets, name="stream"):
        """packets: (stream id, begin, end, count, function that puts the events)."""
        self.trace.mkdir(exist_ok=True)
        (self.trace / "metadata").write_bytes(metadata if isinstance(metadata, bytes) else metadata.encode())
        out = b""
        for stream, begin, end, count, events in packets:
            for content in (0, None):  # once to know its size
                bits = Bits(big)
                bits.put(MAGIC, 32).put(stream, 32).put(begin, 64).put(end, 64)
                if content is None:
                    bits.put(size, 64).put((size + 255) // 256 * 256, 64)
                else:
                    bits.put(0, 64).put(0, 64)
                bits.put(3, 32).put(count, 8)
                events(bits)
                size = len(bits)
            bits.align(256)
            out += bits.data()
        (self.trace / name).write_bytes(out)

    def assert_same(self, expected_events):
        header, events = self.json(self.trace)
        self.assertEqual(len(events), expected_events)
        ours = [line(header, event, host="elsewhere", packet=["count"]) for event in events]
        self.assertEqual(ours, babeltrace2("--no-delta", "--clock-seconds", self.trace))
        return events

    def check_bits(self, big):
        metadata = BASE % ("be" if big else "le") + """
typealias integer { size = 3; align = 1; } := u3;
typealias integer { size = 12; align = 1; signed = true; } := i12;
typealias integer { size = 33; align = 1; base = hexadecimal; } := x33;
typealias integer { size = 1; align = 1; } := bit;
typedef struct { u3 x; i12 y; } point;
stream { id = 7; packet.context := struct context; event.header := struct { uint16_t id; uint64_clock_t timestamp; }; };
event { name = "bits"; id = 1; stream_id = 7; fields := struct {
    u3 _a; i12 _b; x33 _c; bit _d; bit _e[5]; point _p; point _q[2]; u3 _grid[2][3]; uint8_t _tail;
    floating_point { exp_dig = 8; mant_dig = 24; align = 32; } _f; floating_point { exp_dig = 11; mant_dig = 53; } _g; }; };
"""

        def events(bits):
            for n in range(3):
                bits.put(1, 16, 8).put(1000 + n, 64, 8)
                bits.align(32)  # all of the fields together are aligned as the strictest of them
                bits.put(5, 3).put(-7 & 0xfff, 12).put(0x1fedcba98 + n, 33).put(1, 1)
                for i in range(5):
                    bits.put(i & 1, 1)
                for x, y in ((1, -1), (2, 2047), (7, -2048)):
                    bits.put(x, 3).put(y & 0xfff, 12)
                for i in range(6):
                    bits.put(i, 3)
                bits.put(0xee, 8, 8).real(1.5, 32, 32).real(-2.25, 64, 1)

        self.write(metadata, big, [(7, 1000, 1002, 0, events)])
        fields = self.assert_same(3)[0]["fields"]
        self.assertEqual((fields["a"], fields["b"], fields["c"], fields["e"]), (5, -7, "0x1fedcba98", [0, 1, 0, 1, 0]))
        self.assertEqual(fields["q"], [{"x": 2, "y": 2047}, {"x": 7, "y": -2048}])
        self.assertEqual(fields["grid"], [[0, 1, 2], [3, 4, 5]])

    def test_single_bits_big_endian(self):
        self.check_bits(True)

    def test_single_bits_little_endian(self):
        self.check_bits(False)

    def check_types(self, big):
        metadata = BASE % ("be" if big else "le") + """
typealias integer { size = 32; align = 32; signed = true; } := signed int;
typealias signed int := int;
typealias integer { size = 64; align = 64; base = 16; } := void *;
typealias integer { size = 8; align = 8; encoding = UTF8; } := char;
typedef uint8_t triple[3];
enum kind : uint8_t { small, large = 5 ... 7, "a label", last = 255 };
enum change : signed int { down = -10 ... -1, same = 0, up = 1 ... 10, tiny = 1 };
struct outer { uint8_t n; struct { uint16_t len; uint8_t data[len]; uint8_t more[n]; } inner; } align(32);
variant choice { struct { uint8_t a; } small; uint32_t large; string "a label"; };
""".replace(' string "a label"; ', " string last; ") + """
stream { id = 0; packet.context := struct context;
    event.header := struct { enum : uint8_t { few = 0 ... 254, many = 255 } id; variant <id> { struct { uint64_clock_t timestamp; } few;
        struct { uint32_t id; uint64_clock_t timestamp; } many; } v; };
    event.context := struct { int _tid; char _comm[4]; }; };
event { name = "types"; id = 3; context := struct { uint8_t _level; }; fields := struct {
    int _i; void * _pointer; triple _t; enum kind _kind; variant choice <_kind> _chosen; enum change _change; struct outer _outer;
    string { encoding = ASCII; } _s; string _words[2]; uint8_t _counted[stream.packet.context.count];
    integer { size = 16; align = 8; byte_order = network; } _port; integer { size = 16; align = 8; byte_order = le; base = 16; } _le;
    char _text[_t2]; uint8_t _end; }; };
""".replace("char _text[_t2];", "uint8_t _t2; char _text[_t2];") + """
event { name = "later"; id = 1000; context := struct { uint8_t _level; }; fields := struct { uint8_t _x; }; };
"""

        def events(bits):
            for kind, change, n in ((0, -3, 0), (6, 1, 2), (255, 0, 4)):
                bits.put(3, 8, 8).put(1000 + n, 64, 8)
                bits.put(-77 & 0xffffffff, 32, 32).bytes(b"ab\0x")
                bits.put(n, 8, 8)
                bits.align(64)
                bits.put(-5 & 0xffffffff, 32, 32).put(0xdead0000beef + n, 64, 64).bytes(b"\1\2\3")
                bits.put(kind, 8, 8)
                if kind == 0:
                    bits.put(9, 8, 8)
                elif kind == 6:
                    bits.put(123456, 32, 8)
                else:
                    bits.bytes(b"chosen\0")
                bits.put(change & 0xffffffff, 32, 32)
                bits.align(32)
                bits.put(n, 8, 8).put(2, 16, 8).bytes(b"\x10\x11").bytes(bytes(range(n)))
                bits.bytes(b"text\0").bytes(b"one\0\0").bytes(b"\x21\x22")
                bits.bytes(b"\x12\x34").bytes(b"\x34\x12")
                bits.put(n + 1, 8, 8).bytes(b"wxyz!"[:n + 1]).put(0xee, 8, 8)
            bits.put(255, 8, 8).put(1000, 32, 8).put(2000, 64, 8)
            bits.put(1, 32, 32).bytes(b"comm").put(0, 8, 8).put(42, 8, 8)

        self.write(metadata, big, [(0, 1000, 2000, 2, events)])
        header, found = self.json(self.trace)
        fields = found[1]["fields"]
        self.assertEqual((fields["i"], fields["pointer"], fields["chosen"], fields["port"], fields["le"]),
                         (-5, "0xdead0000bef1", 123456, 0x1234, "0x1234"))
        self.assertEqual(fields["change"]["labels"], ["up", "tiny"])
        self.assertEqual(fields["outer"], {"n": 2, "inner": {"len": 2, "data": [16, 17], "more": [0, 1]}})
        self.assertEqual((fields["words"], fields["counted"], fields["text"]), (["one", ""], [33, 34], "wxy"))
        self.assertEqual(found[1]["context"], {"count": 2, "tid": -77, "comm": "ab", "level": 2})
        self.assertEqual((found[3]["event"], found[3]["t_ns"], found[3]["fields"]), ("later", 1000, {"x": 42}))
        # babeltrace2 shows the contexts apart.
        for event in found:
            level = event["context"].pop("level")
            event["level"] = {"level": level}
            if "chosen" in event["fields"]:
                event["fields"]["chosen"] = Variant(event["fields"]["chosen"])
        self.assertEqual([line(header, event, host="elsewhere", contexts=["context", "level"], packet=["count"]) for event in found],
                         babeltrace2("--no-delta", "--clock-seconds", self.trace))

    def test_every_construct_big_endian(self):
        self.check_types(True)

    def test_every_construct_little_endian(self):
        self.check_types(False)

    def test_time_of_27_bits_that_wraps(self):
        metadata = BASE % "le" + """
stream { id = 0; packet.context := struct context; event.header := struct {
    uint8_t id; integer { size = 27; align = 1; map = clock.c.value; } timestamp; }; };
event { name = "n"; id = 0; fields := struct { uint8_t _n; }; };
"""
        times = [2**27 - 5, 2**27 - 5, 2**27 + 3, 2**28 + 2, 2**28 + 3]

        def events(bits):
            for n, time in enumerate(times):
                bits.align(8)
                bits.put(0, 8, 8).put(time % 2**27, 27).put(n, 8, 8)

        self.write(metadata, False, [(0, 2**27 - 7, 2**28 + 3, 0, events)])
        found = self.assert_same(5)
        self.assertEqual([event["t_ns"] for event in found], [time - times[0] + 2 for time in times])

    def test_several_streams_in_order_of_time(self):
        metadata = BASE % "le" + """
stream { id = 1; packet.context := struct context; event.header := struct { uint8_t id; uint64_clock_t timestamp; }; };
stream { id = 2; packet.context := struct context; event.header := struct { uint64_clock_t timestamp; uint8_t id; }; };
event { name = "one"; id = 1; stream_id = 1; fields := struct { uint8_t _n; }; };
event { name = "two"; id = 1; stream_id = 2; fields := struct { uint8_t _n; }; };
"""

        def one(bits):
            for n in range(0, 100, 2):
                bits.put(1, 8, 8).put(1000 + n, 64, 8).put(n, 8, 8)

        def two(bits):
            for n in range(1, 100, 2):
                bits.put(1000 + n, 64, 8).put(1, 8, 8).put(n, 8, 8)

        self.write(metadata, False, [(1, 1000, 1098, 0, one)], "a")
        self.write(metadata, False, [(2, 1001, 1099, 0, two)], "b")
        self.assertEqual([event["fields"]["n"] for event in self.assert_same(100)], list(range(100)))

    def test_metadata_in_packets(self):
        for big in (False, True):
            text = (BASE % "le" + """
stream { id = 0; packet.context := struct context; event.header := struct { uint8_t id; uint64_clock_t timestamp; }; };
event { name = "n"; id = 0; fields := struct { uint8_t _n; }; };
""").encode()
            order = ">" if big else "<"
            packed = b""
            for at in range(0, len(text), 500):
                part = text[at:at + 500]
                packed += struct.pack(order + "I16sIIIBBBBB", 0x75D11D57, bytes(16), 0, 8 * (37 + len(part)), 8 * 600, 0, 0, 0, 1, 8)
                packed += part + bytes(600 - 37 - len(part))
            self.write(packed, False, [(0, 1000, 1000, 0, lambda bits: bits.put(0, 8).put(1000, 64).put(7, 8))])
            if big:  # babeltrace2 takes the order of the metadata's packets for that of the trace, and refuses another
                self.assertEqual([event["fields"] for event in self.events(self.trace)], [{"n": 7}])
            else:
                self.assert_same(1)


if __name__ == "__main__":
    unittest.main()
