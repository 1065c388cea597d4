"""The representation table: keys by content, look-up, and what its folder survives."""

import errno
import os
import signal
import time
from multiprocessing import get_context

import pytest
import torch
from conftest import ForbidWaiting
from safetensors.torch import save_file

from st_softinfonce import vectors as vectors_module
from st_softinfonce.vectors import RepresentationTable, TableError, content_keys, mix64

IDENTITY = {"teacher": "a", "teacher_revision": "1"}


def random_ids(count, length=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 500, (count, length), generator=generator)
    return ids.masked_fill(torch.rand(count, length, generator=generator) < 0.3, -1)


def filled(folder=None, count=50, seed=0, identity=IDENTITY):
    table = RepresentationTable(folder, identity)
    keys = content_keys(random_ids(count, seed=seed))
    vectors = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)).half()
    table.add(keys, vectors)
    return table, keys, vectors


class TestKeys:
    def test_depend_on_the_content_and_its_order_alone(self):
        rows = torch.tensor(
            [[5, 6, 7, -1, -1], [-1, -1, 5, 6, 7], [-1, 5, 6, -1, 7], [7, 6, 5, -1, -1], [5, 6, -1, -1, -1]]
        )
        keys = content_keys(rows).tolist()
        assert keys[0] == keys[1] == keys[2]
        assert len(set(keys)) == 3

    def test_seeds_tell_kinds_of_text_apart(self):
        ids = random_ids(20)
        assert not (content_keys(ids, 1) == content_keys(ids, 2)).any()

    def test_hardly_ever_collide(self):
        ids = torch.cartesian_prod(*[torch.arange(60)] * 3)  # 216,000 short and alike texts
        assert content_keys(ids).unique().numel() == len(ids)

    def test_mixing_is_that_of_splitmix64(self):
        def by_hand(value):
            for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
                value = ((value ^ (value >> shift)) * factor) % 2**64
            return value ^ (value >> 31)

        numbers = torch.tensor([0, 1, -1, 2**62, -(2**63), 123456789])
        expected = [by_hand(number % 2**64) for number in numbers.tolist()]
        assert [number % 2**64 for number in mix64(numbers).tolist()] == expected

    def test_empty_texts_share_one_key(self):
        keys = content_keys(torch.full((3, 4), -1))
        assert keys.unique().numel() == 1


class TestLookUp:
    def test_of_equal_keys_the_first_stays(self):
        table = RepresentationTable()
        table.add(torch.tensor([3, 7, 3]), torch.tensor([[1.0], [2.0], [4.0]]))
        table.add(torch.tensor([7, 9, 9]), torch.tensor([[5.0], [6.0], [7.0]]))
        assert table.look_up(torch.tensor([3, 7, 9]))[0].flatten().tolist() == [1, 2, 6]
        assert len(table) == 3

    @pytest.mark.parametrize("compact", [False, True])
    @pytest.mark.parametrize("parts", [1, 7, 50])
    def test_finds_what_was_added_in_any_number_of_parts(self, parts, compact):
        keys = content_keys(random_ids(100))
        vectors = torch.randn(100, 8).half()
        table = RepresentationTable()
        for rows in torch.arange(100).chunk(parts):
            table.add(keys[rows], vectors[rows])
        if compact:
            table.compact()
        order = torch.randperm(100)
        found, known = table.look_up(keys[order])
        assert known.all()
        assert torch.equal(found, vectors[order])
        assert len(table) == 100

    def test_says_what_it_lacks(self):
        table, keys, _ = filled()
        strangers = content_keys(random_ids(5, seed=9))
        _, known = table.look_up(torch.cat([keys[:3], strangers]))
        assert known.tolist() == [True] * 3 + [False] * 5

    def test_an_empty_table_knows_nothing(self):
        vectors, known = RepresentationTable().look_up(torch.tensor([1, 2]))
        assert vectors is None
        assert not known.any()

    def test_repeated_and_known_keys_are_kept_once(self):
        table, keys, vectors = filled()
        table.add(torch.cat([keys[:2], keys[:2]]), torch.zeros(4, 8))
        assert len(table) == 50
        assert torch.equal(table.look_up(keys)[0], vectors)

    def test_looking_up_never_waits_for_the_device(self):
        """No operation whose result's size or value the host would have to ask for."""
        table = filled()[0]
        table.add(content_keys(random_ids(5, seed=3)), torch.zeros(5, 8))
        with ForbidWaiting():
            table.look_up(content_keys(random_ids(5)))

    def test_a_table_that_grows_by_small_batches_stays_quick_to_search(self):
        table = RepresentationTable()
        keys = content_keys(torch.arange(2000).unsqueeze(1))
        for rows in torch.arange(2000).chunk(500):
            table.add(keys[rows], rows.unsqueeze(1).half())
        assert len(table._levels) <= 10
        assert torch.equal(table.look_up(keys)[0][:, 0], torch.arange(2000).half())

    def test_vectors_of_other_dimensions_are_refused(self):
        table = filled()[0]
        with pytest.raises(TableError, match=r"vectors have 4 dimensions, the table's have 8.*Give another folder"):
            table.add(torch.tensor([1]), torch.zeros(1, 4))
        assert len(table) == 50


