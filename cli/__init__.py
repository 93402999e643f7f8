"""Command line: parse, one call, a typed result; printing happens only here."""
