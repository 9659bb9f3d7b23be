"""Conversations as the one text that a model was trained on, where its API takes only a prompt.

Sources: llama.com/docs/model-cards-and-prompt-formats (Llama 2, 3 and 4), docs.mistral.ai
(instruct), docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-titan-text.html.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ringcast.providers.chat_form import result_text, split
from ringcast.providers.request import Json, refuse


class Template(msgspec.Struct, frozen=True):
    """How each role's text is written, and what the model goes on from.

    Without `system` the instructions stand in the first user's text, as `instructed` says.
    `marks` must not be in anybody's text: the model would read them as the end of a turn.
    """

    begin: str
    user: str
    assistant: str
    reply: str
    marks: tuple[str, ...]
    system: str = ""
    instructed: str = "{system}\n\n{user}"


LLAMA2: Final = Template(
    begin="",
    user="<s>[INST] {text} [/INST]",
    assistant=" {text} </s>",
    reply="",
    marks=("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>"),
    instructed="<<SYS>>\n{system}\n<</SYS>>\n\n{user}",
)
LLAMA3: Final = Template(
    begin="<|begin_of_text|>",
    system="<|start_header_id|>system<|end_header_id|>\n\n{text}<|eot_id|>",
    user="<|start_header_id|>user<|end_header_id|>\n\n{text}<|eot_id|>",
    assistant="<|start_header_id|>assistant<|end_header_id|>\n\n{text}<|eot_id|>",
    reply="<|start_header_id|>assistant<|end_header_id|>\n\n",
    marks=("<|",),
)
LLAMA4: Final = Template(
    begin="<|begin_of_text|>",
    system="<|header_start|>system<|header_end|>\n\n{text}<|eot|>",
    user="<|header_start|>user<|header_end|>\n\n{text}<|eot|>",
    assistant="<|header_start|>assistant<|header_end|>\n\n{text}<|eot|>",
    reply="<|header_start|>assistant<|header_end|>\n\n",
    marks=("<|",),
)
MISTRAL: Final = Template(
    begin="<s>",
    user="[INST] {text} [/INST]",
    assistant=" {text}</s>",
    reply="",
    marks=("[INST]", "[/INST]", "<s>", "</s>"),
)
TITAN: Final = Template(
    begin="", user="User: {text}\n", assistant="Bot: {text}\n", reply="Bot:", marks=()
)


def prompt(messages: list[Json], template: Template) -> str:
    """Return the conversation as one text that ends where the model shall go on.

    Raises `RequestError` (bad_request) for what a text cannot say: tools, pictures, and marks.
    """
    system, rest = split(messages)
    instructions = "\n\n".join(_text(message, template) for message in system)
    turns = [(message["role"], _text(message, template)) for message in rest]
    written = template.begin
    if instructions and template.system:
        written += template.system.replace("{text}", instructions)
    elif instructions:
        turns = _instructed(turns, instructions, template)
    for role, text in turns:
        turn = template.user if role == "user" else template.assistant
        written += turn.replace("{text}", text)
    return written + template.reply


def _instructed(
    turns: list[tuple[str, str]], instructions: str, template: Template
) -> list[tuple[str, str]]:
    (role, text), *others = turns
    if role != "user":
        raise refuse("messages", "must begin with the user's, for instructions go there")
    return [(role, template.instructed.format(system=instructions, user=text)), *others]


def _text(message: Json, template: Template) -> str:
    if message["role"] == "tool" or message.get("tool_calls"):
        raise refuse("messages[].tool_calls", "a prompt has no tools")
    text = result_text(message.get("content"))
    for mark in template.marks:
        if mark in text:
            raise refuse("messages[].content", f"the model would take {mark} for its own mark")
    return text