def forked(function, argument):
    """Start a process that need not import torch again."""
    process = get_context("fork").Process(target=function, args=(argument,))
    process.start()
    return process


class TestFolder:
    def test_a_saved_table_is_found_again(self, tmp_path):
        table, keys, vectors = filled(tmp_path / "t")
        table.save()
        again = RepresentationTable(tmp_path / "t", IDENTITY)
        assert torch.equal(again.look_up(keys)[0], vectors)
        assert len(again) == 50

    def test_saving_adds_only_what_is_new(self, tmp_path):
        table, *_ = filled(tmp_path)
        table.save()
        table.save()
        assert len(list(tmp_path.glob("part-*"))) == 1
        table.add(content_keys(random_ids(5, seed=4)), torch.zeros(5, 8))
        table.save()
        assert len(list(tmp_path.glob("part-*"))) == 2
        assert len(RepresentationTable(tmp_path, IDENTITY)) == 55

    def test_of_vectors_that_two_builders_made_for_one_key_every_later_run_takes_the_same(self, tmp_path):
        tables = [RepresentationTable(tmp_path, IDENTITY) for _ in range(2)]
        for value, table in enumerate(tables):
            table.add(torch.arange(3), torch.full((3, 2), float(value)))
            table.save()
        found = [RepresentationTable(tmp_path, IDENTITY) for _ in range(3)]
        vectors = [table.look_up(torch.arange(3))[0].tolist() for table in found]
        assert vectors[0] in ([[0.0] * 2] * 3, [[1.0] * 2] * 3)
        assert vectors == vectors[:1] * 3
        assert [len(table) for table in found] == [3] * 3

    def test_what_is_added_is_written_by_the_thousand(self, tmp_path):
        table = RepresentationTable(tmp_path, IDENTITY)
        for start in range(0, 1500, 100):
            table.add(torch.arange(start, start + 100), torch.zeros(100, 4))
        assert len(RepresentationTable(tmp_path, IDENTITY)) == 1100

    @pytest.mark.parametrize("name", ["teacher", "teacher_revision"])
    def test_a_table_of_something_else_is_refused_by_name(self, tmp_path, name):
        filled(tmp_path)[0].save()
        with pytest.raises(TableError, match=f"was made with {name}='.', this estimator has {name}='other'"):
            RepresentationTable(tmp_path, IDENTITY | {name: "other"})

    @pytest.mark.parametrize(
        ("tear", "message"),
        [
            (lambda content: content[:-1], "damaged"),
            (lambda content: content[: len(content) // 2], "damaged"),
            (lambda content: content[:-5] + bytes([content[-5] ^ 1]) + content[-4:], "does not match its checksum"),
        ],
        ids=["last-byte", "half", "a-changed-bit"],
    )
    def test_a_torn_part_is_noticed(self, tmp_path, tear, message):
        filled(tmp_path)[0].save()
        (part,) = tmp_path.glob("part-*")
        part.write_bytes(tear(part.read_bytes()))
        with pytest.raises(TableError, match=rf"part-.* {message}.*Delete that file"):
            RepresentationTable(tmp_path, IDENTITY)

    def test_a_table_of_something_else_that_was_begun_meanwhile_is_noticed_at_saving(self, tmp_path):
        one, other = filled(tmp_path)[0], filled(tmp_path, identity=IDENTITY | {"teacher": "b"})[0]
        one.save()
        with pytest.raises(TableError, match="was made with teacher='a', this estimator has teacher='b'"):
            other.save()
        assert len(RepresentationTable(tmp_path, IDENTITY)) == 50

    @pytest.mark.parametrize("kind", ["file", "dangling link"])
    def test_what_is_no_folder_is_refused_at_once(self, tmp_path, kind):
        path = tmp_path / "table"
        path.write_text("") if kind == "file" else path.symlink_to(tmp_path / "nowhere")
        with pytest.raises(TableError, match=r"table must be a folder, got the file table. Give another name"):
            RepresentationTable(tmp_path / "table", IDENTITY)

    def test_another_format_is_refused(self, tmp_path):
        save_file({"keys": torch.arange(1)}, tmp_path / "part-0.safetensors", {"format": "version 99"})
        with pytest.raises(TableError, match=r"part-0.safetensors has the format 'version 99'"):
            RepresentationTable(tmp_path, IDENTITY)

    @pytest.mark.parametrize("kind", ["dangling link", "folder", "pipe"])
    def test_what_is_no_file_in_the_place_of_a_part_is_named(self, tmp_path, kind):
        filled(tmp_path)[0].save()
        path = tmp_path / "part-0.safetensors"
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(tmp_path / "nowhere")
        with pytest.raises(TableError, match=r"part-0.safetensors is not a file. Delete it"):
            RepresentationTable(tmp_path, IDENTITY)

    def test_what_a_killed_process_left_is_removed_and_what_another_one_writes_is_not(self, tmp_path):
        filled(tmp_path)[0].save()
        old, new = tmp_path / ".part-1.safetensors", tmp_path / ".part-2.safetensors"
        kept = [new, *tmp_path.glob("part-*")]
        for path in (old, new):
            path.write_bytes(b"half")
        for path in [old, *tmp_path.glob("part-*")]:
            os.utime(path, (time.time() - 4000,) * 2)
        RepresentationTable(tmp_path, IDENTITY)
        assert sorted(tmp_path.iterdir()) == sorted(kept)

    @pytest.mark.parametrize("where", ["last", "first"])
    def test_a_full_disk_is_told_with_the_folder_and_leaves_nothing_behind(self, tmp_path, monkeypatch, where):
        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        table, keys, vectors = filled(tmp_path / "t")
        with monkeypatch.context() as context:
            if where == "first":
                context.setattr(vectors_module, "save_file", full)
            else:
                context.setattr(os, "fsync", full)
            with pytest.raises(TableError, match=r"table .*t: .* cannot be written \(.*No space.*\). Make room"):
                table.save()
        assert list((tmp_path / "t").glob(".*")) == []
        table.save()
        assert torch.equal(RepresentationTable(tmp_path / "t", IDENTITY).look_up(keys)[0], vectors)

    def test_a_folder_that_cannot_be_made_is_named(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(TableError, match=r"table .*t: part-.* cannot be written .* give another folder"):
            filled(tmp_path / "file" / "t")[0].save()

    @pytest.mark.slow
    def test_a_build_that_is_killed_again_and_again_ends_with_the_same_vectors(self, tmp_path):
        def build(folder):
            table = RepresentationTable(folder, {"teacher": "a"})
            for start in range(0, 40_000, 1000):
                keys = torch.arange(start, start + 1000)
                table.add(keys, keys.unsqueeze(1).expand(-1, 64) % 1000)
                table.save()

        killed = 0
        for delay in (0.0, 0.05, 0.1, 0.2, 0.3):
            process = forked(build, tmp_path / "t")
            time.sleep(delay)
            process.kill()
            process.join()
            killed += process.exitcode == -signal.SIGKILL
        assert killed
        build(tmp_path / "t")
        vectors, known = RepresentationTable(tmp_path / "t", {"teacher": "a"}).look_up(torch.arange(40_000))
        assert known.all()
        assert torch.equal(vectors, (torch.arange(40_000) % 1000).unsqueeze(1).expand(-1, 64).half())

    def test_two_processes_that_build_one_table_do_not_corrupt_it(self, tmp_path):
        def build(start):
            table = RepresentationTable(tmp_path / "t", {"teacher": "a"})
            for part in range(20):
                keys = torch.arange(start + part * 10, start + part * 10 + 15)
                table.add(keys, keys.unsqueeze(1).expand(-1, 4).float())
                table.save()

        processes = [forked(build, start) for start in (0, 100)]
        for process in processes:
            process.join()
            assert process.exitcode == 0
        table = RepresentationTable(tmp_path / "t", {"teacher": "a"})
        vectors, known = table.look_up(torch.arange(305))
        assert known.all()
        assert torch.equal(vectors[:, 0].long(), torch.arange(305))
