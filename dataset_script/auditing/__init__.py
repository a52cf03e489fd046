"""The parts of an audit: rows, overlaps, what images alone predict, and the report."""
