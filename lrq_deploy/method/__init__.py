"""The zero-shot method: generator, losses, student training."""
