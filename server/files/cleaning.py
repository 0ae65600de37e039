"""Rewriting one file from outside, in a process of its own: `python -I cleaning.py`, bytes in, a line and bytes out.

The parsers of pictures and documents are large programs in C that read what strangers send. So they run here, without
the service's secrets, connections or memory and with hard limits on time and memory; nothing of the service is
imported. What comes out was written by our own encoder: of a picture the pixels, of a document what shows its pages.

The line is JSON: {"media_type", "width", "height", "pages"}, or {"refused": a reason of `server.files.intake`}.
"""

import io
import json
import re
import resource
import sys
import zlib
from typing import Any, NoReturn

import pikepdf
from PIL import Image, ImageOps, UnidentifiedImageError

CPU_SECONDS_MAX = 20
MEMORY_BYTES_MAX = 1536 * 1024 * 1024
# 40 MP of four bytes come twice, as read and as written; the limit above is on addresses and holds libraries too.
PIXELS_MAX = 40_000_000
SIDE_MAX = 20_000
PAGES_MAX = 200
OBJECTS_MAX = 100_000
DEPTH_MAX = 60
JPEG_QUALITY = 85

SIGNATURES = {b"%PDF-": "application/pdf", b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}

# Modes that a PNG can hold as they are; everything else becomes RGB or RGBA.
PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA"})

# ISO 32000-2, 12.6.4: every action but a jump inside the document. Where such a dictionary hangs does not matter, and
# so no list of places can be incomplete.
ACTIONS = frozenset(
    {
        "/GoToR",
        "/GoToE",
        "/GoToDp",
        "/Launch",
        "/Thread",
        "/URI",
        "/Sound",
        "/Movie",
        "/Hide",
        "/Named",
        "/SubmitForm",
        "/ResetForm",
        "/ImportData",
        "/JavaScript",
        "/SetOCGState",
        "/Rendition",
        "/Trans",
        "/GoTo3DView",
        "/RichMediaExecute",
    }
)
# Annotations that carry or play something (12.5.6).
CARRIERS = frozenset({"/FileAttachment", "/Sound", "/Movie", "/Screen", "/RichMedia", "/3D", "/Projection"})
# Entries that start, embed, fetch or tell more than the pages show, wherever they stand.
ENTRIES = (
    "/OpenAction",
    "/AA",
    "/JS",
    "/JavaScript",
    "/EmbeddedFiles",
    "/EF",
    "/RF",
    "/AF",
    "/XFA",
    "/RichMediaContent",
    "/RichMediaSettings",
    "/3DD",
    "/Renditions",
    "/AlternatePresentations",
    "/Collection",
    "/SpiderInfo",
    "/IDS",
    "/URLS",
    "/Perms",
    "/Legal",
    "/Requirements",
    "/PieceInfo",
    "/Metadata",
    "/OPI",
    "/Thumb",
)
# Entries of the catalogue that are kept, all others go: a list of what may stay does not age (7.7.2).
CATALOGUE = frozenset(
    {
        "/Type",
        "/Version",
        "/Extensions",
        "/Pages",
        "/PageLabels",
        "/Names",
        "/Dests",
        "/ViewerPreferences",
        "/PageLayout",
        "/PageMode",
        "/Outlines",
        "/AcroForm",
        "/StructTreeRoot",
        "/MarkInfo",
        "/Lang",
        "/OutputIntents",
        "/OCProperties",
    }
)

# JPEG segments that say how to show the picture: JFIF, an ICC profile, Adobe's colour transform. The rest of APP1 to
# APP15 and the comments say where, when and with what it was taken.
_ICC, _ADOBE = b"ICC_PROFILE\0", b"Adobe"
_NEXT_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")


class Refused(Exception):
    """The file cannot be taken in; the argument is the reason's name."""


def clean(content: bytes) -> tuple[dict[str, Any], bytes]:
    """What is told of a file, and the file written anew. Raises Refused; any other error means a damaged file."""
    kind = next((kind for signature, kind in SIGNATURES.items() if content.startswith(signature)), None)
    if kind is None:
        raise Refused("type")
    if kind == "application/pdf":
        pages, written = clean_document(content)
        return {"media_type": kind, "width": None, "height": None, "pages": pages}, written
    width, height, written = clean_picture(content, kind)
    return {"media_type": kind, "width": width, "height": height, "pages": None}, written


