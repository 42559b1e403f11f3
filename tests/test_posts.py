"""Where a dump's files are found, what a site is called, and the rows that come of an XML file."""

import pytest

from lima import UserError
from lima.curate import posts

HEAD = b'\xef\xbb\xbf<?xml version="1.0" encoding="utf-8"?>\n<posts>\n'
ROW = b'  <row Id="%d" Body="&lt;p&gt;a &amp;amp; b&lt;/p&gt;" />\n'


def read(path, keep_truncated=False):
    ticks, notes = [], {}
    found = [(row.get("Id"), row.get("Body")) for row in posts.rows(path, "Posts", ticks.append, keep_truncated, notes)]
    return found, sum(ticks), notes


def test_rows_come_decoded_once_and_every_byte_is_counted(tmp_path):
    path = tmp_path / "Posts.xml"
    path.write_bytes(HEAD + b"".join(ROW % n for n in range(5000)) + b"</posts>")
    found, ticked, notes = read(path)
    assert found == [(str(n), "<p>a &amp; b</p>") for n in range(5000)]
    assert ticked == path.stat().st_size and not notes


def test_tiny_rows_come_too(tmp_path):
    """More of them in a chunk than libxml2 is fed at a time."""
    path = tmp_path / "Posts.xml"
    path.write_bytes(b"<posts>" + b"<row/>" * 20_000 + b"</posts>")
    assert len(read(path)[0]) == 20_000


ENTITIES = b'<!DOCTYPE p [<!ENTITY a "aaaaaaaaaa">' + b"".join(
    b'<!ENTITY %c "%s">' % (c, b"&%c;" % (c - 1) * 10) for c in range(ord("b"), ord("k"))
)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (ENTITIES + b'<posts><row Id="&j;"/></posts>', "refused"),
        (HEAD[:42] + b" " * 40_000 + ENTITIES + b'<posts a="&j;"><row/></posts>', "refused"),
        (b"<posts>" + b" " * 32_760 + b"<!DOCTYPE p [", "refused"),
        (b'<!DOCTYPE p SYSTEM "file:///etc/passwd"><posts/>', "refused"),
        ("<posts/>".encode("utf-16"), "not an XML file in UTF-8"),
        (b'<?xml version="1.0" encoding="UTF-7"?><posts/>', "not an XML file in UTF-8"),
        (b"", "0 bytes"),
        (b"%PDF-1.4", "not an XML file in UTF-8"),
        (HEAD + ROW % 1 + b'  <row Id="2" Body="\xff\xfe" />\n</posts>', "line 4: not UTF-8"),
        (HEAD + ROW % 1 + b'  <row Id="2" Body="a" Body="b" />\n</posts>', "line 4: broken XML"),
        (HEAD + ROW % 1 + b'  <row Id="2" Bo', r"ends early, in line 4, after \d+ bytes"),
        (HEAD + ROW % 1, "ends early, in line"),
    ],
)
def test_what_is_no_dump_is_one_line(content, says, tmp_path):
    path = tmp_path / "Posts.xml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_ends_early_can_be_accepted(tmp_path):
    path = tmp_path / "Posts.xml"
    path.write_bytes(HEAD + ROW % 1 + b'  <row Id="2" Bo')
    found, _, notes = read(path, keep_truncated=True)
    assert [id for id, _ in found] == ["1"] and notes["truncated"].startswith("ends early, in line 4")


def test_a_row_in_the_middle_that_is_broken_is_never_accepted(tmp_path):
    path = tmp_path / "Posts.xml"
    path.write_bytes(HEAD + ROW % 1 + b"  <row Id=2 />\n" + ROW % 3 * 2000 + b"</posts>")
    with pytest.raises(UserError, match="line 4: broken XML"):
        read(path, keep_truncated=True)


def touch(*paths):
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.touch()


def test_the_forms_of_a_dump(tmp_path):
    one, beer, big = (
        tmp_path / "cooking/Posts.xml",
        tmp_path / "beer_2017_Posts.xml",
        tmp_path / "math.stackexchange.com.7z",
    )
    piece, its_users = tmp_path / "stackoverflow.com-Posts.7z", tmp_path / "stackoverflow.com-Users.7z"
    touch(one, beer, big, piece, its_users, tmp_path / "cooking/Users.xml", tmp_path / "stackoverflow.com-Votes.7z")
    assert posts.find(tmp_path) == [
        posts.Dump("beer", beer, None),
        posts.Dump("cooking", one, tmp_path / "cooking/Users.xml"),
        posts.Dump("math", big, None),
        posts.Dump("stackoverflow", piece, its_users),
    ]
    assert posts.find(one) == posts.find(tmp_path / "cooking") == [posts.find(tmp_path)[1]]


@pytest.mark.parametrize(
    ("names", "says"),
    [((), "there"), (("beer_2016_Posts.xml", "beer.stackexchange.com.7z"), "both of beer"), (("Users.xml",), "there")],
)
def test_no_dump_or_two_of_a_site(names, says, tmp_path):
    touch(*(tmp_path / name for name in names))
    with pytest.raises(UserError, match=says):
        posts.find(tmp_path)


@pytest.mark.parametrize(
    ("name", "site", "host"),
    [
        ("beer_2017", "beer", "beer.stackexchange.com"),
        ("math.stackexchange.com", "math", "math.stackexchange.com"),
        ("stackoverflow.com", "stackoverflow", "stackoverflow.com"),
        ("pt.stackoverflow.com", "pt.stackoverflow", "pt.stackoverflow.com"),
        ("mathoverflow.net", "mathoverflow", "mathoverflow.net"),
        ("3dprinting", "3dprinting", "3dprinting.stackexchange.com"),
    ],
)
def test_names_and_addresses(name, site, host):
    assert posts.site_name(name) == site and posts.host(site) == host


def test_groups_follow_the_paper_and_the_recipe_may_differ():
    table = posts._table()
    assert [list(table.values()).count(group) for group in posts.GROUPS] == [75, 99, 5]
    assert posts.group("math", {}) == "stem" and posts.group("cooking", {}) == posts.group("beer", {}) == "other"
    assert posts.group("meta.french", {}) is None and posts.group("meta.french", {"meta.french": "other"}) == "other"


@pytest.mark.parametrize(
    ("row", "license"),
    [
        ({"CreationDate": "2011-04-07T23:59:59"}, "CC BY-SA 2.5"),
        ({"CreationDate": "2011-04-08T00:00:00"}, "CC BY-SA 3.0"),
        ({"CreationDate": "2018-05-01T23:59:59"}, "CC BY-SA 3.0"),
        ({"CreationDate": "2018-05-02T00:00:00"}, "CC BY-SA 4.0"),
        ({"CreationDate": "2018-05-02", "ContentLicense": "CC BY-SA 3.0"}, "CC BY-SA 3.0"),
    ],
)
def test_the_licence_is_the_rows_own_or_its_dates(row, license):
    assert posts.license_of(row) == license
