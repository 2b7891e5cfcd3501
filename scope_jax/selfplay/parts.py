"""The live parts of a run, each with one owner: made here, handed to the stages."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from models import hf, precision
from models.chat import ChatRenderer
from models.sharding import make_mesh
from retrieval.search import open_passages
from scope_jax.config import Config, compute_dtype
from scope_jax.method import prompts
from scope_jax.method.transcript import check_calls
from scope_jax.run.folder import RunFolder, needed_from
from scope_jax.run.sizes import one_base
from scope_jax.run.tracking import Tracker
from scope_jax.selfplay import own_parts
from scope_jax.selfplay.attempts import context_tokens
from scope_jax.selfplay.base_model import BaseModel
from scope_jax.selfplay.documents import check_heldout
from scope_jax.selfplay.metering import StepMeter
from scope_jax.selfplay.serving import Serving
from scope_jax.selfplay.trainer import Trainer
from scope_jax.selfplay.world import World
from scope_jax.small_world.assets import resolve
from scope_jax.small_world.world import generate
from scope_jax.system import stopping
from scope_jax.system.compilation import keep_programs
from scope_jax.system.hosts import Hosts


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a stage works with.

    Attributes:
      folder: where results are written, and which stages are done.
      tracker: metrics and progress.
      hosts: the trainer's processes.
      world: what the players reach.
      serving: the inference process.
      trainer: weights, updates and checkpoints.
      meter: what a step costs.
      profile: steps of each training stage, from its second on, to trace.
      score: measures the policy of the moment on held-out tasks, given the Solver's
        step; None where nothing is evaluated.
    """

    folder: RunFolder
    tracker: Tracker
    hosts: Hosts
    world: World
    serving: Serving
    trainer: Trainer
    meter: StepMeter
    profile: int = 0
    score: Callable[["Parts", int], dict[str, float]] | None = None

    def serve_previous_solver(self, iteration: int) -> None:
        """Makes ``solver`` on the server the Solver of the iteration before.

        Raises:
          LostArtefactError: its export is not whole.
        """
        path = self.world.config.model.path
        if iteration > 1:
            export = self.folder.export(iteration - 1, "solver").absolute()
            with needed_from(f"iter_{iteration - 1}/solver"):
                self.hosts.from_leader(lambda: hf.verify(export))
            path = str(export)
        self.serving.load_solver(path)


@contextlib.contextmanager
def open_parts(
    config: Config,
    folder: RunFolder,
    tracker: Tracker,
    hosts: Hosts,
    *,
    profile: int = 0,
    score: Callable[[Parts, int], dict[str, float]] | None = None,
) -> Iterator[Parts]:
    """Loads this process's model while the inference process loads its own.

    Raises:
      UserError: one line for the user.
    """
    truth = generate() if config.retrieval.passages == "demo" else None
    config = resolve(replace(config, model=replace(config.model, date=folder.date)))
    prompt_set = prompts.load(config.prompts, config.tool_format)
    own_reward = own_parts.reward_of(config)
    tokenizer = hf.load_tokenizer(config.model.path)
    renderer = renderer_of(config, tokenizer)
    keep_programs()
    with contextlib.ExitStack() as stack:
        with (
            stopping.nothing_to_save(alone=hosts.count == 1),
            tracker.waiting("starting: loading weights, compiling programs"),
        ):
            serving = stack.enter_context(Serving(config, folder.path, renderer, hosts))
            passages = open_passages(config.retrieval)
            check_heldout(config.documents.heldout, len(passages))
            base, weights = base_model(config, tokenizer, renderer, hosts)
            trainer = Trainer(config, folder, base, weights)
            del weights
            stack.callback(trainer.engine.close)
            if one_base(config):
                serving.serve_from(trainer.engine)
            serving.connect()
            world = World(
                config=config,
                prompts=prompt_set,
                renderer=renderer,
                passages=passages,
                policy=trainer.engine.complete,
                solver=serving.solver,
                judge=serving.judge,
                search=serving.search,
                rubric_writer=serving.judge_of("rubric_writer"),
                grader=serving.judge_of("grader"),
                own_reward=own_reward,
                truth=truth,
                logprobs=trainer.engine.logprobs,
                solver_context=context_tokens(
                    config.challenger, base.decoder.max_position
                ),
            )
        yield Parts(
            folder=folder,
            tracker=tracker,
            hosts=hosts,
            world=world,
            serving=serving,
            trainer=trainer,
            meter=StepMeter(trainer.engine, serving, hosts),
            profile=profile,
            score=score,
        )


def base_model(
    config: Config, tokenizer: Any, renderer: ChatRenderer, hosts: Hosts
) -> tuple[BaseModel, Any]:
    """The model that all roles start from, and its weights on the mesh."""
    shape = config.placement.trainer.mesh
    mesh = make_mesh(data=shape.data, fsdp=shape.fsdp, tensor=shape.tensor)
    dtype = "float32"
    if config.lora.used:  # of a model that is not trained no masters are kept
        wanted = compute_dtype(config, config.solver_train)
        dtype = str(precision.resolved(wanted, mesh.devices.flat[0].platform))
    options = {"mesh": mesh, "hosts": hosts, "dtype": dtype}
    opened = BaseModel.open(config.model.path, tokenizer, renderer, **options)
    hosts.check_mesh(mesh)
    return opened


def renderer_of(config: Config, tokenizer: Any) -> ChatRenderer:
    """The chat template and tokenizer of all three roles."""
    model = config.model
    renderer = ChatRenderer.from_tokenizer(
        tokenizer, template=model.template, date=model.date
    )
    if config.tool_format == "tool_call":
        check_calls(renderer)
    return renderer
