"""Plays conversations to their end: one coroutine each, thousands at once.

``method.conversation`` says what happens next, an engine (ours in this process, or a
server's) samples, the retriever searches, a ``Transcript`` keeps the tokens. What is
sampled depends on a conversation's own seed only, never on the order in which answers
arrive.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from models.chat import ChatRenderer
from rl.engine.sampling import seed64
from rl.records import Completion, Datum, Request, SamplingParams
from scope_jax.method import conversation, transcript
from scope_jax.method.conversation import ConversationSpec, Finish, Generate, Search
from scope_jax.method.formats import Message
from scope_jax.method.transcript import RunningTranscript, TrainedTurn, Transcript
from scope_jax.method.types import Grade
from scope_jax.selfplay.documents import truncator
from scope_jax.selfplay.world import Complete, World

Seed = tuple[str | int, ...]
"""What a random draw depends on: the run's seed, then what is drawn for."""


NOTHING = Completion.nothing("stop")
"""What a turn is begun with that is sampled from its first token on."""


def uid_of(seed: Seed) -> str:
    """The name of what is drawn with ``seed``: all but the run's own."""
    return "/".join(map(str, seed[1:]))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Token limits of a conversation.

    Attributes:
      context: prompt and response; a turn may not start at or beyond ``context - 1``.
      response: tokens after the prompt that are trained on.
      whole_turns: a turn only starts where all its tokens would fit (spec 11.2);
        otherwise it gets what room is left.
    """

    context: int
    response: int
    whole_turns: bool = False


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One finished conversation and, once it is rewarded, what it earned and why.

    The update reads ``datums``, ``group`` and ``reward``; all else is for rewards,
    metrics and people.

    Attributes:
      seed: of the conversation, the run's seed first.
      messages: the conversation as role/content dictionaries, prompt included.
      opening: how many of them were there at the start.
      trained_messages: how many of them fit entirely within what is trained on.
      datums: what an update trains on: one for append-only chat templates, one per turn
        where a template rewrites history (spec 12.4); advantages still 0.
      finish_reason: "done" (ended by its own rules), "turns", "length" or "error".
      turns: assistant turns.
      searches: queries that were run.
      passages: text of every search result that was shown.
      turn_log: one line per turn: what was read in it and what followed.
      sampled_tokens: over all turns.
      begun_tokens: that its first turn was begun with, sampled for another rollout.
      cut_off: whether it would have gone on but for a limit of tokens: that of its last
        turn, of the context, or of what a reward may read.
      trained: of each sampled turn its message's index, and what is trained on of it.
      left_out: turns that no datum has, because the template writes them differently.
      seconds: that it was played and that it waited for its reward; no part of its
        record, which is the same in every run.
      group: index of the prompt within the step; the rollouts of a group share it.
      role: "challenger" or "solver".
      reward: what GRPO sees; NaN before it is rewarded.
      metrics: numbers of this rollout, averaged over the step; NaN is left out.
      errors: classes of errors in what model and judge wrote, counted over the step.
      trace: how the reward came about, in words and numbers.
      grades: what the judge said of its answer, a grade per rubric.
      own: what the user's own part of the reward gave, if there is one.
      posed: how, if not as a step's own prompt: "replay", "ncq", "bcq" or "resampled"
        (``method.task_buffer``, ``method.axpo``). Such a rollout is trained on and has
        no part in a step's statistics.
      credit: the reward that its group is compared by, where that is not its own.
    """

    seed: Seed
    messages: tuple[Message, ...]
    opening: int
    trained_messages: int
    datums: tuple[Datum, ...]
    finish_reason: Literal["done", "turns", "length", "error"]
    turns: int
    searches: int
    passages: tuple[str, ...]
    turn_log: tuple[dict[str, Any], ...]
    sampled_tokens: int
    begun_tokens: int = 0
    cut_off: bool = False
    trained: tuple[tuple[int, TrainedTurn], ...] = ()
    left_out: int = 0
    seconds: tuple[float, float] = (0.0, 0.0)
    group: int = 0
    role: str = ""
    reward: float = math.nan
    metrics: dict[str, float] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    trace: dict[str, Any] = field(default_factory=dict)
    grades: tuple[Grade, ...] = ()
    own: float | None = None
    posed: Literal["", "replay", "ncq", "bcq", "resampled"] = ""
    credit: float | None = None

    @property
    def compared(self) -> float:
        """The reward that its group is compared by."""
        return self.reward if self.credit is None else self.credit

    @property
    def step(self) -> int:
        """The training step that it belongs to, from 1 over all iterations."""
        return int(self.seed[3])

    @property
    def uid(self) -> str:
        """Names the rollout: ``iteration/stage/step/prompt/sample``."""
        return uid_of(self.seed)

    @property
    def played(self) -> tuple[Message, ...]:
        """The real prompt and what followed, without example turns before it."""
        return self.messages[max(self.opening - 1, 0) :]

    @property
    def scored(self) -> tuple[Message, ...]:
        """The prompt and the turns that a reward may read: those trained on whole.

        What lies beyond the limit of a response is not there for the reference either
        (spec 3.7, 9.1).
        """
        return self.messages[max(self.opening - 1, 0) : self.trained_messages]

    def json(self, advantage: float | tuple[float, ...]) -> dict[str, Any]:
        """The rollout as a person reads it: conversation, reward and why.

        Args:
          advantage: of the rollout, and so of each of its turns; or one for each of
            them, whose mean then is the rollout's.
        """
        turns: Sequence[float]
        if isinstance(advantage, tuple):
            turns, advantage = advantage, sum(advantage) / max(len(advantage), 1)
        else:
            turns = [advantage] * len(self.trained)
        return {
            "uid": self.uid,
            "group": self.group,
            "role": self.role,
            "reward": self.reward,
            "advantage": advantage,
            "finish_reason": self.finish_reason,
            "messages": list(self.messages),
            "trained": [
                {"message": index, "advantage": own, **asdict(turn)}
                for own, (index, turn) in zip(turns, self.trained, strict=True)
            ],
            "trace": self.trace,
            "metrics": {k: v for k, v in self.metrics.items() if math.isfinite(v)},
            "tokens": self.sampled_tokens,
            **({"posed": self.posed} if self.posed else {}),
        }


