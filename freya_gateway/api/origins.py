"""Which pages may call from a browser: those of FREYA_ALLOWED_ORIGINS; in development without any, this machine's."""

import re

from freya_gateway.settings import Settings

LOCAL_ORIGIN = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?"


def allows_local(settings: Settings) -> bool:
    return not settings.production and not settings.allowed_origins


def is_allowed(origin: str, settings: Settings) -> bool:
    """The rule of the CORS middleware, for those who decide by themselves."""
    if allows_local(settings):
        return re.fullmatch(LOCAL_ORIGIN, origin) is not None
    return origin in settings.allowed_origins
