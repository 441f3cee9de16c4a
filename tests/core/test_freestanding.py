"""The core needs nothing: what is undefined in its objects is on a list, and a program of it alone runs without libc."""
import os
import re
import subprocess
import unittest

ARCHIVE, PROGRAM = os.environ["CORE_ARCHIVE"], os.environ["PROGRAM"]
# What GCC and Clang may call in freestanding code; everything else is a mistake.
ALLOWED = {"memcpy", "memmove", "memset", "memcmp"}


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class Freestanding(unittest.TestCase):
    def test_nothing_is_undefined_but_what_compilers_may_call(self):
        defined = set(run("nm", "--defined-only", "--format=posix", ARCHIVE).split())
        undefined = {line.split()[0] for line in run("nm", "--undefined-only", "--format=posix", ARCHIVE).splitlines()
                     if line and not line.endswith(":")}
        self.assertIn("cloister_rseq_offset", defined, "else this looked at nothing")
        self.assertLessEqual(undefined - defined, ALLOWED)

    def test_a_program_of_it_alone_runs(self):
        headers = run("readelf", "-lW", PROGRAM)
        self.assertNotRegex(headers, r"INTERP|DYNAMIC")
        self.assertEqual(subprocess.run([PROGRAM], check=False).returncode, 0)

    def test_its_headers_take_in_nothing_of_the_hosted_library(self):
        """Only headers that a freestanding implementation has (C++20, [compliance])."""
        folder = os.environ["HEADERS"]
        for name in sorted(os.listdir(folder)):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                for header in re.findall(r"^#include <(.*)>", file.read(), re.M):
                    self.assertIn(header, ("cstddef", "cstdint"), name)


if __name__ == "__main__":
    unittest.main()
