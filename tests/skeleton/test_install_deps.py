"""scripts/install-deps against a stand-in for Debian: a PATH that holds nothing but what each test puts there."""
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "install-deps"


class InstallDeps(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.bin = pathlib.Path(directory.name)
        self.calls = self.bin / "calls"
        self.installed = self.bin / "installed"
        self.installed.write_text("")
        for tool in ("bash", "awk", "env", "grep"):
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.put("id", "echo 0")
        # As dpkg-query: prints the state of a package it knows, fails for one it does not.
        self.put("dpkg-query", f'for last; do :; done; grep -qx "$last" {self.installed} && echo -n installed')
        self.put("apt-get", self.record("apt-get"))

    def put(self, name, script):
        path = self.bin / name
        path.write_text(f"#!{shutil.which('bash')}\n{script}\n")
        path.chmod(0o755)

    def record(self, name, status=0):
        return f'echo "{name} $*" >> {self.calls}; exit {status}'

    def run_script(self, *arguments):
        done = subprocess.run([shutil.which("bash"), str(SCRIPT), *arguments], env={"PATH": str(self.bin)},
                              capture_output=True, text=True, check=False)
        calls = self.calls.read_text().splitlines() if self.calls.exists() else []
        return done.returncode, done.stdout, done.stderr, calls

    def have(self, *packages):
        with self.installed.open("a") as file:
            file.writelines(package + "\n" for package in packages)

    def packages(self):
        """All that an empty machine would be given by default."""
        _, _, _, calls = self.run_script()
        self.calls.unlink()
        return self.install_of(calls[0])

    def install_of(self, call):
        words = call.split()
        self.assertEqual(words[0], "apt-get")
        return words[words.index("install") + 1:]

    def test_quiet_when_all_is_there(self):
        self.have(*self.packages())
        self.assertEqual(self.run_script(), (0, "", "", []))

    def test_all_there_needs_neither_apt_nor_root(self):
        self.have(*self.packages())
        (self.bin / "apt-get").unlink()
        self.put("id", "echo 1000")
        self.assertEqual(self.run_script(), (0, "", "", []))

    def test_installs_only_what_is_missing(self):
        packages = self.packages()
        self.assertIn("libbpf-dev", packages)
        self.assertIn("clang", packages)
        self.have(*(package for package in packages if package not in ("libbpf-dev", "clang")))
        status, out, _, calls = self.run_script()
        self.assertEqual((status, out), (0, ""))
        self.assertEqual([sorted(self.install_of(call)) for call in calls], [["clang", "libbpf-dev"]])

    def test_no_package_twice(self):
        packages = self.packages()
        self.assertEqual(sorted(packages), sorted(set(packages)))

    def test_groups(self):
        _, _, _, calls = self.run_script("bench")
        self.assertIn("trace-cmd", self.install_of(calls[0]))
        self.assertNotIn("libbpf-dev", self.install_of(calls[0]))
        status, _, error, _ = self.run_script("nonsense")
        self.assertEqual(status, 2)
        self.assertIn("nonsense", error)
        self.assertIn("build test bench develop", error)

    def test_sudo_for_an_ordinary_user(self):
        self.put("id", "echo 1000")
        self.put("sudo", self.record("sudo"))
        status, _, _, calls = self.run_script()
        self.assertEqual(status, 0)
        self.assertTrue(calls[0].startswith("sudo env DEBIAN_FRONTEND=noninteractive apt-get"), calls)

    def test_neither_root_nor_sudo(self):
        self.put("id", "echo 1000")
        status, _, error, calls = self.run_script()
        self.assertEqual((status, calls), (1, []))
        for word in ("neither root nor sudo", "libbpf-dev", "apt-get install"):
            self.assertIn(word, error)

    def test_no_apt(self):
        (self.bin / "apt-get").unlink()
        status, _, error, _ = self.run_script()
        self.assertEqual(status, 1)
        self.assertIn("no apt-get", error)

    def test_not_debian(self):
        (self.bin / "dpkg-query").unlink()
        status, _, error, calls = self.run_script()
        self.assertEqual((status, calls), (1, []))
        self.assertIn("not a Debian system", error)
        self.assertIn("libbpf-dev", error)

    def test_stale_lists_are_fetched_once(self):
        # The first install fails, as on a machine whose package lists are empty; after an update it works.
        marker = self.bin / "updated"
        self.put("apt-get", f'echo "apt-get $*" >> {self.calls}\n'
                            f'case "$*" in *update*) : > {marker};; *) [ -e {marker} ];; esac')
        status, _, _, calls = self.run_script()
        self.assertEqual(status, 0)
        self.assertEqual(["update" if "update" in call.split() else "install" for call in calls],
                         ["install", "update", "install"])

    def test_no_network(self):
        self.put("apt-get", self.record("apt-get", status=100))
        status, _, error, _ = self.run_script()
        self.assertEqual(status, 1)
        self.assertIn("no network?", error)


if __name__ == "__main__":
    unittest.main()
