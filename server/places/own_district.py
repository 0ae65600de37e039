"""The district that this service is run for, within a request."""

from server.access import actor
from server.places.district_data import read_district_code
from server.settings import settings


def district_code() -> str:
    """The official code of the district, six digits."""
    return read_district_code(settings().district_folder)


def require_district() -> None:
    """Raise NotFound unless the actor answers for the whole district."""
    actor().require_cover(district_code())
