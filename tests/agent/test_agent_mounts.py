"""What keeps the state of a device across a reboot, by what the kernel says is mounted."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.agent.made_up import Machine
from tests.nix.probes import need_namespaces

from nixfleet.agent.mounts import filesystem_of

DISK = "1 0 8:1 / / rw - ext4 /dev/sda1 rw"
TMPFS = "2 1 0:2 / /nix/.rw-store rw - tmpfs tmpfs rw,mode=755"
STORE = "3 1 0:3 / /nix/store rw - overlay overlay rw,lowerdir=/nix/.ro-store,upperdir={upper},workdir=/w"


@pytest.mark.parametrize(
    ("mounts", "path", "kind"),
    [
        ([DISK], "/var/lib/nixfleet", "ext4"),
        ([DISK, "2 1 0:2 / /var rw - tmpfs tmpfs rw"], "/var/lib/nixfleet", "tmpfs"),
        ([DISK, "2 1 0:2 / /var rw - tmpfs tmpfs rw"], "/variable", "ext4"),
        ([DISK, "2 1 0:2 / /a\\040b rw - tmpfs tmpfs rw"], "/a b/c", "tmpfs"),
        ([DISK, TMPFS, STORE.format(upper="/nix/.rw-store/store")], "/nix/store/x", "tmpfs"),
        ([DISK, TMPFS, STORE.format(upper="/mnt-root/nix/.rw-store/store")], "/nix/store/x", "tmpfs"),
        ([DISK, TMPFS, STORE.format(upper="/sysroot/nix/.rw-store/store")], "/nix/store/x", "tmpfs"),
        ([DISK, STORE.format(upper="/persist/store")], "/nix/store/x", "ext4"),
        ([DISK, "3 1 0:3 / /nix/store ro - overlay overlay ro,lowerdir=/a:/b"], "/nix/store/x", "overlay"),
        (["1 0 0:1 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w"], "/var", "overlay"),
        (["no mount at all", DISK, "5 1 0:5 / /x rw -  "], "/x/y", "ext4"),
        ([], "/var", ""),
    ],
)
def test_what_is_written_lies_where_the_kernel_keeps_it(
    tmp_path: Path, mounts: list[str], path: str, kind: str
) -> None:
    """The deepest mount counts, and of an overlay what its upper folder is on; what cannot be known is not made up."""
    machine = Machine(tmp_path)
    machine.write("/proc/self/mountinfo", "".join(f"{line}\n" for line in mounts))
    assert kind == filesystem_of(machine.host, path)


OVERLAY = """
set -e
mkdir -p {0}/memory {0}/disk {0}/merged
mount -t tmpfs tmpfs {0}/memory
mkdir {0}/memory/upper {0}/memory/work
mount -t overlay overlay -o lowerdir={0}/disk,upperdir={0}/memory/upper,workdir={0}/memory/work {0}/merged || exit 77
exec {1} -c 'from nixfleet.agent import host, mounts; print(mounts.filesystem_of(host.Host(), "{0}/merged"))'
"""


def test_a_real_overlay_in_memory_is_memory(tmp_path: Path) -> None:
    """A live system writes its state into an overlay whose upper folder a reboot empties."""
    need_namespaces()
    script = OVERLAY.format(tmp_path, sys.executable)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False, timeout=30
    )
    if done.returncode == 77:
        pytest.skip(f"no overlay can be mounted: {done.stderr.strip()}")
    assert "tmpfs\n" == done.stdout, done.stderr
