"""The project's own speed, each number against a peer or a limit in the same run.

One file is one measurement: `measure(rounds)` checks that ours and the peer compute the same, times
them in turn, and yields one `Timing` for each line of the table.
"""
