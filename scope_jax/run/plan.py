"""The memory plan: what each program needs on each device, before anything runs.

Computed from shapes alone (``run.memory``, ``run.search_plan``,
``run.keywords_plan``), on any machine. The search's encoder is not counted: it gets
what the inference process leaves.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from models.config import DecoderConfig
from models.errors import UserError
from models.hf.published import shape_of
from scope_jax.config import Config, compute_dtype
from scope_jax.run import keywords_plan, memory, search_plan
from scope_jax.run.keywords_plan import KeywordsPlan
from scope_jax.run.search_plan import SearchPlan
from scope_jax.run.sizes import check_base, check_sizes, one_base
from scope_jax.small_world.assets import resolve

GIGA = 1e9
# Bytes per number in the forward pass; "auto" is bfloat16 on every GPU.
COMPUTE_BYTES = {"auto": 2, "bfloat16": 2, "float32": 4}


@dataclass(frozen=True, kw_only=True)
class Program:
    """One program on one device of its process.

    Attributes:
      name: process, then program.
      limit: bytes that the process may take of the device.
      kinds: bytes by kind.
      remedy: what to change where it does not fit.
      flops: over all devices, for one full micro-batch; 0: not an update.
      token_bytes: cache that a token of context takes; 0: no cache.
    """

    name: str
    limit: float
    kinds: dict[str, int]
    remedy: str
    flops: float = 0.0
    token_bytes: int = 0

    @property
    def total(self) -> int:
        """Bytes of all kinds."""
        return memory.total(self.kinds)

    @property
    def cache_tokens(self) -> int:
        """Tokens of context that fit beside everything else, of all its models."""
        others = self.total - self.kinds["cache"]
        return max(int((self.limit - others) // self.token_bytes), 0)

    def notes(self) -> list[str]:
        """What the table does not say of it."""
        lines = []
        if self.flops:
            lines.append(
                f"{self.name}: at most {self.flops / 1e12:,.0f} TFLOP "
                "per micro-batch, over all devices, recomputation not counted"
            )
        if self.token_bytes:
            lines.append(
                f"{self.name}: room for {self.cache_tokens:,} tokens of "
                "cache on each device"
            )
        return lines


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All programs of a run, its search, and where the model's shape comes from."""

    name: str
    source: str
    programs: tuple[Program, ...]
    search: SearchPlan | None
    keywords: KeywordsPlan | None

    def check(self) -> None:
        """Raises a ``UserError`` for the program that exceeds its memory by most."""
        worst = max(self.programs, key=lambda p: p.total / p.limit)
        if worst.total > worst.limit:
            raise UserError(
                f"{worst.name}: needs {worst.total / GIGA:.1f} GB of "
                f"the {worst.limit / GIGA:.1f} GB that it may take on a device: "
                f"{worst.remedy}"
            )
        if self.search:
            self.search.check()

    def text(self) -> str:
        """The plan as a table for people."""
        kinds = list(dict.fromkeys(kind for p in self.programs for kind in p.kinds))
        rows = [["GB on each device", *kinds, "total", "limit"]]
        for p in self.programs:
            numbers = [p.kinds.get(kind) for kind in kinds] + [p.total, p.limit]
            cells = ["" if n is None else f"{n / GIGA:.1f}" for n in numbers]
            rows.append([p.name, *cells])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"{self.name}: shapes from {self.source}", ""]
        for first, *rest in rows:
            cells = [c.rjust(w) for c, w in zip(rest, widths[1:], strict=True)]
            lines.append("  ".join([first.ljust(widths[0]), *cells]))
        notes = [note for p in self.programs for note in p.notes()]
        notes += [str(part) for part in (self.search, self.keywords) if part]
        return "\n".join([*lines, "", *notes])


def plan(config: Config) -> Plan:
    """Computes what a run needs; allocates nothing and looks for no device.

    Raises:
      UserError: for a model whose shape is not known or that adapters can't be trained
        of, or sizes that do not divide.
    """
    check_sizes(config)
    config = resolve(config)
    if Path(config.model.path).expanduser().is_dir():  # nothing is downloaded for it
        check_base(config)
    decoder, source = shape_of(config.model.path)
    programs = (*_trainer(config, decoder), *_inference(config, decoder))
    return Plan(
        name=config.name,
        source=source,
        programs=programs,
        search=search_plan.plan(config),
        keywords=keywords_plan.plan(config),
    )


