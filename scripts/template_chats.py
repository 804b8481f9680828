"""The conversations that chat templates are compared over: `python scripts/golden_templates.py` writes them down.

Each is what a row of data holds (`messages`, `tools`) and, under `variables`, what the run file adds.
"""


def chat(*contents, system=None, **rest):
    messages = [] if system is None else [{"role": "system", "content": system}]
    for i, content in enumerate(contents):
        messages.append({"role": "assistant" if i % 2 else "user", "content": content})
    return {"messages": messages, **rest}


def call(name, arguments, number=1):
    return {"id": f"call{number:05}", "type": "function", "function": {"name": name, "arguments": arguments}}


def result(name, content, number=1):
    return {"role": "tool", "name": name, "tool_call_id": f"call{number:05}", "content": content}


def tool(name, description, properties, required=()):
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


WEATHER = tool(
    "weather", "Now & <here>: \"Zürich\", l'été", {"city": {"type": "string", "description": "a town\n"},
                                                    "days": {"type": "number", "default": 1.0}}, ["city"])
TIME = tool("time", "The time.", {"zone": {"type": ["string", "null"], "enum": ["UTC", None]}, "exact": {"default": False}})
MULTILINGUAL = "Grüße aus Zürich, naïve café! 你好,世界 — こんにちは 한국어 Привет مرحبا ١٢٣ ½ Ⅷ e\u0301 \u00a0x"
CODE = "def f(x):\n    if x  >= 10_000:\n\treturn x ** 2  # 3.14159\n\n\n    return {'a': [1, 22, 333], \"b\": r'\\n'}\n"
EMOJI = "🙂👩‍👩‍👧 🇨🇭 ok 👍🏽"


def answer(content, *calls, **rest):
    return {"role": "assistant", "content": content, "tool_calls": list(calls), **rest}


def user(content):
    return {"role": "user", "content": content}


def said(content, **rest):
    return {"role": "assistant", "content": content, **rest}


