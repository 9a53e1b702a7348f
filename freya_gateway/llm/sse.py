"""Server-sent events, as bytes cut anywhere, to the payloads of their `data` fields.

Written for one case, which takes one `split`: whole events of one `data: ` line, ended by LF LF.
All else that the standard allows (CR, CR LF, comments, other fields, several data lines, a BOM) takes the slow way.
"""

BOM = b"\xef\xbb\xbf"
MAX_EVENT_BYTES = 1 << 20
PREFIX = b"data: "


class OversizedEventError(Exception):
    """An event is longer than any provider's chunk can be: the body is not what it claims, or without line ends."""


class SSEDecoder:
    """Incremental; the payloads do not depend on where the body was cut."""

    def __init__(self, *, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        self._rest = b""
        self._after_cr = False
        self._at_start = True

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads that `data` completes, in order; empty ones are left out.

        Raises OversizedEventError one call late, so that what came before the long event is not lost with it.
        """
        if len(self._rest) > self._limit:
            raise OversizedEventError
        if self._after_cr or b"\r" in data:
            data = self._with_lf(data)
        *events, self._rest = (self._rest + data if self._rest else data).split(b"\n\n")
        if self._at_start and events:
            self._at_start = False
            events[0] = events[0].removeprefix(BOM)
        return [payload for event in events if (payload := _payload(event))]

    def end(self) -> list[bytes]:
        """The payload of an event that the end of the body completes: providers forget the last empty line."""
        return self.feed(b"\n\n")

    def _with_lf(self, data: bytes) -> bytes:
        """`data` with LF for CR LF and CR. A CR ends its line at once; an LF in the next read belongs to it."""
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        self._after_cr = self._after_cr or data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _payload(event: bytes) -> bytes:
    if event.startswith(PREFIX) and b"\n" not in event:
        return event[len(PREFIX) :]
    fields = (line.partition(b":") for line in event.split(b"\n"))
    return b"\n".join(value.removeprefix(b" ") for name, _, value in fields if name == b"data")
