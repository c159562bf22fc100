"""Where a candidate lost its items: modules put back to the baseline's weights, the cheapest set, and its proof.

`hybrid` is the candidate with some of the baseline's modules, `search` decides which sets are asked, `localizing` and
`repairing` are the two commands. Nothing before this room imports from it.
"""
