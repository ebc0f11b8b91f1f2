"""Words that the endpoint tests share: tools, one item of every type, and short ways to read a response."""

from __future__ import annotations

from typing import Any

JSON = dict[str, Any]

WEATHER: JSON = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="


def message_item(text: str, role: str = "user") -> JSON:
    return {"type": "message", "role": role, "content": text}


def text_of(response: JSON) -> str:
    """As the SDK's `output_text`."""
    messages = [item for item in response["output"] if item["type"] == "message"]
    return "".join(part.get("text", "") for message in messages for part in message["content"])


def calls_of(response: JSON) -> list[JSON]:
    return [item for item in response["output"] if item["type"].endswith("_call")]


def answered(call: JSON, output: Any = "sunny") -> JSON:
    return {"type": f"{call['type']}_output", "call_id": call["call_id"], "output": output}


def user_texts(items: list[JSON]) -> list[str]:
    """The texts of the user messages, one a message."""
    texts = []
    for item in items:
        if item.get("role") == "user":
            content = item["content"]
            texts.append(content if isinstance(content, str) else "".join(part.get("text", "") for part in content))
    return texts


# Every type of item there is, as a client sends it; those that answer a call come with it.
ITEMS: dict[str, list[JSON]] = {
    "message without a type": [{"role": "user", "content": "a"}],
    "message with a null type": [{"type": None, "role": "user", "content": "a"}],
    "message with an id": [{"id": "msg_1", "type": "message", "role": "user", "content": "a", "status": "completed"}],
    "system message": [message_item("Be brief.", "system")],
    "developer message": [message_item("Be brief.", "developer")],
    "message of parts": [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "a"},
                {"type": "input_image", "image_url": PIXEL, "detail": "auto"},
                {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,YQ=="},
            ],
        }
    ],
    "assistant message as a string": [message_item("a", "assistant")],
    "assistant message of parts": [{"role": "assistant", "content": [{"type": "output_text", "text": "a"}]}],
    "assistant message in full": [
        {
            "id": "msg_2",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "phase": "final_answer",
            "content": [{"type": "output_text", "text": "a", "annotations": [], "logprobs": []}],
        }
    ],
    "refusal": [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
    "reasoning": [{"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]}],
    "reasoning with text": [
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}], "status": None}
    ],
    "function_call": [
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "a"},
    ],
    "function_call answered in parts": [
        {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": "{}", "status": "completed"},
        {
            "type": "function_call_output",
            "id": "fco_1",
            "call_id": "c",
            "status": "completed",
            "output": [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": PIXEL}],
        },
    ],
    "custom_tool_call": [
        {"type": "custom_tool_call", "call_id": "call_1", "name": "f", "input": "raw"},
        {"type": "custom_tool_call_output", "call_id": "call_1", "output": "a"},
    ],
    "tool_search_call": [
        {"type": "tool_search_call", "call_id": "call_1", "arguments": {"q": 1}, "execution": "client"},
        {"type": "tool_search_output", "call_id": "call_1", "tools": [], "execution": "client"},
    ],
    "hosted tool_search_call": [
        {"type": "tool_search_call", "call_id": None, "arguments": {"q": 1}, "execution": "server"},
        {"type": "tool_search_output", "call_id": None, "tools": [], "execution": "server"},
    ],
    "shell_call": [
        {"type": "shell_call", "call_id": "call_1", "action": {"commands": ["ls"]}, "environment": None},
        {
            "type": "shell_call_output",
            "call_id": "call_1",
            "max_output_length": None,
            "output": [{"stdout": "", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}],
        },
    ],
    "local_shell_call": [
        {
            "type": "local_shell_call",
            "id": "lsh_1",
            "call_id": "call_1",
            "status": "completed",
            "action": {"type": "exec", "command": ["ls"], "env": {}},
        },
        {"type": "local_shell_call_output", "id": "call_1", "call_id": "call_1", "output": "a"},
    ],
    "apply_patch_call": [
        {
            "type": "apply_patch_call",
            "call_id": "call_1",
            "status": "completed",
            "operation": {"type": "create_file", "path": "a", "diff": "+a"},
        },
        {"type": "apply_patch_call_output", "call_id": "call_1", "status": "completed", "output": None},
    ],
    "computer_call": [
        {
            "type": "computer_call",
            "id": "cu_1",
            "call_id": "call_1",
            "status": "completed",
            "pending_safety_checks": [],
            "action": {"type": "wait"},
        },
        {
            "type": "computer_call_output",
            "call_id": "call_1",
            "output": {"type": "computer_screenshot", "image_url": PIXEL},
        },
    ],
    "file_search_call": [
        {"type": "file_search_call", "id": "fs_1", "queries": ["a"], "status": "completed", "results": None}
    ],
    "web_search_call": [
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "a"}}
    ],
    "image_generation_call": [{"type": "image_generation_call", "id": "ig_1", "result": None, "status": "completed"}],
    "code_interpreter_call": [
        {
            "type": "code_interpreter_call",
            "id": "ci_1",
            "code": "1",
            "container_id": "cntr_1",
            "outputs": None,
            "status": "completed",
        }
    ],
    "mcp_list_tools": [{"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "s", "tools": []}],
    "mcp_call": [{"type": "mcp_call", "id": "mcp_1", "server_label": "s", "name": "n", "arguments": "{}"}],
    "mcp_approval": [
        {"type": "mcp_approval_request", "id": "mcpr_1", "server_label": "s", "name": "n", "arguments": "{}"},
        {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True},
    ],
    "program": [
        {"type": "program", "id": "prog_1", "call_id": "call_1", "code": "1", "fingerprint": "x"},
        {"type": "program_output", "id": "po_1", "call_id": "call_1", "result": "1", "status": "completed"},
    ],
    "configuration_update": [{"type": "configuration_update", "reasoning": {"effort": "low"}}],
    "additional_tools": [{"type": "additional_tools", "role": "developer", "tools": [WEATHER, {"type": "web_search"}]}],
    "an unknown type": [{"type": "antiphon:invented", "anything": {"goes": [1, None]}}],
    "unknown keys": [{"role": "user", "content": "a", "internal_chat_message_metadata": {"turn_id": "t"}}],
}
