"""The representation table: keys by content, look-up, and what its folder survives."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import ForbidWaiting

from st_softinfonce.estimators import table as table_module
from st_softinfonce.estimators.table import (
    AS_READ,
    FORMAT,
    MANIFEST,
    RepresentationTable,
    TableError,
    content_keys,
    text_sources,
)

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

    def test_empty_texts_share_one_key(self):
        keys = content_keys(torch.full((3, 4), -1))
        assert keys.unique().numel() == 1


class TestLookUp:
    @pytest.mark.parametrize("parts", [1, 7, 50])
    def test_finds_what_was_added_in_any_number_of_parts(self, parts):
        keys = content_keys(random_ids(100))
        vectors = torch.randn(100, 8).half()
        table = RepresentationTable()
        for rows in torch.arange(100).chunk(parts):
            table.add(keys[rows], vectors[rows])
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
        with ForbidWaiting():
            table.look_up(content_keys(random_ids(5)))


class TestSources:
    def test_a_vector_of_the_text_as_read_takes_the_place_of_another_and_stays(self, tmp_path):
        table = RepresentationTable(tmp_path, IDENTITY)
        keys = torch.arange(3)
        table.add(keys, torch.full((3, 2), 1.0), torch.tensor([7, 8, 9]))
        table.save()
        table.add(keys[1:], torch.full((2, 2), 2.0), torch.tensor([AS_READ, 5]))
        table.add(keys, torch.full((3, 2), 3.0), torch.tensor([6, 7, 8]))
        table.save()
        for found in (table, RepresentationTable(tmp_path, IDENTITY)):
            assert found.look_up(keys)[0].tolist() == [[1.0] * 2, [2.0] * 2, [1.0] * 2]
            assert found.sources(keys)[0].tolist() == [7, AS_READ, 9]
            assert len(found) == 3

    def test_what_two_processes_made_of_different_texts_is_neither(self, tmp_path):
        keys = torch.arange(3)
        tables = [RepresentationTable(tmp_path, IDENTITY) for _ in range(2)]
        for table, sources in zip(tables, ([1, 2, AS_READ], [1, 3, 4]), strict=True):
            table.add(keys, torch.ones(3, 2), torch.tensor(sources))
            table.save()
        table = RepresentationTable(tmp_path, IDENTITY)
        assert table.look_up(keys)[1].tolist() == [True, False, True]
        assert table.sources(keys)[0].tolist() == [1, AS_READ, AS_READ]

    def test_are_equal_for_equal_texts_alone(self):
        sources = text_sources(["a", "A", "a", "", "\ud800"])
        assert sources[0] == sources[2]
        assert sources.unique().numel() == 4
        assert not (sources == AS_READ).any()


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

    def test_parts_are_put_into_one_that_holds_the_same(self, tmp_path):
        for seed in range(3):
            table, *_ = filled(tmp_path, seed=seed)
            table.save()
        table.compact()
        assert len(list(tmp_path.glob("part-*"))) == 1
        again = RepresentationTable(tmp_path, IDENTITY)
        for seed in range(3):
            _, keys, vectors = filled(seed=seed)
            assert torch.equal(again.look_up(keys)[0], vectors)
        assert len(again) == 150
        before = list(tmp_path.glob("part-*"))
        table.compact()
        assert list(tmp_path.glob("part-*")) == before

    def test_parts_that_another_process_puts_into_one_meanwhile_are_found_there(self, tmp_path, monkeypatch):
        for seed in range(2):
            filled(tmp_path, seed=seed)[0].save()
        other, read = RepresentationTable(tmp_path, IDENTITY), table_module._read

        def compact_first(path, identity):
            monkeypatch.setattr(table_module, "_read", read)
            other.compact()
            return read(path, identity)

        monkeypatch.setattr(table_module, "_read", compact_first)
        assert len(RepresentationTable(tmp_path, IDENTITY)) == 100

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

    @pytest.mark.parametrize("cut", [1, 100, 0.5], ids=["last-byte", "last-100", "half"])
    def test_a_truncated_part_is_noticed(self, tmp_path, cut):
        filled(tmp_path)[0].save()
        (part,) = tmp_path.glob("part-*")
        content = part.read_bytes()
        part.write_bytes(content[: -cut if isinstance(cut, int) else int(len(content) * cut)])
        with pytest.raises(TableError, match=r"part-.*damaged|part-.*checksum"):
            RepresentationTable(tmp_path, IDENTITY)

    def test_a_changed_byte_is_noticed(self, tmp_path):
        filled(tmp_path)[0].save()
        (part,) = tmp_path.glob("part-*")
        content = bytearray(part.read_bytes())
        content[-5] ^= 1
        part.write_bytes(bytes(content))
        with pytest.raises(TableError, match=r"does not match its checksum. Delete that file"):
            RepresentationTable(tmp_path, IDENTITY)

    def test_a_damaged_manifest_is_named(self, tmp_path):
        filled(tmp_path)[0].save()
        (tmp_path / MANIFEST).write_text("{")
        with pytest.raises(TableError, match=r"manifest.json is damaged"):
            RepresentationTable(tmp_path, IDENTITY)

    @pytest.mark.parametrize("content", [[], {"format": FORMAT}, {"format": FORMAT, "identity": 3}], ids=str)
    def test_a_manifest_without_an_identity_is_damaged(self, tmp_path, content):
        (tmp_path / MANIFEST).write_text(json.dumps(content))
        with pytest.raises(TableError, match=r"manifest.json is damaged \(no identity\). Delete the folder"):
            RepresentationTable(tmp_path, IDENTITY)

    def test_parts_whose_manifest_is_lost_or_replaced_are_not_taken_for_anothers(self, tmp_path):
        filled(tmp_path)[0].save()
        (tmp_path / MANIFEST).unlink()
        assert len(RepresentationTable(tmp_path, IDENTITY)) == 50
        with pytest.raises(TableError, match=r"part-.* was made with something else than manifest.json says, or that"):
            RepresentationTable(tmp_path, IDENTITY | {"teacher": "b"})

    def test_a_table_of_something_else_that_was_begun_meanwhile_is_noticed_at_saving(self, tmp_path):
        one, other = filled(tmp_path)[0], filled(tmp_path, identity=IDENTITY | {"teacher": "b"})[0]
        one.save()
        with pytest.raises(TableError, match="was made with teacher='a', this estimator has teacher='b'"):
            other.save()
        assert len(RepresentationTable(tmp_path, IDENTITY)) == 50

    def test_a_file_in_the_place_of_the_folder_is_refused_at_once(self, tmp_path):
        (tmp_path / "table").write_text("")
        with pytest.raises(TableError, match=r"table must be a folder, got the file table. Give another name"):
            RepresentationTable(tmp_path / "table", IDENTITY)

    def test_another_format_is_refused(self, tmp_path):
        (tmp_path / MANIFEST).write_text(json.dumps({"format": "version 99", "identity": {}}))
        with pytest.raises(TableError, match="has the format 'version 99'"):
            RepresentationTable(tmp_path, IDENTITY)

    def test_a_write_that_was_interrupted_leaves_the_table_as_it_was(self, tmp_path):
        filled(tmp_path)[0].save()
        (tmp_path / ".part-x.safetensors.123").write_bytes(b"half of a part")
        assert len(RepresentationTable(tmp_path, IDENTITY)) == 50

    def test_two_processes_that_build_one_table_do_not_corrupt_it(self, tmp_path):
        script = (
            "import sys, torch\n"
            "from st_softinfonce.estimators.table import *\n"
            "start = int(sys.argv[2])\n"
            "table = RepresentationTable(sys.argv[1], {'teacher': 'a'})\n"
            "for part in range(20):\n"
            "    keys = torch.arange(start + part * 10, start + part * 10 + 15)\n"
            "    table.add(keys, keys.unsqueeze(1).expand(-1, 4).float())\n"
            "    table.save()\n"
            "    if part % 5 == 4:\n"
            "        table.compact()\n"
        )
        commands = [[sys.executable, "-c", script, str(tmp_path / "t"), start] for start in ("0", "100")]
        processes = [subprocess.Popen(command) for command in commands]
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
        table = RepresentationTable(tmp_path / "t", {"teacher": "a"})
        vectors, known = table.look_up(torch.arange(305))
        assert known.all()
        assert torch.equal(vectors[:, 0].long(), torch.arange(305))
