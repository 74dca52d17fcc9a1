"""The one line that a command ends with."""


def assert_documented(printed):
    """Check that what a command printed on stderr ends in one line, not in a traceback.

    Args:
        printed: all of stderr; what comes before the line are warnings.

    Returns:
        The line, without `error: `; of several lines where the message has them.
    """
    assert "Traceback" not in printed, printed
    _, mark, line = f"\n{printed}".rpartition("\nerror: ")
    last = (printed.rstrip().splitlines() or [""])[-1]
    assert mark or last.startswith(("interrupted", "stopped")), printed
    return line.strip() if mark else last
