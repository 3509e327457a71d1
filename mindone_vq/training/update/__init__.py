"""From a batch to changed weights."""
