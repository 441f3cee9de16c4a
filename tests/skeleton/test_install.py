"""What `make install` leaves behind, seen by another project: find_package, pkg-config, and after the tree was moved."""
import os
import pathlib
import subprocess
import tempfile
import unittest

CMAKE = os.environ["CMAKE"]
VERSION = os.environ["VERSION"]

CONSUMER = """
cmake_minimum_required(VERSION 3.25)
project(consumer LANGUAGES NONE)
find_package(cloister {version} REQUIRED)
get_target_property(program cloister::cloister LOCATION)
file(WRITE ${{CMAKE_BINARY_DIR}}/program "${{program}}")
"""


def run(*command, **options):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True, **options).stdout


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.work = pathlib.Path(directory.name)
        run(CMAKE, "--install", os.environ["BUILD_DIR"], "--prefix", cls.work / "first")
        # Packagers stage in one place and unpack in another.
        cls.prefix = cls.work / "moved"
        (cls.work / "first").rename(cls.prefix)
        cls.program = cls.prefix / "bin" / "cloister"

    def find_package(self, version):
        source, build = self.work / f"source-{version}", self.work / f"build-{version}"
        source.mkdir()
        (source / "CMakeLists.txt").write_text(CONSUMER.format(version=version))
        run(CMAKE, "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={self.prefix}")
        return pathlib.Path((build / "program").read_text())

    def test_find_package(self):
        program = self.find_package(VERSION)
        self.assertTrue(program.samefile(self.program))
        self.assertIn(VERSION, run(program, "--version"))

    def test_find_package_refuses_another_version(self):
        with self.assertRaises(subprocess.CalledProcessError) as refused:
            self.find_package("99.0")
        self.assertIn("99.0", refused.exception.stderr)

    def test_pkg_config(self):
        files = list(self.prefix.rglob("cloister.pc"))
        self.assertEqual(len(files), 1)
        environment = {**os.environ, "PKG_CONFIG_PATH": str(files[0].parent)}
        self.assertEqual(run("pkg-config", "--modversion", "cloister", env=environment).strip(), VERSION)
        program = pathlib.Path(run("pkg-config", "--variable=cloister", "cloister", env=environment).strip())
        self.assertTrue(program.samefile(self.program))

    def test_the_licence_comes_with_it(self):
        self.assertEqual(len(list(self.prefix.rglob("LICENSE"))), 1)


if __name__ == "__main__":
    unittest.main()
