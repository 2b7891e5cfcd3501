"""Trainer and inference process as one seeded schedule of faults.

The command is given again and again, as a person would, with faults and then in peace;
each time in a process of its own (``fork``), so that a kill loses what a kill loses.
What is left must be what an undisturbed run leaves, byte for byte.
"""

import gc
import importlib
import io
import json
import logging
import os
import shutil
import signal
import sys
import time
import traceback
import warnings
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import jax

import configs
from models import checksums, hf
from models.chat import ChatRenderer
from rl.learner import checkpoint, data_order
from scope_jax.config import Config
from scope_jax.evaluation import checkpoints, in_a_run, small_world
from scope_jax.inference import (
    app,
    models,
    openapi,
    server,
    supervisor,
    transport,
)
from scope_jax.report import page
from scope_jax.run import board, cli, tracking  # noqa: F401 (slow to import)
from scope_jax.selfplay import parts, pipeline, policy_engine, serving, trainer
from scope_jax.small_world import assets
from scope_jax.small_world.world import generate
from scope_jax.system import stopping
from tests.faults import arrays, tables
from tests.faults.clock import Clock
from tests.faults.comparing import BROKEN, HUNG, Ended, compared, content, judged
from tests.faults.disk import Disk
from tests.faults.faults import Faults, Plan, plans
from tests.faults.network import Network

LIMIT = 7200.0
"""Virtual seconds after which a run that has not ended never will."""
STARTS = 3
"""Starts in peace within which a run has to be finished."""
PATIENCE = 120
"""Real seconds after which a start of the command is stuck in this very program."""


@dataclass
class Outcome:
    """What came of a schedule; ``wrong`` is empty if all is as promised."""

    seed: int
    wrong: str
    starts: list[Ended]
    seconds: float


class Simulation:
    """Runs schedules in folders below one.

    Args:
      folder: for the base model and the runs.
      iterations: of a run; in the second, the server exchanges weights.
    """

    def __init__(self, folder: Path, iterations: int = 1):
        self.folder = Path(folder)
        warnings.filterwarnings("ignore", message=r".*os\.fork\(\)")
        base = self.folder / "base"
        if not base.is_dir():
            tables.write_base(base, assets.MODEL)
        self.config = scenario(base, iterations)
        self._passages = parts.open_passages(
            replace(self.config.retrieval, passages=str(_passages_path()))
        )
        self._searcher = tables.Searcher(self._passages)
        _warm_up()
        self.whole = self._undisturbed()

    def _undisturbed(self) -> dict[str, bytes]:
        run = self.folder / "whole"
        shutil.rmtree(run, ignore_errors=True)
        ended = self.start(run, Plan("whole"), keep=True)
        assert ended.code == 0, ended.said
        self.names = ended.names
        return content(run)

    def schedule(self, seed: int) -> Outcome:
        """Runs one schedule to its end, and removes its folder if all is well."""
        began, starts, wrong = time.monotonic(), [], ""
        run = self.folder / f"run-{seed}"
        self._remove(run)
        faulty = plans(seed, len(self.names))
        peaceful = [Plan(f"{seed}/peace {number}") for number in range(STARTS)]
        for plan in (*faulty, *peaceful):
            ended = self.start(run, plan)
            starts.append(ended)
            if wrong := judged(ended):
                break
            if ended.code == 0:
                if compared(content(run), self.whole):
                    # What a disk refused to remove goes with the next start.
                    starts.append(self.start(run, Plan(f"{seed}/once more")))
                wrong = compared(content(run), self.whole)
                break
        else:
            wrong = f"not finished after {STARTS} starts in peace"
        if not wrong:
            self._remove(run)
        return Outcome(seed, wrong, starts, time.monotonic() - began)

    def _remove(self, run: Path) -> None:
        shutil.rmtree(run, ignore_errors=True)
        for kept in self.folder.glob(f"{run.name}.kept-*"):
            kept.unlink()

    def start(self, run: Path, plan: Plan, *, keep: bool = False) -> Ended:
        """Gives the command once, in a process of its own."""
        reader, writer = os.pipe()
        process = os.fork()
        if not process:
            os.close(reader)
            self._child(run, plan, writer, keep)
        os.close(writer)
        with open(reader, "rb") as pipe:
            signal.signal(signal.SIGALRM, lambda *_: os.kill(process, signal.SIGKILL))
            signal.alarm(PATIENCE)
            told = pipe.read()
            signal.alarm(0)
        _, status = os.waitpid(process, 0)
        code = os.waitstatus_to_exitcode(status)
        if not told:
            return Ended(BROKEN, f"ended with {code} and said nothing")
        return Ended(**json.loads(told))

    def _child(self, run: Path, plan: Plan, writer: int, keep: bool) -> None:
        """The process in which the command runs; never returns."""
        gc.disable()  # it would touch, and so copy, all memory of the parent
        said = io.StringIO()

        def leave(code: int, why: str = "") -> None:
            words = (why or said.getvalue())[-6000:]
            told = Ended(code, words, faults.done, faults.count, faults.names)
            os.write(writer, json.dumps(vars(told)).encode())
            os._exit(0)

        clock = Clock(plan.seed, LIMIT, lambda why: leave(HUNG, why))
        faults = Faults(plan, clock, keep, left=leave)
        try:
            # All that the standard library would say goes to ``said``.
            sys.stderr = said
            self._patch(run, clock, faults, said)
            code = self._command(run, plan.fresh)
        except BaseException:
            leave(BROKEN, traceback.format_exc())
        leave(code)

    def _command(self, run: Path, fresh: bool) -> int:
        """``scripts/train.py``, from its configuration on."""

        def main(argv: Any) -> None:
            evaluations = in_a_run.EVALUATIONS
            pipeline.run(self.config, run, fresh=fresh, evaluations=evaluations)

        try:
            cli.run_main(main)
        except SystemExit as ended:
            return int(ended.code or 0)

    def _patch(
        self, run: Path, clock: Clock, faults: Faults, said: io.StringIO
    ) -> None:
        """Puts clock, disk, network and tables in place of the real ones, for good."""
        handler = logging.StreamHandler(said)
        handler.addFilter(lambda _: clock.current.process is clock.trainer)
        logging.getLogger().handlers[:] = [handler]
        logging.getLogger("scope_jax").setLevel(logging.INFO)
        # What they draw for people takes longer than all the rest.
        for module in (tracking, pipeline, checkpoints):
            module.console = mock.Mock(is_terminal=False)
        page.build = lambda run: "<html></html>"
        time.monotonic, time.time = clock.monotonic, clock.time
        run.mkdir(exist_ok=True)
        disk = Disk(run, faults.file)
        network = Network(clock, faults.exchange, faults.seconds)
        faults.disk, faults.network = disk, network

        _put(
            supervisor,
            threading=clock.threading(),
            time=mock.Mock(sleep=clock.sleep, monotonic=clock.monotonic),
            subprocess=network.subprocess(),
            httpx=network.httpx(),
            atexit=mock.Mock(),
        )
        _put(serving, ThreadPoolExecutor=clock.executor, asyncio=_Asyncio(clock))
        _put(stopping, wait=clock.wait)
        _put(checksums, ThreadPoolExecutor=_Pool)

        def connection(_: Any) -> httpx.AsyncClient:
            return httpx.AsyncClient(transport=network.transport(), trust_env=False)

        _put(transport.Transport, _open=connection)
        _put(
            server,
            bind=lambda *place: clock.current.process.bound(*place),
            Searcher=lambda _: self._searcher,
        )

        tables.EngineThread.seconds = staticmethod(faults.seconds)
        tables.Updater.at = staticmethod(faults.update)
        engines = {"Engine": tables.Engine, "EngineThread": tables.EngineThread}
        _put(models, **engines, settle=_nothing)
        _put(policy_engine, **engines)
        _put(trainer, Updater=tables.Updater, settle=_nothing, return_memory=_nothing)
        _put(hf, load=tables.load, load_tokenizer=_tokenizer)
        _put(hf.tokenizer, load_tokenizer=_tokenizer)
        _put(checkpoint, ocp=arrays.Orbax, _shapes=arrays.shapes_of)
        _put(
            parts,
            keep_programs=_nothing,
            open_passages=lambda _: self._passages,
            generate=_generate,
        )
        _put(small_world, generate=_generate)
        _put(assets, passages_path=_passages_path)
        _put(app, document=_document)
        disk.install()


