"""How long networks take on this machine, one after the other or beside each other.

Medians of networks that were measured minutes apart say which are worth a second look. That one is
faster than another is said by runs that took turns.

- `networks.py`: what is measured, a backbone with random weights or a feature pyramid on one.
- `meter.py`: `LatencyMeter`, under which conditions, and what comes out.
- `ratios.py`: `confirm` and `ratio_band`, whether a network is measurably faster than another.
"""