def _trainer(config: Config, decoder: DecoderConfig) -> Iterator[Program]:
    """Both updates, then what rollouts need."""
    shape, hosts = config.placement.trainer.mesh, config.placement.hosts.count
    devices = shape.data * shape.fsdp * shape.tensor
    if devices % hosts:
        raise UserError(
            f"placement.hosts.count={hosts}: the {devices} devices of "
            "placement.trainer.mesh cannot be split evenly over them: change either"
        )
    mesh = memory.mesh_of(shape.data, shape.fsdp, shape.tensor)
    program = partial(Program, limit=config.placement.trainer.jax_bytes)
    # The Solver's update decides what the reference and the trainer's engine hold.
    width = COMPUTE_BYTES[compute_dtype(config, config.solver_train)]
    sizes, settings = memory.parameters(decoder, mesh), config.lora.used
    # Each host has an engine of its own.
    local = devices // hosts
    _divides("engine.slots", config.engine.slots, local)
    engine = memory.engine(
        decoder,
        config.engine,
        devices=local,
        compute_bytes=width,
        settings=settings,
        adapters=2 if one_base(config) else 1,
    )
    if one_base(config):  # the engine has no base model of its own
        engine["sampler weights"] -= width * sizes.whole
    # Its weights are freed during an update, unless all that changes is an adapter.
    stays = {"sampler weights": engine["sampler weights"]} if settings else {}
    stages = {"challenger": config.challenger_train, "solver": config.solver_train}
    for role, stage in stages.items():
        setting = f"{role}_train.update"
        _divides(f"{setting}.rows", stage.update.rows, shape.data * shape.fsdp)
        reference = bool(stage.loss.kl_coefficient)
        number = COMPUTE_BYTES[compute_dtype(config, stage)]
        flops = memory.update_flops(
            decoder, stage.update, reference=reference, frozen=bool(settings)
        )
        kinds = memory.update(
            decoder, stage.update, mesh, compute_bytes=number, settings=settings
        )
        yield program(
            name=f"trainer: {role} update",
            kinds=kinds | stays,
            remedy=f"lower {setting}.rows or {setting}.logit_chunk, or raise "
            "placement.trainer.mesh.fsdp",
            flops=flops["update"],
        )
    yield from _rollouts(config, decoder, engine, program)


def _rollouts(
    config: Config,
    decoder: DecoderConfig,
    engine: dict[str, int],
    program: Callable[..., Program],
) -> Iterator[Program]:
    """New weights for rollouts, and the rollouts themselves."""
    shape, settings = config.placement.trainer.mesh, config.lora.used
    mesh = memory.mesh_of(shape.data, shape.fsdp, shape.tensor)
    sizes = memory.parameters(decoder, mesh)
    width = COMPUTE_BYTES[compute_dtype(config, config.solver_train)]
    stages = (config.challenger_train, config.solver_train)
    trained = memory.adapter(decoder, settings, mesh) if settings else 0
    held = memory.resident(sizes, compute_bytes=width, trained=trained)
    if all(stage.update.offload_optimizer for stage in stages):
        del held["optimizer"]
    weights = {
        "compute copies": width * sizes.sharded,
        "sampler weights": engine["sampler weights"],
        "activations": width * sizes.largest,
    }
    if settings:  # at the start the engine's form of the model is made from the file's
        weights["compute copies"] = width * (
            sizes.whole if one_base(config) else trained
        )
    yield program(
        name="trainer: new weights for rollouts",
        kinds=held | weights,
        remedy="raise placement.trainer.mesh.fsdp",
    )
    teaches = config.solver.teacher.kind != "none"  # which the engine's scores do
    scoring = memory.scoring(decoder, config.engine, compute_bytes=width)
    yield program(
        name="trainer: rollouts",
        kinds=held | engine | ({"scoring": scoring} if teaches else {}),
        remedy="lower engine.slots or engine.cache_tokens",
        token_bytes=memory.cache_bytes(decoder, compute_bytes=width),
    )


def _inference(config: Config, decoder: DecoderConfig) -> Iterator[Program]:
    """The engines of the inference process, unless other engines serve everything."""
    served, placement = config.inference, config.placement.inference
    if served.url or (one_base(config) and not served.judges()):
        return
    _divides("inference.engine.slots", served.engine.slots, placement.replicas)
    # The previous Solver, the judge unless another server has it, and who else judges.
    decoders = [decoder] if served.judge_url else [decoder, decoder]
    decoders = [] if one_base(config) else decoders
    width = COMPUTE_BYTES[config.model.dtype]
    decoders += [shape_of(path)[0] for path in served.judges().values()]
    each = [
        memory.engine(
            one,
            served.engine,
            devices=placement.replicas,
            compute_bytes=width,
        )
        for one in decoders
    ]
    yield Program(
        name=f"inference: {len(each)} models",
        limit=placement.jax_bytes,
        kinds={kind: sum(one[kind] for one in each) for kind in each[0]},
        remedy="lower inference.engine.slots or inference.engine.cache_tokens",
        token_bytes=memory.cache_bytes(decoder, compute_bytes=width),
    )


def _divides(name: str, value: int, devices: int) -> None:
    if value % devices:
        raise UserError(
            f"{name}={value}: is split over {devices} devices: make it a multiple of "
            f"{devices}"
        )
