"""A world whose judge, Solver and search say what a test tells them to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import configs
from models.chat import ChatRenderer
from rl.engine.sampling import seed64
from rl.records import Completion
from scope_jax.config import Config
from scope_jax.method import prompts
from scope_jax.method.compat import OFF
from scope_jax.selfplay.rollouts import Rollout, Seed
from scope_jax.selfplay.world import World
from tests.scope_jax.inference.inference_world import byte_tokenizer

SCORE = {1: "<think>so</think><score>1</score>", 0: "<score>0</score>", None: "hm"}
STEMS = ("rubric", "grader", "grader_thinking", "gate_entity", "gate_source_relevance")
STEMS += ("judge_answer", "critique")


def settings(tool_format: str = "search_r1", *, compat=OFF, **changes) -> Config:
    """The method's constants with the default prompts, in one format."""
    base = configs.load("qwen25_7b")
    return replace(
        base, tool_format=tool_format, compat=compat, prompts="default", **changes
    )


def rubrics(count: int, *, before: str = "") -> str:
    """What a judge says that writes ``count`` rubrics."""
    lines = "".join(
        f'<rubric priority="critical">Names fact {i}.</rubric>'
        for i in range(1, count + 1)
    )
    return f"{before}<rubrics>{lines}</rubrics>"


@cache
def renderer(tool_format: str) -> ChatRenderer:
    """Bytes as tokens; the template that the format's family uses."""
    template = "qwen3_strip_thinking" if tool_format == "tool_call" else None
    return ChatRenderer.from_tokenizer(byte_tokenizer(), template=template)


class ScriptedPlayers:
    """The players of a world without a model, and what they were asked.

    Args:
      config: of the run.
      judge: (prompt file, task or text shown, retry) -> what the judge says. The file
        is one of ``STEMS``.
      solver: what the previous Solver says, by (seed, turn).
      delay: awaited before every judge's and Solver's answer.
    """

    def __init__(
        self,
        config: Config,
        *,
        judge: Callable[[str, str, bool], str] = lambda stem, text, retry: "",
        solver: Callable[[int], str] = lambda seed: "",
        delay: Callable[[], Any] | None = None,
    ):
        self.config = config
        self.prompts = prompts.load(config.prompts, config.tool_format)
        self.renderer = renderer(config.tool_format)
        self._judge, self._solver, self._delay = judge, solver, delay
        self.passages = self.truth = None
        self.asked: list[tuple[str, str, bool]] = []
        self.temperatures: dict[str, set[tuple[float, int]]] = {}
        self.solver_requests: list[Any] = []

    @property
    def world(self) -> World:
        """What a stage sees of them, as they are now."""
        return World(
            config=self.config,
            prompts=self.prompts,
            renderer=self.renderer,
            passages=self.passages,
            policy=self.policy,
            solver=self.previous_solver,
            judge=self.ask_judge,
            search=self.search,
            truth=self.truth,
            solver_context=self.config.challenger.rollout_context_tokens,
        )

    async def policy(self, request) -> Completion:
        raise AssertionError("a test that plays the policy must say how")

    async def ask_judge(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        temperature: float,
        max_tokens: int,
        seed64: int,
    ) -> str:
        text = messages[0]["content"]
        retry = len(messages) > 1
        stem = next(
            stem
            for stem in STEMS
            if text.startswith(self.prompts.templates[stem].text.split("{")[0])
        )
        self.asked.append((stem, text, retry))
        self.temperatures.setdefault(stem, set()).add((temperature, max_tokens))
        if self._delay:
            await self._delay()
        return self._judge(stem, text, retry)

    async def previous_solver(self, request) -> Completion:
        self.solver_requests.append(request)
        if self._delay:
            await self._delay()
        return self.completion(self._solver(request.seed64))

    async def search(self, queries: Sequence[str]) -> list[str]:
        return [f"passage about {query}" for query in queries]

    def completion(self, text: str, reason: str = "stop") -> Completion:
        """``text`` as sampled, a byte a token."""
        ids = tuple(self.renderer.encode_text(text))
        return Completion(
            ids=ids, logprobs=(-1.0,) * len(ids), text=text, finish_reason=reason
        )

    def count(self, stem: str) -> int:
        """How often the judge was asked with that prompt."""
        return sum(asked == stem for asked, _, _ in self.asked)


def empty_rollout(seed: Seed) -> Rollout:
    """A rollout of no turn, for tests that fill in what they are about."""
    return Rollout(
        seed=seed,
        messages=(),
        opening=0,
        trained_messages=0,
        datums=(),
        finish_reason="done",
        turns=0,
        searches=0,
        passages=(),
        turn_log=(),
        sampled_tokens=0,
    )


def attempts(seed: Sequence[str | int], *texts: Sequence[str]) -> Callable[[int], str]:
    """A Solver whose rollout number n says ``texts[n]``, turn by turn."""
    said = {
        seed64(*seed, "attempt", number, turn): text
        for number, turns in enumerate(texts)
        for turn, text in enumerate(turns)
    }
    return lambda seed: said.get(seed, "no more to say")
