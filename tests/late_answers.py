"""scripts/train.py on a slow, moody network: what arrives first is chance.

Every HTTP answer comes 0 to 50 ms late, requests start in random order, and so do the
policy's own completions. Not a test: ``test_run.py`` starts it like the script.
"""

import asyncio
import random
import runpy
import sys
from pathlib import Path

# Not tests/, whose folders bear the packages' names and would stand in for them.
sys.path[0] = str(Path(__file__).parents[1])
sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import httpx  # noqa: E402

from scope_jax.selfplay.policy_engine import PolicyEngine  # noqa: E402

CHANCE = random.SystemRandom()  # another order every time
send, policy = httpx.AsyncClient.send, PolicyEngine.complete


async def send_late(client, *args, **options):
    await asyncio.sleep(CHANCE.uniform(0, 0.01))
    response = await send(client, *args, **options)
    await asyncio.sleep(CHANCE.uniform(0, 0.05))
    return response


async def policy_late(engine, request):
    await asyncio.sleep(CHANCE.uniform(0, 0.01))
    return await policy(engine, request)


if __name__ == "__main__":
    httpx.AsyncClient.send, PolicyEngine.complete = send_late, policy_late
    script = Path(__file__).parents[1] / "scripts" / "train.py"
    sys.argv[0] = str(script)
    runpy.run_path(str(script), run_name="__main__")