def _put(module: Any, **values: Any) -> None:
    """Sets names of a module; one that was renamed since is an error."""
    for name, value in values.items():
        assert hasattr(module, name), f"{module}: no {name}"
        setattr(module, name, value)


def _nothing() -> None:
    """In place of what would only cost time."""


_document = cache(openapi.document)
_generate, _passages_path = cache(generate), cache(assets.passages_path)
_load_tokenizer = hf.load_tokenizer


@cache
def _tokenizer(path: Any = None) -> Any:
    return _load_tokenizer(assets.MODEL) if path is None else _tokenizer()


def _warm_up() -> None:
    """What every start would import and make again, before the first fork."""
    jax.process_index()  # no forked process may start devices
    importlib.import_module("anyio._backends._asyncio")
    _generate(), _document(key=False)
    ChatRenderer.from_tokenizer(_tokenizer())
    data_order.order(8, seed=0, step=0, batch=2)
    importlib.import_module("pyarrow.dataset")
    gc.collect()
    gc.freeze()


class _Asyncio:
    """``asyncio`` with a runner in virtual time."""

    def __init__(self, clock: Clock):
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        import asyncio

        if name == "Runner":
            return lambda: asyncio.Runner(loop_factory=self._clock.loop)
        return getattr(asyncio, name)


class _Pool:
    """``ThreadPoolExecutor`` in order, in this thread."""

    def __init__(self, threads: int):
        pass

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *exception: Any) -> None:
        pass

    map = staticmethod(map)


def scenario(base: Path, iterations: int) -> Config:
    """The ``ci`` configuration with less of everything, and short waits."""
    config = configs.load("ci")
    one = {"steps": 1, "prompts_per_step": 1, "group_size": 2}
    inference = replace(
        config.inference,
        health_timeout=10.0,
        request_timeout=30.0,
        search_timeout=20.0,
        ready_timeout=90.0,
        outage_timeout=60.0,
    )
    return replace(
        config,
        iterations=iterations,
        model=replace(config.model, path=str(base), date="2026-01-01"),
        retrieval=replace(config.retrieval, passages="demo"),
        inference=inference,
        challenger=replace(config.challenger, rollouts=1),
        tasks=replace(config.tasks, target=2, prompts_per_batch=3, solver_rollouts=1),
        challenger_train=replace(config.challenger_train, **one),
        solver_train=replace(config.solver_train, **one | {"steps": 2}),
        checkpoint=replace(config.checkpoint, every=1),
        evaluation=replace(config.evaluation, count=1),
    )
