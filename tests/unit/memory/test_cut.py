"""Where a segment ends: after ten messages, after a silence, with its conversation."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from freya_gateway.db.indexing import NewSegment, OpenSegment, Unindexed
from freya_gateway.memory.indexing import LONGEST_SEGMENT, SILENCE, cut

START = datetime(2026, 3, 2, tzinfo=UTC)
A, B = UUID(int=1), UUID(int=2)
MINUTE = timedelta(minutes=1)


def spoken(*minutes: int, first_seq: int = 1, conversation: UUID = A) -> list[Unindexed]:
    """Messages at these minutes."""
    return [Unindexed(first_seq + place, conversation, START + MINUTE * minute) for place, minute in enumerate(minutes)]


def spans(segments: Sequence[NewSegment]) -> list[tuple[int, int]]:
    return [(segment.first_seq, segment.last_seq) for segment in segments]


def test_a_segment_has_ten_messages_at_most() -> None:
    assert spans(cut(spoken(*range(23)), None)) == [(1, 10), (11, 20), (21, 23)]


def test_a_silence_of_more_than_half_an_hour_ends_a_segment() -> None:
    assert spans(cut(spoken(0, 30, 60), None)) == [(1, 3)]
    assert spans(cut(spoken(0, 30, 61), None)) == [(1, 2), (3, 3)]


def test_a_segment_stays_within_its_conversation() -> None:
    messages = [*spoken(0, 1), *spoken(2, 3, first_seq=3, conversation=B)]
    found = cut(messages, None)
    assert spans(found) == [(1, 2), (3, 4)]
    assert [segment.conversation_id for segment in found] == [A, B]


def test_an_open_segment_grows() -> None:
    last = OpenSegment(first_seq=1, conversation_id=A, last_at=START, size=2)
    (grown,) = cut(spoken(5, 6, first_seq=3), last)
    assert (grown.first_seq, grown.last_seq, grown.last_at, grown.new) == (1, 4, START + 6 * MINUTE, [3, 4])


def test_a_full_or_silent_or_other_segment_does_not_grow() -> None:
    full = OpenSegment(1, A, START, LONGEST_SEGMENT)
    silent = OpenSegment(1, A, START - SILENCE - MINUTE, 1)
    other = OpenSegment(1, B, START, 1)
    for last in (full, silent, other):
        assert spans(cut(spoken(0, first_seq=11), last)) == [(11, 11)]


def test_nothing_new_leaves_everything_as_it_is() -> None:
    assert cut([], OpenSegment(1, A, START, 3)) == []


moments = st.lists(st.tuples(st.integers(0, 45), st.sampled_from([A, B])), min_size=1, max_size=60)


@given(moments, st.data())
def test_batches_give_the_same_segments_as_all_at_once(pauses: list[tuple[int, UUID]], data: st.DataObject) -> None:
    at, messages = START, list[Unindexed]()
    for seq, (pause, conversation) in enumerate(pauses, 1):
        at += MINUTE * pause
        messages.append(Unindexed(seq, conversation, at))
    size = data.draw(st.integers(1, len(messages)))
    stored: dict[int, NewSegment] = {}
    last: OpenSegment | None = None
    for start in range(0, len(messages), size):
        for segment in cut(messages[start : start + size], last):
            before = stored.get(segment.first_seq)
            segment.new = [*(before.new if before else []), *segment.new]
            stored[segment.first_seq] = segment
        newest = stored[max(stored)]
        last = OpenSegment(newest.first_seq, newest.conversation_id, newest.last_at, len(newest.new))
    whole = cut(messages, None)
    assert [(s.first_seq, s.last_seq, s.new) for s in stored.values()] == [
        (s.first_seq, s.last_seq, s.new) for s in whole
    ]
    assert [seq for segment in whole for seq in segment.new] == [message.seq for message in messages]
