"""What the players of a stage reach: each other, a search, the corpus.

A stage, a reward or an evaluation gets a ``World`` and nothing else of the program that
runs around it.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from models.chat import ChatRenderer
from retrieval.passages import Passages
from rl.records import Completion, Request
from scope_jax.config import Config
from scope_jax.method import transcript
from scope_jax.method.conversation import ConversationSpec
from scope_jax.method.formats import Message
from scope_jax.method.prompts import PromptSet
from scope_jax.selfplay.own_code import OwnCode
from scope_jax.small_world.world import World as Encyclopedia

Complete = Callable[[Request], Awaitable[Completion]]
"""Samples one completion."""

Score = Callable[[Sequence[int], float], Awaitable[list[float]]]
"""Of given tokens but the first: their log-probs at a temperature."""

SearchText = Callable[[Sequence[str]], Awaitable[list[str]]]
"""Queries to, for each, the passages as one text, or what went wrong."""


AskJudge = Callable[..., Awaitable[str]]
"""What the judge says to ``messages``, given ``temperature``, ``max_tokens`` and
``seed64``; the empty string if the prompt does not fit it."""


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything that a conversation and its reward can reach.

    Attributes:
      config: of the run, resolved (``small_world.assets.resolve``).
      prompts: the prompt set of the run's tool format.
      renderer: chat template and tokenizer of all three roles.
      passages: the corpus that documents are drawn from; None where none are.
      policy: the policy in training, on this process's own engine.
      solver: the previous Solver, on the inference process.
      judge: the frozen judge, on the inference process.
      rubric_writer, grader: who writes rubrics and who grades answers, if that is not
        the judge (``inference.rubric_model``, ``inference.grader_model``).
      search: the retriever, on the inference process.
      own_reward: a part of the Solver's reward that the user's code gives, if there is
        one.
      truth: every fact of the corpus, where it is the small world; for metrics and
        people (``truth_metrics``), never for a reward.
      solver_context: most tokens of a difficulty rollout, prompt included.
      logprobs: log-probs of given tokens under the policy in training, for a teacher.
    """

    config: Config
    prompts: PromptSet
    renderer: ChatRenderer
    passages: Passages | None
    policy: Complete
    solver: Complete
    judge: AskJudge
    search: SearchText
    solver_context: int
    rubric_writer: AskJudge | None = None
    grader: AskJudge | None = None
    own_reward: OwnCode | None = None
    truth: Encyclopedia | None = None
    logprobs: Score | None = None

    @cached_property
    def writes_thinking(self) -> bool:
        """Whether the template gives a turn without thinking an empty block."""
        return transcript.writes_thinking(self.renderer)

    def challenger_spec(
        self, kind: str, searches: int, max_turns: int
    ) -> ConversationSpec:
        """The rules of a Challenger's conversation of ``kind``."""
        config = self.config
        return ConversationSpec(
            kind=kind,
            tool_format=config.tool_format,
            prompts=self.prompts,
            num_searches=searches,
            max_turns=max_turns,
            style=config.challenger.style,
            tool_tokens=config.challenger.tool_tokens,
            compat=config.compat,
        )

    def solver_spec(self, kind: str) -> ConversationSpec:
        """The rules of a Solver's conversation of ``kind``."""
        config = self.config
        return ConversationSpec(
            kind=kind,
            tool_format=config.tool_format,
            prompts=self.prompts,
            max_turns=config.solver.max_turns,
            forced_rounds=config.solver.forced_rounds,
            tool_tokens=config.challenger.tool_tokens,
            compat=config.compat,
        )

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of an opening prompt, tool schema included."""
        return len(self.renderer.prompt_ids(messages, self.prompts.tools()))

    def solver_prompt_tokens(self, task: str) -> int:
        """Tokens of the Solver's prompt for a task."""
        limit = self.config.solver.max_searches
        return self.prompt_tokens(self.prompts.solver(task, limit))
