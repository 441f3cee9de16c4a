"""The style of the code, as far as a machine can tell."""
import pathlib
import subprocess
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = sorted(path for folder in ("include", "src", "tests", "fuzz", "examples")
                 for path in (ROOT / folder).rglob("*") if path.suffix in (".c", ".h", ".cpp", ".hpp"))


class Style(unittest.TestCase):
    maxDiff = None

    def test_format(self):
        self.assertTrue(SOURCES)
        done = subprocess.run(["clang-format", "--dry-run", *map(str, SOURCES)], capture_output=True, text=True, check=True)
        places = [line.removeprefix(f"{ROOT}/") for line in done.stderr.splitlines() if line.startswith(str(ROOT))]
        self.assertEqual(places, [], "`make format` mends it")

    def test_no_file_is_too_long(self):
        lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
        self.assertEqual({path: lines for path, lines in lengths.items() if lines > 800}, {})


if __name__ == "__main__":
    unittest.main()
