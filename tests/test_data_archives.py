import bz2
import gzip
import io
import json
import lzma
import os
import random
import stat
import tarfile
import tracemalloc
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from st_softinfonce.data import MiningReport, Source, archives, installed_distribution, mine_pairs

METADATA = "Metadata-Version: 2.1\nName: Shop-Kit\nVersion: 1.2.3\nLicense: MIT\n\nText.\n"


def function(name, extra=""):
    body = f"    total = first + second{extra}\n    return total\n"
    return f'def {name}(first, second):\n    """Add the totals of two orders."""\n{body}'


def tar(files, compress=lambda data: data, change=lambda info: None):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            change(info)
            archive.addfile(info, io.BytesIO(data))
    return compress(stream.getvalue())


def zipped(files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def deb(members):
    def part(name, data):
        return (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
        )

    return b"!<arch>\n" + b"".join(part(name, data) for name, data in members.items())


def package_deb(files, control="Package: shop\nVersion: 2.0-1\n", compress=lzma.compress, suffix=".xz"):
    return deb(
        {
            "debian-binary": b"2.0\n",
            f"control.tar{suffix}": tar({"./control": control}, compress),
            f"data.tar{suffix}": tar(files, compress),
        }
    )


def save(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


def mine(paths, **options):
    report = MiningReport()
    rows = list(mine_pairs(paths, report=report, languages="python", **options))
    assert report.files_seen == report.files_mined + sum(report.files_skipped.values())
    assert report.functions_seen == report.functions_kept + sum(report.functions_dropped.values())
    return rows, report


def counted(counts):
    return {rule: count for rule, count in counts.items() if count}


def where(row):
    return row["package"], row["version"], row["license"], row["path"]


# Kinds of archives


SDIST = {"shop_kit-1.2.3/PKG-INFO": METADATA, "shop_kit-1.2.3/src/shop/orders.py": function("add")}


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("shop.tar", lambda data: data),
        ("shop.tar.gz", gzip.compress),
        ("shop.TGZ", gzip.compress),
        ("shop.tar.bz2", bz2.compress),
        ("shop.tar.xz", lzma.compress),
    ],
)
def test_sdist_is_mined_under_its_own_name(tmp_path, name, compress):
    rows, report = mine(save(tmp_path, name, tar(SDIST, compress)))
    assert [where(row) for row in rows] == [("Shop-Kit", "1.2.3", "MIT", "Shop-Kit/shop/orders.py")]
    assert report.archives_seen == 1
    assert report.problems == []


def zstd():
    try:
        from compression import zstd
    except ImportError:
        from backports import zstd
    return zstd


def test_zstandard_is_unpacked(tmp_path):
    path = save(
        tmp_path,
        "shop.deb",
        package_deb({"./usr/lib/x/a.py": function("add")}, compress=zstd().compress, suffix=".zst"),
    )
    rows, _ = mine(path)
    assert [where(row)[:2] for row in rows] == [("shop", "2.0-1")]


def test_zstandard_without_its_library_is_said(tmp_path, monkeypatch):
    path = save(tmp_path, "shop.tar.zst", tar(SDIST, zstd().compress))

    def refuse(name):
        raise ImportError(name)

    monkeypatch.setattr(archives, "import_module", refuse)
    with pytest.warns(UserWarning, match="archives unsupported 1"):
        _, report = mine(path)
    assert report.problems == ["shop.tar.zst (unsupported: Zstandard needs Python 3.14 or the package backports.zstd)"]


def test_wheel_and_zip_are_mined_in_the_order_of_names(tmp_path):
    wheel = {
        "shop/b.py": function("b"),
        "shop/__init__.py": "",
        "shop/a.py": function("a"),
        "kit-1.dist-info/METADATA": METADATA,
    }
    rows, _ = mine(save(tmp_path, "kit-1-py3-none-any.whl", zipped(wheel)))
    assert [where(row) for row in rows] == [
        ("Shop-Kit", "1.2.3", "MIT", "Shop-Kit/shop/a.py"),
        ("Shop-Kit", "1.2.3", "MIT", "Shop-Kit/shop/b.py"),
    ]
    rows, _ = mine(
        save(tmp_path, "src.zip", zipped({"one.base/x/a.py": function("a"), "two.base/y.py": function("b")}))
    )
    assert [where(row) for row in rows] == [
        ("one.base", "", "", "one.base/x/a.py"),
        ("two.base", "", "", "two.base/y.py"),
    ]


