"""Finding the reason of a failure in Triton's log."""

import re
import signal

# Triton's own lines start with a level, a time and a source position, or with a bare "error:".
_FAILURE = re.compile(r'^E\d{4} \S+ \d+ \S+\] "?(?P<text>.*?)"?$|^error: (?P<bare>.*)$')
# Printed on every machine without a GPU, and of no consequence.
_HARMLESS = ("CudaDriverHelper", "NVML", "DCGM", "CUDA driver version")
_PORT_TAKEN = re.compile(r"address already in use|socket .* unavailable|failed to (bind|start)", re.IGNORECASE)
# The stub's own report of an exception, which Triton repeats in its report of the model.
_REPEATED = "ERROR: Failed to"
_STACK = r"\n\nAt:\n"
_LINES = 6


def reason(text: str) -> str:
    """The lines that say why, oldest first and at most a handful; the log's last lines when none does."""
    failures = []
    for line in text.splitlines():
        found = _FAILURE.match(line)
        if found and not any(word in line for word in _HARMLESS):
            failures.append((found["text"] or found["bare"]).split(_STACK)[0])
    told_once = [line for line in dict.fromkeys(failures) if not line.startswith(_REPEATED)]
    chosen = told_once or failures or [line for line in text.splitlines() if line.strip()]
    return "\n".join(chosen[-_LINES:]) if chosen else "its log is empty"


def port_was_taken(text: str) -> bool:
    """Whether the text tells of a port that another program holds."""
    return _PORT_TAKEN.search(text) is not None


def describe_exit(status: int) -> str:
    """An exit status as Python's subprocess gives it, in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
