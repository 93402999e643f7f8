"""The way to a device where only trtexec is, and back."""
