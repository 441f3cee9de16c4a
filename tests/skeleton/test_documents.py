"""What the documents say is there, is there."""
import pathlib
import re
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


class Documents(unittest.TestCase):
    def test_every_named_path_exists(self):
        named = re.compile(r"`((?:src|tests|docs|scripts|examples|bench|cmake|include)/[\w./{},-]*)`")
        checked = 0
        for document in DOCUMENTS:
            for path in named.findall(document.read_text()):
                # `a/b.{hpp,cpp}` stands for both.
                braces = re.fullmatch(r"(.*)\{(.*)\}(.*)", path)
                paths = [braces[1] + part + braces[3] for part in braces[2].split(",")] if braces else [path]
                for one in paths:
                    checked += 1
                    self.assertTrue((ROOT / one).exists(), f"{document.name} names {one}")
        self.assertGreater(checked, 10)

    def test_nothing_is_left_to_fill_in(self):
        for document in DOCUMENTS:
            self.assertFalse("<!--" in document.read_text(), document.name)

    def test_links_between_documents(self):
        for document in DOCUMENTS:
            for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
                self.assertTrue((document.parent / target).exists(), f"{document.name} links to {target}")

    def test_every_named_make_target_exists(self):
        targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
        for document in DOCUMENTS:
            for target in re.findall(r"`(?:sudo )?make ([a-z]+)", document.read_text()):
                self.assertIn(target, targets, document.name)

    def test_ci_runs_the_readmes_test_command(self):
        self.assertIn("make test", (ROOT / "README.md").read_text())
        self.assertIn("exec make test", (ROOT / ".ci" / "run").read_text())

    def test_the_way_of_an_event(self):
        text = (ROOT / "docs" / "architecture.md").read_text()
        steps = re.findall(r"^(\d+)\. (.*(?:\n   .*)*)", text, re.M)
        self.assertEqual([int(number) for number, _ in steps], list(range(1, len(steps) + 1)))
        self.assertTrue(3 <= len(steps) <= 12, len(steps))
        for number, step in steps:
            self.assertRegex(step, r"`src/[\w/.]+\.(c|cpp|hpp|h)`", f"step {number} names no file")


if __name__ == "__main__":
    unittest.main()
