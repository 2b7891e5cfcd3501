"""Every number of the settings has a range in its field, checked at the start."""

import dataclasses
import json
import math
from operator import attrgetter

import pytest

import configs
import eval as evaluation_script
import serve
import warmstart
from models import ranges
from models.config import DecoderConfig
from models.encoder import EncoderConfig
from models.errors import UserError
from models.hf.published import PUBLISHED
from retrieval.config import RetrievalConfig
from scope_jax.config import Config, TasksConfig
from scope_jax.inference.config import InferenceConfig, ServerSettings
from scope_jax.run.cli import RunOptions
from scope_jax.run.sizes import check_sizes
from scope_jax.system import settings
from scope_jax.system.settings import field_types, leaves

SECTIONS = (Config, ServerSettings, RetrievalConfig, RunOptions)
SECTIONS += (serve.ServeOptions, evaluation_script.EvalOptions, warmstart.Options)


def classes(*roots):
    """The dataclasses of settings, and all that they are composed of, each once."""
    found = dict.fromkeys(roots)
    for root in roots:
        for hint in field_types(root).values():
            for part in (hint, *getattr(hint, "__args__", ())):
                if dataclasses.is_dataclass(part):
                    found |= dict.fromkeys(classes(part))
    return tuple(found)


def numbers(cls):
    """Names of the fields that hold numbers, one of several kinds among them."""
    for name, hint in field_types(cls).items():
        if {int, float} & {hint, *getattr(hint, "__args__", ())}:
            yield name


@pytest.mark.parametrize("cls", classes(*SECTIONS), ids=lambda cls: cls.__name__)
def test_every_number_has_a_range_in_its_field(cls):
    allowed = ranges.of(cls)
    assert sorted(set(numbers(cls)) - set(allowed)) == []


TINY = configs.load("tiny")


def beyond(allowed, kind):
    """Values of this kind just outside of a range, and what is no number."""
    low = allowed.least if allowed.least is not None else allowed.above
    high = allowed.most if allowed.most is not None else allowed.below
    one = 1 if kind is int else 0.25
    outside = [] if low is None else [low - one]
    outside += [] if high is None else [high + max(one, abs(high) / 8)]
    outside = [kind(value) for value in outside]
    return outside if kind is int else [*outside, math.nan, math.inf]


def with_value(name, value):
    """The configuration ``tiny`` with one field of another value, and checked."""
    data = json.loads(settings.to_json(TINY))
    *path, last = name.split(".")
    section = data
    for part in path:
        section = section[part]
    section[last] = value
    check_sizes(settings.from_json(Config, json.dumps(data)))


@pytest.mark.parametrize(
    "name", [name for name, hint, _ in leaves(TINY) if hint in (int, float)]
)
def test_a_value_out_of_its_range_is_one_line_at_once(name):
    path, _, last = name.rpartition(".")
    section = attrgetter(path)(TINY) if path else TINY
    kind = field_types(type(section))[last]
    allowed = ranges.of(type(section))[last]
    values = beyond(allowed, kind)
    assert values
    for value in values:
        with pytest.raises(UserError, match=rf"\b{last}=\S+: must be ") as caught:
            with_value(name, value)
        assert "\n" not in str(caught.value)


def test_a_window_of_tasks_without_inside_is_refused():
    with pytest.raises(UserError, match=r"low=0\.9: exceeds high=0\.2"):
        TasksConfig(low=0.9, high=0.2)
    TasksConfig(low=0.5, high=0.5)


@pytest.mark.parametrize("field", ["url", "judge_url", "retrieval_url"])
@pytest.mark.parametrize(
    "url",
    ["garbage", "ftp://host", "http://", "http://host:port", "http://host:99999"]
    + ["http:// host", "host:8000", "http://user@"],
)
def test_an_address_that_is_none_is_refused_at_once(field, url):
    with pytest.raises(UserError, match=f"^{field}=.*http://HOST:PORT"):
        InferenceConfig(**{field: url})


@pytest.mark.parametrize("url", ["", "http://localhost:8000", "https://a.example/v1/"])
def test_an_address_is_taken(url):
    assert InferenceConfig(judge_url=url).judge_url == url


SHAPE = PUBLISHED["Qwen/Qwen3-1.7B"]


@pytest.mark.parametrize(
    "field",
    ["num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size"]
    + ["num_attention_heads", "head_dim", "max_position_embeddings"],
)
def test_a_model_of_absurd_size_is_refused_before_anything_is_allocated(field):
    with pytest.raises(UserError, match=f"{field}=1000000000000: must be"):
        DecoderConfig.from_hf(SHAPE | {field: 10**12})


def test_an_encoder_of_absurd_size_is_refused_too():
    shape = {"model_type": "bert", "vocab_size": 30522, "num_hidden_layers": 10**12}
    shape |= {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    with pytest.raises(UserError, match="num_hidden_layers=1000000000000: must be"):
        EncoderConfig.from_hf(shape | {"max_position_embeddings": 512})
