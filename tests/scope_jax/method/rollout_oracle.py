"""Whole rollouts as the specification tells them (3.7, 3.8, 3.9, 11.2): plain and slow.

``play`` gives what a conversation must be for scripted turns. Nothing of the program is
imported; ``words`` holds the texts of user turns. ``without`` names rules of 3.9 that
are left out, to show that the cases would notice.
"""

import ast
import json
import re

S = re.DOTALL
CALL_TAG = {"search_r1": "search", "tool_call": "tool_call"}
XML = r"<function_calls>\s*search\s*\(\s*query\s*=\s*[\"'](.+?)[\"']\s*\)"
ERROR = "Search error: bad arguments: query_list must be a list of queries"


def unthought(text):
    """Without closed thinking blocks, and an unclosed one to the end."""
    return re.sub(
        r"<think>.*", "", re.sub(r"<think>.*?</think>", "", text, flags=S), flags=S
    )


def result_of(query):
    """What the search finds."""
    found = f"passage about {query}, a place in this country"
    return "Search error: no results" if query == "none" else found


def cut(text):
    """Results are short here; a limit of 80 characters stands for that of 500."""
    return text if len(text) <= 80 else text[:80] + "...(truncated)"


def put_back(kind, tool_format, text, released, without):
    """3.9.1 and 3.9.3."""
    call = CALL_TAG.get(tool_format, "function_calls")
    tags = [call, "task"] if kind == "challenger" else ["answer"]
    if kind != "challenger" and tool_format == "function_calls_xml":
        tags = [call, "answer"]
    rule = "3.9.3" if kind == "difficulty" else "3.9.1"
    if kind == "task" or rule in without or not (released or kind == "difficulty"):
        return text
    read = unthought(text) if kind == "difficulty" else text
    for tag in tags:
        if f"<{tag}>" in read and f"</{tag}>" not in read:
            text += f"</{tag}>"
    return text


def queries(arguments, place, without=()):
    """2.5, 3.9.4: what of a ``query_list`` is run; None: not a search."""
    items = arguments.get("query_list") if isinstance(arguments, dict) else None
    strict = "3.9.4" in without
    if place == "task" and isinstance(items, str) and items.strip() and not strict:
        return [items]
    if not isinstance(items, list) or not items:
        return None
    found = []
    for item in items:
        if isinstance(item, dict) and place in ("policy", "task") and not strict:
            item = item.get("query")
        if isinstance(item, str):
            found.append(item)
        elif strict or place == "difficulty":
            return None
    return found if found or place == "score" else None


def json_calls(text):
    """(name, arguments) of every block that holds a JSON object with a name."""
    found = []
    for block in re.findall(r"<tool_call>(.*?)</tool_call>", text, S):
        try:
            value = json.loads(block)
        except ValueError:
            value = None
        named = isinstance(value, dict) and isinstance(value.get("name"), str)
        found.append(
            (value["name"], value.get("arguments"), block)
            if named
            else (None, None, block)
        )
    return found


def searches(text, tool_format, place, without=()):
    """The queries of every valid search of a turn."""
    if tool_format == "search_r1":
        return [
            [q.strip()]
            for q in re.findall(r"<search>(.*?)</search>", text, S)
            if q.strip()
        ]
    if tool_format == "function_calls_xml":
        return [[q.strip()] for q in re.findall(XML, text, S) if q.strip()]
    found = []
    for name, arguments, block in json_calls(text):
        asked = queries(arguments, place, without) if name == "search" else None
        literal = re.fullmatch(
            r"\s*search\s*\(\s*query_list\s*=\s*(\[.*\])\s*\)\s*", block, S
        )
        if literal and place == "difficulty":
            asked = queries({"query_list": ast.literal_eval(literal[1])}, place)
        found += [] if asked is None else [asked]
    return found


