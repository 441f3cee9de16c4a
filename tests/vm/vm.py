"""Virtual machines: Debian's own kernels under qemu, with cloister and the actor inside and nothing else."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import time

HERE = pathlib.Path(__file__).parent
CACHE = pathlib.Path(os.environ["CACHE"])  # packages are downloaded once
TIMEOUT = 300  # seconds for one boot; only a guest that hangs takes so long

ISOLATED = "nohz_full=1 isolcpus=managed_irq,domain,1 rcu_nocbs=1 tsc=reliable"


def output(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def versions(text):
    """The order of versions: numbers by value."""
    return [int(number) for number in re.findall(r"\d+", text)]


def unpack(package, ready):
    """Puts the kernel out of a package to `ready`; what went wrong, if something did."""
    folder = CACHE / "unpack"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    done = subprocess.run(["apt-get", "download", package], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return done.stderr
    archive, = folder.glob("*.deb")
    output("sh", "-c", 'dpkg-deb --fsys-tarfile "$0" | tar -x --wildcards "./boot/vmlinuz-*"', str(archive), cwd=folder)
    image, = folder.glob("boot/vmlinuz-*")
    image.rename(ready)
    shutil.rmtree(folder)
    return ""


def offered(pattern):
    return [name for name in output("apt-cache", "pkgnames", "linux-image-").split() if re.fullmatch(pattern, name)]


def kernel(pattern):
    """The newest kernel of those that Debian offers here under such a name; unpacked, not installed."""
    cached = [path for path in CACHE.glob("*.vmlinuz") if re.fullmatch(pattern, path.stem)]
    if cached:
        return max(cached, key=lambda path: versions(path.stem))
    packages = offered(pattern)
    if not packages and os.geteuid() == 0:  # a fresh machine has no lists of packages
        output("apt-get", "update")
        packages = offered(pattern)
    assert packages, f"no package {pattern} is offered here: apt-get update?"
    why = ""
    for package in sorted(packages, key=versions, reverse=True):  # lists name packages that are gone, too
        ready = CACHE / f"{package}.vmlinuz"
        why += unpack(package, ready)
        if ready.exists():
            return ready
    raise AssertionError(f"none of {packages} could be downloaded\n{why}")


def libraries(program):
    """The shared libraries of a program, and its loader."""
    return re.findall(r"(/\S+) \(0x", output("ldd", program))


def initramfs(*programs):
    """A root of busybox, these programs and their libraries; guest.sh is its init."""
    root = CACHE / "root"
    shutil.rmtree(root, ignore_errors=True)
    for folder in ("bin", "dev", "proc", "sys", "tmp", "etc"):
        (root / folder).mkdir(parents=True)
    shutil.copy(shutil.which("busybox"), root / "bin/busybox")
    for applet in output("busybox", "--list").split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    for program in programs:
        inside = root / "bin" / pathlib.Path(program).name
        shutil.copy(program, inside)
        for library in libraries(program):
            place = root / library.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, place)
    # Debug information of cloister itself is most of its size, and nobody looks at it in there.
    output("strip", "--strip-debug", str(root / "bin/cloister"))
    shutil.copy(HERE / "guest.sh", root / "init")
    os.chmod(root / "init", 0o755)
    archive = CACHE / "initramfs.cpio"
    with open(archive, "wb") as file:
        names = subprocess.run(["find", "."], cwd=root, capture_output=True, check=True).stdout
        subprocess.run(["cpio", "--create", "--format=newc", "--quiet", "--owner=0:0"], cwd=root, input=names, stdout=file,
                       check=True)
    return archive


class Part:
    """What one command in the guest did."""

    def __init__(self, status, stdout, json_lines, stderr):
        self.status, self.stdout, self.stderr = status, stdout, stderr
        self.lines = [json.loads(line) for line in json_lines.splitlines() if line.startswith("{")]

    def __str__(self):
        rows = [f"{row['count']} {row['cause']} {row['detail']}, by {row['who']}, in '{row['inside']}'" +
                " away" * row["away"] for row in self.of("row")]
        rest = [str(line) for line in self.lines if line["type"] not in ("row", "thread")]
        return "\n".join([f"status {self.status}", self.stdout, "--- stderr", self.stderr, "--- rows", *rows, *rest])

    def of(self, kind):
        return [line for line in self.lines if line["type"] == kind]

    def one(self, kind):
        found = self.of(kind)
        assert len(found) == 1, f"{len(found)} lines of type {kind}\n{self}"
        return found[0]


def parts(text):
    found = {}
    for name, status, rest in re.findall(r"^@@ part (\w+) (\d+)\n(.*?)^@@ end\n", text, re.M | re.S):
        stdout, rest = rest.split("@@ json\n", 1)
        json_lines, stderr = rest.split("@@ stderr\n", 1)
        found[name] = Part(int(status), stdout, json_lines, stderr)
    return found


def boot(name, image, command_line, archive):
    """Runs the guest to its end: its parts by name. What it said stays in the cache under the machine's name."""
    console, results = CACHE / f"{name}.console", CACHE / f"{name}.results"
    results.write_text("")
    machine = subprocess.Popen(
        ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "1G", "-nodefaults", "-no-user-config",
         "-display", "none", "-no-reboot", "-kernel", str(image), "-initrd", str(archive), "-append",
         f"console=ttyS0 panic=-1 {command_line}", "-serial", f"file:{console}", "-serial", f"file:{results}"],
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + TIMEOUT
        while machine.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
    finally:
        machine.kill()
        complaint = machine.communicate()[1]
    found = parts(results.read_text(errors="replace"))
    assert "done" in found, (
        f"{name} ({image.stem} {command_line}): the guest did not come to its end (parts: {list(found)})\n{complaint}"
        f"--- its console\n{console.read_text(errors='replace')[-3000:]}")
    return found
