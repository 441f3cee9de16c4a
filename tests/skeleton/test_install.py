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

RECORDED_C = """
#include <cloister/record.h>
#include <cloister/trace.h>
#include <stdio.h>
CLOISTER_EVENT(demo, recorded, (int, number));
int main(int argc, char** argv) {
    char error[1024];
    struct cloister_record_options options = {.size = sizeof options};
    if (argc < 2 || cloister_record_start(&options, error, sizeof error) < 0) return puts(error), 1;
    cloister_trace_enable("demo:*", CLOISTER_DEBUG, NULL, NULL, 0);
    for (int number = 0; number < 3; ++number) CLOISTER_TRACE(demo, recorded, number);
    if (cloister_record_snapshot(argv[1], NULL, 0, error, sizeof error) < 0) return puts(error), 2;
    cloister_record_stop();
    return 0;
}
"""
TRACED = {
    "CMakeLists.txt": """
cmake_minimum_required(VERSION 3.25)
project(traced LANGUAGES C CXX)
set(CMAKE_CXX_STANDARD 20)
find_package(cloister REQUIRED)
add_executable(traced traced.cpp)
target_link_libraries(traced PRIVATE cloister::trace)
add_library(plugin MODULE plugin.c)
target_link_libraries(plugin PRIVATE cloister::trace_library)
set_target_properties(plugin PROPERTIES PREFIX "")
foreach(program recorded.cpp recorded_c.c analyser.cpp)
  cmake_path(GET program STEM name)
  add_executable(${name} ${program})
  target_link_libraries(${name} PRIVATE cloister::record)
endforeach()
""",
    "traced.cpp": """
#include <cloister/trace.hpp>
#include <cstdio>
#include <dlfcn.h>
CLOISTER_EVENT(demo, program, (int, number));
int main(int, char** argv) {
    const auto print = [](void*, const cloister_event* event) { std::puts(event->event_class->name); };
    (void)cloister::trace::add_probe("demo:*", print, nullptr);
    CLOISTER_TRACE(demo, program, 1);
    void* plugin = dlopen(argv[1], RTLD_NOW);
    if (!plugin) return std::puts(dlerror()), 1;
    reinterpret_cast<void (*)()>(dlsym(plugin, "plugin"))();
}
""",
    "recorded.cpp": """
#include <cloister/record.hpp>
#include <cloister/trace.hpp>
#include <cstdio>
CLOISTER_EVENT(demo, recorded, (int, number));
int main(int, char** argv) {
    const auto started = cloister::record::start();
    if (!started) return std::puts(started.error.c_str()), 1;
    (void)cloister::trace::enable("demo:*");
    for (int number = 0; number < 3; ++number) CLOISTER_TRACE(demo, recorded, number);
    const auto taken = cloister::record::snapshot(argv[1]);
    if (!taken) return std::puts(taken.error.c_str()), 2;
}
""",
    "recorded_c.c": RECORDED_C,
    "plugin.c": """
#include <cloister/trace.h>
CLOISTER_EVENT(demo, plugin, (int, number));
void plugin(void) { CLOISTER_TRACE(demo, plugin, 2); }
""",
}
PKG_CONFIG_PROGRAM = """
#include <cloister/trace.h>
CLOISTER_EVENT(demo, c, (int, number));
int main(void) { CLOISTER_TRACE(demo, c, 1); return cloister_trace_enable("demo:*", 7, 0, 0, 0) == 1 ? 0 : 1; }
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

    def test_tracepoints_of_a_program_and_its_plugin(self):
        source, build = self.work / "source-traced", self.work / "build-traced"
        source.mkdir()
        for name, text in TRACED.items():
            (source / name).write_text(text)
        example = pathlib.Path(__file__).resolve().parents[2] / "examples/recorder/analyser.cpp"
        (source / "analyser.cpp").write_text(example.read_text())
        run(CMAKE, "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={self.prefix}")
        run(CMAKE, "--build", build)
        for glob, shown in (("demo:*", ["program", "plugin"]), ("demo:pl*", ["plugin"]), ("", [])):
            out = run(build / "traced", build / "plugin.so", env={**os.environ, "CLOISTER_TRACE": glob})
            self.assertEqual(out.split(), shown)

        for name in ("recorded", "recorded_c"):
            self.assert_recorded(build / name)
        refused = subprocess.run([build / "analyser", "/etc/passwd"], capture_output=True, text=True)
        self.assertIn("is not a segment", refused.stderr)

        # The command finds the library that brings the recorder to a program that has none.
        run(self.program, "record", "-o", self.work / "command", "--", build / "traced", build / "plugin.so")
        shown = run(self.program, "view", self.work / "command")
        self.assertEqual((shown.count("demo:program"), shown.count("demo:plugin")), (1, 1), shown)

    def assert_recorded(self, program):
        trace = self.work / f"trace of {program.name}"
        run(program, trace)
        shown = run(self.program, "view", trace)
        self.assertEqual(shown.count("demo:recorded"), 3, shown)

    def build_with_pkg_config(self, package, text):
        environment = {**os.environ, "PKG_CONFIG_PATH": str(next(self.prefix.rglob("cloister.pc")).parent)}
        flags = run("pkg-config", "--cflags", "--libs", package, env=environment).split()
        source, program = self.work / f"{package}.c", self.work / package
        source.write_text(text)
        run("cc", "-O2", "-o", program, source, *flags)
        return program

    def test_tracepoints_with_pkg_config(self):
        run(self.build_with_pkg_config("cloister", PKG_CONFIG_PROGRAM))

    def test_recording_with_pkg_config(self):
        self.assert_recorded(self.build_with_pkg_config("cloister-record", RECORDED_C))

    def test_the_licence_comes_with_it(self):
        self.assertEqual(len(list(self.prefix.rglob("LICENSE"))), 1)


if __name__ == "__main__":
    unittest.main()
