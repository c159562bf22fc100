"""The run directory: what survives a kill, what is refused, what a person is told."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ExitCode, StoreError
from harness.records import Generation, Item, Scored, canonical_json, item_from_json, scored_from_json, to_json
from harness.store import rundir
from harness.store.files import Appender, atomic_write, read_lines
from harness.store.rundir import RunDir, Shard
from harness.store.units import plan_units

ITEM = Item(
    id="t/1",
    slice="s",
    task="t",
    kind="generate",
    prompt="Une été — 東京",
    levels={"hops": "3"},
    stratum="hops=3",
    cluster="c",
    max_tokens=4,
    stop=("\n",),
    doc={"question": "?", "nested": {"a": [1, 2]}},
)
UNITS = plan_units([ITEM], 1, 1)
DIGESTS = {"config_digest": "c", "items_digest": "i"}
PLAN = {"config": {"name": "trial", "seed": 1}, "slices": ["s"], "device": "cpu", **DIGESTS}


def scored(unit: int, item_id: str = "t/1") -> Scored:
    """An answer in a unit."""
    response = Generation(item_id, "42", (1, 2), "stop", 10)
    return Scored(item_id, ITEM.digest(), unit, 1.0, {"exact_match": 1.0}, response)


def begun(tmp_path: Path, shard: Shard | None = None) -> RunDir:
    """A run directory with one item."""
    directory = RunDir(tmp_path / "run")
    directory.begin(PLAN, [ITEM], shard or Shard(), UNITS)
    return directory


def test_items_and_answers_come_back_as_they_were(tmp_path: Path) -> None:
    """What is written equals what is read, down to the digest."""
    directory = begun(tmp_path)
    assert directory.items() == [ITEM]
    assert directory.items()[0].digest() == ITEM.digest()
    assert item_from_json(json.loads(canonical_json(to_json(ITEM)))) == ITEM
    assert scored_from_json(json.loads(canonical_json(to_json(scored(3))))) == scored(3)


def test_a_line_cut_short_is_left_out_and_taken_away(tmp_path: Path) -> None:
    """A kill in the middle of a write leaves a file that is read up to its last whole line, and cleaned."""
    directory = begun(tmp_path)
    path = directory.results_path("v", "s", Shard())
    appender = Appender(path, "v")
    appender.append(to_json(scored(0)))
    appender.append(to_json(scored(1, "t/2")))
    appender.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert directory.results("v", "s", Shard()) == [scored(0)]
    directory.keep("v", "s", Shard(), [scored(0)])
    assert path.read_bytes() == whole[: whole.index(b"\n") + 1]


def test_a_file_goes_on_after_a_line_cut_short(tmp_path: Path) -> None:
    """As by a power cut: two lines in one would be damage that no command mends."""
    path = tmp_path / "timings-1of1.jsonl"
    for text, kept in (('{"a":1}\n{"a', [{"a": 1}]), ('{"a', []), ('{"a":1}\n', [{"a": 1}])):
        path.write_text(text, encoding="utf-8")
        with contextlib.closing(Appender(path)) as appender:
            appender.append({"a": 2})
        assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == [*kept, {"a": 2}]


def test_a_damaged_line_inside_a_file_is_named(tmp_path: Path) -> None:
    """Damage that no kill explains is not passed over in silence."""
    path = tmp_path / "answers.jsonl"
    path.write_text('{"a":1}\n{"a":\n{"a":3}\n', encoding="utf-8")
    with pytest.raises(StoreError, match=r"answers\.jsonl: line 2 is damaged"):
        read_lines(path)


def test_another_config_is_refused_with_the_keys_that_changed(tmp_path: Path) -> None:
    """Results of one config never meet those of another."""
    directory = begun(tmp_path)
    changed = {**PLAN, "config": {"name": "trial", "seed": 2}}
    with pytest.raises(StoreError, match=r"results of another config \(seed changed\): give another --output"):
        directory.begin(changed, [ITEM], Shard(), UNITS)
    directory.begin(PLAN, [ITEM], Shard(), UNITS)


def test_another_number_of_shards_is_refused(tmp_path: Path) -> None:
    """Work that is split in two is not split in three."""
    directory = begun(tmp_path, Shard(1, 2))
    directory.begin(PLAN, [ITEM], Shard(2, 2), UNITS)
    with pytest.raises(StoreError, match=r"split into 2 shard\(s\), not 3: use --shard i/2"):
        directory.begin(PLAN, [ITEM], Shard(1, 3), UNITS)


def test_a_directory_that_is_no_run_is_not_written_into(tmp_path: Path) -> None:
    """Somebody's own files are safe."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("x", encoding="utf-8")
    with pytest.raises(StoreError, match=r"holds thesis\.tex but no run\.json"):
        begun(tmp_path)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_a_directory_that_is_not_there_is_said(tmp_path: Path) -> None:
    """`compare` on a typo names the remedy."""
    with pytest.raises(
        StoreError, match=r"there is no such directory: give the directory that `quantcliff run` printed"
    ):
        RunDir(tmp_path / "absent").plan()


