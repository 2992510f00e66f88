"""Files with keys and secrets, as platforms mount them: who else may write or read one, and how it is written."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from reset_flow import ConfigurationError, Keyring, KeyringError
from reset_flow.config import setting
from reset_flow.persistence import key_file, key_rotation, keyring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOW = timedelta(0)
ME, MINE, THEIRS = 4711, 4712, 4713
"""A user, and a group of it; and a user and group that is somebody else. The system knows none of them."""

MOUNT, UMOUNT = shutil.which("mount") or "mount", shutil.which("umount") or "umount"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount, and give files away")


class Mounts(Protocol):
    """Mount something over a file or folder until the test is over."""

    def __call__(self, place: Path, *options: str | Path) -> Path: ...


def run(tool: str, *arguments: str | Path) -> int:
    """Run a tool of the system. Return its status."""
    return subprocess.run([tool, *map(str, arguments)], capture_output=True, check=False).returncode


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user of the machine can enter."""
    folder = Path(tempfile.mkdtemp(prefix="reset-flow-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def path(folder: Path) -> Path:
    Keyring.generate().to_file(folder / "keys")
    return folder / "keys"


@pytest.fixture
def mounted() -> Iterator[Mounts]:
    places: list[Path] = []

    def mount(place: Path, *options: str | Path) -> Path:
        if run(MOUNT, *options, place):
            pytest.skip("this machine lets nobody mount")
        places.append(place)
        return place

    yield mount
    for place in reversed(places):
        assert run(UMOUNT, place) == 0


def read_only(mounted: Mounts, place: Path) -> Path:
    mounted(place, "--bind", place)
    assert run(MOUNT, "-o", "remount,bind,ro", place) == 0
    return place


def ids(path: Path) -> list[str]:
    return [key.id for key in Keyring.from_file(path).keys]


@contextmanager
def read_meanwhile(path: Path) -> Iterator[set[str]]:
    """Read the keys in three threads all the while. Gives the ids that they saw, and what they were told otherwise."""
    seen, done = set[str](), threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                seen.update(ids(path))
            except Exception as error:  # noqa: BLE001 - the test looks at it
                seen.add(str(error))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        yield seen
    finally:
        done.set()
        for reader in readers:
            reader.join()


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def as_user(work: Callable[[Path], object], path: Path, *, groups: tuple[int, ...] = ()) -> str:
    """Do this in a process of the user `ME` with the group `MINE`. Return the result as text, or the error."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgroups(groups)
            os.setgid(MINE)
            os.setuid(ME)
            os.write(writer, str(work(path)).encode())
        except BaseException as error:  # noqa: BLE001 - what it is, the test says
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader, "rb") as result:  # noqa: PTH123 - a file descriptor
        return result.read().decode()


# --- who can write it


@pytest.mark.parametrize("mode", [0o602, 0o606, 0o666, 0o622, 0o646])
@pytest.mark.parametrize("shared", [False, True])
def test_a_file_that_others_can_write_is_refused_by_every_setting(path: Path, mode: int, shared: bool) -> None:  # noqa: FBT001
    path.chmod(mode)
    with pytest.raises(KeyringError, match=r"open to others, who can write it: `chmod 600`"):
        Keyring.from_file(path, shared=shared)
    with pytest.raises(KeyringError, match="open to others"):
        key_rotation.rotate(path, shared=shared)
    path.chmod(0o600)
    assert len(ids(path)) == 1


@as_root
def test_a_file_that_others_can_write_is_refused_on_a_read_only_mount_too(path: Path, mounted: Mounts) -> None:
    path.chmod(0o666)
    read_only(mounted, path.parent)
    with pytest.raises(KeyringError, match="who can write it"):
        Keyring.from_file(path)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_file_in_a_folder_that_others_can_write_is_refused(folder: Path, depth: int) -> None:
    parts = [folder / "a", folder / "a" / "b", folder / "a" / "b" / "c"]
    parts[-1].mkdir(parents=True)
    ring = Keyring.generate()
    ring.to_file(parts[-1] / "keys")
    parts[depth].chmod(0o777)
    with pytest.raises(KeyringError, match=rf"who can write {parts[depth]} and so .*`chmod go-w {parts[depth]}`"):
        Keyring.from_file(parts[-1] / "keys", shared=True)
    with pytest.raises(KeyringError, match="open to others"):
        Keyring.generate().to_file(parts[-1] / "other")
    assert names(parts[-1]) == ["keys"]
    parts[depth].chmod(0o1777)  # as /tmp: others can't take away what is not theirs
    assert Keyring.from_file(parts[-1] / "keys").keys == ring.keys


@as_root
def test_what_another_user_has_put_into_a_folder_for_all_is_refused(path: Path) -> None:
    path.parent.chmod(0o1777)
    os.chown(path, THEIRS, THEIRS)
    with pytest.raises(KeyringError, match=f"who can write {path.parent}"):
        Keyring.from_file(path)


@pytest.mark.parametrize("loose", ["link", "target"])
def test_a_link_is_as_safe_as_each_folder_on_its_way(path: Path, loose: str) -> None:
    folders = {name: path.parent / name for name in ("link", "target")}
    for each in folders.values():
        each.mkdir()
    path.rename(folders["target"] / "keys")
    link = folders["link"] / "keys"
    link.symlink_to("../target/keys")
    assert len(ids(link)) == 1
    folders[loose].chmod(0o777)
    with pytest.raises(KeyringError, match=f"who can write {folders[loose]}"):
        Keyring.from_file(link)


def test_links_in_a_circle_are_a_clear_error(folder: Path) -> None:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    with pytest.raises(KeyringError, match="symbolic links"):
        Keyring.from_file(folder / "a")
    with pytest.raises(KeyringError, match="is a link to a file that does not exist"):
        Keyring.load_or_create(folder / "a")


@as_root
def test_a_file_of_another_user_is_refused_but_for_one_on_a_read_only_mount(path: Path, mounted: Mounts) -> None:
    (key_id,) = ids(path)
    os.chown(path, THEIRS, MINE)
    path.chmod(0o440)
    said = as_user(ids, path)
    assert f"belongs to user {THEIRS}" in said
    assert "mount it read-only" in said
    os.chown(path, 0, MINE)
    assert key_id in as_user(ids, path)
    os.chown(path, THEIRS, MINE)
    read_only(mounted, path.parent)
    assert key_id in as_user(ids, path)


@as_root
def test_a_folder_of_a_group_that_only_the_platform_knows_is_accepted(path: Path) -> None:
    (key_id,) = ids(path)
    os.chown(path, ME, MINE)
    os.chown(path.parent, 0, THEIRS)
    path.parent.chmod(0o2775)  # as Kubernetes leaves a volume with `fsGroup`
    assert "open to others" in as_user(ids, path)
    assert as_user(ids, path, groups=(THEIRS,)) == str([key_id])
    os.chown(path, ME, THEIRS)
    path.chmod(0o660)
    assert as_user(ids, path, groups=(THEIRS,)) == str([key_id])
    os.chown(path.parent, 0, 0)
    assert f"who can write {path.parent}" in as_user(ids, path, groups=(THEIRS, 0))


@as_root
def test_a_folder_of_a_users_own_group_is_accepted_and_that_of_a_shared_one_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chown(path, ME, MINE)
    os.chown(path.parent, ME, MINE)
    path.parent.chmod(0o775)  # by a umask of 002
    me = pwd.struct_passwd(("me", "x", ME, MINE, "", "/", ""))
    other = pwd.struct_passwd(("other", "x", THEIRS, THEIRS, "", "/", ""))
    flatmate = pwd.struct_passwd(("flatmate", "x", THEIRS, MINE, "", "/", ""))

    def seen(members: list[str], users: list[pwd.struct_passwd]) -> str:
        monkeypatch.setattr("grp.getgrgid", lambda gid: grp.struct_group(("me", "x", gid, members)))
        monkeypatch.setattr("pwd.getpwall", lambda: users)
        monkeypatch.setattr("pwd.getpwuid", lambda _: me)
        return as_user(ids, path)

    assert "KeyringError" not in seen([], [me, other])
    assert "KeyringError" not in seen(["me"], [me, other])
    assert "open to others" in seen(["other"], [me, other])
    assert "open to others" in seen([], [me, flatmate])


ACCESS_LIST = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, rights, who)
    for tag, rights, who in [
        (0x01, 6, 2**32 - 1), (0x02, 6, THEIRS), (0x04, 0, 2**32 - 1), (0x10, 6, 2**32 - 1), (0x20, 0, 2**32 - 1),
    ]
)  # fmt: skip
"""That another user may read and write, as Linux keeps it (linux/posix_acl_xattr.h)."""


@as_root
def test_an_access_list_is_no_way_past_the_rules(path: Path) -> None:
    os.chown(path, ME, MINE)
    try:
        os.setxattr(path, "system.posix_acl_access", ACCESS_LIST)
    except OSError:
        pytest.skip("this file system has no access lists")
    assert path.stat().st_mode & 0o777 == 0o660
    assert "who can write it" in as_user(ids, path)
    path.chmod(0o640)
    assert "who can read it" in as_user(ids, path)
    path.chmod(0o600)
    assert "KeyringError" not in as_user(ids, path)


# --- who can read it


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o444, 0o404])
def test_a_file_that_all_can_read_is_refused_unless_a_setting_accepts_it(
    path: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    path.chmod(mode)
    with pytest.raises(KeyringError, match="open to others, who can read it") as caught:
        Keyring.from_file(path)
    for way_out in ("`chmod 600`", "640 with a group", "read-only", "RESET_FLOW_SHARED_FILES=accept", "shared=True"):
        assert way_out in str(caught.value)
    assert caplog.records == []
    for _ in range(3):
        Keyring.from_file(path, shared=True)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(path) in caplog.text


@as_root
@pytest.mark.parametrize("owner", [0, THEIRS])
def test_a_file_that_all_can_read_is_refused_whoever_owns_it(path: Path, owner: int) -> None:
    os.chown(path, owner, owner)
    path.chmod(0o444)
    with pytest.raises(KeyringError, match="open to others"):
        Keyring.from_file(path)
    assert "open to others" in as_user(ids, path)


@pytest.mark.parametrize("mode", [0o640, 0o440])
def test_a_file_that_a_group_of_this_process_can_read_is_accepted_with_one_warning(
    path: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    path.chmod(mode)
    for _ in range(3):
        assert len(ids(path)) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "in a group of this process" in caplog.text


@as_root
def test_a_file_that_a_strange_group_can_read_is_refused(path: Path) -> None:
    (key_id,) = ids(path)
    os.chown(path, 0, THEIRS)
    path.chmod(0o440)
    with pytest.raises(KeyringError, match="who can read it"):
        Keyring.from_file(path)
    assert as_user(ids, path, groups=(THEIRS,)) == str([key_id])


@as_root
@pytest.mark.parametrize("mode", [0o444, 0o440, 0o644, 0o604])
def test_what_others_can_read_on_a_read_only_mount_is_accepted_with_one_warning(
    path: Path, mode: int, mounted: Mounts, caplog: pytest.LogCaptureFixture
) -> None:
    (key_id,) = ids(path)
    os.chown(path, 0, THEIRS)
    path.chmod(mode)
    read_only(mounted, path.parent)
    for _ in range(3):
        assert ids(path) == [key_id]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "read-only mount" in caplog.text
    if mode & 0o004:
        assert key_id in as_user(ids, path)
    with pytest.raises(KeyringError, match="Read-only file system: change the keys where the mount comes from"):
        key_rotation.rotate(path)


@as_root
def test_a_single_file_may_be_mounted_read_only(path: Path, folder: Path, mounted: Mounts) -> None:
    path.chmod(0o444)
    place = folder / "secret"
    place.touch()
    mounted(place, "--bind", path)
    with pytest.raises(KeyringError, match="open to others"):
        Keyring.from_file(place)
    assert run(MOUNT, "-o", "remount,bind,ro", place) == 0
    assert len(ids(place)) == 1


def test_other_secrets_in_files_are_held_to_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = folder / "value"
    file.write_text(" the app key\n")
    monkeypatch.delenv("RESET_FLOW_APP_KEY", raising=False)
    monkeypatch.setenv("RESET_FLOW_APP_KEY_FILE", str(file))

    def refused(words: str) -> None:
        with pytest.raises(ConfigurationError, match=rf"RESET_FLOW_APP_KEY_FILE: {file} .*{words}"):
            setting("APP_KEY")

    file.chmod(0o622)
    refused("who can write it")
    file.chmod(0o444)
    refused("who can read it.*RESET_FLOW_SHARED_FILES=accept")
    monkeypatch.setenv("RESET_FLOW_SHARED_FILES", "accept")
    assert setting("APP_KEY") == setting("APP_KEY") == "the app key"
    assert len(caplog.records) == 1
    folder.chmod(0o777)
    refused(f"who can write {folder}")
    folder.chmod(0o755)
    monkeypatch.setenv("RESET_FLOW_SHARED_FILES", "yes")
    with pytest.raises(ConfigurationError, match="SHARED_FILES is 'yes': it must be refuse or accept"):
        setting("APP_KEY")
    monkeypatch.setenv("RESET_FLOW_SHARED_FILES", "refuse")
    file.chmod(0o640)
    assert setting("APP_KEY") == "the app key"


@pytest.mark.parametrize("place", ["folder", "/dev/null"])
@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_a_folder_where_a_file_was_to_be_mounted_is_told_as_such(
    folder: Path, monkeypatch: pytest.MonkeyPatch, place: str, mode: int
) -> None:
    (folder / "folder").mkdir()
    (folder / "folder").chmod(mode)
    for read in (Keyring.from_file, Keyring.load_or_create):
        with pytest.raises(KeyringError, match=r"no file.*put the file in its place") as caught:
            read(folder / place)
        assert "chmod" not in str(caught.value)
    monkeypatch.setenv("RESET_FLOW_APP_KEY_FILE", str(folder / place))
    with pytest.raises(ConfigurationError, match=r"RESET_FLOW_APP_KEY_FILE.*put the file in its place"):
        setting("APP_KEY")


def test_a_secret_may_come_through_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"the app key\n")
    os.close(writer)
    monkeypatch.delenv("RESET_FLOW_APP_KEY", raising=False)
    monkeypatch.setenv("RESET_FLOW_APP_KEY_FILE", f"/dev/fd/{reader}")
    assert setting("APP_KEY") == "the app key"
    os.close(reader)


# --- links that the platform swaps


class Volume:
    """A volume as Kubernetes keeps it: `keys` leads to `..data/keys`, and `..data` to a folder that is replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._number = 0
        (folder / "keys").symlink_to("..data/keys")

    def put(self, source: Path) -> None:
        """Replace the content as the kubelet does: a new folder, a link, a rename; the old folder goes."""
        self._number += 1
        data, old = self.folder / "..data", self.folder / f"..{self._number - 1}"
        new = self.folder / f"..{self._number}"
        new.mkdir()
        shutil.copyfile(source, new / "keys")
        (new / "keys").chmod(0o440)
        (self.folder / "..data_tmp").symlink_to(new.name)
        (self.folder / "..data_tmp").rename(data)
        shutil.rmtree(old, ignore_errors=True)


def test_a_ring_follows_links_that_are_swapped(path: Path, folder: Path) -> None:
    (folder / "volume").mkdir()
    (folder / "volume").chmod(0o1777)
    volume = Volume(folder / "volume")
    volume.put(path)
    ring = Keyring.from_file(volume.folder / "keys")
    new = key_rotation.rotate(path, delay=NOW).id
    assert not ring.refresh()
    volume.put(path)
    assert ring.refresh()
    assert ring.writes.id == new


def test_no_reader_stumbles_over_a_swap(path: Path, folder: Path) -> None:
    (folder / "volume").mkdir()
    volume = Volume(folder / "volume")
    volume.put(path)
    expected = ids(path)
    with read_meanwhile(volume.folder / "keys") as seen:
        for _ in range(300):
            volume.put(path)
    assert seen == set(expected)


def test_a_link_to_nothing_is_no_place_for_new_keys(folder: Path) -> None:
    (folder / "keys").symlink_to("..data/keys")
    with pytest.raises(KeyringError, match="is a link to a file that does not exist"):
        Keyring.load_or_create(folder / "keys")
    assert names(folder) == ["keys"]


# --- writing


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def test_keys_are_written_where_nothing_can_be_linked_renamed_locked_or_synced(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    for name in ("link", "symlink", "rename", "replace", "mkdir"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr("fcntl.flock", unsupported)
    monkeypatch.setattr("os.fsync", unsupported)
    ring = Keyring.load_or_create(folder / "keys")
    new = key_rotation.rotate(folder / "keys", delay=NOW)
    assert ring.refresh()
    assert ring.writes == new
    assert names(folder) == ["keys"]


@as_root
def test_keys_are_rotated_in_a_folder_where_nothing_can_be_made(path: Path) -> None:
    os.chown(path, ME, MINE)
    path.parent.chmod(0o555)
    assert "Key(" in as_user(key_rotation.rotate, path)
    os.chown(path, 0, 0)
    assert len(ids(path)) == 2
    assert names(path.parent) == ["keys"]


@as_root
def test_the_keys_of_a_single_mounted_file_are_rotated(path: Path, folder: Path, mounted: Mounts) -> None:
    (folder / "mounted").touch()
    mounted(folder / "mounted", "--bind", path)
    ring = Keyring.from_file(path)
    key_rotation.rotate(folder / "mounted")
    assert ring.refresh()
    assert len(ids(path)) == len(ids(folder / "mounted")) == 2


@as_root
def test_a_full_disk_leaves_the_keys_as_they_were_and_no_half_of_a_file(folder: Path, mounted: Mounts) -> None:
    mounted(folder, "-t", "tmpfs", "-o", "size=32k,mode=755", "tmpfs")
    ring = Keyring.generate()
    ring.to_file(folder / "keys")
    with suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    with pytest.raises(KeyringError, match="No space left"):
        Keyring.generate().to_file(folder / "other")
    for _ in range(20):  # as long as there is room on the last page
        try:
            key_rotation.rotate(folder / "keys")
        except KeyringError as error:
            assert "No space left" in str(error)  # noqa: PT017 - the point of it
            break
    else:
        pytest.fail("the disk was not full")
    assert ring.keys[0].id in ids(folder / "keys")
    assert names(folder) == ["filler", "keys"]
    (folder / "filler").unlink()
    key_rotation.rotate(folder / "keys")


class TornError(BaseException):
    """The process is gone, or the machine."""


@contextmanager
def torn(monkeypatch: pytest.MonkeyPatch, at: int) -> Iterator[Callable[[], int]]:
    """Tear the process away once so many bytes and cuts have reached the file. Gives how many have."""
    write, cut, done = os.pwrite, os.ftruncate, 0

    def pwrite(handle: int, content: bytes, offset: int) -> int:
        nonlocal done
        part = content[: at - done]
        done += len(part)
        written = write(handle, part, offset)
        if done >= at:
            raise TornError
        return written

    def ftruncate(handle: int, size: int) -> None:
        nonlocal done
        cut(handle, size)
        done += 1
        if done >= at:
            raise TornError

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        patch.setattr(os, "ftruncate", ftruncate)
        patch.setattr(os, "fsync", lambda _: None)
        yield lambda: done


@pytest.mark.parametrize("change", ["rotate", "remove"])
def test_a_change_that_is_torn_off_anywhere_leaves_the_old_keys_or_the_new(
    path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = key_rotation.rotate(path, delay=NOW).id if change == "remove" else ""
    key_rotation.rotate(path, delay=NOW)
    before, content = ids(path), path.read_bytes()

    def carry_out() -> None:
        if change == "rotate":
            key_rotation.rotate(path)
        else:
            key_file.change(path, lambda keys: keys.without(old))

    at, seen = 1, set[int]()
    while True:
        path.write_bytes(content)
        with torn(monkeypatch, at), suppress(TornError):
            carry_out()
            break
        seen.add(len(ids(path)))
        assert len(set(before) ^ set(ids(path))) <= 1
        key_rotation.rotate(path)  # the next change leaves nothing of a broken one
        document = path.read_bytes()
        assert b"\0" not in document
        assert old not in ids(path) or old.encode() in document
        assert [each.encode() in document for each in before] == [each in ids(path) for each in before]
        at += 7
    assert at > 500
    assert seen == {len(before), len(before) + (1 if change == "rotate" else -1)}


KILLED = """
import os, signal
from reset_flow import Keyring
from reset_flow.persistence import key_rotation
left = int(sys.argv[2])
def dying(call):
    def wrapper(*given, **named):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*given, **named)
    return wrapper
for name in ("open", "pwrite", "write", "fsync", "ftruncate", "close", "link", "rename", "replace", "unlink", "fstat"):
    setattr(os, name, dying(getattr(os, name)))
if sys.argv[3] == "rotate":
    key_rotation.rotate(Path(sys.argv[1]))
else:
    Keyring.load_or_create(sys.argv[1])
"""


@pytest.mark.parametrize("command", ["rotate", "create"])
def test_a_kill_leaves_no_stray_copy_of_a_key(folder: Path, command: str) -> None:
    path, killed = folder / "keys", 0
    for calls in range(1, 60):
        path.unlink(missing_ok=True)
        if command == "rotate":
            Keyring.generate().to_file(path)
        done = subprocess.run(
            [sys.executable, "-c", f"import sys\nfrom pathlib import Path\n{KILLED}", path, str(calls), command],
            check=False,
        )
        assert names(folder) in (["keys"], [])
        if command == "rotate":
            assert len(ids(path)) in (1, 2)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        killed += 1
    else:
        pytest.fail("it was killed each time")
    assert killed > 5
    assert len(ids(path)) == (2 if command == "rotate" else 1)


def test_readers_of_a_file_that_changes_all_the_time_see_whole_keys(path: Path) -> None:
    (first,) = ids(path)
    with read_meanwhile(path) as seen:
        for _ in range(60):
            key_rotation.rotate(path)
    assert first in seen
    assert seen <= set(ids(path))
    assert len(ids(path)) == 61


def test_an_empty_file_that_another_process_is_about_to_fill_is_waited_for(folder: Path) -> None:
    path, ring = folder / "keys", Keyring.generate()
    path.touch(mode=0o600)
    ring.to_file(folder / "other")
    threading.Timer(0.1, path.write_bytes, [(folder / "other").read_bytes()]).start()
    assert Keyring.load_or_create(path).keys == ring.keys


@pytest.mark.parametrize("name", ["n" * 300, "a\0b", "file/keys", "none/keys", ""])
def test_a_path_that_can_be_none_is_a_clear_error(folder: Path, name: str) -> None:
    (folder / "file").touch()
    for use in (Keyring.from_file, Keyring.load_or_create, Keyring.generate().to_file, key_rotation.rotate):
        with pytest.raises(KeyringError):
            use(folder / name)
    assert names(folder) == ["file"]


@as_root
def test_a_folder_that_cannot_be_entered_is_a_clear_error(path: Path) -> None:
    path.parent.chmod(0o700)
    for use in (Keyring.from_file, Keyring.load_or_create, Keyring.generate().to_file, key_rotation.rotate):
        assert "KeyringError" in (said := as_user(use, path))
        assert "Permission denied" in said


# --- a file of another ring


def test_a_ring_does_not_follow_a_file_that_shares_no_key_with_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keyring, "LOOK_INTERVAL", 0.0)
    ring, content = Keyring.from_file(path), path.read_bytes()
    keys = ring.keys
    path.unlink()
    foreign = Keyring.load_or_create(path)
    sealed = foreign.seal("r", "f", b"body", b"")
    for _ in range(3):
        assert not ring.refresh()
        assert ring.key_of(ring.seal("r", "f", b"body", b"")) == keys[0].id
        with pytest.raises(ValueError, match="is not in the ring"):
            ring.open("r", "f", sealed, b"")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the keys of another ring: put the right file back" in caplog.text
    path.write_bytes(content)
    key_rotation.rotate(path, delay=NOW)
    assert ring.refresh()
    assert len(ring.keys) == 2
