"""Reading a file inside a .7z archive without unpacking it, and archives that are refused."""

import struct
import zlib

import py7zr
import pytest

from lima import UserError
from lima.curate import archives

CONTENT = b"<posts>" + b"<row/>" * 100_000 + b"</posts>"


def packed(path, **files):
    with py7zr.SevenZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(content, name.replace("_xml", ".xml"))
    return path


def test_a_file_is_streamed_whole(tmp_path):
    path = packed(tmp_path / "beer.7z", Users_xml=b"<users/>", Posts_xml=CONTENT)
    with archives.opened(path, "Posts.xml") as file:
        assert b"".join(iter(lambda: file.read(1000), b"")) == CONTENT
    assert archives.size(path, "Posts.xml") == len(CONTENT)
    assert archives.holds(path, "Users.xml") and not archives.holds(path, "Votes.xml")
    assert [p.name for p in tmp_path.iterdir()] == ["beer.7z"]  # nothing unpacked


def test_a_reader_that_stops_early_ends_well(tmp_path):
    path = packed(tmp_path / "beer.7z", Posts_xml=CONTENT)
    with archives.opened(path, "Posts.xml") as file:
        assert file.read(7) == b"<posts>"


def test_a_path_that_points_outside_is_refused(tmp_path):
    path = tmp_path / "beer.7z"
    slip = "aa/evil.xml".encode("utf-16-le")
    with py7zr.SevenZipFile(path, "w", filters=[{"id": py7zr.FILTER_COPY}]) as archive:
        archive.header_encoding = archive.encoded_header_mode = False  # names in the clear, to be changed below
        archive.writestr(CONTENT, "Posts.xml")
        archive.writestr(b"x", "aa/evil.xml")
    data = path.read_bytes()
    at = data.index(slip)
    data = data[:at] + "../evil.xml".encode("utf-16-le") + data[at + len(slip) :]
    path.write_bytes(_sealed(data))
    with pytest.raises(UserError, match=r"'\.\./evil\.xml', which points outside the archive; refused"):
        archives.size(path, "Posts.xml")


def _sealed(data):
    """An archive whose header was changed, with its checksums right again."""
    offset, size = struct.unpack("<QQ", data[12:28])
    header = data[32 + offset : 32 + offset + size]
    start = struct.pack("<QQI", offset, size, zlib.crc32(header))
    return data[:8] + struct.pack("<I", zlib.crc32(start)) + start + data[32:]


@pytest.mark.parametrize("damage", ["empty", "no archive", "cut", "changed"])
def test_a_damaged_archive_is_one_line(damage, tmp_path):
    path = packed(tmp_path / "beer.7z", Posts_xml=bytes(range(256)) * 4000)
    data = path.read_bytes()
    middle = len(data) // 3
    path.write_bytes(
        {
            "empty": b"",
            "no archive": b"not an archive at all",
            "cut": data[:middle],
            "changed": data[:40] + bytes(b ^ 255 for b in data[40:middle]) + data[middle:],
        }[damage]
    )
    with pytest.raises(UserError, match="fetch it again") as error, archives.opened(path, "Posts.xml") as file:
        while file.read(1 << 16):
            pass
    assert "\n" not in str(error.value)


def test_an_archive_without_the_file_says_so(tmp_path):
    path = packed(tmp_path / "beer.7z", Users_xml=b"<users/>")
    with pytest.raises(UserError, match=r"holds 0 files named Posts\.xml"), archives.opened(path, "Posts.xml"):
        pass
