"""The one writer: a name holds the old artefact or the new one, whoever fails, dies or comes in between."""

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from foundation import exchange as renames
from foundation.artefacts import write_json
from foundation.errors import UserError
from foundation.locks import LockedError, lock_file, owned
from foundation.writing import SPARE_BYTES, UnwrittenError, atomic_folder, check_space, replace_files, write_file
from tests.small_disk import full, mounted

KILLS, MOST_KILLS = 10, 60
"""How many operations a write has at least and at most, at each of which it is killed."""


def make(out: Path, text: str, overwrite: bool = False, meanwhile: Callable[[], object] | None = None) -> None:
    with atomic_folder(out, overwrite, "circuit") as folder:
        write_json(folder / "circuit.json", {})
        (folder / "text").write_text(text)
        if meanwhile is not None:
            meanwhile()


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture(params=["exchange in one step", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to rename, so that the one this system does not take is tested too."""
    if request.param == "two renames":
        monkeypatch.setattr(renames, "_renameat2", lambda *_: False)
    return str(request.param)


def test_a_folder_appears_whole_and_leaves_nothing_beside_it(way: str, tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "deep" / "out") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "deep" / "out").exists()
    assert names(tmp_path) == ["deep", "deep/out", "deep/out/a"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failure_leaves_what_was_there(overwrite: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if overwrite:
        make(out, "old")
    with pytest.raises(FileNotFoundError), atomic_folder(out, overwrite) as folder:
        (folder / "half").write_text(Path("missing").read_text())
    assert names(tmp_path) == (["out", "out/circuit.json", "out/text"] if overwrite else [])


def test_an_artefact_is_replaced_only_when_asked(way: str, tmp_path: Path) -> None:
    make(tmp_path / "out", "old")
    with pytest.raises(UserError, match="already exists"):
        make(tmp_path / "out", "new")
    make(tmp_path / "out", "new", overwrite=True)
    assert (tmp_path / "out" / "text").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), atomic_folder(tmp_path / "file" / "out"):
        pass


def test_a_name_that_is_taken_during_the_work_is_left_alone_and_the_work_stands_beside_it(
    way: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"made by something else meanwhile .* stands in .*out-2"):
        make(out, "mine", meanwhile=out.mkdir)
    assert names(tmp_path) == ["out", "out-2", "out-2/circuit.json", "out-2/text"]


def test_an_artefact_that_was_exchanged_during_the_work_is_left_alone(way: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(out, "old")

    def exchanged() -> None:
        out.rename(tmp_path / "kept")
        make(out, "theirs")

    with pytest.raises(UserError, match="meanwhile"):
        make(out, "mine", overwrite=True, meanwhile=exchanged)
    assert (out / "text").read_text() == "theirs"
    assert (tmp_path / "out-2" / "text").read_text() == "mine"


def test_what_a_dead_writer_left_is_removed_and_that_of_other_names_is_not(tmp_path: Path) -> None:
    for name in (".out.0badc0de.partial", ".out.0badc0de.old", ".out.b.0badc0de.partial", ".out.mine.partial"):
        (tmp_path / name).mkdir()
    (tmp_path / "out").mkdir()
    make(tmp_path / "out", "new", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.b.0badc0de.partial", ".out.mine.partial", "out"]


def test_the_old_artefact_comes_back_after_a_kill_between_two_renames(tmp_path: Path) -> None:
    make(tmp_path / "out", "old")
    (tmp_path / "out").rename(tmp_path / ".out.0badc0de.old")
    with pytest.raises(UserError, match="already exists"):
        make(tmp_path / "out", "new")
    assert (tmp_path / "out" / "text").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("raised", ["by the system", "by a library in Rust"])
def test_a_full_disk_is_one_line_and_changes_nothing(code: int, raised: str, tmp_path: Path) -> None:
    make(tmp_path / "out", "old")
    error = OSError(code, "full") if raised == "by the system" else RuntimeError(f"I/O error (os error {code})")

    def fail(error: Exception) -> None:
        raise error

    with pytest.raises(UnwrittenError, match=r"could not be written \(.*\); free some space"):
        make(tmp_path / "out", "new", overwrite=True, meanwhile=lambda: fail(error))
    assert names(tmp_path) == ["out", "out/circuit.json", "out/text"]
    with pytest.raises(RuntimeError, match="os error 2"):
        make(tmp_path / "other", "new", meanwhile=lambda: fail(RuntimeError("no such file (os error 2)")))


def test_space_is_looked_for_before_the_work(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(UnwrittenError, match="MB free, about"), atomic_folder(tmp_path / "out", needs=2 * free):
        raise AssertionError("begun all the same")
    assert not names(tmp_path)
    check_space(tmp_path, free - 4 * SPARE_BYTES if free > 8 * SPARE_BYTES else 0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB, where the test may mount one."""
    with mounted(tmp_path / "small", "1m") as place:
        yield place


def test_a_disk_that_fills_up_while_writing_keeps_the_old_artefact(small_disk: Path) -> None:
    make(small_disk / "out", "old")
    with pytest.raises(UnwrittenError, match="No space left"):
        make(small_disk / "out", "new" * (1 << 20), overwrite=True)
    assert (small_disk / "out" / "text").read_text() == "old"
    assert [path.name for path in small_disk.iterdir()] == ["out"]
    write_file(small_disk / "page.svg", "<svg>old", kind="picture")
    with pytest.raises(UnwrittenError, match="No space left"):
        write_file(small_disk / "page.svg", "<svg>" + "new" * (1 << 20), overwrite=True, kind="picture")
    assert (small_disk / "page.svg").read_text() == "<svg>old"
    with pytest.raises(OSError, match="No space left"):
        write_json(small_disk / "state.json", {"a": "b" * (1 << 20)})
    assert sorted(path.name for path in small_disk.iterdir()) == ["out", "page.svg"]


def test_a_disk_without_room_for_a_lock_keeps_none_and_the_name_is_free_again(small_disk: Path) -> None:
    with full(small_disk), pytest.raises(UnwrittenError, match="No space left"):
        make(small_disk / "out", "new")
    assert not list(small_disk.iterdir())
    make(small_disk / "out", "new")  # in the same process, which could hold the lock it did not get


def test_files_that_belong_together_are_all_replaced_or_none(small_disk: Path) -> None:
    small, large = small_disk / "a.json", small_disk / "b.png"
    replace_files({small: b"old a", large: b"old b"})
    with pytest.raises(OSError, match="No space left"):
        replace_files({small: b"new a", large: bytes(2 << 20)})
    assert (small.read_bytes(), large.read_bytes()) == (b"old a", b"old b")
    replace_files({small: b"new a", large: b"new b"})
    assert (small.read_bytes(), large.read_bytes()) == (b"new a", b"new b")
    assert sorted(path.name for path in small_disk.iterdir()) == ["a.json", "b.png"]


# --- two processes ----------------------------------------------------------------------------------------------------

KILLED_AT = """
    import os, signal, sys
    from pathlib import Path
    from foundation import exchange
    from foundation.artefacts import write_json
    from foundation.writing import atomic_folder

    folder, one_step = Path(sys.argv[1]), sys.argv[2] == "exchange"
    steps = stop = 0

    def counted(function):
        def call(*arguments, **options):
            global steps
            if steps == stop:
                os.kill(os.getpid(), signal.SIGKILL)
            steps += 1
            found = function(*arguments, **options)
            return found
        return call

    for name in ("rename", "replace", "fsync", "rmdir", "unlink", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))
    if one_step:
        exchange._renameat2 = counted(exchange._renameat2)
    else:
        exchange._renameat2 = lambda *_: False
    survived = False
    while not survived:  # a process of its own for every place to die at, until one lives to the end
        if os.fork() == 0:
            with atomic_folder(folder / str(stop) / "out", overwrite=True, kind="circuit") as new:
                write_json(new / "circuit.json", {})
                (new / "text").write_text("new")
            os._exit(0)
        _, status = os.wait()
        survived = status == 0
        if not survived and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            sys.exit(f"killed at operation {stop}, it ended with status {status}")
        stop += 1
    print(stop - 1)
"""


@pytest.mark.parametrize("way", ["exchange", "renames"])
def test_a_kill_at_any_file_operation_leaves_the_old_or_the_new_artefact(way: str, tmp_path: Path) -> None:
    for stop in range(MOST_KILLS):
        make(tmp_path / str(stop) / "out", "old")
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED_AT), str(tmp_path), way],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    kills, seen = int(ran.stdout), set()
    for stop in range(kills):
        out = tmp_path / str(stop) / "out"
        if way == "exchange":  # at every moment; with two renames only after the next start
            assert (out / "circuit.json").is_file()
        with pytest.raises(UserError, match="already exists"):
            make(out, "later")
        seen.add((out / "text").read_text())
        assert names(out) == ["circuit.json", "text"]
        assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert seen == {"old", "new"}
    assert KILLS <= kills < MOST_KILLS
    assert (tmp_path / str(kills) / "out" / "text").read_text() == "new"  # of the one that lived