def test_npm_tarball_is_mined_under_its_own_name(tmp_path):
    files = {
        "package/lib/a.py": function("a"),
        "package/dist/b.py": function("b"),
        "package/package.json": json.dumps(
            {"name": "@shop/kit", "version": "3.0.0", "license": "(MIT OR Apache-2.0)"}
        ),
    }
    rows, report = mine(save(tmp_path, "shop-kit-3.0.0.tgz", tar(files, gzip.compress)))
    assert [where(row) for row in rows] == [("@shop/kit", "3.0.0", "MIT OR Apache-2.0", "@shop/kit/a.py")]
    assert counted(report.folders_skipped) == {"build": 1}


def test_debian_package_and_the_zip_in_it_are_mined(tmp_path):
    copyright = "Format: x\n\nFiles: *\nCopyright: me\nLicense: Expat or GPL-2+\n\nFiles: debian/*\nLicense: GPL-3\n"
    inner = zipped(
        {"java.base/a.py": function("inner"), "java.sql/b.py": function("other"), "deep.zip": zipped({"c.py": ""})}
    )
    files = {
        "./usr/lib/python3/dist-packages/shop/a.py": function("outer"),
        "./usr/lib/jvm/src.zip": inner,
        "./usr/share/doc/shop/copyright": copyright,
    }
    rows, report = mine(save(tmp_path, "shop_2.0-1_all.deb", package_deb(files)))
    license_ = "MIT OR GPL-2.0-or-later"
    assert [where(row) for row in rows] == [
        ("java.base", "2.0-1", license_, "java.base/a.py"),
        ("java.sql", "2.0-1", license_, "java.sql/b.py"),
        ("shop", "2.0-1", license_, "shop/usr/lib/python3/dist-packages/shop/a.py"),
    ]
    assert report.archives_seen == 3
    assert counted(report.archives_skipped) == {"nested": 1}


def test_archive_gives_what_its_folder_gives(tmp_path):
    library = Path(os.__file__).parent
    names = sorted(path for folder in ("json", "email", "logging") for path in (library / folder).rglob("*.py"))
    files = {path.relative_to(library).as_posix(): path.read_bytes() for path in names}
    for name, content in files.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(content)
    expected, _ = mine(tmp_path / "tree")
    assert len(expected) > 100
    for path in (save(tmp_path, "a.zip", zipped(files)), save(tmp_path, "a.tar.gz", tar(files, gzip.compress))):
        rows, report = mine(path)
        assert sorted(rows, key=str) == sorted(expected, key=str)
        assert report.problems == []


def test_what_the_caller_says_of_a_source_counts(tmp_path):
    path = save(tmp_path, "shop.tar.gz", tar(SDIST, gzip.compress))
    rows, _ = mine(Source(path, package="own", version="9", license="0BSD"))
    assert [where(row) for row in rows] == [("own", "9", "0BSD", "own/shop/orders.py")]
    rows, _ = mine(Source(path, package=lambda name: name.replace("/", "+"), version=""))
    assert [where(row)[:3] for row in rows] == [("src+shop+orders.py", "", "MIT")]


def test_packages_with_equal_file_names_are_told_apart(tmp_path):
    paths = []
    for name in ("one", "two"):
        files = {"package/package.json": json.dumps({"name": name}), "package/index.py": function(name)}
        paths.append(save(tmp_path, f"{name}.tgz", tar(files, gzip.compress)))
    rows, _ = mine([*paths, paths[0]])
    assert [row["path"] for row in rows] == ["one/index.py", "two/index.py"]


# Hostile and broken archives


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    "name",
    ["../evil.py", "a/../../evil.py", "/evil.py", "..\\evil.py", "C:\\evil.py"],
    ids=["up", "over", "root", "back", "drive"],
)
def test_names_that_lead_out_are_counted_and_nothing_is_written(tmp_path, kind, name):
    files = {name: function("evil"), "good/a.py": function("good", " ")}
    path = save(tmp_path, f"x.{kind}", (zipped if kind == "zip" else tar)(files))
    before = sorted(tmp_path.parent.rglob("*"))
    rows, report = mine(path)
    assert [row["path"] for row in rows] == ["good/a.py"]
    assert counted(report.files_skipped) == {"unsafe_path": 1}
    assert "unsafe_path" in report.problems[0]
    assert "leads out of its archive" in str(report)
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_links_in_archives_are_not_followed(tmp_path):
    def link(info):
        if "link" in info.name:
            info.type, info.linkname, info.size = (
                tarfile.SYMTYPE if "soft" in info.name else tarfile.LNKTYPE,
                "/etc/passwd",
                0,
            )

    tar_file = tar({"a/soft_link.py": "", "a/hard_link.py": "", "a/b.py": function("b")}, change=link)
    info = zipfile.ZipInfo("a/link.py")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    zip_file = zipped({info: "/etc/passwd", "a/c.py": function("c")})
    rows, report = mine([save(tmp_path, "x.tar", tar_file), save(tmp_path, "x.zip", zip_file)])
    assert [row["name"] for row in rows] == ["b", "c"]
    assert counted(report.files_skipped) == {"link": 3}


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress], ids=["gz", "bz2", "xz"])
def test_bomb_ends_at_the_ratio(tmp_path, monkeypatch, compress):
    monkeypatch.setattr(archives, "_FREE_BYTES", 1 << 20)
    files = {"a/b.py": function("b"), "a/zeros.bin": bytes(16 << 20), "a/c.py": function("c")}
    suffix = {gzip.compress: "gz", bz2.compress: "bz2", lzma.compress: "xz"}[compress]
    rows, report = mine(save(tmp_path, f"x.tar.{suffix}", tar(files, compress)))
    assert [row["name"] for row in rows] == ["b"]
    assert counted(report.archives_skipped) == {"too_large": 1}