async def converse(
    world: World,
    spec: ConversationSpec,
    messages: Sequence[Message],
    *,
    complete: Complete,
    sampling: SamplingParams,
    limits: Limits,
    seed: Seed,
    begun: Completion = NOTHING,
) -> Rollout:
    """Plays one conversation from its opening ``messages`` to its end.

    Args:
      world: whose search is run, and whose chat template is used.
      spec: its kind, tool format and rules.
      messages: the opening messages.
      complete: samples one completion.
      sampling: temperature and the like; ``max_new_tokens`` is per turn.
      limits: of the context and of what is trained on.
      seed: of the conversation; each turn adds its number.
      begun: tokens that its first turn is begun with, in place of the first ones that
        would be sampled.
    """
    action: conversation.Action
    state, action = conversation.start(spec, messages)
    renderer = world.renderer
    tokens = transcript.start(
        renderer, messages, spec.prompts.tools(), compat=spec.compat
    )
    limit = min(limits.response, limits.context - len(tokens.prompt()))
    trained = len(state.messages)
    last, sampled, dropped = NOTHING, 0, 0
    spoken: list[int] = []  # indices of the sampled messages

    def fits() -> bool:
        return tokens.response_tokens - dropped <= limit

    # ``tokens`` has exactly the messages before ``seen`` whenever a turn is requested.
    while not isinstance(action, Finish):
        seen = len(state.messages)
        if isinstance(action, Search):
            results = await world.search(action.queries)
            cut = truncator(action.limit, action.unit, renderer)
            state, action = conversation.observe(state, results, cut)
        else:
            if _slides(spec, tokens, limits):
                dropped += tokens.keep_last(limits.response - 1)
            start, prompt = NOTHING if state.turns else begun, tokens.prompt()
            request = _request(prompt, start, action, renderer, sampling, limits)
            if request is None:
                action = Finish("length")
                break
            turn_seed = seed64(*seed, state.turns)
            last = completion = await complete(replace(request, seed64=turn_seed))
            sampled += len(completion.ids)
            completion = _joined(start, completion)
            # Where the template opens the thinking, the rules must see it opened.
            opening = renderer.opening_of(prompt)
            said = replace(completion, text=opening + completion.text)
            state, action = conversation.step(state, said)
            if len(state.messages) > seen:
                message = state.messages[seen]
                kept = state.last_text.removeprefix(opening)
                tokens.add_sampled(completion, message, kept)
                spoken.append(seen)
                seen += 1
                trained = seen if fits() else trained
        if len(state.messages) > seen and not isinstance(action, Finish):
            tokens.add_environment(state.messages[seen:])
        trained = len(state.messages) if fits() else trained
    if isinstance(tokens, RunningTranscript):
        # Results behind the last turn may lie beyond the context (spec 3.7).
        tokens.cut_response(limit)
    turns = tuple(zip(spoken, tokens.turns(), strict=True))
    counts = {"trained": trained, "sampled": sampled, "begun": len(begun.ids)}
    return _ended(seed, state, tokens, action, last, turns=turns, **counts)


