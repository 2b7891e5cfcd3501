"""Pages of the cache: found by content, shared, and handed out again in order."""

import numpy as np
import pytest

from rl.engine.admission import STARVATION_LIMIT, Admission
from rl.engine.pages import PagePool, digests_of
from rl.engine.sequence import SequenceState
from rl.records import Request, SamplingParams

CHUNK, PAGE = 4, 8


def digests(*tokens: int) -> tuple[bytes, ...]:
    return digests_of(np.asarray(tokens, np.int32), CHUNK)


def fill(pool: PagePool, tokens: range, pages: list[int]) -> None:
    for index, digest in enumerate(digests(*tokens)[:-1]):
        pool.record(pages[index // pool.chunks], digest)


def test_a_digest_stands_for_all_that_came_before():
    assert len(digests(*range(11))) == 3
    assert digests(*range(11))[:2] == digests(*range(8))[:2]
    assert digests(*range(11))[2] != digests(*range(12))[2]
    assert digests(9, *range(1, 8))[1] != digests(*range(8))[1]
    # The end of a prompt is not the end of a chunk.
    assert digests(*range(8))[2] not in digests(*range(12))


def test_what_was_computed_is_found_up_to_where_prompts_part():
    pool = PagePool(4, chunks=PAGE // CHUNK)
    pages = pool.allocate(3)
    fill(pool, range(20), pages)
    assert pool.match(digests(*range(20))[:-1]) == (pages, 5)
    assert pool.match(digests(*range(14), 99)[:-1]) == (pages[:2], 3)
    assert pool.match(digests(99, *range(1, 20))[:-1]) == ([], 0)
    # Another page goes on from the same chunk; it holds that chunk too.
    (other,) = pool.allocate(1)
    pool.record(other, digests(*range(12), 7, 7, 7, 7)[3])
    found = pool.match(digests(*range(12), 7, 7, 7, 7)[:-1])
    assert found == ([pages[0], other], 4)


def test_unused_pages_keep_their_content_until_they_are_the_oldest():
    pool = PagePool(4, chunks=PAGE // CHUNK)
    first, second = pool.allocate(2), pool.allocate(1)
    fill(pool, range(16), first)
    fill(pool, range(50, 58), second)
    pool.share(first[:1])
    pool.free(first)
    pool.free(second)
    assert pool.unused == 3  # one page of the first is still shared
    assert pool.allocate(4) is None and pool.unused == 3
    assert pool.allocate(1) == [3]  # an empty one before others
    assert pool.match(digests(*range(16))[:-1]) == (first, 4)
    assert pool.allocate(1) == [first[1]]  # unused for longer than the second
    assert pool.match(digests(*range(16))[:-1]) == (first[:1], 2)
    assert pool.match(digests(*range(50, 58))[:-1]) == (second, 2)
    pool.free(first[:1])
    assert sorted(pool.allocate(2)) == [first[0], second[0]] and pool.unused == 0
    assert pool.match(digests(*range(16))[:-1]) == ([], 0)


def admission(**sizes) -> Admission:
    sizes = {"slots": 2, "pages": 8, "devices": 1} | sizes
    return Admission(page_size=PAGE, chunk=CHUNK, **sizes)


def waiting(admission: Admission, id: int, *tokens: int) -> SequenceState:
    request = Request(ids=tokens, sampling=SamplingParams(max_new_tokens=4))
    sequence = SequenceState(
        id=id, request=request, prompt=np.asarray(tokens, np.int32)
    )
    admission.add(sequence)
    return sequence


def compute(admission: Admission, sequence: SequenceState) -> None:
    before, sequence.done = sequence.done, len(sequence.prompt)
    sequence.ready = True
    admission.progress(sequence, before)


def test_a_next_turn_comes_before_a_new_sequence_and_not_forever():
    a = admission(slots=1, pages=16)
    first = waiting(a, 0, *range(10))
    assert a.admit() == [first] and first.cached == 0
    compute(a, first)
    new = waiting(a, 1, *range(70, 80))
    for turn in range(STARVATION_LIMIT + 1):
        a.release(first)
        following = waiting(a, 2 + turn, *range(10), turn)
        (first,) = a.admit()
        if turn == STARVATION_LIMIT:
            assert first is new
        else:
            assert first is following and first.cached == 8
        compute(a, first)


def test_a_long_queue_does_not_keep_next_turns_out():
    a = admission(slots=1, pages=16)
    first = waiting(a, 0, *range(10))
    assert a.admit() == [first]
    compute(a, first)
    queue = [waiting(a, 1 + i, *range(70 + 10 * i, 80 + 10 * i)) for i in range(20)]
    came = []
    for turn in range(3 * STARVATION_LIMIT):
        a.release(first)
        following = waiting(a, 100 + turn, *range(10), turn)
        (first,) = a.admit()
        compute(a, first)
        if first is not following:
            came.append(first)
            a.release(first)
            (first,) = a.admit()
            compute(a, first)
    assert came == queue[:2]  # one at a time, the oldest


def test_a_full_device_does_not_hold_up_the_others():
    a = admission(slots=3, pages=4, devices=2)
    first = waiting(a, 0, *range(10))
    assert a.admit() == [first]
    compute(a, first)
    assert a.grow(first, 32)  # all there is on its device
    following = waiting(a, 1, *range(8), 60)
    others = [waiting(a, 2, *range(50, 56)), waiting(a, 3, *range(30, 36))]
    assert a.admit() == others
    assert a.device(first) not in {a.device(other) for other in others}
    assert list(a.waiting) == [following]
    a.release(first)
    assert a.admit() == [following] and following.cached == 8


def test_twins_wait_until_their_prompt_is_computed_and_share_it():
    a = admission(slots=3)
    first, *twins = [waiting(a, id, *range(10)) for id in range(3)]
    assert a.admit() == [first] and a.admit() == []
    compute(a, first)
    assert a.admit() == twins
    for twin in twins:
        assert twin.ready and twin.cached == 10
        assert twin.pages[0] == first.pages[0] and twin.hidden_from == first.slot
        assert twin.page_from == first.pages[1]
    assert len({sequence.pages[1] for sequence in (first, *twins)}) == 3


@pytest.mark.parametrize("ready", [False, True])
def test_a_source_that_leaves_holds_nobody_up(ready):
    a = admission()
    first, second = (waiting(a, id, *range(10)) for id in range(2))
    assert a.admit() == [first]
    if ready:
        compute(a, first)
    a.release(first)
    assert a.admit() == [second]
    # The last token is computed, as nobody has its hidden state.
    assert second.cached == (8 if ready else 0) and not second.ready


def test_sequences_spread_over_devices_and_follow_their_prefix():
    a = admission(slots=2, devices=2)
    first = waiting(a, 0, *range(10))
    assert a.admit() == [first]
    compute(a, first)
    other = waiting(a, 1, *range(30, 40))
    twin = waiting(a, 2, *range(10))
    assert a.admit() == [twin, other]
    assert a.device(twin) == a.device(first) != a.device(other)


def test_a_sequence_that_finds_no_page_starts_again_as_if_nothing_had_been():
    a = admission(pages=3)
    first, second = waiting(a, 0, *range(6)), waiting(a, 1, *range(50, 56))
    assert a.admit() == [first, second]
    compute(a, first)
    compute(a, second)
    assert a.grow(first, 16) and not a.grow(first, 25)
    assert not a.grow(second, 9) and len(second.pages) == 1
    second.ids, second.logprobs = [1], [-0.5]
    a.requeue(second)
    assert list(a.waiting) == [second] and second.ids == [] and not second.ready
    assert a.grow(first, 24)
    a.release(first)
    assert a.admit() == [second] and second.cached == 0  # its page went to the first