def test_archive_is_read_up_to_its_size_and_number_of_members(tmp_path, monkeypatch):
    files = {f"a/{index}.py": function(f"f{index}") + "#" * 3000 for index in range(9)}
    rows, report = mine(save(tmp_path, "x.tar", tar(files)), max_archive_bytes=20_000)
    assert 0 < len(rows) < 9
    assert counted(report.archives_skipped) == {"too_large": 1}
    rows, report = mine(save(tmp_path, "x.zip", zipped(files)), max_archive_bytes=10_000)
    assert len(rows) == 3
    assert counted(report.files_skipped) == {"too_large": 6}
    monkeypatch.setattr(archives, "MAX_MEMBERS", 5)
    rows, report = mine(save(tmp_path, "y.tar", tar(files)))
    assert len(rows) == 5
    assert counted(report.archives_skipped) == {"too_large": 1}
    with pytest.warns(UserWarning, match="archives too_large 1"):
        mine(save(tmp_path, "y.zip", zipped(files)))


def test_large_members_are_not_read(tmp_path, monkeypatch):
    path = save(tmp_path, "x.zip", zipped({"a/large.py": bytes(50_000_000), "a/b.py": function("b")}))
    opened = []
    real = zipfile.ZipFile.open
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda self, info: opened.append(info.filename) or real(self, info))
    rows, report = mine(path)
    assert [row["name"] for row in rows] == ["b"]
    assert counted(report.files_skipped) == {"too_large": 1}
    assert opened == ["a/b.py"]


def test_header_that_asks_for_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_MAX_READ", 1 << 16)

    def pax(info):
        if info.name == "bomb":
            info.type = tarfile.XHDTYPE

    files = {"a/b.py": function("b"), "bomb": bytes(1 << 20), "a/c.py": function("c")}
    rows, report = mine(save(tmp_path, "x.tar", tar(files, change=pax)))
    assert [row["name"] for row in rows] == ["b"]
    assert counted(report.archives_skipped) == {"too_large": 1}


def test_nested_bombs_are_not_opened(tmp_path):
    data = zipped({"a.py": function("a")})
    for _ in range(5):
        data = zipped({"inner.zip": data, "outer/b.py": function("b")})
    rows, report = mine(save(tmp_path, "x.zip", data))
    assert [row["name"] for row in rows] == ["b"]
    assert counted(report.archives_skipped) == {"nested": 1}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.zip", zipped({"a/b.py": function("b")})),
        ("x.tar.gz", tar({"a/b.py": function("b")}, gzip.compress)),
        ("x.tar", tar({"a/b.py": function("b")})[:600]),
        ("x.tar.xz", tar({"a/b.py": function("b")}, lzma.compress)),
        ("x.tar.zst", tar({"a/b.py": function("b")}, zstd().compress)),
        ("x.deb", package_deb({"a/b.py": function("b")})),
    ],
)
def test_archive_cut_short_or_of_other_content_is_reported(tmp_path, name, data):
    for broken in (data[: len(data) * 2 // 3], b"no archive at all" * 100, b""):
        with pytest.warns(UserWarning, match="archives corrupt 1"):
            _, report = mine(save(tmp_path, name, broken))
        assert report.problems[-1].startswith(f"{name} (corrupt")


def test_what_stands_before_the_break_is_mined(tmp_path):
    noise = random.Random(0).randbytes(100_000)
    data = tar({"a/b.py": function("b"), "a/noise": noise, "a/c.py": function("c")}, gzip.compress)
    rows, report = mine(save(tmp_path, "x.tgz", data[:50_000]))
    assert [row["name"] for row in rows] == ["b"]
    assert counted(report.archives_skipped) == {"corrupt": 1}


@pytest.mark.filterwarnings("ignore:No pairs found")
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.zip", zipped(SDIST)),
        ("x.tar", tar(SDIST)),
        ("x.tgz", tar(SDIST, gzip.compress)),
        ("x.txz", tar(SDIST, lzma.compress)),
        ("x.tar.bz2", tar(SDIST, bz2.compress)),
        ("x.tar.zst", tar(SDIST, zstd().compress)),
        ("x.deb", package_deb(SDIST)),
    ],
)
def test_no_broken_byte_is_fatal(tmp_path, name, data):
    generator = random.Random(name)
    outcomes = set()
    for _ in range(60):
        broken = bytearray(data)
        for _ in range(generator.randint(1, 4)):
            broken[generator.randrange(len(broken))] = generator.randrange(256)
        rows, report = mine(save(tmp_path, name, bytes(broken)))
        outcomes.add((len(rows), len(report.problems)))
    assert len(outcomes) > 1


