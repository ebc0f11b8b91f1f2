"""Calls that a client answers, and the item that answers each."""

ANSWERS = {
    "function_call": "function_call_output",
    "custom_tool_call": "custom_tool_call_output",
    "computer_call": "computer_call_output",
    "shell_call": "shell_call_output",
    "apply_patch_call": "apply_patch_call_output",
}
CALLS = {answer: call for call, answer in ANSWERS.items()}
