"""Models that answer: on this process's engine, or on somebody's server."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx

from models import hf
from models.chat import ChatRenderer
from models.errors import UserError
from models.sharding import make_mesh
from rl.records import Completion, Request
from scope_jax.config import Config
from scope_jax.evaluation.entries import Entry, day, day_shown
from scope_jax.evaluation.searched import in_words
from scope_jax.inference.access import Secrets, bearer
from scope_jax.inference.answers import BadAnswer, body_of
from scope_jax.inference.client import Client
from scope_jax.method import prompts
from scope_jax.method.transcript import check_calls
from scope_jax.selfplay.base_model import BaseModel
from scope_jax.selfplay.policy_engine import PolicyEngine
from scope_jax.selfplay.world import Complete, SearchText, World
from scope_jax.suite.rows import digest
from scope_jax.system import stopping
from scope_jax.system.hosts import ONE_HOST

log = logging.getLogger("scope_jax")


def identity(entry: Entry) -> str:
    """What names a model wherever it lies: a hash of its folder, or its address."""
    if entry.url:
        return f"{entry.url}#{entry.served}"
    return hf.content_hash(entry.path)


def facts(entry: Entry, config: Config, temperature: float) -> dict[str, Any]:
    """All that an answer depends on, besides the question and its number.

    Flat, for people and for comparison with what was asked before. More about the
    search, which all models share, is in ``searched.facts``.
    """
    stage, solver, retrieval = config.solver_train, config.solver, config.retrieval
    return {
        "model": identity(entry),
        "tool_format": entry.tool_format,
        "prompts": entry.prompts,
        "template": entry.template,
        "dtype": "" if entry.url else config.model.dtype,
        "temperature": temperature,
        "seed": config.seed,
        "turn_tokens": stage.sampling.max_new_tokens,
        "context_tokens": stage.max_context_tokens,
        "max_turns": solver.max_turns,
        "max_searches": solver.max_searches_eval,
        "forced_rounds": solver.forced_rounds,
        "tool_tokens": config.challenger.tool_tokens,
        "length": [solver.length.soft, solver.length.hard, solver.length.floor],
        "search": in_words(config),
        "top_k": retrieval.top_k,
        "compat": digest(_of_conversations(config)),
        **day_shown(entry, config),
    }


def _of_conversations(config: Config) -> dict[str, bool]:
    """Switches of the reference's behaviour; here nobody reads source documents."""
    switches = vars(config.compat)
    return {k: on for k, on in switches.items() if k != "first_line_documents"}


@contextlib.contextmanager
def playing(config: Config, entry: Entry, search: SearchText) -> Iterator[World]:
    """A world in which the model is the policy; nobody else plays in it.

    Args:
      config: limits and engine; prompts, format and template are the model's.
      entry: the model.
      search: the retriever.

    Raises:
      UserError: it cannot be loaded, or its tokenizer cannot be used.
    """
    tokenizer = hf.load_tokenizer(entry.tokenizer)
    renderer = ChatRenderer.from_tokenizer(
        tokenizer, template=entry.template, date=day(config)
    )
    if entry.tool_format == "tool_call":
        check_calls(renderer)
    config = replace(config, tool_format=entry.tool_format, prompts=entry.prompts)
    with contextlib.ExitStack() as stack:
        complete = (
            _server(config, entry)
            if entry.url
            else _engine(config, entry, tokenizer, renderer, stack)
        )
        yield World(
            config=config,
            prompts=prompts.load(entry.prompts, entry.tool_format),
            renderer=renderer,
            passages=None,
            policy=complete,
            solver=_nobody,
            judge=_nobody,
            search=search,
            solver_context=0,
        )


async def _nobody(*_: Any, **__: Any) -> Any:
    raise AssertionError("an evaluation has no previous Solver and no judge")


def _engine(
    config: Config,
    entry: Entry,
    tokenizer: Any,
    renderer: ChatRenderer,
    stack: contextlib.ExitStack,
) -> Complete:
    shape = config.placement.trainer.mesh
    mesh = make_mesh(data=shape.data, fsdp=shape.fsdp, tensor=shape.tensor)
    with stopping.nothing_to_save(alone=True):
        options = {"mesh": mesh, "hosts": ONE_HOST, "dtype": config.model.dtype}
        base, weights = BaseModel.open(entry.path, tokenizer, renderer, **options)
        engine = PolicyEngine(base, weights, config.engine)
    stack.callback(engine.close)
    return engine.complete


def _server(config: Config, entry: Entry) -> Complete:
    key = Secrets.from_environment().model
    served = entry.served or _only_model(entry.url, key)
    inference = replace(config.inference, judge_url=entry.url, judge_model=served)
    # To the client, whoever is not our server is the judge.
    client = Client(inference, given=Secrets(judge=key))

    async def complete(request: Request) -> Completion:
        return await client.complete("judge", request)

    return complete


def _only_model(url: str, key: str) -> str:
    """The name of the one model that a server serves.

    Raises:
      UserError: it says none, or several.
    """
    try:
        response = httpx.get(f"{url}/v1/models", headers=bearer(key), timeout=30)
        names = [model["id"] for model in body_of(response)["data"]]
    except (httpx.HTTPError, BadAnswer, KeyError, TypeError) as error:
        raise UserError(
            f"{url}: does not say which models it has ({error!r}): start it, or name "
            "the model as URL#NAME"
        ) from error
    if len(names) != 1:
        raise UserError(
            f"{url}: serves {', '.join(names) or 'nothing'}: name one: {url}#NAME"
        )
    return names[0]
