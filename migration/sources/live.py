"""A live Firestore or its emulator, read through the generated client: every document in order of its name.

The high-level `stream()` ends silently where it is cut, and one reference to another project kills it; so pages,
cursor, read time and retries are our own, and only an answer without documents is the end. Firestore is never written.
"""

import json
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import grpc
from firebase_admin import credentials
from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import GoogleAuthError
from google.cloud.firestore_v1 import types
from google.cloud.firestore_v1.services.firestore import FirestoreAsyncClient
from google.cloud.firestore_v1.services.firestore.transports import FirestoreGrpcAsyncIOTransport
from google.protobuf.wrappers_pb2 import Int32Value

from migration.documents import Document, Loss, Page, SourceError
from migration.sources.files import PAGE_BYTES, weight
from migration.sources.live_errors import Patience, Waiting, refusal
from migration.sources.live_values import document

PAGE_DOCUMENTS = 300
CALL_SECONDS = 120.0
READ_TIME_LASTS = 50 * 60.0  # Firestore answers for the past hour
ANY_SIZE = (("grpc.max_receive_message_length", -1),)
OWNER = (("authorization", "Bearer owner"),)  # the emulator's way around its rules


@dataclass(frozen=True, slots=True)
class Place:
    """`emulator`: host:port; None is Google's."""

    project: str
    database: str
    emulator: str | None

    @property
    def parent(self) -> str:
        return f"projects/{self.project}/databases/{self.database}/documents"


def open_live(place: str, *, emulator: str | None = None) -> "LiveSource":
    """`PROJECT[/DATABASE]`."""
    project, _, database = place.strip("/").partition("/")
    if not project or "/" in database:
        raise SourceError("the source must be firestore://PROJECT[/DATABASE]")
    host = emulator or os.environ.get("FIRESTORE_EMULATOR_HOST")
    patience = Patience(total=15.0) if host else Patience()
    return LiveSource(Place(project, database or "(default)", host), patience=patience)


@dataclass(slots=True)
class _Received:
    """What came of a page before its end or its failure. An answer says its read time even without documents."""

    documents: list[Document] = field(default_factory=list[Document])
    answered: bool = False


class LiveSource:
    kind = "firestore"

    def __init__(self, place: Place, *, patience: Patience | None = None, now: Callable[[], float] = time.time) -> None:
        self.project, self.database = place.project, place.database
        self._place, self._patience, self._now = place, patience or Patience(), now
        self._read_at(datetime.fromtimestamp(now(), UTC))
        self._client: FirestoreAsyncClient | None = None
        self._losses: list[Loss] = []

    def _read_at(self, moment: datetime) -> None:
        self._read_time, self.fingerprint = moment, moment.isoformat()

    def goes_on(self, fingerprint: str, *, complete: bool) -> bool:
        """Firestore may have changed since a reading that came to its end; one that was cut goes on at its moment."""
        try:
            begun = datetime.fromisoformat(fingerprint)
        except ValueError:
            return False
        if complete or self._now() - begun.timestamp() > READ_TIME_LASTS:
            return False
        self._read_at(begun)
        return True

    async def expected(self) -> int | None:
        waiting = Waiting(self._patience)
        while True:
            try:
                return await self._count()
            except (GoogleAPICallError, grpc.RpcError, GoogleAuthError) as error:
                await waiting.after(error, self._place)

    async def pages(self, after: str | None = None) -> AsyncIterator[Page]:
        cursor, waiting = self._resumed(after), Waiting(self._patience)
        while True:
            self._renew()
            received, failure = _Received(), None
            try:
                await self._receive(received, cursor)
            except (GoogleAPICallError, grpc.RpcError, GoogleAuthError) as error:
                failure = error
            if received.documents:
                cursor, waiting = received.documents[-1].path, Waiting(self._patience)
                yield Page(received.documents, json.dumps([self._read_time.isoformat(), *cursor]))
            elif failure is None and received.answered:
                return
            if failure or not received.documents:
                await waiting.after(failure, self._place)

    def _resumed(self, after: str | None) -> tuple[str, ...]:
        """The last committed document; reading goes on at the moment at which it was read."""
        if after is None:
            return ()
        try:
            read_time, *path = json.loads(after)
            self._read_at(datetime.fromisoformat(read_time))
        except (ValueError, TypeError):
            raise SourceError("the checkpoint is not one of this source") from None
        return tuple(path)

    def _renew(self) -> None:
        if self._now() - self._read_time.timestamp() > READ_TIME_LASTS:
            self._read_at(datetime.fromtimestamp(self._now(), UTC))
            detail = "read at more than one moment, as it took over an hour: run `delta` afterwards"
            self._losses = [Loss("several-read-times", detail, sum(loss.count for loss in self._losses) + 1)]

    async def _receive(self, received: _Received, cursor: tuple[str, ...]) -> None:
        query = _everything(PAGE_DOCUMENTS)
        if cursor:
            name = "/".join((self._place.parent, *cursor))
            query.start_at = types.Cursor(values=[types.Value(reference_value=name)], before=False)
        request = types.RunQueryRequest(parent=self._place.parent, structured_query=query, read_time=self._read_time)
        answer = await self._connected().run_query(request, retry=None, timeout=CALL_SECONDS, metadata=self._metadata)
        size = 0
        async for response in answer:
            received.answered = True
            if "document" in response:
                found = document(types.RunQueryResponse.pb(response).document)
                received.documents.append(found)
                size += weight(found.fields)
            if size >= PAGE_BYTES:
                return  # the call ends with its last reference

    async def _count(self) -> int:
        request = types.RunAggregationQueryRequest(
            parent=self._place.parent,
            structured_aggregation_query=types.StructuredAggregationQuery(
                structured_query=_everything(None),
                aggregations=[
                    types.StructuredAggregationQuery.Aggregation(
                        alias="count", count=types.StructuredAggregationQuery.Aggregation.Count()
                    )
                ],
            ),
            read_time=self._read_time,
        )
        client = self._connected()
        answer = await client.run_aggregation_query(request, retry=None, timeout=CALL_SECONDS, metadata=self._metadata)
        async for response in answer:
            if "count" in response.result.aggregate_fields:
                return int(response.result.aggregate_fields["count"].integer_value)
        raise grpc.RpcError

    @property
    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return OWNER if self._place.emulator else ()

    def _connected(self) -> FirestoreAsyncClient:
        if self._client is None:
            self._client = _client(self._place)
        return self._client

    def losses(self) -> Sequence[Loss]:
        return self._losses

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.transport.close()


def _everything(limit: int | None) -> types.StructuredQuery:
    """All documents of all collections, by name: also those below documents that do not exist."""
    query = types.StructuredQuery(
        from_=[types.StructuredQuery.CollectionSelector(all_descendants=True)],
        order_by=[types.StructuredQuery.Order(field=types.StructuredQuery.FieldReference(field_path="__name__"))],
    )
    if limit is not None:
        query.limit = Int32Value(value=limit)
    return query


def _client(place: Place) -> FirestoreAsyncClient:
    if place.emulator:
        channel = grpc.aio.insecure_channel(place.emulator, options=ANY_SIZE)
        return FirestoreAsyncClient(transport=FirestoreGrpcAsyncIOTransport(channel=channel))
    try:
        return FirestoreAsyncClient(credentials=credentials.ApplicationDefault().get_credential())
    except GoogleAuthError as error:
        raise refusal(error, place.parent, emulator=False) from error
