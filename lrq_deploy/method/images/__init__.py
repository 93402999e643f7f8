"""The synthetic images: generator, its losses, and what stands where it does."""
