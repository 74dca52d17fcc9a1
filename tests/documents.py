"""What documents name: commands, and files beside them."""

import re
import shlex


def commands(text, start):
    """Return the indented command lines that begin with `start`, continuation lines joined."""
    lines = re.findall(rf"^    ({start}.*)$", text.replace("\\\n", " "), re.MULTILINE)
    return [shlex.split(line) for line in lines]


def links(text):
    """Return the paths of links that do not lead out of the project."""
    return re.findall(r"\]\((?!https?://)([^)#]+)\)", text)
