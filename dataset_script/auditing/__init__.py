"""The parts of an audit: rows, overlaps, pictures, what these tell, and how it is shown."""