def test_two_processes_on_one_shard_are_refused(tmp_path: Path) -> None:
    """The second process says so, and may go on when the first is done; another shard is free."""
    directory = begun(tmp_path, Shard(1, 2))
    code = (
        "import sys; from pathlib import Path; from harness.store.rundir import RunDir, Shard\n"
        "with RunDir(Path(sys.argv[1])).locked(Shard(int(sys.argv[2]), 2)): print('held')\n"
    )

    def other(index: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, str(directory.path), str(index)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    with directory.locked(Shard(1, 2)):
        refused = other(1)
        assert refused.returncode != 0
        assert "another process is working on shard 1of2" in refused.stderr
        assert other(2).stdout == "held\n"
    assert other(1).stdout == "held\n"


def test_a_full_disk_is_said_and_takes_no_part_of_a_line(tmp_path: Path) -> None:
    """ENOSPC from the kernel itself (/dev/full) ends in a sentence with a remedy."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    link = tmp_path / "answers.jsonl"
    link.symlink_to("/dev/full")
    appender = Appender(link)
    with pytest.raises(
        StoreError, match=r"the disk is full: free some space and give the same command again"
    ) as caught:
        appender.append({"a": 1})
    appender.close()
    assert caught.value.exit_code is ExitCode.NOT_COMPARABLE


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """A file where a directory belongs is named with a remedy."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StoreError, match=r"give another place with --output"):
        atomic_write(tmp_path / "file" / "run.json", "{}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_directory_is_said(tmp_path: Path) -> None:
    """Permission denied names the remedy."""
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match=r"permission denied: give a directory you may write"):
        atomic_write(tmp_path / "run.json", "{}")


def test_an_atomic_write_leaves_the_old_file_where_the_new_one_fails(tmp_path: Path) -> None:
    """A lone surrogate cannot be encoded: the old content stays, and no other file is left behind."""
    path = tmp_path / "run.json"
    atomic_write(path, "old")
    with pytest.raises(UnicodeEncodeError):
        atomic_write(path, "\ud800")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("index", "count"), [(5, 4), (0, 4), (1, 0), (-1, 2)])
def test_a_shard_that_does_not_exist_is_refused(index: int, count: int) -> None:
    """Shards count from 1 to n."""
    with pytest.raises(ValueError, match="does not exist"):
        Shard(index, count)


def test_a_run_that_did_not_record_its_split_dealt_units_out_in_turn() -> None:
    """Runs of earlier versions are judged with the shards that they had."""
    assert [Shard.of(unit, {"shards": 3}).index for unit in range(6)] == [1, 2, 3, 1, 2, 3]
    assert Shard.of(1, {"shards": 3, "shard_of": [1, 3]}).index == 3


BEGIN = """
import os, random, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from harness.errors import StoreError
from harness.store.rundir import RunDir, Shard
from test_rundir import ITEM, PLAN, UNITS
fsync = os.fsync
def slow(handle):
    time.sleep(random.uniform(0, 0.1))
    fsync(handle)
os.fsync = slow
lost = 0
for number in range(7):
    children = []
    for index in range(16):
        if (child := os.fork()) == 0:
            directory, shard = RunDir(Path(sys.argv[1]) / str(number)), Shard(index + 1, 16)
            try:
                with directory.locked(shard):
                    directory.begin(PLAN, [ITEM], shard, UNITS)
                os._exit(0 if directory.plan()["shards"] == 16 else 2)
            except StoreError as error:
                print(error, flush=True)
                os._exit(1)
        children.append(child)
    lost += sum(os.waitpid(child, 0)[1] != 0 for child in children)
print(lost, "lost")
"""


def test_no_shard_is_lost_at_the_start_on_a_slow_disk(tmp_path: Path) -> None:
    """112 starts, 16 at a time on one directory, with up to 0.1 s for each fsync: every one begins the same run."""
    words = [sys.executable, "-c", BEGIN, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "0 lost\n", done.stdout


def test_two_splits_that_begin_at_once_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If another process writes its run.json in between, the difference is found before anything is answered."""
    write = rundir.write_json

    def other_first(path: Path, plan: dict[str, Any]) -> None:
        write(path, {**plan, "shards": 3})

    monkeypatch.setattr(rundir, "write_json", other_first)
    with pytest.raises(StoreError, match=r"split into 3 shard\(s\), not 2"):
        begun(tmp_path, Shard(1, 2))


def test_a_quota_that_shows_when_a_file_is_closed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Network file systems may report it that late: a sentence, no traceback."""

    class Late:
        def close(self) -> None:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

    file = Appender(tmp_path / "answers.jsonl")
    file._stream.close()
    monkeypatch.setattr(file, "_stream", Late())
    with pytest.raises(StoreError, match="your quota is used up"):
        file.close()


def test_a_file_replaced_by_another_machine_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS answers ESTALE for a file that was replaced between opening and reading."""
    (tmp_path / "a.jsonl").write_text('{"a":1}\n')
    found, read = [OSError(errno.ESTALE, "Stale file handle")], Path.read_bytes

    def stale(path: Path) -> bytes:
        if found:
            raise found.pop()
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", stale)
    assert read_lines(tmp_path / "a.jsonl") == [{"a": 1}]


def test_a_rename_is_on_the_disk_before_the_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a renamed file, and that of each new folder, is synchronized: a power cut loses no run.json."""
    synced: list[str] = []
    sync = os.fsync

    def noted(handle: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        sync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    atomic_write(tmp_path / "results" / "run" / "run.json", "x")
    assert synced[:2] == [str(tmp_path), str(tmp_path / "results")]
    assert synced[-1] == str(tmp_path / "results" / "run")
