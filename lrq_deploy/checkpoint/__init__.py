"""Reading a checkpoint without executing anything from it."""