def clean_picture(content: bytes, kind: str) -> tuple[int, int, bytes]:
    """Width, height and a new file with the pixels, turned upright, and nothing else."""
    form = "JPEG" if kind == "image/jpeg" else "PNG"
    # The limit is ours, below: Pillow's own only warns up to twice its size.
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(io.BytesIO(content), formats=[form]) as opened:
        width, height = opened.size
        if width * height > PIXELS_MAX or max(width, height) > SIDE_MAX:
            raise Refused("pixels")
        if getattr(opened, "n_frames", 1) > 1 and form == "PNG":
            raise Refused("animated")
        opened.load()
        picture = _upright(opened)
    transparency = picture.info.get("transparency")
    if form == "JPEG":
        picture = picture if picture.mode in {"L", "RGB"} else picture.convert("RGB")
    elif picture.mode not in PNG_MODES:
        picture = picture.convert("RGBA" if "A" in picture.mode or transparency is not None else "RGB")
    # What a file says of itself is handed on by Pillow's writers; only what the pixels need goes with them.
    kept = transparency if form == "PNG" and picture.mode in {"1", "L", "P", "RGB"} else None
    picture.info = {} if kept is None else {"transparency": kept}
    written = io.BytesIO()
    if form == "JPEG":
        picture.save(written, form, quality=JPEG_QUALITY)
    else:
        picture.save(written, form)
    return picture.width, picture.height, written.getvalue()


def _upright(picture: Image.Image) -> Image.Image:
    """The picture as a viewer would turn it. Broken EXIF says nothing about how."""
    try:
        turned = ImageOps.exif_transpose(picture)
    except Exception:  # noqa: BLE001 -- whatever a hostile tag makes the reader raise
        turned = None
    return turned if turned is not None else picture.copy()


def clean_document(content: bytes) -> tuple[int, bytes]:
    """The number of pages, and a new file with the pages and nothing that acts."""
    try:
        document = pikepdf.open(io.BytesIO(content), attempt_recovery=False)
    except pikepdf.PasswordError:
        raise Refused("encrypted") from None
    with document:
        if document.is_encrypted:
            raise Refused("encrypted")
        if len(document.objects) > OBJECTS_MAX:
            raise Refused("complex")
        pages = len(document.pages)
        if pages < 1:
            raise Refused("damaged")
        if pages > PAGES_MAX:
            raise Refused("pages")
        _disarm(document)
        written = io.BytesIO()
        # Everything packed anew: no text of the sender stands plain in the file, where another format's reader, or a
        # browser that guesses, could find it.
        document.save(
            written,
            object_stream_mode=pikepdf.ObjectStreamMode.generate,
            compress_streams=True,
            recompress_flate=True,
            stream_decode_level=pikepdf.StreamDecodeLevel.generalized,
            deterministic_id=True,
            fix_metadata_version=False,
        )
    return pages, written.getvalue()


def _disarm(document: pikepdf.Pdf) -> None:
    """Take out of every object of the document what acts, carries or tells, and drop what hung from it."""
    if "/Info" in document.trailer:
        del document.trailer["/Info"]
    for key in set(document.Root.keys()) - CATALOGUE:
        del document.Root[key]
    names = document.Root.get("/Names")
    if isinstance(names, pikepdf.Dictionary):
        for key in set(names.keys()) - {"/Dests"}:
            del names[key]
    for each in document.objects:
        _disarm_object(each, 0)
    for page in document.pages:
        notes = page.obj.get("/Annots")
        if isinstance(notes, pikepdf.Array):
            page.obj["/Annots"] = pikepdf.Array([note for note in notes if _is_annotation(note)])


def _is_annotation(note: Any) -> bool:
    return isinstance(note, pikepdf.Dictionary) and "/Subtype" in note


def _disarm_object(each: Any, depth: int) -> None:
    """One object and what stands directly inside it; what it refers to comes by itself."""
    if depth > DEPTH_MAX:
        raise Refused("complex")
    if isinstance(each, pikepdf.Stream):
        _disarm_stream(each)
        _disarm_entries(each, depth)
    elif isinstance(each, pikepdf.Dictionary):
        if _acts(each):
            for key in list(each.keys()):
                del each[key]
            return
        _disarm_entries(each, depth)
    elif isinstance(each, pikepdf.Array):
        for inner in each:
            _disarm_inner(inner, depth)


def _disarm_entries(each: Any, depth: int) -> None:
    for entry in ENTRIES:
        if entry in each:
            del each[entry]
    for entry in ("/A", "/PA", "/Next"):
        hung = each.get(entry)
        if isinstance(hung, pikepdf.Array):
            hung = each[entry] = pikepdf.Array([one for one in hung if not _is_spent(one)])
        if _is_spent(hung) or (isinstance(hung, pikepdf.Array) and not len(hung)):
            del each[entry]
    for key in list(each.keys()):
        _disarm_inner(each[key], depth)


