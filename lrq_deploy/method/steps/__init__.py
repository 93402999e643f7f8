"""The steps of any stage: the loop, precision, memory, compilation."""