CHATS = {
    "one turn": chat("Hi", "Hello! How can I help you today?"),
    "numbers": chat("What is 12345 + 678?", "12345 + 678 = 13023.", "And 3.5%?", "It's 455.805."),
    "system": chat("Hi", "Yes.", "Again", "Yes, again.", "Bye", "Bye!", system="Answer in   one word."),
    "system, one turn": chat("Hi", "Ja.", system="Answer in German.\n"),
    "empty system": chat("Hi", "Hello.", "Hm", "Well.", system=""),
    "system alone before the assistant": {"messages": [{"role": "system", "content": "S"}, said("Welcome.")]},
    "system later": {"messages": [user("a"), said("b"), {"role": "system", "content": "Be brief."}, user("c"), said("d")]},
    "multilingual": chat(MULTILINGUAL, MULTILINGUAL[::-1], "e\u0301e", "A\u030a\u0327 \u1e9b\u0323"),
    "code": chat("Write code\n", CODE, "Shorter:\n\n" + CODE, "lambda x: x"),
    "emoji": chat(EMOJI, EMOJI * 2, "more", "🙂", system=EMOJI),
    "special tokens in the text": chat("What does <|im_end|> do?", "It ends a turn: <|eot_id|>, </s>.",
                                       "And [INST] x [/INST]?", "<|im_start|>assistant\nSure<|im_end|>\nok"),
    "white space": chat("  leading", "   indented answer\n\n", " x ", "\ttabbed  ", "\n", "\n\n\n"),
    "line ends": chat("a\r\nb\r\n", "c\r\n\r\nd", "\u2028e\u2029", "\x0bf\x0c\x85g"),
    "other spaces": chat("\u3000wide\u3000", "\u00a0hard\u00a0", "\u200bzero\u200b", "\x1cfile\x1f"),
    "empty answer": chat("Hi", "", "Still there?", "Yes."),
    "empty last answer": chat("Hi", ""),
    "empty question": chat("", "Nothing asked.", "", "Nothing again."),
    "long": chat("x" * 700, "y z" * 250),
    "contractions": chat("It's I'll WE'VE don't ain'T", "don't  DON'T he'd it'S", "I’m", "you’re camelCase HTTPServer a/b//c"),
    "ends with the user": chat("a", "b", "c"),
    "only the user": chat("a"),
    "the assistant begins": {"messages": [said("Hello, I am here."), user("Hi"), said("Good.")]},
    "two users in a row": {"messages": [user("a"), user("b"), said("c"), user("d"), said("e")]},
    "two answers in a row": {"messages": [user("a"), said("b"), said("c"), user("d"), said("e")]},
    "an unknown role": {"messages": [user("a"), {"role": "critic", "content": "b"}, said("c")]},
    "extra keys": {"messages": [{"role": "user", "content": "a", "name": "x", "weight": 1.5, "tool_calls": None},
                                {"role": "assistant", "content": "b", "reasoning_content": None, "tool_calls": None}]},
    "thinking": chat("2+2?", "<think>\nTwo and two.\n</think>\n\n4."),
    "thinking in the past": chat("2+2?", "<think>\nTwo and two.\n</think>\n\n4.", "3+3?", "<think>\n\n</think>\n\n6."),
    "thinking at the end": chat("2+2?", "4.", "3+3?", "<think>Three, twice.</think>6.", system="Think."),
    "broken thinking": chat("2+2?", "no end <think> 4", "3+3?", "</think>6", "x", "y"),
    "reasoning apart": {"messages": [user("2+2?"), said("4.", reasoning_content="Two and two.\n"), user("3+3?"),
                                     said("\n\n6.", reasoning_content="\nThree, twice.")]},
    "thinking off": chat("2+2?", "4.", "3+3?", "6.", variables={"enable_thinking": False}),
    "thinking on": chat("2+2?", "4.", variables={"enable_thinking": True}),
    "/no_think": chat("2+2?", "4.", "3+3?", "<think>x</think>6.", system="Be brief. /no_think"),
    "/think": chat("2+2?", "4.", system="/think Be brief."),
    "/system_override": chat("2+2?", "4.", system="/system_override Only this."),
    "a date": chat("What day is it?", "The first.", variables={"date_string": "1 Jan 2025"}),
    "tools listed": chat("Hi", "Hello.", "And now?", "Still.", tools=[WEATHER, TIME]),
    "tools and a system prompt": chat("Hi", "Hello.", system="Use tools.", tools=[TIME]),
    "tools beside the user's message": chat("Hi", "Hello.", tools=[WEATHER], variables={"tools_in_user_message": False}),
    "no tools": chat("Hi", "Hello.", tools=[]),
    "a call": {"tools": [WEATHER], "messages": [
        user("Weather?"), answer("", call("weather", {"city": "Zürich", "b": None, "a": True, "x": 1.0, "n": -3e-7})),
        result("weather", "{\"c\": 3, \"sky\": \"<grey>\"}"), said("3 degrees.")]},
    "a call without content": {"tools": [WEATHER], "messages": [
        user("Weather?"), answer(None, call("weather", {"city": "x"})), result("weather", "3"), said("3 degrees."),
        user("Thanks"), said("Sure.")]},
    "a call and what it says": {"tools": [WEATHER], "messages": [
        user("Weather?"), answer("Let me look.", call("weather", {"city": "x", "list": [1, {"y": "é\n\"q\""}]})),
        result("weather", "3\n"), said("3 degrees."), user("Thanks"), said("Sure.")]},
    "two calls": {"tools": [WEATHER, TIME], "messages": [
        user("Both?"), answer("", call("weather", {"city": "x"}), call("time", {}, 2)), result("weather", "3"),
        result("time", "12:00", 2), said("3 degrees at noon.")]},
    "calls in a chain": {"tools": [WEATHER, TIME], "messages": [
        user("Both?"), answer("", call("weather", {"city": "x"})), result("weather", "3"),
        answer("", call("time", {"zone": "UTC"}, 2)), result("time", "12:00", 2), said("3 degrees at noon.")]},
    "thinking between calls": {"tools": [TIME], "messages": [
        user("When?"), answer("<think>\nLook.\n</think>\n\n", call("time", {"zone": "UTC"})), result("time", "12:00"),
        said("<think>\nNoon.\n</think>\n\nNoon."), user("Sure?"), said("Yes.")]},
    "arguments as text": {"tools": [TIME], "messages": [
        user("When?"), answer("", call("time", "{\"zone\": \"UTC\"}")), result("time", "12:00"), said("Noon.")]},
    "a call whose id is short": {"tools": [TIME], "messages": [
        user("When?"), answer("", {"id": "1", "function": {"name": "time", "arguments": {}}}),
        {"role": "tool", "content": "12:00", "tool_call_id": "1"}, said("Noon.")]},
    "ends with a call": {"tools": [TIME], "messages": [user("When?"), answer("", call("time", {"zone": "UTC"}))]},
    "tool calls without tools": {"messages": [
        user("When?"), answer("", call("time", {"exact": True})), result("time", "12:00"), said("Noon.")]},
}

# Texts for the splits alone.
TEXTS = [MULTILINGUAL, CODE, EMOJI, "a1234567b", "It's  I'LL\r\n\r\n x", "", " ", "   three", "the the the",
         "12345 678 1234567 an unmergeable word", "camelCase HTTPServer iOS ÉCOLE école ǅ", "a//b/\n/c  ---\n\n\tx",
         "e\u0301 é A\u030a Å", "x\u3000y\u00a0z \u2028 w", "</s> or <|im_end|> or [INST] or <tool_call>", "١٢٣٤ ½Ⅷ"]