def _disarm_inner(inner: Any, depth: int) -> None:
    if isinstance(inner, pikepdf.Object) and not inner.is_indirect:
        _disarm_object(inner, depth + 1)


def _is_spent(hung: Any) -> bool:
    """Whether what hangs here is an action to take out, or the empty rest of one."""
    return isinstance(hung, pikepdf.Dictionary) and (not hung.keys() or _acts(hung))


def _acts(each: Any) -> bool:
    """Whether a dictionary is an action, carries something to play or open, or names a file."""
    return (
        str(each.get("/S")) in ACTIONS
        or str(each.get("/Subtype")) in CARRIERS
        or str(each.get("/Type")) in {"/Filespec", "/F"}
        or "/EF" in each
    )


def _disarm_stream(stream: pikepdf.Stream) -> None:
    """A stream's data is in the file itself, is no program, and a photograph in it does not say where it was taken."""
    for key in ("/F", "/FFilter", "/FDecodeParms", "/Ref"):
        if key in stream:
            del stream[key]
    if str(stream.get("/Subtype")) == "/PS" or str(stream.get("/Subtype2")) == "/PS":
        stream.write(b"")
    if str(stream.get("/Type")) == "/EmbeddedFile":
        stream.write(b"")
    filters = stream.get("/Filter")
    names = [str(name) for name in filters] if isinstance(filters, pikepdf.Array) else [str(filters)]
    if names[-1] not in {"/DCTDecode", "/DCT"}:
        return
    raw = stream.read_raw_bytes()
    if names[:-1] == ["/FlateDecode"]:
        raw = zlib.decompress(raw)
    elif names[:-1]:
        raise Refused("complex")
    parameters = stream.get("/DecodeParms")
    last = parameters[-1] if isinstance(parameters, pikepdf.Array) and len(parameters) else parameters
    stream.write(
        without_metadata(raw),
        filter=pikepdf.Name.DCTDecode,
        decode_parms=last if isinstance(last, pikepdf.Dictionary) else None,
    )


def without_metadata(jpeg: bytes) -> bytes:
    """A JPEG without its EXIF, XMP, comments and further pictures behind its end; its scans are copied as they are.

    ITU-T T.81, B.1: a marker is 0xFF and a code; a segment has its length behind it, big-endian, itself included.
    """
    if not jpeg.startswith(b"\xff\xd8"):
        raise Refused("damaged")
    kept = [b"\xff\xd8"]
    place = 2
    while True:
        found = _NEXT_MARKER.search(jpeg, place)
        if found is None:
            kept.append(jpeg[place:])  # cut off before its end: readers show what there is
            break
        kept.append(jpeg[place : found.start()])  # a scan's data; between segments there is none
        code = found[1][0]
        if code == 0xD9:
            kept.append(b"\xff\xd9")
            break
        start = found.end()
        if code in {0x01, 0xD8}:
            place = start
            continue
        end = start + int.from_bytes(jpeg[start : start + 2], "big")
        if end < start + 2 or end > len(jpeg):
            raise Refused("damaged")
        if _shows(code, jpeg[start + 2 : end]):
            kept.append(b"\xff" + jpeg[found.end() - 1 : end])
        place = end
    return b"".join(kept)


def _shows(code: int, payload: bytes) -> bool:
    if code == 0xFE:
        return False
    if 0xE1 <= code <= 0xEF:
        return (code == 0xE2 and payload.startswith(_ICC)) or (code == 0xEE and payload.startswith(_ADOBE))
    return True


def limit_self() -> None:
    """Hard limits on this process: the kernel ends it, whatever a parser is busy with."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS_MAX, CPU_SECONDS_MAX))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it writes to a pipe and to no file


def main() -> NoReturn:
    """Clean standard input to standard output."""
    limit_self()
    content = sys.stdin.buffer.read()
    written = b""
    try:
        told, written = clean(content)
    except Refused as refusal:
        told = {"refused": str(refusal)}
    except MemoryError:
        told = {"refused": "complex"}
    except (UnidentifiedImageError, pikepdf.PdfError):
        told = {"refused": "damaged"}
    except Exception:  # noqa: BLE001 -- a parser that stumbles over a stranger's file means a damaged file
        told = {"refused": "damaged"}
    sys.stdout.buffer.write(json.dumps(told).encode() + b"\n" + written)
    sys.stdout.buffer.flush()
    sys.exit(0)


if __name__ == "__main__":
    main()
