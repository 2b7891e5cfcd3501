"""Memory before money: what each program needs on each device, before anything runs.

From shapes alone (``rl.memory``), on any machine. Search (encoder and index) is not
counted: it has what the inference process leaves.
"""

from dataclasses import dataclass, field

from models.errors import UserError
from models.published import shape_of
from rl import memory
from scope_jax.config import Config, StageConfig, check_sizes
from scope_jax.placement import ProcessConfig
from scope_jax.session import resolve

GIGA = 1e9
JAX_FRACTION = 0.75  # what JAX takes of a GPU where nothing else is said
# Of a number in the forward pass; "auto" is bfloat16 on every GPU.
COMPUTE_BYTES = {"auto": 2, "bfloat16": 2, "float32": 4}
INFERENCE_BYTES = COMPUTE_BYTES["auto"]  # the server has no setting for it


@dataclass(frozen=True, kw_only=True)
class Program:
    """One program on one device of its process.

    Attributes:
      limit: bytes that the process may take of the device.
      kinds: bytes by kind.
      remedy: what to change where it doesn't fit.
      flops: over all devices, for one full micro-batch; 0 where it means nothing.
      cache_tokens: tokens of context that fit beside everything else; None: no cache.
    """

    process: str
    name: str
    limit: float
    kinds: dict[str, int]
    remedy: str
    flops: float = 0.0
    cache_tokens: int | None = None

    @property
    def total(self) -> int:
        """Bytes of all kinds."""
        return memory.total(self.kinds)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All programs of a run, and what they were worked out from."""

    config: Config
    source: str
    programs: tuple[Program, ...] = field(default=())

    def check(self) -> None:
        """Raises a ``UserError`` for the program that exceeds its memory by most."""
        worst = max(self.programs, key=lambda p: p.total / p.limit)
        if worst.total > worst.limit:
            raise UserError(
                f"{worst.process}: {worst.name}: needs {worst.total / GIGA:.1f} GB of "
                f"the {worst.limit / GIGA:.1f} GB that it may take on a device: "
                f"{worst.remedy}"
            )

    def text(self) -> str:
        """The plan as a table for people."""
        kinds: list[str] = []
        for program in self.programs:
            kinds += [kind for kind in program.kinds if kind not in kinds]
        titles = ["GB on each device", *kinds, "total", "limit"]
        rows = [titles]
        for p in self.programs:
            cells = [f"{p.kinds[k] / GIGA:.1f}" if k in p.kinds else "" for k in kinds]
            rows.append(
                [
                    f"{p.process}: {p.name}",
                    *cells,
                    f"{p.total / GIGA:.1f}",
                    f"{p.limit / GIGA:.1f}",
                ]
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(titles))]
        lines = [f"{self.config.name}: shapes from {self.source}", ""]
        for row in rows:
            first = row[0].ljust(widths[0])
            rest = (c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))
            lines.append("  ".join([first, *rest]))
        lines.append("")
        for p in self.programs:
            if p.flops:
                lines.append(
                    f"{p.process}: {p.name}: at most {p.flops / 1e12:,.0f} TFLOP a "
                    "micro-batch, over all devices, recomputation not counted"
                )
            if p.cache_tokens is not None:
                lines.append(
                    f"{p.process}: {p.name}: room for {p.cache_tokens:,} tokens of "
                    "cache on each device"
                )
        return "\n".join(lines)


def plan(config: Config) -> Plan:
    """Works out what a run needs; allocates nothing and looks for no device.

    Raises:
      UserError: for a model whose shape is not known, or sizes that don't divide.
    """
    check_sizes(config)
    config = resolve(config)
    decoder, source = shape_of(config.model.path)
    trainer, inference = config.placement.trainer, config.placement.inference
    mesh = memory.mesh_of(trainer.mesh.data, trainer.mesh.fsdp, trainer.mesh.tensor)
    devices = trainer.mesh.data * trainer.mesh.fsdp * trainer.mesh.tensor
    hosts = config.placement.hosts.count
    if devices % hosts:
        raise UserError(
            f"placement.hosts.count={hosts}: the {devices} devices of "
            "placement.trainer.mesh are not as many on each host: make one of them fit"
        )
    sizes = memory.parameters(decoder, mesh)
    # The Solver's update says what the reference and the trainer's engine hold.
    held_bytes = COMPUTE_BYTES[config.solver_train.update.compute_dtype]
    limit = _limit(trainer)
    programs = []
    for role in ("challenger", "solver"):
        stage: StageConfig = getattr(config, f"{role}_train")
        field_name = f"{role}_train.update"
        shards = trainer.mesh.data * trainer.mesh.fsdp
        if stage.update.rows % shards:
            raise UserError(
                f"{field_name}.rows={stage.update.rows}: micro-batches are spread over "
                f"{shards} devices: make it a multiple of {shards}"
            )
        flops = memory.update_flops(
            decoder, stage.update, reference=bool(stage.loss.kl_coefficient)
        )
        programs.append(
            Program(
                process="trainer",
                name=f"{role} update",
                limit=limit,
                kinds=memory.update(
                    decoder,
                    stage.update,
                    mesh,
                    compute_bytes=COMPUTE_BYTES[stage.update.compute_dtype],
                ),
                remedy=f"lower {field_name}.rows or {field_name}.logit_chunk, or raise "
                "placement.trainer.mesh.fsdp",
                flops=flops["update"],
            )
        )
    held = memory.resident(sizes, compute_bytes=held_bytes)
    stages = (config.challenger_train, config.solver_train)
    if all(stage.update.offload_optimizer for stage in stages):
        del held["optimizer"]
    # Each host has an engine of its own.
    local = devices // hosts
    _divides("engine.slots", config.engine.slots, local)
    own = memory.engine(decoder, config.engine, devices=local, compute_bytes=held_bytes)
    programs.append(
        Program(
            process="trainer",
            name="new weights for rollouts",
            limit=limit,
            kinds=held
            | {
                "compute copies": held_bytes * sizes.sharded,
                "sampler weights": own["sampler weights"],
                "activations": held_bytes * sizes.largest,
            },
            remedy="raise placement.trainer.mesh.fsdp",
        )
    )
    programs.append(
        _with_cache(
            Program(
                process="trainer",
                name="rollouts",
                limit=limit,
                kinds=held | own,
                remedy="lower engine.slots or engine.cache_tokens",
            ),
            memory.cache_bytes(decoder, compute_bytes=held_bytes),
        )
    )
    served = config.inference
    if not served.url:
        # The previous Solver, and the judge unless somebody else serves it.
        models = 1 if served.judge_url else 2
        _divides("inference.engine.slots", served.engine.slots, inference.replicas)
        each = memory.engine(
            decoder,
            served.engine,
            devices=inference.replicas,
            compute_bytes=INFERENCE_BYTES,
        )
        programs.append(
            _with_cache(
                Program(
                    process="inference",
                    name=f"{models} models",
                    limit=_limit(inference),
                    kinds={kind: models * size for kind, size in each.items()},
                    remedy="lower inference.engine.slots or "
                    "inference.engine.cache_tokens",
                ),
                memory.cache_bytes(decoder, compute_bytes=INFERENCE_BYTES),
            )
        )
    return Plan(config=config, source=source, programs=tuple(programs))


def _with_cache(program: Program, token_bytes: int) -> Program:
    """The program, with the tokens that fit, those of all its models together."""
    others = program.total - program.kinds["cache"]
    fits = max(int((program.limit - others) // token_bytes), 0)
    return Program(**(vars(program) | {"cache_tokens": fits}))


def _limit(process: ProcessConfig) -> float:
    fraction = process.memory_fraction
    return GIGA * process.memory_gb * (JAX_FRACTION if fraction is None else fraction)


def _divides(name: str, slots: int, devices: int) -> None:
    if slots % devices:
        raise UserError(
            f"{name}={slots}: not a multiple of {devices} devices: change it"
        )
