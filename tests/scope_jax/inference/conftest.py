"""One real server for all tests that only ask it."""

import httpx
import inference_world as world
import pytest

from scope_jax.inference import ModelSource


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    world.write_passages(folder / "passages.jsonl")
    world.write_model(folder / "base", seed=0)
    world.write_model(folder / "trained", seed=1)
    return folder


@pytest.fixture(scope="session")
def server(folder):
    models = {n: ModelSource(path=str(folder / "base")) for n in ("judge", "solver")}
    with world.Supervisor(
        world.inference_config(),
        folder,  # models may be loaded from here
        retrieval=world.retrieval_config(folder),
        models=models,
    ) as supervisor:
        yield supervisor


@pytest.fixture
def http(server):
    options = {"timeout": 60, "trust_env": False}
    shown = server.secrets.control_headers()
    with httpx.Client(base_url=server.url, headers=shown, **options) as http:
        yield http
