"""A reward without a judge: is the answer an expression that makes the number?

The task says it: "Make 24 from the numbers 3, 5, 7, 9 ..". 1 for an expression of these
numbers, each used at most once, that has this value; 0.1 for one with another value; 0
for all else.

    python scripts/train.py --config ci --run runs/countdown --iterations 1 \\
        --tasks docs/examples/countdown.jsonl --solver.accuracy_weight 0 \\
        --solver.reward docs/examples/countdown.py:score --evaluation.count 0
"""

import ast
import re
from collections import Counter
from fractions import Fraction

TASK = re.compile(r"Make (\d+) from the numbers ([\d, ]+)")
LONGEST = 200
"""Characters of an expression; nobody needs more, and Python's parser has limits."""


async def score(task, answer, conversation, judge):
    """The reward of one answer: called by the trainer, see docs/your-reward.md."""
    wanted, numbers = TASK.search(task.text).groups()
    return reward(answer, int(wanted), [int(n) for n in numbers.split(",")])


def reward(answer: str, wanted: int, numbers: list[int]) -> float:
    """What an answer is worth."""
    used: Counter[int] = Counter()
    try:
        tree = ast.parse(answer.strip()[: LONGEST + 1], mode="eval")
        value = _value(tree.body, used) if len(answer.strip()) <= LONGEST else None
    except (SyntaxError, ValueError, ZeroDivisionError):
        return 0.0
    if value is None or used - Counter(numbers):
        return 0.0
    return 1.0 if value == wanted else 0.1


def _value(node: ast.expr, used: Counter[int]) -> Fraction:
    """The exact value of an expression; counts the numbers in it."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used[node.value] += 1
        return Fraction(node.value)
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, used), _value(node.right, used)
        match node.op:
            case ast.Add():
                return left + right
            case ast.Sub():
                return left - right
            case ast.Mult():
                return left * right
            case ast.Div():
                return left / right
    raise ValueError("only whole numbers, + - * / and brackets")
