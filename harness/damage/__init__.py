"""Where a candidate lost its items: modules put back to the baseline's weights, the cheapest set, and its proof."""
