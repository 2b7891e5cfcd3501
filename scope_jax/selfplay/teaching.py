"""Teachers asked: log-probs of an answer's tokens under the policy, told more.

The policy is the one that has played, so that this is done before the update. Tokens
are scored as they were sampled; only the prompt before them is another.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from models.mixed_text import mixed
from rl.records import Datum
from scope_jax.method import teacher
from scope_jax.method.formats import Message
from scope_jax.method.transcript import TrainedTurn
from scope_jax.method.types import Task
from scope_jax.selfplay.judging import Judging
from scope_jax.selfplay.rollouts import Rollout
from scope_jax.selfplay.world import World


@dataclass(frozen=True)
class Place:
    """Where a rollout's answer is trained on.

    Attributes:
      datum: that has it.
      before: the messages that the datum's prompt is rendered from.
      question: which of them the task is in.
      prompt: tokens of that prompt.
      first, last: the answer's tokens, both inclusive.
    """

    datum: Datum
    before: tuple[Message, ...]
    question: int
    prompt: int
    first: int
    last: int

    def sampled(self) -> list[int]:
        """The answer's sampled tokens."""
        places = range(self.first, self.last + 1)
        return [place for place in places if self.datum.sampled_mask[place]]


async def taught(world: World, task: Task, rollouts: list[Rollout]) -> list[Rollout]:
    """A group's rewarded rollouts with what their teacher says of their answers."""
    kind = world.config.solver.teacher.kind
    if kind == "critique":
        work = (_criticised(world, task, one) for one in rollouts)
        return list(await asyncio.gather(*work))
    if kind == "dual_path":
        return await _dual_path(world, task, rollouts)
    return rollouts


async def _criticised(world: World, task: Task, rollout: Rollout) -> Rollout:
    """The rollout with its teacher's log-probs; itself where there is no critique."""
    place = answer_place(world, rollout)
    if place is None or not rollout.grades:
        return rollout
    critique = await Judging(world, "solver").critique(
        task,
        rollout.trace["answer"],
        teacher.verdict_lines(task.rubrics, rollout.grades),
        rollout.seed,
    )
    if not critique:
        return rollout
    more = world.prompts.critique_context(critique)
    found = await _teacher_logprobs(world, place, more)
    told = replace(rollout, trace=rollout.trace | {"critique": critique})
    if found is None:
        return told
    datum = replace(place.datum, teacher_logprobs=found)
    gap = _mean(found, place) - _mean(datum.logprobs, place)
    return replace(
        told,
        datums=(*rollout.datums[:-1], datum),
        metrics=rollout.metrics | {"teacher/gap": gap},
    )


async def _dual_path(
    world: World, task: Task, rollouts: Sequence[Rollout]
) -> list[Rollout]:
    """The rollouts with the data of their answers alone, right and wrong ones weighted.

    Their rewards, equal now, have no advantage.
    """
    config = world.config.solver.teacher
    student_power, teacher_power = config.powers
    places = [answer_place(world, one) for one in rollouts]
    right = [one.metrics["reward/rubric_score"] >= config.right for one in rollouts]
    more = world.prompts.document_context(task.document.text)

    async def teach(place: Place | None, is_right: bool) -> tuple[float, ...] | None:
        asked = place is not None and not is_right
        return await _teacher_logprobs(world, place, more) if asked else None

    found = await asyncio.gather(*map(teach, places, right))
    data: list[Datum | None] = [
        _answer_alone(place) if place else None for place in places
    ]
    good = [i for i, place in enumerate(places) if place and right[i]]
    bad = [i for i, logprobs in enumerate(found) if logprobs is not None]
    students = [_mean(places[i].datum.logprobs, places[i]) for i in good]
    teachers = [_mean(found[i], places[i]) for i in bad]
    tau = config.temperature
    likely = teacher.perplexity_weights(students, student_power, tau)
    for i, weight in zip(good, likely, strict=True):
        data[i] = replace(data[i], likelihood_weight=weight)
    close = teacher.perplexity_weights(teachers, teacher_power, tau)
    for i, weight in zip(bad, close, strict=True):
        data[i] = replace(data[i], teacher_logprobs=found[i], teacher_weight=weight)
    return [
        replace(
            one,
            datums=() if datum is None else (datum,),
            credit=0.0,
            trained=_last_alone(one, taught=datum is not None),
        )
        for one, datum in zip(rollouts, data, strict=True)
    ]


def _last_alone(
    rollout: Rollout, *, taught: bool
) -> tuple[tuple[int, TrainedTurn], ...]:
    """What is trained on of each turn: of the last all, if it has an answer."""
    return tuple(
        (index, turn)
        if taught and number == len(rollout.trained)
        else (index, TrainedTurn(turn.tokens, 0, 0, 0))
        for number, (index, turn) in enumerate(rollout.trained, 1)
    )


def answer_place(world: World, rollout: Rollout) -> Place | None:
    """Where a rollout's answer is trained on; None where it is not, or not whole."""
    if not rollout.trace["answer"] or not rollout.datums or not rollout.trained:
        return None
    index, turn = rollout.trained[-1]
    if turn.trained < turn.tokens:
        return None
    datum, renderer = rollout.datums[-1], world.renderer
    end = rollout.opening if renderer.append_only else index
    before = rollout.messages[:end]
    prompt = renderer.prompt_ids(before, world.prompts.tools())
    if tuple(prompt) != datum.ids[: len(prompt)] or 1 not in datum.loss_mask:
        return None
    last = len(datum.ids) - 1 - datum.loss_mask[::-1].index(1)
    first = last
    while datum.loss_mask[first - 1]:
        first -= 1
    place = Place(datum, before, rollout.opening - 1, len(prompt), first, last)
    return place if place.sampled() else None


async def _teacher_logprobs(
    world: World, place: Place, more: str
) -> tuple[float, ...] | None:
    """Log-probs of the answer behind a prompt that says ``more``; NaN elsewhere.

    None where that prompt leaves no room.
    """
    asked = _with_more(world, place, more)
    ids = (*asked, *place.datum.ids[place.prompt : place.last + 1])
    if len(ids) > world.config.engine.max_length:
        return None
    temperature = world.config.solver_train.update.temperature
    found = await world.logprobs(ids, temperature)
    moved = len(asked) - place.prompt
    known = {at: found[at + moved - 1] for at in place.sampled()}
    return tuple(known.get(at, math.nan) for at in range(len(place.datum.ids)))


def _with_more(world: World, place: Place, more: str) -> tuple[int, ...]:
    """The datum's prompt with ``more`` behind the question."""
    messages = list(place.before)
    asked = messages[place.question]
    content = mixed(asked["content"], "\n\n", more)
    messages[place.question] = {**asked, "content": content}
    return tuple(world.renderer.prompt_ids(messages, world.prompts.tools()))


def _answer_alone(place: Place) -> Datum:
    """The datum with nothing but the answer in its loss."""
    datum = place.datum
    inside = [place.first <= at <= place.last for at in range(len(datum.ids))]

    def kept(values: Sequence, other: float) -> tuple:
        return tuple(v if k else other for k, v in zip(inside, values, strict=True))

    return replace(
        datum,
        loss_mask=kept(datum.loss_mask, 0),
        sampled_mask=kept(datum.sampled_mask, 0),
        logprobs=kept(datum.logprobs, math.nan),
    )


def _mean(logprobs: Sequence[float], place: Place) -> float:
    """The mean over an answer's sampled tokens."""
    found = [logprobs[at] for at in place.sampled()]
    return sum(found) / len(found)