HOLDER = """
    import sys
    from pathlib import Path
    from foundation.locks import owned

    with owned(Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the lock of `out`."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_gets_one_line_that_names_the_first(holder: "subprocess.Popen[str]", tmp_path: Path) -> None:
    with pytest.raises(LockedError, match=rf"out: is being written by another process \(process {holder.pid} on "):
        make(tmp_path / "out", "mine")
    assert holder.stdin is not None
    holder.communicate("\n")
    make(tmp_path / "out", "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_lock_of_a_dead_process_is_taken_over(holder: "subprocess.Popen[str]", tmp_path: Path) -> None:
    holder.kill()
    holder.wait()
    assert lock_file(tmp_path / "out").is_file()
    make(tmp_path / "out", "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_lock_of_another_host_is_respected_and_rubbish_in_one_is_not(tmp_path: Path) -> None:
    lock = lock_file(tmp_path / "out")
    lock.write_text('{"pid": 1, "host": "elsewhere", "since": "noon"}')
    with pytest.raises(LockedError, match=r"process 1 on elsewhere, since noon.*or remove .*\.out\.lock"):
        make(tmp_path / "out", "mine")
    for rubbish in ("", "[" * 100_000, '{"pid": 1e999}', "\0"):
        lock.write_text(rubbish)
        with owned(tmp_path / "out"):
            assert str(os.getpid()) in lock.read_text()
        assert not lock.exists()


def test_a_process_may_enter_its_own_lock_again(tmp_path: Path) -> None:
    with owned(tmp_path / "out"):
        with owned(tmp_path / "out"):
            pass
        assert lock_file(tmp_path / "out").is_file()
