"""Drives conversations to their end: one coroutine each, thousands at once.

``scope_jax.conversation`` says what happens next, an engine (ours in this process, or a
server's) samples, the retriever searches, a ``Transcript`` keeps the tokens. None waits
for another. What is sampled depends on a conversation's own seeds only, never on the
order in which answers arrive.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from models.chat import ChatRenderer
from rl.records import Completion, Datum, Request, SamplingParams, Trajectory, Turn
from rl.sampling import seed64
from scope_jax import conversation, transcript
from scope_jax.conversation import ConversationSpec, Finish, Generate, Search
from scope_jax.documents import truncator
from scope_jax.formats import Message
from scope_jax.transcript import RunningTranscript, Transcript

Complete = Callable[[Request], Awaitable[Completion]]
SearchText = Callable[[Sequence[str]], Awaitable[list[str]]]
"""Queries to, for each, the passages as one text, or what went wrong."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Token limits of a conversation.

    Attributes:
      context: prompt and response; a turn may not start at or beyond ``context - 1``.
      response: tokens after the prompt that are trained on.
      whole_turns: a turn only starts where all its tokens would fit (spec 11.2);
        otherwise what room is left must do.
    """

    context: int
    response: int
    whole_turns: bool = False


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One finished conversation.

    Attributes:
      state: the conversation's last state: messages, counts, trace.
      turns: every message after the prompt with its tokens.
      rows: training rows, advantages still 0.
      finish: "done", "turns", "length" or "error".
      prompt_tokens: of the opening prompt.
      sampled_tokens: over all turns.
      whole: how many of the state's messages lie whole within what is trained on.
    """

    state: conversation.State
    turns: tuple[Turn, ...]
    rows: tuple[Datum, ...]
    finish: str
    prompt_tokens: int
    sampled_tokens: int
    whole: int

    @property
    def scored(self) -> tuple[Message, ...]:
        """The prompt and the turns that a reward may read: those trained on whole.

        What lies beyond the limit of a response is not there for the reference either
        (spec 3.7, 9.1); without example turns before the real prompt.
        """
        return self.state.messages[max(self.state.opening - 1, 0) : self.whole]

    def trajectory(
        self, *, uid: str, group: int, role: str, trace: dict[str, Any]
    ) -> Trajectory:
        """The record that leaves a rollout."""
        return Trajectory(
            uid=uid,
            group=group,
            role=role,
            messages=self.state.messages,
            turns=self.turns,
            rows=self.rows,
            finish_reason=self.finish,
            trace=trace,
        )


async def converse(
    spec: ConversationSpec,
    messages: Sequence[dict[str, Any]],
    *,
    complete: Complete,
    search: SearchText,
    renderer: ChatRenderer,
    sampling: SamplingParams,
    limits: Limits,
    uid: str,
    seed: Sequence[str | int],
) -> Episode:
    """Plays one conversation from its opening ``messages`` to its end.

    Args:
      spec: its kind, tool format and rules.
      messages: the opening messages.
      complete: samples one completion.
      search: runs one turn's queries.
      renderer: chat template and tokenizer of the model that speaks.
      sampling: temperature and the like; ``max_new_tokens`` is per turn.
      limits: of the context and of what is trained on.
      uid: names the conversation in its rows.
      seed: parts of every turn's seed; the turn's number is added.
    """
    action: conversation.Action
    state, (action,) = conversation.start(spec, messages)
    tokens = transcript.start(renderer, messages, spec.prompts.tools())
    prompt_tokens = len(tokens.prompt())
    cut = truncator(spec.tool_tokens, renderer)
    limit = min(limits.response, limits.context - prompt_tokens)
    whole = len(state.messages)
    sampled = turn = forgotten = 0

    def fits() -> bool:
        return sum(len(turn.ids) for turn in tokens.turns) - forgotten <= limit

    while not isinstance(action, Finish):
        seen = len(state.messages)
        if isinstance(action, Search):
            shorten = cut if action.unit == "tokens" else _cut_characters(action.limit)
            results = await search(action.queries)
            state, (action,) = conversation.observe(state, results, shorten)
        else:
            if _slides(spec, tokens, limits):
                forgotten += tokens.keep_last(limits.response - 1)
            request = _request(tokens.prompt(), action, renderer, sampling, limits)
            if request is None:
                action = Finish("length")
                break
            completion = await complete(replace(request, seed64=seed64(*seed, turn)))
            turn += 1
            sampled += len(completion.ids)
            state, (action,) = conversation.step(state, completion)
            if len(state.messages) > seen:
                spoken = state.messages[seen]
                tokens.add_sampled(completion, spoken, conversation.said(state))
                seen += 1
                whole = seen if fits() else whole
        if len(state.messages) > seen and not isinstance(action, Finish):
            tokens.add_environment(state.messages[seen:])
        whole = len(state.messages) if fits() else whole
    return Episode(
        state=state,
        turns=tuple(tokens.turns),
        # Results behind the last turn may lie beyond the context (spec 3.7).
        rows=tokens.rows(uid, max_response=limit),
        finish=action.reason,
        prompt_tokens=prompt_tokens,
        sampled_tokens=sampled,
        whole=whole,
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


def _request(
    prompt: tuple[int, ...],
    action: Generate,
    renderer: ChatRenderer,
    sampling: SamplingParams,
    limits: Limits,
) -> Request | None:
    """The request of a turn, or None: no room is left in the context."""
    wanted = action.max_new_tokens or sampling.max_new_tokens
    room = limits.context - len(prompt) - 1
    if room < 1 or (limits.whole_turns and len(prompt) + wanted > limits.context):
        return None
    return Request(
        ids=prompt,
        sampling=replace(sampling, max_new_tokens=min(wanted, room)),
        stop=action.stop,
        stop_ids=renderer.stop_ids,
    )


def _cut_characters(limit: int) -> Callable[[str], str]:
    return lambda text: text if len(text) <= limit else text[:limit] + "...(truncated)"
