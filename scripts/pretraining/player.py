"""Plays the small world's conversations and judge calls with one model.

The rules are the method's own; only the inference process is missing, so that a model
can be examined in a minute.
"""

import itertools
from collections.abc import Sequence
from typing import Any

from models.chat import ChatRenderer
from models.config import DecoderConfig
from pretraining.wording import passages_text
from rl.engine.config import EngineConfig
from rl.engine.engine import Engine
from rl.engine.sampling import seed64
from rl.records import Request, SamplingParams
from scope_jax.method import conversation
from scope_jax.method.conversation import ConversationSpec, Generate, Search, State
from scope_jax.small_world.world import World

MAX_LENGTH = 640


class Player:
    """One model as every role.

    Attributes:
      world: whose documents a search finds.
      renderer: of the model.
    """

    def __init__(
        self, config: DecoderConfig, params: Any, world: World, tokenizer: Any
    ):
        sizes = EngineConfig(
            slots=32, max_length=MAX_LENGTH, decode_steps=8, prefill_chunk=64
        )
        self._engine = Engine(params, config, tokenizer, sizes)
        self.renderer = ChatRenderer.from_tokenizer(tokenizer)
        self.world = world

    def complete(
        self,
        conversations: Sequence[Sequence[dict]],
        sampling: SamplingParams,
        *,
        stop: tuple[str, ...] = (),
        turn: int = 0,
        job: str = "",
    ) -> list[str]:
        """One completion per conversation."""
        requests = [
            Request(
                ids=tuple(self.renderer.prompt_ids(messages)),
                sampling=sampling,
                stop=stop,
                stop_ids=self.renderer.stop_ids,
                seed64=seed64("exam", turn, job, index),
            )
            for index, messages in enumerate(conversations)
        ]
        return [completion.text for completion in self._engine.generate(requests)]

    def play(
        self,
        specs: Sequence[tuple[ConversationSpec, Sequence[dict]]],
        sampling: SamplingParams,
    ) -> list[State]:
        """Plays conversations to their end, turn by turn together."""
        opened = [conversation.start(spec, messages) for spec, messages in specs]
        states = [state for state, _ in opened]
        actions = [found for _, found in opened]
        for turn in itertools.count(1):
            waiting = [i for i, do in enumerate(actions) if isinstance(do, Generate)]
            if not waiting:
                break
            texts = self.complete(
                [states[i].messages for i in waiting],
                sampling,
                stop=actions[waiting[0]].stop,
                turn=turn,
                job=states[waiting[0]].spec.kind,
            )
            for i, text in zip(waiting, texts, strict=True):
                state, found = conversation.step(states[i], text)
                while isinstance(found, Search):
                    results = [self._search(query) for query in found.queries]
                    state, found = conversation.observe(state, results)
                states[i], actions[i] = state, found
        return states

    def _search(self, query: str) -> str:
        """The document of an entity; without a query that names one, the first."""
        entity = self.world.by_name.get(query.strip(), self.world.entities[0])
        return passages_text([(entity.name, entity.text)])