class Rollout:
    """A conversation as it is played."""

    def __init__(self, kind, tool_format, n, turns, words, released, without):
        self.kind, self.format, self.n = kind, tool_format, n
        self.turns, self.words = list(turns), words
        self.released, self.without = released, without
        self.most = 10 if kind == "task" else 5
        self.t, self.messages, self.ran, self.passages = 0, [], [], []
        self.ended = self.forcing = False

    # what is said

    def say(self, text, **more):
        self.messages.append({"role": "assistant", "content": text, **more})
        self.last = text

    def tell(self, text):
        self.messages.append({"role": "user", "content": text})

    def guidance(self, name):
        left = self.n - self.t
        final = "final_xml" if self.words["style"] == "chain2_xml" else "final"
        return self.words["guide"](name if left > 0 else final, left)

    def show(self, calls):
        """One message of results per call; a call is its queries, or an error."""
        json_cut = (
            self.released
            and self.format == "tool_call"
            and self.kind not in ("difficulty", "task")
        )
        for call in calls:
            texts = [call] if isinstance(call, str) else [result_of(q) for q in call]
            self.ran += [] if isinstance(call, str) else [*call]
            good = [t for t in texts if not t.startswith("Search error")]
            text, good = "\n---\n".join(texts), "\n---\n".join(good)
            if not json_cut:
                text, good = cut(text), cut(good)
            self.passages += [good] if good else []
            if self.format == "tool_call":
                content = json.dumps({"result": text})
                self.messages.append(
                    {"role": "tool", "content": cut(content) if json_cut else content}
                )
            else:
                self.tell(f"<information>{text}</information>")
        unguided = self.kind == "task" and self.format == "tool_call" and self.released
        if self.n is not None and not unguided:
            text = self.guidance("after_search")
            if self.format == "tool_call":
                self.tell(text)
            else:
                self.messages[-1]["content"] += f"\n\n{text}"

    def end(self):
        self.ended = True

    # what follows

    def guide(self):
        if self.t <= self.n:
            self.tell(self.guidance("no_result"))
        else:
            self.end()

    def nudge(self):
        if self.t < self.most:
            self.tell(self.words["invalid"])
        else:
            self.end()

    def search(self, asked):
        """A policy rollout's search, in the formats of one search a turn."""
        if self.n is not None and self.t > self.n:
            self.end()
        elif self.last_of_validation():
            self.force()
        else:
            self.show([asked])

    def last_of_validation(self):
        return self.kind == "solver_eval" and self.t == self.most

    def next_text(self):
        text, self.reason = self.turns.pop(0)
        return put_back(self.kind, self.format, text, self.released, self.without)

    def force(self):
        """Forced answers of validation and of difficulty rollouts, to the end."""
        self.forcing = True
        for _ in range(5):
            self.tell(self.words["forced"])
            if not self.turns:
                return
            self.say(self.next_text())
            marks = ("</answer>", "</function_calls>", "<task>")
            if self.kind == "difficulty":
                if re.search(r"<answer>.*?</answer>", self.last, S):
                    return self.end()
            elif any(mark in self.last for mark in marks) or self.reason == "length":
                return self.end()
        if self.kind == "difficulty":
            self.tell(self.words["forced"])
        self.end()

    def run(self):
        step = {"difficulty": self.difficulty, "task": self.task}.get(self.kind)
        step = step or getattr(self, f"policy_{self.format}")
        while not self.ended and self.turns:
            self.t += 1
            step(self.next_text())
            if self.t == self.most and not self.forcing:
                self.ended = True
        if self.kind == "difficulty" and self.ended and not self.has_answer():
            self.ended = False
            self.force()
        return self

    def has_answer(self):
        last = self.messages[-1]
        closed = re.search(r"<answer>.*?</answer>", last["content"], S)
        return last["role"] == "assistant" and closed

    # the rules of a turn

    def policy_search_r1(self, text):
        answer = re.search(r"<answer>.*?</answer>", text, S)
        search = re.search(r"<search>(.*?)</search>", text, S)
        search = search if search and search[1].strip() else None
        if answer and (not search or answer.start() < search.start()):
            self.say(text[: answer.end()])
            return self.end()
        if search:
            self.say(text[: search.end()])
            return self.search([search[1].strip()])
        ends = [m.end() for m in re.finditer(r"</task>|</answer>", text)]
        if ends and (self.kind != "difficulty" or "3.9.7" in self.without):
            text = text[: ends[-1]]
        self.say(text)
        if "<task>" in text:
            return self.end()
        if self.n is not None:
            return self.guide()
        if self.last_of_validation():
            return self.force()
        return self.nudge() if "<search>" in text else self.end()

    def policy_function_calls_xml(self, text):
        def closed(text):
            return re.search(r"<answer>.*?</answer>|<task>.*?</task>", text, S)

        self.say(text)
        spoken = unthought(text)
        if "<function_calls>" in text:
            first = re.search(XML, text, S)
            if first and first[1].strip():
                return self.search([first[1].strip()])
            bare = closed(text if "3.9.5" in self.without else spoken)
            if bare or re.search(r"<function_calls>\s*(task|answer)\s*\(", text):
                return self.end()
            return self.guide() if self.n is not None else self.nudge()
        if closed(spoken):
            return self.end()
        if self.n is not None:
            return self.end() if "<task>" in text else self.guide()
        if self.last_of_validation():
            opened = "<answer>" in spoken or "<task>" in spoken
            return (
                self.end() if opened and "3.9.6" not in self.without else self.force()
            )
        return self.nudge()

    def policy_tool_call(self, text):
        spoken = unthought(text)
        if "<tool_call>" in spoken:
            calls = [
                (n, a)
                for n, a, _ in json_calls(spoken)
                if n == "search" and isinstance(a, dict)
            ]
            if not calls:
                self.say(text)
                return self.nudge()
            think = re.search(r"<think>.*?</think>", text, S)
            before = spoken[: spoken.index("<tool_call>")].strip()
            content = f"{think[0]}\n{before}" if think else before
            self.say(
                content, tool_calls=[{"name": n, "arguments": a} for n, a in calls]
            )
            if self.t == self.most:
                return self.end()
            return self.show(
                [queries(a, "policy", self.without) or ERROR for _, a in calls]
            )
        self.say(text)
        switched = self.released and "3.9.2" not in self.without
        read = text if switched else spoken
        if self.n is not None:
            return self.end() if "<task>" in read else self.guide()
        if "<task>" in read or "<answer>" in read:
            return self.end()
        return self.force() if self.last_of_validation() else self.nudge()

    def cut_after_call(self, text):
        closing = f"</{CALL_TAG.get(self.format, 'function_calls')}>"
        return text[: text.rindex(closing) + len(closing)] if closing in text else text

    def difficulty(self, text):
        if self.format == "search_r1":
            return self.policy_search_r1(text)
        found = searches(text, self.format, "difficulty")
        if not found:
            self.say(text)
            return self.end()
        self.say(self.cut_after_call(text))
        return self.show([[q for asked in found for q in asked]])

    def task(self, text):
        found = searches(text, self.format, "task", self.without)
        if self.t - 1 < self.n and found:
            self.say(text if self.format == "tool_call" else self.cut_after_call(text))
            return self.show([found[0]])
        self.say(text)
        if "<task>" in text:
            return self.end()
        return self.guide()


def play(kind, tool_format, n, turns, words, *, released=False, without=()):
    """The rollout of ``turns``, pairs of a text and how it ended."""
    return Rollout(kind, tool_format, n, turns, words, released, without).run()