def _ended(
    seed: Seed,
    state: conversation.State,
    tokens: Transcript,
    action: Finish,
    last: Completion,
    *,
    trained: int,
    sampled: int,
    begun: int,
    turns: tuple[tuple[int, TrainedTurn], ...],
) -> Rollout:
    """The record of a conversation that has come to its end."""
    return Rollout(
        seed=seed,
        messages=state.messages,
        opening=state.opening,
        trained_messages=trained,
        datums=tokens.datums(uid_of(seed)),
        finish_reason=action.reason,
        turns=state.turns,
        searches=state.searches,
        passages=state.passages,
        turn_log=state.turn_log,
        sampled_tokens=sampled,
        begun_tokens=begun,
        cut_off="length" in (action.reason, last.finish_reason)
        or trained < len(state.messages),
        trained=turns,
        left_out=tokens.left_out,
    )


def _slides(spec: ConversationSpec, tokens: Transcript, limits: Limits) -> bool:
    """Whether a full context loses its beginning; see ``Compat.sliding_context``."""
    return (
        spec.compat.sliding_context
        and spec.tool_format == "search_r1"
        and spec.kind not in ("difficulty", "task")
        and isinstance(tokens, RunningTranscript)
        and len(tokens.prompt()) >= limits.context - 1
    )


def _joined(begun: Completion, rest: Completion) -> Completion:
    """A turn from what it was begun with and what was sampled behind it."""
    if not begun.ids:
        return rest
    return replace(
        rest,
        ids=begun.ids + rest.ids,
        logprobs=begun.logprobs + rest.logprobs,
        text=begun.text + rest.text,
    )


def _request(
    prompt: tuple[int, ...],
    begun: Completion,
    action: Generate,
    renderer: ChatRenderer,
    sampling: SamplingParams,
    limits: Limits,
) -> Request | None:
    """The request of a turn, or None: no room is left in the context."""
    wanted = sampling.max_new_tokens - len(begun.ids)
    prompt += begun.ids
    room = limits.context - len(prompt) - 1
    if min(room, wanted) < 1 or (
        limits.whole_turns and len(prompt) + wanted > limits.context
    ):
        return None
    return Request(
        ids=prompt,
        sampling=replace(sampling, max_new_tokens=min(wanted, room)),
        stop=action.stop,
        stop_ids=renderer.stop_ids,
    )
