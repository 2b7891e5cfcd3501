"""Sizes for one card, chosen by the memory plan: what ``--memory`` does.

Whole weights are trained where everything fits, adapters where it does not. Then the
update gets as many rows at once as fit, and rollouts as many slots, with all the room
that is left as their cache.
"""

from collections.abc import Iterator
from dataclasses import replace

from models.errors import UserError
from models.lora import LoraConfig
from rl.engine.config import EngineConfig
from scope_jax.config import Config, StageConfig
from scope_jax.run.plan import Plan, plan
from scope_jax.system.placement import MeshConfig, PlacementConfig, ProcessConfig

ROWS = (8, 4, 2, 1)
SLOTS = (128, 64, 32, 16, 8)
# A slot's share of the cache: most sequences end long before the longest, and those
# that begin alike share their beginnings.
SHARE = 0.5
# Of the card, for the trainer and for the inference process: search alone beside
# adapters, and two models besides where whole weights are trained. The rest is for what
# JAX does not allocate.
FRACTIONS = {True: (0.84, 0.08), False: (0.55, 0.35)}
OWN_SHARES = {share for shares in FRACTIONS.values() for share in shares}


def fitted(config: Config, gigabytes: float) -> tuple[Config, str]:
    """The configuration with its sizes chosen for a card, and what was chosen.

    A card that is named, and shares of it that are not among ``FRACTIONS``, were asked
    for: they stay.

    Args:
      gigabytes: of the card's memory, in 10^9 bytes.

    Raises:
      UserError: nothing fits, or the configuration is for several devices.
    """
    mesh, hosts = config.placement.trainer.mesh, config.placement.hosts
    if mesh != MeshConfig() or hosts.count > 1:
        raise UserError(
            f"--memory {gigabytes:g}: chooses the sizes for one card, and "
            "placement.trainer.mesh has several devices: leave it out"
        )
    placement = config.placement
    cards = {placement.trainer.devices, placement.inference.devices} - {None, ""}
    if len(cards) > 1 or any("," in card for card in cards):
        raise UserError(
            f"--memory {gigabytes:g}: chooses the sizes for one card that both "
            f"processes share, and placement names {' and '.join(sorted(cards))}: "
            "name one, or leave it out"
        )
    last: Plan | None = None
    for kind in _kinds(config, gigabytes):
        for rows in ROWS:
            sized = _with_rows(kind, rows)
            last = plan(_with_slots(sized, SLOTS[-1]))
            if all(p.total <= p.limit for p in last.programs):
                chosen = _with_largest_cache(sized)
                return chosen, _said(chosen, gigabytes)
    last.check()  # says which program, how much, and what to change
    raise AssertionError("a plan that does not fit says so")


def _kinds(config: Config, gigabytes: float) -> Iterator[Config]:
    """Whole weights, then adapters, each with its share of the card."""
    adapters = config.lora if config.lora.rank else LoraConfig()
    for lora in (replace(adapters, rank=0), adapters):
        old = config.placement
        card = old.trainer.devices or old.inference.devices or "0"
        sizes = {"devices": card, "memory_gb": gigabytes}
        ours, theirs = FRACTIONS[bool(lora.rank)]
        placement = PlacementConfig(
            trainer=replace(
                old.trainer, memory_fraction=_share(old.trainer, ours), **sizes
            ),
            inference=replace(
                old.inference,
                memory_fraction=_share(old.inference, theirs),
                replicas=1,
                **sizes,
            ),
            hosts=old.hosts,
        )
        yield replace(config, lora=lora, placement=placement)


def _share(process: ProcessConfig, chosen: float) -> float:
    """Of the card: what was asked for, else what is chosen here."""
    asked = process.memory_fraction
    return chosen if asked is None or asked in OWN_SHARES else asked


def _with_rows(config: Config, rows: int) -> Config:
    def stage(old: StageConfig) -> StageConfig:
        return replace(old, update=replace(old.update, rows=rows))

    return replace(
        config,
        challenger_train=stage(config.challenger_train),
        solver_train=stage(config.solver_train),
    )


def _with_slots(config: Config, slots: int, ours: int = 0, theirs: int = 0) -> Config:
    """As many slots in every engine, each with its share of the cache at least.

    Args:
      ours, theirs: tokens of cache of the trainer's engine, and of each of the
        inference process, if that is more.
    """

    def sizes(old: EngineConfig, tokens: int) -> EngineConfig:
        most = slots * old.table * old.page_size
        least = max(int(SHARE * most), old.table * old.page_size)
        wanted = min(max(tokens, least), most) // old.page_size * old.page_size
        return replace(old, slots=slots, cache_tokens=wanted)

    server = replace(config.inference, engine=sizes(config.inference.engine, theirs))
    return replace(config, engine=sizes(config.engine, ours), inference=server)


def _with_largest_cache(config: Config) -> Config:
    """The most slots that fit, and of the cache what is left beside them."""
    for slots in SLOTS:
        sized = _with_slots(config, slots)
        found = plan(sized).programs
        if all(p.total <= p.limit for p in found):
            break
    room = {"trainer": 0, "inference": 0}
    for p in found:
        if p.token_bytes:
            process = p.name.partition(":")[0]
            engine = sized.engine if process == "trainer" else sized.inference.engine
            models = p.kinds["cache"] / (engine.cache_tokens * p.token_bytes)
            room[process] = int(p.cache_tokens / models)
    return _with_slots(config, slots, room["trainer"], room["inference"])


def _said(config: Config, gigabytes: float) -> str:
    lora, update = config.lora, config.solver_train.update
    trained = f"adapters of rank {lora.rank}" if lora.rank else "whole weights"
    return (
        f"--memory {gigabytes:g}: trains {trained}, {update.rows} rows of "
        f"{update.length:,} tokens at once; {config.engine.slots} slots with "
        f"{config.engine.cache_tokens:,} tokens of cache"
    )
