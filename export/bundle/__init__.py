"""What a bundle holds: written whole, hashed, read again."""
