"""What entries may hold, for the schemas of every room: lines, paragraphs, codes, days.

None takes a control character or half a surrogate pair, which PostgreSQL stores not or nobody sees. The patterns are
those of ECMAScript too, for they stand in the API's description; `(?!\\n)$` is the end of the text and not of a line.
"""

from datetime import date

import marshmallow as ma

_CONTROLS = r"\u0000-\u001f\u007f-\u009f\ud800-\udfff"
_CONTROLS_BUT_BREAKS = r"\u0000-\u0008\u000b-\u001f\u007f-\u009f\ud800-\udfff"

# One line with something to read in it.
LINE = ma.validate.Regexp(rf"^ *[^\s{_CONTROLS}][^{_CONTROLS}]*(?!\n)$")
# One line, perhaps empty.
LINE_OR_NOTHING = ma.validate.Regexp(rf"^[^{_CONTROLS}]*(?!\n)$")
# Paragraphs with something to read in them.
WORDS = ma.validate.Regexp(rf"^(?=[\s\S]*\S)[^{_CONTROLS_BUT_BREAKS}]*(?![^\n])$")
# Paragraphs, perhaps none.
WORDS_OR_NOTHING = ma.validate.Regexp(rf"^[^{_CONTROLS_BUT_BREAKS}]*(?![^\n])$")
# One line without blanks around it: what is published as it stands.
TRIMMED_LINE = ma.validate.Regexp(rf"^[^\s{_CONTROLS}]([^{_CONTROLS}]*[^\s{_CONTROLS}])?(?!\n)$")

# An official code: district, street or community.
DIVISION = [ma.validate.Length(6, 12), ma.validate.Regexp(r"^([0-9]{6}|[0-9]{9}|[0-9]{12})(?!\n)$")]
# A name for programs, such as that of a theme day or a programme.
SLUG = ma.validate.Regexp(r"^[a-z][a-z0-9-]*(?!\n)$")
# A code that a person typed, as it was read out: with blanks and hyphens, in any case.
TYPED_CODE = ma.validate.Regexp(r"^[0-9A-Za-z -]+(?!\n)$")
# What a phone calls its installation of the mini-program, or a trip that it recorded.
PHONES_OWN_ID = ma.validate.Regexp(r"^[!-~]{8,64}(?!\n)$")


def in_our_time(day: date) -> None:
    """Refuse a day, or an instant, that no district of ours can mean."""
    if not 2020 <= day.year <= 2100:
        raise ma.ValidationError("Must be from 2020 to 2100.")
