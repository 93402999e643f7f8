"""Options of the commands: declared once, checked, shown in groups."""
