"""Parts shared by several tests."""