def test_encrypted_and_damaged_members_leave_the_others(tmp_path):
    data = bytearray(zipped({"a/a.py": function("a"), "a/b.py": function("b"), "a/c.py": function("c")}))
    directory = data.index(b"PK\x01\x02")
    data[data.index(b"PK\x03\x04") + 6] |= 1
    data[directory + 8] |= 1
    data[data.index(b"a/b.py") + 10] ^= 0xFF
    rows, report = mine(save(tmp_path, "x.zip", bytes(data)))
    assert [row["name"] for row in rows] == ["c"]
    assert counted(report.files_skipped) == {"unreadable": 2}


def test_order_in_a_tar_is_that_of_the_paths(tmp_path):
    files = {f"a/{name}.py": function(name) for name in "cab"}
    rows, _ = mine(save(tmp_path, "x.tar", tar(files)))
    assert [row["name"] for row in rows] == ["a", "b", "c"]


@pytest.mark.parametrize("depth", [99, 150, 1_000, 5_000])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_deep_members_never_lose_the_others(tmp_path, kind, depth):
    files = {"d/" * depth + "deep.py": function("deep"), "a/b.py": function("b", " "), "n" * 300 + ".py": ""}
    rows, report = mine(save(tmp_path, f"x.{kind}", (zipped if kind == "zip" else tar)(files)))
    assert "b" in [row["name"] for row in rows]
    assert counted(report.files_skipped) == {"unreadable": 1, **({"too_deep": 1} if depth > 99 else {})}


def test_memory_does_not_grow_with_an_archive(tmp_path):
    files = {f"a/{index}.txt": bytes(200_000) for index in range(100)}
    path = save(tmp_path, "x.tar.gz", tar({**files, "a/b.py": function("b")}, gzip.compress))
    tracemalloc.start()
    rows, _ = mine(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(rows) == 1
    assert peak < 10_000_000


# Installed distributions


def test_installed_distribution_is_mined_under_its_name():
    rows, _ = mine(installed_distribution("tqdm"))
    assert len(rows) > 20
    assert {(row["package"], row["version"]) for row in rows} == {("tqdm", version("tqdm"))}
    assert all(row["license"] for row in rows)
    assert all(row["path"].startswith("tqdm/") for row in rows)


def test_editable_distribution_is_its_project(tmp_path, monkeypatch):
    project, site = tmp_path / "project", tmp_path / "site"
    (project / "shop").mkdir(parents=True)
    (project / "shop" / "a.py").write_text(function("a"))
    info = site / "shop_kit-1.2.3.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(METADATA)
    (info / "RECORD").write_text("__editable__.pth,,\n")
    (info / "direct_url.json").write_text(json.dumps({"url": project.as_uri(), "dir_info": {"editable": True}}))
    monkeypatch.syspath_prepend(str(site))
    rows, _ = mine(installed_distribution("shop-kit"))
    assert [where(row) for row in rows] == [("Shop-Kit", "1.2.3", "MIT", "Shop-Kit/shop/a.py")]


def test_distribution_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="name must be an installed distribution, got 'no-such-thing'"):
        installed_distribution("no-such-thing")


def test_source_paths_are_checked(tmp_path):
    with pytest.raises(FileNotFoundError, match="paths must exist"):
        mine_pairs(Source(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"archives \(.whl .zip"):
        mine_pairs(save(tmp_path, "a.rar", b""))
